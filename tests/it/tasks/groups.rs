//! Tests of groups: nested, drained, cancelled and awaited alone, used again, created and dropped
//! in large numbers.

use crate::scenario::{SHORT, alone, impatient, in_time, quiet, told, until};
use headcount::TaskGroup;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use tokio::sync::{mpsc, oneshot};

fn until_told(group: &TaskGroup) {
    let member = group.clone();
    drop(group.spawn("member", async move { member.draining().await }));
}

fn live(group: &TaskGroup) -> usize {
    group.snapshot().tasks().len()
}

#[test]
fn a_group_is_drained_alone_and_works_again() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let (one, other) = (tasks.group("one"), tasks.group("other"));
            let inner = one.group("inner");
            assert_eq!(inner.name(), "one/inner");
            until_told(&other);
            for _ in 0..100 {
                until_told(&one);
                until_told(&inner);
                assert_eq!((live(&one), live(&inner)), (2, 1));
                assert_eq!(in_time(one.drain()).await, 0);
                assert_eq!((live(&one), live(&inner)), (0, 0));
                assert!(!one.is_draining() && !inner.is_draining());
            }
            assert!(!other.is_draining() && !tasks.is_draining() && tasks.is_ready());
            assert_eq!(live(&other), 1);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 1 of 1 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_group_is_cancelled_alone_and_works_again() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let (one, other) = (tasks.group("one"), tasks.group("other"));
            let inner = one.group("inner");
            until_told(&other);
            for _ in 0..100 {
                let handles = [
                    one.spawn("a", pending::<()>()),
                    inner.spawn("b", pending::<()>()),
                ];
                assert_eq!(in_time(one.cancel()).await, 0);
                for handle in handles {
                    assert!(in_time(handle).await.unwrap_err().is_cancelled());
                }
                assert_eq!(in_time(one.spawn("again", async { 1 })).await.unwrap(), 1);
                assert_eq!(in_time(inner.spawn("again", async { 2 })).await.unwrap(), 2);
            }
            assert_eq!(live(&other), 1);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 1 of 1 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_group_is_awaited_alone_and_daemons_are_not() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let (one, other) = (tasks.group("one"), tasks.group("other"));
            until_told(&other);
            drop(one.task("daemon").daemon().spawn(pending::<()>()));
            in_time(one.wait()).await;
            let (release, held) = oneshot::channel::<()>();
            let inner = one.group("inner");
            drop(inner.spawn("held", async move { held.await.unwrap() }));
            let waits = one.clone();
            let waited = tasks.spawn("waits", async move { waits.wait().await });
            until(|| live(&tasks) == 5).await;
            assert!(!waited.is_finished());
            release.send(()).unwrap();
            in_time(waited).await.unwrap();
            let rows = one.snapshot();
            let names: Vec<_> = rows.tasks().map(|row| (row.name, row.daemon)).collect();
            assert_eq!(names, [("daemon", true)]);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 1 of 1 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_daemon_is_told_and_cancelled_and_not_named() {
    alone(|| {
        let (dropped, was_dropped) = oneshot::channel::<()>();
        let report = quiet().build().unwrap().run(async |tasks| {
            drop(tasks.group("g").task("daemon").daemon().spawn(async move {
                pending::<()>().await;
                drop(dropped);
            }));
        });
        assert!(was_dropped.blocking_recv().is_err(), "it was dropped");
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_daemon_is_not_named_when_the_budget_of_its_group_is_over() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("g").drain_budget(SHORT);
            drop(group.task("daemon").daemon().spawn(pending::<()>()));
            drop(group.spawn("ignores", pending::<()>()));
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 1 ended, ignored g/ignores; 1 cancelled"
        );
    });
}

#[test]
fn a_drain_continues_after_its_future_is_dropped() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            until_told(&group);
            // The future is polled once, and dropped.
            tokio::select! {
                biased;
                over = group.drain() => assert_eq!(over, 0),
                () = std::future::ready(()) => {}
            }
            until(|| live(&group) == 0).await;
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_group_that_ignores_a_drain_is_left_as_it_is_without_a_budget_of_its_own() {
    alone(|| {
        let report = quiet()
            .drain_budget(SHORT)
            .build()
            .unwrap()
            .run(async |tasks| {
                let group = tasks.group("group");
                let handle = group.spawn("ignores", pending::<()>());
                assert_eq!(in_time(group.drain()).await, 1);
                assert!(group.is_draining() && !handle.is_finished());
                assert_eq!(in_time(group.cancel()).await, 0);
                assert!(!group.is_draining());
                let group = group.drain_budget(SHORT);
                let handle = group.spawn("ignores", pending::<()>());
                assert_eq!(in_time(group.drain()).await, 0);
                assert!(in_time(handle).await.unwrap_err().is_cancelled());
            });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn groups_that_are_made_and_dropped_are_used_again() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            for round in 0..100_000_u32 {
                let group = tasks.group("request");
                if round % 100 == 0 {
                    in_time(group.spawn("one", async {})).await.unwrap();
                }
                // There are at most 65,536 scopes: without reuse this group would share its
                // parent's.
                assert!(!group.is_draining());
            }
            let group = tasks.group("request");
            let other = tasks.spawn("other", pending::<()>());
            drop(group.spawn("one", pending::<()>()));
            assert_eq!(in_time(group.cancel()).await, 0);
            assert!(!other.is_finished(), "the group is one of its own");
            assert_eq!(live(&tasks), 2);
            other.cancel();
            assert!(in_time(other).await.unwrap_err().is_cancelled());
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

/// The story: a group nested too deep shared its parent's scope, but did not keep it. Once the
/// parent's handle was dropped, another group took the scope, and had the tasks of both.
#[test]
fn a_group_that_is_nested_too_deep_keeps_the_state_of_its_parent() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let mut deepest = tasks.clone();
            for _ in 0..128 {
                deepest = deepest.group("g");
            }
            let merged = deepest.group("merged");
            assert_eq!(merged.name(), deepest.name(), "128 is the deepest");
            drop(deepest);
            let others: Vec<TaskGroup> = (0..200).map(|_| tasks.group("other")).collect();
            let handle = merged.spawn("task", pending::<()>());
            assert_eq!(others.iter().map(live).sum::<usize>(), 0);
            for other in others {
                assert_eq!(in_time(other.cancel()).await, 0);
            }
            assert!(!handle.is_finished());
            assert_eq!(in_time(merged.cancel()).await, 0);
            assert!(in_time(handle).await.unwrap_err().is_cancelled());
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

/// The closed channel is ready until the budget is used up, so the drain is polled without one.
#[test]
fn a_loop_that_polls_a_closed_channel_before_the_drain_is_told() {
    alone(|| {
        let report = impatient().build().unwrap().run(async |tasks| {
            let group = tasks.clone();
            let (sender, mut closed) = mpsc::unbounded_channel::<()>();
            drop(sender);
            drop(tasks.spawn("worker", async move {
                let mut draining = pin!(group.draining());
                poll_fn(|cx| {
                    while closed.poll_recv(cx).is_ready() {}
                    draining.as_mut().poll(cx)
                })
                .await;
            }));
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 1 of 1 ended; 0 cancelled"
        );
    });
}

/// Without a budget too, the drain is told only a bounded number of times before it yields.
#[test]
fn a_loop_that_ignores_what_it_is_told_yields_its_worker() {
    alone(|| {
        let runtime = impatient().current_thread().build().unwrap();
        let report = runtime.run(async |tasks| {
            for uses_up_the_budget_first in [false, true] {
                let group = tasks.clone();
                let (sender, mut closed) = mpsc::unbounded_channel::<()>();
                drop(sender);
                drop(tasks.spawn("deaf", async move {
                    loop {
                        poll_fn(|cx| {
                            while uses_up_the_budget_first && closed.poll_recv(cx).is_ready() {}
                            Poll::Ready(())
                        })
                        .await;
                        group.draining().await;
                    }
                }));
            }
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 2 ended, ignored deaf ×2; 2 cancelled"
        );
    });
}
