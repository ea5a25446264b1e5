//! Tests of prewarming by `headcount run`.

use super::{process, run};
use rustix::process::Signal;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// Returns a task that warms with these lines.
fn prewarm(lines: &str) -> String {
    format!("[tasks.warm]\nkind = \"prewarm\"\n{lines}\n")
}

#[test]
fn files_servers_and_commands_are_warmed_once_their_process_is_ready() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    fs::write(folder.path().join("data"), vec![0; 1 << 20]).expect("the folder is ours");
    let listener = TcpListener::bind("127.0.0.1:0").expect("ports are available");
    let address = listener.local_addr().expect("it is bound");
    let tasks = process(
        "web",
        "echo serving; exec sleep 1000",
        "ready = { log = \"serving\" }",
    ) + &prewarm(&format!(
        "files = [\"{}\"]\nhttp = [\"http://{address}/warm?key=hidden\"]\n\
             commands = [[\"sh\", \"-c\", \"echo warming\"]]\ndepends_on = [\"web\"]\n",
        folder.path().display()
    ));
    let (mut program, _folder) = run(&tasks, &[]);
    let (mut client, _) = listener.accept().expect("it is asked");
    let mut request = [0; 1024];
    let length = client.read(&mut request).expect("it asks");
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    assert!(
        request.starts_with("GET /warm?key=hidden HTTP/1.1\r\n"),
        "{request}"
    );
    client
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .expect("it reads");
    drop(client);
    program.has_said("ready after");
    program.has_said("warm │ warming");
    program.has_said(": 1 files, 1.0 MiB in ");
    program.has_said(&format!("http http://{address}/warm in "));
    program.has_said("command sh in ");
    program.has_said("warmed 3 of 3 in ");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    let hidden = ended.stderr.iter().any(|line| line.contains("key=hidden"));
    assert!(!hidden, "{ended:#?}");
}

#[test]
fn a_failure_is_a_warning_unless_it_is_required() {
    let fails = "files = [\"/no/such\"]\ncommands = [[\"sh\", \"-c\", \"exit 3\"]]\n";
    let (mut program, _folder) = run(&prewarm(fails), &[]);
    program.has_said("files /no/such: /no/such: No such file or directory (os error 2)");
    program.has_said("command sh: exited with code 3, after ");
    program.has_said("warmed 0 of 2 in ");
    program.stop(Signal::TERM).assert_code(0);

    let required = prewarm("commands = [[\"sh\", \"-c\", \"exit 3\"]]\nrequired = true\n");
    let (program, _folder) = run(&required, &[]);
    let ended = program.end();
    ended.assert_code(1);
    let reason = "main failed: prewarm warm: command sh: exited with code 3";
    assert!(ended.report().contains(reason), "{ended:#?}");
}

#[test]
fn a_step_that_takes_too_long_leaves_nothing_behind() {
    let slow =
        "commands = [[\"sh\", \"-c\", \"echo up $$; exec sleep 1000\"]]\ntimeout = \"100ms\"\n";
    let (mut program, _folder) = run(&prewarm(slow), &[]);
    let warming = super::announced(&mut program, "up");
    program.has_said("command sh: did not end within 100ms, after ");
    warming.assert_ends();
    program.stop(Signal::TERM).assert_code(0);
}

/// The report said that the command may still be alive, and the exit code was 3.
#[test]
fn a_command_that_runs_when_the_service_stops_is_stopped_too() {
    let slow = "commands = [[\"sh\", \"-c\", \"echo up $$; exec sleep 1000\"]]\n";
    let (mut program, _folder) = run(&prewarm(slow), &[]);
    let warming = super::announced(&mut program, "up");
    let ended = program.stop(Signal::TERM);
    ended.assert_code(0);
    warming.assert_ends();
    assert!(!ended.report().contains("may still be alive"), "{ended:#?}");
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}
