//! The last resort for threads that have opted in: stop requests, closers, and interrupted system
//! calls.
//!
//! When the close layer begins, each such thread is asked to stop, its closer is called, and its
//! blocking system calls are interrupted again and again until it ends or the layer does. No thread
//! is ever killed, because that cannot be done soundly.
//!
//! ```text
//! headcount-control  sets the flag of each thread             once, does not block
//! headcount-closer   calls the closers, on up to 8 threads    may block for ever
//! headcount-nudge    signals threads that allow it            every 2 ms until the guard is dropped
//! ```
//!
//! A thread that starts during the layer is interrupted, but its flag is not set: new threads are
//! given no stop request here. The report says what was tried
//! ([`Stop::tried`](crate::threads::Stop)).

use crate::audit;
use crate::registry::root::Root;
use crate::threads::{self, DueCloser, ThreadHandle};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// The time between two interrupts. One is not enough: a thread may be just about to enter the
/// system call. Up to 500 rounds a second, for one second by default; a round is one `tgkill` for
/// each thread.
const NUDGES: Duration = Duration::from_millis(2);
/// The most closers that run at once. Each may block forever; with that many blocked, the others
/// are not called.
const CLOSING_THREADS: usize = 8;

/// A guard: interrupts are sent until it is dropped.
#[derive(Debug)]
pub(super) struct StopRequests {
    /// Set when the guard is dropped. The store releases and the thread's load acquires; the unpark
    /// ends its pause at once.
    over: Arc<AtomicBool>,
    /// The thread that sends the interrupts, to wake it. It is not joined.
    thread: Thread,
}

/// The closers that have not been called. The lock is held for one pop, never while a closer runs.
type Due = Mutex<VecDeque<DueCloser>>;

// === impl StopRequests ===

impl StopRequests {
    /// Asks the threads of the root to stop, and has their closers called. Returns `None` if
    /// interrupts are not possible here or no thread can be started to send them.
    ///
    /// Stop requests are sent from this thread; closers and interrupts use threads of their own.
    /// The closers are not awaited.
    ///
    /// Flags are set first, so that a closer or an interrupt finds a thread that already knows why.
    /// Each pass over the threads holds the lock of one shard of the registered threads at a time;
    /// under it only atomics, the lock of a stop request and `tgkill` are used.
    pub(super) fn begin(root: &Root) -> Option<Self> {
        let root = root.number;
        let mut closes = false;
        threads::each_that_can_stop(root, |_, stop| {
            stop.request();
            closes |= stop.has_closer();
        });
        if closes {
            // If no thread can be started the closers are not called, and the report says so.
            control(root, "headcount-closer", move || call_closers(root)).ok();
        }
        if !audit::nudge::is_possible() {
            return None;
        }
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        // Runs until the layer ends, even without threads to interrupt: a thread that was just
        // started may not have registered.
        let work = move || {
            while !is_over.load(Ordering::Acquire) {
                nudge_all(root);
                thread::park_timeout(NUDGES);
            }
        };
        let handle = control(root, "headcount-nudge", work).ok()?;
        Some(Self {
            over,
            thread: handle.thread().clone(),
        })
    }
}

impl Drop for StopRequests {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Interrupts every thread of the root that may be interrupted at this moment. Under the shard's
/// lock the id cannot be reused, so the signal reaches no other thread. The handler is checked in
/// each round, because the application may replace it, and the default action would end the
/// process.
fn nudge_all(root: u64) {
    if !audit::nudge::is_possible() {
        return;
    }
    threads::each_that_can_stop(root, |tid, stop| {
        if stop.may_be_nudged() && audit::nudge::send(tid) {
            stop.note_nudge();
        }
    });
}

/// Calls the closers on this and further threads. They are application code, as are the destructors
/// of what they own, and may block forever. The threads share one queue, so a closer that blocks
/// holds up only those behind it once all of the threads are blocked. Closers are taken under the
/// registered threads' locks and called without.
fn call_closers(root: u64) {
    let mut due = VecDeque::new();
    threads::each_that_can_stop(root, |_, stop| due.extend(stop.take_closer()));
    let others = due.len().min(CLOSING_THREADS).saturating_sub(1);
    let due: Arc<Due> = Arc::new(Mutex::new(due));
    for _ in 0..others {
        let due = Arc::clone(&due);
        // If no thread can be started this thread calls them all.
        control(root, "headcount-closer", move || call_each(&due)).ok();
    }
    call_each(&due);
}

/// Calls closers until none is left. A panic of a closer is caught and noted in its stop request.
fn call_each(due: &Due) {
    let next = || {
        let mut due = due.lock().unwrap_or_else(PoisonError::into_inner);
        due.pop_front()
    };
    while let Some(closer) = next() {
        closer.call();
    }
}

/// Starts a control thread. It is never joined.
fn control(
    root: u64,
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<ThreadHandle<()>> {
    threads::start_own(root, name, work)
}
