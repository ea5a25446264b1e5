//! `headcount run`: what it starts, what it prints, and that nothing of it is left.

use crate::program::{Ended, LONG, Process, Program};
use crate::text::steady;
use rustix::process::Signal;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Writes a configuration and returns its path.
pub(crate) fn config(folder: &Path, tasks: &str) -> String {
    let path = folder.join("headcount.toml");
    // Many run at once: each takes a port that is free.
    let head = "[service]\nname = \"test\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[state]\nfolder = \"off\"\n\
                [shutdown]\ndrain = \"10s\"\ncancel = \"10s\"\nclose = \"10s\"\ndeadline = \"40s\"\n";
    std::fs::write(&path, format!("{head}{tasks}")).expect("the folder is ours");
    path.to_str().expect("temporary names are UTF-8").to_owned()
}

/// A process task that runs a script.
fn process(name: &str, script: &str, more: &str) -> String {
    // A multi-line literal: nothing in it has a meaning of its own.
    format!(
        "[tasks.{name}]\nkind = \"process\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n"
    )
}

fn run(tasks: &str, arguments: &[&str]) -> (Program, tempfile::TempDir) {
    let (command, folder) = to_run(tasks, arguments);
    (Program::start(command), folder)
}

fn to_run(tasks: &str, arguments: &[&str]) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder is to be had");
    let config = config(folder.path(), tasks);
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["run", &config]).args(arguments);
    (command, folder)
}

/// The process that says `WORD PID` on its output.
#[track_caller]
fn announced(program: &mut Program, word: &str) -> Process {
    let line = program.error_line(&format!("headcount::output: {word} "));
    let (_, rest) = line
        .split_once(&format!("headcount::output: {word} "))
        .expect("just seen");
    Process::new(rest.split(' ').next().expect("it says its pid"))
}

/// A process that left its group and session, and whose parent has ended.
const ESCAPED: &str = "(setsid sh -c 'echo escaped $$; exec sleep 1000' &)";

/// What the log says of the life of the processes, without times, in alphabetical order: what a process prints may be
/// logged before its start is.
fn lives(ended: &Ended) -> String {
    let lines = ended.stderr.iter();
    let mut lines: Vec<_> = lines
        .filter_map(|line| line.split_once("headcount::process: "))
        .map(|(_, line)| steady(line))
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn a_service_runs_what_is_declared_and_stops_by_sigterm() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("ports are to be had");
    let address = listener.local_addr().expect("it is bound");
    let web = process(
        "web",
        "trap 'echo bye; exit 0' TERM; echo up $$; while :; do sleep 0.01; done",
        "ready = { log = \"up\" }",
    );
    let tasks = format!(
        "[tasks.resources]\nkind = \"resources\"\n\
         [tasks.db]\nkind = \"endpoint\"\ncheck = {{ tcp = \"{address}\" }}\n{web}"
    );
    let (mut program, _folder) = run(&tasks, &[]);
    let (up, _) = listener.accept().expect("the endpoint is checked");
    let web = announced(&mut program, "up");
    program.has_said("headcount::process: ready after ");
    let ended = program.stop(Signal::TERM);
    drop(up);
    ended.assert_code(0);
    assert!(!web.is_alive());
    let said: Vec<_> = ended
        .stderr
        .iter()
        .filter(|line| line.contains("headcount::output: bye"))
        .collect();
    assert_eq!(said.len(), 1, "{ended:#?}");
    insta::assert_snapshot!(lives(&ended), @r"
    ready after T task=web
    started task=web pid=N
    stopped: exited with code 0 task=web
    ");
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 10s  all 4 tasks ended
    ├─ 2 cancel  T of 10s  nothing to cancel
    ├─ 3 close  T of 10s  no thread lingers (2 ended)
    └─ clean  total T
    ");
}

#[test]
fn the_report_for_machines_is_the_only_line_on_standard_output() {
    let tasks = process("web", "echo up $$; exec sleep 1000", "");
    let (mut program, _folder) = run(&tasks, &["--report", "json"]);
    announced(&mut program, "up");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let [line] = &*ended.stdout else {
        panic!("not one line: {ended:#?}")
    };
    let report: serde_json::Value = serde_json::from_str(line).expect("it is JSON");
    assert_eq!(report["schema"], 1);
    assert_eq!(report["service"], "test");
    assert_eq!(report["outcome"], "clean");
    assert_eq!(report["close"]["children"], serde_json::json!([]));
    assert!(
        !ended.stderr.iter().any(|line| line.contains("stopping")),
        "{ended:#?}"
    );
}

#[test]
fn a_report_that_standard_output_does_not_take_goes_to_standard_error() {
    let tasks = process("web", "echo up $$; exec sleep 1000", "");
    let (command, _folder) = to_run(&tasks, &["--report", "json"]);
    let full = File::create("/dev/full").expect("Linux has it");
    let mut program = Program::start_with_stdout(command, full);
    announced(&mut program, "up");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let told = "headcount: failed to write this to standard output: no storage space";
    let mut lines = ended.stderr.iter().skip_while(|line| *line != told);
    assert!(lines.next().is_some(), "{ended:#?}");
    let report = lines.next().expect("the report follows");
    let report: serde_json::Value = serde_json::from_str(report).expect("it is JSON");
    assert_eq!(report["outcome"], "clean");
}

#[test]
fn nothing_that_headcount_started_outlives_its_sigkill() {
    let web = process(
        "web",
        &format!("{ESCAPED}; echo up $$; exec sleep 1000"),
        "",
    );
    let deaf = "trap '' TERM HUP INT; echo deaf $$; while :; do sleep 1000; done";
    let tasks = web + &process("deaf", deaf, "");
    let (mut program, _folder) = run(&tasks, &[]);
    let mut all = Vec::new();
    while all.len() < 3 {
        let line = program.error_line("headcount::output: ");
        let (_, said) = line.split_once("headcount::output: ").expect("just seen");
        all.push(Process::new(
            said.split(' ').nth(1).expect("a word and a pid"),
        ));
    }
    assert!(all.iter().all(Process::is_alive));

    program.stop(Signal::KILL).assert_killed_by(Signal::KILL);

    all.iter().for_each(Process::assert_ends);
}

#[test]
fn a_stop_leaves_nothing_of_a_process_that_detached() {
    let tasks = process("web", &format!("{ESCAPED}; exec sleep 1000"), "");
    let (mut program, _folder) = run(&tasks, &[]);
    let escaped = announced(&mut program, "escaped");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(!escaped.is_alive());
    assert!(ended.report().contains("└─ clean  total T\n"), "{ended:#?}");
}

#[test]
fn a_second_signal_kills_a_process_that_ignores_the_first() {
    let script =
        format!("trap 'echo asked' TERM; {ESCAPED}; echo deaf $$; while :; do sleep 0.01; done");
    let (mut program, _folder) = run(&process("deaf", &script, "stop_budget = \"10s\""), &[]);
    let mut all = Vec::new();
    while all.len() < 2 {
        let line = program.error_line("headcount::output: ");
        let (_, said) = line.split_once("headcount::output: ").expect("just seen");
        all.push(Process::new(
            said.split(' ').nth(1).expect("a word and a pid"),
        ));
    }
    program.signal(Signal::TERM);
    program.error_line("headcount::output: asked");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0).assert_took_at_most(LONG / 10);
    all.iter().for_each(Process::assert_ends);
    // Its supervisor may be at work at that moment.
    let report = ended
        .report()
        .replace(", on thread \"headcount-work\" (tid N) for T", "");
    insta::assert_snapshot!(report, @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 10s, cut short 0 of 2 tasks ended
    │  ├─ ✗ main  was never told to drain, spawned src/service.rs
    │  └─ ✗ process/deaf  ignored drain for T, spawned src/service/process/supervisor.rs
    ├─ 2 cancel  T of 10s  2 tracked cancelled, 0 untracked dropped
    ├─ 3 close  T of 10s  no thread lingers (2 ended)
    └─ cancelled  total T
    "#);
}

#[test]
fn a_required_process_that_fails_stops_the_service_with_1() {
    let beside = process("beside", "exec sleep 1000", "");
    let (program, _folder) = run(
        &(process("web", "exit 7", "required = true\nrestart = \"no\"") + &beside),
        &[],
    );
    let ended = program.end();
    ended.assert_code(1);
    insta::assert_snapshot!(ended.report(), @r"
    headcount test: stopping (required task process/web failed)
    ├─ 1 drain  T of 10s  all 2 tasks ended
    ├─ 2 cancel  T of 10s  nothing to cancel
    ├─ 3 close  T of 10s  no thread lingers (2 ended)
    └─ clean, after a failure  total T
    ");
}

#[test]
fn a_bad_configuration_starts_nothing_and_exits_with_78() {
    let folder = tempfile::tempdir().expect("a temporary folder is to be had");
    let witness = folder.path().join("started");
    let script = format!("touch {}", witness.display());
    let tasks = process("web", &script, "restrat = \"no\"");
    let (program, _folder) = run(&tasks, &[]);
    let ended = program.end();
    ended.assert_code(78);
    assert_eq!(ended.stdout, [""; 0]);
    assert!(
        ended.stderr.iter().any(|line| line.contains("restrat")),
        "{ended:#?}"
    );
    assert!(!witness.exists());
}

#[test]
fn a_wrong_use_exits_with_2() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.arg("rnu");
    Program::start(command).end().assert_code(2);
}
