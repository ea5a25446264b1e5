//! Runtimes in the setting that the first argument names, each with tasks that stay. Their numbers are in `tests/process/inspect.rs`
//! and in `matrix`.
//!
//! It prints its pid once the tasks are spawned.

use std::future::pending;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};

const STAY: usize = 10;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Public for the program that has this one as a module, with another allocator.
pub fn main() {
    let setting = std::env::args().nth(1);
    match setting.as_deref().expect("the name of a setting") {
        "plain" => waits(&workers()),
        "two-runtimes" => two_runtimes(),
        "current-thread" => waits(&one_thread()),
        "not-driven" => not_driven(),
        "local-set" => local_set(),
        "local-set-alone" => local_set_alone(),
        "dropped" => dropped(),
        "stuck" => stuck(|| thread::sleep(DAY)),
        "spinning" => stuck(|| {
            loop {
                std::hint::spin_loop();
            }
        }),
        "not-dumpable" => {
            // The kernel takes this flag from a program that changes it.
            not_dumpable();
            waits(&workers());
        }
        other => panic!("no setting {other}"),
    }
}

fn workers() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    builder.build().expect("a runtime")
}

fn one_thread() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime")
}

async fn stays() {
    pending::<()>().await;
}

fn spawn(runtime: &Runtime) {
    for _ in 0..STAY {
        runtime.spawn(stays());
    }
}

fn say() {
    println!("{}", std::process::id());
}

fn waits(runtime: &Runtime) {
    spawn(runtime);
    runtime.block_on(async {
        tokio::task::yield_now().await;
        say();
        pending::<()>().await;
    });
}

fn two_runtimes() {
    let second = workers();
    spawn(&second);
    spawn(&second);
    waits(&workers());
    drop(second);
}

/// The tasks of a runtime on which nothing is driven are there, and were never polled.
fn not_driven() {
    let runtime = one_thread();
    spawn(&runtime);
    say();
    thread::sleep(DAY);
    drop(runtime);
}

fn local_set() {
    let runtime = workers();
    spawn(&runtime);
    let set = LocalSet::new();
    let local = async {
        for _ in 0..STAY {
            spawn_local(stays());
        }
        tokio::task::yield_now().await;
        say();
        pending::<()>().await;
    };
    runtime.block_on(set.run_until(local));
}

fn local_set_alone() {
    let set = LocalSet::new();
    for _ in 0..STAY {
        set.spawn_local(stays());
    }
    set.spawn_local(async { say() });
    one_thread().block_on(set);
}

/// A worker that blocks keeps the drop of its runtime from its end; the other one drops all other tasks.
fn dropped() {
    let runtime = workers();
    spawn(&runtime);
    let (entered, entry) = channel();
    runtime.spawn(async move {
        entered.send(()).ok();
        thread::sleep(DAY);
    });
    entry.recv().expect("it is polled");
    say();
    drop(runtime);
}

/// All workers are in a task that does not return.
fn stuck(how: fn()) {
    let runtime = workers();
    spawn(&runtime);
    let (entered, entries) = channel();
    for _ in 0..2 {
        let entered = entered.clone();
        runtime.spawn(async move {
            entered.send(()).ok();
            how();
        });
        entries.recv().expect("it is polled");
    }
    say();
    thread::sleep(DAY);
    drop(runtime);
}

/// Refuses that the memory of this process is read.
fn not_dumpable() {
    unsafe extern "C" {
        fn prctl(option: i32, value: u64, _: u64, _: u64, _: u64) -> i32;
    }
    const PR_SET_DUMPABLE: i32 = 4;
    // SAFETY: the option takes a number.
    assert_eq!(unsafe { prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) }, 0);
}
