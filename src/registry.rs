//! The registry: a slot for every live tracked task, and counters of every task that ever ran.
//!
//! Starting and ending a task takes no lock, and writes no cache line that another thread writes at
//! the same time. Each thread has its own shard of counters and its own free slots. Readers walk
//! the shards and the slots at any time and stop nothing. What they read is exact for one task
//! ([`slots::slot`]) and, for a sum, exact once the counted tasks are at rest ([`count::shard`]).
//!
//! The parts: [`slots`] hold live tasks, and [`slots::attention`] is the word by which a poll
//! learns that its task was asked for something. [`kind`] is what tasks have in common, [`scope`]
//! the state of a group, [`root`] that of a runtime, [`count`] the counters, [`tracked`] the future
//! that ties them together, and [`query`] reads them. [`bounds`] limits them all.
//!
//! The registry never calls out, except into `tracing`, to the recorder, and to the one listener and the
//! one observer of a root. It never frees what it interned: slots, scopes, kinds and shards are reused,
//! so their number is bounded by the most that were in use at once.

pub(crate) mod bounds;
pub(crate) mod clock;
pub(crate) mod count;
pub(crate) mod heartbeats;
pub(crate) mod kind;
#[cfg(feature = "otel")]
pub(crate) mod observer;
pub(crate) mod panics;
pub(crate) mod query;
pub(crate) mod root;
pub(crate) mod scope;
pub(crate) mod slots;
pub(crate) mod tracked;
pub(crate) mod untracked;

use crate::task::{TaskId, TaskKind, TaskState};
use count::histogram::Totals;
use kind::Kind;
pub(crate) use query::on_threads::on_threads;
use root::Root;
use scope::Scope;
use slots::slot::{Reading, Slot};
use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// One live task, as it was read. It may have ended since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveTask {
    /// The task's id.
    pub(crate) id: TaskId,
    /// The slot from which the task was read, which may hold another task by now.
    slot: &'static Slot,
    /// The task's kind.
    pub(crate) kind: &'static Kind,
    /// The number of the task's scope.
    scope: u32,
    /// The task's state at the reading.
    pub(crate) state: TaskState,
    /// The turns that the task has had at the reading.
    pub(crate) turns: Turns,
    /// True if the task's future was being dropped before it had returned.
    pub(crate) dropping: bool,
    /// The clock's reading at the spawn.
    #[cfg(feature = "otel")]
    pub(crate) started: u64,
    /// The task's age at the reading, in nanoseconds.
    nanos: u64,
}

/// The turns of a task: whether it was polled, or its closure run, since it was told to drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turns {
    /// A turn since it was told, or any turn if it was not told.
    Some,
    /// No turn since it was told. Nothing may have woken it: only with all threads held does this
    /// say that it could not be polled.
    NoneSinceTold,
    /// No turn at all.
    Never,
}

/// The numbers of tasks of a kind that ever started and ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The number of tasks that started.
    pub(crate) started: u64,
    /// The number of tasks that ended, by [`TaskOutcome`](crate::task::TaskOutcome) as a number.
    pub(crate) ended: [u64; 4],
}

/// Returns the live tasks of a scope and of all scopes below it.
///
/// Each task is read consistently, but not all at the same moment: a task that starts or ends
/// during the call may be in the result or not.
pub(crate) fn live_tasks(scope: &'static Scope) -> Vec<LiveTask> {
    let now = clock::raw();
    let mut tasks = Vec::with_capacity(scope.size_hint());
    // Not `collect`: with `for_each` the nested iterators compile to one loop.
    let stalled = heartbeats::stalled();
    readings(scope)
        .for_each(|(slot, reading)| tasks.push(live_task(slot, &reading, now, &stalled)));
    tasks
}

/// Returns the slots of the live tasks of a scope and of all scopes below it, each with its
/// reading.
fn readings(scope: &'static Scope) -> impl Iterator<Item = (&'static Slot, Reading)> {
    // With nothing live, the walk is skipped: there may be many slots, all of them free.
    let walked = (!scope.is_empty()).then(slots::all);
    walked
        .into_iter()
        .flatten()
        .filter_map(|slot| Some((slot, slot.read()?)))
        .filter(|(_, reading)| scope::at(reading.entry.scope).is_below(scope))
}

impl LiveTask {
    /// Returns the scope in which the task was when it was read. If the task has ended since, the
    /// scope may serve another group.
    pub(crate) fn scope(&self) -> &'static Scope {
        scope::at(self.scope)
    }

    /// Returns how long the task had been live when it was read.
    pub(crate) fn age(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    /// Returns the address of the task's slot, the key of [`on_threads`].
    pub(crate) fn slot_address(&self) -> usize {
        self.slot.address()
    }

    /// Returns the time since the task's last poll began, or up to one pulse more.
    ///
    /// `None` if the task was never polled or has ended, if it is a blocking closure, which has no
    /// polls, or if its root has no pulse. For a task whose future is being dropped, the time since
    /// the drop began.
    pub(crate) fn last_poll(&self) -> Option<Duration> {
        let is_polled = self.kind.options.runs != TaskKind::Blocking;
        // The beginning of a drop is noted without a pulse.
        let is_noted = self.dropping || is_polled && root::has_pulse(self.scope().root());
        if !is_noted {
            return None;
        }
        let reading = self.slot.read()?;
        let was_polled = reading.entry.id == self.id.0 && reading.polled != 0;
        // A poll that comes before the first pulse after the task's start notes a pulse from before
        // the start.
        was_polled.then(|| clock::since(reading.polled).min(self.age()))
    }
}

/// Returns the task of a reading. `now` is the clock's reading from which the age is computed, and
/// `stalled` holds the tasks that miss their heartbeats. Of several states that apply, the first
/// counts: cancelling, draining, stalled, running, created.
fn live_task(
    slot: &'static Slot,
    reading: &Reading,
    now: u64,
    stalled: &HashSet<(usize, u64)>,
) -> LiveTask {
    let entry = &reading.entry;
    let told = scope::at(entry.scope).drain_requested_at();
    let turns = match told {
        _ if reading.polled == 0 => Turns::Never,
        // A poll of a task that started later may note a pulse from before the request.
        Some(told) if entry.started <= told && reading.polled < told => Turns::NoneSinceTold,
        _ => Turns::Some,
    };
    let state = if reading.cancelling || reading.dropping {
        TaskState::Cancelling
    } else if told.is_some() {
        TaskState::Draining
    } else if !stalled.is_empty() && stalled.contains(&(slot.address(), entry.id)) {
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
        turns,
        dropping: reading.dropping,
        #[cfg(feature = "otel")]
        started: entry.started,
        nanos: clock::nanos_between(entry.started, now),
    }
}

/// Asks every task of a scope and of all scopes below it, for which `choose` returns true, to end
/// at its next await.
///
/// Does not wait for the tasks. A task that starts during the call may be missed, so the caller
/// calls again until nothing is live.
pub(crate) fn cancel(
    scope: &'static Scope,
    choose: impl Fn(&'static Kind, &'static Scope) -> bool,
) {
    let _walk = slots::attention::Walk::begin();
    readings(scope).for_each(|(slot, reading)| {
        let entry = &reading.entry;
        // A scope serves one group while a task of it is live. If this task has ended, its slot
        // refuses the cancel, because its generation has changed.
        if !reading.cancelling && choose(kind::at(entry.kind), scope::at(entry.scope)) {
            slot.cancel(&reading);
        }
    });
}

/// Returns the counts of a kind since the process started, in all runs of the groups of its path.
///
/// All ends are read before the first start, so there was a moment with at most as many live tasks
/// as [`Counts::live`] returns. The acquire loads pair with the release stores of
/// [`count::counter::bump`].
pub(crate) fn counts(kind: &Kind) -> Counts {
    let mut counts = Counts::default();
    for counters in count::shard::all().filter_map(|shard| shard.kind_if_any(kind.number)) {
        for (total, ended) in counts.ended.iter_mut().zip(&counters.ended) {
            *total = total.wrapping_add(ended.load(Ordering::Acquire));
        }
    }
    for counters in count::shard::all().filter_map(|shard| shard.kind_if_any(kind.number)) {
        let started = counters.started.load(Ordering::Acquire);
        counts.started = counts.started.wrapping_add(started);
    }
    counts
}

/// Returns the counts of every kind, in the order of the kinds' numbers. Reads each shard twice,
/// however many kinds there are.
pub(crate) fn all_counts() -> Vec<(&'static Kind, Counts)> {
    let mut all: Vec<_> = kind::all().map(|kind| (kind, Counts::default())).collect();
    let (shards, made) = (count::shard::all(), all.len());
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

/// Returns the lifetimes of tasks that have ended, in all groups that share a label.
#[cfg_attr(
    not(feature = "admin"),
    expect(dead_code, reason = "metrics alone show it")
)]
pub(crate) fn durations(label: usize) -> Totals {
    count::shard::all()
        .filter_map(|shard| shard.duration_if_any(label))
        .collect()
}

/// Returns the durations of polls, a sample of them, in all groups that share a label.
#[cfg_attr(
    not(feature = "admin"),
    expect(dead_code, reason = "metrics alone show it")
)]
pub(crate) fn polls(label: usize) -> Totals {
    count::shard::all()
        .filter_map(|shard| shard.polls_if_any(label))
        .collect()
}

/// Returns the spawn sites of untracked tasks on a root's runtime, as their kinds, each with the
/// number of live tasks and the number that ever started. Sites without any task are left out.
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

/// Returns how many untracked tasks of a root's runtime are live.
pub(crate) fn live_untracked(root: &Root) -> u64 {
    untracked_sites(root).iter().map(|(_, live, _)| live).sum()
}

// === impl Counts ===

impl Counts {
    /// Returns how many tasks have not ended.
    pub(crate) fn live(&self) -> u64 {
        let ended = self.ended.iter().fold(0_u64, |sum, n| sum.wrapping_add(*n));
        self.started.saturating_sub(ended)
    }
}
