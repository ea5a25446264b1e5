//! What ever happened to the tasks of a group, as numbers.

use super::TaskGroup;
use crate::registry::{self, kind};
use crate::task::TaskOutcome;
use std::collections::BTreeMap;
use std::time::Duration;

/// What ever happened to the tasks of one name in one group, wherever they were spawned.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskCounters {
    /// The path of the group; empty for the root.
    pub group: &'static str,
    /// The name.
    pub name: &'static str,
    /// How many were ever spawned.
    pub started: u64,
    /// How many returned.
    pub completed: u64,
    /// How many returned `Err` to a `try_` method.
    pub failed: u64,
    /// How many panicked.
    pub panicked: u64,
    /// How many were dropped before they returned.
    pub cancelled: u64,
}

/// How long the tasks of a group lived that have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct GroupDurations {
    /// The path of the group, or `_other`: the first eight have a histogram of their own.
    pub group: &'static str,
    /// How many tasks lived less than 1.024 µs · 2ⁱ and not less than half of that, by i; the last one holds the rest.
    pub buckets: Vec<u64>,
    /// The sum of their lives, in nanoseconds.
    pub sum_nanos: u64,
}

// === impl TaskCounters ===

impl TaskCounters {
    /// How many have not ended.
    #[must_use]
    pub fn live(&self) -> u64 {
        let ended = self.completed + self.failed + self.panicked + self.cancelled;
        self.started.saturating_sub(ended)
    }
}

// === impl GroupDurations ===

impl GroupDurations {
    /// What bucket `i` is below; `None` for the last.
    #[must_use]
    pub fn upper_bound(&self, i: usize) -> Option<Duration> {
        (i + 1 < self.buckets.len()).then(|| Duration::from_nanos(1024 << i))
    }
}

impl TaskGroup {
    /// Counters of every name in this group and those in it: some nanoseconds a name, whatever lives.
    ///
    /// They belong to names and last as long as the process: groups under the same path, also those of another runtime
    /// in the process, share them. They add up when nothing starts or ends meanwhile.
    #[must_use]
    pub fn counters(&self) -> Vec<TaskCounters> {
        let mut rows: BTreeMap<(&'static str, &'static str), TaskCounters> = BTreeMap::new();
        for kind in kind::all().filter(|kind| !kind.options.untracked) {
            if !is_within(kind.group(), self.name()) {
                continue;
            }
            let counts = registry::counts(kind);
            let ended = |outcome: TaskOutcome| counts.ended[outcome as usize];
            let row = rows
                .entry((kind.group(), kind.name))
                .or_insert_with(|| TaskCounters {
                    group: kind.group(),
                    name: kind.name,
                    started: 0,
                    completed: 0,
                    failed: 0,
                    panicked: 0,
                    cancelled: 0,
                });
            row.started += counts.started;
            row.completed += ended(TaskOutcome::Completed);
            row.failed += ended(TaskOutcome::Failed);
            row.panicked += ended(TaskOutcome::Panicked);
            row.cancelled += ended(TaskOutcome::Cancelled);
        }
        rows.into_values().collect()
    }

    /// How long ended tasks lived, for every group of the process that has a histogram.
    #[must_use]
    pub fn durations(&self) -> Vec<GroupDurations> {
        kind::labels()
            .into_iter()
            .enumerate()
            .map(|(label, group)| {
                let totals = registry::durations(label);
                GroupDurations {
                    group,
                    buckets: totals.buckets.to_vec(),
                    sum_nanos: totals.nanos,
                }
            })
            .collect()
    }
}

/// Whether a path is this group's or below it.
fn is_within(path: &str, group: &str) -> bool {
    group.is_empty()
        || path
            .strip_prefix(group)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
