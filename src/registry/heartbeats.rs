//! Heartbeats: of tasks that have declared to say, at least so often, that they are well.
//!
//! To beat is to count; the vigil of the control side looks whether the count has changed. Kept beside the slots, so that
//! a task that declares nothing pays nothing.

use super::kind::{self, Kind};
use super::root::Root;
use super::scope;
use super::shard;
use super::slot::Slot;
use crate::task::TaskId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const PARTS: usize = 16;

type Part = BTreeMap<usize, Entry>;

/// By the place of the slot, in parts so that those who beat do not wait for each other.
static TABLE: [Mutex<Part>; PARTS] = [const { Mutex::new(BTreeMap::new()) }; PARTS];
/// How many are in the table.
static DECLARED: AtomicUsize = AtomicUsize::new(0);
/// How many of them are stalled.
static STALLED: AtomicUsize = AtomicUsize::new(0);

/// What one task has declared.
#[derive(Debug)]
struct Entry {
    slot: &'static Slot,
    id: u64,
    kind: &'static Kind,
    root: u64,
    every: Duration,
    beats: u64,
    /// The count at the last look, and when it changed, in the time of whoever looks. `None` before the first look.
    seen: Option<(u64, Duration)>,
    stalled: bool,
    /// Whether whoever looks has told of it.
    told: bool,
}

/// A task whose heartbeat was missed, or came back.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) id: TaskId,
    pub(crate) kind: &'static Kind,
    pub(crate) every: Duration,
    /// The time without a beat.
    pub(crate) silent: Duration,
    pub(crate) is_stalled: bool,
}

/// The task in this slot is expected to beat from here on.
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
        told: false,
    };
    DECLARED.fetch_add(1, Ordering::Relaxed);
    let before = part(slot.place()).insert(slot.place(), declared);
    if let Some(before) = before {
        // The slot's last task has ended, and nobody has looked since.
        gone(&before);
    }
}

/// Counts a beat of the task that this thread polls or runs, if it has declared any.
pub(crate) fn beat() {
    if DECLARED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let current = shard::own().and_then(shard::Shard::current);
    let Some((place, _)) = current else { return };
    if let Some(entry) = part(place).get_mut(&place)
        && entry.slot.own_id() == entry.id
    {
        entry.beats += 1;
    }
}

/// Looks at all tasks of a root, at a time that does not run while nobody can look. `tell` says whether it has told of a
/// task that has stalled; of those that beat again it hears only if it has.
pub(crate) fn look(root: &Root, now: Duration, mut tell: impl FnMut(Change) -> bool) {
    let mut required = 0;
    if DECLARED.load(Ordering::Relaxed) == 0 {
        return root.set_stalled_required(required);
    }
    for part in &TABLE {
        lock(part).retain(|_, entry| {
            if entry.root != root.number {
                return true;
            }
            if !entry.lives() {
                gone(entry);
                return false;
            }
            entry.look(root, now, &mut tell);
            required += u32::from(entry.stalled && entry.kind.options.required);
            true
        });
    }
    root.set_stalled_required(required);
}

/// The root is gone, and nobody looks at its tasks any more.
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

/// The stalled tasks, by slot and id.
pub(super) fn stalled() -> HashSet<(usize, u64)> {
    each_stalled(|entry| (entry.slot.place(), entry.id))
}

/// How many tasks of each kind are stalled, by the kind's number; kinds without any are left out.
pub(crate) fn stalled_by_kind() -> HashMap<u32, u64> {
    let mut kinds = HashMap::new();
    for kind in each_stalled::<Vec<_>, _>(|entry| entry.kind.number) {
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

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

fn gone(entry: &Entry) {
    DECLARED.fetch_sub(1, Ordering::Relaxed);
    if entry.stalled {
        STALLED.fetch_sub(1, Ordering::Relaxed);
    }
}

fn part(place: usize) -> MutexGuard<'static, Part> {
    lock(&TABLE[place / size_of::<Slot>() % PARTS])
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Entry ===

impl Entry {
    fn lives(&self) -> bool {
        let reading = self.slot.read();
        reading.is_some_and(|reading| reading.entry.id == self.id)
    }

    fn look(&mut self, root: &Root, now: Duration, tell: &mut impl FnMut(Change) -> bool) {
        let (count, since) = *self.seen.get_or_insert((self.beats, now));
        let silent = now.saturating_sub(since);
        let has_beaten = count != self.beats;
        if has_beaten {
            self.seen = Some((self.beats, now));
        }
        let scope = self.slot.own_scope();
        // One that drains is about to end, and may have left the loop in which it beats.
        let is_expected = !root.is_stopping() && !scope::at(scope).is_draining();
        let is_stalled = !has_beaten && is_expected && (self.stalled || silent > self.every);
        if is_stalled == self.stalled {
            return;
        }
        self.stalled = is_stalled;
        let step = if is_stalled { 1 } else { usize::MAX };
        STALLED.fetch_add(step, Ordering::Relaxed);
        // One that is no longer expected to beat has not come back by that.
        if is_stalled || (self.told && has_beaten) {
            self.told = tell(Change {
                id: TaskId(self.id),
                kind: self.kind,
                every: self.every,
                silent,
                is_stalled,
            });
        }
    }
}
