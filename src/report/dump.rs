//! A dump: what lives at one moment, as data and as text. Tasks by group, untracked spawn sites, threads, children.
//!
//! It is bounded, whatever lives: tasks are tallied by kind with a few of each, and lists end with how many more there
//! are. It names addresses, paths and command lines, so it is for the owner of the process only.

mod text;

use super::{ChildFinding, Frame};
use crate::task::{TaskId, TaskKind, TaskState};
use crate::threads::ThreadClass;
use std::fmt;
use std::time::Duration;

/// The version of the dump's form: it grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// What lived at one moment.
///
/// Taken by [`Dumper::dump`](crate::runtime::Dumper::dump), and printed at SIGQUIT. It stops nobody: tasks that start
/// or end meanwhile may be missed or listed. The threads that take it are left out.
///
/// With the feature `json` it serializes; durations are seconds. In a stream of reports and dumps a dump is the one with
/// a `phase`.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Dump {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name given to the service.
    pub service: String,
    /// The process.
    pub pid: u32,
    /// Where the shutdown stands.
    pub phase: Phase,
    /// How many tracked tasks live, daemons among them.
    pub tasks: u64,
    /// The root of all groups: those of 1,000 kinds of task.
    pub root: Group,
    /// How many tasks are of other kinds.
    pub unlisted_tasks: u64,
    /// Untracked tasks by spawn site, at most 1,000 sites, those with the most first; `None` where they are not observed.
    pub untracked: Option<Vec<UntrackedSite>>,
    /// Every thread of the process, at most 1,000; `None` where they are not observed.
    pub threads: Option<Vec<Thread>>,
    /// How many threads there are beyond those.
    pub unlisted_threads: u64,
    /// What their stacks say of several of them together: who waits for one lock, and for whom.
    pub hints: Vec<String>,
    /// The child processes that were not there before, at most 1,000; `None` where they are not observed.
    pub children: Option<Vec<ChildFinding>>,
    /// How many child processes there are beyond those.
    pub unlisted_children: u64,
    /// What could not be seen, and why.
    pub not_observed: Vec<String>,
}

/// Where a shutdown stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Phase {
    /// No layer has begun.
    Running,
    /// In the first layer.
    Draining,
    /// In the second layer.
    Cancelling,
    /// In the third layer.
    Closing,
    /// The report is made.
    Done,
}

/// The groups of one path that hold live tasks, or hold groups that do.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Group {
    /// The last part of the path; empty for the root.
    pub name: String,
    /// How many groups of that path there are.
    pub count: u64,
    /// How many of them were told to drain.
    pub draining: u64,
    /// How many of them are being cancelled.
    pub cancelling: u64,
    /// The live tasks of these groups, without those of groups in them, by kind, that with the oldest first.
    pub kinds: Vec<Kind>,
    /// The groups in them.
    pub groups: Vec<Self>,
}

/// The live tasks of one name, spawn site and group path.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Kind {
    /// The name.
    pub name: String,
    /// What runs them.
    pub kind: TaskKind,
    /// Whether nobody waits for them.
    pub daemon: bool,
    /// `file:line:column`.
    pub spawned: String,
    /// How many live.
    pub count: u64,
    /// How many are in which state.
    pub states: States,
    /// The age of the oldest.
    #[cfg_attr(
        feature = "json",
        serde(rename = "oldest_seconds", serialize_with = "super::seconds")
    )]
    pub oldest: Duration,
    /// At most five of them: those that hold a thread, those that are stalled, then the oldest.
    pub rows: Vec<Task>,
}

/// How many tasks are in which [`TaskState`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct States {
    /// Spawned, never polled.
    pub created: u64,
    /// Polled at least once.
    pub running: u64,
    /// Without the heartbeat that they declared.
    pub stalled: u64,
    /// Told to drain.
    pub draining: u64,
    /// Asked to be dropped at their next await.
    pub cancelling: u64,
}

/// One live task.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Task {
    /// Its number.
    #[cfg_attr(feature = "json", serde(serialize_with = "id"))]
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// The time since it was spawned.
    #[cfg_attr(
        feature = "json",
        serde(rename = "age_seconds", serialize_with = "super::seconds")
    )]
    pub age: Duration,
    /// The time since it was polled last, or a tenth of a second more; `None` where that is not observed.
    #[cfg_attr(
        feature = "json",
        serde(rename = "last_poll_seconds", serialize_with = "super::maybe_seconds")
    )]
    pub last_poll: Option<Duration>,
    /// What it awaits, each with the chain of awaits that led there, the innermost first; `None` where that is not
    /// observed.
    pub awaits: Option<Vec<Vec<Frame>>>,
    /// The number of the thread that polls, drops or runs it at this moment.
    pub on_thread: Option<u32>,
}

/// The live untracked tasks of one spawn site.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UntrackedSite {
    /// `file:line:column`.
    pub spawned: String,
    /// How many live.
    pub live: u64,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Thread {
    /// The full name where it was registered, else what the kernel knows: at most 15 bytes.
    pub name: String,
    /// The kernel's number.
    pub tid: u32,
    /// What it was registered as.
    pub class: ThreadClass,
    /// Whether it was there before headcount began.
    pub there_before: bool,
    /// `file:line:column` of its start, for threads that headcount started.
    pub spawned: Option<String>,
    /// Since its start.
    #[cfg_attr(
        feature = "json",
        serde(rename = "age_seconds", serialize_with = "super::seconds")
    )]
    pub age: Duration,
    /// What it used of a processor.
    #[cfg_attr(
        feature = "json",
        serde(rename = "cpu_seconds", serialize_with = "super::seconds")
    )]
    pub cpu: Duration,
    /// `running`, `sleeping`, … in the kernel's sense.
    pub state: String,
    /// What the kernel and its stack say that it waits for; `None` where that is not observed.
    pub waits: Option<String>,
    /// Its stack, as [`ThreadFinding::stack`](super::ThreadFinding::stack) is.
    pub stack: Vec<Frame>,
    /// As [`ThreadFinding::stack_note`](super::ThreadFinding::stack_note).
    pub stack_note: Option<String>,
    /// Why there is no stack.
    pub no_stack: Option<String>,
    /// Group and name of the tracked task that it polls, drops or runs.
    pub task: Option<String>,
}

// === impl Dump ===

impl Dump {
    /// The dump as a tree for people, with a head. Lines end with `\n`.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.to_text_after("dump")
    }

    /// The same, with what made us take it in the head.
    pub(crate) fn to_text_after(&self, why: &str) -> String {
        let (service, phase) = (&self.service, self.phase.as_str());
        format!("headcount {service}: {why}, {phase}\n{}", self.tree())
    }

    /// The tree alone.
    pub(crate) fn tree(&self) -> String {
        text::tree(self)
    }

    /// The tree of its threads alone.
    pub(crate) fn threads_tree(&self) -> String {
        text::threads_tree(self)
    }

    /// The dump in one line of JSON.
    #[cfg(feature = "json")]
    #[must_use]
    pub fn to_json(&self) -> String {
        // It fails for maps whose keys are no text, and the dump has no map.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Dump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

// === impl Phase ===

impl Phase {
    /// The word that dumps and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Cancelling => "cancelling",
            Self::Closing => "closing",
            Self::Done => "done",
        }
    }
}

// === impl States ===

impl States {
    pub(crate) fn add(&mut self, state: TaskState) {
        match state {
            TaskState::Created => self.created += 1,
            TaskState::Running => self.running += 1,
            TaskState::Stalled => self.stalled += 1,
            TaskState::Draining => self.draining += 1,
            TaskState::Cancelling => self.cancelling += 1,
        }
    }
}

#[cfg(feature = "json")]
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn id<S: serde::Serializer>(id: &TaskId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(id.get())
}
