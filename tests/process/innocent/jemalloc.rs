//! A service with jemalloc and its background threads, which never end.

use headcount::Runtime;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A budget that is never used up, because expected threads end the layer early.
const AMPLE: Duration = Duration::from_secs(30);

fn main() -> headcount::Report {
    let runtime = Runtime::builder()
        .name("innocent")
        .worker_threads(2)
        .close_budget(AMPLE)
        .build()
        .expect("the system has threads");
    runtime.run(async |tasks| {
        // Each thread has its own arena, and returns the memory that it took.
        for _ in 0..4 {
            let work = || drop(std::hint::black_box(vec![0_u8; 1 << 24]));
            let done = tasks.spawn_blocking("allocates", work);
            done.await.expect("it ends");
        }
        println!("ready");
        tasks.draining().await;
    })
}
