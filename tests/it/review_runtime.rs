//! Tests of runtimes in edge cases: never run, without limits, stopped twice, with a subscriber
//! that hangs.
#![expect(
    clippy::disallowed_methods,
    reason = "simulates foreign code, and a separate process that exits by itself"
)]

use headcount::{Runtime, TaskGroup};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const ALONE: &str = "HEADCOUNT_TEST_ALONE";

/// Runs the test with this name in its own process; returns `None` in that process.
fn alone(name: &str) -> Option<Output> {
    let name = format!("review_runtime::{name}");
    if std::env::var_os(ALONE).is_some_and(|alone| *alone == *name) {
        return None;
    }
    let test = std::env::current_exe().expect("the test binary");
    let mut child = Command::new(test);
    child.args(["--exact", &name, "--nocapture"]);
    child.env(ALONE, &name).stdin(Stdio::null());
    Some(child.output().expect("the test binary starts"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn threads_named(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|comm| comm.trim_end() == name)
        .count()
}

/// A task that held a group kept the workers of a dropped runtime alive; without one, its control
/// thread panicked.
#[test]
#[cfg(target_os = "linux")]
fn a_runtime_that_is_dropped_unrun_ends_its_threads_quietly() {
    let Some(output) = alone("a_runtime_that_is_dropped_unrun_ends_its_threads_quietly") else {
        for with_task in [false, true] {
            let runtime = Runtime::builder().signals(false).print(false).build();
            let runtime = runtime.expect("it builds");
            if with_task {
                let tasks = runtime.tasks().clone();
                runtime.tasks().spawn("holder", async move {
                    tasks.draining().await;
                });
            }
            drop(runtime);
            let given_up = Instant::now() + Duration::from_secs(60);
            for name in ["headcount-work", "headcount-contr"] {
                while threads_named(name) > 0 {
                    assert!(Instant::now() < given_up, "{name} lives on");
                    std::thread::yield_now();
                }
            }
        }
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_runtime_may_be_dropped_in_a_task_of_another() {
    crate::scenario::alone(|| {
        let report = Runtime::builder().signals(false).print(false).build();
        let report = report.expect("it builds").run(async |tasks| {
            let dropped = tasks.spawn("drops", async {
                drop(Runtime::builder().signals(false).print(false).build());
            });
            dropped.await.expect("no panic");
        });
        assert!(report.is_clean(), "{report:?}");
    });
}

#[test]
fn unlimited_budgets_are_accepted() {
    crate::scenario::alone(|| {
        let no_limit = Duration::MAX;
        let runtime = Runtime::builder()
            .signals(false)
            .print(false)
            .drain_budget(no_limit)
            .cancel_budget(no_limit)
            .close_budget(no_limit)
            .deadline(no_limit)
            .build();
        let report = runtime.expect("it builds").run(async |tasks| {
            let group = tasks.group("patient").drain_budget(no_limit);
            let stop = group.clone();
            group
                .task("patient")
                .drain_budget(no_limit)
                .spawn(async move { stop.draining().await });
        });
        assert!(report.is_clean(), "{report:?}");
    });
}

/// There, the thread of `main` parks like a worker; it was mistaken for one, and lingered because
/// it had not ended.
#[test]
fn the_main_thread_of_a_current_thread_runtime_does_not_linger() {
    crate::scenario::alone(|| {
        let runtime = Runtime::builder().signals(false).print(false);
        let report = runtime.current_thread().build().expect("it builds");
        let report = report.run(async |tasks| {
            let task = tasks.spawn("task", tokio::time::sleep(Duration::from_millis(1)));
            task.await.expect("no panic");
        });
        assert!(report.is_clean(), "{report:?}");
    });
}

/// A thread that had run its own runtime was forgotten afterwards, and lingered.
#[test]
fn a_daemon_thread_that_ran_another_runtime_is_a_daemon_still() {
    crate::scenario::alone(|| {
        let runtime = || Runtime::builder().signals(false).print(false).build();
        let (release, hold) = channel::<()>();
        let report = runtime().expect("it builds").run(async |tasks| {
            let (ran, inner) = tokio::sync::oneshot::channel();
            let work = move || {
                ran.send(runtime().expect("it builds").run(async |_| {}))
                    .expect("the test waits");
                hold.recv().expect_err("nothing is sent");
            };
            tasks.spawn_thread("outer", headcount::ThreadKind::Daemon, work);
            assert!(inner.await.expect("it is told").is_clean());
        });
        drop(release);
        assert!(report.is_clean(), "{report:?}");
    });
}

/// A second signal in the second layer cut that layer short and did not release a current-thread
/// `main`: the process was ended with 70 although nothing lingered.
#[test]
fn a_second_signal_while_tasks_are_cancelled_lets_them_end() {
    let Some(output) = alone("a_second_signal_while_tasks_are_cancelled_lets_them_end") else {
        let runtime = Runtime::builder()
            .current_thread()
            .drain_budget(Duration::from_millis(20));
        let runtime = runtime.build().expect("it builds");
        let (ended, waits) = channel::<()>();
        let signals = move |tasks: TaskGroup| {
            while tasks.is_ready() || !refuses(&tasks) {
                std::thread::yield_now();
            }
            let own = rustix::process::getpid();
            for _ in 0..2 {
                rustix::process::kill_process(own, rustix::process::Signal::TERM).expect("alive");
                // A pending signal would swallow the next one.
                waits.recv_timeout(Duration::from_millis(100)).ok();
            }
        };
        let report = runtime.run(async move |tasks| {
            let group = tasks.clone();
            tasks.spawn_blocking("signals", move || signals(group));
        });
        drop(ended);
        std::process::exit(report.exit_code().into());
    };
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

fn refuses(tasks: &TaskGroup) -> bool {
    let probe = tasks.task("probe").daemon().spawn(async {});
    format!("{probe:?}").contains("refused: true")
}

/// The subscriber is the user's code: one that waited for a lock of a stuck task kept the report
/// from being written.
#[test]
fn a_subscriber_that_hangs_does_not_keep_the_report() {
    struct Hangs;
    impl tracing::Subscriber for Hangs {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            while event.metadata().target().starts_with("headcount::") {
                std::thread::park();
            }
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }
    let Some(output) = alone("a_subscriber_that_hangs_does_not_keep_the_report") else {
        tracing::subscriber::set_global_default(Hangs).expect("the first");
        headcount::run("mute", async |_| {
            tokio::spawn(std::future::pending::<()>());
        });
        return;
    };
    let said = stderr(&output);
    assert!(said.contains("headcount mute: stopping"), "{said}");
}

/// Nested groups were walked by a recursion of their depth, once for each group.
#[test]
fn groups_nested_ten_thousand_deep_stop_in_time() {
    crate::scenario::alone(|| {
        let runtime = Runtime::builder().signals(false).print(false).build();
        let report = runtime.expect("it builds").run(async |tasks| {
            let mut groups = vec![tasks];
            for _ in 0..10_000 {
                let inner = groups[groups.len() - 1].group("inner");
                groups.push(inner);
            }
            let last = groups[groups.len() - 1].clone();
            last.clone()
                .spawn("deep", async move { last.draining().await });
            let wide: Vec<_> = (0..5_000)
                .map(|_| groups[0].group("wide").group("in"))
                .collect();
            for group in &wide {
                let own = group.clone();
                group.spawn("wide", async move { own.draining().await });
            }
            drop((groups, wide));
        });
        assert!(report.is_clean(), "{report:?}");
        assert!(report.total < Duration::from_secs(4), "{:?}", report.total);
    });
}

/// Spawn sites of untracked tasks were kept for every runtime of the process, so that after some
/// hundred tests every name was `_other`.
#[test]
#[cfg(tokio_unstable)]
fn a_thousandth_runtime_still_knows_names_and_untracked_sites() {
    let Some(output) = alone("a_thousandth_runtime_still_knows_names_and_untracked_sites") else {
        for round in 0..300 {
            let runtime = Runtime::builder().signals(false).print(false);
            let runtime = runtime.worker_threads(1).build().expect("it builds");
            let report = runtime.run(async move |tasks| {
                #[rustfmt::skip]
                let bare = [
                    tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}),
                    tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}),
                    tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}),
                    tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}), tokio::spawn(async {}),
                ];
                for task in bare {
                    task.await.expect("no panic");
                }
                tokio::spawn(std::future::pending::<()>());
                let name = format!("in round {}", round / 100);
                let stop = tasks.clone();
                tasks.spawn(&name, async move { stop.draining().await });
                let snapshot = tasks.snapshot();
                let names: Vec<_> = snapshot.tasks().map(|task| task.name).collect();
                assert!(names.contains(&name.as_str()), "round {round}: {names:?}");
                let untracked = snapshot.untracked().expect("it is seen");
                assert_eq!(untracked.len(), 17, "round {round}");
                let started = untracked.iter().filter_map(|site| site.started);
                assert_eq!(started.sum::<u64>(), 17, "round {round}: {untracked:?}");
            });
            assert_eq!(report.reason.to_string(), "main ended");
            let untracked = report.cancel.untracked.as_deref().expect("it is seen");
            assert_eq!(untracked.len(), 1, "round {round}: {report:?}");
            assert_eq!(untracked[0].dropped, 1, "round {round}");
        }
        return;
    };
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", stderr(&output));
}

/// The end of the blocking work counted as the end of a task with the same spawn site.
#[test]
#[cfg(tokio_unstable)]
fn blocking_work_of_the_same_place_does_not_hide_an_untracked_task() {
    crate::scenario::alone(|| {
        #[track_caller]
        fn both() -> tokio::task::JoinHandle<()> {
            tokio::spawn(std::future::pending::<()>());
            tokio::task::spawn_blocking(|| {})
        }
        let runtime = Runtime::builder().signals(false).print(false).build();
        let report = runtime.expect("it builds").run(async |_| {
            for _ in 0..3 {
                both().await.expect("no panic");
            }
        });
        let untracked = report.cancel.untracked.as_deref().expect("it is seen");
        let dropped: Vec<u64> = untracked.iter().map(|site| site.dropped).collect();
        assert_eq!(dropped, [3], "{report:?}");
    });
}

/// The scope of a group that ended while its siblings drained was reused for a new group, which was
/// then told to drain.
#[test]
fn a_group_made_while_others_drain_is_not_told_to_drain() {
    let Some(output) = alone("a_group_made_while_others_drain_is_not_told_to_drain") else {
        let runtime = Runtime::builder().signals(false).print(false).build();
        let report = runtime.expect("it builds").run(async |tasks| {
            let parent = tasks.group("parent");
            let (first, second) = (parent.group("first"), parent.group("second"));
            let (told, release) = (
                tokio::sync::oneshot::channel(),
                tokio::sync::oneshot::channel(),
            );
            let drains_before = second.clone();
            second.spawn("held", async move {
                drains_before.draining().await;
                told.0.send(()).expect("the test waits");
                release.1.await.expect("the test holds the other end");
            });
            let drain = tasks.spawn("drain", async move { parent.drain().await });
            told.1.await.expect("the task tells");
            drop(first);
            let strangers: Vec<_> = (0..20).map(|_| tasks.group("stranger")).collect();
            release.0.send(()).expect("the task waits");
            assert_eq!(drain.await.expect("no panic"), 0);
            assert!(
                !strangers.iter().any(TaskGroup::is_draining),
                "a stranger was told"
            );
        });
        assert_eq!(report.reason.to_string(), "main ended");
        return;
    };
    assert!(output.status.success(), "{}", stderr(&output));
}
