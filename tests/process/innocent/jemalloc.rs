//! A service with jemalloc, whose background threads have no end.

use headcount::Runtime;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is expected ends the layer before.
const AMPLE: Duration = Duration::from_secs(30);

fn main() -> headcount::Report {
    let runtime = Runtime::builder()
        .name("innocent")
        .worker_threads(2)
        .close_budget(AMPLE)
        .build()
        .expect("the system has threads");
    runtime.run(async |tasks| {
        // Each has an arena of its own, and gives back what it took.
        for _ in 0..4 {
            let work = || drop(std::hint::black_box(vec![0_u8; 1 << 24]));
            let done = tasks.spawn_blocking("allocates", work);
            done.await.expect("it ends");
        }
        println!("ready");
        tasks.draining().await;
    })
}
