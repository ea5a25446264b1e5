//! A service with a task that hangs. A test builds it in release.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

fn main() -> headcount::Report {
    let cache = Arc::new(Mutex::new(1));
    let held = Arc::clone(&cache).try_lock_owned();
    let runtime = headcount::Runtime::builder()
        .name("released")
        .drain_budget(Duration::from_secs(2))
        .build()
        .expect("threads");
    let report = runtime.run(async move |tasks| {
        let (begun, begins) = tokio::sync::oneshot::channel();
        tasks.spawn("lookup", serve(cache, begun));
        begins.await.ok();
    });
    drop(held);
    report
}

async fn serve(cache: Arc<Mutex<u32>>, begun: tokio::sync::oneshot::Sender<()>) {
    begun.send(()).ok();
    look_up(&cache).await; // mark: root
}

async fn look_up(cache: &Mutex<u32>) {
    load(cache).await; // mark: middle
}

async fn load(cache: &Mutex<u32>) {
    println!("{}", cache.lock().await); // mark: leaf
}
