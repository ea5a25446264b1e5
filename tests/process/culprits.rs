//! Tests of the culprits that a report names when a service does not stop by itself.

use crate::program::{Ended, ready};
use rustix::process::Signal;
use std::time::Duration;

/// The layers of these scenarios take half a second, and the deadline is 2 s.
const DEADLINE: Duration = Duration::from_secs(5);

/// Starts the scenario, stops it, and returns its end.
#[track_caller]
fn stopped(scenario: &[&str], code: i32) -> Ended {
    let ended = ready(scenario).stop(Signal::TERM);
    ended.assert_code(code).assert_took_at_most(DEADLINE);
    ended
}

#[test]
fn a_tracked_thread_that_lingers_is_named_in_full() {
    let ended = stopped(&["thread-lingers"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 200ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "a-very-long-watcher" (tid N, tracked)  waiting on futex A, age T, cpu T, started <watcher>
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn an_unregistered_thread_is_named_as_in_the_kernel() {
    let ended = stopped(&["unknown-thread-lingers"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 200ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "pg-reader" (tid N, unknown)  waiting on futex A, age T, cpu T
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn an_unregistered_thread_is_reported_whatever_its_name_is() {
    // A new thread might be one of headcount's that is starting, so the shutdown waits for as long
    // as a start may take.
    let ended = ready(&["thread-named-as-ours-lingers"]).stop(Signal::TERM);
    ended.assert_code(3);
    let report = ended.report();
    let lingers = "✗ thread \"headcount-fake\" (tid N, unknown)";
    assert!(report.contains(lingers), "{report}");
    assert!(report.contains("└─ lingering: 1 thread "), "{report}");
}

#[test]
fn a_daemon_thread_may_die_with_the_process() {
    let ended = stopped(&["daemon-thread"], 0);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ clean  total T
    ");
}

#[test]
fn a_tracked_thread_that_asks_whether_to_end_is_waited_for() {
    let ended = stopped(&["thread-asks"], 0);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (3 ended)
    └─ clean  total T
    ");
}

#[test]
fn a_child_process_that_is_left_is_named_with_its_command() {
    let ended = stopped(&["child-lingers"], 3);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 200ms  no thread lingers (2 ended)
    │  └─ ✗ child process N  cat
    └─ lingering: 1 child process  total T
    ");
}

#[test]
fn a_task_that_ignores_the_drain_is_named_and_cancelled() {
    let ended = stopped(&["ignores-drain"], 0);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 2 tasks ended
    │  └─ ✗ http/accept  ignored drain for T, spawned <accept>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[cfg(tokio_unstable)]
#[test]
fn untracked_tasks_are_named_by_their_spawn_site() {
    let ended = stopped(&["untracked"], 0);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  0 tracked cancelled, 3 untracked dropped
    │  └─ ! untracked ×3  spawned <untracked>
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[cfg(not(tokio_unstable))]
#[test]
fn untracked_tasks_are_named_by_their_type() {
    let ended = stopped(&["untracked"], 0);
    insta::assert_snapshot!(ended.errors(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  0 tracked cancelled, 3 untracked dropped
    │  └─ ! untracked ×3
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    ├─ untracked tasks: read from tokio's list, their spawn sites need --cfg tokio_unstable
    └─ cancelled  total T
    ");
}

#[test]
fn a_blocking_closure_that_does_not_end_is_named_with_its_thread() {
    let ended = stopped(&["blocking-closure"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 2 tasks ended
    │  └─ ✗ reindex (blocking)  ignored drain for T, on thread "headcount-work" (tid N), spawned <reindex>
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  └─ ✗ reindex (blocking)  still running (a closure cannot be cancelled), on thread "headcount-work" (tid N), age T, spawned <reindex>
    ├─ 3 close  T of 200ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, blocking)  waiting on futex A, age T, cpu T, running task reindex
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_task_that_computes_for_ever_is_named_with_its_worker() {
    let ended = stopped(&["busy-worker"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 2 tasks ended
    │  └─ ✗ spinner  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <spinner>
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  └─ ✗ spinner  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <spinner>
    ├─ 3 close  T of 200ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  on CPU, age T, cpu T, running task spinner
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_task_that_blocks_its_worker_is_named_with_it() {
    let ended = stopped(&["sleeping-worker"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 2 tasks ended
    │  └─ ✗ sleeper  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <sleeper>
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  └─ ✗ sleeper  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <sleeper>
    ├─ 3 close  T of 200ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  waiting on futex A, age T, cpu T, running task sleeper
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn with_its_only_worker_blocked_a_service_still_reports() {
    let ended = stopped(&["all-workers-blocked", "1"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 3 tasks ended
    │  ├─ ✗ blocker  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <blocker>
    │  └─ · 1 task was not polled since the stop began: blocker holds the only worker
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  ├─ ✗ blocker  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <blocker>
    │  └─ · no worker free to drop 1 task: blocker holds the only worker
    ├─ 3 close  T of 200ms  1 thread lingers (0 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  waiting on futex A, age T, cpu T, running task blocker
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn with_all_its_workers_blocked_a_service_still_reports() {
    let ended = stopped(&["all-workers-blocked", "2"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 4 tasks ended
    │  ├─ ✗ blocker ×2  ignored drain for T, on thread "headcount-work" (tid N) for T, spawned <blocker>
    │  └─ · 1 task was not polled since the stop began: blocker ×2 hold all 2 workers
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  ├─ ✗ blocker ×2  stuck inside poll, on thread "headcount-work" (tid N) for T, age T, spawned <blocker>
    │  └─ · no worker free to drop 1 task: blocker ×2 hold all 2 workers
    ├─ 3 close  T of 200ms  2 threads linger (0 ended, N expected)
    │  └─ ✗ thread "headcount-work" ×2 (tids N, N, worker)  waiting on futex A, age T, cpu T, running task blocker
    └─ lingering: 2 tasks, 2 threads  total T
    "#);
}

#[test]
fn a_task_whose_drop_blocks_is_named() {
    let ended = stopped(&["drop-blocks"], 3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer>
    ├─ 2 cancel  T of 200ms  nothing to cancel
    │  └─ ✗ closer  cancelled T ago, its drop has not returned, on thread "headcount-work" (tid N), age T, spawned <closer>
    ├─ 3 close  T of 200ms  1 thread lingers (1 ended, N expected)
    │  └─ ✗ thread "headcount-work" (tid N, worker)  waiting on futex A, age T, cpu T, running task closer
    └─ lingering: 1 task, 1 thread  total T
    "#);
}

#[test]
fn a_task_whose_drop_panics_is_gone() {
    let ended = stopped(&["drop-panics"], 0);
    assert!(ended.stderr.iter().any(|line| line == "a drop that panics"));
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that panics>
    ├─ 2 cancel  T of 20s  1 tracked cancelled, 0 untracked dropped
    │  └─ ! closer  panicked at <panic of a drop>: 'a drop that panics', spawned <closer that panics>
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_hundred_thousand_tasks_that_ignore_the_drain_are_one_row() {
    let ended = ready(&["hundred-thousand"]).stop(Signal::TERM);
    ended
        .assert_code(0)
        .assert_took_at_most(Duration::from_secs(20));
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 100ms  1 of 100001 tasks ended
    │  └─ ✗ connection ×100000  ignored drain for T, spawned <connection>
    ├─ 2 cancel  T of 20s  100000 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_thread_that_lingers_is_data_for_machines() {
    let ended = stopped(&["thread-lingers-as-json"], 3);
    let line = ended.stdout.last().expect("a line of JSON");
    let report: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!(report["outcome"], "lingering");
    let [thread] = &**report["close"]["threads"].as_array().expect("a list") else {
        panic!("not one thread: {report}")
    };
    assert_eq!(thread["name"], "a-very-long-watcher");
    assert_eq!(thread["class"], "tracked");
    assert_eq!(thread["appeared_while_stopping"], false);
    let started = thread["started"]
        .as_str()
        .expect("it was started by headcount");
    assert!(
        started.starts_with("tests/process/scenario.rs:"),
        "{started}"
    );
    assert_eq!(report["cancel"]["lingering"], serde_json::json!([]));
}
