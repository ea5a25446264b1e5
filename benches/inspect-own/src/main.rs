//! Looks at the untracked tasks of its own runtime: as many as the first argument says, as often as the second one.
//!
//! It prints one object of JSON: the times of the looks in milliseconds, the lateness of a ticker of 1 ms without and during
//! the looks in microseconds, and the resident memory before the first look and after the last one, in kibibytes.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

const TICK: Duration = Duration::from_millis(1);
/// The time for which the ticker is measured alone.
const ALONE: Duration = Duration::from_secs(2);

type Lateness = Arc<Mutex<Vec<Duration>>>;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse().expect("a number"));
    let tasks: usize = arguments.next().expect("the number of tasks");
    let looks: usize = arguments.next().expect("the number of looks");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("the system has threads");
    let stop = Arc::new(Notify::new());
    for _ in 0..tasks {
        runtime.spawn(Arc::clone(&stop).notified_owned());
    }
    let lateness = Lateness::default();
    runtime.spawn(ticker(Arc::clone(&lateness)));
    let attached = headcount::attach(runtime.handle()).expect("the system has threads");
    let group = attached.tasks();
    std::thread::sleep(ALONE);
    let alone = late(&lateness);
    let before = resident();
    let mut times = Vec::new();
    for _ in 0..looks {
        let begun = Instant::now();
        let snapshot = group.snapshot();
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        let untracked = snapshot.untracked().expect("it is the root");
        let count: u64 = untracked.iter().map(|row| row.live).sum();
        // The ticker is one too.
        assert_eq!(count, tasks as u64 + 1);
    }
    let during = late(&lateness);
    let mut text = String::new();
    write!(
        text,
        "{{\"first\": {}, \"later\": {:?}, \"alone\": {alone:?}, \"during\": {during:?}, \"before\": {before}, \"after\": {}}}",
        times[0],
        &times[1..],
        resident()
    )
    .expect("a String takes every write");
    println!("{text}");
    // Not dropped one by one.
    std::process::exit(0);
}

async fn ticker(lateness: Lateness) {
    loop {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due.into()).await;
        let late = due.elapsed();
        lateness.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }
}

/// Returns the 50th and the 99th percentile since the last call.
fn late(lateness: &Lateness) -> [u128; 2] {
    let late = std::mem::take(&mut *lateness.lock().unwrap_or_else(PoisonError::into_inner));
    let mut late: Vec<u128> = late.iter().map(Duration::as_micros).collect();
    late.sort_unstable();
    [50, 99].map(|percent| late.get(late.len() * percent / 100).copied().unwrap_or(0))
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().nth(1));
    kibibytes.and_then(|number| number.parse().ok()).expect("VmRSS in kB, see proc_pid_status(5)")
}
