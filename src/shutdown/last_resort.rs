//! The last resort for threads that opted in: they are told to stop, their closers are called, their system calls
//! interrupted, until they have ended or the layer has.
//!
//! It ends no thread that does not go by itself: that cannot be done soundly.

use crate::audit;
use crate::registry::root::Root;
use crate::threads::{self, DueCloser, ThreadClass, ThreadHandle};
use std::collections::VecDeque;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Between two nudges: a thread may be on its way into the call that it must be interrupted in.
const NUDGES: Duration = Duration::from_millis(2);
/// Closers run beside each other, because each may block for ever. With that many blocked, the others are not called.
const CLOSING_THREADS: usize = 8;

/// It goes on until it is dropped.
#[derive(Debug)]
pub(super) struct LastResort {
    over: Arc<AtomicBool>,
    thread: Thread,
}

type Due = Mutex<VecDeque<DueCloser>>;

// === impl LastResort ===

impl LastResort {
    /// Tells every thread of the root that can hear it to stop, and has the closers called; `None` when nobody can be
    /// nudged.
    pub(super) fn begin(root: &Root) -> Option<Self> {
        let root = root.number;
        let mut closes = false;
        threads::each_that_can_stop(root, |_, stop| {
            stop.request();
            closes |= stop.has_closer();
        });
        if closes {
            // Without a thread to be had they are not called, and the report says so.
            control(root, "headcount-closer", move || call_closers(root)).ok();
        }
        if !audit::nudge::is_possible() {
            return None;
        }
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        // It does not end before: a thread that was started may not have registered yet.
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

impl Drop for LastResort {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

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

/// Closers are users' code: they are called, and what they own is dropped, on threads that may block for ever.
fn call_closers(root: u64) {
    let mut due = VecDeque::new();
    threads::each_that_can_stop(root, |_, stop| due.extend(stop.take_closer()));
    let others = due.len().min(CLOSING_THREADS).saturating_sub(1);
    let due: Arc<Due> = Arc::new(Mutex::new(due));
    for _ in 0..others {
        let due = Arc::clone(&due);
        // Without a thread to be had this one does its work too.
        control(root, "headcount-closer", move || call_each(&due)).ok();
    }
    call_each(&due);
}

fn call_each(due: &Due) {
    let next = || {
        let mut due = due.lock().unwrap_or_else(PoisonError::into_inner);
        due.pop_front()
    };
    while let Some(closer) = next() {
        closer.call();
    }
}

/// A thread that nobody joins.
fn control(
    root: u64,
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<ThreadHandle<()>> {
    threads::start(root, name, ThreadClass::Control, Location::caller(), work)
}
