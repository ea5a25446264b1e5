//! The number of live tasks of a scope, and the wait until none is left.
//!
//! The number is not stored: it is a sum over the counters of all shards.

use super::{Scope, index};
use crate::registry::count::shard;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::task::Waker;

/// A wait for the end of all tasks in a scope and below it. While it exists, ends of these tasks
/// are counted down.
#[derive(Debug)]
pub(crate) struct Watch {
    /// The scope.
    scope: &'static Scope,
    /// The number of the waiter.
    number: u64,
}

// === impl Scope ===

impl Scope {
    /// Returns the number of live tasks in this scope and all scopes below it, without daemons. It
    /// is 0 only if there was a moment without any.
    ///
    /// Holds the lock of the index, and reads the counters of each of these scopes on each shard.
    /// It is not for hot paths.
    pub(crate) fn live(&'static self) -> u64 {
        self.sum_live(shard::ScopeCounters::waited)
    }

    /// Returns the number of live tasks in this scope and all scopes below it, of daemons or of the
    /// others.
    fn sum_live(&'static self, which: Which) -> u64 {
        // Under the lock of the index: otherwise a scope could be reused during the sum, and
        // another group's tasks would be counted.
        let index = index();
        let scopes = self.subtree_in(&index);
        let numbers: Vec<u32> = scopes.iter().map(|scope| scope.number).collect();
        live_of(&numbers, which)
    }

    /// Counts down the end of a task for the waiters, if there are any. Called by the thread that
    /// ended a task of this scope, after it counted the end on its shard.
    #[inline]
    pub(crate) fn after_end(&'static self) {
        // The program that would break with weaker orderings: the count is still in this thread's
        // store buffer when it loads `watched` as 0. Meanwhile a waiter increments `watched`, sums
        // without that count, and is never woken. Therefore the store of the count, this load, the
        // increment of `watched` and the fence before the sum in `Waits::poll` are all sequentially
        // consistent. If this load misses the increment, the count precedes the fence, so the sum
        // includes it.
        if self.watched.load(Ordering::SeqCst) != 0 {
            self.count_down();
        }
    }

    /// Counts down an end in this scope and all scopes above it.
    #[cold]
    fn count_down(&'static self) {
        for scope in self.lineage() {
            scope.waits.count_down();
        }
    }

    /// Begins a wait until this scope and all scopes below it are empty.
    ///
    /// The waiter enters before `watched` is incremented, so a task that sees the increment also
    /// finds the waiter.
    pub(crate) fn watch(&'static self) -> Watch {
        let number = self.waits.enter();
        let index = index();
        for scope in self.subtree_in(&index) {
            scope.watched.fetch_add(1, Ordering::SeqCst);
        }
        Watch {
            scope: self,
            number,
        }
    }

    /// Returns the number of live daemons in this scope and all scopes below it. Costs as much as
    /// [`Scope::live`].
    pub(crate) fn live_daemons(&'static self) -> u64 {
        self.sum_live(shard::ScopeCounters::daemons)
    }

    /// Returns about how many tasks are live in this scope and all scopes below it, daemons
    /// included: the two sums are not of the same moment.
    pub(crate) fn size_hint(&'static self) -> usize {
        let live = self.live() + self.live_daemons();
        usize::try_from(live).unwrap_or(0)
    }

    /// Returns whether no task is live in this scope and all scopes below it, daemons included.
    pub(crate) fn is_empty(&'static self) -> bool {
        self.live() == 0 && self.live_daemons() == 0
    }

    /// Returns the number of tasks that ever started in this scope and in all scopes that are or
    /// were below it, without daemons.
    pub(crate) fn started(&'static self) -> u64 {
        let index = index();
        let scopes = self.subtree_in(&index);
        scopes.iter().map(|scope| scope.started_here()).sum()
    }

    /// Returns the number of tasks that started in this scope since the group took it, and in
    /// scopes that were below it and have been reused.
    pub(super) fn started_here(&self) -> u64 {
        let started = sum_of(&[self.number], |counters| &counters.waited().started);
        let folded = self.folded.load(Ordering::Relaxed);
        started.wrapping_sub(self.base.load(Ordering::Relaxed)) + folded
    }
}

// === impl Watch ===

impl Watch {
    /// Returns the number of live tasks. Unless it is 0, `waker` is woken when it may have become
    /// 0; the caller then polls again. Wakes may be spurious.
    pub(crate) fn poll(&self, waker: &Waker) -> u64 {
        let scope = self.scope;
        scope.waits.poll(self.number, waker, || scope.live())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let index = index();
        for scope in self.scope.subtree_in(&index) {
            scope.watched.fetch_sub(1, Ordering::SeqCst);
        }
        drop(index);
        self.scope.waits.leave(self.number);
    }
}

/// A choice of counters: daemons, or the tasks for which a drain waits.
pub(super) type Which = fn(&shard::ScopeCounters) -> &shard::StartedEnded;

/// Returns the number of live tasks in these scopes.
///
/// All ends are read before the first start, so there was a moment with at most as many live tasks
/// as the result: 0 means that there was a moment without any. The program that would break in the
/// other order: a task starts and ends between the two sums, only its end is counted, and hides a
/// task that is live.
pub(super) fn live_of(scopes: &[u32], which: Which) -> u64 {
    let ended = sum_of(scopes, |counters| &which(counters).ended);
    fence(Ordering::SeqCst);
    let started = sum_of(scopes, |counters| &which(counters).started);
    started.saturating_sub(ended)
}

/// Returns the sum of a counter over these scopes and all shards. The acquire loads pair with the
/// stores that count.
pub(super) fn sum_of(scopes: &[u32], counter: impl Fn(&shard::ScopeCounters) -> &AtomicU64) -> u64 {
    shard::all()
        .flat_map(|shard| scopes.iter().filter_map(|&scope| shard.scope_if_any(scope)))
        .fold(0_u64, |sum, counters| {
            sum.wrapping_add(counter(counters).load(Ordering::Acquire))
        })
}
