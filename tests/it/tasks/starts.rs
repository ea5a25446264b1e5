//! Tests of where and when tasks start: from threads, while draining, after the cancel, from a
//! drop, from themselves.

use crate::heard::Heard;
use crate::scenario::{Gate, SHORT, alone, impatient, in_time, quiet, told, wait_until};
use headcount::report::dump::Phase;
use headcount::{TaskError, TaskGroup, ThreadKind};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Counts its polls and drops.
struct Counted(Arc<[AtomicU32; 2]>);

impl Future for Counted {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
        self.0[0].fetch_add(1, Ordering::SeqCst);
        Poll::Ready(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0[1].fetch_add(1, Ordering::SeqCst);
    }
}

fn counted() -> (Counted, impl Fn() -> [u32; 2]) {
    let counts = Arc::new([const { AtomicU32::new(0) }; 2]);
    let read = Arc::clone(&counts);
    (Counted(counts), move || {
        [&read[0], &read[1]].map(|count| count.load(Ordering::SeqCst))
    })
}

#[test]
fn a_task_that_is_spawned_while_draining_is_accepted_and_counted() {
    alone(|| {
        let (said, hear) = channel();
        let report = quiet().build().unwrap().run(async |tasks| {
            let group = tasks.group("group");
            tasks.spawn("parent", {
                let (tasks, group) = (tasks.clone(), group.clone());
                async move {
                    tasks.draining().await;
                    assert!(group.is_draining());
                    let late = group.spawn("late", async { 5 });
                    let nested = tasks.group("late-group").spawn("nested", async { 6 });
                    let sum = in_time(late).await.unwrap() + in_time(nested).await.unwrap();
                    said.send(sum).unwrap();
                }
            });
        });
        assert_eq!(hear.recv().unwrap(), 11);
        assert_eq!(
            told(&report),
            "clean 0: main ended; 3 of 3 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_task_that_is_spawned_after_the_cancel_is_refused_unpolled() {
    alone(|| {
        let mut kept = None;
        let report = quiet().build().unwrap().run(async |tasks| {
            kept = Some(tasks.clone());
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
        let tasks = kept.expect("it ran");
        let control = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let refused = |error| matches!(error, Err(TaskError::Refused));

        let (future, counts) = counted();
        let handle = tasks.spawn("late", future);
        assert_eq!(counts(), [0, 1]);
        assert!(handle.is_finished());
        assert!(refused(control.block_on(handle)));

        let (future, counts) = counted();
        let handle = tasks
            .group("g")
            .spawn_blocking("late", move || drop(future));
        assert_eq!(counts(), [0, 1]);
        assert!(refused(control.block_on(handle)));

        let (future, counts) = counted();
        // The spawn is refused before it would need a `LocalSet`.
        let handle = tasks.spawn_local("late", future);
        assert_eq!(counts(), [0, 1]);
        assert!(refused(control.block_on(handle)));
        assert!(tasks.snapshot().tasks().len() == 0);
    });
}

/// Spawns when it is dropped, and sends the result.
struct Respawns(TaskGroup, Sender<Result<(), TaskError>>);

impl Drop for Respawns {
    fn drop(&mut self) {
        let handle = self.0.spawn("from-drop", async {});
        let outcome = if handle.is_finished() {
            Err(TaskError::Refused)
        } else {
            Ok(())
        };
        self.1.send(outcome).unwrap();
    }
}

#[test]
fn a_task_that_is_spawned_from_a_drop_in_the_cancel_layer_is_refused() {
    alone(|| {
        let (said, hear) = channel();
        let report = impatient().build().unwrap().run(async |tasks| {
            let respawns = Respawns(tasks.clone(), said);
            tasks.spawn("drops", async move {
                pending::<()>().await;
                drop(respawns);
            });
        });
        assert!(matches!(hear.recv().unwrap(), Err(TaskError::Refused)));
        assert_eq!(
            told(&report),
            "cancelled 0: main ended; 0 of 1 ended, ignored drops; 1 cancelled"
        );
    });
}

#[test]
fn a_task_may_be_replaced_by_one_that_its_drop_spawns() {
    alone(|| {
        let (said, hear) = channel();
        let report = quiet().build().unwrap().run(async |tasks| {
            let respawns = Respawns(tasks.clone(), said);
            let handle = tasks.spawn("drops", async move {
                let _respawns = respawns;
            });
            in_time(handle).await.unwrap();
            hear.recv().unwrap().unwrap();
            crate::scenario::until(|| !tasks.snapshot().tasks().any(|row| row.name == "from-drop"))
                .await;
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

fn respawn(tasks: &TaskGroup, left: u32, done: oneshot::Sender<()>) {
    let next = tasks.clone();
    drop(tasks.spawn("relay", async move {
        match left {
            0 => done.send(()).unwrap(),
            _ => respawn(&next, left - 1, done),
        }
    }));
}

#[test]
fn a_wait_does_not_end_between_a_task_and_the_one_that_it_spawns() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let relay = tasks.group("relay");
            for _ in 0..200 {
                let (done, mut is_done) = oneshot::channel();
                respawn(&relay, 20, done);
                in_time(relay.wait()).await;
                assert!(is_done.try_recv().is_ok(), "a task was left");
            }
            let (done, mut is_done) = oneshot::channel();
            respawn(&relay, 1_000, done);
            assert_eq!(relay.drain().await, 0);
            assert!(is_done.try_recv().is_ok(), "a task was left");
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

fn respawn_for_ever(tasks: &TaskGroup) {
    let next = tasks.clone();
    drop(tasks.spawn("for-ever", async move { respawn_for_ever(&next) }));
}

#[test]
fn a_task_that_respawns_itself_for_ever_is_ended() {
    alone(|| {
        let mut kept = None;
        let report = impatient().build().unwrap().run(async |tasks| {
            respawn_for_ever(&tasks);
            kept = Some(tasks);
        });
        assert!(report.drain.tasks > 1, "{report}");
        assert_eq!(report.exit_code(), 0, "{report}");
        // The last one may not have been polled yet.
        let left = report.drain.ignored.iter().chain(&report.drain.not_polled);
        let ignored: u64 = left.map(|task| task.count).sum();
        assert_eq!(report.drain.ended + ignored, report.drain.tasks, "{report}");
        assert!(report.cancel.lingering.is_empty(), "{report}");
        assert!(kept.expect("it ran").snapshot().tasks().len() == 0);
    });
}

#[test]
fn a_task_may_be_spawned_from_any_thread() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let gate = Gate::default();
            let (group, held) = (tasks.clone(), gate.clone());
            let thread = tasks.spawn_thread("starter", ThreadKind::Tracked, move || {
                held.wait();
                let member = group.clone();
                let handle = group.spawn("started", async move {
                    member.draining().await;
                    7
                });
                let blocking = group.spawn_blocking("blocking", || 8);
                (handle, blocking)
            });
            gate.open();
            let (started, blocking) = thread.join().unwrap();
            assert_eq!(in_time(blocking).await.unwrap(), 8);
            tasks.spawn(
                "waits",
                async move { assert_eq!(started.await.unwrap(), 7) },
            );
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 2 of 2 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_local_task_is_tracked_where_it_runs() {
    alone(|| {
        let report = quiet().build().unwrap().run(async |tasks| {
            let local = LocalSet::new();
            let not_send = std::rc::Rc::new(3);
            let kinds = local
                .run_until(async {
                    let handle = tasks.spawn_local("local", async move { *not_send });
                    let kinds: Vec<_> = tasks.snapshot().tasks().map(|row| row.kind).collect();
                    assert_eq!(in_time(handle).await.unwrap(), 3);
                    let cancelled = tasks.group("g").spawn_local("local", pending::<()>());
                    cancelled.cancel();
                    assert!(in_time(cancelled).await.unwrap_err().is_cancelled());
                    let panics = tasks.spawn_local("panics", async { panic!("locally") });
                    assert!(in_time(panics).await.unwrap_err().is_panic());
                    kinds
                })
                .await;
            assert_eq!(kinds.len(), 2);
            assert!(kinds.contains(&headcount::TaskKind::Local), "{kinds:?}");
            let left = tasks.group("left");
            local
                .run_until(async { drop(left.spawn_local("left", pending::<()>())) })
                .await;
            drop(local);
            in_time(left.wait()).await;
        });
        assert_eq!(
            told(&report),
            "clean 0: main ended; 0 of 0 ended; 0 cancelled"
        );
    });
}

#[test]
fn a_runtime_that_is_dropped_drops_its_parked_tasks() {
    alone(|| {
        let (dropped, was_dropped) = channel::<()>();
        let runtime = quiet().build().unwrap();
        for _ in 0..10 {
            let dropped = dropped.clone();
            runtime.tasks().spawn("parked", async move {
                pending::<()>().await;
                drop(dropped);
            });
        }
        drop(dropped);
        drop(runtime);
        let ended = was_dropped.recv_timeout(crate::scenario::GUARD);
        assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
    });
}

/// A task with a drop that lasts until the shutdown is logged as completed.
struct Late {
    gate: Gate,
    heard: Heard,
}

impl Drop for Late {
    fn drop(&mut self) {
        self.gate.open();
        while !self.heard.next().0.contains("shutdown completed") {}
    }
}

/// `main` is cancelled before its first poll, and the process is not ended as if `main` blocked its
/// thread.
#[test]
fn a_main_that_begins_after_the_cancel_returns_with_the_report() {
    alone(|| {
        let runtime = impatient().cancel_budget(SHORT).build().unwrap();
        let (gate, heard) = (Gate::default(), Heard::of("headcount::shutdown"));
        let (held, (tell, told)) = (gate.clone(), channel());
        drop(runtime.tasks().spawn_blocking("holds", move || {
            tell.send(()).unwrap();
            held.wait();
        }));
        told.recv().unwrap();
        let dumper = runtime.dumper();
        runtime.tasks().stop("enough");
        let is_closing = || dumper.dump().phase == Phase::Closing;
        wait_until(is_closing, || "it does not close".to_owned());
        let late = Late { gate, heard };
        let report = runtime.run(async move |_| drop(late));
        assert_eq!(report.reason.to_string(), "enough");
        assert_eq!(report.close.threads.len(), 0, "{report}");
    });
}
