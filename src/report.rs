//! The shutdown report: what a shutdown found, as data, and as text for a terminal; and [`dump`]: what lives before.
//!
//! It only describes. What to do about a finding is decided before, by the pipeline.

pub mod dump;
mod flush;
pub(crate) mod stack;
mod terminal;
#[cfg(test)]
mod tests;

pub use crate::audit::frame::Frame;
pub use dump::Dump;
pub use flush::{Flush, FlushResult};
pub(crate) use terminal::{awaiting, count, millis as milliseconds, seconds as brief};

use crate::task::{TaskId, TaskKind, TaskOutcome};
use crate::threads::ThreadClass;
use std::fmt;
use std::process::{ExitCode, Termination};
use std::time::Duration;

/// The version of the report's form: it grows when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// What a shutdown found. A shutdown cannot fail: it returns this.
///
/// As the result of `main` it sets the exit code. With the feature `json` it serializes; durations are seconds.
///
/// Exit codes: 0 nothing lingers · 1 a required task failed, or `main` did · 3 something lingers · 70 headcount had to
/// end the process. A task that lingers comes before one that failed.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name given to the service.
    pub service: String,
    /// The process.
    pub pid: u32,
    /// Why the shutdown began: the first reason.
    pub reason: Reason,
    /// What it came to.
    pub outcome: Outcome,
    /// Whether a required task, or `main`, ended otherwise than completed before the shutdown.
    pub required_failed: bool,
    /// From the beginning of the shutdown to the end of the last layer.
    #[cfg_attr(
        feature = "json",
        serde(rename = "total_seconds", serialize_with = "seconds")
    )]
    pub total: Duration,
    /// The time before the drain in which the service was not ready but served.
    #[cfg_attr(
        feature = "json",
        serde(rename = "pre_drain_seconds", serialize_with = "seconds")
    )]
    pub pre_drain: Duration,
    /// The first layer.
    pub drain: DrainLayer,
    /// The second layer.
    pub cancel: CancelLayer,
    /// The third layer.
    pub close: CloseLayer,
    /// What could not be seen, and why.
    pub not_observed: Vec<String>,
    /// What was done with this report before the process ended. The copies that are saved and pushed meanwhile have none.
    pub flush: Vec<Flush>,
}

/// Why a shutdown began.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Reason {
    /// A signal, by number.
    Signal(i32),
    /// The API was called, with this text.
    Requested(String),
    /// `main`'s future returned.
    MainEnded,
    /// `main`'s future returned `Err`, with this text.
    MainFailed(String),
    /// `main`'s future panicked, with this message.
    MainPanicked(String),
    /// A task that was spawned as required ended.
    RequiredEnded {
        /// Group and name.
        task: String,
        /// How it ended.
        outcome: TaskOutcome,
    },
}

/// What a shutdown came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Outcome {
    /// All ended by themselves.
    Clean,
    /// Some had to be cancelled or dropped; nothing lingers.
    Cancelled,
    /// Something is alive that should be gone.
    Lingering,
    /// Headcount had to end the process, because it would not end by itself.
    Forced,
}

/// A layer's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Timing {
    /// How long it took.
    #[cfg_attr(
        feature = "json",
        serde(rename = "took_seconds", serialize_with = "seconds")
    )]
    pub took: Duration,
    /// How long it might have taken.
    #[cfg_attr(
        feature = "json",
        serde(rename = "budget_seconds", serialize_with = "seconds")
    )]
    pub budget: Duration,
    /// Whether a second signal, or the deadline, cut it short.
    pub cut: bool,
}

/// Layer 1: the groups are told to drain.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct DrainLayer {
    /// Its time.
    pub timing: Timing,
    /// Tracked tasks that lived when the layer began or were spawned in it, daemons left out.
    pub tasks: u64,
    /// Those of them that ended by themselves.
    pub ended: u64,
    /// The others, oldest first.
    pub ignored: Vec<TaskFinding>,
    /// Tasks that panicked in it.
    pub panicked: Vec<PanicFinding>,
}

/// Layer 2: every task left is cancelled, then the runtime is closed to all.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CancelLayer {
    /// Its time.
    pub timing: Timing,
    /// Tracked tasks that were dropped, those cancelled at the end of a budget of theirs among them.
    pub cancelled: u64,
    /// Untracked tasks that were dropped, by spawn site; `None` when they are not observed.
    pub untracked: Option<Vec<UntrackedFinding>>,
    /// Tasks that panicked in it or later, as when the drop of one does.
    pub panicked: Vec<PanicFinding>,
    /// Tracked tasks that live on, daemons among them, oldest first.
    pub lingering: Vec<TaskFinding>,
    /// How many tasks, untracked ones among them, live on only because every worker is held by another task, so that
    /// none is free to drop them.
    pub starved: u64,
}

/// Layer 3: the runtime's threads end, and every thread and child is looked at.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct CloseLayer {
    /// Its time.
    pub timing: Timing,
    /// Threads that ended since the shutdown began.
    pub ended: u64,
    /// Threads that live and may: headcount's own, daemons, those that were there before, and those of a rule.
    pub expected: u64,
    /// Those of them that only a rule excuses, by the rule's reason.
    pub excused: Vec<ExcusedThreads>,
    /// Threads that live and should not.
    pub threads: Vec<ThreadFinding>,
    /// What their stacks say of several of them together: who waits for one lock, and for whom.
    pub hints: Vec<String>,
    /// Child processes that live.
    pub children: Vec<ChildFinding>,
}

/// Threads of other libraries that live, and that a [`ThreadRule`](crate::threads::ThreadRule) expects to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ExcusedThreads {
    /// How many.
    pub count: u64,
    /// Why, in the words of the rule.
    pub reason: String,
}

/// Tasks of one kind and spawn site.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TaskFinding {
    /// The path of the group; empty for the root.
    pub group: String,
    /// The name.
    pub name: String,
    /// What runs it.
    pub kind: TaskKind,
    /// Whether nobody waits for it.
    pub daemon: bool,
    /// `file:line:column`.
    pub spawned: String,
    /// How many.
    pub count: u64,
    /// The first five of them.
    #[cfg_attr(feature = "json", serde(serialize_with = "ids"))]
    pub ids: Vec<TaskId>,
    /// The age of the oldest.
    #[cfg_attr(
        feature = "json",
        serde(rename = "age_seconds", serialize_with = "seconds")
    )]
    pub age: Duration,
    /// How long it had been draining.
    #[cfg_attr(
        feature = "json",
        serde(rename = "draining_seconds", serialize_with = "maybe_seconds")
    )]
    pub draining: Option<Duration>,
    /// The thread that one of them held at the end of the layer, by name and number.
    pub on_thread: Option<String>,
    /// How long that one had been in one poll, or dropped: at most so long, and seldom more than a tenth of a second less.
    /// `None` for closures, and where nobody watches polls.
    #[cfg_attr(
        feature = "json",
        serde(rename = "held_seconds", serialize_with = "maybe_seconds")
    )]
    pub held: Option<Duration>,
    /// The kernel's number of that thread.
    pub tid: Option<u32>,
    /// The stack of that thread, as [`ThreadFinding::stack`] is: of the drain's tasks at the end of the drain, of those
    /// that lived on at the end of the last layer.
    pub stack: Vec<Frame>,
    /// As [`ThreadFinding::stack_note`].
    pub stack_note: Option<String>,
    /// What the first of them awaited when the drain was over: a chain for each thing that it waited for, the innermost
    /// await first. Empty when nothing would have woken it; `None` when it did not answer: it was in a poll, or runs
    /// blocking work, or headcount was built without `stacks`.
    pub awaits: Option<Vec<Vec<Frame>>>,
}

/// Tasks of one kind and spawn site that panicked in the same way while the service stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PanicFinding {
    /// The path of the group; empty for the root.
    pub group: String,
    /// The name.
    pub name: String,
    /// `file:line:column`.
    pub spawned: String,
    /// What it said.
    pub message: String,
    /// Where, as `file:line:column`.
    pub location: Option<String>,
    /// How many.
    pub count: u64,
}

/// Untracked tasks of one spawn site.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct UntrackedFinding {
    /// `file:line:column`; empty where only an estimate of the number is known.
    pub spawned: String,
    /// How many were dropped.
    pub dropped: u64,
    /// How many live on.
    pub lingering: u64,
}

/// A thread that lives and should not.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ThreadFinding {
    /// The full name where it was registered, else what the kernel knows: at most 15 bytes.
    pub name: String,
    /// The kernel's number.
    pub tid: u32,
    /// What it was registered as.
    pub class: ThreadClass,
    /// Since its start.
    #[cfg_attr(
        feature = "json",
        serde(rename = "age_seconds", serialize_with = "seconds")
    )]
    pub age: Duration,
    /// What it used of a processor.
    #[cfg_attr(
        feature = "json",
        serde(rename = "cpu_seconds", serialize_with = "seconds")
    )]
    pub cpu: Duration,
    /// `running`, `sleeping`, … in the kernel's sense.
    pub state: String,
    /// What the kernel says that it waits for: `blocked in recv(fd 4 → tcp 127.0.0.1:5432)`, `on CPU`; and where its
    /// stack tells more of a futex, that: `waiting for a mutex (futex 0x7f12ab00)`, `parked`.
    pub waits: String,
    /// `file:line:column` of its start, for tracked threads.
    pub started: Option<String>,
    /// The tracked task that it holds.
    pub task: Option<String>,
    /// What was done to end it, of what it opted in to: "nudged 412 times", "its closer was called".
    pub tried: Vec<String>,
    /// Whether it was not there when the shutdown began.
    pub appeared_while_stopping: bool,
    /// Its stack, the innermost function first, inlined ones among them; without what the standard library puts around
    /// the function that a thread is started with. At most 128 frames.
    pub stack: Vec<Frame>,
    /// What the stack is not: `approximate`, when the thread may have moved on while it was read, or part of it was
    /// guessed; `incomplete`, when it does not reach down to where threads begin; `without names`.
    pub stack_note: Option<String>,
    /// Why there is no stack.
    pub no_stack: Option<String>,
}

/// A child process that lives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "json", derive(serde::Serialize))]
#[non_exhaustive]
pub struct ChildFinding {
    /// Its number.
    pub pid: u32,
    /// Its command line, at most 200 characters.
    pub command: String,
}

// === impl Report ===

impl Report {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Forced => 70,
            Outcome::Lingering => 3,
            Outcome::Clean | Outcome::Cancelled if self.required_failed => 1,
            Outcome::Clean | Outcome::Cancelled => 0,
        }
    }

    /// Whether all ended by themselves.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outcome == Outcome::Clean
    }

    /// The report as a tree, with colours or without. Lines end with `\n`.
    #[must_use]
    pub fn to_text(&self, colours: bool) -> String {
        terminal::render(self, colours)
    }

    /// The report in one line of JSON.
    #[cfg(feature = "json")]
    #[must_use]
    pub fn to_json(&self) -> String {
        // It fails for maps whose keys are no text, and the report has no map.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// How many tracked tasks live on, daemons among them.
    #[must_use]
    pub fn lingering_tasks(&self) -> u64 {
        let tracked: u64 = self.cancel.lingering.iter().map(|task| task.count).sum();
        let untracked = self.cancel.untracked.iter().flatten();
        tracked + untracked.map(|site| site.lingering).sum::<u64>()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(false))
    }
}

impl Termination for Report {
    fn report(self) -> ExitCode {
        ExitCode::from(self.exit_code())
    }
}

// === impl Reason ===

impl Reason {
    /// Every word that [`Reason::word`] gives.
    pub(crate) const WORDS: [&str; 8] = [
        "SIGTERM",
        "SIGINT",
        "signal",
        "requested",
        "main_ended",
        "main_failed",
        "main_panicked",
        "required_ended",
    ];

    /// The word that metrics use: without what only this shutdown has, such as a task's name.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        Self::WORDS[match self {
            Self::Signal(signal_hook::consts::SIGTERM) => 0,
            Self::Signal(signal_hook::consts::SIGINT) => 1,
            Self::Signal(_) => 2,
            Self::Requested(_) => 3,
            Self::MainEnded => 4,
            Self::MainFailed(_) => 5,
            Self::MainPanicked(_) => 6,
            Self::RequiredEnded { .. } => 7,
        }]
    }

    /// Whether a required part failed, and the exit code must say so.
    pub(crate) fn is_failure(&self) -> bool {
        match self {
            Self::MainFailed(_) | Self::MainPanicked(_) => true,
            Self::RequiredEnded { outcome, .. } => *outcome != TaskOutcome::Completed,
            Self::Signal(_) | Self::Requested(_) | Self::MainEnded => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(number) => match signal_hook::low_level::signal_name(*number) {
                Some(name) => f.write_str(name),
                None => write!(f, "signal {number}"),
            },
            Self::Requested(text) => f.write_str(text),
            Self::MainEnded => f.write_str("main ended"),
            Self::MainFailed(error) => write!(f, "main failed: {error}"),
            Self::MainPanicked(message) => write!(f, "main panicked: {message}"),
            Self::RequiredEnded { task, outcome } => {
                write!(f, "required task {task} {}", outcome.as_str())
            }
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// The word that reports and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Cancelled => "cancelled",
            Self::Lingering => "lingering",
            Self::Forced => "forced",
        }
    }
}

// === impl CancelLayer ===

impl CancelLayer {
    /// How many untracked tasks were dropped, of which some may be estimated.
    pub(crate) fn dropped(&self) -> u64 {
        let sites = self.untracked.iter().flatten();
        sites.map(|site| site.dropped).sum()
    }
}

// === impl TaskFinding ===

impl TaskFinding {
    /// Group and name.
    #[must_use]
    pub fn path(&self) -> String {
        path(&self.group, &self.name)
    }
}

/// ` ×3`, and nothing for one.
pub(crate) fn times(count: u64) -> String {
    match count {
        1 => String::new(),
        n => format!(" ×{n}"),
    }
}

/// ` (blocking)`, and nothing for ordinary tasks.
pub(crate) fn mark(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Blocking => " (blocking)",
        TaskKind::Local => " (local)",
        TaskKind::Async | TaskKind::Main => "",
    }
}

/// `, on thread "x" (tid 17) for 7.1s`, and nothing where no thread is known.
pub(crate) fn on_thread(thread: Option<&str>, held: Option<Duration>) -> String {
    let held = held.map_or_else(String::new, |held| format!(" for {}", brief(held)));
    thread.map_or_else(String::new, |thread| format!(", on thread {thread}{held}"))
}

/// A group's path and a name.
pub(crate) fn path(group: &str, name: &str) -> String {
    match group {
        "" => name.to_owned(),
        group => format!("{group}/{name}"),
    }
}

#[cfg(feature = "json")]
fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(feature = "json")]
fn maybe_seconds<S: serde::Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => serializer.serialize_some(&duration.as_secs_f64()),
        None => serializer.serialize_none(),
    }
}

#[cfg(feature = "json")]
fn ids<S: serde::Serializer>(ids: &[TaskId], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(ids.iter().map(|id| id.get()))
}
