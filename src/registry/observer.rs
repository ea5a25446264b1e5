//! Who makes a span of each task. The one way, besides `tracing` and a root's listener, by which the registry calls out;
//! a root without an observer pays one look for it.

use super::kind::Kind;
use crate::task::{TaskId, TaskOutcome, Traceparent};
use std::cell::Cell;
use std::fmt::Debug;

/// Hears of the tasks of one root. Called on the work side, so it must not block; what it may take are locks that are
/// held for nanoseconds.
pub(crate) trait Observer: Debug + Send + Sync {
    /// A task starts. The span is for one of which more than a bad end is to be told.
    fn spawned(&self, task: &NewTask) -> Option<Box<dyn TaskSpan>>;

    /// A task without a span has ended otherwise than by completing.
    fn ended(&self, end: &End<'_>);
}

/// The span of one live task.
pub(crate) trait TaskSpan: Debug + Send {
    /// Calls `poll`, and lets what happens in it be a part of the span.
    fn around(&self, poll: &mut dyn FnMut());

    fn end(self: Box<Self>, end: &End<'_>);
}

/// A task that starts.
#[derive(Debug)]
pub(crate) struct NewTask {
    pub(crate) id: TaskId,
    pub(crate) kind: &'static Kind,
    /// The span of somebody else that it is a part of.
    pub(crate) parent: Option<Traceparent>,
}

/// The end of a task.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) id: TaskId,
    pub(crate) kind: &'static Kind,
    /// Readings of the clock: of its start, of the moment when its group was told to drain, of its end.
    pub(crate) started: u64,
    pub(crate) told: Option<u64>,
    pub(crate) ended: u64,
    pub(crate) outcome: TaskOutcome,
    /// What the error or the panic says.
    pub(crate) error: Option<&'a str>,
}

/// In which task of an observed root a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Current {
    /// In none.
    Outside,
    /// In one without a span.
    Unsampled,
    /// In one with a span of this trace and number.
    Short(u128, u64),
    /// The same, whose iterations have traces of their own.
    LongLived(u128, u64),
}

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current::Outside) };
}

/// In which task this thread is.
pub(crate) fn current() -> Current {
    // A thread that ends is in none.
    CURRENT.try_with(Cell::get).unwrap_or(Current::Outside)
}

/// Calls `f` as a part of that task.
#[inline]
pub(crate) fn within<T>(task: Current, f: impl FnOnce() -> T) -> T {
    let _before = Restored(CURRENT.try_with(|current| current.replace(task)).ok());
    f()
}

/// What the thread was in before, for a panic too.
struct Restored(Option<Current>);

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            CURRENT.try_with(|current| current.set(before)).ok();
        }
    }
}
