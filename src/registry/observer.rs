//! The observer of a root, which makes a span of each task.
//!
//! Besides `tracing` and a root's listener, this is the only way in which the registry calls out. A
//! root without an observer costs a task one check. Each thread knows which task it is in, so that
//! spans and log events find their parent.
//!
//! The calls for one task, and the thread that makes them: `spawned` on the spawning thread, the
//! span's `poll` around each poll on the polling thread, `ended` on the thread that ends the task.
//! A panic in `spawned` or `ended` does not keep the task from being ended in the registry. A task
//! of a root with an observer but without a span is still noted as a place, so that its log events
//! do not go to the span around it.

use super::kind::Kind;
use crate::task::{TaskId, TaskOutcome, Traceparent};
use std::any::Any;
use std::cell::Cell;
use std::fmt::{self, Debug};

/// An observer of the tasks of one root. It is called by workers, so it must not block: it may take
/// only locks that are held for nanoseconds.
pub(crate) trait Observer: Debug + Send + Sync {
    /// Called when a task starts. Returns a span if more is to be exported of the task than a bad
    /// end.
    fn spawned(&self, task: &NewTask) -> Option<Box<TaskSpan>>;

    /// Called when a task has ended: if it has a span, or if it did not complete.
    fn ended(&self, end: &End<'_>, span: Option<Box<TaskSpan>>);
}

/// The ids of a trace and of a span in it. Both are nonzero in a valid span (W3C Trace Context,
/// sections 3.2.2.3 and 3.2.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
// Many of these wait to be exported, and an alignment of 16 bytes would make each about 30 bytes
// larger.
#[repr(Rust, packed(8))]
pub(crate) struct Ids {
    /// The id of the trace.
    pub(crate) trace: u128,
    /// The id of the span.
    pub(crate) span: u64,
}

/// The parent of a task's span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// None: the task begins a trace, linked to that span if there is one.
    Root(Option<Ids>),
    /// The span of that id, in the same trace. True if that span came from another process.
    Child(u64, bool),
}

/// The span of one live task, as its observer keeps it.
///
/// It holds no `Arc`: a shared reference count would be contended by all workers. It is at most 120
/// bytes, because glibc frees larger blocks under a lock if another thread allocated them.
pub(crate) struct TaskSpan {
    /// The ids of the span.
    pub(crate) ids: Ids,
    /// The parent of the span.
    pub(crate) origin: Origin,
    /// True if the task's iterations have traces of their own.
    pub(crate) is_long: bool,
    /// The part of the observer's list of live spans that holds this one, if the observer lists it.
    pub(crate) hangs: Option<u8>,
    /// The clock's reading at the first poll; 0 before it.
    pub(crate) polled: Cell<u64>,
    /// Data of the observer, which few tasks have: most are polled once and log nothing.
    pub(crate) kept: Cell<Option<Box<dyn Any + Send>>>,
    /// The observer's function that polls the task. It calls the given function once. It is kept
    /// here because a poll does not know the observer.
    pub(crate) poll: fn(&Self, &mut dyn FnMut()),
}

const _: () = assert!(size_of::<TaskSpan>() <= 120);

/// A task that starts.
#[derive(Debug)]
pub(crate) struct NewTask {
    /// The task's id.
    pub(crate) id: TaskId,
    /// The task's kind.
    pub(crate) kind: &'static Kind,
    /// The span of another process of which the task is a part, if the caller gave one.
    pub(crate) parent: Option<Traceparent>,
}

/// The end of a task.
#[derive(Debug)]
pub(crate) struct End<'a> {
    /// The task's id.
    pub(crate) id: TaskId,
    /// The task's kind.
    pub(crate) kind: &'static Kind,
    /// The clock's reading at the spawn.
    pub(crate) started: u64,
    /// The clock's reading when the task's group was told to drain, if it was.
    pub(crate) drain_requested_at: Option<u64>,
    /// The clock's reading at the end.
    pub(crate) ended: u64,
    /// The outcome.
    pub(crate) outcome: TaskOutcome,
    /// The text of the error or the panic.
    pub(crate) error: Option<&'a str>,
}

/// The task of an observed root in which a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Current {
    /// No task.
    Outside,
    /// A task without a span.
    Unsampled,
    /// A task with this span.
    Short(Ids),
    /// A task with this span. Its iterations have traces of their own.
    LongLived(Ids),
}

thread_local! {
    /// The task that this thread is in.
    ///
    /// A `Cell` without a destructor: setting it costs a store.
    static CURRENT: Cell<Current> = const { Cell::new(Current::Outside) };
}

// === impl TaskSpan ===

impl Debug for TaskSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSpan")
            .field("ids", &self.ids)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl TaskSpan {
    /// Calls `poll` as a part of this span, through the function of the observer.
    ///
    /// The poll's result is passed through a variable, since the observer's function is not
    /// generic. Panics if the observer does not call the poll.
    pub(super) fn around<T>(&self, poll: impl FnOnce() -> T) -> T {
        let (mut poll, mut polled) = (Some(poll), None);
        (self.poll)(self, &mut || polled = poll.take().map(|poll| poll()));
        polled.expect("the observer calls the poll")
    }
}

/// Returns the task that this thread is in.
pub(crate) fn current() -> Current {
    // Outside of any task if the thread-local storage is destroyed.
    CURRENT.try_with(Cell::get).unwrap_or(Current::Outside)
}

/// Calls `f` as a part of that task. Nested calls restore the task around them, after a panic too.
#[inline]
pub(crate) fn within<T>(task: Current, f: impl FnOnce() -> T) -> T {
    let _before = Restored(CURRENT.try_with(|current| current.replace(task)).ok());
    f()
}

/// A guard that restores the task that the thread was in before, after a panic too.
///
/// `None` if the thread-local storage is destroyed.
struct Restored(Option<Current>);

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            CURRENT.try_with(|current| current.set(before)).ok();
        }
    }
}
