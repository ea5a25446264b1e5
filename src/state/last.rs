//! The summary of a shutdown that is kept for metrics, for the textfile and for the next run.

use super::boot;
use crate::report::{self, KindRow, Outcome, Report, Timing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// The end of a run, in numbers.
///
/// # Examples
///
/// ```
/// # let folder = tempfile::tempdir()?;
/// # let folder = folder.path();
/// let orders = || headcount::Runtime::builder().state_folder(folder).print(false);
/// orders().build()?.run(async |_tasks| {});
///
/// let second = orders().build()?;
/// let previous = second.previous_run().expect("there was one");
/// assert_eq!(previous.shutdown.reason, "main_ended");
/// assert!(previous.shutdown.lingering_threads.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastShutdown {
    /// The outcome of the run.
    pub outcome: Outcome,
    /// The reason for the shutdown, as one of a fixed set of words.
    ///
    /// It is the name of a signal, `requested`, `main_ended`, `main_failed`, `main_panicked` or
    /// `required_ended`. For a run without a report it is `deadline`, the word of the
    /// [`Cause`](super::Cause), or `unknown`.
    pub reason: String,
    /// The version of the service; empty if it was not set.
    pub version: String,
    /// The time at which the shutdown was over. For a run without a report: the time of its last
    /// heartbeat.
    ///
    /// In JSON: seconds since 1970.
    #[serde(with = "boot::seconds")]
    pub at: SystemTime,
    /// The time from the beginning of the shutdown to the end of the last layer; zero without a
    /// report. In JSON: `took_seconds`.
    #[serde(
        rename = "took_seconds",
        serialize_with = "report::seconds",
        deserialize_with = "report::of_seconds"
    )]
    pub took: Duration,
    /// The layers by name: `drain`, `cancel` and `close`. Empty without a report.
    pub layers: BTreeMap<String, Timing>,
    /// The number of tasks that were still alive after a layer, by layer: `drain` (tracked ones)
    /// and `cancel` (tracked and untracked ones).
    pub lingering_tasks: BTreeMap<String, u64>,
    /// The number of threads that were still alive at the end, by class.
    pub lingering_threads: BTreeMap<String, u64>,
    /// The number of child processes that were still alive at the end.
    pub lingering_children: u64,
    /// The result of saving the report and of flushing telemetry, by signal.
    pub flush: BTreeMap<String, String>,
}

// === impl LastShutdown ===

impl LastShutdown {
    /// Summarizes a report. `at` is the time at which the shutdown was over.
    pub(crate) fn of(report: &Report, version: &str, at: SystemTime) -> Self {
        let count = |tasks: &[KindRow]| tasks.iter().map(|task| task.count).sum();
        let mut lingering_threads = BTreeMap::new();
        for thread in &report.close.threads {
            *lingering_threads
                .entry(thread.class.as_str().to_owned())
                .or_default() += 1;
        }
        Self {
            outcome: report.outcome,
            reason: report.reason.word().to_owned(),
            version: version.to_owned(),
            at,
            took: report.total,
            layers: [
                ("drain".to_owned(), report.drain.timing),
                ("cancel".to_owned(), report.cancel.timing),
                ("close".to_owned(), report.close.timing),
            ]
            .into(),
            lingering_tasks: [
                ("drain".to_owned(), count(&report.drain.ignored)),
                ("cancel".to_owned(), report.lingering_tasks()),
            ]
            .into(),
            lingering_threads,
            lingering_children: report.close.children.len() as u64,
            flush: report
                .flush
                .iter()
                .map(|flush| (flush.signal.clone(), flush.result.as_str().to_owned()))
                .collect(),
        }
    }

    /// Summarizes a run that left no report, so all numbers are zero.
    ///
    /// The version is that of the run that ended, not of this one.
    pub(super) fn without_report(
        outcome: Outcome,
        reason: &str,
        version: &str,
        at: SystemTime,
    ) -> Self {
        Self {
            outcome,
            reason: reason.to_owned(),
            version: version.to_owned(),
            at,
            took: Duration::ZERO,
            layers: BTreeMap::new(),
            lingering_tasks: BTreeMap::new(),
            lingering_threads: BTreeMap::new(),
            lingering_children: 0,
            flush: BTreeMap::new(),
        }
    }
}
