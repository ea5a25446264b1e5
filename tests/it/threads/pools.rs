//! Tests of threads in foreign pools.

use super::{run, run_clean};
use crate::scenario::{alone, hasty};
use headcount::threads::ThreadClass;
use headcount::{TaskGroup, ThreadKind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};

/// The line in which the threads of a pool start.
static LINE: AtomicU32 = AtomicU32::new(0);

/// Returns a pool with threads that are started through headcount.
fn pool(tasks: &TaskGroup, kind: ThreadKind) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .spawn_handler(|thread| {
            let name = format!("pool-{}", thread.index());
            let mut start = tasks.thread(&name);
            if kind == ThreadKind::Daemon {
                start = start.daemon();
            }
            LINE.store(line!() + 1, Ordering::Relaxed);
            start.spawn(|_stop| thread.run()).map(drop)
        })
        .build()
        .expect("the system has threads")
}

#[test]
fn a_pool_that_is_dropped_ends_clean() {
    alone(|| {
        run_clean(async |tasks| {
            let pool = pool(&tasks, ThreadKind::Tracked);
            let names = pool.broadcast(|_| {
                let name = std::thread::current();
                name.name().expect("it has one").to_owned()
            });
            assert_eq!(names, ["pool-0", "pool-1", "pool-2"]);
            let counts = tasks.thread_counts();
            assert_eq!(counts.of(ThreadClass::Tracked), Some(3));
        });
    });
}

#[test]
fn a_pool_that_is_kept_alive_is_named_with_its_threads() {
    alone(|| {
        let mut kept = None;
        let report = run(hasty(), async |tasks| {
            let pool = pool(&tasks, ThreadKind::Tracked);
            pool.broadcast(|_| ());
            kept = Some(pool);
        });
        let mut left: Vec<_> = report
            .close
            .threads
            .iter()
            .map(|thread| {
                (
                    thread.name.as_str(),
                    thread.class,
                    thread.started.map(ToString::to_string),
                )
            })
            .collect();
        left.sort();
        let line = LINE.load(Ordering::Relaxed);
        let site = Some(format!("{}:{line}:19", file!()));
        let row = |name| (name, ThreadClass::Tracked, site.clone());
        assert_eq!(left, ["pool-0", "pool-1", "pool-2"].map(row), "{report}");
        drop(kept);
    });
}

#[test]
fn a_pool_of_daemons_may_die_with_the_process() {
    alone(|| {
        let mut kept = None;
        run_clean(async |tasks| {
            kept = Some(pool(&tasks, ThreadKind::Daemon));
        });
        drop(kept);
    });
}

/// The pool starts its threads itself, and calls a hook on each.
#[test]
fn threads_of_a_pool_with_only_a_hook_are_adopted() {
    alone(|| {
        let (told, heard) = channel();
        let mut senders: Vec<Sender<()>> = Vec::new();
        let report = run(hasty(), async |tasks| {
            let hook = move || tasks.adopt_thread("hooked", ThreadKind::Tracked);
            let (release, hold) = channel::<()>();
            senders.push(release);
            std::thread::Builder::new()
                .spawn(move || {
                    hook();
                    drop(hook);
                    told.send(()).expect("the test waits");
                    hold.recv().expect_err("nothing is sent");
                })
                .expect("a thread");
            heard.recv().expect("it is told");
        });
        let [thread] = report.close.threads.as_slice() else {
            panic!("not one thread: {report}")
        };
        assert_eq!(thread.name, "hooked");
        assert_eq!(thread.class, ThreadClass::Tracked);
        drop(senders);
    });
}
