//! Every interleaving of ends and of those who wait for them.
//!
//! The registry counts an end and then reads whether it is watched, both sequentially consistent. Loom takes such
//! accesses for acquire and release, so here a fence of that order stands between them.

use super::Waits;
use crate::registry::loom_notice::{Notice, notice};
use ::loom::sync::Arc;
use ::loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use ::loom::thread;

/// A scope with two tasks, each on a shard of its own.
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

    /// As `Row::end` and `Scope::after_end`.
    fn end(&self, task: usize) {
        self.ended[task].store(1, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.watched.load(Ordering::Acquire) != 0 {
            self.waits.count_down();
        }
    }

    fn live(&self) -> u64 {
        let ended = self.ended.iter().map(|ended| ended.load(Ordering::Acquire));
        2 - ended.sum::<u64>()
    }

    /// As `Scope::watch`.
    fn enter(&self) -> u64 {
        let watcher = self.waits.enter();
        self.watched.fetch_add(1, Ordering::SeqCst);
        watcher
    }

    /// As the drop of a `Watch`.
    fn leave(&self, watcher: u64) {
        self.watched.fetch_sub(1, Ordering::SeqCst);
        self.waits.leave(watcher);
    }

    /// Waits until nothing lives. When nobody wakes it it never returns, which is a deadlock to loom.
    fn wait(&self) {
        let watcher = self.enter();
        let (notice, waker) = notice();
        while self.waits.poll(watcher, &waker, || self.live()) > 0 {
            Notice::wait(&notice);
        }
        self.leave(watcher);
    }
}

fn switching_at_most(times: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = ::loom::model::Builder::new();
    builder.preemption_bound = Some(times);
    builder.check(model);
}

#[test]
fn who_waits_hears_of_the_last_end() {
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
fn who_gives_up_does_not_cost_another_its_notice() {
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
fn two_who_wait_both_hear_of_the_end() {
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
