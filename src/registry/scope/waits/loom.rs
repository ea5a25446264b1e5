//! Models of waits: the interleavings of tasks that end and waiters for their end, with few
//! preemptions.
//!
//! The registry counts an end and then loads `watched`, both sequentially consistent. Loom treats
//! such accesses as acquire and release only, so here a sequentially consistent fence stands
//! between them.

use super::Waits;
use crate::registry::slots::loom_notice::{Notice, notice};
use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use ::loom::thread;

/// A scope with two tasks, each counted on a shard of its own.
struct Scope {
    ended: [AtomicU64; 2],
    watched: AtomicU32,
    waits: Waits,
}

impl Scope {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ended: [AtomicU64::new(0), AtomicU64::new(0)],
            watched: AtomicU32::new(0),
            waits: Waits::new(),
        })
    }

    /// Ends a task, as `Registration::end` and `Scope::after_end` do.
    fn end(&self, task: usize) {
        self.ended[task].store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.watched.load(Ordering::Acquire) != 0 {
            self.waits.count_down();
        }
    }

    /// Returns the number of live tasks, as `Scope::live` does.
    fn live(&self) -> u64 {
        let ended = self.ended.iter().map(|ended| ended.load(Ordering::Acquire));
        2 - ended.sum::<u64>()
    }

    /// Begins a wait, as `Scope::watch` does.
    fn enter(&self) -> u64 {
        let watcher = self.waits.enter();
        self.watched.fetch_add(1, Ordering::SeqCst);
        watcher
    }

    /// Ends a wait, as the drop of a `Watch` does.
    fn leave(&self, watcher: u64) {
        self.watched.fetch_sub(1, Ordering::SeqCst);
        self.waits.leave(watcher);
    }

    /// Waits until no task is live. If the wake is lost this never returns, which loom reports as a
    /// deadlock.
    fn wait(&self) {
        let watcher = self.enter();
        let (notice, waker) = notice();
        while self.waits.poll(watcher, &waker, || self.live()) > 0 {
            Notice::wait(&notice);
        }
        self.leave(watcher);
    }
}

/// Checks a model with at most this many preemptions.
fn switching_at_most(times: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(times);
    builder.check(model);
}

#[test]
fn a_waiter_sees_the_last_end() {
    switching_at_most(3, || {
        let scope = Scope::new();
        let enders = [0, 1].map(|task| {
            let shared = Arc::clone(&scope);
            thread::spawn(move || shared.end(task))
        });
        scope.wait();
        for ender in enders {
            ender.join().expect("no panic");
        }
    });
}

#[test]
fn a_waiter_that_gives_up_does_not_lose_the_wake_of_another() {
    switching_at_most(3, || {
        let scope = Scope::new();
        scope.end(0);
        let quitter = scope.enter();
        let (_notice, waker) = notice();
        assert_eq!(scope.waits.poll(quitter, &waker, || scope.live()), 1);
        let shared = Arc::clone(&scope);
        let leaver = thread::spawn(move || shared.leave(quitter));
        let shared = Arc::clone(&scope);
        let ender = thread::spawn(move || shared.end(1));
        scope.wait();
        leaver.join().expect("no panic");
        ender.join().expect("no panic");
    });
}

#[test]
fn two_waiters_both_see_the_last_end() {
    switching_at_most(3, || {
        let scope = Scope::new();
        scope.end(0);
        let shared = Arc::clone(&scope);
        let other = thread::spawn(move || shared.wait());
        let shared = Arc::clone(&scope);
        let ender = thread::spawn(move || shared.end(1));
        scope.wait();
        other.join().expect("no panic");
        ender.join().expect("no panic");
    });
}
