//! Mishaps of a whole run, long before its stop too: tasks that failed or panicked, processes that
//! were given up, and telemetry that was lost.
//!
//! They do not change the outcome, which is about the shutdown alone. The texts leave out what the
//! reason or another row of the report says already; the data does not.

use super::{PanicRow, Reason, Report, count, path, times};
use crate::registry::kind::OTHER;
use crate::registry::{self, Counts};
use crate::task::TaskOutcome;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The most names of each kind of mishap in a report. The others share `_other`.
const KEPT: usize = 100;
/// The most names in a line of text.
const NAMED: usize = 10;
/// The name of the task that runs `main`.
const MAIN: &str = "main";

/// The counters of all tasks at the start of a run.
///
/// They belong to the process and are never reset, so these are subtracted at the end. Tasks of
/// another runtime of the process that run at the same time and have the same kind are counted too.
#[derive(Debug)]
pub(crate) struct Mishaps {
    /// By the number of the kind. Kinds that are made later have no entry, and count from 0.
    before: Vec<Counts>,
}

// === impl Mishaps ===

impl Mishaps {
    /// Notes the counters. Called before the first task of the run.
    pub(crate) fn begin() -> Self {
        let counts = registry::all_counts().into_iter();
        Self {
            before: counts.map(|(_, counts)| counts).collect(),
        }
    }

    /// Returns the number of tasks that ended so since the start, by group and name.
    pub(crate) fn ended(&self, outcome: TaskOutcome) -> BTreeMap<String, u64> {
        let mut ended = BTreeMap::new();
        for (kind, counts) in registry::all_counts() {
            let before = self.before.get(kind.number as usize);
            let before = before.copied().unwrap_or_default();
            let [now, before] = [counts, before].map(|counts| counts.ended[outcome as usize]);
            if now > before && !kind.options.untracked {
                *ended.entry(path(kind.group(), kind.name)).or_default() += now - before;
            }
        }
        bounded(ended)
    }
}

/// Keeps the names with the highest counts, and adds up the others as `_other`.
fn bounded(counts: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if counts.len() <= KEPT {
        return counts;
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| Reverse(*count));
    let others = sorted.split_off(KEPT - 1);
    let mut kept: BTreeMap<_, _> = sorted.into_iter().collect();
    *kept.entry(OTHER.to_owned()).or_default() +=
        others.iter().map(|(_, count)| count).sum::<u64>();
    kept
}

/// Returns the sentences about mishaps, one for each kind that happened.
pub(super) fn sentences(report: &Report) -> Vec<String> {
    let mut panicked = report.panicked_tasks.clone();
    let mut failed = report.failed_tasks.clone();
    let mut given_up = report.given_up_processes.clone();
    for row in report.drain.panicked.iter().chain(&report.cancel.panicked) {
        let PanicRow { group, name, .. } = row;
        take(&mut panicked, &path(group, name), row.count);
    }
    match &report.reason {
        Reason::MainFailed(_) => take(&mut failed, MAIN, 1),
        Reason::MainPanicked(_) => take(&mut panicked, MAIN, 1),
        Reason::RequiredEnded { task, outcome } => match outcome {
            TaskOutcome::Failed => take(&mut failed, task, 1),
            TaskOutcome::Panicked => take(&mut panicked, task, 1),
            TaskOutcome::Completed | TaskOutcome::Cancelled => {}
        },
        Reason::Signal(_) | Reason::Requested(_) | Reason::MainEnded => {}
    }
    // The task that supervises a process fails when the process is given up.
    for (process, count) in &given_up {
        take(&mut failed, process, *count);
    }
    if let Reason::RequiredEnded { task, .. } = &report.reason {
        take(&mut given_up, task, 1);
    }
    let some = |what: &str, how: &str, names: &BTreeMap<String, u64>| {
        let total: u64 = names.values().sum();
        (total > 0).then(|| {
            format!(
                "{} {how} in this run: {}",
                count(total, what),
                listed(names)
            )
        })
    };
    let tasks = [
        some("task", "failed", &failed),
        some("task", "panicked", &panicked),
    ];
    let total: u64 = given_up.values().sum();
    let were = match total {
        0 => None,
        1 => Some("1 process was".to_owned()),
        n => Some(format!("{n} processes were")),
    };
    let given_up = were.map(|were| format!("{were} given up in this run: {}", listed(&given_up)));
    let lost = report.lost_records.iter();
    let lost = lost.filter_map(|(signal, reasons)| lost_sentence(report, signal, reasons));
    tasks
        .into_iter()
        .flatten()
        .chain(given_up)
        .chain(lost)
        .collect()
}

/// Takes at most `n` off the count of a name.
fn take(counts: &mut BTreeMap<String, u64>, name: &str, n: u64) {
    if let Some(count) = counts.get_mut(name) {
        *count = count.saturating_sub(n);
        if *count == 0 {
            counts.remove(name);
        }
    }
}

/// Lists names with their counts, the highest first: `rates/refresh ×3, import and 2 more`.
fn listed(counts: &BTreeMap<String, u64>) -> String {
    let mut sorted: Vec<_> = counts.iter().collect();
    sorted.sort_by_key(|(_, count)| Reverse(**count));
    let names = sorted.iter().take(NAMED);
    let names: Vec<_> = names
        .map(|(name, count)| format!("{name}{}", times(**count)))
        .collect();
    match sorted.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// Returns the sentence about lost records of one signal. `None` if none was lost, or only in the
/// flush at the end, which has a line of its own.
fn lost_sentence(report: &Report, signal: &str, reasons: &BTreeMap<String, u64>) -> Option<String> {
    let is_told = report
        .flush
        .iter()
        .any(|flush| flush.signal == signal && !flush.is_delivered());
    let mut lost: Vec<_> = reasons.iter().filter(|(_, count)| **count > 0).collect();
    if lost
        .iter()
        .all(|(reason, _)| is_told && *reason == "shutdown")
    {
        return None;
    }
    lost.sort_by_key(|(_, count)| Reverse(**count));
    let one = match signal {
        "traces" => "span",
        "logs" => "log record",
        _ => "metric",
    };
    let why = |reason: &str| match reason {
        "queue_full" => "the queue was full",
        "refused" => "the collector did not take them",
        _ => "the flush at the end could not send them",
    };
    let total: u64 = lost.iter().map(|(_, count)| **count).sum();
    let were = if total == 1 { "was" } else { "were" };
    let reasons: Vec<_> = match &*lost {
        [(reason, _)] => vec![why(reason).to_owned()],
        several => several
            .iter()
            .map(|(reason, n)| format!("{} ({n})", why(reason)))
            .collect(),
    };
    let (lost, reasons) = (count(total, one), reasons.join(", "));
    Some(format!("{lost} {were} lost in this run: {reasons}"))
}
