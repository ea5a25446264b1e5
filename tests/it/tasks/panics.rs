//! Tests of panics: in a poll, in a drop, in a closure; named with message and location, and never
//! lost.

use crate::scenario::{alone, impatient, in_time, quiet, told};
use headcount::task::Panic;
use headcount::{TaskError, TaskGroup, TaskHandle};
use std::future::{Future, pending};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// Panics when it is dropped, and records the line.
struct Bomb;

const BOMB_LINE: u32 = line!() + 4;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

async fn panic_of<T: std::fmt::Debug>(handle: TaskHandle<T>) -> Panic {
    match in_time(handle).await {
        Err(TaskError::Panicked(panic)) => panic,
        other => panic!("it did not panic: {other:?}"),
    }
}

#[track_caller]
fn assert_at(panic: &Panic, message: &str, line: u32) {
    assert_eq!(panic.message(), message);
    let location = panic.location().expect("the hook is ours");
    let place = format!("{}:{line}:", file!());
    assert!(location.starts_with(&place), "{location} is not at {place}");
    assert_eq!(panic.to_string(), format!("'{message}' at {location}"));
}

fn assert_nothing_left(tasks: &TaskGroup) {
    let snapshot = tasks.snapshot();
    let names: Vec<_> = snapshot.tasks().map(|row| row.name).collect();
    assert_eq!(names, ["main"]);
}

#[test]
fn a_panic_is_named_with_message_and_location_whatever_its_payload() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let literal = panic_of(tasks.spawn("a", async { panic!("a literal") })).await;
            assert_at(&literal, "a literal", line!() - 1);
            let n = 7;
            let text = panic_of(tasks.spawn("b", async move { panic!("number {n}") })).await;
            assert_at(&text, "number 7", line!() - 1);
            let other = async { std::panic::panic_any(7_u8) };
            let line = line!() - 1;
            let other = panic_of(tasks.spawn("c", other)).await;
            assert_at(&other, "a payload that is not a string", line);
            assert_eq!(*other.into_payload().downcast::<u8>().unwrap(), 7);
            let blocking = panic_of(tasks.spawn_blocking("d", || panic!("in a closure"))).await;
            assert_at(&blocking, "in a closure", line!() - 1);
            assert_nothing_left(&tasks);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_future_that_panics_in_its_drop_has_panicked_however_it_is_dropped() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let bomb = Bomb;
            let completes = tasks.spawn("completes", async move {
                let _bomb = bomb;
            });
            assert_at(&panic_of(completes).await, "dropped", BOMB_LINE);

            let (polled, was_polled) = oneshot::channel();
            let bomb = Bomb;
            let aborted = tasks.spawn("aborted", async move {
                polled.send(()).unwrap();
                pending::<()>().await;
                drop(bomb);
            });
            in_time(was_polled).await.unwrap();
            aborted.cancel();
            // The runtime drops it without passing a result to the handle; the panic of the drop is
            // in the log and in the counters.
            assert!(matches!(in_time(aborted).await, Err(TaskError::Cancelled)));

            let group = tasks.group("group");
            let bomb = Bomb;
            let cancelled = group.spawn("cancelled", async move {
                pending::<()>().await;
                drop(bomb);
            });
            assert_eq!(group.cancel().await, 0);
            assert_at(&panic_of(cancelled).await, "dropped", BOMB_LINE);
            assert_nothing_left(&tasks);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_future_that_panics_in_poll_and_again_in_its_drop_ends_its_row() {
    struct Twice;
    impl Future for Twice {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            panic!("polled")
        }
    }
    impl Drop for Twice {
        fn drop(&mut self) {
            panic!("dropped")
        }
    }
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let panic = panic_of(tasks.spawn("twice", Twice)).await;
            assert_eq!(panic.message(), "polled");
            assert_nothing_left(&tasks);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

/// An error that cannot be displayed.
#[derive(Debug)]
struct Unshown;

impl std::fmt::Display for Unshown {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("shown")
    }
}

/// Returns a value that panics when it is dropped, and itself panics when dropped.
struct Returns(Bomb);

impl Future for Returns {
    type Output = Bomb;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Bomb> {
        Poll::Ready(Bomb)
    }
}

#[test]
fn a_task_that_panics_after_it_returned_ends_its_row() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let unshown = tasks.try_spawn("unshown", async { Err::<(), _>(Unshown) });
            assert_eq!(panic_of(unshown).await.message(), "shown");
            let returned = in_time(tasks.spawn("returns", Returns(Bomb))).await;
            let Err(TaskError::Panicked(panic)) = returned else {
                panic!("the future is dropped before its output is given");
            };
            assert_eq!(panic.message(), "dropped");
            assert_nothing_left(&tasks);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

/// A subscriber that panics on events about a task.
struct Panics;

impl tracing::Subscriber for Panics {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "headcount::task"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        panic!("told")
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_subscriber_that_panics_keeps_no_task_from_ending() {
    alone(|| {
        tracing::subscriber::set_global_default(Panics).unwrap();
        let report = quiet().build().unwrap().run(async |tasks| {
            let failed = tasks.try_spawn("failed", async { Err::<(), _>("broken") });
            assert_eq!(in_time(failed).await.unwrap(), Err("broken"));
            let panicked = tasks.spawn("panicked", async { panic!("in the task") });
            assert_eq!(panic_of::<()>(panicked).await.message(), "in the task");
            assert_nothing_left(&tasks);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn the_runtime_outlives_drops_that_panic_while_it_closes() {
    alone(|| {
        let report = impatient().build().unwrap().run(async |tasks| {
            for _ in 0..100 {
                let bomb = Bomb;
                tasks.spawn("ignores", async move {
                    pending::<()>().await;
                    drop(bomb);
                });
            }
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 100 ended, ignored ignores ×100; 100 cancelled"
        );
    });
}

#[test]
fn a_panic_of_main_is_the_reason_and_fails_the_service() {
    alone(|| {
        const LINE: u32 = line!() + 2;
        fn breaks() {
            panic!("in main");
        }
        let report = quiet().build().unwrap().run(async |tasks| {
            let member = tasks.clone();
            tasks.spawn("member", async move { member.draining().await });
            breaks();
        });
        let was = told(&report);
        let reason = format!("clean 1: main panicked: 'in main' at {}:{LINE}:", file!());
        assert!(was.starts_with(&reason), "{was}");
        assert!(was.ends_with("; 1 of 1 ended; 0 cancelled"), "{was}");
    });
}

#[test]
fn an_error_of_main_is_the_reason_and_fails_the_service() {
    alone(|| {
        let report = quiet()
            .build()
            .unwrap()
            .run(async |_| Err::<(), _>("no database"));
        assert_eq!(
            told(&report),
            "clean 1: main failed: no database; 0 of 0 ended; 0 cancelled"
        );
    });
}
