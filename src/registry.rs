//! Who is inside: a row for every live tracked task, and counters of all that ever were.
//!
//! Starting and ending a task takes no lock and writes no line that another thread writes: a thread has a shard of its
//! own with counters, and free slots of its own. Readers walk both at any time without stopping anybody.
//! The registry never calls out, except into `tracing`, and to the one listener and the one observer of a root.

mod cancels;
pub(crate) mod chains;
pub(crate) mod clock;
pub(crate) mod heartbeats;
pub(crate) mod histogram;
pub(crate) mod holders;
pub(crate) mod kind;
#[cfg(feature = "admin")]
pub(crate) mod listing;
#[cfg(all(test, headcount_loom))]
mod loom_notice;
#[cfg(feature = "console")]
pub(crate) mod named;
#[cfg(feature = "otel")]
pub(crate) mod observer;
pub(crate) mod order;
pub(crate) mod panics;
pub(crate) mod pulse;
pub(crate) mod root;
pub(crate) mod scope;
mod shard;
mod slot;
mod slots;
#[cfg(feature = "admin")]
pub(crate) mod survey;
mod tally;
pub(crate) mod tracked;
pub(crate) mod untracked;
mod waits;
pub(crate) mod warnings;

use crate::task::{TaskId, TaskKind, TaskState};
use histogram::Totals;
pub(crate) use holders::on_threads;
use kind::Kind;
use root::Root;
use scope::Scope;
use slot::{Reading, Slot};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
pub(crate) use tally::{Tally, TallyRow};

/// One live task, as it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveTask {
    pub(crate) id: TaskId,
    slot: &'static Slot,
    pub(crate) kind: &'static Kind,
    scope: u32,
    pub(crate) state: TaskState,
    /// A reading of the clock.
    #[cfg(feature = "otel")]
    pub(crate) started: u64,
    nanos: u64,
}

/// What ever happened to the tasks of a kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) started: u64,
    /// By [`TaskOutcome`](crate::task::TaskOutcome) as a number.
    pub(crate) ended: [u64; 4],
}

/// The live tasks of a scope and all below it.
pub(crate) fn live_tasks(scope: &'static Scope) -> Vec<LiveTask> {
    let now = clock::raw();
    let mut tasks = Vec::with_capacity(scope.size_hint());
    // Not `collect`: from the inside the walk is one loop.
    let stalled = heartbeats::stalled();
    readings(scope)
        .for_each(|(slot, reading)| tasks.push(live_task(slot, &reading, now, &stalled)));
    tasks
}

/// The slots of the live tasks of a scope and all below it.
fn readings(scope: &'static Scope) -> impl Iterator<Item = (&'static Slot, Reading)> {
    // There may be many slots where nothing lives any more.
    let walked = (!scope.is_empty()).then(slots::all);
    walked
        .into_iter()
        .flatten()
        .filter_map(|slot| Some((slot, slot.read()?)))
        .filter(|(_, reading)| scope::at(reading.entry.scope).is_below(scope))
}

impl LiveTask {
    /// The scope that it was in when it was read; another group's, if the task ended meanwhile.
    pub(crate) fn scope(&self) -> &'static Scope {
        scope::at(self.scope)
    }

    pub(crate) fn age(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Its slot, as [`on_threads`] names it.
    pub(crate) fn place(&self) -> usize {
        self.slot.place()
    }

    /// The time since its last poll began, or a pulse more; `None` when it was never polled, or has ended meanwhile, of a
    /// closure, which has no polls, and of a root without a pulse.
    pub(crate) fn last_poll(&self) -> Option<Duration> {
        let is_polled = self.kind.options.runs != TaskKind::Blocking;
        if !is_polled || !root::has_pulse(self.scope().root()) {
            return None;
        }
        let reading = self.slot.read()?;
        let was_polled = reading.entry.id == self.id.0 && reading.polled != 0;
        // One that was polled before the first pulse after its start noted an earlier one.
        was_polled.then(|| clock::since(reading.polled).min(self.age()))
    }
}

fn live_task(
    slot: &'static Slot,
    reading: &Reading,
    now: u64,
    stalled: &HashSet<(usize, u64)>,
) -> LiveTask {
    let entry = &reading.entry;
    let state = if reading.cancelling {
        TaskState::Cancelling
    } else if scope::at(entry.scope).is_draining() {
        TaskState::Draining
    } else if !stalled.is_empty() && stalled.contains(&(slot.place(), entry.id)) {
        TaskState::Stalled
    } else if reading.polled != 0 {
        TaskState::Running
    } else {
        TaskState::Created
    };
    LiveTask {
        id: TaskId(entry.id),
        slot,
        kind: kind::at(entry.kind),
        scope: entry.scope,
        state,
        #[cfg(feature = "otel")]
        started: entry.started,
        nanos: clock::nanos_between(entry.started, now),
    }
}

/// Asks every task of a scope and below, for which `choose` holds, to end at its next await.
pub(crate) fn cancel(
    scope: &'static Scope,
    choose: impl Fn(&'static Kind, &'static Scope) -> bool,
) {
    let _walk = cancels::Walk::begin();
    readings(scope).for_each(|(slot, reading)| {
        let entry = &reading.entry;
        // Its scope serves this group as long as the task lives, and if it does not, its slot refuses the cancel.
        if !reading.cancelling && choose(kind::at(entry.kind), scope::at(entry.scope)) {
            slot.cancel(&reading);
        }
    });
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

/// The same of every kind, by its number, in one walk.
pub(crate) fn all_counts() -> Vec<(&'static Kind, Counts)> {
    let mut all: Vec<_> = kind::all().map(|kind| (kind, Counts::default())).collect();
    let (shards, made) = (shard::all(), all.len());
    for (kind, counters) in shards.clone().flat_map(|shard| shard.all_kinds(made)) {
        let (_, counts) = &mut all[kind];
        for (total, ended) in counts.ended.iter_mut().zip(&counters.ended) {
            *total = total.wrapping_add(ended.load(Ordering::Acquire));
        }
    }
    for (kind, counters) in shards.flat_map(|shard| shard.all_kinds(made)) {
        let (_, counts) = &mut all[kind];
        let started = counters.started.load(Ordering::Acquire);
        counts.started = counts.started.wrapping_add(started);
    }
    all
}

/// How long the tasks lived that have ended, of the groups of a label.
pub(crate) fn durations(label: usize) -> Totals {
    shard::all()
        .filter_map(|shard| shard.duration_if_any(label))
        .collect()
}

/// How long polls took, a sample of them, of the groups of a label.
#[cfg_attr(
    not(feature = "admin"),
    expect(dead_code, reason = "metrics alone show it")
)]
pub(crate) fn polls(label: usize) -> Totals {
    shard::all()
        .filter_map(|shard| shard.polls_if_any(label))
        .collect()
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
