//! What is kept of a shutdown, for metrics and for the next run.

use super::boot;
use crate::report::{Outcome, Report, TaskFinding, Timing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Ended {
    /// All ended by themselves.
    Clean,
    /// Some had to be cancelled or dropped; nothing lingered.
    Cancelled,
    /// Something was alive that should have been gone.
    Lingering,
    /// Headcount had to end the process.
    Forced,
    /// Without a report.
    Unclean,
}

/// The end of a run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LastShutdown {
    /// How it ended.
    pub outcome: Ended,
    /// Why it began, in one of few words: a signal's name, `requested`, `main_ended`, `main_failed`, `main_panicked`,
    /// `required_ended`; of a run without a report `deadline`, or the [`Cause`](super::Cause).
    pub reason: String,
    /// The version of the service.
    pub version: String,
    /// When it was over. Without a report: when it was last known to live.
    #[serde(with = "boot::seconds")]
    pub at: SystemTime,
    /// From the beginning of the shutdown to the end of the last layer.
    #[serde(rename = "took_seconds", with = "boot::duration")]
    pub took: Duration,
    /// The layers, in their order; none without a report.
    pub layers: Vec<LayerTime>,
    /// Tracked and untracked tasks that lived on after a layer.
    pub lingering_tasks: BTreeMap<String, u64>,
    /// Threads that lived on, by class.
    pub lingering_threads: BTreeMap<String, u64>,
    /// Child processes that lived on.
    pub lingering_children: u64,
    /// What became of the report and the telemetry: results by signal.
    pub flush: BTreeMap<String, String>,
}

/// A layer's time and budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerTime {
    /// `drain`, `cancel`, `close`.
    pub layer: String,
    /// How long it took.
    #[serde(rename = "took_seconds", with = "boot::duration")]
    pub took: Duration,
    /// How long it might have taken.
    #[serde(rename = "budget_seconds", with = "boot::duration")]
    pub budget: Duration,
}

// === impl Ended ===

impl Ended {
    /// All, in the order of the report.
    pub(crate) const ALL: [Self; 5] = [
        Self::Clean,
        Self::Cancelled,
        Self::Lingering,
        Self::Forced,
        Self::Unclean,
    ];

    /// The word that metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Cancelled => "cancelled",
            Self::Lingering => "lingering",
            Self::Forced => "forced",
            Self::Unclean => "unclean",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ended| ended.as_str() == word)
    }
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Clean => Self::Clean,
            Outcome::Cancelled => Self::Cancelled,
            Outcome::Lingering => Self::Lingering,
            Outcome::Forced => Self::Forced,
        }
    }
}

// === impl LastShutdown ===

impl LastShutdown {
    /// What a report says.
    pub(crate) fn of(report: &Report, version: &str, at: SystemTime) -> Self {
        let count = |tasks: &[TaskFinding]| tasks.iter().map(|task| task.count).sum();
        let mut lingering_threads = BTreeMap::new();
        for thread in &report.close.threads {
            *lingering_threads
                .entry(thread.class.as_str().to_owned())
                .or_default() += 1;
        }
        Self {
            outcome: report.outcome.into(),
            reason: report.reason.word().to_owned(),
            version: version.to_owned(),
            at,
            took: report.total,
            layers: vec![
                LayerTime::new("drain", &report.drain.timing),
                LayerTime::new("cancel", &report.cancel.timing),
                LayerTime::new("close", &report.close.timing),
            ],
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

    /// What is known of a run that left none.
    pub(super) fn without_report(
        outcome: Ended,
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
            layers: Vec::new(),
            lingering_tasks: BTreeMap::new(),
            lingering_threads: BTreeMap::new(),
            lingering_children: 0,
            flush: BTreeMap::new(),
        }
    }
}

impl LayerTime {
    fn new(layer: &str, timing: &Timing) -> Self {
        Self {
            layer: layer.to_owned(),
            took: timing.took,
            budget: timing.budget,
        }
    }
}
