//! Those who wait for tasks to end, and the countdown that spares the tasks all but the last notice.
//!
//! Who waits sums what lives and sets the countdown to it; each end counts down, and the one that reaches 0 wakes those
//! who wait, who sum again. Tasks that start meanwhile only make the countdown run out early.

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

/// Those who wait.
#[derive(Debug)]
pub(crate) struct Waits {
    here: AtomicU32,
    /// Ends until somebody should look whether anything lives.
    countdown: AtomicI64,
    wakers: Mutex<Wakers>,
}

#[derive(Debug, Default)]
struct Wakers {
    entered: u64,
    by_watcher: BTreeMap<u64, Waker>,
}

// === impl Waits ===

impl Waits {
    pub(crate) fn new() -> Self {
        Self {
            here: AtomicU32::new(0),
            countdown: AtomicI64::new(0),
            wakers: Mutex::new(Wakers::default()),
        }
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.here.load(Ordering::Acquire) != 0
    }

    /// One more waits, under the number that this returns. Ends must be counted down from here on.
    pub(crate) fn enter(&self) -> u64 {
        let mut wakers = self.wakers();
        wakers.entered += 1;
        self.here.fetch_add(1, Ordering::AcqRel);
        wakers.entered
    }

    pub(crate) fn leave(&self, watcher: u64) {
        let mut wakers = self.wakers();
        self.here.fetch_sub(1, Ordering::AcqRel);
        let waker = wakers.by_watcher.remove(&watcher);
        drop(wakers);
        // Its drop may be the drop of a task, so it is done outside of the lock.
        drop(waker);
    }

    /// What lives, by `sum`; unless that is 0, `waker` is woken when it is worth asking again.
    pub(crate) fn poll(&self, watcher: u64, waker: &Waker, sum: impl FnOnce() -> u64) -> u64 {
        let mut wakers = self.wakers();
        // Ends that come between here and the sum are counted twice, so the countdown may run out early, never late. An
        // exchange, not a store: it sees the ends of those who counted down before, so the sum does not count them.
        self.countdown.swap(0, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let live = sum();
        if live == 0 {
            return 0;
        }
        let n = i64::try_from(live).unwrap_or(i64::MAX);
        let old = wakers.by_watcher.insert(watcher, waker.clone());
        let ran_out = self.countdown.fetch_add(n, Ordering::AcqRel) + n <= 0;
        drop(wakers);
        drop(old);
        if ran_out {
            self.wake_all();
        }
        live
    }

    /// Something ended. Called after that end was counted.
    pub(crate) fn count_down(&self) {
        if self.is_awaited() && self.countdown.fetch_sub(1, Ordering::AcqRel) <= 1 {
            self.wake_all();
        }
    }

    pub(crate) fn wake_all(&self) {
        let woken = std::mem::take(&mut self.wakers().by_watcher);
        for waker in woken.into_values() {
            waker.wake();
        }
    }

    fn wakers(&self) -> MutexGuard<'_, Wakers> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
