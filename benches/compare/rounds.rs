//! The work that all variants do.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::task::yield_now;

/// Number of tasks that are spawned before they are joined.
pub(crate) const BATCH: usize = 1_000;

/// Yields `yields` times and ends.
pub(crate) async fn short(yields: usize) {
    for _ in 0..yields {
        yield_now().await;
    }
}

/// Tasks that never end by themselves, with a count of those that have been polled.
#[derive(Clone, Default)]
pub(crate) struct Parking(Arc<AtomicUsize>);

// === impl Parking ===

impl Parking {
    /// Returns a task that parks forever.
    pub(crate) fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let parked = self.0.clone();
        async move {
            // Drops the counter before parking, because the reference is not part of a parked task.
            parked.fetch_add(1, Ordering::Relaxed);
            drop(parked);
            pending::<()>().await;
        }
    }

    /// Waits until `count` tasks are parked.
    pub(crate) async fn full(&self, count: usize) {
        while self.0.load(Ordering::Relaxed) < count {
            yield_now().await;
        }
    }
}
