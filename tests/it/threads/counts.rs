//! Tests of thread counts by class, and of the list.

use super::{run, run_clean};
use crate::scenario::{Gate, alone, hasty, in_time, quiet, until};
use headcount::threads::{self, ThreadClass, ThreadCounts};
use headcount::{TaskGroup, ThreadKind};
use std::sync::Arc;
#[cfg(tokio_unstable)]
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const CLASSES: [ThreadClass; 7] = [
    ThreadClass::Main,
    ThreadClass::Worker,
    ThreadClass::Blocking,
    ThreadClass::Control,
    ThreadClass::Telemetry,
    ThreadClass::Daemon,
    ThreadClass::Tracked,
];

fn of(counts: &ThreadCounts, class: ThreadClass) -> u64 {
    counts.of(class).expect("it is observed")
}

fn registered(counts: &ThreadCounts) -> [u64; 7] {
    CLASSES.map(|class| of(counts, class))
}

fn bare(work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().spawn(work).expect("a thread")
}

/// Blocks a thread of the pool until the gate opens.
async fn block(tasks: &TaskGroup, gate: &Gate) {
    let (running, runs) = tokio::sync::oneshot::channel();
    let gate = gate.clone();
    tasks.spawn_blocking("closure", move || {
        running.send(()).expect("the test waits");
        gate.wait();
    });
    in_time(runs).await.expect("it runs");
}

#[test]
fn every_thread_of_the_process_is_counted_once_by_its_class() {
    alone(|| {
        let before = threads::live();
        run_clean(async |tasks| {
            let gate = Gate::default();
            // The threads of the pipeline, the output and the watchdog.
            let control = 3;
            let wait = |gate: &Gate| {
                let gate = gate.clone();
                move || gate.wait()
            };
            for _ in 0..3 {
                tasks.spawn_thread("tracked", ThreadKind::Tracked, wait(&gate));
            }
            for _ in 0..2 {
                tasks.spawn_thread("daemon", ThreadKind::Daemon, wait(&gate));
            }
            block(&tasks, &gate).await;
            let unknown = bare(wait(&gate));
            let expected = [1, 2, 1, control, 0, 2, 3];
            until(|| registered(&threads::live()) == expected).await;
            // The thread of this test was unknown before, and is now main.
            until(|| threads::live().of(ThreadClass::Unknown) == before.of(ThreadClass::Unknown))
                .await;
            assert_eq!(tasks.thread_counts().of(ThreadClass::Unknown), None);
            assert_eq!(registered(&tasks.thread_counts()), expected);
            assert_eq!(
                threads::live().total(),
                expected.iter().sum::<u64>() + of(&before, ThreadClass::Unknown)
            );
            gate.open();
            unknown.join().expect("no panic");
            until(|| registered(&threads::live()) == [1, 2, 1, control, 0, 0, 0]).await;
        });
    });
}

/// One thread reads while others start, end, and change their class: a negative number would wrap
/// to an enormous one.
#[test]
fn counts_stay_true_while_threads_come_and_go() {
    alone(|| {
        let runtime = quiet().configure(|builder| {
            builder.thread_keep_alive(std::time::Duration::from_millis(1));
        });
        let report = run(runtime, async |tasks| {
            let quiet = [1, 2, 0, 3, 0, 0, 0];
            let over = Arc::new(AtomicBool::new(false));
            let (is_over, group) = (Arc::clone(&over), tasks.clone());
            let reader = tasks.spawn_thread("reader", ThreadKind::Tracked, move || {
                let mut most = 0;
                while !is_over.load(Ordering::Relaxed) {
                    for counts in [threads::live(), group.thread_counts()] {
                        most = most.max(counts.iter().map(|(_, live)| live).max().unwrap_or(0));
                    }
                }
                most
            });
            for _ in 0..200 {
                churn(&tasks).await;
            }
            over.store(true, Ordering::Relaxed);
            let most = reader.join().expect("no panic");
            assert!(most < 1000, "{most} threads of one class");
            // All temporary threads have ended; only the pool keeps threads, for a moment.
            until(|| registered(&tasks.thread_counts()) == quiet).await;
            until(|| registered(&threads::live()) == quiet).await;
            until(|| threads::live().of(ThreadClass::Unknown) == Some(1)).await;
        });
        assert!(report.is_clean(), "{report}");
    });
}

async fn churn(tasks: &TaskGroup) {
    let tracked = tasks.spawn_thread("tracked", ThreadKind::Tracked, || {});
    let daemon = tasks.spawn_thread("daemon", ThreadKind::Daemon, || {});
    let unknown = bare(|| {});
    let panics = tasks.spawn_thread("panics", ThreadKind::Tracked, || {
        std::panic::resume_unwind(Box::new("it is told to"))
    });
    let adopting = tasks.clone();
    let adopted = bare(move || adopting.adopt_thread("adopted", ThreadKind::Tracked));
    let blocking = tasks.spawn_blocking("blocking", || {});
    let in_place = tasks.spawn("in-place", async { tokio::task::block_in_place(|| {}) });
    blocking.await.expect("no panic");
    in_place.await.expect("no panic");
    for thread in [tracked, daemon] {
        thread.join().expect("no panic");
    }
    panics.join().expect_err("it panics");
    for thread in [unknown, adopted] {
        thread.join().expect("no panic");
    }
}

/// The thread that passed its worker role to another still counted as a worker, so there were more
/// workers than configured.
#[cfg(tokio_unstable)]
#[test]
fn a_worker_that_blocks_in_place_becomes_a_thread_of_the_pool() {
    alone(|| {
        run(quiet().worker_threads(1), async |tasks| {
            let (told, tell) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
            let wait = Arc::clone(&told);
            let blocker = tasks.spawn("blocker", async move {
                tokio::task::block_in_place(|| wait.wait());
            });
            // Only another thread can run this, because the only worker blocks.
            let other = tasks.spawn("other", async move {
                told.wait();
                drop(tell);
            });
            blocker.await.expect("no panic");
            other.await.expect("no panic");
            let counts = || tasks.thread_counts();
            until(|| of(&counts(), ThreadClass::Worker) == 1).await;
            assert_eq!(of(&counts(), ThreadClass::Blocking), 1);
        });
    });
}

/// While it ran its own runtime, it was attributed to that one, and the outer report did not know
/// it.
#[test]
fn a_thread_that_runs_another_runtime_keeps_its_class() {
    alone(|| {
        let gate = Gate::default();
        let hold = gate.clone();
        let report = run(hasty(), async |tasks| {
            let (running, runs) = tokio::sync::oneshot::channel();
            tasks.spawn_thread("outer", ThreadKind::Tracked, move || {
                let inner = quiet().current_thread().build().expect("it builds");
                inner.run(async |_| {
                    running.send(()).expect("the test waits");
                    hold.wait();
                });
            });
            in_time(runs).await.expect("it runs");
            assert_eq!(of(&tasks.thread_counts(), ThreadClass::Tracked), 1);
            assert_eq!(of(&threads::live(), ThreadClass::Main), 1);
        });
        let left: Vec<_> = report.close.threads.iter().collect();
        let [thread] = left.as_slice() else {
            panic!("not one thread: {report}")
        };
        assert_eq!(thread.name, "outer");
        gate.open();
    });
}

#[test]
fn a_thread_of_the_pool_that_runs_a_runtime_is_not_a_worker() {
    alone(|| {
        run_clean(async |tasks| {
            let group = tasks.clone();
            let blocking = tasks.spawn_blocking("inner", move || {
                let inner = quiet().current_thread().build().expect("it builds");
                let report = inner.run(async |_| {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                });
                assert!(report.is_clean(), "{report}");
                of(&group.thread_counts(), ThreadClass::Worker)
            });
            assert_eq!(blocking.await.expect("no panic"), 2);
        });
    });
}

#[test]
fn the_list_knows_full_names_and_spawn_sites() {
    alone(|| {
        run_clean(async |tasks| {
            let gate = Gate::default();
            let names = ["a-name-of-more-than-15-bytes", "adopted-under-a-long-name"];
            let (hold, adopting) = (gate.clone(), tasks.clone());
            let line = line!() + 1;
            tasks.spawn_thread(names[0], ThreadKind::Daemon, move || hold.wait());
            let hold = gate.clone();
            let adopted = bare(move || {
                adopting.adopt_thread(names[1], ThreadKind::Tracked);
                // A registered thread keeps its kind.
                adopting.adopt_thread("another", ThreadKind::Daemon);
                hold.wait();
            });
            let named = |name: &str| tasks.threads().into_iter().find(|info| info.name == name);
            until(|| named(names[0]).is_some() && named(names[1]).is_some()).await;
            until(|| named(names[0]).is_some_and(|info| info.state == "sleeping")).await;
            let daemon = named(names[0]).expect("it waits at the gate");
            assert_eq!((daemon.class, daemon.own), (ThreadClass::Daemon, true));
            let started = daemon.started.expect("headcount started it");
            assert_eq!((started.file(), started.line()), (file!(), line));
            let adopted_info = named(names[1]).expect("it waits at the gate");
            assert_eq!(adopted_info.class, ThreadClass::Tracked);
            let own = tasks.threads().into_iter().filter(|info| info.own).count() as u64;
            assert_eq!(own, tasks.thread_counts().total());
            gate.open();
            adopted.join().expect("no panic");
        });
    });
}
