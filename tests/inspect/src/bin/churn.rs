//! Tasks that stay, on a runtime and on a `LocalSet`, while others come and go all the time.
//!
//! It prints its pid once all that stay are spawned.

use std::future::pending;
use std::time::Duration;
use tokio::task::{LocalSet, spawn_local, yield_now};

/// As many as the test expects.
const STAY: usize = 1000;
const LOCAL: usize = 20;
const AT_ONCE: usize = 50;

#[tokio::main(worker_threads = 2)]
async fn main() {
    for _ in 0..STAY {
        tokio::spawn(stays());
    }
    tokio::spawn(comes_and_goes());
    let set = LocalSet::new();
    let local = async {
        for _ in 0..LOCAL {
            spawn_local(stays_local());
        }
        println!("{}", std::process::id());
        pending::<()>().await;
    };
    set.run_until(local).await;
}

async fn stays() {
    pending::<()>().await;
}

async fn stays_local() {
    pending::<()>().await;
}

async fn comes_and_goes() {
    loop {
        for _ in 0..AT_ONCE {
            tokio::spawn(yield_now());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
