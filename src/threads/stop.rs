//! Asking a thread to end, and what may be done to one that opted in.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Closer = Box<dyn FnOnce() + Send>;

/// How a thread hears that it must end: [`SpawnThread::spawn`](crate::group::SpawnThread::spawn) gives it to the thread.
///
/// It is requested when the last layer of the shutdown begins: by then the tasks that the thread may serve have ended.
/// A thread that takes work from outside asks [`TaskGroup::is_draining`](crate::TaskGroup::is_draining) too, which is
/// true from the first layer on.
///
/// # Guarantee, and its limit
///
/// The flag is set, the closer called and, for one that chose
/// [`nudge`](crate::group::SpawnThread::nudge), the system call interrupted. A thread that looks at none of it, or that
/// waits in what std tries again (a lock, a sleep, `read_exact`), goes on: no thread can be ended soundly from outside.
/// It is then reported with what was tried.
#[derive(Clone)]
pub struct Stop(Arc<Shared>);

struct Shared {
    requested: AtomicBool,
    /// Whether it opted in to have its system calls interrupted.
    may_be_nudged: bool,
    nudges: AtomicU32,
    closing: Mutex<Closing>,
}

#[derive(Default)]
struct Closing {
    /// As the flag above: a closer that comes too late to be found here is called by whoever brings it.
    requested: bool,
    closer: Option<Closer>,
    stage: Stage,
}

/// What became of the closer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    None,
    Waits,
    Called,
    Returned,
    Panicked,
}

/// A closer whose turn has come.
pub(crate) struct DueCloser {
    stop: Stop,
    closer: Closer,
}

// === impl Stop ===

impl Stop {
    pub(crate) fn new(may_be_nudged: bool) -> Self {
        Self(Arc::new(Shared {
            requested: AtomicBool::new(false),
            may_be_nudged,
            nudges: AtomicU32::new(0),
            closing: Mutex::default(),
        }))
    }

    /// Whether the thread must end. One load.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Acquire)
    }

    /// Has `closer` called once when the thread must end: let it close what the thread waits for, as
    /// `TcpStream::shutdown(Shutdown::Both)` on a clone of its socket does, or send to its channel.
    ///
    /// It is called on another thread; on this one, at once, when the thread must end already. A thread has one closer:
    /// another takes its place, and with the thread's end it is dropped uncalled. One that blocks is left behind, one
    /// that panics is reported.
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
        // Its drop is the user's code.
        drop(closing);
        drop(before);
    }

    /// Says that the thread must end.
    pub(crate) fn request(&self) {
        let mut closing = self.closing();
        closing.requested = true;
        self.0.requested.store(true, Ordering::Release);
    }

    pub(crate) fn has_closer(&self) -> bool {
        self.closing().closer.is_some()
    }

    /// The closer, for the first who asks.
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

    pub(crate) fn note_nudge(&self) {
        self.0.nudges.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread is over: there is nothing to close any more.
    pub(super) fn end(&self) {
        let closer = self.closing().closer.take();
        drop(closer);
    }

    /// What was done to end the thread, in words that follow a comma.
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
            Stage::Waits => tried.push("its closer was not called: others block".to_owned()),
            Stage::Called => tried.push("its closer was called and has not returned".to_owned()),
            Stage::Returned => tried.push("its closer was called".to_owned()),
            Stage::Panicked => tried.push("its closer panicked".to_owned()),
        }
        if tried.is_empty() {
            tried.push("was asked to stop".to_owned());
        }
        tried
    }

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
    /// It is the user's code: it may block for ever.
    pub(crate) fn call(self) {
        self.stop.closing().stage = Stage::Called;
        self.stop.call(self.closer);
    }
}
