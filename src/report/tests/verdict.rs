//! The verdict about child processes and untracked tasks.

use super::{report, task, thread};
use crate::report::{ChildRow, Frame, Report, UntrackedRow, verdict};
use crate::task::TaskKind;
use std::panic::Location;

fn process(pid: u32, task: &str) -> ChildRow {
    ChildRow {
        pid,
        command: "/usr/bin/postgres -D data".to_owned(),
        task: Some(task.to_owned()),
        end: Some("killed by SIGKILL".to_owned()),
        signal: Some("SIGTERM".to_owned()),
        took: None,
        waited_for: Vec::new(),
        unstopped: Vec::new(),
        killed: vec![format!("postgres (pid {pid})")],
    }
}

#[test]
fn a_process_that_was_killed_or_is_still_there_is_named() {
    let mut report = report(Vec::new(), Vec::new());
    let verdict = |report: &Report| verdict::of(report);
    report.processes = vec![process(17, "http/database")];
    assert_eq!(
        verdict(&report).as_deref(),
        Some("child process 17 (postgres) of http/database had to be killed")
    );
    report.processes[0]
        .killed
        .insert(0, "sh (pid 18)".to_owned());
    assert_eq!(
        verdict(&report).as_deref(),
        Some("child process 17 (postgres) of http/database and 1 that it started had to be killed")
    );
    report.processes[0].killed.pop();
    assert_eq!(
        verdict(&report).as_deref(),
        Some(
            "sh (pid 18), started by child process 17 (postgres) of http/database, had to be killed"
        )
    );
    // What is still there comes first.
    report.processes.push(ChildRow {
        end: None,
        killed: Vec::new(),
        ..process(19, "http/cache")
    });
    let left = "child process 19 (postgres) of http/cache may still be alive; and 1 more";
    assert_eq!(verdict(&report).as_deref(), Some(left));
    report.processes.remove(0);
    report.close.children = vec![ChildRow {
        task: None,
        ..report.processes[0].clone()
    }];
    assert_eq!(
        verdict(&report).as_deref(),
        Some("child process 19 (postgres) is still there"),
        "it is one process"
    );
}

#[test]
fn a_process_of_a_task_that_is_named_is_not_named_too() {
    let ignored = vec![task("database", None, Vec::new())];
    let place = ignored[0].spawned;
    let place = format!("{}:{}", place.file(), place.line());
    let mut report = report(ignored, Vec::new());
    report.processes = vec![process(17, "http/database")];
    let held = format!("http/database ({place}), held the stop for 5.0s");
    assert_eq!(verdict::of(&report), Some(held));
    report.drain.ignored[0].draining = None;
    assert_eq!(
        verdict::of(&report).as_deref(),
        Some("child process 17 (postgres) of http/database had to be killed"),
        "its task was never told, so it is not named"
    );
}

/// One of two tasks holds the only worker; the tasks of the site cannot be dropped.
#[test]
fn untracked_tasks_for_which_no_worker_is_free_are_not_to_blame() {
    let mut report = report(Vec::new(), Vec::new());
    let spawned = Location::caller();
    let place = format!("{}:{}", file!(), spawned.line());
    report.cancel.untracked = Some(vec![UntrackedRow {
        spawned: Some(spawned),
        live: 3,
        started: Some(9),
        ..UntrackedRow::default()
    }]);
    // A tracked task and the three.
    report.cancel.not_polled = vec![task("waits", None, Vec::new())];
    report.cancel.starved = 4;
    report.close.threads = vec![thread(3, Vec::new())];
    let blamed = "thread \"pg-reader\", parked, is still there";
    assert_eq!(verdict::of(&report).as_deref(), Some(blamed));
    let row = format!("! untracked ×3  spawned {spawned}, 3 still alive");
    assert!(report.to_text(false).contains(&row), "{report}");
    report.close.threads.clear();
    if let Some(sites) = &mut report.cancel.untracked {
        sites[0].dropped = 2;
    }
    let dropped = format!("2 untracked tasks ({place}) had to be dropped");
    assert_eq!(verdict::of(&report), Some(dropped));
    // A closure is not among those for which no worker is free, so one of the three was not starved.
    report.cancel.not_polled[0].kind = TaskKind::Blocking;
    report.cancel.starved = 2;
    let held = format!("5 untracked tasks ({place}) could not be dropped");
    assert_eq!(verdict::of(&report), Some(held));
    let row = format!("✗ untracked ×5  spawned {spawned}, 3 still alive");
    assert!(report.to_text(false).contains(&row), "{report}");
}

#[test]
fn a_server_that_waits_for_its_connections_is_not_to_blame() {
    let mut server = task("serve", None, Vec::new());
    let frame = Frame::bare("axum::serve::WithGracefulShutdown<L, M, S, F>::run::{async_fn#0}");
    server.rows[0].awaits = Some(vec![vec![frame]]);
    let mut report = report(vec![server], Vec::new());
    let awaits = "orders::report (src/main.rs:34), waiting for tcp 10.0.0.7:9 to be readable";
    report.cancel.untracked = Some(vec![
        UntrackedRow {
            dropped: 3,
            ..UntrackedRow::default()
        },
        UntrackedRow {
            dropped: 1,
            in_program: Some(awaits.to_owned()),
            ..UntrackedRow::default()
        },
    ]);
    let held = format!("{awaits}, in 1 untracked task, held http/serve for 5.0s; and 1 more");
    assert_eq!(verdict::of(&report), Some(held));
    // Without a handler in the program's own code, the server is all that is known.
    report.cancel.untracked = Some(Vec::new());
    let verdict = verdict::of(&report).expect("a culprit");
    assert!(verdict.starts_with("http/serve ("), "{verdict}");
    // Another task is to blame itself.
    report.drain.ignored[0].rows[0].awaits = None;
    report.cancel.untracked = Some(vec![UntrackedRow {
        dropped: 1,
        in_program: Some(awaits.to_owned()),
        ..UntrackedRow::default()
    }]);
    let verdict = verdict::of(&report).expect("a culprit");
    assert!(verdict.starts_with("http/serve ("), "{verdict}");
}
