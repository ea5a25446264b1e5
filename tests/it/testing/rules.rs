//! Tests of the rules of a check, and of its end when the test does not end.

use super::{normal, quick, verdict};
use crate::scenario::Gate;
use headcount::testing::{Check, Ignore, check};
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

#[test]
fn only_leaks_with_a_rule_are_left_out() {
    let rules = [
        Ignore::Task("group/ignored"),
        Ignore::Thread("ignored-"),
        Ignore::Child("sleep 1003"),
    ];
    let gate = Gate::default();
    let (held, held_too) = (gate.clone(), gate.clone());
    let (kept, children) = channel();
    let line = line!() + 3;
    let was = verdict(quick().ignore(&rules), async move |tasks| {
        drop(tasks.group("group").spawn("ignored", pending::<()>()));
        drop(tasks.group("other").spawn("ignored", pending::<()>()));
        for (name, held) in [("ignored-1", held), ("not-ignored-1", held_too)] {
            let thread = std::thread::Builder::new().name(name.to_owned());
            drop(thread.spawn(move || held.wait()).unwrap());
        }
        for seconds in ["1003", "1004"] {
            let child = Command::new("sleep").arg(seconds).spawn().unwrap();
            kept.send(child).unwrap();
        }
    });
    gate.open();
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(
        was,
        format!(
            "test left behind:\n  task other/ignored ×1 (async)  age Ns, spawned {}:{line}:35\n  \
             thread \"not-ignored-1\" (unknown)  waits, age Ns\n  child process N  sleep 1004\n",
            file!()
        )
    );
}

#[test]
fn a_test_with_a_rule_for_each_leak_passes() {
    let rules = [Ignore::Task("a"), Ignore::Untracked("testing/rules.rs")];
    let was = verdict(quick().ignore(&rules), async |tasks| {
        drop(tasks.spawn("a", pending::<()>()));
        #[cfg(tokio_unstable)]
        #[expect(clippy::disallowed_methods, reason = "a rule ignores it")]
        drop(tokio::spawn(pending::<()>()));
    });
    assert_eq!(was, "");
}

#[test]
fn an_untracked_task_that_no_rule_names_is_found() {
    let was = verdict(
        quick().ignore(&[Ignore::Untracked("elsewhere.rs")]),
        async |_| {
            #[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
            drop(tokio::spawn(pending::<()>()));
        },
    );
    assert!(
        was.starts_with("test left behind:\n  untracked task ×1"),
        "{was}"
    );
}

#[test]
fn a_test_that_hangs_fails_and_everything_live_is_named() {
    let (release, held) = channel::<()>();
    let line = line!() + 7;
    let check = quick().time_limit(Duration::from_millis(500));
    let was = verdict(check, async move |tasks| {
        let member = tasks.clone();
        drop(
            tasks
                .group("group")
                .spawn("waits", async move { member.draining().await }),
        );
        // From the check's point of view, this blocks forever.
        held.recv().unwrap_err();
    });
    drop(release);
    let (head, rest) = was.split_once('\n').unwrap();
    assert_eq!(head, "test hangs: still running after 0.5s; alive:");
    let main = "│  ├─ main  running, age Ns, last poll ";
    let waits = "│  └─ group\n│     └─ waits  running, age Ns, last poll ";
    let spawned = format!("s ago, spawned {}:{line}:18", file!());
    assert!(rest.starts_with("├─ 2 tracked tasks\n"), "{rest}");
    assert!(rest.lines().any(|line| line.starts_with(main)), "{rest}");
    assert!(rest.contains(waits), "{rest}");
    assert!(rest.contains(&spawned), "{rest}");
    let worker = "\"headcount-work\" (tid N, worker)  ";
    let workers = rest.lines().filter(|line| line.contains(worker));
    assert!(workers.count() >= 2, "{rest}");
}

#[test]
fn a_test_that_awaits_for_ever_fails_too() {
    let check = quick().time_limit(Duration::from_millis(200));
    let was = verdict(check, async |_| pending::<()>().await);
    let head = "test hangs: still running after 0.2s; alive:\n├─ 1 tracked task\n";
    assert!(was.starts_with(head), "{was}");
}

#[test]
fn a_test_that_returns_an_error_fails_with_it() {
    let failed = catch_unwind(AssertUnwindSafe(|| {
        check(async |_| Err::<(), _>("no database"));
    }));
    let text = failed.unwrap_err().downcast::<String>().unwrap();
    assert_eq!(normal(&text), "test failed: no database\n");
    check(async |_| Ok::<(), &str>(()));
}

#[test]
#[should_panic(expected = "the test's own words: 7")]
fn a_panic_of_the_test_passes_through() {
    check(async |tasks| {
        let seven = tasks.spawn("seven", async { 7 }).await.unwrap();
        assert_eq!(seven, 8, "the test's own words: {seven}");
    });
}

#[test]
fn a_panic_of_the_test_comes_before_its_leaks_and_keeps_its_payload() {
    let failed = catch_unwind(AssertUnwindSafe(|| {
        quick().run(async |tasks| {
            drop(tasks.spawn("left", pending::<()>()));
            if tasks.is_ready() {
                std::panic::panic_any(7_u8);
            }
        });
    }));
    assert_eq!(*failed.unwrap_err().downcast::<u8>().unwrap(), 7);
}

#[test]
fn checks_that_run_at_the_same_time_do_not_see_each_others_leaks() {
    let (gate, together) = (
        Gate::default(),
        std::sync::Arc::new(std::sync::Barrier::new(4)),
    );
    let (kept, children) = channel();
    let verdicts: Vec<_> = std::thread::scope(|scope| {
        let checks: Vec<_> = (0..4)
            .map(|n| {
                let (gate, together, kept) = (gate.clone(), together.clone(), kept.clone());
                let leak = async move |tasks: headcount::TaskGroup| {
                    let name = format!("leaks-{n}");
                    drop(tasks.spawn(&name, pending::<()>()));
                    let thread = std::thread::Builder::new().name(name);
                    drop(thread.spawn(move || gate.wait()).unwrap());
                    let child = Command::new("sleep").arg(format!("101{n}")).spawn();
                    kept.send(child.unwrap()).unwrap();
                    // No check is evaluated before all tests have leaked.
                    together.wait();
                };
                scope.spawn(move || verdict(quick(), leak))
            })
            .collect();
        checks
            .into_iter()
            .map(|check| check.join().unwrap())
            .collect()
    });
    drop(kept);
    gate.open();
    for mut child in children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for (n, was) in verdicts.iter().enumerate() {
        let lines: Vec<_> = was.lines().collect();
        assert_eq!(lines.len(), 4, "{was}");
        assert!(
            lines[1].starts_with(&format!("  task leaks-{n} ×1 (async)")),
            "{was}"
        );
        assert_eq!(
            lines[2],
            format!("  thread \"leaks-{n}\" (unknown)  waits, age Ns")
        );
        assert_eq!(lines[3], format!("  child process N  sleep 101{n}"));
    }
}

#[test]
fn a_check_of_the_whole_process_sees_threads_that_others_start() {
    crate::scenario::alone(|| {
        let gate = Gate::default();
        let (ask, asked) = channel::<Gate>();
        // The thread exists before the check, so threads that it starts carry no mark.
        let other = std::thread::Builder::new().spawn(move || {
            let gate = asked.recv().unwrap();
            let told = Gate::default();
            let thread = std::thread::Builder::new().name("others".to_owned());
            let inside = told.clone();
            let thread = thread.spawn(move || {
                inside.open();
                gate.wait();
            });
            told.wait();
            thread.unwrap().join().unwrap();
        });
        let held = gate.clone();
        let whole: Check = quick().whole_process();
        let was = verdict(whole, async move |tasks| {
            ask.send(held).unwrap();
            let seen = || {
                let threads = std::fs::read_dir("/proc/self/task").unwrap();
                let mut names = threads.filter_map(|thread| {
                    std::fs::read_to_string(thread.ok()?.path().join("comm")).ok()
                });
                names.any(|name| name.trim() == "others")
            };
            crate::scenario::until(seen).await;
            drop(tasks);
        });
        gate.open();
        other.unwrap().join().unwrap();
        assert_eq!(
            was,
            "test left behind:\n  thread \"others\" (unknown)  waits, age Ns\n"
        );
    });
}
