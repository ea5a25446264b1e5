//! All slots, and those of them that are free.
//!
//! A thread keeps the slots that it frees, and uses them first. When it has too many of them, or none, it exchanges a
//! batch with all others, under a lock that is taken once in a thousand tasks. There are never more slots than tasks
//! lived at once, and two batches a thread.

use super::slot::{Free, Slot};
use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The slots of a chunk, and of a batch.
const BATCH: usize = 1024;
const CHUNKS_A_BLOCK: usize = 1024;
/// 2³² slots: the tasks in them would need over a terabyte.
const BLOCKS: usize = 4096;

type Chunk = OnceLock<Box<[Slot]>>;
/// Free slots, each with its generation: who takes one need not read it.
type Batch = Vec<(&'static Slot, Free)>;

static TABLE: [OnceLock<Box<[Chunk]>>; BLOCKS] = [const { OnceLock::new() }; BLOCKS];
/// How many chunks were made.
static MADE: AtomicUsize = AtomicUsize::new(0);
static SHARED: Mutex<Vec<Batch>> = Mutex::new(Vec::new());

thread_local! {
    static OWN: Own = const { Own(RefCell::new(Batch::new())) };
}

/// The free slots of this thread, the last one the warmest.
struct Own(RefCell<Batch>);

impl Drop for Own {
    fn drop(&mut self) {
        let left = std::mem::take(self.0.get_mut());
        if !left.is_empty() {
            shared().push(left);
        }
    }
}

/// A free slot.
#[inline]
pub(crate) fn take() -> (&'static Slot, Free) {
    let own = OWN.try_with(|own| own.0.borrow_mut().pop());
    match own {
        Ok(Some(taken)) => taken,
        _ => take_batch(),
    }
}

#[cold]
fn take_batch() -> (&'static Slot, Free) {
    let batch = shared().pop();
    let mut batch = batch.unwrap_or_else(make);
    let taken = batch.pop().expect("no empty batch is ever shared");
    let kept = OWN.try_with(|own| {
        let mut own = own.0.borrow_mut();
        own.append(&mut batch);
    });
    if kept.is_err() && !batch.is_empty() {
        // The thread is past its thread-local storage.
        shared().push(batch);
    }
    taken
}

/// Gives a slot back.
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

#[cold]
fn share(own: &mut Batch) {
    // The oldest: the newest are in this processor's cache.
    let batch = own.drain(..BATCH).collect();
    shared().push(batch);
}

#[cold]
fn make() -> Batch {
    // Under the lock, so that chunks are made one after the other.
    let shared = shared();
    let number = MADE.load(Ordering::Relaxed);
    let block = TABLE
        .get(number / CHUNKS_A_BLOCK)
        .expect("the tasks of so many slots fill any memory first")
        .get_or_init(|| (0..CHUNKS_A_BLOCK).map(|_| OnceLock::new()).collect());
    let chunk =
        block[number % CHUNKS_A_BLOCK].get_or_init(|| (0..BATCH).map(|_| Slot::new()).collect());
    MADE.store(number + 1, Ordering::Release);
    drop(shared);
    chunk.iter().rev().map(|slot| (slot, Free::NEW)).collect()
}

/// Every slot that was ever made.
pub(crate) fn all() -> impl Iterator<Item = &'static Slot> {
    chunks().flat_map(|chunk| chunk.iter())
}

fn chunks() -> impl Iterator<Item = &'static [Slot]> {
    let made = MADE.load(Ordering::Acquire);
    TABLE
        .iter()
        .map_while(OnceLock::get)
        .flat_map(|block| block.iter().map_while(OnceLock::get))
        .take(made)
        .map(|chunk| &**chunk)
}

/// The slots at these places, which must be sorted, with what stands beside them.
pub(crate) fn at_places(places: &[(usize, u32)]) -> Vec<(&'static Slot, u32)> {
    let mut found = Vec::with_capacity(places.len());
    if places.is_empty() {
        return found;
    }
    for chunk in chunks() {
        let all = chunk.as_ptr_range();
        let from = places.partition_point(|(place, _)| *place < all.start.addr());
        let inside = places[from..]
            .iter()
            .take_while(|(place, _)| *place < all.end.addr());
        found.extend(inside.map(|(place, beside)| {
            let at = (place - all.start.addr()) / size_of::<Slot>();
            (&chunk[at], *beside)
        }));
    }
    found
}

/// How many chunks of slots were made.
#[cfg(feature = "admin")]
pub(crate) fn chunks_made() -> usize {
    MADE.load(Ordering::Acquire)
}

/// The slots of a chunk that was made.
#[cfg(feature = "admin")]
pub(crate) fn chunk(number: usize) -> &'static [Slot] {
    let block = TABLE[number / CHUNKS_A_BLOCK].get();
    let chunk = block.and_then(|block| block[number % CHUNKS_A_BLOCK].get());
    chunk.expect("a chunk is counted after it is made")
}

fn shared() -> MutexGuard<'static, Vec<Batch>> {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner)
}
