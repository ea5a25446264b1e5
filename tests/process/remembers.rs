//! Tests of what a run knows about the previous run, for all ways to end.

use crate::program::{Ended, Program, command, start, until};
use crate::text::steady;
use rustix::process::Signal;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be created")
}

/// Starts a scenario with this state folder.
fn run(scenario: &str, folder: &Path) -> Program {
    let mut command = command(&[scenario]);
    command.env("SCENARIO_STATE", folder);
    Program::start(command)
}

#[track_caller]
fn ready(scenario: &str, folder: &Path) -> Program {
    let mut program = run(scenario, folder);
    assert_eq!(program.line(), "ready");
    program
}

/// Returns what a run logs about the folder, without values that vary.
fn told(ended: &Ended, folder: &Path) -> String {
    let folder = folder.display().to_string();
    let lines = ended.stderr.iter();
    let lines: Vec<_> = lines
        .filter_map(|line| line.split_once("headcount::state: "))
        // What the black box shows has tests of its own.
        .filter(|(_, line)| !line.starts_with("before the previous run ended, "))
        .map(|(_, line)| {
            let line = line.replace(&folder, "FOLDER");
            let (line, _) = line.split_once("; last seen alive").unwrap_or((&line, ""));
            let (line, _) = line.split_once(" outcome=").unwrap_or((line, ""));
            steady(&without_pid(line))
        })
        .collect();
    lines.join("\n")
}

/// Replaces `(pid 17)` with `(pid N)`.
fn without_pid(line: &str) -> String {
    match line.split_once("(pid ") {
        Some((head, rest)) => {
            let tail = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{head}(pid N{tail}")
        }
        None => line.to_owned(),
    }
}

/// Returns what the next run says about the previous one.
#[track_caller]
fn next(folder: &Path) -> String {
    let ended = ready("waits", folder).stop(Signal::TERM);
    ended.assert_code(0);
    told(&ended, folder)
}

fn exits(folder: &Path) -> serde_json::Value {
    let report = fs::read(folder.join("report.json")).expect("a run ended");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("it is JSON");
    report["exits"].clone()
}

#[test]
fn a_run_that_ended_normally_is_not_reported() {
    let folder = folder();
    let ended = ready("waits", folder.path()).stop(Signal::TERM);
    ended.assert_code(0);
    assert_eq!(told(&ended, folder.path()), "");
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    └─ clean  total T, state saved in T
    ");
    assert_eq!(next(folder.path()), "");
    assert_eq!(exits(folder.path()), serde_json::json!({ "clean": 2 }));
}

#[test]
fn a_killed_run_is_reported() {
    let folder = folder();
    ready("waits", folder.path())
        .stop(Signal::KILL)
        .assert_killed_by(Signal::KILL);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit");
    assert_eq!(
        exits(folder.path()),
        serde_json::json!({ "clean": 1, "unclean": 1 })
    );
}

#[test]
fn a_run_that_aborted_or_called_exit_is_reported() {
    let folder = folder();
    run("aborts", folder.path())
        .end()
        .assert_killed_by(Signal::ABORT);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit");
    run("exits", folder.path()).end().assert_code(0);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit");
}

#[test]
fn a_panic_that_ended_the_process_is_reported() {
    let folder = folder();
    run("panics-past-the-run", folder.path())
        .end()
        .assert_code(101);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report, after a panic: thread 'main' panicked at <panic past the run>: no luck");
    run("hook-aborts", folder.path())
        .end()
        .assert_killed_by(Signal::ABORT);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report, after a panic: thread 'headcount-work' panicked at <panic of a task>: no luck");
    run("panics-while-unwinding", folder.path())
        .end()
        .assert_killed_by(Signal::ABORT);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report, after a panic: thread 'main' panicked at <panic in drop>: no luck in drop");
}

#[test]
fn a_panic_that_the_process_outlived_did_not_end_it() {
    let folder = folder();
    let program = ready("outlives-a-panic", folder.path());
    let marker = folder.path().join("run.json");
    let live = || {
        let marker = fs::read(&marker).expect("it is there");
        let marker: serde_json::Value = serde_json::from_slice(&marker).expect("it is JSON");
        let text = |field: &str| marker["live"][field].as_str().expect("a text").to_owned();
        let beat = text("beat");
        let beat: u64 = beat
            .split(' ')
            .nth(1)
            .expect("four")
            .parse()
            .expect("a number");
        let panicked = text("panicked");
        (beat, panicked.trim().parse::<u64>().expect("it panicked"))
    };
    // The heartbeat continues two seconds after the panic.
    until(|| live().0 >= live().1 + 2000);
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit");
}

#[test]
fn a_panic_of_main_is_an_end_with_a_report() {
    let folder = folder();
    run("main-panics", folder.path()).end().assert_code(1);
    assert_eq!(next(folder.path()), "");
    assert_eq!(exits(folder.path()), serde_json::json!({ "clean": 2 }));
}

#[test]
fn a_run_that_the_watchdog_ended_was_forced() {
    let folder = folder();
    ready("control-wedged", folder.path())
        .stop(Signal::TERM)
        .assert_code(70);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) missed its shutdown deadline and was forced to exit");
    assert_eq!(
        exits(folder.path()),
        serde_json::json!({ "clean": 1, "forced": 1 })
    );
}

#[test]
fn a_run_whose_main_was_wedged_was_forced_and_left_its_report() {
    let folder = folder();
    ready("main-wedged", folder.path())
        .stop(Signal::TERM)
        .assert_code(70);
    let report = fs::read(folder.path().join("report.json")).expect("it is saved");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("it is JSON");
    assert_eq!(report["shutdown"]["outcome"], "forced");
    assert_eq!(report["report"]["outcome"], "forced");
    assert_eq!(next(folder.path()), "");
}

#[test]
fn a_run_killed_during_its_shutdown_is_reported() {
    let folder = folder();
    let mut program = ready("stuck-for-long", folder.path());
    let marker = folder.path().join("run.json");
    program.signal(Signal::TERM);
    // The heartbeat thread writes it.
    until(|| fs::read_to_string(&marker).is_ok_and(|text| text.contains("\"SIGTERM")));
    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit, while it was stopping (SIGTERM): it may have been given too little time to stop");
}

#[test]
fn a_run_ended_by_a_third_signal_is_reported() {
    let folder = folder();
    let mut program = ready("stuck-for-long", folder.path());
    let marker = folder.path().join("run.json");
    let told = |words| {
        // The heartbeat thread writes it.
        until(|| fs::read_to_string(&marker).is_ok_and(|text| text.contains(words)));
    };
    program.signal(Signal::TERM);
    told("\"SIGTERM");
    program.signal(Signal::INT);
    told("signalled twice");
    program.stop(Signal::TERM).assert_code(128 + 15);
    insta::assert_snapshot!(next(folder.path()), @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit, while it was stopping (signalled twice, last by SIGINT; a third signal exits at once): it may have been given too little time to stop");
}

#[test]
fn a_second_instance_runs_and_logs_what_to_do() {
    let folder = folder();
    let first = ready("waits", folder.path());
    let second = ready("waits", folder.path()).stop(Signal::TERM);
    second.assert_code(0);
    insta::assert_snapshot!(told(&second, folder.path()), @"the state folder FOLDER is in use by process N: how this run ends will not be recorded; give each instance its own folder or name");
    first.stop(Signal::TERM).assert_code(0);
    assert_eq!(exits(folder.path()), serde_json::json!({ "clean": 1 }));
}

#[test]
fn a_runtime_that_is_never_run_leaves_no_marker() {
    let folder = folder();
    run("is-never-run", folder.path()).end().assert_code(0);
    assert!(!folder.path().join("run.json").exists());
    assert_eq!(next(folder.path()), "");
}

#[test]
fn one_process_may_run_twice_in_one_folder() {
    let folder = folder();
    let ended = ready("runs-twice", folder.path()).stop(Signal::TERM);
    ended.assert_code(0);
    assert_eq!(told(&ended, folder.path()), "");
    assert_eq!(exits(folder.path()), serde_json::json!({ "clean": 2 }));
}

#[test]
fn a_folder_removed_while_the_process_runs_is_in_the_report() {
    let folder = folder();
    let state = folder.path().join("state");
    let program = ready("waits", &state);
    fs::remove_dir_all(&state).expect("the folder is ours");
    fs::write(&state, "in the way").expect("the folder is ours");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let report = ended
        .report()
        .replace(&state.display().to_string(), "FOLDER");
    insta::assert_snapshot!(report, @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 20s  all 2 tasks ended
    ├─ 2 cancel  T of 20s  nothing to cancel
    ├─ 3 close  T of 20s  no thread lingers (2 ended)
    ├─ ! state not saved in FOLDER: Not a directory (os error 20) (T)
    └─ clean  total T
    ");
}

#[test]
fn the_textfile_holds_the_end_of_the_last_run() {
    let folder = folder();
    let start = || {
        let mut command = command(&["waits"]);
        command.env("SCENARIO_STATE", folder.path());
        command.env("SCENARIO_TEXTFILE", "1");
        let mut program = Program::start(command);
        assert_eq!(program.line(), "ready");
        program
    };
    let rows = || {
        let text = fs::read_to_string(folder.path().join("test.prom")).expect("it is written");
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let rows = rows.filter(|row| !row.contains("duration") && !row.contains("timestamp"));
        rows.map(str::to_owned).collect::<Vec<_>>().join("\n")
    };
    start().stop(Signal::KILL).assert_killed_by(Signal::KILL);
    let second = start();
    insta::assert_snapshot!(rows(), @r#"
    headcount_last_shutdown_info{service="test",outcome="unclean",reason="unknown",version="1.2.3"} 1
    headcount_exits_total{service="test",outcome="unclean"} 1
    "#);
    second.stop(Signal::TERM).assert_code(0);
    insta::assert_snapshot!(rows(), @r#"
    headcount_last_shutdown_info{service="test",outcome="clean",reason="SIGTERM",version="1.2.3"} 1
    headcount_last_shutdown_layer_budget_seconds{service="test",layer="cancel"} 20
    headcount_last_shutdown_layer_budget_seconds{service="test",layer="close"} 20
    headcount_last_shutdown_layer_budget_seconds{service="test",layer="drain"} 20
    headcount_last_shutdown_task_lingering{service="test",layer="cancel"} 0
    headcount_last_shutdown_task_lingering{service="test",layer="drain"} 0
    headcount_last_shutdown_flush_info{service="test",signal="state",result="delivered"} 1
    headcount_last_shutdown_flush_info{service="test",signal="textfile",result="delivered"} 1
    headcount_exits_total{service="test",outcome="clean"} 1
    headcount_exits_total{service="test",outcome="unclean"} 1
    "#);
}

#[test]
fn without_a_folder_nothing_is_remembered() {
    let folder = folder();
    let mut program = start(&["waits"]);
    assert_eq!(program.line(), "ready");
    program.stop(Signal::TERM).assert_code(0);
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
}

#[cfg(feature = "service")]
#[test]
fn the_service_uses_the_folder_of_systemd_unless_turned_off() {
    let folder = folder();
    let state = folder.path().join("state");
    let service = |section: &str| {
        let text = format!("{section}[tasks.resources]\nkind = \"resources\"\n");
        let config = folder.path().join("headcount.toml");
        fs::write(&config, text).expect("the folder is ours");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_headcount"));
        command
            .arg("run")
            .arg(config)
            .env("STATE_DIRECTORY", &state);
        let mut program = Program::start(command);
        program.error_line("process_memory_bytes");
        program
    };
    let off = service("[state]\nfolder = \"off\"\n");
    off.stop(Signal::TERM).assert_code(0);
    assert!(!state.exists());
    service("")
        .stop(Signal::KILL)
        .assert_killed_by(Signal::KILL);
    let ended = service("").stop(Signal::TERM);
    ended.assert_code(0);
    insta::assert_snapshot!(
        told(&ended, &state),
        @"the previous run (pid N) ended without a report: it was killed, aborted, or called exit"
    );
    assert_eq!(
        exits(&state),
        serde_json::json!({ "clean": 1, "unclean": 1 })
    );
}
