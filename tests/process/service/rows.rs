//! Tests of the rows that child processes have in the report of `headcount run`.

use super::{announced, process, run, run_with};
use crate::program::Program;
use rustix::process::Signal;

/// A process that ignores its stop signal.
const DEAF: &str = "trap '' TERM; echo up $$; while :; do sleep 1000; done";

/// Starts a process that ignores its stop signal, and one of which only a helper does.
fn deaf_ones(head: &str) -> (Program, tempfile::TempDir) {
    let short = "stop_budget = \"200ms\"";
    let helper = "(trap '' TERM; echo helper-up; while :; do sleep 1000; done) & \
                  trap 'exit 0' TERM; echo api-up; wait";
    let tasks = process("worker", DEAF, short) + &process("api", helper, short);
    let (mut program, folder) = run_with(head, &tasks, &[]);
    for word in ["up ", "helper-up", "api-up"] {
        program.has_said(&format!("│ {word}"));
    }
    (program, folder)
}

/// Such a stop was called clean, and of the helper no line said anything.
#[test]
fn processes_that_had_to_be_killed_are_in_the_report() {
    let (program, _folder) = deaf_ones("");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 10s  all 3 tasks ended
    │  ├─ ! process/api (pid N, sh)  exited with code 0, T after SIGTERM; killed with it: sh (pid N), sleep (pid N)
    │  └─ ! process/worker (pid N, sh)  killed by SIGKILL, T after SIGTERM; killed with it: sleep (pid N)
    ├─ 2 cancel  T of 10s  nothing to cancel
    ├─ 3 close  T of 10s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
    let said = ended.stderr.iter();
    let told = "processes that it had started did not stop within 200ms and were killed: ";
    let said = said.filter(|line| line.contains(told) && line.ends_with(" task=api"));
    assert_eq!(said.count(), 1, "{ended:#?}");
}

#[test]
fn strict_makes_a_failure_of_a_process_that_had_to_be_killed() {
    let (program, _folder) = deaf_ones("strict = true\n");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(4);
    let report = ended.report();
    assert!(
        report.contains("└─ cancelled, which is a failure (strict)"),
        "{report}"
    );
}

#[test]
fn strict_leaves_a_clean_stop_a_success() {
    let clean = process("web", "echo up $$; exec sleep 1000", "");
    let (mut program, _folder) = run_with("strict = true\n", &clean, &[]);
    announced(&mut program, "up");
    program.stop(Signal::TERM).assert_code(0);
}

/// The report showed an await chain in headcount's own files, and neither pid nor that the process was
/// killed.
#[test]
fn a_process_that_a_second_signal_kills_is_in_the_report() {
    let long = "stop_budget = \"10s\"";
    let (mut program, _folder) = run(&process("worker", DEAF, long), &[]);
    announced(&mut program, "up");
    program.signal(Signal::TERM);
    program.error_line("waiting for process/worker");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 10s, cut short 1 of 2 tasks ended
    │  └─ ✗ process/worker (pid N, sh)  killed by SIGKILL, because its task was cancelled, T after SIGTERM
    ├─ 2 cancel  T of 10s  1 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 10s  no thread lingers (2 ended)
    └─ cancelled  total T
    ");
}

#[test]
fn the_report_for_machines_has_the_processes() {
    let (mut program, _folder) = run(
        &process(
            "web",
            "trap 'exit 7' TERM; echo up $$; while :; do sleep 0.01; done",
            "",
        ),
        &["--report", "json"],
    );
    announced(&mut program, "up");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let report: serde_json::Value = serde_json::from_str(&ended.stdout[0]).expect("it is JSON");
    let row = &report["processes"][0];
    assert_eq!(row["task"], "process/web");
    assert_eq!(row["end"], "exited with code 7");
    assert_eq!(row["signal"], "SIGTERM");
    assert_eq!(row["killed"], serde_json::json!([]));
    assert_eq!(row["waited_for"], serde_json::json!([]));
    assert!(row["pid"].is_u64() && row["took_seconds"].is_f64(), "{row}");
    let command = row["command"].as_str().expect("a text");
    assert!(command.starts_with("sh -c trap"), "{command}");
    assert_eq!(report["strict"], false);
}

/// The helper was told at the same moment, so the command could not save through it.
#[test]
fn a_stop_signal_to_the_command_alone_reaches_its_helpers_after_its_end() {
    let script = "(trap 'echo helper stops; exit 0' TERM; echo helper runs; while :; do sleep 0.01; done) & \
        trap 'sleep 0.5; echo command stops; exit 0' TERM; while :; do sleep 0.01; done";
    let (mut program, _folder) = run(&process("web", script, "stop_signal_to = \"command\""), &[]);
    program.error_line("│ helper runs");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let at = |text: &str| ended.stderr.iter().position(|line| line.contains(text));
    let (command, helper) = (at("│ command stops"), at("│ helper stops"));
    assert!(command.is_some() && command < helper, "{ended:#?}");
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}
