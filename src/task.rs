//! What a task is to its observers: an id, a kind, a state, an outcome; and the error of one that gave no result.
//!
//! It knows nothing of where tasks are kept (`registry`) or how they are started (`group`).

use std::any::Any;
use std::fmt;

/// The number of one task: unique in the process, never used again.
///
/// Tokio uses its task ids again; this one is ours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub(crate) u64);

/// The span of another process that a task is a part of: the W3C's `traceparent` header.
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

/// A text that is no `traceparent`.
#[cfg(feature = "otel")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("read a traceparent: it is not of the form 00-TRACE-SPAN-FLAGS")]
#[non_exhaustive]
pub struct InvalidTraceparent;

/// What runs a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum TaskKind {
    /// A future on the runtime's workers.
    Async,
    /// A future pinned to one thread, by [`TaskGroup::spawn_local`](crate::TaskGroup::spawn_local).
    Local,
    /// A closure on the runtime's blocking pool. It cannot be cancelled once it runs.
    Blocking,
    /// The future given to [`run`](crate::run()).
    Main,
}

/// Where a live task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum TaskState {
    /// Spawned, never polled.
    Created,
    /// Polled at least once.
    Running,
    /// It has missed the [`heartbeat`](crate::Spawn::heartbeat) that it declared.
    Stalled,
    /// Its group was told to drain.
    Draining,
    /// Asked to be dropped at its next await.
    Cancelling,
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "json",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum TaskOutcome {
    /// Its future returned.
    Completed,
    /// Its future returned `Err`, and it was spawned by a `try_` method.
    Failed,
    /// Its future, or the drop of it, panicked.
    Panicked,
    /// It was dropped before it returned.
    Cancelled,
}

/// Why a task gave no result.
///
/// The message fits after "failed to": what happened, and for a panic its message and location.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// It was cancelled: by its handle, its group, or the shutdown.
    #[error("task was cancelled")]
    Cancelled,
    /// It panicked.
    #[error("task panicked: {0}")]
    Panicked(Panic),
    /// It was spawned after the shutdown had cancelled all tasks, and was never polled.
    #[error("task was refused: the service has cancelled its tasks")]
    Refused,
}

/// A panic of a task: message, location where the panic hook saw it, and payload.
pub struct Panic(Box<PanicInner>);

struct PanicInner {
    message: String,
    location: Option<String>,
    payload: Box<dyn Any + Send>,
}

// === impl TaskId ===

impl TaskId {
    /// The number.
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

/// By <https://www.w3.org/TR/trace-context/#traceparent-header>.
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
        // A later version may have more parts; 255 is none.
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
    /// The word that reports use.
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
    /// The word that reports and metrics use.
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
    /// The word that reports and metrics use.
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
    /// Whether the task was dropped before it returned.
    #[must_use]
    pub const fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// Whether the task panicked.
    #[must_use]
    pub const fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }
}

// === impl Panic ===

impl Panic {
    pub(crate) fn new(payload: Box<dyn Any + Send>, location: Option<String>) -> Self {
        let message = payload
            .downcast_ref::<&'static str>()
            .map(|text| (*text).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a payload that is no text".to_owned());
        Self(Box::new(PanicInner {
            message,
            location,
            payload,
        }))
    }

    /// What was given to `panic!`, when it was text.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// `file:line:column`, unless somebody replaced the process's panic hook after the runtime started.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        self.0.location.as_deref()
    }

    /// The payload, for [`std::panic::resume_unwind`].
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
