//! The work that the measures give to every variant alike.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::task::yield_now;

/// How many tasks are spawned before their ends are awaited.
pub(crate) const BATCH: usize = 1_000;

/// A task that yields so many times and ends.
pub(crate) async fn short(yields: usize) {
    for _ in 0..yields {
        yield_now().await;
    }
}

/// Tasks that never end by themselves, counted when they have been polled.
#[derive(Clone, Default)]
pub(crate) struct Parking(Arc<AtomicUsize>);

// === impl Parking ===

impl Parking {
    /// A task that parks for ever.
    pub(crate) fn task(&self) -> impl Future<Output = ()> + Send + use<> {
        let parked = self.0.clone();
        async move {
            // Lets the counter go before it parks: its reference is no part of what a parked task
            // holds.
            parked.fetch_add(1, Ordering::Relaxed);
            drop(parked);
            pending::<()>().await;
        }
    }

    /// Waits until so many tasks are parked.
    pub(crate) async fn full(&self, count: usize) {
        while self.0.load(Ordering::Relaxed) < count {
            yield_now().await;
        }
    }
}
