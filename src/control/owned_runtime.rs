//! The work runtime, as far as the control side may close it, and the state of `main`.
//!
//! ```text
//!                    multi-thread                   current-thread              attached
//! runtime is here    from the start                 before and after main       never
//! main_runs          while main runs                while main runs             always false
//! taken by           the cancel layer               run, then the cancel layer  -
//! ```
//!
//! Taking is how one of several owners gets to close the runtime: the cancel layer, the drop of the
//! `Runtime`, or the drop of this value. The others find `None` and do nothing.

use std::sync::{Mutex, PoisonError};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// The work runtime as the pipeline sees it: the handle to close it with, and the state of `main`.
#[derive(Debug)]
pub(crate) struct OwnedRuntime {
    /// The runtime, if it can be closed from here. `None` on a runtime that the application owns,
    /// after the runtime was taken to be closed, and while `main` runs on a current-thread runtime.
    /// The lock is never held while the runtime is closed.
    pub(crate) runtime: Mutex<Option<Runtime>>,
    /// True if headcount built the runtime.
    pub(crate) is_ours: bool,
    /// True while the thread of `main` is inside the runtime. Written by the thread of `main`,
    /// awaited by the cancel layer.
    pub(crate) main_runs: watch::Sender<bool>,
    /// Set to true when the thread of `main` may leave the runtime. Tasks of a current-thread
    /// runtime run only on that thread, so it stays until the tracked tasks were cancelled. Written
    /// by the cancel layer, once.
    pub(crate) released: watch::Sender<bool>,
}

// === impl OwnedRuntime ===

impl OwnedRuntime {
    /// Creates the value before the control side starts. `None` for a runtime that the application
    /// owns.
    pub(crate) fn new(runtime: Option<Runtime>) -> Self {
        Self {
            is_ours: runtime.is_some(),
            runtime: Mutex::new(runtime),
            main_runs: watch::channel(false).0,
            released: watch::channel(false).0,
        }
    }

    /// Takes the runtime, so that the caller can close it. Dropping what it returns blocks until
    /// every blocking closure has returned, so callers use one of tokio's bounded calls, or put it
    /// back.
    pub(crate) fn take(&self) -> Option<Runtime> {
        self.runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Shuts the runtime down, if it is still here, without waiting for its threads. The last owner
    /// may be dropped inside a task, where tokio does not allow blocking.
    pub(crate) fn shutdown_background(&self) {
        if let Some(runtime) = self.take() {
            runtime.shutdown_background();
        }
    }

    /// Returns whether the runtime is here to be closed. It may be taken a moment later; the
    /// closing thread copes with that.
    pub(crate) fn has_runtime(&self) -> bool {
        let runtime = self.runtime.lock();
        runtime.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Returns the runtime after `main` has run on it. On a current-thread runtime only, so that
    /// the cancel layer can close it.
    pub(crate) fn put(&self, runtime: Runtime) {
        *self.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
    }
}

impl Drop for OwnedRuntime {
    fn drop(&mut self) {
        self.shutdown_background();
    }
}
