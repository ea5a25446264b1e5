//! Tests of the reasons for a shutdown, and their exit codes.

use crate::program::{Ended, ready, start};
use rustix::process::Signal;

/// Returns the report of a shutdown with no findings other than the failure that caused it.
fn clean(code: i32, reason: &str, tasks: &str) -> String {
    let verdict = match code {
        0 => "clean",
        _ => "service failed, outcome clean",
    };
    format!(
        "headcount test: stopping ({reason})\n\
         ├─ 1 drain  T of 20s  {tasks}\n\
         ├─ 2 cancel  T of 20s  nothing to cancel\n\
         ├─ 3 close  T of 20s  no thread lingers (2 ended)\n\
         └─ {verdict}  total T\n"
    )
}

#[track_caller]
fn assert_clean(ended: &Ended, code: i32, reason: &str, tasks: &str) {
    ended.assert_code(code);
    assert_eq!(ended.errors(), clean(code, reason, tasks));
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    let ended = ready(&["waits"]).stop(Signal::TERM);
    assert_clean(&ended, 0, "SIGTERM", "all 2 tasks ended");
}

#[test]
fn sigint_drains_and_exits_with_0() {
    let ended = ready(&["waits"]).stop(Signal::INT);
    assert_clean(&ended, 0, "SIGINT", "all 2 tasks ended");
}

#[test]
fn the_end_of_main_is_the_end_of_the_service() {
    let ended = start(&["main-ends"]).end();
    assert_clean(&ended, 0, "main ended", "the only task ended");
}

#[test]
fn the_first_reason_is_kept() {
    let ended = start(&["stops-itself"]).end();
    assert_clean(&ended, 0, "maintenance", "the only task ended");
}

#[test]
fn a_main_that_fails_exits_with_1() {
    let ended = start(&["main-fails"]).end();
    assert_clean(&ended, 1, "main failed: no database", "no tasks");
}

#[test]
fn a_main_that_panics_exits_with_1_and_says_what_and_where() {
    let ended = start(&["main-panics"]).end();
    ended.assert_code(1);
    assert_eq!(
        ended.report(),
        clean(1, "main panicked: 'no luck' at <panic of main>", "no tasks")
    );
}

#[test]
fn a_required_task_that_fails_exits_with_1() {
    let ended = start(&["required-fails"]).end();
    assert_clean(
        &ended,
        1,
        "required task feed/reader failed",
        "the only task ended",
    );
}

#[test]
fn a_required_task_that_panics_exits_with_1() {
    let ended = start(&["required-panics"]).end();
    ended.assert_code(1);
    assert_eq!(
        ended.report(),
        clean(1, "required task reader panicked", "the only task ended")
    );
}

#[test]
fn a_required_task_that_completes_exits_with_0() {
    let ended = start(&["required-completes"]).end();
    assert_clean(
        &ended,
        0,
        "required task reader completed",
        "the only task ended",
    );
}

#[test]
fn lingering_takes_precedence_over_failure() {
    let ended = start(&["required-fails-beside-a-thread"]).end();
    ended.assert_code(3);
    insta::assert_snapshot!(ended.errors(), @r#"
    headcount test: stopping (required task feed/reader failed)
    ├─ 1 drain  T of 20s  the only task ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 200ms  1 thread lingers (2 ended, N expected)
    │  └─ ✗ thread "watcher" (tid N, tracked)  waiting on futex A, age T, cpu T, started <watcher beside>
    └─ lingering: 1 thread  total T
    "#);
}

#[test]
fn the_report_for_machines_is_one_line_on_standard_output() {
    let program = ready(&["waits-as-json"]);
    let pid = program.pid();
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert_eq!(ended.stderr, [""; 0]);
    let [_, line] = &*ended.stdout else {
        panic!("not one line more: {ended:#?}")
    };
    let report: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["pid"], pid);
    assert_eq!(report["service"], "test");
    assert_eq!(report["reason"], serde_json::json!({ "signal": 15 }));
    assert_eq!(report["outcome"], "clean");
    assert_eq!(report["drain"]["tasks"], 2);
    assert_eq!(report["drain"]["ended"], 2);
    assert_eq!(report["close"]["ended"], 2);
}
