//! Waits for the end of tasks, with a countdown that spares the tasks all notifications but the
//! last.
//!
//! A waiter sums the live tasks and sets the countdown to that number. Each task that ends counts
//! down, and the one that reaches 0 wakes the waiters, which sum again. Tasks that start meanwhile
//! are not in the countdown, so it may run out too early, and the waiters then sum once more. It
//! never runs out too late.

#[cfg(not(all(test, headcount_loom)))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicI64, AtomicU32, Ordering, fence};
    pub(super) use std::sync::{Mutex, MutexGuard};
}

#[cfg(all(test, headcount_loom))]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicI64, AtomicU32, Ordering, fence};
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

#[cfg(all(test, headcount_loom))]
mod loom;

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::task::Waker;
use sync::{AtomicI64, AtomicU32, Mutex, MutexGuard, Ordering, fence};

/// The waiters for one scope.
#[derive(Debug)]
pub(crate) struct Waits {
    /// The number of waiters. Ends count down only while it is not 0.
    here: AtomicU32,
    /// The number of ends after which the waiters should sum again. Shared by all waiters: the last
    /// one to poll has set it. At 0 or below each end wakes them.
    countdown: AtomicI64,
    /// The wakers of the waiters. The lock is held over a sum, so that two waiters set the
    /// countdown one after the other.
    wakers: Mutex<Wakers>,
}

/// The wakers, and the numbers of the waiters.
#[derive(Debug, Default)]
struct Wakers {
    /// The number of waiters that ever entered.
    entered: u64,
    /// The waker of each waiter that polled since the last wake, by the waiter's number.
    by_watcher: BTreeMap<u64, Waker>,
}

// === impl Waits ===

impl Waits {
    /// Returns a value without waiters.
    pub(crate) fn new() -> Self {
        Self {
            here: AtomicU32::new(0),
            countdown: AtomicI64::new(0),
            wakers: Mutex::new(Wakers::default()),
        }
    }

    /// Returns whether there are any waiters.
    pub(crate) fn is_awaited(&self) -> bool {
        self.here.load(Ordering::Acquire) != 0
    }

    /// Adds a waiter, and returns its number. Ends must be counted down from here on. The waiter
    /// must call [`Waits::leave`] in the end, because ends are counted down as long as it is here.
    pub(crate) fn enter(&self) -> u64 {
        let mut wakers = self.wakers();
        wakers.entered += 1;
        self.here.fetch_add(1, Ordering::AcqRel);
        wakers.entered
    }

    /// Removes a waiter.
    pub(crate) fn leave(&self, watcher: u64) {
        let mut wakers = self.wakers();
        self.here.fetch_sub(1, Ordering::AcqRel);
        let waker = wakers.by_watcher.remove(&watcher);
        drop(wakers);
        // Dropping a waker may drop a task, so it is done outside of the lock.
        drop(waker);
    }

    /// Returns the number of live tasks, computed by `sum`. Unless it is 0, `waker` is woken when
    /// it is worth polling again.
    pub(crate) fn poll(&self, watcher: u64, waker: &Waker, sum: impl FnOnce() -> u64) -> u64 {
        let mut wakers = self.wakers();
        // Ends that come between here and the sum are counted twice, as ended and in the countdown,
        // so the countdown may run out early, but never late. This is an exchange, not a store: it
        // acquires from the tasks that counted down before, so the sum includes their ends.
        self.countdown.swap(0, Ordering::AcqRel);
        // Pairs with the sequentially consistent accesses of an end: see `Scope::after_end`.
        fence(Ordering::SeqCst);
        let live = sum();
        if live == 0 {
            return 0;
        }
        let n = i64::try_from(live).unwrap_or(i64::MAX);
        // Ends since the exchange may have used up the countdown already, before this waker was
        // there.
        let old = wakers.by_watcher.insert(watcher, waker.clone());
        let ran_out = self.countdown.fetch_add(n, Ordering::AcqRel) + n <= 0;
        drop(wakers);
        drop(old);
        if ran_out {
            self.wake_all();
        }
        live
    }

    /// Counts down the end of a task. Must be called after the end was counted.
    pub(crate) fn count_down(&self) {
        if self.is_awaited() && self.countdown.fetch_sub(1, Ordering::AcqRel) <= 1 {
            self.wake_all();
        }
    }

    /// Wakes all waiters, outside of the lock, because a wake calls the executor. Each of them
    /// polls again.
    pub(crate) fn wake_all(&self) {
        let woken = std::mem::take(&mut self.wakers().by_watcher);
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    /// Locks the wakers. Ignores lock poisoning.
    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
