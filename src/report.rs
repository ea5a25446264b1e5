//! The shutdown report, and [`dump`]s of a running process, as data and as text.
//!
//! A [`Report`] is the result of every shutdown: which tasks, threads and child processes did not
//! end in time, and why as far as that can be seen. A [`Dump`] lists everything that is alive at
//! one moment.
//!
//! The types only describe; the shutdown decides what is done about a finding. In JSON a duration is
//! a number of seconds, and the name of its field ends in `_seconds`. Structs and enums may gain
//! fields and variants.

mod alike;
mod chain;
pub mod dump;
mod flush;
pub(crate) mod mishaps;
pub(crate) mod not_observed;
pub(crate) mod row;
pub(crate) mod stack;
pub(crate) mod tally;
mod terminal;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;
mod words;

pub use crate::stacks::frame::Frame;
pub(crate) use chain::awaiting;
pub use dump::Dump;
pub use flush::{Flush, FlushResult};
pub(crate) use row::UntrackedTasks;
pub use row::{ChildRow, KindRow, PanicRow, TaskRow, ThreadRow, UntrackedRow};
pub(crate) use words::{
    count, mark, millis as milliseconds, on_thread, path, seconds as brief, times,
};

use crate::task::{TaskKind, TaskOutcome};
use std::collections::BTreeMap;
use std::fmt;
use std::process::{ExitCode, Termination};
use std::time::Duration;

/// The version of the report's data. It is raised when a field changes its meaning or is removed,
/// not when one is added.
pub const SCHEMA: u32 = 1;

/// The result of a shutdown. A shutdown cannot fail: it always returns a report.
///
/// As the result of `main` it sets the exit code. [`Display`](std::fmt::Display) and
/// [`Report::to_text`] give it as a tree for a terminal. In JSON, durations are seconds.
///
/// Exit codes: 0 nothing lingers · 1 a required task or `main` failed · 3 something lingers · 4
/// something had to be cancelled, dropped or killed, and [`strict`](Self::strict) is set · 70
/// headcount had to end the process. If several apply, the highest is used.
///
/// The report describes what was seen, and that has limits:
///
/// - A part that cannot be observed is `None` or has an entry in
///   [`not_observed`](Self::not_observed).
/// - What a task awaits and where a thread is are known only with the feature `stacks`.
/// - Tasks of one group, name and spawn site are one finding with a count; the thread, stack and
///   awaits in it are those of one of them.
///
/// # Examples
///
/// ```
/// let runtime = headcount::Runtime::builder().name("orders").print(false).build()?;
/// let report = runtime.run(async |tasks| tasks.stop("sold out"));
/// assert!(report.is_clean());
/// assert_eq!((report.exit_code(), report.lingering_tasks()), (0, 0));
/// assert!(report.to_text(false).contains("sold out"));
/// assert!(report.to_json().contains(r#""service":"orders""#));
/// # assert_eq!(report.schema, headcount::report::SCHEMA);
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The name of the service, as given to the runtime.
    pub service: String,
    /// The id of the process.
    pub pid: u32,
    /// The reason why the shutdown began. If there were several, the first.
    pub reason: Reason,
    /// The outcome.
    pub outcome: Outcome,
    /// True if `main` or a required task failed before the shutdown: if it ended in any way other
    /// than completed.
    pub required_failed: bool,
    /// True if it is a failure that something had to be cancelled, dropped or killed: see
    /// [`Builder::strict`](crate::Builder::strict).
    pub strict: bool,
    /// The time from the beginning of the shutdown to the end of its last layer.
    #[serde(rename = "total_seconds", serialize_with = "seconds")]
    pub total: Duration,
    /// The time before the drain in which the service was not ready, but still served requests.
    #[serde(rename = "pre_drain_seconds", serialize_with = "seconds")]
    pub pre_drain: Duration,
    /// Layer 1: tasks are told to drain.
    pub drain: DrainLayer,
    /// Layer 2: the remaining tasks are cancelled.
    pub cancel: CancelLayer,
    /// Layer 3: threads end, and the audit.
    pub close: CloseLayer,
    /// The number of tasks that failed in the whole run, by group and name: they returned `Err` and
    /// were spawned by a `try_` method. At most 100 names, those of most tasks; the others are
    /// counted as `_other`. The same holds for the next two fields.
    pub failed_tasks: BTreeMap<String, u64>,
    /// The number of tasks that panicked in the whole run, by group and name.
    pub panicked_tasks: BTreeMap<String, u64>,
    /// The number of times that a child process was given up in the whole run, by group and name:
    /// it failed and was not started again.
    pub given_up_processes: BTreeMap<String, u64>,
    /// The number of records that were pushed to a collector and lost in the whole run, by signal
    /// (`traces`, `logs`, `metrics`) and reason (`queue_full`, `refused`, `shutdown`). Runtimes that
    /// share an exporter share these numbers.
    pub lost_records: BTreeMap<String, BTreeMap<String, u64>>,
    /// One sentence that names the first culprit, its place, what it is stuck in, and for how long it
    /// held the stop; it ends with the number of further culprits. `None` if there is none.
    pub verdict: Option<String>,
    /// The child processes that tasks ran when the shutdown began, as
    /// [`telemetry::Child`](https://docs.rs/headcount/latest/headcount/telemetry/struct.Child.html)
    /// was told of them.
    #[serde(serialize_with = "row::json::in_report")]
    pub processes: Vec<ChildRow>,
    /// The parts that could not be observed, each with the reason, as sentences.
    pub not_observed: Vec<String>,
    /// The steps that saved and pushed this report before the process ended. The copies that are
    /// saved and pushed by those steps have none.
    pub flush: Vec<Flush>,
}

/// The reason why a shutdown began.
///
/// # Examples
///
/// ```
/// use headcount::report::Reason;
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let report = runtime.run(async |_tasks| Err::<(), _>("the port is taken"));
/// assert_eq!(report.reason, Reason::MainFailed("the port is taken".to_owned()));
/// assert_eq!(report.reason.to_string(), "main failed: the port is taken");
/// assert_eq!(report.reason.word(), "main_failed");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// The process received the signal with this number.
    Signal(i32),
    /// The shutdown was requested through the API, with this text.
    Requested(String),
    /// `main`'s future returned.
    MainEnded,
    /// `main`'s future returned `Err`, with this text.
    MainFailed(String),
    /// `main`'s future panicked, with this message.
    MainPanicked(String),
    /// A task that was spawned as required ended.
    RequiredEnded {
        /// The path of the task: its group and its name.
        task: String,
        /// The way in which it ended.
        outcome: TaskOutcome,
    },
}

/// The outcome of a shutdown, or of a run that ended without one.
///
/// It does not cover failures before the shutdown: see [`Report::required_failed`].
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// use headcount::report::Outcome;
///
/// let budget = Duration::from_millis(20);
/// let runtime = headcount::Runtime::builder().drain_budget(budget).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.spawn("deaf", std::future::pending::<()>());
/// });
/// assert_eq!(report.outcome, Outcome::Cancelled);
/// assert_eq!(report.outcome.as_str(), "cancelled");
/// assert!(Outcome::Cancelled < Outcome::Lingering, "from the best to the worst");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Everything ended by itself.
    Clean,
    /// Some tasks had to be cancelled or dropped, or processes killed; nothing lingers.
    Cancelled,
    /// Something is still alive that should be gone.
    Lingering,
    /// Headcount had to end the process, because it did not end by itself.
    Forced,
    /// The run ended without a report. Never the outcome of a [`Report`]: only of the
    /// [previous run](crate::state::PreviousRun).
    Unclean,
}

/// The time that a layer took, and its budget.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// let budget = Duration::from_secs(3);
/// let runtime = headcount::Runtime::builder().drain_budget(budget).print(false).build()?;
/// let timing = runtime.run(async |_tasks| {}).drain.timing;
/// assert_eq!(timing.budget, budget);
/// assert!(timing.took < timing.budget && !timing.cut);
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct Timing {
    /// The time it took.
    #[serde(
        rename = "took_seconds",
        serialize_with = "seconds",
        deserialize_with = "of_seconds"
    )]
    pub took: Duration,
    /// The time it was allowed to take.
    #[serde(
        rename = "budget_seconds",
        serialize_with = "seconds",
        deserialize_with = "of_seconds"
    )]
    pub budget: Duration,
    /// True if a second signal cut it short.
    pub cut: bool,
}

/// Layer 1: the groups are told to drain, and their tasks end by themselves.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// let budget = Duration::from_millis(100);
/// let runtime = headcount::Runtime::builder().drain_budget(budget).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     let group = tasks.clone();
///     tasks.spawn("worker", async move { group.draining().await });
///     tasks.spawn("deaf", std::future::pending::<()>());
/// });
/// assert_eq!((report.drain.tasks, report.drain.ended), (2, 1));
/// assert_eq!(report.drain.ignored[0].name, "deaf");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct DrainLayer {
    /// Its duration and its budget.
    pub timing: Timing,
    /// Tracked tasks that were alive when the layer began or were spawned in it, without daemons.
    pub tasks: u64,
    /// The number of them that ended by themselves.
    pub ended: u64,
    /// The other tasks that had their chance: first those that held a thread, then the oldest.
    #[serde(serialize_with = "row::json::in_report")]
    pub ignored: Vec<KindRow>,
    /// The tasks that did not end because they were not polled since they were told, or never
    /// started. They are not to blame: [`KindRow::held_by`] says what is, if that is known.
    #[serde(serialize_with = "row::json::in_report")]
    pub not_polled: Vec<KindRow>,
    /// Tasks that panicked in this layer.
    pub panicked: Vec<PanicRow>,
}

/// Layer 2: every remaining task is cancelled, then the runtime is closed, which drops untracked
/// tasks too.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// let budget = Duration::from_millis(20);
/// let runtime = headcount::Runtime::builder().drain_budget(budget).print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.spawn("deaf", std::future::pending::<()>());
/// });
/// assert_eq!(report.cancel.cancelled, 1);
/// assert!(report.cancel.lingering.is_empty(), "it was dropped");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct CancelLayer {
    /// Its duration and its budget.
    pub timing: Timing,
    /// Tracked tasks that were dropped, including those that were cancelled at the end of their own
    /// drain budget.
    pub cancelled: u64,
    /// Untracked tasks that were alive when the drain was over, by spawn site; `None` if they are not
    /// observed. One that ended by itself in this layer counts as dropped.
    #[serde(serialize_with = "row::json::in_report")]
    pub untracked: Option<Vec<UntrackedRow>>,
    /// Tasks that panicked in this layer or later, for example while they were dropped.
    pub panicked: Vec<PanicRow>,
    /// Tracked tasks that are still alive when the last layer is over, including daemons: first
    /// those that hold a thread, then the oldest.
    #[serde(serialize_with = "row::json::in_report")]
    pub lingering: Vec<KindRow>,
    /// Tracked tasks that are still alive only because no thread is free to end them. They do not
    /// linger by themselves.
    #[serde(serialize_with = "row::json::in_report")]
    pub not_polled: Vec<KindRow>,
    /// Tracked tasks that were alive when this layer was over, and have ended in the next one.
    #[serde(serialize_with = "row::json::in_report")]
    pub late: Vec<KindRow>,
    /// The number of tasks, tracked and untracked, that are still alive only because all workers
    /// are held by other tasks, so that none is free to drop them.
    pub starved: u64,
}

/// Layer 3: the runtime's threads end, and every thread and child process is compared with the
/// baseline taken at start.
///
/// # Examples
///
/// ```
/// let runtime = headcount::Runtime::builder().worker_threads(2).print(false).build()?;
/// let report = runtime.run(async |_tasks| {});
/// assert!(report.close.ended >= 2, "the workers have ended");
/// assert!(report.close.threads.is_empty() && report.close.children.is_empty());
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct CloseLayer {
    /// Its duration and its budget.
    pub timing: Timing,
    /// The number of threads that have ended since the shutdown began.
    pub ended: u64,
    /// The number of live threads that may be alive: headcount's own, daemons, those of the
    /// baseline, and those that a rule expects.
    pub expected: u64,
    /// The number of threads that only a [`ThreadRule`](crate::threads::ThreadRule) expects, by the
    /// reason that the rule gives. They are among the expected ones.
    ///
    /// In JSON: a list of objects with `count` and `reason`.
    #[serde(serialize_with = "row::json::excused")]
    pub excused: BTreeMap<String, u64>,
    /// Expected threads, those of the baseline included, that were blocked at the end of the layer in
    /// a call that is not a wait for work, such as a write to a full pipe. They do not linger, but
    /// what they have in hand is lost with the process. Not observed on a runtime that the
    /// application owns.
    #[serde(serialize_with = "row::json::in_report")]
    pub blocked: Vec<ThreadRow>,
    /// Threads that are still alive and should not be.
    #[serde(serialize_with = "row::json::in_report")]
    pub threads: Vec<ThreadRow>,
    /// Threads that are still alive, and of which only their stacks say whether a rule expects them.
    /// The stacks were not symbolized in time, so they count neither as lingering nor as expected.
    #[serde(serialize_with = "row::json::in_report")]
    pub undecided: Vec<ThreadRow>,
    /// Findings about several threads together, as sentences: threads that wait for one lock, its
    /// owner if it is known, and deadlocks.
    pub hints: Vec<String>,
    /// Child processes that are still alive.
    pub children: Vec<ChildRow>,
}

// === impl Report ===

impl Report {
    /// Returns the exit code for the process. `main` uses it if it returns the report.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.outcome {
            Outcome::Forced | Outcome::Unclean => 70,
            Outcome::Lingering | Outcome::Cancelled if self.strict && self.had_to_force() => 4,
            Outcome::Lingering => 3,
            Outcome::Clean | Outcome::Cancelled if self.required_failed => 1,
            Outcome::Clean | Outcome::Cancelled => 0,
        }
    }

    /// Returns whether everything ended by itself. A service that failed before the shutdown may be
    /// clean, too: see [`Report::required_failed`].
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outcome == Outcome::Clean
    }

    /// Returns whether anything had to be cancelled, dropped or killed.
    pub(crate) fn had_to_force(&self) -> bool {
        !self.drain.ignored.is_empty()
            || self.cancel.cancelled > 0
            || self.cancel.dropped() > 0
            || self
                .processes
                .iter()
                .any(|process| !process.killed.is_empty())
    }

    /// Returns the report as a tree, with ANSI colours or without. Lines end with `\n`.
    #[must_use]
    pub fn to_text(&self, colours: bool) -> String {
        terminal::render(self, colours)
    }

    /// Returns the report as one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Serialization fails only for maps with keys that are not strings; the report has none.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the number of tasks that linger: tracked ones, including daemons, and untracked ones.
    /// Tasks that are alive only because no thread is free to end them are not counted.
    #[must_use]
    pub fn lingering_tasks(&self) -> u64 {
        self.cancel.lingering()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text(false))
    }
}

impl Termination for Report {
    /// Returns [`Report::exit_code`] as the exit code of `main`. It prints nothing.
    fn report(self) -> ExitCode {
        ExitCode::from(self.exit_code())
    }
}

// === impl Reason ===

impl Reason {
    /// All words that [`Reason::word`] returns, to create metrics in advance.
    pub(crate) const WORDS: [&str; 9] = [
        "SIGTERM",
        "SIGINT",
        "SIGHUP",
        "signal",
        "requested",
        "main_ended",
        "main_failed",
        "main_panicked",
        "required_ended",
    ];

    /// Returns the word that metrics use. It leaves out details such as a task's name, so the
    /// number of words is bounded.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        Self::WORDS[match self {
            Self::Signal(signal_hook::consts::SIGTERM) => 0,
            Self::Signal(signal_hook::consts::SIGINT) => 1,
            Self::Signal(signal_hook::consts::SIGHUP) => 2,
            Self::Signal(_) => 3,
            Self::Requested(_) => 4,
            Self::MainEnded => 5,
            Self::MainFailed(_) => 6,
            Self::MainPanicked(_) => 7,
            Self::RequiredEnded { .. } => 8,
        }]
    }

    /// Returns whether `main` or a required task failed, so that the exit code must not be 0.
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
    /// All outcomes, from the best to the worst.
    pub(crate) const ALL: [Self; 5] = [
        Self::Clean,
        Self::Cancelled,
        Self::Lingering,
        Self::Forced,
        Self::Unclean,
    ];

    /// Returns the word that reports and metrics use.
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

    /// Returns the outcome with that word. `None` for `running`, which is not an outcome, and for a
    /// word of a later version.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

// === impl CancelLayer ===

impl CancelLayer {
    /// Returns the number of tasks that linger, tracked and untracked: those that are still alive,
    /// without those for which no worker is free.
    pub(crate) fn lingering(&self) -> u64 {
        let count = |tasks: &[KindRow]| tasks.iter().map(|task| task.count).sum::<u64>();
        count(&self.lingering) + self.lingering_untracked()
    }

    /// Returns the number of untracked tasks that are still alive, without those for which no worker is
    /// free. It is not known which ones those are.
    pub(crate) fn lingering_untracked(&self) -> u64 {
        let live: u64 = self.untracked.iter().flatten().map(|site| site.live).sum();
        let waiting = self.not_polled.iter();
        let tracked = waiting.filter(|task| task.kind != TaskKind::Blocking);
        let starved = self
            .starved
            .saturating_sub(tracked.map(|task| task.count).sum());
        live.saturating_sub(starved)
    }

    /// Returns the number of untracked tasks that were dropped. It may contain an estimate.
    pub(crate) fn dropped(&self) -> u64 {
        let sites = self.untracked.iter().flatten();
        sites.map(|site| site.dropped).sum()
    }
}

/// Serializes a duration as seconds. The fraction is kept, to about a microsecond for durations of
/// hours.
pub(crate) fn seconds<S: serde::Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// Reads a duration from seconds. An invalid number reads as zero; only a value that is not a number
/// is an error.
pub(crate) fn of_seconds<'d, D: serde::Deserializer<'d>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let seconds = <f64 as serde::Deserialize>::deserialize(deserializer)?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}
