//! Who is named when a service does not stop by itself.

use crate::program::{Ended, ready};
use rustix::process::Signal;
use std::time::Duration;

/// The layers of these scenarios take half a second, and the deadline is 2 s.
const DEADLINE: Duration = Duration::from_secs(5);

/// Starts it, stops it, and has its report.
#[track_caller]
fn stopped(scenario: &[&str], code: i32) -> Ended {
    let ended = ready(scenario).stop(Signal::TERM);
    ended.assert_code(code).assert_took_at_most(DEADLINE);
    ended
}

#[test]
fn a_tracked_thread_that_lingers_is_named_in_full() {
    let ended = stopped(&["thread-lingers"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_thread_that_nobody_registered_is_named_as_the_kernel_does() {
    let ended = stopped(&["unknown-thread-lingers"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_daemon_thread_may_die_with_the_process() {
    let ended = stopped(&["daemon-thread"], 0);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_tracked_thread_that_asks_whether_to_end_is_waited_for() {
    let ended = stopped(&["thread-asks"], 0);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_child_process_that_is_left_is_named_with_its_command() {
    let ended = stopped(&["child-lingers"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_task_that_ignores_the_drain_is_named_and_cancelled() {
    let ended = stopped(&["ignores-drain"], 0);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[cfg(tokio_unstable)]
#[test]
fn untracked_tasks_are_named_by_their_spawn_site() {
    let ended = stopped(&["untracked"], 0);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[cfg(not(tokio_unstable))]
#[test]
fn untracked_tasks_are_estimated_and_that_is_said() {
    let ended = stopped(&["untracked"], 0);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_blocking_closure_that_does_not_end_is_named_with_its_thread() {
    let ended = stopped(&["blocking-closure"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_task_that_computes_for_ever_is_named_with_its_worker() {
    let ended = stopped(&["busy-worker"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_task_that_blocks_its_worker_is_named_with_it() {
    let ended = stopped(&["sleeping-worker"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn with_its_only_worker_blocked_a_service_still_reports() {
    let ended = stopped(&["all-workers-blocked", "1"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn with_all_its_workers_blocked_a_service_still_reports() {
    let ended = stopped(&["all-workers-blocked", "2"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_task_whose_drop_blocks_is_named() {
    let ended = stopped(&["drop-blocks"], 3);
    insta::assert_snapshot!(ended.errors(), @"");
}

#[test]
fn a_task_whose_drop_panics_is_gone() {
    let ended = stopped(&["drop-panics"], 0);
    assert!(ended.stderr.iter().any(|line| line == "a drop that panics"));
    insta::assert_snapshot!(ended.report(), @"");
}

#[test]
fn a_hundred_thousand_tasks_that_ignore_the_drain_are_one_row() {
    let ended = ready(&["hundred-thousand"]).stop(Signal::TERM);
    ended.assert_code(0).assert_took_at_most(Duration::from_secs(20));
    insta::assert_snapshot!(ended.report(), @"");
}

#[cfg(feature = "json")]
#[test]
fn a_thread_that_lingers_is_data_for_machines() {
    let ended = stopped(&["thread-lingers-as-json"], 3);
    let line = ended.stdout.last().expect("a line of JSON");
    let report: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!(report["outcome"], "lingering");
    let [thread] = &**report["close"]["threads"].as_array().expect("a list") else {
        panic!("not one thread: {report}")
    };
    assert_eq!(thread["name"], "a-watcher-with-a-long-name");
    assert_eq!(thread["class"], "tracked");
    assert_eq!(thread["appeared_while_stopping"], false);
    let started = thread["started"].as_str().expect("it was started by headcount");
    assert!(started.starts_with("tests/process/scenario.rs:"), "{started}");
    assert_eq!(report["cancel"]["lingering"], serde_json::json!([]));
}
