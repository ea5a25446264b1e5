//! Latency of busy tasks while other work runs: the time from one poll to the next.

use crate::headcount::Owned;
use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// One busy task for each worker, so that both workers are always busy.
pub(crate) const WORKERS: usize = 2;
/// Long enough for the number of polls that a percentile needs.
pub(crate) const WORK: Duration = Duration::from_millis(40);

/// Returns the 99th percentile of the time between two polls of tasks that yield all the time while
/// `work` runs.
pub(crate) fn percentile(runtime: &Owned, work: impl FnOnce()) -> f64 {
    let over = Arc::new(AtomicBool::new(false));
    let waits: Vec<_> = (0..WORKERS)
        .map(|_| runtime.spawn(yielding(Arc::clone(&over))))
        .collect();
    work();
    over.store(true, Ordering::Relaxed);
    let mut times: Vec<f64> = waits
        .into_iter()
        .flat_map(|wait: oneshot::Receiver<Vec<f64>>| wait.blocking_recv().expect("it ends"))
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

async fn yielding(over: Arc<AtomicBool>) -> Vec<f64> {
    let mut times = Vec::new();
    let mut last = Instant::now();
    while !over.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
        let now = Instant::now();
        times.push((now - last).as_nanos() as f64);
        last = now;
    }
    times
}
