//! Counters of the tasks of a group.
//!
//! The counters live in the registry, per thread and kind, and are summed when they are read.
//! Counting a task therefore never contends with reading, and reading costs the same however many
//! tasks are live.

use super::TaskGroup;
use crate::registry::kind::Kind;
use crate::registry::kind::order::{self, RankedKind};
use crate::registry::{self, Counts, heartbeats};
use crate::task::TaskOutcome;
use serde::ser::{Serialize, SerializeStruct, Serializer};

/// Counters of all tasks with one name in one group, whatever their spawn sites, since the start of
/// the process.
///
/// Every counter but [`stalled`](Self::stalled) only grows. The counters are read one after the
/// other, so while tasks start and end they need not add up exactly.
///
/// In JSON they have the names of the fields, and [`live`](Self::live).
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// let jobs = tasks.group("jobs");
/// jobs.spawn("import", async {}).await?;
/// let import = &jobs.counters()[0];
/// assert_eq!((import.group, import.name), ("jobs", "import"));
/// assert_eq!((import.started, import.completed, import.live()), (1, 1, 0));
/// # Ok::<(), headcount::TaskError>(())
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskCounters {
    /// The path of the group; empty for the root.
    pub group: &'static str,
    /// The name of the tasks.
    pub name: &'static str,
    /// The number of tasks that were spawned. Refused tasks are not counted.
    pub started: u64,
    /// The number of tasks that returned.
    pub completed: u64,
    /// The number of tasks spawned by a `try_` method that returned `Err`.
    pub failed: u64,
    /// The number of tasks that panicked.
    pub panicked: u64,
    /// The number of tasks that were dropped before they returned.
    pub cancelled: u64,
    /// The number of live tasks that are late with the heartbeat that they declared.
    pub stalled: u64,
}

// === impl TaskCounters ===

impl TaskCounters {
    /// Returns the counters of the kinds for which `choose` returns true, ordered by group and name.
    pub(crate) fn all(choose: impl Fn(&Kind) -> bool) -> Vec<Self> {
        let stalled = heartbeats::stalled_by_kind();
        let counts = registry::all_counts();
        let mut rows = Vec::with_capacity(counts.len());
        let mut last = None;
        for RankedKind { kind, rank } in order::of(counts.len()).kinds() {
            // A kind that was created after the counters were read is left for the next call.
            let counted = counts.get(*kind as usize);
            let Some((kind, counts)) = counted.filter(|(kind, _)| choose(kind)) else {
                continue;
            };
            let stalled = stalled.get(&kind.number).copied().unwrap_or(0);
            let row = Self::new(kind, counts, stalled);
            match rows.last_mut().filter(|_| last == Some(*rank)) {
                Some(same) => Self::add(same, &row),
                None => rows.push(row),
            }
            last = Some(*rank);
        }
        rows
    }

    /// Creates the row of a single kind.
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

    /// Adds the counters of another kind with the same group and name: another spawn site, or other
    /// options.
    fn add(&mut self, other: &Self) {
        self.started += other.started;
        self.completed += other.completed;
        self.failed += other.failed;
        self.panicked += other.panicked;
        self.cancelled += other.cancelled;
        self.stalled += other.stalled;
    }

    /// Returns the number of tasks that have not ended, never below zero.
    #[must_use]
    pub fn live(&self) -> u64 {
        let ended = self.completed + self.failed + self.panicked + self.cancelled;
        self.started.saturating_sub(ended)
    }
}

impl Serialize for TaskCounters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("TaskCounters", 9)?;
        row.serialize_field("group", self.group)?;
        row.serialize_field("name", self.name)?;
        row.serialize_field("live", &self.live())?;
        row.serialize_field("started", &self.started)?;
        row.serialize_field("completed", &self.completed)?;
        row.serialize_field("failed", &self.failed)?;
        row.serialize_field("panicked", &self.panicked)?;
        row.serialize_field("cancelled", &self.cancelled)?;
        row.serialize_field("stalled", &self.stalled)?;
        row.end()
    }
}

// === impl TaskGroup ===

impl TaskGroup {
    /// Returns the counters of every task name in this group and the groups inside it, ordered by
    /// group and name.
    ///
    /// The cost grows with the number of names, by some nanoseconds each, not with the number of
    /// live tasks.
    ///
    /// Counters belong to names and last as long as the process: groups with the same path share
    /// them, even if they belong to different runtimes of the process. Untracked tasks are not
    /// counted here.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let jobs = tasks.group("jobs");
    /// for name in ["import", "export", "import"] {
    ///     jobs.spawn(name, async {}).await?;
    /// }
    /// let counters = jobs.counters();
    /// let started: Vec<_> = counters.iter().map(|row| (row.name, row.started)).collect();
    /// assert_eq!(started, [("export", 1), ("import", 2)]);
    /// # Ok::<(), headcount::TaskError>(())
    /// # });
    /// ```
    #[must_use]
    pub fn counters(&self) -> Vec<TaskCounters> {
        TaskCounters::all(|kind| self.holds(kind))
    }

    /// Returns whether tasks of the kind are in this group or below it.
    fn holds(&self, kind: &Kind) -> bool {
        let group = self.name();
        group.is_empty()
            || kind
                .group()
                .strip_prefix(group)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}
