//! Second and third signals, SIGQUIT, and process 1.

use crate::program::{Ended, Process, Program, ready, scenario_path};
use rustix::process::Signal;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// The layers of these scenarios take minutes.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Sends the first two signals, each when the one before has had its effect.
#[track_caller]
fn cut_short(scenario: &[&str]) -> Program {
    let mut program = ready(scenario);
    program.signal(Signal::TERM);
    assert_eq!(program.line(), "draining");
    program.signal(Signal::TERM);
    program
}

#[test]
fn the_second_signal_cuts_the_drain_short() {
    let ended = cut_short(&["hangs-for-long"]).end();
    ended.assert_code(0).assert_took_at_most(AT_ONCE);
    insta::assert_snapshot!(after_a_cut(&ended), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 200s, cut short 1 of 2 tasks ended
    │  └─ ✗ idler  ignored drain for T, spawned <idler>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn the_second_signal_may_be_another() {
    let mut program = ready(&["hangs-for-long"]);
    program.signal(Signal::INT);
    assert_eq!(program.line(), "draining");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0).assert_took_at_most(AT_ONCE);
    assert!(
        ended
            .errors()
            .contains("headcount test: stopping (SIGINT)\n")
    );
}

/// The report, whether or not the task that said "draining" has come back from that poll.
fn after_a_cut(ended: &Ended) -> String {
    let report = ended.report();
    let report = report.replace(", on thread \"main\" (tid N) for T", "");
    report.replace(", on thread \"headcount-work\" (tid N) for T", "")
}

/// The cancel layer is waited for, whatever the reason was that it began.
fn cancel_is_waited_for(scenario: &str) -> String {
    let mut program = cut_short(&[scenario]);
    assert_eq!(program.line(), "cancelling");
    writeln!(program.stdin()).expect("it reads");
    let ended = program.end();
    ended.assert_code(0);
    after_a_cut(&ended)
}

#[test]
fn after_the_second_signal_the_cancel_has_its_whole_budget() {
    insta::assert_snapshot!(cancel_is_waited_for("cancel-takes-long"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 200s, cut short 1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn after_the_second_signal_the_cancel_has_its_whole_budget_on_one_thread() {
    insta::assert_snapshot!(cancel_is_waited_for("cancel-takes-long-on-one-thread"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 200s, cut short 1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (0 ended)
    └─ cancelled  total T
    ");
}

/// A first signal after another reason, and a second one while the cancel layer waits.
fn cut_in_cancel(scenario: &str) -> String {
    let mut program = ready(&[scenario]);
    program.signal(Signal::TERM);
    assert_eq!([program.line(), program.line()], ["draining", "cancelling"]);
    program.signal(Signal::TERM);
    // Heard when this is answered: the dump comes from the thread that hears signals.
    program.signal(Signal::QUIT);
    program.error_line("dump (SIGQUIT)");
    writeln!(program.stdin()).expect("it reads");
    let ended = program.end();
    ended.assert_code(0);
    after_a_cut(&ended)
}

#[test]
fn a_second_signal_in_the_cancel_layer_changes_nothing() {
    insta::assert_snapshot!(cut_in_cancel("cancel-waits"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 2s  1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn a_second_signal_in_the_cancel_layer_changes_nothing_on_one_thread() {
    insta::assert_snapshot!(cut_in_cancel("cancel-waits-on-one-thread"), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 2s  1 of 2 tasks ended
    │  └─ ✗ closer  ignored drain for T, spawned <closer that waits>
    ├─ 2 cancel  T of 200s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 200s  no thread lingers (0 ended)
    └─ cancelled  total T
    ");
}

#[track_caller]
fn assert_third_exits(scenario: &[&str], signal: Signal, code: i32) {
    let mut program = cut_short(scenario);
    assert_eq!(program.line(), "cancelling");
    let ended = program.stop(signal);
    ended.assert_code(code).assert_took_at_most(AT_ONCE);
    assert_eq!(ended.errors(), "");
}

#[test]
fn the_third_sigterm_exits_at_once() {
    assert_third_exits(&["cancel-takes-long"], Signal::TERM, 128 + 15);
}

#[test]
fn the_third_signal_may_be_sigint() {
    assert_third_exits(&["cancel-takes-long"], Signal::INT, 128 + 2);
}

#[test]
fn the_third_signal_exits_with_every_worker_stuck() {
    assert_third_exits(&["stuck-for-long", "1"], Signal::TERM, 128 + 15);
    assert_third_exits(&["stuck-for-long", "2"], Signal::INT, 128 + 2);
}

#[test]
fn the_third_signal_exits_with_main_wedged() {
    assert_third_exits(&["main-stuck-for-long"], Signal::TERM, 128 + 15);
    assert_third_exits(&["main-stuck-for-long"], Signal::INT, 128 + 2);
}

/// Runs a command as process 1 of a name space, and stops that process by SIGTERM.
fn stop_process_1(command: &[&str], is_ready: impl FnOnce(&mut Program)) -> Ended {
    stop_unshared(&["--mount-proc"], command, is_ready)
}

fn stop_unshared(options: &[&str], command: &[&str], is_ready: impl FnOnce(&mut Program)) -> Ended {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child"])
        .args(options)
        .args(command);
    let mut program = Program::start(unshare);
    is_ready(&mut program);
    let first: Process = program.process().only_child();
    first.kill(Signal::TERM);
    program.end()
}

#[test]
#[ignore = "needs root and unshare"]
fn sigterm_stops_a_scenario_that_is_process_1() {
    let scenario = scenario_path();
    let scenario = scenario.to_str().expect("our paths are UTF-8");
    let ended = stop_process_1(&[scenario, "waits"], |program| {
        assert_eq!(program.line(), "ready");
    });
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean  total T\n"), "{ended:#?}");
}

/// There `/proc` gives threads other numbers than they have: none of them would be known.
#[test]
#[ignore = "needs root and unshare"]
fn threads_are_not_observed_where_proc_is_of_another_name_space() {
    let scenario = scenario_path();
    let scenario = scenario.to_str().expect("our paths are UTF-8");
    let ended = stop_unshared(&[], &[scenario, "waits"], |program| {
        assert_eq!(program.line(), "ready");
    });
    ended.assert_code(0);
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (0 ended)
    ├─ threads and children: not observed, /proc does not show them
    └─ clean  total T
    ");
}

#[cfg(feature = "service")]
#[test]
#[ignore = "needs root and unshare"]
fn sigterm_stops_the_service_that_is_process_1() {
    let folder = tempfile::tempdir().expect("a temporary folder is to be had");
    let config = crate::service::config(folder.path(), "[tasks.resources]\nkind = \"resources\"\n");
    let ended = stop_process_1(
        &[env!("CARGO_BIN_EXE_headcount"), "run", &config],
        |program| {
            program.error_line("resources process_memory_bytes=");
        },
    );
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean  total T\n"), "{ended:#?}");
}
