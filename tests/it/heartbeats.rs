//! Tests of tasks that declare a heartbeat and miss it.

use crate::heard::Heard;
use crate::scenario::{Gate, alone, in_time, quiet, until};
use headcount::report::Reason;
use headcount::{Builder, TaskGroup, TaskState};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const EVERY: Duration = Duration::from_millis(50);
/// An interval that is long enough not to be missed because the task waits for a CPU.
const RARELY: Duration = Duration::from_secs(2);

/// Returns a builder with frequent checks.
fn watchful() -> Builder {
    quiet().hold_limit(EVERY)
}

/// Runs the service, and fails if `main` does.
fn run(main: impl AsyncFnOnce(TaskGroup)) {
    let report = watchful().build().unwrap().run(main);
    assert_eq!(report.reason, Reason::MainEnded);
}

/// Returns a task that beats on each message, and ends with the channel.
fn beats_when_told() -> (UnboundedSender<()>, impl Future<Output = ()> + Send) {
    let (tell, mut told): (_, UnboundedReceiver<()>) = unbounded_channel();
    let task = async move {
        while told.recv().await.is_some() {
            TaskGroup::beat();
        }
    };
    (tell, task)
}

fn state(tasks: &TaskGroup, name: &str) -> Option<TaskState> {
    let snapshot = tasks.snapshot();
    let task = snapshot.tasks().find(|task| task.name == name);
    task.map(|row| row.state)
}

#[test]
fn a_task_that_misses_its_heartbeat_is_named_and_so_is_its_recovery() {
    alone(|| {
        let heard = Heard::of("headcount::task");
        run(async |tasks| {
            let (tell, task) = beats_when_told();
            let feed = tasks.group("feed");
            drop(feed.task("reader").heartbeat(EVERY).spawn(task));
            // The task is polled again and again, but a poll is not a beat.
            let (told, _) = heard.next();
            insta::assert_snapshot!(told, @r#"WARN headcount::task: task is stalled: no heartbeat for Ns, expected one every Ns group="feed" task="reader" id=N spawned=tests/it/heartbeats.rs:N:N required=false silent_seconds=N"#);
            assert_eq!(state(&tasks, "reader"), Some(TaskState::Stalled));
            let counters = tasks.counters();
            let reader = counters.iter().find(|row| row.name == "reader").unwrap();
            assert_eq!((reader.live(), reader.stalled), (1, 1));
            tell.send(()).unwrap();
            let (told, _) = heard.next();
            insta::assert_snapshot!(told, @r#"INFO headcount::task: task sends heartbeats again after Ns group="feed" task="reader" id=N silent_seconds=N"#);
            drop(tell);
            in_time(tasks.group("feed").wait()).await;
        });
        // On a busy machine it may miss the next heartbeat before it ends.
        let is_next = |line: &String| line.contains("task is stalled");
        let rest = heard.rest();
        assert!(rest.iter().all(is_next), "{rest:?}");
    });
}

/// There are ten warnings at once, then one a second.
#[test]
fn each_stalled_task_is_reported_once_even_if_there_are_many() {
    alone(|| {
        let heard = Heard::of("headcount::task");
        run(async |tasks| {
            for _ in 0..12 {
                let reader = tasks.task("reader").heartbeat(EVERY);
                drop(reader.spawn(std::future::pending::<()>()));
            }
            for _ in 0..12 {
                let (told, _) = heard.next();
                assert!(told.contains("task is stalled"), "{told}");
            }
            tasks.cancel().await;
        });
        assert_eq!(heard.rest(), [""; 0]);
    });
}

#[test]
fn a_stalled_task_that_is_told_to_drain_has_not_recovered() {
    alone(|| {
        let heard = Heard::of("headcount::task");
        run(async |tasks| {
            let feed = tasks.group("feed");
            let (tell, task) = beats_when_told();
            drop(feed.task("reader").heartbeat(EVERY).spawn(task));
            assert!(heard.next().0.contains("task=\"reader\""));
            let draining = feed.clone();
            let drained = tasks.spawn("drainer", async move { draining.drain().await });
            until(|| state(&tasks, "reader") == Some(TaskState::Draining)).await;
            // Once the next task is reported, the first one has been checked.
            drop(
                tasks
                    .task("next")
                    .heartbeat(EVERY)
                    .spawn(std::future::pending::<()>()),
            );
            let (told, _) = heard.next();
            assert!(
                told.contains("task is stalled") && told.contains("\"next\""),
                "{told}"
            );
            drop(tell);
            drop(drained.await);
            tasks.cancel().await;
        });
    });
}

#[test]
fn a_stalled_task_is_shown_as_such_in_dumps() {
    alone(|| {
        let runtime = watchful().build().unwrap();
        let dumper = runtime.dumper();
        let report = runtime.run(async |tasks| {
            for n in 0..4 {
                let mut reader = tasks.task("reader");
                if n == 3 {
                    reader = reader.heartbeat(EVERY);
                }
                drop(reader.spawn(std::future::pending::<()>()));
            }
            until(|| {
                dumper
                    .dump()
                    .to_text()
                    .contains("3 running, 1 stalled, oldest ")
            })
            .await;
            let dump = dumper.dump();
            let readers = dump.root.kinds.iter().find(|kind| kind.name == "reader");
            let first = &readers.expect("they live").rows[0];
            assert_eq!(first.state, TaskState::Stalled);
            let row = format!("─ #{}  stalled, age ", first.id);
            assert!(dump.to_text().contains(&row), "{dump}");
            tasks.cancel().await;
        });
        assert_eq!(report.reason, Reason::MainEnded);
    });
}

#[test]
fn a_required_task_without_its_heartbeat_makes_the_service_unready_until_it_beats() {
    alone(|| {
        // The required task may end only with the service.
        let mut kept = None;
        run(async |tasks| {
            let (tell, task) = beats_when_told();
            let group = tasks.clone();
            let task = async move {
                group.until_draining(task).await;
            };
            let reader = tasks.task("reader").required();
            drop(reader.heartbeat(RARELY).spawn(task));
            assert!(tasks.is_ready());
            until(|| !tasks.is_ready()).await;
            until(|| {
                tell.send(()).unwrap();
                tasks.is_ready()
            })
            .await;
            until(|| !tasks.is_ready()).await;
            kept = Some(tell);
        });
    });
}

#[test]
fn a_task_that_beats_and_one_that_has_ended_are_not_stalled() {
    alone(|| {
        let heard = Heard::of("headcount::task");
        run(async |tasks| {
            let ended = tasks.task("ended").heartbeat(EVERY).spawn(async {});
            ended.await.unwrap();
            let beating = tasks.task("beating").heartbeat(RARELY);
            let group = tasks.clone();
            let beating = beating.spawn(async move {
                while !group.is_draining() {
                    TaskGroup::beat();
                    tokio::task::yield_now().await;
                }
            });
            // This task probably gets the slot of the one that has ended, and is just as silent.
            drop(tasks.spawn("next", std::future::pending::<()>()));
            // Beats in a task that has declared no heartbeat, and outside of any task.
            TaskGroup::beat();
            drop(tasks.task("silent").heartbeat(EVERY).spawn_blocking(|| {
                Gate::default();
            }));
            let (_tell, task) = beats_when_told();
            drop(tasks.task("stalled").heartbeat(EVERY * 2).spawn(task));
            let (told, _) = heard.next();
            assert!(told.contains("task=\"stalled\""), "{told}");
            assert_eq!(state(&tasks, "beating"), Some(TaskState::Running));
            assert_eq!(state(&tasks, "next"), Some(TaskState::Running));
            assert!(!beating.is_finished());
            tasks.cancel().await;
        });
    });
}

#[test]
fn a_blocking_closure_may_beat_too() {
    alone(|| {
        let heard = Heard::of("headcount::task");
        run(async |tasks| {
            let (tell, told) = std::sync::mpsc::channel::<()>();
            let closure = tasks.task("reindex").heartbeat(EVERY);
            let closure = closure.spawn_blocking(move || {
                while told.recv().is_ok() {
                    TaskGroup::beat();
                }
            });
            let (line, _) = heard.next();
            assert!(line.contains("task is stalled"), "{line}");
            tell.send(()).unwrap();
            let (line, _) = heard.next();
            assert!(line.contains("task sends heartbeats again"), "{line}");
            drop(tell);
            closure.await.unwrap();
        });
    });
}
