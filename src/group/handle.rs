//! The join handle of one task.
//!
//! It wraps tokio's `JoinHandle` and turns tokio's join errors into a [`TaskError`]. It does not
//! own the task: the task's row in the registry lasts until the future is dropped, whatever happens
//! to the handle.

use crate::registry::panics;
use crate::task::{Panic, TaskError};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::{JoinHandle, coop};

/// A handle to a task, which is a future of the task's result.
///
/// Awaiting it yields the task's output, or the [`TaskError`] that says why there is none. Dropping
/// the handle leaves the task running and counted.
///
/// The task's row ends just before the handle completes, so a task that was awaited is no longer
/// listed.
///
/// # Panics
///
/// Polling the handle again after it has completed panics, unless the task was refused.
///
/// # Cancel safety
///
/// Awaiting `&mut handle` is cancel safe: the result stays available for the next await.
///
/// # Examples
///
/// ```
/// # headcount::testing::check(async |tasks| {
/// let mut answer = tasks.spawn("answer", async { 42 });
/// assert_eq!((&mut answer).await?, 42);
/// assert!(answer.is_finished());
/// # Ok::<(), headcount::TaskError>(())
/// # });
/// ```
pub struct TaskHandle<T>(Option<JoinHandle<Result<T, TaskError>>>);

// === impl TaskHandle ===

impl<T> TaskHandle<T> {
    pub(super) fn new(task: JoinHandle<Result<T, TaskError>>) -> Self {
        Self(Some(task))
    }

    /// Creates the handle of a task that was never spawned. It yields [`TaskError::Refused`] every
    /// time.
    pub(super) fn refused() -> Self {
        Self(None)
    }

    /// Asks the runtime to drop the task at its next await.
    ///
    /// It returns at once; await the handle to wait for the end. A blocking closure that has
    /// started keeps running. If the task has ended or was refused, this does nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let deaf = tasks.spawn("deaf", std::future::pending::<()>());
    /// deaf.cancel();
    /// assert!(deaf.await.unwrap_err().is_cancelled());
    /// # });
    /// ```
    pub fn cancel(&self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }

    /// Returns whether the task has ended or was refused.
    ///
    /// The task may have left the snapshots and counters of live tasks a moment before this turns
    /// true.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Result<T, TaskError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(task) = &mut self.0 else {
            // A task that spawns in a loop and is refused each time must still yield to its worker.
            let turn = ready!(coop::poll_proceed(cx));
            turn.made_progress();
            return Poll::Ready(Err(TaskError::Refused));
        };
        Pin::new(task).poll(cx).map(|joined| {
            joined.unwrap_or_else(|error| {
                Err(match error.try_into_panic() {
                    // A panic that the row does not catch: the drop of an output.
                    Ok(payload) => {
                        TaskError::Panicked(Panic::new(payload, panics::take_location()))
                    }
                    Err(_) => TaskError::Cancelled,
                })
            })
        })
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskHandle")
            .field("refused", &self.0.is_none())
            .field("finished", &self.is_finished())
            .finish()
    }
}
