//! What ever happened to the tasks of a group, as numbers.

use super::TaskGroup;
use crate::registry::kind::{self, Kind};
use crate::registry::order::{self, Place};
use crate::registry::{self, Counts, heartbeats};
use crate::task::TaskOutcome;
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
    /// How many live without the heartbeat that they declared.
    pub stalled: u64,
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
    fn new(kind: &Kind, counts: &Counts, stalled: u64) -> Self {
        let ended = |outcome: TaskOutcome| counts.ended[outcome as usize];
        Self {
            group: kind.group(),
            name: kind.name,
            started: counts.started,
            completed: ended(TaskOutcome::Completed),
            failed: ended(TaskOutcome::Failed),
            panicked: ended(TaskOutcome::Panicked),
            cancelled: ended(TaskOutcome::Cancelled),
            stalled,
        }
    }

    /// Adds those of another kind under the same name.
    fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.completed += other.completed;
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.cancelled += other.cancelled;
        self.stalled += other.stalled;
    }

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
        let stalled = heartbeats::stalled_by_kind();
        let counts = registry::all_counts();
        let mut rows = Vec::with_capacity(counts.len());
        let mut last = None;
        for Place { kind, name } in order::of(counts.len()).places() {
            // A kind that was made since is for the next time.
            let counted = counts.get(*kind as usize);
            let Some((kind, counts)) = counted.filter(|(kind, _)| self.holds(kind)) else {
                continue;
            };
            let stalled = stalled.get(&kind.number).copied().unwrap_or(0);
            let row = TaskCounters::new(kind, counts, stalled);
            match rows.last_mut().filter(|_| last == Some(*name)) {
                Some(same) => TaskCounters::add(same, &row),
                None => rows.push(row),
            }
            last = Some(*name);
        }
        rows
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

    /// Whether tasks of the kind are in this group or below it.
    fn holds(&self, kind: &Kind) -> bool {
        let group = self.name();
        group.is_empty()
            || kind
                .group()
                .strip_prefix(group)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}
