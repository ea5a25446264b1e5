//! The `resources` task: how much of the machine the process uses, and how much is left.
//!
//! One log line a sample: the first at INFO, the others at DEBUG; a WARN when a share of a limit
//! is crossed, and an INFO when it is back. Reads `/proc` and the cgroup on a blocking thread:
//! 0.16 ms as a rule, but to list 100,000 open files takes 140 ms, too long for a worker.
//!
//! Does not watch other processes, and does not act on what it sees.

mod cgroup;
mod sample;
mod threshold;

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, error, info, warn};

use crate::TaskGroup;

use sample::{Sample, Sampler, Share};
use threshold::{Crossing, Threshold};

/// What a `resources` task does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResourcesSettings {
    /// Between two samples.
    pub(crate) interval: Duration,
    /// Warn at this share of the memory: the cgroup's limit, or the host's memory without one.
    pub(crate) warn_memory: Option<f64>,
    /// Warn at this share of the CPU time: the cgroup's quota, or the host's CPUs without one.
    pub(crate) warn_cpu: Option<f64>,
    /// Warn at this share of the files that the process may open (`RLIMIT_NOFILE`).
    pub(crate) warn_files: Option<f64>,
    /// Warn at this share of the processes and threads that the cgroup may hold (`pids.max`).
    pub(crate) warn_threads: Option<f64>,
}

/// The thresholds of one task, each with what it has seen so far.
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
            // A busy CPU is often the plan; a full one is not a fault as full memory is.
            warn_cpu: None,
            warn_files: Some(0.8),
            warn_threads: Some(0.8),
        }
    }
}

/// Samples until the group drains.
pub(crate) async fn run(settings: ResourcesSettings, tasks: TaskGroup) {
    let mut sampler = match Sampler::new() {
        Ok(sampler) => sampler,
        Err(error) => {
            error!(%error, "resources: cannot be observed on this system");
            // A task that ends early would be one fewer to see, and no use to anybody.
            tasks.draining().await;
            return;
        }
    };
    let mut watch = Watch::new(&settings);
    // CPU use is a difference of two readings, so the first sample waits for the second.
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
                error!(%error, "resources: the sample was not taken, and no other will be");
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

/// Logs a sample: bytes, seconds of CPU a second (`cores`), and shares from 0 to 1.
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

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

// === impl Watch ===

impl Watch {
    fn new(settings: &ResourcesSettings) -> Self {
        Self {
            memory: settings.warn_memory.map(Threshold::new),
            cpu: settings.warn_cpu.map(Threshold::new),
            files: settings.warn_files.map(Threshold::new),
            threads: settings.warn_threads.map(Threshold::new),
        }
    }

    fn look(&mut self, sample: &Sample) {
        look(&mut self.memory, "memory", sample.memory());
        look(&mut self.cpu, "cpu", sample.cpu());
        look(&mut self.files, "files", sample.open_files());
        look(&mut self.threads, "threads", sample.threads_allowed());
    }
}

fn look(threshold: &mut Option<Threshold>, resource: &str, share: Option<(Share<f64>, &str)>) {
    let (Some(threshold), Some((share, of))) = (threshold, share) else {
        return;
    };
    let ratio = share.ratio();
    let (used, limit) = (rounded(share.used), rounded(share.limit));
    match threshold.crossed_by(ratio) {
        Some(Crossing::Up) => warn!(
            resource,
            share = rounded(ratio),
            warn_at = threshold.at(),
            used,
            limit,
            of,
            "resources: {resource} at {:.0} % of {of}",
            ratio * 100.0
        ),
        Some(Crossing::Down) => info!(
            resource,
            share = rounded(ratio),
            warn_at = threshold.at(),
            used,
            limit,
            of,
            "resources: {resource} back at {:.0} % of {of}",
            ratio * 100.0
        ),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no test panics in it").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged while `work` runs.
    fn logged(work: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(log, work);
        let bytes = lines.0.lock().expect("no test panics in it").clone();
        String::from_utf8(bytes).expect("a log is text")
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
    fn a_crossed_threshold_is_warned_of_once_and_told_when_it_is_back() {
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
        let of = "the files that the process may open";
        assert_eq!(
            log,
            format!(
                " WARN resources: files at 80 % of {of} resource=\"files\" share=0.8 warn_at=0.8 \
                 used=80.0 limit=100.0 of=\"{of}\"\n \
                 INFO resources: files back at 71 % of {of} resource=\"files\" share=0.71 \
                 warn_at=0.8 used=71.0 limit=100.0 of=\"{of}\"\n"
            )
        );
    }

    #[test]
    fn a_threshold_that_is_off_or_has_no_limit_says_nothing() {
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
