//! As many tasks as the first argument says, which wait in six ways, and a ticker that measures how late it is.
//!
//! It prints its pid once all of them wait. For each line of input it prints the lateness of the ticker since the last one,
//! the 50th and the 99th percentile, in microseconds.

use std::future::Future;
use std::io::{BufRead as _, Write as _};
use std::pin::Pin;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Barrier, Notify, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const TICK: Duration = Duration::from_millis(1);

type Lateness = Arc<Mutex<Vec<Duration>>>;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let count: usize = count.expect("the number of tasks");
    let shared = Arc::new(Shared {
        stop: Notify::new(),
        permits: Semaphore::new(0),
        begun: Barrier::new(count + 1),
    });
    for at in 0..count {
        let shared = Arc::clone(&shared);
        match at % 6 {
            0 => drop(tokio::spawn(connection(shared))),
            1 => drop(tokio::spawn(sleeper(shared))),
            2 => drop(tokio::spawn(receiver(shared))),
            3 => drop(tokio::spawn(acquirer(shared))),
            4 => drop(tokio::spawn(boxed(shared))),
            _ => drop(tokio::spawn(selects(shared))),
        }
    }
    shared.begun.wait().await;
    let lateness = Lateness::default();
    tokio::spawn(ticker(Arc::clone(&lateness)));
    let (ended, end) = oneshot::channel();
    let (pid, ask) = channel();
    std::thread::spawn(move || {
        answer(&lateness, &pid);
        ended.send(()).ok();
    });
    ask.recv().expect("the thread begins");
    end.await.expect("the thread ends");
    // Not dropped one by one.
    std::process::exit(0);
}

struct Shared {
    stop: Notify,
    permits: Semaphore,
    begun: Barrier,
}

/// Prints the pid, then the lateness for each line of input.
fn answer(lateness: &Lateness, begun: &Sender<()>) {
    let mut out = std::io::stdout();
    writeln!(out, "{}", std::process::id()).expect("it is read");
    begun.send(()).expect("main waits");
    for line in std::io::stdin().lock().lines() {
        line.expect("it is text");
        let late = std::mem::take(&mut *lateness.lock().unwrap_or_else(PoisonError::into_inner));
        let mut late: Vec<u128> = late.iter().map(Duration::as_micros).collect();
        late.sort_unstable();
        let at = |percent: usize| late.get(late.len() * percent / 100).copied().unwrap_or(0);
        writeln!(out, "{} {}", at(50), at(99)).expect("it is read");
    }
}

async fn ticker(lateness: Lateness) {
    loop {
        let due = Instant::now() + TICK;
        tokio::time::sleep_until(due).await;
        let late = due.elapsed();
        lateness.lock().unwrap_or_else(PoisonError::into_inner).push(late);
    }
}

async fn connection(shared: Arc<Shared>) {
    serve(&shared, [0; 16]).await;
}

async fn serve(shared: &Shared, buffer: [u64; 16]) {
    shared.begun.wait().await;
    handler(shared, buffer[3]).await;
}

async fn handler(shared: &Shared, number: u64) {
    let key = format!("key {number}");
    shared.stop.notified().await;
    drop(key);
}

async fn sleeper(shared: Arc<Shared>) {
    shared.begun.wait().await;
    tokio::time::timeout(2 * DAY, tokio::time::sleep(DAY)).await.ok();
}

async fn receiver(shared: Arc<Shared>) {
    let (_sender, mut receiver) = mpsc::channel::<String>(1);
    shared.begun.wait().await;
    receiver.recv().await;
}

async fn acquirer(shared: Arc<Shared>) {
    shared.begun.wait().await;
    shared.permits.acquire().await.ok();
}

async fn boxed(shared: Arc<Shared>) {
    let future: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(connection(shared));
    future.await;
}

async fn selects(shared: Arc<Shared>) {
    let (_sender, receiver) = oneshot::channel::<u32>();
    shared.begun.wait().await;
    tokio::select! {
        _ = receiver => {}
        () = shared.stop.notified() => {}
    }
}
