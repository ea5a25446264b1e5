//! Who is inside: a row for every live tracked task, and counters of all that ever were.
//!
//! Starting and ending a task takes no lock and writes no line that another thread writes: a thread has a shard of its
//! own with slots and counters. Readers walk the shards at any time without stopping anybody.
//! The registry never calls out, except into `tracing`, and to the one listener of a root.

mod cancels;
pub(crate) mod clock;
mod histogram;
pub(crate) mod kind;
#[cfg(all(test, headcount_loom))]
mod loom_notice;
pub(crate) mod panics;
pub(crate) mod root;
pub(crate) mod scope;
mod shard;
mod slot;
mod slots;
mod tally;
pub(crate) mod tracked;
pub(crate) mod untracked;
mod waits;

use crate::task::{TaskId, TaskState};
use histogram::Totals;
use kind::Kind;
use root::Root;
use scope::Scope;
use slot::{Reading, Slot};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;
pub(crate) use tally::{Tally, TallyRow};

/// One live task, as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveTask {
    pub(crate) id: TaskId,
    /// Its slot, as [`on_threads`] names it.
    pub(crate) slot: usize,
    pub(crate) kind: &'static Kind,
    scope: u32,
    pub(crate) state: TaskState,
    pub(crate) age: Duration,
}

/// What ever happened to the tasks of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    /// By [`TaskOutcome`](crate::task::TaskOutcome) as a number.
    pub(crate) ended: [u64; 4],
}

/// A set of scopes that is quick to ask.
#[derive(Debug)]
struct Members(Vec<u64>);

/// The live tasks of a scope and all below it.
pub(crate) fn live_tasks(scope: &'static Scope) -> Vec<LiveTask> {
    let scopes = scope.subtree();
    let members = Members::of(&scopes);
    let draining = Members::of_all(scopes.iter().filter(|scope| scope.is_draining()));
    let now = clock::raw();
    slots::all()
        .filter_map(|slot| slot.read().map(|reading| (slot, reading)))
        .filter(|(_, reading)| members.holds(reading.entry.scope))
        // It may serve another group since `scopes` was made.
        .filter(|(_, reading)| scope::at(reading.entry.scope).is_below(scope))
        .map(|(slot, reading)| live_task(slot, &reading, now, &draining))
        .collect()
}

impl LiveTask {
    pub(crate) fn scope(&self) -> &'static Scope {
        scope::at(self.scope)
    }
}

fn live_task(slot: &Slot, reading: &Reading, now: u64, draining: &Members) -> LiveTask {
    let entry = &reading.entry;
    let state = if reading.cancelling {
        TaskState::Cancelling
    } else if draining.holds(entry.scope) {
        TaskState::Draining
    } else if reading.polled {
        TaskState::Running
    } else {
        TaskState::Created
    };
    LiveTask {
        id: TaskId(entry.id),
        slot: slot.place(),
        kind: kind::at(entry.kind),
        scope: entry.scope,
        state,
        age: Duration::from_nanos(clock::nanos_between(entry.started, now)),
    }
}

/// Asks every task of a scope and below, for which `choose` holds, to end at its next await. Returns how many were
/// asked for the first time.
pub(crate) fn cancel(
    scope: &'static Scope,
    choose: impl Fn(&'static Kind, &'static Scope) -> bool,
) -> u64 {
    let members = Members::of(&scope.subtree());
    let _walk = cancels::Walk::begin();
    let mut asked = 0;
    for slot in slots::all() {
        let Some(reading) = slot.read() else { continue };
        let entry = &reading.entry;
        if reading.cancelling || !members.holds(entry.scope) {
            continue;
        }
        // It may serve another group since `members` was made. It serves this one as long as the task lives, and if the
        // task does not, its slot refuses the cancel.
        if !scope::at(entry.scope).is_below(scope) {
            continue;
        }
        if choose(kind::at(entry.kind), scope::at(entry.scope)) && slot.cancel(&reading) {
            asked += 1;
        }
    }
    asked
}

/// Which thread polls, drops or runs the task in which slot at this moment.
pub(crate) fn on_threads() -> HashMap<usize, u32> {
    shard::all().filter_map(shard::Shard::current).collect()
}

/// What ever happened to the tasks of a kind, in all groups of its path.
pub(crate) fn counts(kind: &Kind) -> Counts {
    let mut counts = Counts::default();
    for counters in shard::all().filter_map(|shard| shard.kind_if_any(kind.number)) {
        for (total, ended) in counts.ended.iter_mut().zip(&counters.ended) {
            *total = total.wrapping_add(ended.load(Ordering::Acquire));
        }
    }
    for counters in shard::all().filter_map(|shard| shard.kind_if_any(kind.number)) {
        let started = counters.started.load(Ordering::Acquire);
        counts.started = counts.started.wrapping_add(started);
    }
    counts
}

/// How long the tasks lived that have ended, of the groups of a label.
pub(crate) fn durations(label: usize) -> Totals {
    let mut totals = Totals::default();
    for histogram in shard::all().filter_map(|shard| shard.duration_if_any(label)) {
        totals.add(histogram);
    }
    totals
}

/// Untracked tasks of a root's runtime by spawn site: how many live, how many ever started. Sites without any are
/// left out.
pub(crate) fn untracked_sites(root: &Root) -> Vec<(&'static Kind, u64, u64)> {
    kind::all()
        .filter(|kind| kind.serves(root.number))
        .filter(|kind| kind.seen.load(Ordering::Relaxed))
        .map(|kind| {
            let (started, live) = kind.untracked();
            (kind, live, started)
        })
        .collect()
}

/// How many untracked tasks of a root's runtime live.
pub(crate) fn live_untracked(root: &Root) -> u64 {
    untracked_sites(root).iter().map(|(_, live, _)| live).sum()
}

// === impl Counts ===

impl Counts {
    /// How many have not ended.
    pub(crate) fn live(&self) -> u64 {
        let ended = self.ended.iter().fold(0_u64, |sum, n| sum.wrapping_add(*n));
        self.started.saturating_sub(ended)
    }
}

// === impl Members ===

impl Members {
    fn of(scopes: &[&'static Scope]) -> Self {
        Self::of_all(scopes.iter())
    }

    fn of_all<'a>(scopes: impl Iterator<Item = &'a &'static Scope>) -> Self {
        let mut bits = Vec::new();
        for scope in scopes {
            let at = scope.number as usize / 64;
            if at >= bits.len() {
                bits.resize(at + 1, 0);
            }
            bits[at] |= 1 << (scope.number % 64);
        }
        Self(bits)
    }

    #[inline]
    fn holds(&self, scope: u32) -> bool {
        self.0
            .get(scope as usize / 64)
            .is_some_and(|word| word >> (scope % 64) & 1 == 1)
    }
}
