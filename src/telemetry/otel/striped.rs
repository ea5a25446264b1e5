//! A striped lock: the data is split into parts with a lock each, so threads seldom contend.
//!
//! It serves the queue of records and the table of live spans, to which every worker writes. A
//! thread keeps one stripe for its life, so with at most eight writing threads no two of them
//! contend. With more, a stripe has several writers, and its lock is held only for a push or a map
//! operation.
//!
//! There is no reader lock over all stripes: a reader sees the stripes one after the other, and
//! never a common moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The number of stripes. It bounds the size, 8 cache lines for each value, and the cost of a
/// reader, which locks them all.
pub(super) const STRIPES: usize = 8;

/// A value of type `T` in each stripe.
#[derive(Debug, Default)]
pub(super) struct Striped<T>([Stripe<T>; STRIPES]);

/// A locked part on its own cache line, so that stripes do not share one.
///
/// 64 bytes is the cache line of x86-64 and of most arm64 processors. On one with longer lines two
/// stripes share a line, which is slower and not wrong.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe<T>(Mutex<T>);

/// The number of threads that have a stripe; only spreads them, so it is relaxed. It is never
/// decremented. Threads that come and go keep moving the assignment on, so two live threads may
/// share a stripe while another one is free.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Assigned at the thread's first use, and the same for all striped values.
    static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// Returns the stripe of this thread. Threads get the stripes in turn.
///
/// A thread that ends gets stripe 0: a task may be dropped by the destructor of another
/// thread-local, and its end must still be recorded.
#[inline]
pub(super) fn own() -> usize {
    // The thread-local is gone while the thread ends.
    OWN.try_with(|own| *own).unwrap_or(0)
}

// === impl Striped ===

impl<T> Striped<T> {
    /// Locks one stripe.
    ///
    /// `stripe` must be below [`STRIPES`]; every caller passes a value of [`own`]. A poisoned lock
    /// is used as it is, because a push, a removal and a swap leave the data whole even if they
    /// panic.
    #[inline]
    pub(super) fn lock(&self, stripe: usize) -> MutexGuard<'_, T> {
        let Stripe(part) = &self.0[stripe];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the parts in turn, each locked until the caller drops it.
    ///
    /// No two stripes are locked at once unless the caller keeps a guard, so the order in which
    /// threads lock them cannot deadlock.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        (0..STRIPES).map(|stripe| self.lock(stripe))
    }
}
