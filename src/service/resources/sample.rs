//! One reading of the process, the host and the cgroup.
//!
//! Threads and limits are read here, everything else by `sysinfo`, without its list of threads,
//! which is slow and knows only their number.

use std::path::Path;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use super::cgroup::{Cgroup, read_file};

/// Reads again and again, and remembers what a difference needs.
#[derive(Debug)]
pub(super) struct Sampler {
    system: System,
    pid: Pid,
    cgroup: Cgroup,
    /// When the cgroup's CPU time was read, and what it was, in seconds.
    cgroup_cpu: Option<(Instant, f64)>,
}

/// What was read at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// Resident bytes.
    pub(super) process_memory: u64,
    /// Seconds of CPU time a second.
    pub(super) process_cpu: f64,
    pub(super) threads: Option<u64>,
    pub(super) files: Option<u64>,
    pub(super) files_limit: Option<u64>,
    /// Bytes that are not available to anybody else.
    pub(super) host_memory: u64,
    pub(super) host_memory_total: u64,
    pub(super) host_cpu: f64,
    pub(super) host_cpus: u64,
    pub(super) cgroup_memory: Option<Share<u64>>,
    pub(super) cgroup_cpu: Option<Share<f64>>,
    pub(super) cgroup_pids: Option<Share<u64>>,
}

/// How much of a limit is used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Share<T> {
    pub(super) used: T,
    pub(super) limit: T,
}

// === impl Sampler ===

impl Sampler {
    /// Takes the reading from which the first sample's CPU use is counted.
    ///
    /// # Errors
    ///
    /// If the system is not one that can be observed.
    pub(super) fn new() -> Result<Self, String> {
        let mut sampler = Self {
            system: System::new().map_err(|error| error.to_string())?,
            pid: sysinfo::get_current_pid().map_err(|error| error.to_string())?,
            cgroup: Cgroup::of_this_process(),
            cgroup_cpu: None,
        };
        sampler.refresh();
        sampler.cgroup_cpu = sampler.cgroup_cpu_time();
        Ok(sampler)
    }

    /// Reads everything. Blocks on files of `/proc` and `/sys`: 0.16 ms, and 1.4 µs more for each open file.
    pub(super) fn sample(&mut self) -> Sample {
        self.refresh();
        let process = self.system.process(self.pid);
        let total = self.system.total_memory();
        let cpus = self.system.cpus().len();
        Sample {
            process_memory: process.map_or(0, sysinfo::Process::memory),
            process_cpu: process.map_or(0.0, |process| f64::from(process.cpu_usage()) / 100.0),
            threads: read_file(Path::new("/proc/self/stat")).and_then(|stat| threads(&stat)),
            // One of them is the folder that is being listed.
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

    fn cgroup_cpu_time(&self) -> Option<(Instant, f64)> {
        let time = self.cgroup.cpu_time(&read_file)?;
        Some((Instant::now(), time.as_secs_f64()))
    }

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
    /// Of the limit that is met first.
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

    pub(super) fn open_files(&self) -> Option<(Share<f64>, &'static str)> {
        let (used, limit) = self.files.zip(self.files_limit)?;
        let share = Share { used, limit };
        (limit > 0).then_some((share.as_f64(), "the files that the process may open"))
    }

    pub(super) fn threads_allowed(&self) -> Option<(Share<f64>, &'static str)> {
        let share = self.cgroup_pids?;
        Some((share.as_f64(), "the threads that the cgroup may hold"))
    }
}

// === impl Share ===

impl Share<f64> {
    pub(super) fn ratio(self) -> f64 {
        self.used / self.limit
    }
}

impl Share<u64> {
    pub(super) fn as_f64(self) -> Share<f64> {
        Share {
            used: self.used as f64,
            limit: self.limit as f64,
        }
    }
}

/// The number of threads in the text of `/proc/PID/stat`: field 20 of proc_pid_stat(5).
fn threads(stat: &str) -> Option<u64> {
    // The name, field 2, is in brackets and may hold brackets and spaces of its own.
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(17)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted_whatever_the_process_is_called() {
        let rest = "R 1 2 3 0 -1 4194304 99 0 0 0 0 0 0 0 20 0 7 0 160184 3133440 384";
        assert_eq!(threads(&format!("12 (cat) {rest}")), Some(7));
        assert_eq!(threads(&format!("12 (a) b (c) R 9) {rest}")), Some(7));
        assert_eq!(threads("12 (cat) R 1 2"), None);
        assert_eq!(threads(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_sample_of_this_process_is_what_the_process_knows_of_itself() {
        let mut sampler = Sampler::new().expect("Linux can be observed");
        let before = sampler.sample();
        let held: Vec<_> = (0..20)
            .map(|_| std::fs::File::open("/dev/null").expect("it opens"))
            .collect();
        // Large enough to be resident memory of its own, and written, so that it is resident.
        let block = vec![1_u8; 64 << 20];
        let after = sampler.sample();
        let grown = after.process_memory - before.process_memory;
        assert!(grown > 48 << 20, "grown by {grown}");
        // Other tests of this process open and close files too.
        let opened = after.files.expect("counted") as i64 - before.files.expect("counted") as i64;
        assert!(opened >= 10, "{opened}");
        assert!(after.files < after.files_limit);
        assert!(after.threads.is_some_and(|count| count >= 2));
        assert!(after.host_memory <= after.host_memory_total && after.host_memory > 0);
        assert!(after.host_cpus > 0 && after.host_cpu <= after.host_cpus as f64 + 0.1);
        drop((held, block));
    }

    #[test]
    fn the_limit_that_is_met_first_counts() {
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
