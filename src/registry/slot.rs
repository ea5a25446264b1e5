//! The slot of one live task: the lock-free part of the registry.
//!
//! A slot has one owner at a time: the task that lives in it. Only the owner writes its fields and frees it.
//! Readers look at any time and keep what they read only if the generation did not change meanwhile.
//! Cancellers may set two bits of `state`, never free a slot, and never touch the owner's fields.
//!
//! Slots are never given back to the allocator, so a stale reference reads another task's slot, never freed memory;
//! the generation tells.

#[cfg(not(all(test, headcount_loom)))]
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    pub(super) type Mutex<T> = spin::mutex::SpinMutex<T, spin::Yield>;

    #[inline]
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> spin::mutex::SpinMutexGuard<'_, T, spin::Yield> {
        mutex.lock()
    }

    #[inline]
    pub(super) fn store(state: &AtomicU64, value: u64) {
        state.store(value, Ordering::Release);
    }
}

#[cfg(all(test, headcount_loom))]
mod sync {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
    pub(super) use loom::sync::{Mutex, MutexGuard};

    /// A canceller's bit is set by an exchange, which comes right after the value that it saw, so before any later store
    /// of the owner. Loom orders the two only when one is known to happen before the other, and would let the owner read
    /// the bit after its own store; so here the owner exchanges too.
    pub(super) fn store(state: &AtomicU64, value: u64) {
        state.swap(value, Ordering::Release);
    }

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("no model panics with it")
    }
}

#[cfg(all(test, headcount_loom))]
mod loom;

use std::ops::DerefMut;
use std::task::Waker;
use sync::{AtomicU32, AtomicU64, Mutex, Ordering, fence};

const LIVE: u64 = 1;
const CANCEL: u64 = 1 << 1;
/// Somebody took the waker who should not have: the owner publishes it again.
const REPUBLISH: u64 = 1 << 2;
/// The owner is asked what it awaits.
const ASKED: u64 = 1 << 3;
const GENERATION: u64 = 1 << 8;
const FLAGS: u64 = GENERATION - 1;

/// One live task, in one cache line.
#[repr(align(64))]
#[derive(Debug)]
pub(crate) struct Slot {
    /// Generation, and the bits above.
    state: AtomicU64,
    id: AtomicU64,
    started: AtomicU64,
    kind: AtomicU32,
    scope: AtomicU32,
    /// The pulse of the last poll that noticed one; 0 before the first poll.
    polled: AtomicU64,
    /// Held for some nanoseconds, by the owner and by one who cancels. A cell that answers "busy" instead of making
    /// one wait would lose the waker of a task that moves in while somebody still looks for the previous one's.
    waker: Mutex<Option<Waker>>,
}

/// The generation of a free slot: what its state is, but for bits that a late canceller may have set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Free(u64);

/// What a task's slot is filled with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) started: u64,
    pub(crate) kind: u32,
    pub(crate) scope: u32,
}

/// A consistent reading of one live slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) entry: Entry,
    /// The pulse that was the last when it was polled last; 0 when it never was.
    pub(crate) polled: u64,
    pub(crate) cancelling: bool,
    generation: u64,
}

// === impl Free ===

impl Free {
    /// Of a new slot.
    pub(crate) const NEW: Self = Self(0);
}

// === impl Slot ===

impl Slot {
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

    /// Fills a free slot, which [`Slot::vacate`] left as `free`. Only the thread that took it from the free ones may call
    /// this. It writes and does not read: the line may be in another processor's cache, and nobody waits for it.
    #[inline]
    pub(crate) fn occupy(&self, free: Free, entry: Entry) {
        // A reader that sees a field written below must also see that the slot was free before: without the fence
        // it could pair the fields of this task with the generation of the previous one.
        fence(Ordering::Release);
        self.id.store(entry.id, Ordering::Relaxed);
        self.started.store(entry.started, Ordering::Relaxed);
        self.kind.store(entry.kind, Ordering::Relaxed);
        self.scope.store(entry.scope, Ordering::Relaxed);
        self.polled.store(0, Ordering::Relaxed);
        sync::store(&self.state, free.0 | LIVE);
    }

    /// Ends the owner's use: from here on no reader keeps what it read, and no canceller's bit arrives.
    #[inline]
    pub(crate) fn vacate(&self, published: bool) -> Free {
        if published {
            // The waker holds the task's memory.
            drop(self.take_waker());
        }
        let state = self.state.load(Ordering::Relaxed);
        // A canceller may set a bit between the load and the store. It is lost, as it should be: the task is over.
        let free = (state & !FLAGS).wrapping_add(GENERATION);
        sync::store(&self.state, free);
        Free(free)
    }

    /// The owner is polled, after that pulse. Only the owner calls this.
    #[inline]
    pub(crate) fn mark_polled(&self, pulse: u64) {
        self.polled.store(pulse, Ordering::Relaxed);
    }

    /// What tells this slot from all others.
    #[inline]
    pub(crate) fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Whether the owner is asked for anything, or its waker was taken.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.state.load(Ordering::Acquire) & (CANCEL | REPUBLISH | ASKED) != 0
    }

    /// Whether the owner is asked to end.
    #[inline]
    pub(crate) fn is_cancelling(&self) -> bool {
        self.state.load(Ordering::Acquire) & CANCEL != 0
    }

    /// Whether the owner's waker was taken by a canceller of an earlier task; says so once. It is gone afterwards, also
    /// when it was another's that was taken.
    pub(crate) fn lost_waker(&self) -> bool {
        let lost = self.state.load(Ordering::Acquire) & REPUBLISH != 0;
        if lost {
            self.state.fetch_and(!REPUBLISH, Ordering::AcqRel);
            drop(self.take_waker());
        }
        lost
    }

    /// Leaves the owner's waker for cancellers. The owner must look at [`Slot::is_cancelling`] after this, because a
    /// canceller that came before found no waker.
    #[inline]
    pub(crate) fn publish(&self, waker: &Waker) {
        let old = self.waker_cell().replace(waker.clone());
        // Outside of the lock.
        drop(old);
    }

    #[inline]
    fn take_waker(&self) -> Option<Waker> {
        self.waker_cell().take()
    }

    #[inline]
    fn waker_cell(&self) -> impl DerefMut<Target = Option<Waker>> {
        sync::lock(&self.waker)
    }

    /// Asks the task that `reading` saw to end; false when it is over already, or was asked before.
    pub(crate) fn cancel(&self, reading: &Reading) -> bool {
        let seen = reading.generation | LIVE;
        let mut state = seen;
        loop {
            match self.state.compare_exchange(
                state,
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

    /// Asks the task that `reading` saw what it awaits, and wakes it. Only while a walk is under way: the task looks here
    /// when it sees one.
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
        // Whoever's it was lives on, and is woken after this is said.
        self.state.fetch_or(REPUBLISH, Ordering::AcqRel);
        waker.wake();
    }

    /// Whether the owner was asked what it awaits; says so once.
    pub(crate) fn was_asked(&self) -> bool {
        let asked = self.state.load(Ordering::Acquire) & ASKED != 0;
        if asked {
            self.state.fetch_and(!ASKED, Ordering::AcqRel);
        }
        asked
    }

    /// Wakes the owner of `generation`. When another task moved in meanwhile, that one is woken for nothing, and told
    /// that its waker is gone.
    fn wake(&self, generation: u64) {
        let Some(waker) = self.take_waker() else {
            return;
        };
        if self.state.load(Ordering::Acquire) & !FLAGS != generation {
            self.state.fetch_or(REPUBLISH, Ordering::AcqRel);
        }
        waker.wake();
    }

    /// What the slot holds, if it is live and stayed so while it was read.
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
            generation: before & !FLAGS,
        };
        fence(Ordering::Acquire);
        let after = self.state.load(Ordering::Relaxed);
        (after & !FLAGS == reading.generation && after & LIVE != 0).then_some(reading)
    }

    /// The owner's id. One load: the compiler does not leave out atomic loads that nobody needs.
    #[inline]
    pub(crate) fn own_id(&self) -> u64 {
        self.id.load(Ordering::Relaxed)
    }

    /// The owner's scope.
    #[inline]
    pub(crate) fn own_scope(&self) -> u32 {
        self.scope.load(Ordering::Relaxed)
    }

    /// The owner's own entry: exact, because nobody else writes it.
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
