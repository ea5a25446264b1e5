//! The request to a thread to end, and the means to get it out of a blocking call.
//!
//! A thread opts in by taking a [`Stop`]. The last layer of the shutdown sets its flag, calls its
//! closer, and interrupts its system calls if the thread allows it. What was tried is kept here for
//! the report.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Closer = Box<dyn FnOnce() + Send>;

/// The stop request of one thread, given to its closure by
/// [`SpawnThread::spawn`](crate::group::SpawnThread::spawn). Clones belong to the same thread.
///
/// The stop is requested when the last layer of the shutdown begins, after the tasks that the
/// thread may serve have been drained and cancelled. A thread that accepts work from outside should
/// also check [`TaskGroup::is_draining`](crate::TaskGroup::is_draining), which is true from the
/// first layer on.
///
/// # Guarantee, and its limit
///
/// headcount sets the flag, calls the closer and, if the thread was spawned with
/// [`nudge`](crate::group::SpawnThread::nudge), interrupts its system calls. A thread that ignores
/// the flag, or that waits in a call that the standard library retries (a lock, a sleep,
/// `read_exact`), keeps running: no thread can be ended soundly from outside. It is then reported
/// with what was tried.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let report = runtime.run(async |tasks| {
///     tasks.thread("sampler").spawn(|stop| {
///         while !stop.is_requested() {
///             std::thread::park_timeout(Duration::from_millis(10));
///         }
///     })?;
///     Ok::<(), std::io::Error>(())
/// });
/// assert!(report.is_clean());
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Stop(Arc<Shared>);

struct Shared {
    /// A copy of [`Closing::requested`] that the thread can read without a lock. Stored with
    /// `Release` under the lock of `closing`, loaded with `Acquire`.
    requested: AtomicBool,
    /// True if the thread opted in to have its system calls interrupted.
    may_be_nudged: bool,
    /// The number of interruptions, for the report.
    nudges: AtomicU32,
    /// Never held while user code runs.
    closing: Mutex<Closing>,
}

#[derive(Default)]
struct Closing {
    /// Set together with [`Shared::requested`]. A closer that is registered after this is set would
    /// not be found by the shutdown, so the registering thread calls it itself.
    requested: bool,
    closer: Option<Closer>,
    stage: Stage,
}

/// The progress of the closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// The thread has registered no closer.
    #[default]
    None,
    /// It is registered and has not been called.
    Waits,
    /// It has been called and has not returned.
    Called,
    Returned,
    Panicked,
}

/// A closer that is about to be called.
pub(crate) struct DueCloser {
    stop: Stop,
    closer: Closer,
}

// === impl Stop ===

impl Stop {
    /// Creates a request that has not been made yet.
    pub(crate) fn new(may_be_nudged: bool) -> Self {
        Self(Arc::new(Shared {
            requested: AtomicBool::new(false),
            may_be_nudged,
            nudges: AtomicU32::new(0),
            closing: Mutex::default(),
        }))
    }

    /// Returns whether the thread must end. It is a single atomic load, cheap enough for loops.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Acquire)
    }

    /// Registers a function that is called once when the thread must end.
    ///
    /// Let it close what the thread waits for: call `TcpStream::shutdown(Shutdown::Both)` on a
    /// clone of its socket, or send to its channel.
    ///
    /// The closer is called on another thread. If the thread must end already, it is called at
    /// once, on the calling thread. A thread has at most one closer: a later one replaces it. When
    /// the thread ends, a closer that has not been called is dropped.
    ///
    /// The shutdown does not wait for a closer that blocks. The report says if one blocked or
    /// panicked.
    ///
    /// # Examples
    ///
    /// ```
    /// # headcount::testing::check(async |tasks| {
    /// let (sender, jobs) = std::sync::mpsc::channel::<u32>();
    /// let worker = tasks.thread("worker").spawn(move |stop| {
    ///     stop.close_on_stop(move || drop(sender));
    ///     while let Ok(job) = jobs.recv() {
    ///         println!("job {job}");
    ///     }
    /// })?;
    /// // The shutdown drops the sender, which ends the loop.
    /// assert!(!worker.is_finished());
    /// # Ok::<(), std::io::Error>(())
    /// # });
    /// ```
    pub fn close_on_stop(&self, closer: impl FnOnce() + Send + 'static) {
        let mut closing = self.closing();
        let closer: Closer = Box::new(closer);
        if closing.requested {
            closing.stage = Stage::Called;
            drop(closing);
            self.call(closer);
            return;
        }
        closing.stage = Stage::Waits;
        let before = closing.closer.replace(closer);
        // Its drop runs user code, which must not hold the lock.
        drop(closing);
        drop(before);
    }

    /// Asks the thread to end. Calling it again has no effect.
    pub(crate) fn request(&self) {
        let mut closing = self.closing();
        closing.requested = true;
        self.0.requested.store(true, Ordering::Release);
    }

    pub(crate) fn has_closer(&self) -> bool {
        self.closing().closer.is_some()
    }

    /// Takes the closer, if there is one that has not been taken.
    pub(crate) fn take_closer(&self) -> Option<DueCloser> {
        let closer = self.closing().closer.take()?;
        Some(DueCloser {
            stop: self.clone(),
            closer,
        })
    }

    pub(crate) fn may_be_nudged(&self) -> bool {
        self.0.may_be_nudged
    }

    /// Counts one interruption.
    pub(crate) fn note_nudge(&self) {
        self.0.nudges.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops the closer, because the thread has ended and there is nothing left to close.
    pub(super) fn end(&self) {
        let closer = self.closing().closer.take();
        drop(closer);
    }

    /// Returns what was done to end the thread, as phrases that follow "thread …," in the report.
    /// It is empty if the thread was not asked to stop.
    pub(crate) fn tried(&self) -> Vec<String> {
        let mut tried = Vec::new();
        if !self.is_requested() {
            return tried;
        }
        match self.0.nudges.load(Ordering::Relaxed) {
            0 if self.0.may_be_nudged => {
                tried.push("could not be nudged".to_owned());
            }
            0 => {}
            1 => tried.push("nudged once".to_owned()),
            n => tried.push(format!("nudged {n} times")),
        }
        match self.closing().stage {
            Stage::None => {}
            Stage::Waits => tried.push("its closer was not called because others block".to_owned()),
            Stage::Called => tried.push("its closer was called and has not returned".to_owned()),
            Stage::Returned => tried.push("its closer was called".to_owned()),
            Stage::Panicked => tried.push("its closer panicked".to_owned()),
        }
        if tried.is_empty() {
            tried.push("was asked to stop".to_owned());
        }
        tried
    }

    /// Calls the closer on the calling thread and records how it ended. It may block forever.
    fn call(&self, closer: Closer) {
        let called = catch_unwind(AssertUnwindSafe(closer));
        self.closing().stage = match &called {
            Ok(()) => Stage::Returned,
            Err(_) => Stage::Panicked,
        };
    }

    fn closing(&self) -> MutexGuard<'_, Closing> {
        self.0
            .closing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stop")
            .field("requested", &self.is_requested())
            .finish_non_exhaustive()
    }
}

// === impl DueCloser ===

impl DueCloser {
    /// Calls the closer, which is user code and may block forever.
    pub(crate) fn call(self) {
        self.stop.closing().stage = Stage::Called;
        self.stop.call(self.closer);
    }
}
