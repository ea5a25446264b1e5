//! Tests of required tasks: their end begins the shutdown and is its reason, with different results
//! for each outcome.

use crate::scenario::{Gate, SHORT, alone, in_time, quiet, told};
use headcount::{Report, TaskGroup};
use std::future::pending;
use tokio::sync::oneshot;

/// Runs a service that waits for the drain in `main`, with the tasks that `start` spawns in the group
/// `core`.
fn service(start: impl AsyncFnOnce(&TaskGroup)) -> Report {
    quiet().build().unwrap().run(async |tasks| {
        let core = tasks.group("core");
        start(&core).await;
        in_time(tasks.draining()).await;
        assert!(!tasks.is_ready());
    })
}

/// Asserts the first part of the outcome: outcome, exit code and reason.
#[track_caller]
fn assert_reason(start: impl AsyncFnOnce(&TaskGroup), expected: &str) {
    let was = told(&service(start));
    // `main` ends by itself, before or after the layer counts the live tasks.
    let expected = [
        format!("{expected}; 1 of 1 ended; 0 cancelled"),
        format!("{expected}; 0 of 0 ended; 0 cancelled"),
    ];
    assert!(expected.contains(&was), "{was}\nis not {}", expected[0]);
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn a_required_task_that_completes_stops_the_service_without_failing_it() {
    alone(|| {
        assert_reason(
            async |core| drop(core.task("a").required().spawn(async {})),
            "clean 0: required task core/a completed",
        );
        assert_reason(
            async |core| {
                drop(
                    core.task("a")
                        .required()
                        .try_spawn(async { Ok::<(), u8>(()) }),
                );
            },
            "clean 0: required task core/a completed",
        );
        assert_reason(
            async |core| drop(core.task("a").required().spawn_blocking(|| ())),
            "clean 0: required task core/a completed",
        );
    });
}

#[test]
fn a_required_task_that_fails_or_panics_fails_the_service() {
    alone(|| {
        assert_reason(
            async |core| {
                drop(
                    core.task("a")
                        .required()
                        .try_spawn(async { Err::<(), _>("no") }),
                );
            },
            "clean 1: required task core/a failed",
        );
        assert_reason(
            async |core| drop(core.task("a").required().spawn(async { panic!("here") })),
            "clean 1: required task core/a panicked",
        );
        assert_reason(
            async |core| drop(core.task("a").required().spawn_blocking(|| panic!("here"))),
            "clean 1: required task core/a panicked",
        );
        assert_reason(
            async |core| {
                let bomb = Bomb;
                drop(core.task("a").required().spawn(async move {
                    let _bomb = bomb;
                }));
            },
            "clean 1: required task core/a panicked",
        );
    });
}

#[test]
fn a_required_task_that_is_cancelled_fails_the_service() {
    alone(|| {
        assert_reason(
            async |core| core.task("a").required().spawn(pending::<()>()).cancel(),
            "clean 1: required task core/a cancelled",
        );
        assert_reason(
            async |core| {
                drop(core.task("a").required().spawn(pending::<()>()));
                assert_eq!(core.cancel().await, 0);
            },
            "clean 1: required task core/a cancelled",
        );
    });
}

#[test]
fn a_required_task_whose_drop_panics_has_panicked_when_it_is_cancelled() {
    alone(|| {
        let with_bomb = || async {
            let bomb = Bomb;
            pending::<()>().await;
            drop(bomb);
        };
        assert_reason(
            async |core| {
                let (polled, was_polled) = oneshot::channel();
                let handle = core.task("a").required().spawn(async move {
                    polled.send(()).unwrap();
                    with_bomb().await;
                });
                in_time(was_polled).await.unwrap();
                // Its first poll may still be in progress, and is then followed by the drop.
                handle.cancel();
            },
            "clean 1: required task core/a panicked",
        );
        assert_reason(
            async |core| {
                let (polled, was_polled) = oneshot::channel();
                drop(core.task("a").required().spawn(async move {
                    polled.send(()).unwrap();
                    with_bomb().await;
                }));
                in_time(was_polled).await.unwrap();
                assert_eq!(core.cancel().await, 0);
            },
            "clean 1: required task core/a panicked",
        );
    });
}

#[test]
fn a_blocking_closure_that_never_started_is_cancelled() {
    alone(|| {
        let gate = Gate::default();
        let report = quiet()
            .configure(|builder| {
                builder.max_blocking_threads(1);
            })
            .build()
            .unwrap()
            .run(async |tasks| {
                let held = gate.clone();
                tasks.spawn_blocking("holds", move || held.wait());
                let waits = tasks.task("waits").required().spawn_blocking(|| ());
                waits.cancel();
                gate.open();
                assert!(in_time(waits).await.unwrap_err().is_cancelled());
                in_time(tasks.draining()).await;
            });
        let was = told(&report);
        assert!(
            was.starts_with("clean 1: required task waits cancelled; "),
            "{was}"
        );
    });
}

#[test]
fn the_first_reason_is_kept() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            tasks.stop("the first");
            tasks.stop("the second");
            drop(
                tasks
                    .task("late")
                    .required()
                    .spawn(async { panic!("late") }),
            );
            in_time(tasks.draining()).await;
            Err::<(), _>("the last")
        });
        let was = told(&report);
        assert!(was.starts_with("clean 0: the first; "), "{was}");
    });
}

#[test]
fn a_required_task_that_ends_while_stopping_changes_nothing() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let member = tasks.clone();
            drop(tasks.task("member").required().try_spawn(async move {
                member.draining().await;
                Err::<(), _>("it was told to")
            }));
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 1 of 1 ended; 0 cancelled"
        );
    });
}

#[test]
fn readiness_fails_before_any_task_is_told_to_drain() {
    alone(|| {
        let mut looking = None;
        let report = quiet()
            .pre_drain_delay(SHORT)
            .build()
            .unwrap()
            .run(async |tasks| {
                let (group, watched) = (tasks.group("group"), tasks.clone());
                assert!(tasks.is_ready());
                let thread = std::thread::Builder::new().spawn(move || {
                    loop {
                        let draining = group.is_draining();
                        let ready = watched.is_ready();
                        if draining {
                            return !ready;
                        }
                    }
                });
                looking = Some(thread.unwrap());
                tasks.stop("enough");
                in_time(tasks.draining()).await;
                assert!(!tasks.is_ready());
            });
        assert!(looking.unwrap().join().unwrap(), "ready while it drains");
        assert!(report.pre_drain >= SHORT);
        let was = told(&report);
        assert!(was.starts_with("clean 0: enough; "), "{was}");
    });
}
