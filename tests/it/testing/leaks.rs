//! Tests with leaks, planted one by one.

use super::{quick, verdict};
use crate::scenario::Gate;
use headcount::ThreadKind;
use headcount::testing::check;
use std::future::pending;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::thread::{Builder, JoinHandle};

fn start(name: Option<&str>, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    let builder = name.map_or_else(Builder::new, |name| Builder::new().name(name.to_owned()));
    builder.spawn(work).expect("a thread is available")
}

/// Starts a child that lives until the test kills it.
fn sleeps(seconds: u32) -> Child {
    let mut command = Command::new("sleep");
    command.arg(seconds.to_string()).spawn().expect("it runs")
}

fn kill(mut child: Child) {
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
}

fn keep<T>(kept: &Sender<T>, value: T) {
    kept.send(value).expect("the test keeps it");
}

#[test]
fn a_test_that_leaves_nothing_behind_passes() {
    check(async |tasks| {
        let member = tasks.clone();
        drop(tasks.spawn("member", async move { member.draining().await }));
        let blocking = tasks.spawn_blocking("blocking", || 1);
        let thread = tasks.spawn_thread("thread", ThreadKind::Tracked, || 2);
        assert_eq!(blocking.await.unwrap() + thread.join().unwrap(), 3);
        start(None, || ()).join().unwrap();
        kill(sleeps(1000));
    });
}

#[test]
fn a_task_that_is_left_behind_is_named_with_its_spawn_site() {
    let line = line!() + 2;
    let was = verdict(quick(), async |tasks| {
        drop(tasks.group("group").spawn("forgotten", pending::<()>()));
        for _ in 0..2 {
            drop(tasks.spawn("twice", pending::<()>()));
        }
    });
    assert_eq!(
        was,
        format!(
            "test left behind:\n  task group/forgotten ×1 (async)  age Ns, spawned {0}:{line}:35\n  \
             task twice ×2 (async)  age Ns, spawned {0}:{1}:24\n",
            file!(),
            line + 2
        )
    );
}

#[test]
fn a_blocking_closure_that_is_left_behind_is_named_with_its_thread() {
    let gate = Gate::default();
    let held = gate.clone();
    let line = line!() + 3;
    let was = verdict(quick(), async move |tasks| {
        let (inside, told) = (Gate::default(), Gate::default());
        drop(tasks.spawn_blocking("closure", {
            let told = told.clone();
            move || {
                told.open();
                held.wait();
            }
        }));
        told.wait();
        drop(inside);
    });
    gate.open();
    assert_eq!(
        was,
        format!(
            "test left behind:\n  task closure ×1 (blocking)  age Ns, on thread \"headcount-work\" (tid N), \
             and could not be cancelled, spawned {}:{line}:20\n",
            file!()
        )
    );
}

#[test]
fn a_task_that_cannot_be_cancelled_is_said_to_be_so() {
    let gate = Gate::default();
    let held = gate.clone();
    let line = line!() + 4;
    let was = verdict(quick(), async move |tasks| {
        let told = Gate::default();
        let inside = told.clone();
        drop(tasks.spawn("stuck", async move {
            inside.open();
            held.wait();
        }));
        told.wait();
    });
    gate.open();
    assert_eq!(
        was,
        format!(
            "test left behind:\n  task stuck ×1 (async)  age Ns, on thread \"headcount-work\" (tid N) for Ns, \
             and could not be cancelled, spawned {}:{line}:20\n",
            file!()
        )
    );
}

#[test]
fn an_untracked_task_that_is_left_behind_is_named_with_its_spawn_site() {
    let line = line!() + 3;
    #[expect(clippy::disallowed_methods, reason = "the leak is under test")]
    let was = verdict(quick(), async |_| {
        drop(tokio::spawn(pending::<()>()));
    });
    let begin = "test left behind:\n  untracked task ×1  ";
    if cfg!(tokio_unstable) {
        let place = format!("{begin}spawned {}:{line}:14\n", file!());
        assert!(was.starts_with(&place), "{was}");
    } else {
        // The type needs the feature `stacks`, and time.
        assert!(was.starts_with(begin), "{was}");
    }
}

#[test]
fn an_untracked_task_that_ends_in_the_grace_period_is_no_leak() {
    check(async |_| {
        for _ in 0..10 {
            #[expect(clippy::disallowed_methods, reason = "the check must wait for it")]
            drop(tokio::spawn(async {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
            }));
        }
    });
}

#[test]
fn a_thread_that_is_left_behind_is_named_as_far_as_the_kernel_knows() {
    let gate = Gate::default();
    let held = gate.clone();
    let (kept, threads) = channel();
    let name = "testing-test-thread";
    let was = verdict(quick(), async move |tasks| {
        let (a, b, c) = (held.clone(), held.clone(), held);
        keep(&kept, start(Some(name), move || a.wait()));
        keep(
            &kept,
            start(Some("starter"), {
                let kept = kept.clone();
                move || keep(&kept, start(Some("grandchild"), move || b.wait()))
            }),
        );
        drop(tasks.spawn_thread("tracked", ThreadKind::Tracked, move || c.wait()));
        drop(tasks.spawn_thread("daemon", ThreadKind::Daemon, || ()));
    });
    gate.open();
    threads.iter().for_each(|thread| thread.join().unwrap());
    let mut lines: Vec<_> = was.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "test left behind:",
            "  thread \"grandchild\" (unknown)  waits, age Ns",
            "  thread \"testing-test-th\" (unknown)  waits, age Ns",
            &format!(
                "  thread \"tracked\" (tracked)  waits, age Ns, started {}:{}:20",
                file!(),
                line!() - 16
            ),
        ]
    );
}

#[test]
fn an_unnamed_thread_that_is_left_behind_is_found_all_the_same() {
    let gate = Gate::default();
    let held = gate.clone();
    let (kept, threads) = channel();
    let was = verdict(quick(), async move |_| {
        keep(&kept, start(None, move || held.wait()));
    });
    gate.open();
    threads.iter().for_each(|thread| thread.join().unwrap());
    // The kernel names the child after the thread that started it, which has the name of the test.
    let lines: Vec<_> = was.lines().collect();
    assert_eq!(lines.len(), 2, "{was}");
    assert_eq!(lines[0], "test left behind:");
    assert!(lines[1].starts_with("  thread \""), "{was}");
    assert!(lines[1].ends_with("\" (unknown)  waits, age Ns"), "{was}");
}

#[test]
fn a_child_process_that_is_left_behind_is_named_with_its_command() {
    let (kept, children) = channel();
    let was = verdict(quick(), async move |tasks| {
        keep(&kept, sleeps(1001));
        // Forked by a worker.
        let child = tasks.spawn("forks", async { sleeps(1002) }).await.unwrap();
        keep(&kept, child);
    });
    children.iter().for_each(kill);
    let mut lines: Vec<_> = was.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "test left behind:",
            "  child process N  sleep 1001",
            "  child process N  sleep 1002",
        ]
    );
}

/// With only the names, a user would have to search the test for the location.
#[cfg(all(feature = "stacks", debug_assertions))]
#[test]
fn leaks_are_shown_with_what_they_await_and_their_stacks() {
    #[inline(never)]
    fn held_back(gate: &Gate) {
        gate.wait();
    }
    async fn hears_nothing() {
        let (_told, tells) = tokio::sync::oneshot::channel::<()>();
        tells.await.ok();
    }
    let gate = Gate::default();
    let (held, stuck) = (gate.clone(), gate.clone());
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        quick().run(async move |tasks| {
            drop(tasks.spawn("listener", hears_nothing()));
            drop(tasks.spawn_thread("watcher", ThreadKind::Tracked, move || held_back(&held)));
            let told = Gate::default();
            let inside = told.clone();
            drop(tasks.spawn("blocker", async move {
                inside.open();
                held_back(&stuck);
            }));
            told.wait();
        });
    }));
    gate.open();
    let text = failed.expect_err("it leaks").downcast::<String>();
    let text = *text.expect("it says what is left");
    let row = |name: &str| {
        let row = text.lines().find(|line| line.contains(name));
        row.unwrap_or_else(|| panic!("no {name}: {text}"))
    };
    let awaits = row("task listener");
    let waits = ", waiting for a oneshot channel ← ";
    assert!(awaits.contains(waits), "{text}");
    assert!(
        awaits.contains("hears_nothing (tests/it/testing/leaks.rs:"),
        "{text}"
    );
    assert!(
        row("thread \"watcher\"").contains("waiting for a condition"),
        "{text}"
    );
    let below = |name: &str| {
        let (_, rest) = text.split_once(row(name)).expect("it is there");
        rest.lines().skip(1).take(5).collect::<Vec<_>>().join("\n")
    };
    for name in ["thread \"watcher\"", "task blocker"] {
        let stack = below(name);
        assert!(stack.starts_with("      0 std::sync::"), "{text}");
        assert!(
            stack.contains("held_back (tests/it/testing/leaks.rs:"),
            "{text}"
        );
    }
}
