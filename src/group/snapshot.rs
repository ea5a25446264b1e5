//! What lives in a group at one moment, as data.

use super::TaskGroup;
use crate::registry::{self, LiveTask};
use crate::task::{TaskId, TaskKind, TaskState};
use std::panic::Location;
use std::time::Duration;

/// What lived when it was taken.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
pub struct Snapshot {
    tasks: Vec<TaskRow>,
    untracked: Option<Vec<UntrackedRow>>,
}

/// One live tracked task.
#[derive(Debug, Clone, Copy)]
pub struct TaskRow(LiveTask);

/// The live untracked tasks of one spawn site.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct UntrackedRow {
    /// Where they were spawned.
    pub spawned: &'static Location<'static>,
    /// How many live.
    pub live: u64,
    /// How many ever started.
    pub started: u64,
}

// === impl Snapshot ===

impl Snapshot {
    pub(super) fn take(group: &TaskGroup) -> Self {
        let tasks = registry::live_tasks(group.scope());
        let root = group.registry_root();
        let is_root = group.scope().number == root.scope.number;
        let untracked = (is_root && root.sees_untracked()).then(|| {
            registry::untracked_sites(root)
                .into_iter()
                .map(|(kind, live, started)| UntrackedRow {
                    spawned: kind.site,
                    live,
                    started,
                })
                .collect()
        });
        Self {
            // In place: a row is a live task under another name.
            tasks: tasks.into_iter().map(TaskRow).collect(),
            untracked,
        }
    }

    /// The live tasks, in no order.
    #[must_use]
    pub fn tasks(&self) -> &[TaskRow] {
        &self.tasks
    }

    /// The untracked tasks by spawn site; `None` when they are not observed: without `--cfg tokio_unstable`, on a
    /// runtime that headcount does not own, and for a group other than the root.
    #[must_use]
    pub fn untracked(&self) -> Option<&[UntrackedRow]> {
        self.untracked.as_deref()
    }
}

// === impl TaskRow ===

impl TaskRow {
    /// The task's number.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.0.id
    }

    /// The path of its group; empty for the root.
    #[must_use]
    pub fn group(&self) -> &'static str {
        self.0.kind.group()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.kind.name
    }

    /// What runs it.
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        self.0.kind.options.runs
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> TaskState {
        self.0.state
    }

    /// The time since it was spawned.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.0.age()
    }

    /// Where it was spawned.
    #[must_use]
    pub fn spawned(&self) -> &'static Location<'static> {
        self.0.kind.site
    }

    /// Whether nobody waits for it.
    #[must_use]
    pub fn is_daemon(&self) -> bool {
        self.0.kind.options.daemon
    }
}

#[cfg(feature = "json")]
mod json {
    use super::{TaskRow, UntrackedRow};
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    impl Serialize for TaskRow {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut row = serializer.serialize_struct("TaskRow", 7)?;
            row.serialize_field("id", &self.id().get())?;
            row.serialize_field("group", self.group())?;
            row.serialize_field("name", self.name())?;
            row.serialize_field("kind", &self.kind())?;
            row.serialize_field("state", &self.state())?;
            row.serialize_field("age_seconds", &self.age().as_secs_f64())?;
            row.serialize_field("spawned", &self.spawned().to_string())?;
            row.end()
        }
    }

    impl Serialize for UntrackedRow {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut row = serializer.serialize_struct("UntrackedRow", 3)?;
            row.serialize_field("spawned", &self.spawned.to_string())?;
            row.serialize_field("live", &self.live)?;
            row.serialize_field("started", &self.started)?;
            row.end()
        }
    }
}
