//! The registration of a task that is not a future: a blocking closure.
//!
//! It is the counterpart of the tracked future for code without polls. The thread of the blocking
//! pool that runs the closure is its owner. A closure that is dropped before it ran, when the
//! runtime is closed, ends as cancelled.

use super::Payload;
use super::flags::LIVE;
use super::owner::{OwnerState, Turn};
use crate::registry::clock;
use crate::registry::slots::slot::Slot;
use crate::task::{TaskError, TaskOutcome};

/// A live task's entry in the registry, for tasks that are not futures. If it is dropped before it
/// was ended, the task ends as cancelled.
#[derive(Debug)]
pub(crate) struct Registration {
    /// The slot of the task.
    pub(super) slot: &'static Slot,
    /// The owner's part of the registration.
    pub(super) state: OwnerState,
}

// === impl Registration ===

impl Registration {
    /// Returns the registration of a task in this slot.
    pub(super) fn new(slot: &'static Slot, state: OwnerState) -> Self {
        Self { slot, state }
    }

    /// Returns what the task is to do. Must be called before each poll.
    pub(crate) fn turn(&mut self) -> Turn {
        self.state.turn(self.slot)
    }

    /// Calls `f`, which runs or drops the task's closure, and notes meanwhile that this thread is
    /// in the task.
    ///
    /// # Errors
    ///
    /// The payload, if `f` panics.
    pub(crate) fn poll<T>(&self, f: impl FnOnce() -> T) -> Result<T, Payload> {
        self.state.poll(self.slot, f)
    }

    /// Drops the task's closure, which never ran. The slot shows that the drop has begun.
    ///
    /// # Errors
    ///
    /// The payload, if the drop panics.
    pub(crate) fn drop_unused<T>(&self, closure: T) -> Result<(), Payload> {
        self.slot.begin_drop(clock::raw());
        self.poll(|| drop(closure))
    }

    /// Ends the registration of a task that returned.
    pub(crate) fn end(&mut self, outcome: TaskOutcome) {
        self.state.end(self.slot, outcome);
    }

    /// Ends the registration of a task that was dropped before it returned. `dropped` is the result
    /// of the drop. Returns the error if the drop panicked.
    pub(crate) fn end_dropped(&mut self, dropped: Result<(), Payload>) -> Option<TaskError> {
        self.state.end_dropped(self.slot, dropped)
    }

    /// Ends the registration of a task that panicked, and returns the error for its handle.
    pub(crate) fn end_panicked(&mut self, payload: Payload) -> TaskError {
        self.state.end_panicked(self.slot, payload)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if self.state.flags.has(LIVE) {
            self.end(TaskOutcome::Cancelled);
        }
    }
}
