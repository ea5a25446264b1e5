//! The live tasks of a group at one moment, as data.
//!
//! A snapshot is read from the registry's slots while tasks start and end, without stopping them.
//! It has no stacks and no await chains: those need a [`Dump`](crate::report::Dump).

use super::TaskGroup;
use crate::registry::{self, LiveTask};
use crate::report::{TaskRow, UntrackedRow};
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::collections::HashMap;

/// The tasks that were live when the snapshot was taken. Made by [`TaskGroup::snapshot`].
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// let jobs = tasks.group("jobs");
/// let import = jobs.spawn("import", std::future::pending::<()>());
/// let snapshot = jobs.snapshot();
/// assert_eq!(snapshot.tasks().len(), 1);
/// // Untracked tasks are listed for the root group only.
/// assert!(snapshot.untracked().is_none());
/// # import.cancel();
/// # import.await.unwrap_err();
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// As they were read: there may be millions. A row is made when it is asked for.
    tasks: Vec<LiveTask>,
    /// The thread that is in each task, by the address of the task's slot.
    on_threads: HashMap<usize, u32>,
    untracked: Option<Vec<UntrackedRow>>,
}

// === impl Snapshot ===

impl Snapshot {
    /// Reads the live tasks of a group and of the groups inside it.
    pub(super) fn take(group: &TaskGroup) -> Self {
        let root = group.registry_root();
        let is_root = group.scope().number == root.scope.number;
        Self {
            on_threads: registry::on_threads(),
            tasks: registry::live_tasks(group.scope()),
            untracked: is_root
                .then(|| UntrackedRow::all(root, group.handle()).ok())
                .flatten(),
        }
    }

    /// Returns the live tasks, in no particular order.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = TaskRow> {
        let tasks = self.tasks.iter();
        tasks.map(|task| TaskRow::new(task, &self.on_threads))
    }

    /// Returns the untracked tasks of the runtime, those of the most tasks first. `None` for a group
    /// other than the root group, or if tokio's list of tasks cannot be read: outside of Linux, or
    /// with a tokio that lays out its tasks in an unknown way.
    ///
    /// The look blocks the calling thread for about half a microsecond a task of the runtime, and for
    /// some milliseconds when it is the first one in the process.
    ///
    /// Tasks of a `LocalSet` are not in that list. With `--cfg tokio_unstable`, on a runtime that
    /// headcount owns, there is a row for each spawn site, also when all of its tasks have ended.
    #[must_use]
    pub fn untracked(&self) -> Option<&[UntrackedRow]> {
        self.untracked.as_deref()
    }
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut snapshot = serializer.serialize_struct("Snapshot", 2)?;
        snapshot.serialize_field("tasks", &self.tasks().collect::<Vec<_>>())?;
        snapshot.serialize_field("untracked", &self.untracked)?;
        snapshot.end()
    }
}
