//! The slot of one live task: the lock-free part of the registry.
//!
//! A slot is a seqlock with one writer. The task that occupies it is its owner, and only the owner
//! writes the fields, advances the generation and frees the slot. Any thread may read at any time,
//! and never blocks or retries: a reading is kept only if the generation is the same before and
//! after it ([`Slot::read`]).
//!
//! The owner and cancellers write these words:
//!
//! | word | owner | canceller |
//! |---|---|---|
//! | `state`, generation and `LIVE` | stores | never |
//! | `state`, `CANCEL` and `ASKED` | clears `ASKED` | sets, if the generation is still the one that it read |
//! | `state`, `REPUBLISH` | clears | sets, in any generation |
//! | `state`, `DROPPING` | stores | never |
//! | `id`, `started`, `kind`, `scope`, `polled` | stores | never |
//! | `waker` | replaces and takes, under the lock | takes, under the lock |
//!
//! Slots are never returned to the allocator. A stale reference therefore reads another task's
//! slot, never freed memory, and the generation shows that it is another task's. The generation has
//! 56 bits, so it does not repeat in practice.
//!
//! A canceller reads a generation, sets its bit and only then takes the waker, so the slot may
//! change hands in between. In that case it has taken the waker of the next task. It sets
//! `REPUBLISH` and wakes that task, which publishes its waker again. The models in `slot/loom.rs`
//! check the interleavings of these steps.

#[cfg(not(all(test, headcount_loom)))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// The lock of the waker. A thread that spins on it yields to the scheduler.
    pub(super) type Mutex<T> = spin::mutex::SpinMutex<T, spin::Yield>;

    /// Locks the waker's cell.
    #[inline]
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> spin::mutex::SpinMutexGuard<'_, T, spin::Yield> {
        mutex.lock()
    }

    /// Stores a state as the owner. The store is not an exchange, so it overwrites a bit that a
    /// canceller set since the owner last loaded the state.
    #[inline]
    pub(super) fn store(state: &AtomicU64, value: u64) {
        state.store(value, Ordering::Release);
    }
}

#[cfg(all(test, headcount_loom))]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(super) use loom::sync::{Mutex, MutexGuard};

    /// Stores a state as the owner. A canceller sets its bit with an exchange, which directly
    /// follows the value that it replaces, so the bit comes before any later store of the owner.
    /// Loom orders the two only when one is known to happen before the other, and would let the
    /// owner read the bit after its own store. In models the owner therefore exchanges too.
    pub(super) fn store(state: &AtomicU64, value: u64) {
        state.swap(value, Ordering::Release);
    }

    /// Locks the waker's cell.
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no model panics with it")
    }
}

#[cfg(all(test, headcount_loom))]
mod loom;

mod copies;

pub(crate) use copies::{WAKER_WORDS, of_copies, waker_words};

use std::ops::DerefMut;
use std::task::Waker;
use sync::{AtomicU32, AtomicU64, Mutex, Ordering, fence};

/// A task occupies the slot.
const LIVE: u64 = 1;
/// The owner was asked to end. Stays set until the slot is vacated.
///
/// Set by an exchange that fails in another generation.
const CANCEL: u64 = 1 << 1;
/// The owner must publish its waker again. Its waker was taken by a canceller of the slot's
/// previous task, or to ask the owner what it awaits.
const REPUBLISH: u64 = 1 << 2;
/// The owner was asked what it awaits.
const ASKED: u64 = 1 << 3;
/// The owner drops its future before it has returned. Stays set until the slot is vacated.
const DROPPING: u64 = 1 << 4;
/// One generation. The low 8 bits are flags.
///
/// Added when a slot is vacated.
const GENERATION: u64 = 1 << 8;
/// The bits of the flags.
const FLAGS: u64 = GENERATION - 1;

/// One live task, in one cache line of 64 bytes.
///
/// The alignment keeps the slots of two tasks that run on different processors off one cache line. The
/// order of the words is part of the format of the black box.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Slot {
    /// The generation, and the flags above. The only word that both the owner and cancellers write.
    state: AtomicU64,
    /// The task's id, unique in the process.
    id: AtomicU64,
    /// The clock's reading at the spawn.
    started: AtomicU64,
    /// The number of the task's kind.
    kind: AtomicU32,
    /// The number of the task's scope.
    scope: AtomicU32,
    /// The pulse that was current at the last poll that noticed a new one; 0 before the first poll.
    /// Relaxed: it is an observation for readers, and orders nothing.
    polled: AtomicU64,
    /// The owner's waker, where cancellers find it. The lock is held for some nanoseconds, by the
    /// owner or by a canceller. A cell that answers "busy" instead of blocking would lose a waker:
    /// the owner could not publish while a canceller of the slot's previous task holds the cell.
    waker: Mutex<Option<Waker>>,
}

/// The generation of a free slot. It equals the slot's state, except for a `REPUBLISH` bit that a
/// late canceller may have set.
///
/// It is kept next to the reference to the free slot, so that occupying the slot reads no memory of
/// it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Free(u64);

/// The fields that a task's slot is filled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// The task's id.
    pub(crate) id: u64,
    /// The clock's reading at the spawn.
    pub(crate) started: u64,
    /// The number of the task's kind.
    pub(crate) kind: u32,
    /// The number of the task's scope.
    pub(crate) scope: u32,
}

/// A consistent reading of one live slot: all of `entry` belongs to one task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) entry: Entry,
    /// The pulse that was current when the task was last polled; 0 if it was never polled.
    pub(crate) polled: u64,
    /// True if the task had been asked to end.
    pub(crate) cancelling: bool,
    /// True if the task's future was being dropped before it had returned.
    pub(crate) dropping: bool,
    /// The generation of the slot at the reading. It makes a later cancel reach this task only.
    generation: u64,
}

// === impl Free ===

impl Free {
    /// The generation of a slot that was never occupied.
    pub(crate) const NEW: Self = Self(0);
}

// === impl Slot ===

impl Slot {
    /// Returns a free slot in the generation [`Free::NEW`].
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            id: AtomicU64::new(0),
            started: AtomicU64::new(0),
            kind: AtomicU32::new(0),
            scope: AtomicU32::new(0),
            polled: AtomicU64::new(0),
            waker: Mutex::new(None),
        }
    }

    /// Fills a free slot, which [`Slot::vacate`] left in the generation `free`.
    ///
    /// Only the thread that took the slot from the free ones may call this. It only writes: the
    /// slot's cache line may be in another processor's cache, and a load would wait for it, while
    /// stores do not.
    #[inline]
    pub(crate) fn occupy(&self, free: Free, entry: Entry) {
        // Pairs with the acquire fence in `read`. The program that would break without it: a reader
        // loads the state of the previous task, then a field stored below, then the state again,
        // which may still read as the old one. It would keep a field of this task under the
        // generation of the previous one. With the fences, a reader that sees such a field also
        // sees that the slot was vacated.
        fence(Ordering::Release);
        self.id.store(entry.id, Ordering::Relaxed);
        self.started.store(entry.started, Ordering::Relaxed);
        self.kind.store(entry.kind, Ordering::Relaxed);
        // Released, so that a reader that sees `LIVE` in this generation sees the fields above.
        self.scope.store(entry.scope, Ordering::Relaxed);
        self.polled.store(0, Ordering::Relaxed);
        sync::store(&self.state, free.0 | LIVE);
    }

    /// Ends the owner's use of the slot, and returns its next generation.
    ///
    /// From here on no reader keeps what it read of the owner, and no cancel or question for the
    /// owner can be set. `published` tells whether the owner's waker is in the slot. It is then
    /// dropped, so a free slot holds no waker.
    #[inline]
    pub(crate) fn vacate(&self, published: bool) -> Free {
        if published {
            // The waker keeps the task's memory allocated.
            drop(self.take_waker());
        }
        let state = self.state.load(Ordering::Relaxed);
        // Only the owner changes the generation, so the load is exact. A canceller may set a bit
        // between the load and the store. The store overwrites it, which is right: the task has
        // ended.
        let free = (state & !FLAGS).wrapping_add(GENERATION);
        sync::store(&self.state, free);
        Free(free)
    }

    /// Notes that the owner is polled, and that `pulse` is the current pulse. Only the owner calls
    /// this.
    #[inline]
    pub(crate) fn mark_polled(&self, pulse: u64) {
        self.polled.store(pulse, Ordering::Relaxed);
    }

    /// Notes that the owner begins to drop its future, which has not returned. `now` is the clock's
    /// reading, and counts as that of the last poll. Only the owner calls this.
    ///
    /// The store may overwrite a bit that a canceller sets at this moment, as that of
    /// [`Slot::vacate`] does: the task is ending.
    pub(crate) fn begin_drop(&self, now: u64) {
        self.mark_polled(now);
        let state = self.state.load(Ordering::Relaxed);
        sync::store(&self.state, state | DROPPING);
    }

    /// Returns the slot's address, which identifies it.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Returns the address of the owner's task, from its waker; `None` while the slot holds no waker.
    /// It means something only for a task of tokio, whose wakers refer to it.
    ///
    /// Locks the waker's cell for some nanoseconds.
    pub(crate) fn waker_address(&self) -> Option<u64> {
        let waker = self.waker_cell();
        waker.as_ref().map(|waker| waker.data().addr() as u64)
    }

    /// Returns whether the owner was asked for anything, or must publish its waker again.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) & (CANCEL | REPUBLISH | ASKED) != 0
    }

    /// Returns whether the owner was asked to end.
    #[inline]
    pub(crate) fn is_cancelling(&self) -> bool {
        self.state.load(Ordering::Acquire) & CANCEL != 0
    }

    /// Returns whether the owner must publish its waker again, and clears that request.
    ///
    /// After `true` the slot holds no waker, even if the one that was taken belonged to an earlier
    /// task. The owner then counts its waker as not published, and would leave it in the slot at
    /// its end.
    pub(crate) fn lost_waker(&self) -> bool {
        let lost = self.state.load(Ordering::Acquire) & REPUBLISH != 0;
        if lost {
            self.state.fetch_and(!REPUBLISH, Ordering::AcqRel);
            drop(self.take_waker());
        }
        lost
    }

    /// Leaves the owner's waker for cancellers.
    ///
    /// The owner must call [`Slot::is_cancelling`] afterwards. A canceller sets its bit before it
    /// locks the waker's cell. If it locked the cell before the owner, it found no waker, and the
    /// lock makes its bit visible to the owner. If it locks the cell later, it finds the waker.
    #[inline]
    pub(crate) fn publish(&self, waker: &Waker) {
        let old = self.waker_cell().replace(waker.clone());
        // Dropped after the lock is released, because the drop may run code of the executor.
        drop(old);
    }

    /// Takes the waker out of the slot, whichever task it belongs to.
    #[inline]
    fn take_waker(&self) -> Option<Waker> {
        self.waker_cell().take()
    }

    /// Locks the waker's cell until the returned guard is dropped.
    #[inline]
    fn waker_cell(&self) -> impl DerefMut<Target = Option<Waker>> {
        sync::lock(&self.waker)
    }

    /// Asks the task of `reading` to end, and wakes it. Returns false if the task has ended or was
    /// asked before.
    ///
    /// Call it only during a [`Walk`](super::attention::Walk), which makes the task look into its
    /// slot. The exchange fails in any other generation, so a later task in this slot is never
    /// cancelled by mistake.
    pub(crate) fn cancel(&self, reading: &Reading) -> bool {
        let seen = reading.generation | LIVE;
        let mut state = seen;
        loop {
            match self.state.compare_exchange(
                state,
                // The bit and the generation are compared in one exchange. Other requests may be
                // set meanwhile: they are kept, and the exchange is tried again.
                state | CANCEL,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(found) if found & !(REPUBLISH | ASKED) == seen => state = found,
                Err(_) => return false,
            }
        }
        self.wake(reading.generation);
        true
    }

    /// Asks the task of `reading` what it awaits, and wakes it. Does nothing if the task has ended.
    ///
    /// Call it only during a [`Walk`](super::attention::Walk), which makes the task look into its
    /// slot. A task that has no waker in the slot answers at its next poll, whenever that is.
    pub(crate) fn ask(&self, reading: &Reading) {
        let asked = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                (state & !FLAGS == reading.generation && state & LIVE != 0).then_some(state | ASKED)
            });
        if asked.is_err() {
            return;
        }
        let Some(waker) = self.take_waker() else {
            return;
        };
        // Set before the wake, so that the poll that follows sees it. The waker may belong to a
        // later task, which must publish it again too.
        self.state.fetch_or(REPUBLISH, Ordering::AcqRel);
        waker.wake();
    }

    /// Returns whether the owner was asked what it awaits, and clears that request.
    pub(crate) fn was_asked(&self) -> bool {
        let asked = self.state.load(Ordering::Acquire) & ASKED != 0;
        if asked {
            self.state.fetch_and(!ASKED, Ordering::AcqRel);
        }
        asked
    }

    /// Takes the waker and wakes its task.
    ///
    /// If another task has occupied the slot since `generation`, the waker may be that task's.
    /// `REPUBLISH` is then set before the wake, so that the poll that follows sees it. The wake
    /// itself is spurious and does no harm.
    fn wake(&self, generation: u64) {
        let Some(waker) = self.take_waker() else {
            return;
        };
        if self.state.load(Ordering::Acquire) & !FLAGS != generation {
            self.state.fetch_or(REPUBLISH, Ordering::AcqRel);
        }
        waker.wake();
    }

    /// Reads the slot. Returns `None` if it is free, or if its task ended during the reading.
    ///
    /// Never blocks or retries. The acquire load pairs with the release store in [`Slot::occupy`]:
    /// it makes the fields of this generation visible. The acquire fence pairs with the release
    /// fence there: if a field is already the next task's, the second load sees another generation,
    /// and the reading is dropped.
    #[inline]
    pub(crate) fn read(&self) -> Option<Reading> {
        let before = self.state.load(Ordering::Acquire);
        if before & LIVE == 0 {
            return None;
        }
        let reading = Reading {
            entry: Entry {
                id: self.id.load(Ordering::Relaxed),
                started: self.started.load(Ordering::Relaxed),
                kind: self.kind.load(Ordering::Relaxed),
                scope: self.scope.load(Ordering::Relaxed),
            },
            polled: self.polled.load(Ordering::Relaxed),
            cancelling: before & CANCEL != 0,
            dropping: before & DROPPING != 0,
            generation: before & !FLAGS,
        };
        fence(Ordering::Acquire);
        let after = self.state.load(Ordering::Relaxed);
        (after & !FLAGS == reading.generation && after & LIVE != 0).then_some(reading)
    }

    /// Returns the owner's id.
    ///
    /// Loads that field only: the compiler does not remove unused atomic loads, so
    /// [`Slot::own_entry`] would load four.
    #[inline]
    pub(crate) fn own_id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// Returns the number of the owner's scope. Exact for the owner. Another thread may get the
    /// scope of a later task.
    #[inline]
    pub(crate) fn own_scope(&self) -> u32 {
        self.scope.load(Ordering::Relaxed)
    }

    /// Returns the owner's own entry. It is exact for the owner, because only the owner writes it.
    #[inline]
    pub(crate) fn own_entry(&self) -> Entry {
        Entry {
            id: self.id.load(Ordering::Relaxed),
            started: self.started.load(Ordering::Relaxed),
            kind: self.kind.load(Ordering::Relaxed),
            scope: self.scope.load(Ordering::Relaxed),
        }
    }
}
