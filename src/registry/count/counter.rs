//! Counting without contention: each counter has one writer at a time, so it needs no exchange.
//!
//! A load and a store cost less than an atomic addition, which locks the cache line on every
//! processor. They lose counts if two threads write, so each caller must show that it holds the
//! shard. Additions wrap around, like those of the hardware; a reader subtracts with wrapping too.

use std::sync::atomic::{AtomicU64, Ordering};

/// Adds one to a counter that has no other writer.
///
/// The release store makes all that the thread did before, such as the end of a task, visible to a
/// reader that sees the count.
#[inline]
pub(crate) fn bump(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds one to a counter that has no other writer, with a sequentially consistent store.
/// [`Scope::after_end`](crate::registry::scope::Scope::after_end) says why.
///
/// It costs a full fence on x86_64, which a release store does not. Only the end of a task in a
/// scope pays it.
#[inline]
pub(crate) fn bump_seq_cst(counter: &AtomicU64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::SeqCst,
    );
}

/// Adds `n` to a counter that has no other writer. The store releases; the load may be relaxed,
/// because no other thread stores.
#[inline]
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(
        counter.load(Ordering::Relaxed).wrapping_add(n),
        Ordering::Release,
    );
}
