//! Heartbeats of tasks that have declared to beat at least so often.
//!
//! A beat increments a counter and reads no clock. The control side looks at the counters
//! regularly, and compares them with the last look. The counters are kept apart from the slots, so
//! a task that declares no heartbeat pays nothing. A task that ends does not remove its entry: the
//! next look does, or the next task in its slot that declares a heartbeat.
//!
//! The steps of one task:
//!
//! 1. `declare` enters it, with the slot's address as its key.
//! 2. [`beat`] finds the entry of the task that the calling thread is in.
//! 3. [`look`], on the control side, compares the count with the last one. Only here is a clock
//!    involved, and it is the caller's.
//! 4. A silence longer than declared makes it stalled, and the next beat makes it well again.
//!
//! The accuracy is that of the looks: a stall is noticed at most one interval of looks late. A task
//! that beats and stalls between two looks is not noticed at all.

use super::count::shard;
use super::kind::{self, Kind};
use super::scope;
use super::slots::slot::Slot;
use crate::task::TaskId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The number of parts of the table, each with a lock.
///
/// A beat holds the lock of one part for a look-up in a map and an increment.
const PARTS: usize = 16;

/// A part of the table, by the address of the slot.
type Part = BTreeMap<usize, Entry>;

/// The tasks that have declared a heartbeat, in parts by the address of the slot, so that tasks
/// that beat rarely contend for a lock.
static TABLE: [Mutex<Part>; PARTS] = [const { Mutex::new(BTreeMap::new()) }; PARTS];
/// The number of entries in the table.
///
/// Relaxed: a beat that misses the first declaration of another task loses nothing of its own.
static DECLARED: AtomicUsize = AtomicUsize::new(0);
/// The number of entries that are stalled.
///
/// It is read before any lock is taken, so lists of tasks pay for stalls only if there are any.
static STALLED: AtomicUsize = AtomicUsize::new(0);

/// The declaration of one task, and its state.
#[derive(Debug)]
struct Entry {
    /// The task's slot.
    ///
    /// Slots are never freed, so the reference stays valid after the task.
    slot: &'static Slot,
    /// The task's id, which tells it from later tasks in the slot.
    id: u64,
    /// The task's kind.
    kind: &'static Kind,
    /// The number of the task's root.
    root: u64,
    /// The longest time between two beats.
    every: Duration,
    /// The number of beats so far. Only counted, never reset.
    beats: u64,
    /// The number of beats at the last look, and the time of the look at which it changed, in the
    /// time passed to [`look`]. `None` before the first look.
    seen: Option<(u64, Duration)>,
    /// True if the heartbeat is missed.
    stalled: bool,
    /// True if the stall was reported.
    ///
    /// It decides whether the recovery is worth a report.
    is_reported: bool,
}

/// A task that missed its heartbeat, or that beats again.
#[derive(Debug)]
pub(crate) struct Change {
    /// The task's id.
    pub(crate) id: TaskId,
    /// The task's kind.
    pub(crate) kind: &'static Kind,
    /// The longest time between two beats.
    pub(crate) every: Duration,
    /// The time since the last look that found a beat. Zero for a task that has ended.
    pub(crate) silent: Duration,
    /// The stage of the stall.
    pub(crate) stage: Stage,
}

/// A stage of a stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The task has missed its heartbeat, which was not reported yet.
    Stalled,
    /// The stall has ended without a report.
    Unreported,
    /// The task beats again, after a stall that was reported.
    BeatsAgain,
}

/// Expects the task in this slot to beat from here on.
///
/// Called by the thread that spawns the task, before it is handed to tokio. Takes the lock of one
/// part and allocates an entry.
#[cold]
pub(super) fn declare(slot: &'static Slot, every: Duration) {
    let entry = slot.own_entry();
    let declared = Entry {
        slot,
        id: entry.id,
        kind: kind::at(entry.kind),
        root: scope::at(entry.scope).root(),
        every,
        beats: 0,
        seen: None,
        stalled: false,
        is_reported: false,
    };
    DECLARED.fetch_add(1, Ordering::Relaxed);
    let before = part(slot.address()).insert(slot.address(), declared);
    if let Some(before) = before {
        // The slot's previous task has ended, and no look has removed its entry yet.
        gone(&before);
    }
}

/// Counts a beat of the task that this thread is in, if that task has declared a heartbeat. Costs
/// one load if no task has declared any, and otherwise the lock of one part of the table. The task
/// is the one noted in this thread's shard, so a beat from a helper thread is not counted.
pub(crate) fn beat() {
    if DECLARED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let current = shard::own().and_then(shard::Shard::current);
    let Some((address, _)) = current else { return };
    if let Some(entry) = part(address).get_mut(&address)
        && entry.slot.own_id() == entry.id
    {
        entry.beats += 1;
    }
}

/// Looks at all tasks of a root that have declared a heartbeat, and removes those that have ended.
/// Returns the number of required tasks that miss their heartbeats.
///
/// While the service is stopping, no task is expected to beat. `now` is a time that stands still
/// while no look is possible, for example while the process is stopped, so that such a pause stalls
/// no task. `report` is called for each change, and for a stalled task at each look until it returns
/// true, which means that it has reported the stall. A part of the table is locked during the call.
pub(crate) fn look(
    root: u64,
    is_stopping: bool,
    now: Duration,
    mut report: impl FnMut(Change) -> bool,
) -> u32 {
    let mut required = 0;
    if DECLARED.load(Ordering::Relaxed) == 0 {
        return required;
    }
    for part in &TABLE {
        lock(part).retain(|_, entry| {
            if entry.root != root {
                return true;
            }
            if !entry.lives() {
                if entry.stalled && !entry.is_reported {
                    report(entry.change(Duration::ZERO, Stage::Unreported));
                }
                gone(entry);
                return false;
            }
            entry.look(is_stopping, now, &mut report);
            required += u32::from(entry.stalled && entry.kind.options.required);
            true
        });
    }
    required
}

/// Removes all tasks of a root that is gone: nothing looks at them any more.
///
/// Called when the root is dropped. Entries of its tasks that are still live are removed too.
pub(super) fn forget(root: u64) {
    if DECLARED.load(Ordering::Relaxed) == 0 {
        return;
    }
    for part in &TABLE {
        lock(part).retain(|_, entry| {
            let stays = entry.root != root;
            if !stays {
                gone(entry);
            }
            stays
        });
    }
}

/// Returns the stalled tasks, by the address of the slot and the id.
pub(super) fn stalled() -> HashSet<(usize, u64)> {
    each_stalled(|entry| (entry.slot.address(), entry.id))
}

/// Returns the number of stalled tasks of each kind, by the kind's number. Kinds without any are
/// left out.
pub(crate) fn stalled_by_kind() -> HashMap<u32, u64> {
    let mut kinds = HashMap::new();
    for kind in each_stalled::<Vec<_>, _>(|entry| entry.kind.number) {
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Returns what `show` returns for each live task that is stalled. With no stalled task it takes no
/// lock.
fn each_stalled<C: Default + Extend<T>, T>(show: impl Fn(&Entry) -> T) -> C {
    let mut all = C::default();
    if STALLED.load(Ordering::Relaxed) > 0 {
        for part in &TABLE {
            let part = lock(part);
            let stalled = part.values().filter(|entry| entry.stalled && entry.lives());
            all.extend(stalled.map(&show));
        }
    }
    all
}

/// Takes an entry that is removed off the counters.
///
/// The caller holds the lock of the part, so an entry is taken off once.
fn gone(entry: &Entry) {
    DECLARED.fetch_sub(1, Ordering::Relaxed);
    if entry.stalled {
        STALLED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Locks the part of the table for the slot at an address.
///
/// The slots of a chunk follow each other, so neighbours are in different parts.
fn part(address: usize) -> MutexGuard<'static, Part> {
    lock(&TABLE[address / size_of::<Slot>() % PARTS])
}

/// Locks a part of the table. Ignores lock poisoning.
fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Entry ===

impl Entry {
    /// Returns whether the task is still in its slot.
    fn lives(&self) -> bool {
        let reading = self.slot.read();
        reading.is_some_and(|reading| reading.entry.id == self.id)
    }

    /// Compares the beats with those of the last look, and calls `report` as [`look`] does.
    ///
    /// The first look only remembers the count, so a task has at least its full interval from then
    /// on.
    fn look(&mut self, is_stopping: bool, now: Duration, report: &mut impl FnMut(Change) -> bool) {
        let (count, since) = *self.seen.get_or_insert((self.beats, now));
        let silent = now.saturating_sub(since);
        let has_beaten = count != self.beats;
        if has_beaten {
            self.seen = Some((self.beats, now));
        }
        let scope = self.slot.own_scope();
        // A task that drains is about to end, and may have left the loop in which it beats.
        let is_expected = !is_stopping && !scope::at(scope).is_draining();
        let is_stalled = !has_beaten && is_expected && (self.stalled || silent > self.every);
        let was_stalled = std::mem::replace(&mut self.stalled, is_stalled);
        if is_stalled != was_stalled {
            // Adding the largest number subtracts one.
            let step = if is_stalled { 1 } else { usize::MAX };
            STALLED.fetch_add(step, Ordering::Relaxed);
        }
        let stage = match (is_stalled, self.is_reported) {
            (true, false) => Stage::Stalled,
            // A task that is no longer expected to beat is no longer stalled, but has not recovered
            // either.
            (false, true) if has_beaten => Stage::BeatsAgain,
            (false, false) if was_stalled => Stage::Unreported,
            _ => {
                self.is_reported &= is_stalled;
                return;
            }
        };
        self.is_reported = report(self.change(silent, stage)) && is_stalled;
    }

    /// The event for this entry as it is now.
    fn change(&self, silent: Duration, stage: Stage) -> Change {
        Change {
            id: TaskId(self.id),
            kind: self.kind,
            every: self.every,
            silent,
            stage,
        }
    }
}
