//! A sampler of the resources of the process, the host and the cgroup.
//!
//! The file limit is read here, cgroups in `cgroup`, and the number of threads is that of the metrics;
//! everything else comes from `sysinfo`. Its list of threads is not used: it is slow.

use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::threads::{self, ThreadClass};

use super::cgroup::{Cgroup, Share, read_file};

/// A reader of samples. It keeps the previous CPU times, since CPU usage is a difference of two.
#[derive(Debug)]
pub(super) struct Sampler {
    system: System,
    pid: Pid,
    cgroup: Cgroup,
    /// The time of the last reading of the cgroup's CPU time, and that CPU time in seconds.
    cgroup_cpu: Option<(Instant, f64)>,
}

/// The values of one sample.
///
/// Optional fields are `None` if the value could not be read or there is no limit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// Resident memory of the process, in bytes.
    pub(super) process_memory: u64,
    /// CPU time of the process, in seconds per second.
    pub(super) process_cpu: f64,
    /// The number of threads of the process.
    pub(super) threads: Option<u64>,
    /// The number of open files of the process.
    pub(super) files: Option<u64>,
    /// The maximum number of open files of the process (`RLIMIT_NOFILE`).
    pub(super) files_limit: Option<u64>,
    /// Memory of the host that is in use, in bytes: the total less what is available.
    pub(super) host_memory: u64,
    /// Memory of the host, in bytes.
    pub(super) host_memory_total: u64,
    /// CPU time of the host, in seconds per second: at most the number of CPUs.
    pub(super) host_cpu: f64,
    /// The number of CPUs of the host.
    pub(super) host_cpus: u64,
    /// Memory of the cgroup, in bytes, at the level that is closest to its limit.
    pub(super) cgroup_memory: Option<Share<u64>>,
    /// CPU time of the cgroup in seconds per second, and its quota in CPUs.
    pub(super) cgroup_cpu: Option<Share<f64>>,
    /// The number of threads of the cgroup, at the level that is closest to its limit.
    pub(super) cgroup_pids: Option<Share<u64>>,
}

// === impl Sampler ===

impl Sampler {
    /// Takes a first reading of the CPU times, from which the first sample computes CPU usage.
    ///
    /// # Errors
    ///
    /// Returns an error if `sysinfo` does not support the system.
    pub(super) fn new() -> Result<Self, String> {
        let mut sampler = Self {
            system: System::new(),
            pid: sysinfo::get_current_pid().map_err(|error| error.to_string())?,
            cgroup: Cgroup::of_this_process(),
            cgroup_cpu: None,
        };
        sampler.refresh();
        sampler.cgroup_cpu = sampler.cgroup_cpu_time();
        Ok(sampler)
    }

    /// Takes a sample.
    ///
    /// Blocks while it reads files in `/proc` and `/sys`: 0.16 ms, and 1.4 µs more for each open file.
    pub(super) fn sample(&mut self) -> Sample {
        self.refresh();
        let process = self.system.process(self.pid);
        let total = self.system.total_memory();
        let cpus = self.system.cpus().len();
        let threads = threads::live();
        Sample {
            process_memory: process.map_or(0, sysinfo::Process::memory),
            process_cpu: process.map_or(0.0, |process| f64::from(process.cpu_usage()) / 100.0),
            threads: threads.of(ThreadClass::Unknown).map(|_| threads.total()),
            // One of the open files is the folder `/proc/PID/fd` itself, while it is being listed.
            files: process
                .and_then(sysinfo::Process::open_files)
                .map(|count| count.saturating_sub(1) as u64),
            files_limit: getrlimit(Resource::Nofile).current,
            host_memory: total.saturating_sub(self.system.available_memory()),
            host_memory_total: total,
            host_cpu: f64::from(self.system.global_cpu_usage()) / 100.0 * cpus as f64,
            host_cpus: cpus as u64,
            cgroup_memory: self.cgroup.memory(&read_file, total),
            cgroup_cpu: self.cgroup_cpu(),
            cgroup_pids: self.cgroup.pids(&read_file),
        }
    }

    /// Lets `sysinfo` read the memory and CPU times of the host and of this process only.
    fn refresh(&mut self) {
        self.system.refresh_memory();
        self.system.refresh_cpu_usage();
        self.system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[self.pid]),
            true,
            ProcessRefreshKind::nothing()
                .with_cpu()
                .with_memory()
                .without_tasks(),
        );
    }

    /// Reads the CPU time of the cgroup, in seconds.
    fn cgroup_cpu_time(&self) -> Option<(Instant, f64)> {
        let time = self.cgroup.cpu_time(&read_file)?;
        Some((Instant::now(), time.as_secs_f64()))
    }

    /// Computes the CPU usage of the cgroup since the previous sample. `None` if there is no quota.
    fn cgroup_cpu(&mut self) -> Option<Share<f64>> {
        let limit = self.cgroup.cpu_limit(&read_file);
        let reading = self.cgroup_cpu_time();
        let before = std::mem::replace(&mut self.cgroup_cpu, reading);
        let ((then, used_then), (now, used_now)) = before.zip(reading)?;
        let elapsed = now.duration_since(then).as_secs_f64();
        (elapsed > 0.0).then_some(Share {
            used: (used_now - used_then).max(0.0) / elapsed,
            limit: limit?,
        })
    }
}

// === impl Sample ===

impl Sample {
    /// Returns the memory usage and the limit that applies, with a name for the limit.
    pub(super) fn memory(&self) -> Option<(Share<f64>, &'static str)> {
        match self.cgroup_memory {
            Some(share) => Some((share.as_f64(), "the cgroup's memory limit")),
            None => {
                let host = Share {
                    used: self.host_memory,
                    limit: self.host_memory_total,
                };
                (host.limit > 0).then_some((host.as_f64(), "the host's memory"))
            }
        }
    }

    /// Returns the CPU usage and the limit that applies, with a name for the limit.
    pub(super) fn cpu(&self) -> Option<(Share<f64>, &'static str)> {
        match self.cgroup_cpu {
            Some(share) => Some((share, "the cgroup's CPU quota")),
            None => {
                let host = Share {
                    used: self.host_cpu,
                    limit: self.host_cpus as f64,
                };
                (self.host_cpus > 0).then_some((host, "the host's CPUs"))
            }
        }
    }

    /// Returns the number of open files and their limit, with a name for the limit.
    pub(super) fn open_files(&self) -> Option<(Share<f64>, &'static str)> {
        let (used, limit) = self.files.zip(self.files_limit)?;
        let share = Share { used, limit };
        (limit > 0).then_some((share.as_f64(), "the process's open file limit"))
    }

    /// Returns the number of threads in the cgroup and their limit, with a name for the limit.
    pub(super) fn threads_allowed(&self) -> Option<(Share<f64>, &'static str)> {
        let share = self.cgroup_pids?;
        Some((share.as_f64(), "the cgroup's thread limit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_sample_shows_memory_and_files_that_this_process_has_taken() {
        let mut sampler = Sampler::new().expect("Linux can be observed");
        let before = sampler.sample();
        let held: Vec<_> = (0..20)
            .map(|_| std::fs::File::open("/dev/null").expect("it opens"))
            .collect();
        // Large enough for an allocation of its own, and written to, so that it is resident.
        let block = vec![1_u8; 64 << 20];
        let after = sampler.sample();
        let grown = after.process_memory - before.process_memory;
        assert!(grown > 48 << 20, "grown by {grown}");
        // Other tests in this process open and close files as well.
        let opened = after.files.expect("counted") as i64 - before.files.expect("counted") as i64;
        assert!(opened >= 10, "{opened}");
        assert!(after.files < after.files_limit);
        assert!(after.threads.is_some_and(|count| count >= 2));
        assert!(after.host_memory <= after.host_memory_total && after.host_memory > 0);
        assert!(after.host_cpus > 0 && after.host_cpu <= after.host_cpus as f64 + 0.1);
        drop((held, block));
    }

    #[test]
    fn a_limit_of_the_cgroup_takes_precedence_over_the_host() {
        let mut sample = Sample {
            process_memory: 1,
            process_cpu: 0.0,
            threads: None,
            files: Some(10),
            files_limit: None,
            host_memory: 50,
            host_memory_total: 100,
            host_cpu: 1.0,
            host_cpus: 4,
            cgroup_memory: None,
            cgroup_cpu: None,
            cgroup_pids: None,
        };
        assert_eq!(sample.memory().map(|(share, _)| share.ratio()), Some(0.5));
        assert_eq!(sample.cpu().map(|(share, _)| share.ratio()), Some(0.25));
        assert_eq!(sample.open_files(), None);
        assert_eq!(sample.threads_allowed(), None);
        sample.cgroup_memory = Some(Share { used: 9, limit: 10 });
        sample.cgroup_cpu = Some(Share {
            used: 1.0,
            limit: 1.0,
        });
        assert_eq!(sample.memory().map(|(share, _)| share.ratio()), Some(0.9));
        assert_eq!(sample.cpu().map(|(share, _)| share.ratio()), Some(1.0));
    }
}
