//! A lock in stripes: threads that each have one of their own seldom wait for each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) const STRIPES: usize = 8;

/// What each stripe has a part of.
#[derive(Debug, Default)]
pub(super) struct Striped<T>([Stripe<T>; STRIPES]);

/// A line of the cache of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe<T>(Mutex<T>);

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OWN: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
}

/// The stripe of this thread.
#[inline]
pub(super) fn own() -> usize {
    // A thread that ends has lost its number.
    OWN.try_with(|own| *own).unwrap_or(0)
}

// === impl Striped ===

impl<T> Striped<T> {
    #[inline]
    pub(super) fn lock(&self, stripe: usize) -> MutexGuard<'_, T> {
        let Stripe(part) = &self.0[stripe];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each part in turn, locked while the caller has it.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        (0..STRIPES).map(|stripe| self.lock(stripe))
    }
}
