//! The `resources` task kind: monitors what the process uses of memory, CPU time, open files and
//! threads, compared with the limits of the cgroup and the host.
//!
//! Logs each sample, the first at INFO and the others at DEBUG. A WARN is logged when usage reaches a
//! threshold, and an INFO when it has fallen below it again.
//!
//! `/proc` and the cgroup are read on a blocking thread. Reading usually takes 0.16 ms, but listing
//! 100,000 open files takes 140 ms, which is too long for a worker.
//!
//! The task does not monitor other processes, and it takes no action beyond logging.

mod cgroup;
mod sample;
mod threshold;

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, error, info, warn};

use crate::TaskGroup;

use cgroup::Share;
use sample::{Sample, Sampler};
use threshold::{Crossing, Threshold};

/// The settings of a `resources` task.
///
/// A threshold is a share of a limit, from 0 to 1; `None` turns the warning off.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResourcesSettings {
    /// The time between two samples. Default: 15 s.
    pub(crate) interval: Duration,
    /// The threshold for memory, as a share of the cgroup's limit, or of the host's memory if there
    /// is no limit. Default: 0.9.
    pub(crate) warn_memory: Option<f64>,
    /// The threshold for CPU time, as a share of the cgroup's quota, or of the host's CPUs if there
    /// is no quota. Default: off.
    pub(crate) warn_cpu: Option<f64>,
    /// The threshold for open files, as a share of `RLIMIT_NOFILE`. Default: 0.8.
    pub(crate) warn_files: Option<f64>,
    /// The threshold for threads and processes, as a share of the cgroup's `pids.max`. Default: 0.8.
    pub(crate) warn_threads: Option<f64>,
}

/// The thresholds of one task, with their states.
#[derive(Debug)]
struct Watch {
    memory: Option<Threshold>,
    cpu: Option<Threshold>,
    files: Option<Threshold>,
    threads: Option<Threshold>,
}

// === impl ResourcesSettings ===

impl Default for ResourcesSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15),
            warn_memory: Some(0.9),
            // Unlike full memory, a fully used CPU is no failure, and often intended.
            warn_cpu: None,
            warn_files: Some(0.8),
            warn_threads: Some(0.8),
        }
    }
}

/// Takes and logs samples until the group drains.
///
/// If sampling fails, it logs an error and only waits for the drain from then on.
pub(crate) async fn run(settings: ResourcesSettings, tasks: TaskGroup) {
    let mut sampler = match Sampler::new() {
        Ok(sampler) => sampler,
        Err(error) => {
            error!(%error, "resource monitoring is not available on this system");
            // The task stays alive so that it remains listed like every declared task.
            tasks.draining().await;
            return;
        }
    };
    let mut watch = Watch::new(&settings);
    // CPU usage is the difference of two readings, so the first sample has to wait for the second.
    let first = sysinfo::MINIMUM_CPU_UPDATE_INTERVAL.min(settings.interval);
    let mut tick = interval_at(Instant::now() + first, settings.interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = false;
    while tasks.until_draining(tick.tick()).await.is_some() {
        let reading = tasks.spawn_blocking("resources-sample", move || {
            let sample = sampler.sample();
            (sampler, sample)
        });
        let sample = match tasks.until_draining(reading).await {
            None => return,
            Some(Err(error)) => {
                error!(%error, "resource sampling failed and has been disabled");
                tasks.draining().await;
                return;
            }
            Some(Ok((back, sample))) => {
                sampler = back;
                sample
            }
        };
        tell(&sample, seen);
        seen = true;
        watch.look(&sample);
    }
}

/// Logs a sample, at DEBUG if one was `seen` before. Memory is in bytes; `cores` are seconds of CPU
/// time per second.
fn tell(sample: &Sample, seen: bool) {
    macro_rules! line {
        ($level:ident) => {
            $level!(
                process_memory_bytes = sample.process_memory,
                process_cpu_cores = rounded(sample.process_cpu),
                threads = sample.threads,
                files = sample.files,
                files_limit = sample.files_limit,
                host_memory_bytes = sample.host_memory,
                host_memory_total_bytes = sample.host_memory_total,
                host_cpu_cores = rounded(sample.host_cpu),
                host_cpus = sample.host_cpus,
                cgroup_memory_bytes = sample.cgroup_memory.map(|share| share.used),
                cgroup_memory_limit_bytes = sample.cgroup_memory.map(|share| share.limit),
                cgroup_cpu_cores = sample.cgroup_cpu.map(|share| rounded(share.used)),
                cgroup_cpu_limit_cores = sample.cgroup_cpu.map(|share| rounded(share.limit)),
                cgroup_pids = sample.cgroup_pids.map(|share| share.used),
                cgroup_pids_limit = sample.cgroup_pids.map(|share| share.limit),
                "resources"
            )
        };
    }
    if seen { line!(debug) } else { line!(info) }
}

/// Rounds to three decimals, for the log.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

// === impl Watch ===

impl Watch {
    /// Returns the thresholds of the settings; a sample that starts above one crosses it.
    fn new(settings: &ResourcesSettings) -> Self {
        Self {
            memory: settings.warn_memory.map(Threshold::new),
            cpu: settings.warn_cpu.map(Threshold::new),
            files: settings.warn_files.map(Threshold::new),
            threads: settings.warn_threads.map(Threshold::new),
        }
    }

    /// Compares a sample with all thresholds and logs those that were crossed.
    fn look(&mut self, sample: &Sample) {
        look(&mut self.memory, "memory", sample.memory());
        look(&mut self.cpu, "cpu", sample.cpu());
        look(&mut self.files, "files", sample.open_files());
        look(&mut self.threads, "threads", sample.threads_allowed());
    }
}

/// Compares one resource with its threshold. Nothing is logged if it has no threshold or no limit.
fn look(threshold: &mut Option<Threshold>, resource: &str, share: Option<(Share<f64>, &str)>) {
    let (Some(threshold), Some((share, of))) = (threshold, share) else {
        return;
    };
    let ratio = share.ratio();
    let (used, limit) = (rounded(share.used), rounded(share.limit));
    let crossing = threshold.crossed_by(ratio);
    macro_rules! line {
        ($level:ident, $is:literal) => {
            $level!(
                resource,
                share = rounded(ratio),
                warn_at = threshold.at(),
                used,
                limit,
                of,
                "resources: {resource} {} {:.0} % of {of}",
                $is,
                ratio * 100.0
            )
        };
    }
    match crossing {
        Some(Crossing::Up) => line!(warn, "at"),
        Some(Crossing::Down) => line!(info, "back to"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;
    use crate::service::tests::Log;

    /// Returns the lines that are logged while `work` runs, without their target.
    fn logged(work: impl FnOnce()) -> String {
        let (log, _guard) = Log::capture(Level::TRACE);
        work();
        log.text().replace("headcount::service::resources: ", "")
    }

    fn sample(files: u64) -> Sample {
        Sample {
            process_memory: 1 << 20,
            process_cpu: 0.12345,
            threads: Some(4),
            files: Some(files),
            files_limit: Some(100),
            host_memory: 3 << 30,
            host_memory_total: 4 << 30,
            host_cpu: 1.5,
            host_cpus: 2,
            cgroup_memory: None,
            cgroup_cpu: Some(Share {
                used: 0.5,
                limit: 1.0,
            }),
            cgroup_pids: None,
        }
    }

    #[test]
    fn the_first_sample_is_info_and_the_next_is_debug() {
        let log = logged(|| {
            tell(&sample(10), false);
            tell(&sample(11), true);
        });
        let fields = "threads=4 files={} files_limit=100 host_memory_bytes=3221225472 \
             host_memory_total_bytes=4294967296 host_cpu_cores=1.5 host_cpus=2 \
             cgroup_cpu_cores=0.5 cgroup_cpu_limit_cores=1.0";
        let process = "resources process_memory_bytes=1048576 process_cpu_cores=0.123";
        assert_eq!(
            log,
            format!(
                " INFO {process} {}\nDEBUG {process} {}\n",
                fields.replace("{}", "10"),
                fields.replace("{}", "11")
            )
        );
    }

    #[test]
    fn crossing_a_threshold_logs_one_warning_and_one_recovery() {
        let mut watch = Watch::new(&ResourcesSettings {
            warn_memory: None,
            warn_files: Some(0.8),
            ..ResourcesSettings::default()
        });
        let log = logged(|| {
            for files in [10, 80, 85, 79, 81, 71, 10] {
                watch.look(&sample(files));
            }
        });
        let of = "the process's open file limit";
        assert_eq!(
            log,
            format!(
                " WARN resources: files at 80 % of {of} resource=\"files\" share=0.8 warn_at=0.8 \
                 used=80.0 limit=100.0 of=\"{of}\"\n \
                 INFO resources: files back to 71 % of {of} resource=\"files\" share=0.71 \
                 warn_at=0.8 used=71.0 limit=100.0 of=\"{of}\"\n"
            )
        );
    }

    #[test]
    fn a_threshold_that_is_off_or_has_no_limit_logs_nothing() {
        let mut watch = Watch::new(&ResourcesSettings {
            warn_memory: None,
            warn_cpu: None,
            warn_files: None,
            warn_threads: Some(0.01),
            interval: Duration::from_secs(1),
        });
        assert_eq!(logged(|| watch.look(&sample(100))), "");
    }
}
