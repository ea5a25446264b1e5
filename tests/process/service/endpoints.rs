//! Tests of endpoints of `headcount run` that need real processes.

use super::readiness::{Server, admin, readyz};
use super::{Program, announced, process, run};
use crate::program::{Process, until};
use rustix::process::Signal;
use std::fs;
use std::path::{Path, PathBuf};

/// Returns an endpoint task that runs a script.
fn command(script: &str, more: &str) -> String {
    format!(
        "[tasks.up]\nkind = \"endpoint\"\ncheck = {{ command = [\"sh\", \"-c\", '{script}'] }}\n\
         jitter = 0.0\ndown_after = 1\n{more}\n"
    )
}

/// Returns a script that writes its pid to a file, and one that it has started too, and sleeps.
fn sleeper(folder: &Path) -> (String, PathBuf) {
    let pids = folder.join("pids");
    let script = format!(
        "sleep 1000 & echo late; echo \"$! $$\" > {0}.new; mv {0}.new {0}; exec sleep 1000",
        pids.display()
    );
    (script, pids)
}

/// Waits for the pids of [`sleeper`].
fn processes(pids: &Path) -> Vec<Process> {
    until(|| pids.exists());
    let pids = fs::read_to_string(pids).expect("it is there");
    pids.split_whitespace().map(Process::new).collect()
}

#[test]
fn a_command_as_an_endpoint_is_up_while_it_exits_with_0() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let gate = folder.path().join("gate");
    let script = format!(
        "echo looking; test -e {} || {{ exec 1>&2; echo no gate; exit 3; }}",
        gate.display()
    );
    let (mut program, _folder) = run(&command(&script, "interval = \"100ms\"\n"), &[]);
    let down = program.error_line("endpoint down");
    assert!(
        down.contains("reason=\"exited with code 3: no gate\""),
        "{down}"
    );
    fs::write(&gate, "").expect("the folder is ours");
    program.error_line("endpoint up");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let is_shown = ended.stderr.iter().any(|line| line.contains("looking"));
    assert!(!is_shown, "{ended:#?}");
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

#[test]
fn a_command_that_takes_too_long_is_down_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let (script, pids) = sleeper(folder.path());
    let (mut program, _folder) = run(&command(&script, "timeout = \"3s\""), &[]);
    let running = processes(&pids);
    let down = program.error_line("endpoint down");
    assert!(
        down.contains("reason=\"did not end within 3s: late\""),
        "{down}"
    );
    for process in running {
        process.assert_ends();
    }
    program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_check_by_a_command_ends_with_the_service() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let (script, pids) = sleeper(folder.path());
    let (program, _folder): (Program, _) = run(&command(&script, "timeout = \"10s\""), &[]);
    let running = processes(&pids);
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    for process in running {
        process.assert_ends();
    }
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

#[test]
fn a_program_that_does_not_exist_is_the_reason() {
    let task =
        "[tasks.up]\nkind = \"endpoint\"\ncheck = { command = [\"/no/such\"] }\ndown_after = 1\n";
    let (mut program, _folder) = run(task, &[]);
    let down = program.error_line("endpoint down");
    assert!(down.contains("/no/such"), "{down}");
    program.stop(Signal::TERM).assert_code(0);
}

/// Returns the tasks of a server that is checked, and of a process that depends on it.
fn dependent(server: &Server, more: &str) -> String {
    let more = format!("required = true\ndepends_on = [\"up\"]\n{more}");
    server.endpoint() + &process("app", "echo app $$; exec sleep 1000", &more)
}

#[test]
fn a_process_waits_for_the_endpoint_that_it_depends_on() {
    let server = Server::start();
    server.set(false);
    let (mut program, _folder) = run(&dependent(&server, ""), &[]);
    let admin = admin(&mut program);
    program.error_line("waiting for up to be up");
    until(|| {
        readyz(&admin)
            == (
                503,
                "not ready: process app: waiting for up to be up\n".to_owned(),
            )
    });
    server.set(true);
    announced(&mut program, "app");
    until(|| readyz(&admin).0 == 200);
    program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_process_may_be_unready_while_an_endpoint_that_it_depends_on_is_down() {
    let server = Server::start();
    let (mut program, _folder) = run(&dependent(&server, "when_down = \"unready\""), &[]);
    let admin = admin(&mut program);
    let app = announced(&mut program, "app");
    until(|| readyz(&admin).0 == 200);
    server.set(false);
    let reason = "not ready: process app: the endpoint up that it depends on is down\n";
    until(|| readyz(&admin) == (503, reason.to_owned()));
    program.has_said("not ready any more: the endpoint up that it depends on is down task=app");
    server.set(true);
    until(|| readyz(&admin).0 == 200);
    assert!(app.is_alive());
    program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_process_may_be_restarted_with_an_endpoint_that_it_depends_on() {
    let server = Server::start();
    let more = "when_down = \"restart\"\nrestart = \"no\"";
    let (mut program, _folder) = run(&dependent(&server, more), &[]);
    let first = announced(&mut program, "app");
    server.set(false);
    program.error_line("stopping: the endpoint up that it depends on is down");
    program.error_line("waiting for up to be up");
    first.assert_ends();
    server.set(true);
    announced(&mut program, "app");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let is_failure = ended.stderr.iter().any(|line| line.contains("restart 1"));
    assert!(!is_failure, "{ended:#?}");
}
