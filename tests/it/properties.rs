//! A property of every service: each task is accounted for exactly once, in the right layer.

use crate::scenario::{Gate, alone, in_time, wait_until};
use headcount::report::{KindRow, Outcome, Report};
use headcount::{Runtime, TaskGroup};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The behaviour of a task at the drain.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    /// Ends before the drain.
    EndsBefore,
    Ends,
    Yields(u8),
    Fails,
    Panics,
    SpawnsAnother,
    Ignores,
    /// A blocking closure that does not end before the test opens the gate.
    Blocks,
    /// Ignores the drain, and is not waited for.
    Daemon,
}

/// A task, and whether it has its own group.
type Task = (Does, bool);

/// The state shared by the tasks of a case.
struct Stage {
    gate: Gate,
    /// Number of tasks that were dropped while their group was not draining.
    dropped_early: Arc<AtomicU64>,
}

/// Counts its drop if its group is not draining.
struct Dropped(TaskGroup, Arc<AtomicU64>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.1
            .fetch_add(u64::from(!self.0.is_draining()), Ordering::SeqCst);
    }
}

fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let does = prop_oneof![
        Just(Does::EndsBefore),
        Just(Does::Ends),
        (0..20_u8).prop_map(Does::Yields),
        Just(Does::Fails),
        Just(Does::Panics),
        Just(Does::SpawnsAnother),
        Just(Does::Ignores),
        Just(Does::Blocks),
        Just(Does::Daemon),
    ];
    proptest::collection::vec((does, any::<bool>()), 0..12)
}

async fn ignores(dropped: Dropped) {
    pending::<()>().await;
    drop(dropped);
}

async fn start(group: &TaskGroup, does: Does, stage: &Stage) {
    let member = group.clone();
    let dropped = || Dropped(group.clone(), Arc::clone(&stage.dropped_early));
    match does {
        Does::EndsBefore => in_time(group.spawn("ends", async {})).await.unwrap(),
        Does::Ends => drop(group.spawn("ends", async move { member.draining().await })),
        Does::Yields(n) => drop(group.spawn("yields", async move {
            member.draining().await;
            for _ in 0..n {
                tokio::task::yield_now().await;
            }
        })),
        Does::Fails => drop(group.try_spawn("fails", async move {
            member.draining().await;
            Err::<(), _>("it fails")
        })),
        Does::Panics => drop(group.spawn("panics", async move {
            member.draining().await;
            panic!("it panics");
        })),
        Does::SpawnsAnother => drop(group.spawn("spawns", async move {
            member.draining().await;
            drop(member.spawn("another", async { tokio::task::yield_now().await }));
        })),
        Does::Ignores => drop(group.spawn("ignores", ignores(dropped()))),
        Does::Blocks => {
            let (told, held) = (Gate::default(), stage.gate.clone());
            let inside = told.clone();
            drop(group.spawn_blocking("blocks", move || {
                inside.open();
                held.wait();
            }));
            told.wait();
        }
        Does::Daemon => drop(group.task("daemon").daemon().spawn(ignores(dropped()))),
    }
}

fn counts(findings: &[KindRow]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for finding in findings {
        *counts.entry(finding.path()).or_default() += finding.count;
    }
    counts
}

fn expected(tasks: &[Task], which: &[Does]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (does, nested) in tasks.iter().filter(|(does, _)| which.contains(does)) {
        let name = format!("{does:?}").to_lowercase();
        let path = if *nested {
            format!("nested/{name}")
        } else {
            name
        };
        *counts.entry(path).or_default() += 1;
    }
    counts
}

fn run(tasks: &[Task], main_fails: bool) {
    let stage = Stage {
        gate: Gate::default(),
        dropped_early: Arc::default(),
    };
    let mut root = None;
    let report = Runtime::builder()
        .print(false)
        .signals(false)
        .worker_threads(2)
        .drain_budget(Duration::from_millis(400))
        .cancel_budget(Duration::from_millis(400))
        .close_budget(Duration::from_millis(200))
        .build()
        .unwrap()
        .run(async |group| {
            let nested = group.group("nested");
            for (does, is_nested) in tasks {
                let group = if *is_nested { &nested } else { &group };
                start(group, *does, &stage).await;
            }
            root = Some(group);
            if main_fails {
                Err("as it was told")
            } else {
                Ok(())
            }
        });
    let root = root.expect("main ran");
    let mut left = BTreeMap::new();
    for row in root.snapshot().tasks() {
        let path = [row.group, row.name].join("/");
        *left
            .entry(path.trim_start_matches('/').to_owned())
            .or_default() += 1;
    }
    stage.gate.open();
    assert_eq!(
        left,
        expected(tasks, &[Does::Blocks]),
        "left in the registry"
    );
    assert_eq!(stage.dropped_early.load(Ordering::SeqCst), 0);
    judge(tasks, main_fails, &report);
    wait_until(
        || root.snapshot().tasks().len() == 0,
        || "the closures end".to_owned(),
    );
}

fn judge(tasks: &[Task], main_fails: bool, report: &Report) {
    let ignores = expected(tasks, &[Does::Ignores, Does::Blocks]);
    let blocks = expected(tasks, &[Does::Blocks]);
    let waited: u64 = tasks
        .iter()
        .map(|(does, _)| match does {
            Does::EndsBefore | Does::Daemon => 0,
            Does::SpawnsAnother => 2,
            _ => 1,
        })
        .sum();
    let (ignoring, blocking): (u64, u64) = (ignores.values().sum(), blocks.values().sum());
    assert_eq!(counts(&report.drain.ignored), ignores);
    assert_eq!(report.drain.tasks, waited);
    assert_eq!(report.drain.ended, waited - ignoring);
    assert_eq!(report.cancel.cancelled, ignoring - blocking);
    assert_eq!(counts(&report.cancel.lingering), blocks);
    assert_eq!(report.lingering_tasks(), blocking);
    let holders = report
        .close
        .threads
        .iter()
        .filter(|thread| thread.task.is_some());
    assert_eq!(holders.count() as u64, blocking);
    let (outcome, code) = match (blocking, ignoring) {
        (1.., _) => (Outcome::Lingering, 3),
        (0, 1..) => (Outcome::Cancelled, u8::from(main_fails)),
        (0, 0) => (Outcome::Clean, u8::from(main_fails)),
    };
    assert_eq!((report.outcome, report.exit_code()), (outcome, code));
    let layers = [
        report.drain.timing,
        report.cancel.timing,
        report.close.timing,
    ];
    // The layers run one after the other, not in parallel.
    let in_layers: Duration = layers.iter().map(|timing| timing.took).sum();
    assert!(in_layers <= report.total, "{report}");
    assert!(layers.iter().all(|timing| !timing.cut), "{report}");
}

#[test]
fn every_task_is_accounted_for_once() {
    alone(|| {
        let mut runner = TestRunner::new(Config {
            cases: 20,
            failure_persistence: None,
            // A failing case takes a second, and so does each attempt to shrink it.
            max_shrink_iters: 30,
            ..Config::default()
        });
        let cases = (tasks(), any::<bool>());
        let ran = runner.run(&cases, |(tasks, main_fails)| {
            run(&tasks, main_fails);
            Ok(())
        });
        ran.unwrap_or_else(|error| panic!("{error}"));
    });
}
