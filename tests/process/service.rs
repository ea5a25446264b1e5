//! Tests of `headcount run`: what it starts, what it prints, and that nothing of it remains.

mod endpoints;
mod helpers;
mod output;
mod prewarm;
mod readiness;
mod rows;

use crate::program::{Ended, LONG, Process, Program, until};
use crate::text::steady;
use rustix::process::Signal;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

/// Writes a configuration and returns its path.
pub(crate) fn config(folder: &Path, tasks: &str) -> String {
    config_with("", folder, tasks)
}

/// Writes a configuration with more keys for the section `shutdown`, and returns its path.
fn config_with(shutdown: &str, folder: &Path, tasks: &str) -> String {
    let path = folder.join("headcount.toml");
    // Tests run in parallel, so each uses a free port.
    let head = "[service]\nname = \"test\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[state]\nfolder = \"off\"\n\
                [shutdown]\ndrain = \"10s\"\ncancel = \"10s\"\nclose = \"10s\"\ndeadline = \"40s\"\n";
    std::fs::write(&path, format!("{head}{shutdown}{tasks}")).expect("the folder is ours");
    path.to_str().expect("temporary names are UTF-8").to_owned()
}

/// Returns a process task that runs a script.
fn process(name: &str, script: &str, more: &str) -> String {
    // A multi-line literal string has no escapes.
    format!(
        "[tasks.{name}]\nkind = \"process\"\ncommand = [\"sh\", \"-c\", '''{script}''']\n{more}\n"
    )
}

fn run(tasks: &str, arguments: &[&str]) -> (Program, tempfile::TempDir) {
    let (command, folder) = to_run(tasks, arguments);
    (Program::start(command), folder)
}

fn run_with(shutdown: &str, tasks: &str, arguments: &[&str]) -> (Program, tempfile::TempDir) {
    let (command, folder) = to_run_with(shutdown, tasks, arguments);
    (Program::start(command), folder)
}

fn to_run(tasks: &str, arguments: &[&str]) -> (Command, tempfile::TempDir) {
    to_run_with("", tasks, arguments)
}

fn to_run_with(shutdown: &str, tasks: &str, arguments: &[&str]) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let config = config_with(shutdown, folder.path(), tasks);
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["run", &config]).args(arguments);
    (command, folder)
}

/// Returns the process that prints `WORD PID`.
#[track_caller]
fn announced(program: &mut Program, word: &str) -> Process {
    let line = program.error_line(&format!("│ {word} "));
    let (_, rest) = line.split_once(&format!("│ {word} ")).expect("just seen");
    Process::new(rest.split(' ').next().expect("it says its pid"))
}

/// A process that left its group and session, and that has lost its parent.
const ESCAPED: &str = "(setsid sh -c 'echo escaped $$; exec sleep 1000' &)";

/// Returns the log lines about the life of the processes, without times, in alphabetical order: the
/// output of a process may be logged before its start.
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
    let listener = TcpListener::bind("127.0.0.1:0").expect("ports are available");
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
        .filter(|line| line.contains("│ bye"))
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
    │  └─ · process/web (pid N, sh)  exited with code 0, T after SIGTERM
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
        let line = program.error_line("│ ");
        let (_, said) = line.split_once("│ ").expect("just seen");
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
        let line = program.error_line("│ ");
        let (_, said) = line.split_once("│ ").expect("just seen");
        all.push(Process::new(
            said.split(' ').nth(1).expect("a word and a pid"),
        ));
    }
    program.signal(Signal::TERM);
    program.error_line("│ asked");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0).assert_took_at_most(LONG / 10);
    all.iter().for_each(Process::assert_ends);
    // Its supervisor may be running at that moment.
    let report = ended
        .report()
        .replace(", on thread \"headcount-work\" (tid N) for T", "");
    insta::assert_snapshot!(report, @r#"
    headcount test: stopping (SIGTERM)
    ├─ 1 drain  T of 10s, cut short 0 of 2 tasks ended
    │  ├─ · main  drain ended before its turn, spawned src/service.rs
    │  └─ ✗ process/deaf (pid N, sh)  killed by SIGKILL, because its task was cancelled, T after SIGTERM
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
    │  └─ · process/beside (pid N, sh)  killed by SIGTERM, T after SIGTERM
    ├─ 2 cancel  T of 10s  nothing to cancel
    ├─ 3 close  T of 10s  no thread lingers (2 ended)
    └─ service failed, outcome clean  total T
    ");
}

/// Returns the number of open descriptors of a program.
fn descriptors(program: &Program) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", program.pid()));
    folder.expect("it is alive").count()
}

#[test]
fn a_process_takes_four_descriptors() {
    let sleeper = |name: &str| process(name, "echo up $$; exec sleep 1000", "");
    let open = |names: &[&str]| {
        let tasks: String = names.iter().map(|name| sleeper(name)).collect();
        let (mut program, _folder) = run(&tasks, &[]);
        for name in names {
            program.has_said(&format!("started task={name} "));
        }
        let open = descriptors(&program);
        program.stop(Signal::TERM).assert_code(0);
        open
    };
    assert_eq!(open(&["a", "b", "c"]) - open(&["a"]), 2 * 4);
}

#[test]
fn the_raised_limit_of_open_files_is_not_passed_on() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let tasks = process(
        "web",
        "echo limits $(ulimit -Sn) $(ulimit -Hn); exec sleep 1000",
        "",
    );
    let config = config(folder.path(), &tasks);
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            "ulimit -Sn 100 && ulimit -Hn 200 && exec \"$0\" run \"$1\"",
        ])
        .args([env!("CARGO_BIN_EXE_headcount"), &config]);
    let mut program = Program::start(command);
    let line = program.error_line("│ limits ");
    assert!(line.ends_with("│ limits 100 200"), "{line}");
    let own = std::fs::read_to_string(format!("/proc/{}/limits", program.pid()));
    let own = own.expect("it is alive");
    let own = own.lines().find(|line| line.starts_with("Max open files"));
    let own: Vec<&str> = own.expect("it is listed").split_whitespace().collect();
    assert_eq!(own[3..5], ["200", "200"]);
    program.stop(Signal::TERM).assert_code(0);
}

/// Asks the admin server for a path, and returns the status line.
fn status(address: std::net::SocketAddr, path: &str) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(LONG)).expect("not zero");
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.lines().next().map(str::to_owned)
}

/// Waits until a pipe that is not read holds so much that writing to it blocks: it has 64 KiB.
fn until_full(pipe: &std::io::PipeReader) {
    until(|| rustix::io::ioctl_fionread(pipe).is_ok_and(|bytes| bytes > 60_000));
}

/// A child floods the log, and the log is not read, as in a terminal that was stopped.
#[test]
fn a_service_whose_log_is_not_read_still_runs_and_stops() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let [go, done] = ["go", "done"].map(|name| folder.path().join(name));
    let flood = process("flood", "exec yes 'a line of a flood of lines'", "");
    let waits = format!(
        "while [ ! -e {} ]; do sleep 0.01; done; echo up; exec sleep 1000",
        go.display()
    );
    let quiet = process("quiet", &waits, "ready = { log = \"up\" }");
    let touches = format!("touch {}; exec sleep 1000", done.display());
    let after = process("after", &touches, "depends_on = [\"quiet\"]");
    let port = TcpListener::bind("127.0.0.1:0").expect("ports are available");
    let address = port.local_addr().expect("it is bound");
    drop(port);
    let arguments = ["--admin", &address.to_string()];
    let (command, _folder) = to_run(&(flood + &quiet + &after), &arguments);
    let (unread, stderr) = std::io::pipe().expect("pipes are available");
    let mut program = Program::start_with_stderr(command, stderr);
    until_full(&unread);
    let ready = Some("HTTP/1.1 200 OK");
    assert_eq!(status(address, "/readyz").as_deref(), ready);
    std::fs::write(&go, "").expect("the folder is ours");
    until(|| done.exists());
    assert_eq!(status(address, "/readyz").as_deref(), ready);
    program.signal(Signal::TERM);
    program.end().assert_code(0);
}

#[test]
fn the_output_of_a_child_cannot_change_a_terminal() {
    let script = r"printf 'one\rtwo \033[2J \302\233 \342\200\256 end\n'; exec sleep 1000";
    let (mut program, _folder) = run(&process("web", script, ""), &[]);
    let line = program.error_line("│ ");
    let (_, said) = line.split_once("│ ").expect("just seen");
    assert_eq!(said, "one\u{fffd}two \u{fffd}[2J \u{fffd} \u{fffd} end");
    program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_process_that_was_given_up_long_before_the_stop_is_in_its_report() {
    let beside = process("beside", "exec sleep 1000", "");
    let failing = "max_restarts = 1\nbackoff = { initial = \"10ms\", max = \"10ms\" }";
    let (mut program, _folder) = run(&(process("web", "exit 7", failing) + &beside), &[]);
    program.error_line("given up after 1 restart");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let report = ended.report();
    let end = "├─ ! 1 process was given up in this run: process/web\n└─ clean  total T";
    assert!(report.trim_end().ends_with(end), "{report}");
}

/// Three processes that each take a while to stop: those that wait for others are not blamed, and
/// each has its whole budget from its own signal on.
#[test]
fn a_process_has_its_budget_from_its_stop_signal_on() {
    let slow = |name: &str, more: &str| {
        let script = format!(
            "trap 'sleep 1.2; echo flushed-{name}; exit 0' TERM; echo up-{name} $$; while :; do sleep 0.01; done"
        );
        let more = format!("ready = {{ log = \"up\" }}\nstop_budget = \"2s\"\n{more}");
        process(name, &script, &more)
    };
    let tasks = slow("db", "")
        + &slow("queue", "depends_on = [\"db\"]")
        + &slow("web", "depends_on = [\"queue\"]");
    let (mut program, _folder) = run(&tasks, &[]);
    program.error_line("headcount::process: ready after");
    announced(&mut program, "up-web");
    program.has_said("task=web pid=");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    for name in ["db", "queue", "web"] {
        let flushed = format!("│ flushed-{name}");
        let has = ended.stderr.iter().any(|line| line.contains(&flushed));
        assert!(has, "{ended:#?}");
    }
    let said = |text: &str| ended.stderr.iter().any(|line| line.contains(text));
    assert!(said("stops after web task=queue"), "{ended:#?}");
    assert!(said("process/db (stops after queue)"), "{ended:#?}");
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

/// Of the kind of `ssh` sessions that end: the process gets its stop signal and its budget.
#[test]
fn sighup_gives_processes_their_time_to_stop() {
    let saves = process(
        "server",
        "trap 'echo saved; exit 0' TERM; echo up $$; while :; do sleep 0.01; done",
        "ready = { log = \"up\" }",
    );
    let (command, _folder) = to_run(&saves, &[]);
    let mut default = Command::new("env");
    default
        .arg("--default-signal=HUP")
        .arg(command.get_program())
        .args(command.get_args());
    let mut program = Program::start(default);
    announced(&mut program, "up");
    let ended = program.stop(Signal::HUP);
    ended.assert_code(0);
    let saved = |line: &String| line.contains("│ saved");
    assert!(ended.stderr.iter().any(saved), "{ended:#?}");
    assert!(ended.report().contains("stopping (SIGHUP)"), "{ended:#?}");
}

#[test]
fn signals_without_a_meaning_end_neither_headcount_nor_its_helpers() {
    let (mut program, _folder) = run(&process("web", "echo up $$; exec sleep 1000", ""), &[]);
    let web = announced(&mut program, "up");
    let keeper = web.parent();
    let guardian = keeper.parent();
    for signal in [
        Signal::ALARM,
        Signal::IO,
        Signal::PROF,
        Signal::POWER,
        Signal::STKFLT,
        Signal::USR1,
        Signal::USR2,
        Signal::VTALARM,
    ] {
        for process in [program.process(), &guardian, &keeper] {
            process.kill(signal);
        }
    }
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(!web.is_alive());
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

/// Process 1 lost every SIGTERM that came before its handlers stood, and other processes ended
/// without a report. Reading the configuration stands for anything that takes time in a start.
#[test]
fn a_sigterm_during_the_start_is_not_lost() {
    let (command, folder) = to_run(&process("web", "exec sleep 1000", ""), &[]);
    let path = folder.path().join("headcount.toml");
    let text = std::fs::read(&path).expect("just written");
    std::fs::remove_file(&path).expect("just written");
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("mkfifo runs").success());
    let mut program = Program::start(command);
    // Opening blocks until headcount opens the pipe to read it.
    let mut config = File::options().write(true).open(&path).expect("a fifo");
    program.signal(Signal::TERM);
    config.write_all(&text).expect("it is read");
    drop(config);
    let ended = program.end();
    ended.assert_code(0);
    assert!(ended.report().contains("stopping (SIGTERM)"), "{ended:#?}");
}

/// A child of the program that headcount replaced stands for an orphan that process 1 adopts.
#[test]
fn a_child_that_headcount_did_not_start_is_reaped() {
    let (command, folder) = to_run(&process("web", "exec sleep 1000", ""), &[]);
    let gate = folder.path().join("gate");
    let made = Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("mkfifo runs").success());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "cat \"$0\" & echo child $!; exec \"$@\""])
        .arg(&gate)
        .arg(command.get_program())
        .args(command.get_args());
    let mut program = Program::start(shell);
    let said = program.line();
    let child = said.strip_prefix("child ").expect("it says its pid");
    let status = format!("/proc/{child}/stat");
    program.error_line("started task=web");
    assert!(std::fs::exists(&status).expect("/proc can be read"));

    std::fs::write(&gate, "").expect("it is read");

    until(|| !std::fs::exists(&status).expect("/proc can be read"));
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

#[test]
fn a_bad_configuration_starts_nothing_and_exits_with_78() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
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
