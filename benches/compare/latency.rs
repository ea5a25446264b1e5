//! What tasks that work all the time notice of something else: how long they wait from one poll to the next.

use crate::headcount::Owned;
use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// What works meanwhile: one task for each worker, so that both are busy all the time.
pub(crate) const WORKERS: usize = 2;
/// In so long there are polls enough to tell a percentile.
pub(crate) const WORK: Duration = Duration::from_millis(40);

/// The 99th percentile of the time between two polls of tasks that yield all the time, while `work` is done.
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
