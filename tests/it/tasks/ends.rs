//! Tests of how tasks end, and of the results of their handles.

use crate::scenario::{Gate, alone, hasty, impatient, in_time, quiet, told, until};
use headcount::{TaskError, TaskKind, TaskState};
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::{Notify, oneshot};

#[test]
fn a_task_that_completes_gives_its_output() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            assert_eq!(tasks.spawn("a", async { 1 }).await.unwrap(), 1);
            let failed: Result<u8, &str> = Err("no");
            let handle = tasks.try_spawn("b", async move { failed });
            assert_eq!(handle.await.unwrap(), Err("no"));
            assert_eq!(tasks.spawn_blocking("c", || 3).await.unwrap(), 3);
            until(|| tasks.snapshot().tasks().len() == 1).await;
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_task_is_listed_in_each_of_its_states() {
    alone(|| {
        let report = quiet()
            .worker_threads(1)
            .build()
            .unwrap()
            .run(async |tasks| {
                let group = tasks.group("group");
                let row = |name: &str| {
                    let snapshot = group.snapshot();
                    let row = snapshot.tasks().find(|row| row.name == name);
                    row.map(|row| (row.group, row.kind, row.state, row.daemon))
                };
                let (inside, held) = (Gate::default(), Gate::default());
                let (told, hold) = (inside.clone(), held.clone());
                // It blocks the only worker, so that nothing else is polled.
                group.spawn("holds", async move {
                    told.open();
                    hold.wait();
                });
                inside.wait();
                let member = group.clone();
                let (drained, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
                let (say, hear) = (Arc::clone(&drained), Arc::clone(&release));
                group.task("parks").daemon().spawn(async move {
                    member.draining().await;
                    say.notify_one();
                    hear.notified().await;
                });
                let of = |state| Some(("group", TaskKind::Async, state, true));
                assert_eq!(row("parks"), of(TaskState::Created));
                held.open();
                until(|| row("parks") == of(TaskState::Running)).await;
                assert_eq!(group.drain().await, 0, "a daemon is not waited for");
                in_time(drained.notified()).await;
                release.notify_one();
                until(|| row("parks").is_none()).await;
                assert!(group.snapshot().tasks().len() == 0);
            });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_draining_task_and_one_that_is_cancelled_are_listed_as_such() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            let state = || group.snapshot().tasks().next().map(|row| row.state);
            let (gate, hold) = (Gate::default(), Gate::default());
            let (held, told) = (hold.clone(), gate.clone());
            let (member, release) = (group.clone(), Arc::new(Notify::new()));
            let hear = Arc::clone(&release);
            group.spawn("member", async move {
                member.draining().await;
                hear.notified().await;
                told.open();
                held.wait();
                pending::<()>().await;
            });
            let draining = tasks.spawn("drains", {
                let group = group.clone();
                async move { group.drain().await }
            });
            until(|| state() == Some(TaskState::Draining)).await;
            release.notify_one();
            gate.wait();
            let cancelling = tasks.spawn("cancels", {
                let group = group.clone();
                async move { group.cancel().await }
            });
            until(|| state() == Some(TaskState::Cancelling)).await;
            hold.open();
            assert_eq!(in_time(cancelling).await.unwrap(), 0);
            assert_eq!(in_time(draining).await.unwrap(), 0);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_handle_cancels_its_task_and_no_other() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let (release, wait) = oneshot::channel::<()>();
            let one = tasks.spawn("same", pending::<()>());
            let other = tasks.spawn("same", async { wait.await.unwrap() });
            one.cancel();
            assert!(in_time(one).await.unwrap_err().is_cancelled());
            assert!(!other.is_finished());
            release.send(()).unwrap();
            in_time(other).await.unwrap();
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_dropped_handle_leaves_the_task_running_and_counted() {
    alone(|| {
        let done = Arc::new(AtomicBool::new(false));
        let report = quiet().build().unwrap().run(async |tasks| {
            let (group, done) = (tasks.clone(), Arc::clone(&done));
            drop(tasks.spawn("detached", async move {
                group.draining().await;
                done.store(true, Ordering::SeqCst);
            }));
        });
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(
            told(&report),
            "clean 0: main ended; 1 of 1 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_task_that_ignores_draining_is_reported_by_name() {
    alone(|| {
        let site = line!() + 2;
        let report = impatient().build().unwrap().run(async |tasks| {
            tasks.group("http").spawn("accept", pending::<()>());
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 1 ended, ignored http/accept; 1 cancelled"
        );
        let finding = &report.drain.ignored[0];
        let spawned = (finding.spawned.file(), finding.spawned.line());
        assert_eq!(spawned, (file!(), site), "{finding:?}");
        assert!(finding.draining.is_some(), "{finding:?}");
        assert_eq!(finding.rows.len(), 1);
    });
}

/// A task that awaits futures that are always ready must still be cancelled.
#[test]
fn a_task_that_loops_over_its_draining_is_cancelled_all_the_same() {
    alone(|| {
        let report = impatient().build().unwrap().run(async |tasks| {
            let group = tasks.clone();
            tasks.spawn("again", async move {
                loop {
                    group.until_draining(pending::<()>()).await;
                }
            });
        });
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 1 ended, ignored again; 1 cancelled"
        );
    });
}

#[test]
fn a_task_that_starts_another_again_and_again_is_cancelled_all_the_same() {
    alone(|| {
        let report = impatient().build().unwrap().run(async |tasks| {
            let group = tasks.clone();
            let supervisor = async move {
                loop {
                    group.spawn("supervised", async {}).await.ok();
                }
            };
            tasks.task("supervisor").spawn(supervisor);
        });
        assert_eq!(report.outcome, headcount::report::Outcome::Cancelled);
    });
}

#[test]
fn completion_against_cancel_ends_a_task_once() {
    alone(|| {
        // Completion races with cancellation: in either case the task ends once, and its handle
        // tells which came first.
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("race");
            let (mut completed, mut cancelled) = (0, 0);
            for round in 0..2_000_u32 {
                let (release, wait) = oneshot::channel::<()>();
                let handle = group.spawn("racer", async move { wait.await.is_ok() });
                if round % 2 == 0 {
                    release.send(()).unwrap();
                    assert_eq!(group.cancel().await, 0);
                } else {
                    let (left, _) = tokio::join!(group.cancel(), async { release.send(()) });
                    assert_eq!(left, 0);
                }
                match in_time(handle).await {
                    Ok(true) => completed += 1,
                    Err(TaskError::Cancelled) => cancelled += 1,
                    other => panic!("neither completed nor cancelled: {other:?}"),
                }
                assert!(group.snapshot().tasks().len() == 0);
            }
            assert_eq!(completed + cancelled, 2_000);
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_blocking_closure_that_runs_lingers_and_one_that_waits_is_cancelled() {
    alone(|| {
        let gate = Gate::default();
        let ran = Arc::new(AtomicU32::new(0));
        let report = hasty()
            .configure(|builder| {
                builder.max_blocking_threads(1);
            })
            .build()
            .unwrap()
            .run(async |tasks| {
                let (inside, held) = (Gate::default(), gate.clone());
                let told = inside.clone();
                tasks.spawn_blocking("runs", move || {
                    told.open();
                    held.wait();
                });
                inside.wait();
                for _ in 0..3 {
                    let ran = Arc::clone(&ran);
                    tasks.spawn_blocking("waits", move || ran.fetch_add(1, Ordering::SeqCst));
                }
            });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 4 ended, ignored runs (blocking), not polled waits (blocking) ×3; \
             3 cancelled, lingering runs (blocking); thread headcount-work (blocking) holds runs"
        );
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_task_that_never_yields_is_named_with_the_thread_it_holds() {
    alone(|| {
        let gate = Gate::default();
        let report = hasty().build().unwrap().run(async |tasks| {
            let (inside, held) = (Gate::default(), gate.clone());
            let told = inside.clone();
            tasks.group("cpu").spawn("stuck", async move {
                told.open();
                held.wait();
            });
            inside.wait();
        });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 1 ended, ignored cpu/stuck; \
             0 cancelled, lingering cpu/stuck; thread headcount-work (worker) holds cpu/stuck"
        );
        let on = report.cancel.lingering[0].on_thread.as_deref();
        let tid = report.close.threads[0].tid;
        assert_eq!(on, Some(&*format!("\"headcount-work\" (tid {tid})")));
    });
}

#[test]
fn a_drop_that_blocks_lingers_and_the_shutdown_ends_all_the_same() {
    struct Blocks(Gate);
    impl Drop for Blocks {
        fn drop(&mut self) {
            self.0.wait();
        }
    }
    alone(|| {
        let gate = Gate::default();
        let report = hasty().build().unwrap().run(async |tasks| {
            let blocks = Blocks(gate.clone());
            tasks.spawn("drops", async move {
                pending::<()>().await;
                drop(blocks);
            });
        });
        let was = told(&report);
        gate.open();
        assert_eq!(
            was,
            "lingering 3: main ended; 0 of 1 ended, ignored drops; 0 cancelled, lingering drops; \
             thread headcount-work (worker) holds drops"
        );
        assert!(report.cancel.lingering[0].is_dropping());
        let text = crate::report::normal(&report.to_text(false));
        let row = "✗ drops  cancelled Ns ago, its drop has not returned, on thread \"headcount-work\" (tid N), age Ns, ";
        assert!(text.contains(row), "{text}");
    });
}
