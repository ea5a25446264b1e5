//! Tests of the budgets of groups and of tasks: which tasks are cancelled when, and that each is
//! named once.

use crate::scenario::{Gate, SHORT, alone, hasty, in_time, quiet, told};
use std::future::pending;
use std::time::Duration;
use tokio::sync::oneshot;

#[test]
fn a_group_is_cancelled_at_the_end_of_its_budget_while_others_drain() {
    alone(|| {
        let (dropped, was_dropped) = oneshot::channel::<()>();
        let report = quiet().build().unwrap().run(async |tasks| {
            let patient = tasks.group("patient");
            // Created last, so it drains first; the other group drains after it.
            let hasty = tasks.group("hasty").drain_budget(SHORT);
            let member = patient.clone();
            drop(patient.spawn("waits", async move {
                member.draining().await;
                in_time(was_dropped).await.unwrap_err();
            }));
            drop(hasty.spawn("ignores", async move {
                pending::<()>().await;
                drop(dropped);
            }));
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 1 of 2 ended, ignored hasty/ignores; 1 cancelled"
        );
        assert!(report.drain.ignored[0].draining.unwrap() >= SHORT);
        assert!(report.drain.ignored[0].draining.unwrap() < Duration::from_secs(50));
    });
}

#[test]
fn a_task_is_cancelled_at_the_end_of_its_budget_while_others_drain() {
    alone(|| {
        let (dropped, was_dropped) = oneshot::channel::<()>();
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            let member = group.clone();
            drop(group.spawn("waits", async move {
                member.draining().await;
                in_time(was_dropped).await.unwrap_err();
            }));
            let ignores = group.task("ignores").drain_budget(SHORT);
            drop(ignores.spawn(async move {
                pending::<()>().await;
                drop(dropped);
            }));
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 1 of 2 ended, ignored group/ignores; 1 cancelled"
        );
    });
}

#[test]
fn a_task_may_have_a_longer_budget_than_its_group() {
    alone(|| {
        let (dropped, was_dropped) = oneshot::channel::<()>();
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group").drain_budget(SHORT);
            let member = group.clone();
            let longer = group.task("longer").drain_budget(Duration::from_secs(50));
            drop(longer.spawn(async move {
                member.draining().await;
                in_time(was_dropped).await.unwrap_err();
            }));
            drop(group.spawn("ignores", async move {
                pending::<()>().await;
                drop(dropped);
            }));
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 1 of 2 ended, ignored group/ignores; 1 cancelled"
        );
    });
}

#[test]
fn a_task_that_outlives_several_budgets_is_named_once() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty()
            .drain_budget(Duration::from_secs(1))
            .build()
            .unwrap()
            .run(async |tasks| {
                let group = tasks.group("group").drain_budget(SHORT * 2);
                let (inside, held) = (Gate::default(), gate.clone());
                let told = inside.clone();
                // It is cancelled for its own budget, for that of the other task and for that of
                // the group, and blocks its worker all the time.
                drop(
                    group
                        .task("stuck")
                        .drain_budget(SHORT / 4)
                        .spawn(async move {
                            told.open();
                            held.wait();
                        }),
                );
                drop(
                    group
                        .task("ignores")
                        .drain_budget(SHORT)
                        .spawn(pending::<()>()),
                );
                drop(group.spawn("ignores-too", pending::<()>()));
                inside.wait();
            });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 3 ended, \
             ignored group/ignores group/ignores-too group/stuck; 2 cancelled, lingering group/stuck; \
             thread headcount-work (worker) holds group/stuck"
        );
    });
}

#[test]
fn a_task_that_outlives_an_earlier_cancel_is_named() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            let (inside, held) = (Gate::default(), gate.clone());
            let told = inside.clone();
            drop(group.spawn("stuck", async move {
                told.open();
                held.wait();
            }));
            inside.wait();
            assert_eq!(in_time(group.cancel()).await, 1);
        });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 1 ended, ignored group/stuck; \
             0 cancelled, lingering group/stuck; thread headcount-work (worker) holds group/stuck"
        );
    });
}

#[test]
fn a_daemon_that_cannot_be_cancelled_lingers() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty().build().unwrap().run(async |tasks| {
            let (inside, held) = (Gate::default(), gate.clone());
            let told = inside.clone();
            drop(tasks.task("stuck").daemon().spawn(async move {
                told.open();
                held.wait();
            }));
            inside.wait();
        });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 0 ended; 0 cancelled, lingering stuck (daemon); \
             thread headcount-work (worker) holds stuck"
        );
    });
}

#[test]
fn a_hundred_thousand_tasks_that_ignore_draining_are_one_row() {
    alone(|| {
        let report = quiet()
            .drain_budget(SHORT)
            .build()
            .unwrap()
            .run(async |tasks| {
                for _ in 0..100_000 {
                    drop(tasks.spawn("ignores", pending::<()>()));
                }
            });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 100000 ended, ignored ignores ×100000; 100000 cancelled"
        );
        assert_eq!(report.drain.ignored[0].rows.len(), 5);
    });
}

#[cfg(feature = "stacks")]
#[test]
fn a_task_that_its_own_budget_cancels_is_named_with_what_it_awaited() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let (ask, request) = oneshot::channel::<()>();
            let group = tasks.group("group");
            drop(group.spawn("holds", async move {
                pending::<()>().await;
                drop(ask);
            }));
            let ignores = group.task("ignores").drain_budget(SHORT);
            drop(ignores.spawn(async move { request.await.ok() }));
            let hasty = tasks.group("hasty").drain_budget(SHORT);
            let (answer, question) = tokio::sync::mpsc::channel::<()>(1);
            drop(hasty.spawn("waits", async move {
                let mut question = question;
                question.recv().await;
                drop(answer);
            }));
            drop(group.drain_budget(SHORT * 2));
        });
        let awaited = |name: &str| {
            let mut tasks = report.drain.ignored.iter();
            let task = tasks.find(|task| task.name == name).expect("it is named");
            let chains = task.awaits().expect("it has answered");
            chains[0][0].to_string()
        };
        assert!(awaited("ignores").contains("oneshot.rs"), "{report:?}");
        assert!(awaited("waits").contains("mpsc"), "{report:?}");
    });
}
