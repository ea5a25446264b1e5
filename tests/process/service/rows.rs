//! Tests of the rows that child processes have in the report of `headcount run`.

use super::readiness::{admin, get};
use super::{announced, process, run, run_with, to_run};
use crate::inspect::programs;
use crate::program::{Program, until};
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
    // A slow machine has the time to look why it does not stop.
    let report = ended.report();
    let lines = report
        .lines()
        .filter(|line| !line.contains(" ignores SIGTERM"));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r"
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

/// Stops a service with one process, which has to be killed, and returns the lines below its row.
#[track_caller]
fn why(script: &str) -> Vec<String> {
    let (mut program, _folder) = run(&process("web", script, "stop_budget = \"3s\""), &[]);
    program.has_said("│ up");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let report = ended.report();
    let rows = report
        .lines()
        .skip_while(|line| !line.contains("! process/web"));
    let below = rows.skip(1).take_while(|line| !line.contains('─'));
    let below: Vec<String> = below
        .map(|line| line.trim_start_matches(['│', ' ']).to_owned())
        .collect();
    let logged = ended.errors().matches(": did not stop: ").count();
    assert_eq!(logged, below.len(), "{ended:#?}");
    below
}

/// The report said that it was killed, and not why it did not stop.
#[test]
fn a_process_that_does_not_stop_is_explained() {
    let deaf = why("trap '' TERM; echo up; exec sleep 1000");
    assert_eq!(deaf, ["sleep (pid N) ignores SIGTERM; sleeping"]);
    // The shell runs its trap once its child has ended.
    let waits = why("trap 'exit 0' TERM; (trap '' TERM; echo up; exec sleep 1000); echo");
    assert_eq!(
        waits,
        [
            "sh (pid N) handles SIGTERM; waiting for its child sleep (pid N)",
            "sleep (pid N) ignores SIGTERM; sleeping",
        ]
    );
    // The command has ended, and what it has left has not.
    let left = why("trap 'exit 0' TERM; (trap '' TERM; echo up; exec sleep 1000) & wait");
    assert_eq!(left, ["sleep (pid N) ignores SIGTERM; sleeping"]);
}

/// Its tasks are shown while it is being stopped, too.
#[test]
fn a_tokio_program_that_does_not_stop_is_explained_by_its_tasks() {
    let service = programs().join("wedged-service");
    let script = format!("trap '' TERM; echo up $$; exec {}", service.display());
    let (command, folder) = to_run(&process("web", &script, "stop_budget = \"90s\""), &[]);
    // It may take long to read the debug information of a program.
    let path = folder.path().join("headcount.toml");
    let text = std::fs::read_to_string(&path).expect("just written");
    let text = text.replacen("drain = \"10s\"", "drain = \"90s\"", 1);
    let text = text.replacen("deadline = \"40s\"", "deadline = \"200s\"", 1);
    std::fs::write(&path, text).expect("it is ours");
    let mut program = Program::start(command);
    let admin = admin(&mut program);
    let child = announced(&mut program, "up");
    program.signal(Signal::TERM);
    let why = || {
        let (_, body) = get(&admin, "/api/children");
        let children: serde_json::Value = serde_json::from_str(&body).expect("it is JSON");
        let why = &children["children"][0]["unstopped"][0];
        why.as_str().unwrap_or_default().to_owned()
    };
    until(|| why().contains("wedged_service::"));
    assert!(why().contains("ignores SIGTERM; "), "{}", why());
    child.kill(Signal::KILL);
    program.end().assert_code(0);
}

#[test]
#[ignore = "needs python3"]
fn a_python_program_that_does_not_stop_is_explained() {
    let python = |code: &str| why(&format!("exec python3 -c \"import os, signal; {code}\""));
    let blocks =
        "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); print('up', flush=True); signal.pause()";
    assert_eq!(
        python(blocks),
        ["python3 (pid N) blocks SIGTERM; waiting for a signal"]
    );
    let reads = "signal.signal(15, lambda *_: None); end = os.pipe()[0]; print('up', flush=True); os.read(end, 1)";
    assert_eq!(
        python(reads),
        ["python3 (pid N) handles SIGTERM; blocked in read(fd 3 → pipe)"]
    );
}
