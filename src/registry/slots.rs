//! The table of all slots, and the lists of free ones.
//!
//! Each thread keeps the slots that it frees on a stack, and reuses the last one first, because it
//! is most likely in the processor's cache. A thread that has no free slot, or frees one more than
//! two batches, exchanges a batch of 1,024 with all other threads. The lock for that is taken about
//! once in a thousand tasks.
//!
//! Slots are made in chunks of 1,024, the first ones in the memory of the black box if there is one,
//! and never freed, so their number is bounded by the most tasks
//! that were live at once, plus two batches per thread.
//!
//! A free slot has one holder: the stack of a thread, or a batch under the lock. Popping it
//! therefore makes the caller its only owner, and the lock orders the slot's last use before the
//! next when it moves to another thread.
//!
//! ```text
//!  OWN (a stack per thread)  ◄── push, pop ──  tasks of this thread
//!       │ ▲
//!       │ │ a batch of 1,024, under the lock
//!       ▼ │
//!  SHARED (batches)  ◄── a new chunk, if it is empty
//! ```

pub(crate) mod attention;
#[cfg(all(test, headcount_loom))]
pub(super) mod loom_notice;
pub(crate) mod slot;

use super::bounds::SLOT_BLOCKS;
use crate::recorder;
use slot::{Free, Slot};
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The number of slots in a chunk, and in a full batch.
pub(crate) const BATCH: usize = 1024;
/// The number of chunks in a block of the table.
///
/// Two levels, so that the static part of the table is small: a block is made for each million
/// slots.
const CHUNKS_A_BLOCK: usize = 1024;

/// A chunk of slots, made when it is first needed.
type Chunk = OnceLock<&'static [Slot]>;
/// Free slots, each with its generation, so that a thread that takes one does not have to read it.
type Batch = Vec<(&'static Slot, Free)>;

/// All chunks, in blocks. An entry is set once, under the lock of `SHARED`, and never changes.
static TABLE: [OnceLock<Box<[Chunk]>>; SLOT_BLOCKS] = [const { OnceLock::new() }; SLOT_BLOCKS];
/// The number of chunks that were made. Stored with release after a chunk is complete.
///
/// Readers stop at this number, so they never see a chunk that is being made.
static MADE: AtomicUsize = AtomicUsize::new(0);
/// Slots in memory that was handed in, from which the first chunks are taken.
static GIVEN: OnceLock<&'static [Slot]> = OnceLock::new();
/// The number of chunks that were taken from [`GIVEN`]. Written under the lock of `SHARED`.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// Batches that no thread holds. None of them is empty.
static SHARED: Mutex<Vec<Batch>> = Mutex::new(Vec::new());

thread_local! {
    /// The free slots of this thread.
    static OWN: Own = const { Own(RefCell::new(Batch::new())) };
}

/// The free slots of one thread, the most recently freed one last. Shares them when the thread
/// ends.
struct Own(RefCell<Batch>);

impl Drop for Own {
    fn drop(&mut self) {
        let left = std::mem::take(self.0.get_mut());
        if !left.is_empty() {
            shared().push(left);
        }
    }
}

/// Takes a free slot: this thread's last one, else one of a shared batch, else one of a new chunk.
///
/// Only the last two take the lock. The caller must give the slot back with [`give`].
///
/// # Panics
///
/// If 2³² slots are in use.
#[inline]
pub(crate) fn take() -> (&'static Slot, Free) {
    let own = OWN.try_with(|own| own.0.borrow_mut().pop());
    match own {
        Ok(Some(taken)) => taken,
        _ => take_batch(),
    }
}

/// Takes a shared batch, or makes a new one. Returns one slot of it and keeps the rest for this
/// thread.
///
/// A shared batch may be of any size: a thread that ends shares all that it has left.
#[cold]
fn take_batch() -> (&'static Slot, Free) {
    let batch = shared().pop();
    let mut batch = batch.unwrap_or_else(make);
    let taken = batch.pop().expect("no shared batch is empty");
    let kept = OWN.try_with(|own| {
        let mut own = own.0.borrow_mut();
        own.append(&mut batch);
    });
    if kept.is_err() && !batch.is_empty() {
        // The thread-local storage of this thread is already destroyed.
        shared().push(batch);
    }
    taken
}

/// Gives a slot back, which [`Slot::vacate`] left in the generation `free`.
#[inline]
pub(crate) fn give(slot: &'static Slot, free: Free) {
    let kept = OWN.try_with(|own| {
        let mut own = own.0.borrow_mut();
        if own.len() >= 2 * BATCH {
            share(&mut own);
        }
        own.push((slot, free));
    });
    if kept.is_err() {
        shared().push(vec![(slot, free)]);
    }
}

/// Shares one batch of this thread's free slots.
///
/// Moves the rest of the stack down, once for each thousand ends.
#[cold]
fn share(own: &mut Batch) {
    // The oldest ones: the newest are in this processor's cache.
    let batch = own.drain(..BATCH).collect();
    shared().push(batch);
}

/// Takes the next chunks from these slots, which are free, before any are made. Returns false if slots
/// were given before. They are the black box's, which thus needs no copy of them.
///
/// Chunks that were made before stay where they are. They are noted, since their slots are used again.
pub(crate) fn give_memory(slots: &'static [Slot]) -> bool {
    let _shared = shared();
    let is_first = GIVEN.set(slots).is_ok();
    let taken = TAKEN.load(Ordering::Relaxed);
    recorder::chunks(taken, MADE.load(Ordering::Relaxed) - taken);
    is_first
}

/// Makes a chunk of slots, and returns them all as one batch. A chunk of 1,024 slots takes 64 KiB,
/// and stays for the life of the process.
#[cold]
fn make() -> Batch {
    // Under the lock, so that chunks are made one after the other, and none is made twice.
    let shared = shared();
    let number = MADE.load(Ordering::Relaxed);
    let block = TABLE
        .get(number / CHUNKS_A_BLOCK)
        .expect("2^32 live tasks need more memory than any machine has")
        .get_or_init(|| (0..CHUNKS_A_BLOCK).map(|_| OnceLock::new()).collect());
    let taken = TAKEN.load(Ordering::Relaxed);
    let given = GIVEN.get().and_then(|given| {
        let from = taken * BATCH;
        given.get(from..from + BATCH)
    });
    let chunk = block[number % CHUNKS_A_BLOCK].get_or_init(|| match given {
        Some(given) => given,
        None => Box::leak((0..BATCH).map(|_| Slot::new()).collect()),
    });
    MADE.store(number + 1, Ordering::Release);
    let taken = taken + usize::from(given.is_some());
    TAKEN.store(taken, Ordering::Relaxed);
    recorder::chunks(taken, number + 1 - taken);
    drop(shared);
    chunk.iter().rev().map(|slot| (slot, Free::NEW)).collect()
}

/// Returns every slot that was ever made, free ones included. Takes no lock. Slots that are made
/// during the walk are not in it.
pub(crate) fn all() -> impl Iterator<Item = &'static Slot> {
    chunks().flat_map(|chunk| chunk.iter())
}

/// Returns every chunk that was made. The acquire load pairs with the release store in `make`.
fn chunks() -> impl Iterator<Item = &'static [Slot]> {
    let made = MADE.load(Ordering::Acquire);
    TABLE
        .iter()
        .map_while(OnceLock::get)
        .flat_map(|block| block.iter().map_while(OnceLock::get))
        .take(made)
        .copied()
}

/// Returns the slots at these addresses, which must be sorted, each with the number paired with its
/// address. An address that is in no slot is left out.
pub(crate) fn at_addresses(addresses: &[(usize, u32)]) -> Vec<(&'static Slot, u32)> {
    let mut found = Vec::with_capacity(addresses.len());
    if addresses.is_empty() {
        return found;
    }
    for chunk in chunks() {
        let all = chunk.as_ptr_range();
        let from = addresses.partition_point(|(address, _)| *address < all.start.addr());
        let inside = addresses[from..]
            .iter()
            .take_while(|(address, _)| *address < all.end.addr());
        found.extend(inside.map(|(address, beside)| {
            let at = (address - all.start.addr()) / size_of::<Slot>();
            (&chunk[at], *beside)
        }));
    }
    found
}

/// Returns how many chunks of slots were made.
#[cfg(feature = "admin")]
pub(crate) fn chunks_made() -> usize {
    MADE.load(Ordering::Acquire)
}

/// Returns the slots of a chunk.
///
/// # Panics
///
/// If `number` is not below [`chunks_made`].
#[cfg(feature = "admin")]
pub(crate) fn chunk(number: usize) -> &'static [Slot] {
    let block = TABLE[number / CHUNKS_A_BLOCK].get();
    let chunk = block.and_then(|block| block[number % CHUNKS_A_BLOCK].get().copied());
    chunk.expect("a chunk is counted after it is made")
}

/// Locks the shared batches. Ignores lock poisoning.
fn shared() -> MutexGuard<'static, Vec<Batch>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}
