//! Dumps a hundred thousand live tasks, and asks what that does to tasks that work meanwhile.

use crate::{
    harness::{Samples, Scale},
    headcount::Owned,
    table::{Limit, Row, Section, Unit},
};
use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// Of the tasks that are parked in other measures.
const SHARE: usize = 10;
/// What works meanwhile: one task for each worker, so that both are busy all the time.
const WORKERS: usize = 2;
/// At least so many polls tell a percentile.
const WORK: Duration = Duration::from_millis(40);

pub(crate) fn measure(scale: &Scale) -> Vec<Section> {
    let runtime = Owned::new(WORKERS);
    let parked = runtime.park(scale.parked / SHARE);
    let (mut dumps, mut without, mut during) = (Vec::new(), Vec::new(), Vec::new());
    // The first one looks up names.
    runtime.dump();
    for _ in 0..scale.repetitions {
        without.push(latency(&runtime, || std::thread::sleep(WORK)));
        during.push(latency(&runtime, || {
            let began = Instant::now();
            runtime.dump();
            dumps.push(nanos(began.elapsed()));
        }));
    }
    drop(parked);
    vec![
        Section {
            title: "Dump 100,000 live tasks".to_owned(),
            unit: Unit::Milliseconds,
            note: "Of one kind, parked, while a task on each of the 2 workers yields all the time. Threads, and what the \
                   listed tasks await, included. No peer has such a thing, so these are plain times.",
            rows: vec![Row::new(("headcount, dump", Samples::new(dumps)))],
        }
        .limit("headcount, dump", &[Limit::Total(50e6)]),
        Section {
            title: "The working tasks meanwhile".to_owned(),
            unit: Unit::Nanoseconds,
            note: "From one poll of a task to its next: the 99th percentile of each turn.",
            rows: vec![
                Row::new(("without a dump", Samples::new(without))),
                Row::new(("during the dump", Samples::new(during))),
            ],
        },
    ]
}

/// The 99th percentile of the time between two polls of tasks that yield all the time, while `work` is done.
fn latency(runtime: &Owned, work: impl FnOnce()) -> f64 {
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
        times.push(nanos(now - last));
        last = now;
    }
    times
}

fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}
