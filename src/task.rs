//! The vocabulary of tasks: id, kind, state and outcome, and the error of a task without a result.
//!
//! These types are plain data that snapshots, reports and metrics share. They depend neither on
//! where live tasks are kept (`registry`) nor on how tasks are started (`group`).

use std::any::Any;
use std::fmt;

/// A number that identifies one task. It is unique in the process and never reused.
///
/// It is not tokio's [`task::Id`](tokio::task::Id), which is unique only among the tasks that are
/// running.
///
/// # Examples
///
/// ```
/// # use std::collections::HashSet;
/// # headcount::testing::check(async |tasks| {
/// let first = tasks.spawn("first", std::future::pending::<()>());
/// let second = tasks.spawn("second", std::future::pending::<()>());
/// let ids: HashSet<_> = tasks.snapshot().tasks().map(|task| task.id.get()).collect();
/// assert_eq!(ids.len(), 3, "one of main, too");
/// # first.cancel();
/// # second.cancel();
/// # let _ = (first.await, second.await);
/// # });
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub(crate) u64);

/// The identity of a span in another process, as in the W3C `traceparent` header.
///
/// Give it to [`Spawn::traceparent`](crate::Spawn::traceparent) to make a task's span a child of
/// that span.
///
/// # Examples
///
/// ```
/// use headcount::task::Traceparent;
///
/// let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let parent: Traceparent = header.parse()?;
/// assert_eq!(parent.to_string(), header);
/// # Ok::<(), headcount::task::InvalidTraceparent>(())
/// ```
#[cfg(feature = "otel")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) flags: u8,
}

/// The error of parsing a [`Traceparent`] from a text in another format, or with a trace or span id
/// of zero.
///
/// # Examples
///
/// ```
/// use headcount::task::{InvalidTraceparent, Traceparent};
///
/// let zero = "00-00000000000000000000000000000000-b7ad6b7169203331-00";
/// let error: InvalidTraceparent = zero.parse::<Traceparent>().unwrap_err();
/// assert!(error.to_string().starts_with("parse the traceparent"));
/// ```
#[cfg(feature = "otel")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("parse the traceparent: expected 00-TRACE-SPAN-FLAGS in lower-case hexadecimal digits")]
#[non_exhaustive]
pub struct InvalidTraceparent;

/// The way in which a task is run.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::TaskKind;
///
/// let snapshot = tasks.snapshot();
/// let main = snapshot.tasks().next();
/// assert_eq!(main.map(|task| task.kind), Some(TaskKind::Main));
/// assert_eq!(TaskKind::Main.as_str(), "main");
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskKind {
    /// A future on the runtime's workers.
    Async,
    /// A future that stays on one thread, spawned by
    /// [`TaskGroup::spawn_local`](crate::TaskGroup::spawn_local).
    Local,
    /// A closure on the runtime's blocking pool. It cannot be cancelled once it runs.
    Blocking,
    /// The future of `main`, given to [`run`](crate::run()) or
    /// [`Runtime::run`](crate::Runtime::run). It runs on the calling thread.
    Main,
}

/// The state of a live task.
///
/// If several variants apply, the last of them in this list is the state.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::TaskState;
///
/// let jobs = tasks.group("jobs");
/// let own = jobs.clone();
/// let worker = jobs.spawn("worker", async move {
///     own.draining().await;
///     own.snapshot().tasks().next().map(|task| task.state)
/// });
/// jobs.drain().await;
/// assert_eq!(worker.await?, Some(TaskState::Draining));
/// assert_eq!(TaskState::Draining.as_str(), "draining");
/// # Ok::<(), headcount::TaskError>(())
/// # });
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskState {
    /// The task has been spawned and never polled.
    Created,
    /// The task has been polled at least once.
    Running,
    /// The task is late with the [`heartbeat`](crate::Spawn::heartbeat) that it declared.
    Stalled,
    /// The task's group has been told to drain.
    Draining,
    /// The task has been asked to end and is dropped at its next await.
    Cancelling,
}

/// The way in which a task ended.
///
/// # Examples
///
/// ```
/// use headcount::report::Reason;
/// use headcount::task::TaskOutcome;
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.task("accept").required().spawn(async { None::<u8>.expect("a socket") });
///     tasks.draining().await;
/// });
/// let outcome = match report.reason {
///     Reason::RequiredEnded { outcome, .. } => outcome,
///     other => panic!("{other}"),
/// };
/// assert_eq!(outcome, TaskOutcome::Panicked);
/// assert_eq!(outcome.as_str(), "panicked");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum TaskOutcome {
    /// The task returned.
    Completed,
    /// The task returned `Err` and was spawned by a `try_` method.
    Failed,
    /// The task panicked, or the drop of its future did.
    Panicked,
    /// The task was dropped before it returned.
    Cancelled,
}

/// The reason for which a task gave no result.
///
/// The message says what happened to the task; for a panic it includes the panic's message and
/// location.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::TaskError;
///
/// let deaf = tasks.spawn("deaf", std::future::pending::<()>());
/// deaf.cancel();
/// let error = deaf.await.unwrap_err();
/// assert!(matches!(error, TaskError::Cancelled));
/// assert!(error.is_cancelled() && !error.is_panic());
/// assert_eq!(error.to_string(), "task was cancelled");
/// # });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The task was cancelled by its handle, its group or the shutdown, or was dropped with its
    /// runtime.
    #[error("task was cancelled")]
    Cancelled,
    /// The task panicked.
    #[error("task panicked: {0}")]
    Panicked(Panic),
    /// The task was spawned after the shutdown had begun to cancel all tasks. It was never polled.
    #[error("task was refused: the shutdown has already cancelled all tasks")]
    Refused,
}

/// A panic of a task: its message, its location if the panic hook recorded it, and its payload.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// use headcount::TaskError;
///
/// let broken = tasks.spawn("broken", async { None::<u8>.expect("a free seat") });
/// let Err(TaskError::Panicked(panic)) = broken.await else {
///     panic!("it did not panic");
/// };
/// assert_eq!(panic.message(), "a free seat");
/// assert!(panic.location().is_some_and(|place| place.starts_with(file!())));
/// assert!(panic.into_payload().is::<String>());
/// # });
/// ```
pub struct Panic(Box<PanicInner>);

struct PanicInner {
    message: String,
    location: Option<String>,
    payload: Box<dyn Any + Send>,
}

// === impl TaskId ===

impl TaskId {
    /// Returns the number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TaskId({})", self.0)
    }
}

// === impl Traceparent ===

/// Parses the header value as <https://www.w3.org/TR/trace-context/#traceparent-header> defines it.
///
/// A later version than `00` may have further fields, which are ignored. Flags are kept as they
/// are.
#[cfg(feature = "otel")]
impl std::str::FromStr for Traceparent {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceparent> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, rest @ ..] = &*parts else {
            return Err(InvalidTraceparent);
        };
        let number = |part: &str, digits| {
            let is_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let is_number = part.len() == digits && part.bytes().all(is_hex);
            let number = is_number.then(|| u128::from_str_radix(part, 16).ok());
            number.flatten().ok_or(InvalidTraceparent)
        };
        let (version, trace) = (number(version, 2)?, number(trace, 32)?);
        let (span, flags) = (number(span, 16)?, number(flags, 2)?);
        // A later version may have more fields; version 255 is invalid.
        if version == 255 || trace == 0 || span == 0 || version == 0 && !rest.is_empty() {
            return Err(InvalidTraceparent);
        }
        Ok(Self {
            trace,
            span: u64::try_from(span).map_err(|_| InvalidTraceparent)?,
            flags: u8::try_from(flags).map_err(|_| InvalidTraceparent)?,
        })
    }
}

/// Formats the header value, always as version `00`.
#[cfg(feature = "otel")]
impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "00-{:032x}-{:016x}-{:02x}",
            self.trace, self.span, self.flags
        )
    }
}

// === impl TaskKind, TaskState, TaskOutcome ===

impl TaskKind {
    /// Returns the lower-case name that reports use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Async => "async",
            Self::Local => "local",
            Self::Blocking => "blocking",
            Self::Main => "main",
        }
    }
}

impl TaskState {
    /// Every state, in the order of the variants.
    pub(crate) const ALL: [Self; 5] = [
        Self::Created,
        Self::Running,
        Self::Stalled,
        Self::Draining,
        Self::Cancelling,
    ];

    /// Returns the lower-case name that reports and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Stalled => "stalled",
            Self::Draining => "draining",
            Self::Cancelling => "cancelling",
        }
    }
}

impl TaskOutcome {
    /// Returns the lower-case name that reports and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
        }
    }
}

// === impl TaskError ===

impl TaskError {
    /// Returns whether the task was cancelled. It is false for a task that was refused.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// Returns whether the task panicked.
    #[must_use]
    pub const fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }
}

/// Returns the payload of a panic as text, if it is a string.
pub(crate) fn payload_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a payload that is not a string")
}

// === impl Panic ===

impl Panic {
    /// Creates a panic from its payload. The message is a copy of the payload if that is a string.
    pub(crate) fn new(payload: Box<dyn Any + Send>, location: Option<String>) -> Self {
        let message = payload_text(&*payload).to_owned();
        Self(Box::new(PanicInner {
            message,
            location,
            payload,
        }))
    }

    /// Returns the message that was given to `panic!`, or a placeholder if the payload is not a
    /// string.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Returns the location of the panic as `file:line:column`.
    ///
    /// It is `None` if the panic hook that headcount installs with the first runtime did not run,
    /// for example because another hook has replaced it.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// Returns the payload, for [`std::panic::resume_unwind`].
    #[must_use]
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.0.payload
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location() {
            Some(location) => write!(f, "'{}' at {location}", self.message()),
            None => write!(f, "'{}'", self.message()),
        }
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("message", &self.message())
            .field("location", &self.location())
            .finish_non_exhaustive()
    }
}
