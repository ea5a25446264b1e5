//! The handle of one task.

use crate::registry::panics;
use crate::task::{Panic, TaskError};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::task::{JoinHandle, coop};

/// A task's result, when it has one. Dropping the handle leaves the task running and counted.
///
/// # Cancel safety
///
/// Awaiting `&mut handle` is cancel safe.
pub struct TaskHandle<T>(Option<JoinHandle<Result<T, TaskError>>>);

// === impl TaskHandle ===

impl<T> TaskHandle<T> {
    pub(super) fn new(task: JoinHandle<Result<T, TaskError>>) -> Self {
        Self(Some(task))
    }

    pub(super) fn refused() -> Self {
        Self(None)
    }

    /// Asks the runtime to drop the task at its next await. A blocking closure that runs goes on.
    pub fn cancel(&self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }

    /// Whether the task has ended. Its row may end a moment earlier.
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
            // Whoever starts it again and again must not keep its thread for that.
            let turn = ready!(coop::poll_proceed(cx));
            turn.made_progress();
            return Poll::Ready(Err(TaskError::Refused));
        };
        Pin::new(task).poll(cx).map(|joined| {
            joined.unwrap_or_else(|error| {
                Err(match error.try_into_panic() {
                    // A panic outside of what the row watches: the drop of an output.
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
