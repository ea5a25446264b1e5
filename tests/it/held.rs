//! Tests of tasks that block their threads: a warning while they do, and another when the poll
//! returns.

use crate::heard::Heard;
use crate::scenario::{Gate, alone, in_time, quiet, until};
use headcount::{Builder, TaskGroup};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_millis(100);
/// A limit that is long enough not to be exceeded because the thread waits for a CPU.
const LONG_LIMIT: Duration = Duration::from_secs(2);

/// Runs a service on its own thread, for a test that reads the log in the meantime.
fn serve(builder: Builder, main: impl AsyncFnOnce(&TaskGroup) + Send + 'static) -> impl FnOnce() {
    serve_within(LIMIT, builder, main)
}

fn serve_within(
    limit: Duration,
    builder: Builder,
    main: impl AsyncFnOnce(&TaskGroup) + Send + 'static,
) -> impl FnOnce() {
    let runtime = builder.hold_limit(limit).build().unwrap();
    let tasks = runtime.tasks().clone();
    #[expect(clippy::disallowed_methods, reason = "it is the process's main thread")]
    let thread = std::thread::spawn(move || {
        let report = runtime.run(async |tasks| {
            main(&tasks).await;
            in_time(tasks.draining()).await;
        });
        assert_eq!(report.reason.to_string(), "enough");
    });
    move || {
        tasks.stop("enough");
        thread.join().unwrap();
    }
}

/// Spawns a task that blocks its thread until the gate opens.
#[track_caller]
fn hold(tasks: &TaskGroup, name: &str, gate: &Gate) {
    let gate = gate.clone();
    drop(tasks.spawn(name, async move { gate.wait() }));
}

#[test]
fn a_task_that_blocks_its_worker_is_logged_during_and_after_the_poll() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let held = gate.clone();
        let end = serve(quiet(), async move |tasks| {
            hold(&tasks.group("http"), "busy", &held);
        });
        let (told, seen) = heard.next();
        let worker = if cfg!(tokio_unstable) {
            " worker=N"
        } else {
            ""
        };
        let told = told.replace(worker, "");
        insta::assert_snapshot!(told, @r#"WARN headcount::worker: task has blocked its thread for Ns without yielding group="http" task="busy" id=N spawned=tests/it/held.rs:N:N thread="headcount-work" tid=N held_seconds=N"#);
        assert!(seen.starts_with("\"waiting on futex 0x"), "{seen}");
        gate.open();
        let (told, _) = heard.next();
        insta::assert_snapshot!(told, @r#"INFO headcount::worker: task stopped blocking its thread after Ns group="http" task="busy" id=N thread="headcount-work" tid=N held_seconds=N"#);
        end();
        assert_eq!(heard.rest(), [""; 0], "once an episode");
    });
}

#[test]
fn a_warning_says_that_every_worker_is_stuck() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let held = gate.clone();
        let end = serve(quiet(), async move |tasks| {
            hold(tasks, "first", &held);
            hold(tasks, "second", &held);
        });
        let mut told = [heard.next().0, heard.next().0, heard.next().0];
        told.sort();
        assert!(told[1].contains("task=\"first\""), "{told:?}");
        assert!(told[2].contains("task=\"second\""), "{told:?}");
        insta::assert_snapshot!(told[0], @"WARN headcount::worker: all 2 workers are blocked: no task can run until one yields workers=2");
        gate.open();
        end();
    });
}

#[test]
fn the_only_thread_of_a_runtime_is_watched_too() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let held = gate.clone();
        let end = serve(quiet().current_thread(), async move |tasks| {
            hold(tasks, "busy", &held);
        });
        let (told, _) = heard.next();
        assert!(told.contains("task=\"busy\""), "{told}");
        let (told, _) = heard.next();
        insta::assert_snapshot!(told, @"WARN headcount::worker: the only worker is blocked: no task can run until it yields workers=1");
        gate.open();
        let (told, _) = heard.next();
        assert!(told.contains("task stopped blocking its thread"), "{told}");
        end();
    });
}

#[test]
fn main_and_local_tasks_are_watched_too() {
    alone(|| {
        let (heard, gates) = (
            Heard::of("headcount::worker"),
            [Gate::default(), Gate::default()],
        );
        let [first, second] = gates.clone();
        let end = serve(quiet(), async move |tasks| {
            first.wait();
            let local = tokio::task::LocalSet::new();
            let held = local.run_until(async {
                let task = tasks.spawn_local("local", async move { second.wait() });
                task.await.unwrap();
            });
            held.await;
        });
        for (gate, name) in gates.iter().zip(["main", "local"]) {
            let (told, _) = heard.next();
            assert!(told.contains("WARN"), "{told}");
            assert!(told.contains(&format!("task=\"{name}\"")), "{told}");
            gate.open();
            let (told, _) = heard.next();
            assert!(told.contains("task stopped blocking its thread"), "{told}");
        }
        end();
    });
}

/// The poll of the outer task continues after those of the inner one.
#[test]
fn a_task_that_drives_another_on_its_thread_is_watched_afterwards() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let held = gate.clone();
        let end = serve(quiet(), async move |tasks| {
            let inner = tasks.clone();
            drop(tasks.spawn("outer", async move {
                {
                    let mut local = pin!(tokio::task::LocalSet::new());
                    let entered = local.enter();
                    let mut polls = 0;
                    drop(inner.spawn_local(
                        "inner",
                        poll_fn(move |cx| {
                            polls += 1;
                            // The wake-up of a yield would come after the poll of the outer task.
                            cx.waker().wake_by_ref();
                            if polls < 3 {
                                Poll::Pending
                            } else {
                                Poll::Ready(())
                            }
                        }),
                    ));
                    drop(entered);
                    let mut cx = Context::from_waker(Waker::noop());
                    while local.as_mut().poll(&mut cx).is_pending() {}
                }
                held.wait();
            }));
        });
        let (told, _) = heard.next();
        assert!(told.contains("task=\"outer\""), "{told}");
        gate.open();
        let (told, _) = heard.next();
        assert!(told.contains("task stopped blocking its thread"), "{told}");
        end();
    });
}

/// The task of the last warning has blocked its worker for less time than the others have worked.
#[test]
fn tasks_with_many_short_polls_cause_no_warning() {
    alone(|| {
        let (heard, gate, closure) = (
            Heard::of("headcount::worker"),
            Gate::default(),
            Gate::default(),
        );
        let (held, inside) = (gate.clone(), closure.clone());
        let polls = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let (counted, ended) = (Arc::clone(&polls), Arc::clone(&over));
        let end = serve_within(LONG_LIMIT, quiet(), async move |tasks| {
            drop(tasks.spawn_blocking("reindex", move || inside.wait()));
            // Always on a thread, but never in one poll for long.
            let (count, over) = (Arc::clone(&counted), Arc::clone(&ended));
            drop(tasks.spawn("eager", async move {
                while !over.load(Ordering::Relaxed) {
                    count.fetch_add(1, Ordering::Relaxed);
                    let begun = Instant::now();
                    while begun.elapsed() < LONG_LIMIT / 100 {}
                    tokio::task::yield_now().await;
                }
            }));
            let begun = Instant::now();
            until(|| begun.elapsed() > LONG_LIMIT * 2).await;
            hold(tasks, "busy", &held);
        });
        let (told, _) = heard.next();
        assert!(told.contains("task=\"busy\""), "{told}");
        assert!(polls.load(Ordering::Relaxed) > 1);
        over.store(true, Ordering::Relaxed);
        closure.open();
        gate.open();
        let (told, _) = heard.next();
        assert!(told.contains("stopped blocking"), "{told}");
        end();
        assert_eq!(heard.rest(), [""; 0]);
    });
}

/// Its worker continues on another thread.
#[cfg(tokio_unstable)]
#[test]
fn a_task_that_blocks_in_place_holds_no_worker() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let (aside, held) = (gate.clone(), gate.clone());
        let begun = Gate::default();
        let inside = begun.clone();
        let end = serve(quiet(), async move |tasks| {
            drop(tasks.spawn("polite", async move {
                tokio::task::block_in_place(|| {
                    inside.open();
                    aside.wait();
                });
            }));
            begun.wait();
            hold(tasks, "busy", &held);
        });
        let (told, _) = heard.next();
        assert!(told.contains("task=\"busy\""), "{told}");
        gate.open();
        let (told, _) = heard.next();
        assert!(told.contains("stopped blocking"), "{told}");
        end();
        assert_eq!(heard.rest(), [""; 0]);
    });
}

#[test]
fn without_a_limit_no_task_is_watched() {
    alone(|| {
        let runtime = quiet().hold_limit(None).build().unwrap();
        drop(runtime.tasks().spawn("idler", std::future::pending::<()>()));
        let dump = runtime.dump();
        assert_eq!(dump.root.kinds[0].rows[0].last_poll, None);
    });
}

/// The task is unknown, but the worker sleeps outside of tokio.
#[cfg(tokio_unstable)]
#[test]
fn a_worker_on_which_an_untracked_task_sleeps_causes_a_warning() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let held = gate.clone();
        let end = serve(quiet(), async move |_| {
            #[expect(clippy::disallowed_methods, reason = "an untracked task is under test")]
            drop(tokio::spawn(async move { held.wait() }));
        });
        let (told, seen) = heard.next();
        insta::assert_snapshot!(told, @r#"WARN headcount::worker: untracked task has blocked its worker for Ns: it sleeps inside a poll thread="headcount-work" tid=N worker=N held_seconds=N"#);
        assert!(seen.starts_with("\"waiting on futex 0x"), "{seen}");
        gate.open();
        let (told, _) = heard.next();
        insta::assert_snapshot!(told, @r#"INFO headcount::worker: worker makes progress again after Ns thread="headcount-work" tid=N worker=N held_seconds=N"#);
        end();
        assert_eq!(
            heard.rest(),
            [""; 0],
            "the other worker only waits for work"
        );
    });
}

/// This looks like many short polls, except for tokio's poll count.
#[cfg(tokio_unstable)]
#[test]
fn a_worker_that_an_untracked_task_keeps_busy_causes_a_warning() {
    alone(|| {
        let (heard, over) = (
            Heard::of("headcount::worker"),
            Arc::new(AtomicBool::new(false)),
        );
        let ended = Arc::clone(&over);
        let end = serve(quiet(), async move |_| {
            #[expect(clippy::disallowed_methods, reason = "an untracked task is under test")]
            drop(tokio::spawn(async move { spin(&ended) }));
        });
        let (told, seen) = heard.next();
        insta::assert_snapshot!(told, @r#"WARN headcount::worker: untracked tasks have kept a worker busy for Ns with long polls thread="headcount-work" tid=N worker=N held_seconds=N"#);
        let is_shown = seen.contains("held::spin") || seen.contains("no_stack");
        assert!(!cfg!(feature = "stacks") || is_shown, "{seen}");
        over.store(true, Ordering::Relaxed);
        let (told, _) = heard.next();
        assert!(told.contains("worker makes progress again"), "{told}");
        end();
        assert_eq!(heard.rest(), [""; 0]);
    });
}

/// The task is untracked, and always on its worker, but never in one poll for long.
#[cfg(tokio_unstable)]
#[test]
fn a_worker_that_untracked_tasks_keep_busy_in_many_polls_causes_no_warning() {
    alone(|| {
        let heard = Heard::of("headcount::worker");
        let end = serve(quiet(), async move |_| {
            #[expect(clippy::disallowed_methods, reason = "an untracked task is under test")]
            let busy = tokio::spawn(async move {
                let begun = Instant::now();
                while begun.elapsed() < LONG_LIMIT * 4 {
                    tokio::task::yield_now().await;
                }
            });
            in_time(busy).await.unwrap();
        });
        end();
        assert_eq!(heard.rest(), [""; 0]);
    });
}

#[cfg(tokio_unstable)]
#[inline(never)]
fn spin(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

#[cfg(tokio_unstable)]
#[test]
fn tracked_and_untracked_tasks_together_may_hold_all_workers() {
    alone(|| {
        let (heard, gate) = (Heard::of("headcount::worker"), Gate::default());
        let (first, second) = (gate.clone(), gate.clone());
        let end = serve(quiet(), async move |tasks| {
            hold(tasks, "first", &first);
            #[expect(clippy::disallowed_methods, reason = "an untracked task is under test")]
            drop(tokio::spawn(async move { second.wait() }));
        });
        let mut told = [heard.next().0, heard.next().0, heard.next().0];
        told.sort();
        assert!(told[0].contains("all 2 workers are blocked"), "{told:?}");
        assert!(told[1].contains("task=\"first\""), "{told:?}");
        assert!(told[2].contains("untracked task has blocked"), "{told:?}");
        gate.open();
        end();
    });
}
