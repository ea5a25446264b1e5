//! The start of a runtime that headcount owns.
//!
//! The order within [`Builder::build`]: the ports and the baseline come before the work runtime, so
//! that its threads are not in the baseline. Then its workers are waited for, so that a task that
//! blocks one at once is blamed on a worker. The control side and the servers come last.

use super::phases::{Bound, Started};
use super::{Runtime, build, parts};
use crate::control::build_error::BuildError;
use crate::control::builder::{Builder, WorkSettings};
use crate::control::owned_runtime::OwnedRuntime;
use crate::registry::root::Root;
use crate::threads::{self, ThreadClass};
use std::io;
use std::sync::Arc;

// === impl Builder ===

impl Builder {
    pub(crate) fn new() -> Self {
        Self::with_parts(parts::all())
    }

    /// Starts the runtime, its control side and its servers.
    ///
    /// # Errors
    ///
    /// - [`BuildError::DeadlineTooShort`] if the deadline is shorter than the layers and the pre-drain delay.
    /// - [`BuildError::Admin`] if the address of the admin server is in use or not available.
    /// - [`BuildError::System`] if the operating system fails to create a thread or a file descriptor,
    ///   also one of tokio's.
    ///
    /// A state folder or textfile that cannot be used is not an error: headcount logs a warning and
    /// runs without it.
    ///
    /// # Examples
    ///
    /// ```
    /// use headcount::{BuildError, Runtime};
    /// use std::time::Duration;
    ///
    /// let runtime = Runtime::builder().print(false).build()?;
    /// assert!(runtime.run(async |_tasks| {}).is_clean());
    ///
    /// let error = Runtime::builder().deadline(Duration::ZERO).build().unwrap_err();
    /// assert!(matches!(error, BuildError::DeadlineTooShort { .. }));
    /// # Ok::<(), headcount::BuildError>(())
    /// ```
    pub fn build(self) -> Result<Runtime, BuildError> {
        let opened = Bound::new(self.plan, self.deadline, self.parts)?.open()?;
        let root = opened.root().number;
        let is_current_thread = self.work.is_current_thread;
        let runtime = work_runtime(self.work, opened.root()).map_err(BuildError::System)?;
        let handle = runtime.handle().clone();
        if !is_current_thread {
            threads::await_workers(root, handle.metrics().num_workers());
        }
        let owned = Arc::new(OwnedRuntime::new(Some(runtime)));
        let Started {
            tasks,
            control,
            parts,
        } = opened.start(&owned, &handle)?;
        Ok(Runtime {
            tasks,
            control,
            owned,
            handle,
            root,
            is_current_thread,
            parts,
        })
    }
}

/// Builds the work runtime with headcount's hooks, after the user's own settings.
///
/// The user's settings may replace everything but the thread hooks and, with `tokio_unstable`, the
/// task hooks. Fails if the operating system refuses a thread or a descriptor.
fn work_runtime(settings: WorkSettings, root: &Arc<Root>) -> io::Result<tokio::runtime::Runtime> {
    let (mut builder, workers) = if settings.is_current_thread {
        (tokio::runtime::Builder::new_current_thread(), 0)
    } else {
        let workers = settings.workers.unwrap_or_else(usual_workers);
        (tokio::runtime::Builder::new_multi_thread(), workers)
    };
    builder.enable_all().thread_name("headcount-work");
    if let Some(workers) = settings.workers {
        builder.worker_threads(workers);
    }
    if let Some(configure) = settings.configure {
        configure(&mut builder);
    }
    set_thread_hooks(&mut builder, root.number);
    #[cfg(tokio_unstable)]
    crate::registry::untracked::install(&mut builder, root);
    build::build(builder, root.number, workers)
}

/// Returns the number of workers that tokio starts unless it is told otherwise
/// (<https://docs.rs/tokio/1/tokio/runtime/struct.Builder.html#method.worker_threads>).
fn usual_workers() -> usize {
    let told = std::env::var("TOKIO_WORKER_THREADS").ok();
    let told = told.and_then(|workers| workers.parse().ok());
    told.or_else(|| std::thread::available_parallelism().ok().map(Into::into))
        .unwrap_or(1)
}

/// Sets the thread hooks through which a runtime's threads register themselves. Tokio keeps one
/// hook of each kind, so this replaces hooks that were set before.
///
/// A thread registers as one of the blocking pool at its start, because tokio does not say then
/// what it will be. At its first park a worker has an index, and is registered as a worker.
fn set_thread_hooks(builder: &mut tokio::runtime::Builder, root: u64) {
    builder
        .on_thread_start(move || threads::register_pooled(root, ThreadClass::Blocking))
        .on_thread_stop(threads::forget_own)
        .on_thread_park(move || {
            if tokio::runtime::worker_index().is_some() {
                threads::note_worker(root);
            }
        });
}
