//! Tests of the readiness of `headcount run`, which follows its processes.

use super::{announced, process, run, to_run_with};
use crate::program::{LONG, Program, until};
use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Returns the status and the body of an answer of the admin server.
pub(super) fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("not zero");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head ends");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().expect("a number"), body.to_owned())
}

/// Returns the status of `/readyz` and its first line. A line for each process and endpoint follows.
pub(super) fn readyz(address: &str) -> (u16, String) {
    let (status, body) = get(address, "/readyz");
    let first = body.lines().next().expect("it says something");
    (status, format!("{first}\n"))
}

/// Returns the address of the admin server, which the log names first.
pub(super) fn admin(program: &mut Program) -> String {
    let line = program.error_line("admin server: http://");
    let (_, address) = line.split_once("http://").expect("just seen");
    address.trim_end_matches('/').to_owned()
}

/// A server that takes connections while it is told to.
pub(super) struct Server {
    address: String,
    open: Arc<AtomicBool>,
}

impl Server {
    /// Starts a server that answers each request with 200, or with 503 while it is not open.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("ports are available");
        let address = listener.local_addr().expect("it is bound").to_string();
        let open = Arc::new(AtomicBool::new(true));
        let is_open = Arc::clone(&open);
        std::thread::Builder::new()
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    answer(stream, is_open.load(Ordering::SeqCst));
                }
            })
            .expect("the system has threads");
        Self { address, open }
    }

    pub(super) fn set(&self, open: bool) {
        self.open.store(open, Ordering::SeqCst);
    }

    /// Returns an endpoint task that checks this server often.
    pub(super) fn endpoint(&self) -> String {
        format!(
            "[tasks.up]\nkind = \"endpoint\"\ncheck = {{ http = \"http://{}/\" }}\n\
             interval = \"100ms\"\njitter = 0.0\ntimeout = \"100ms\"\ndown_after = 2\n",
            self.address
        )
    }
}

fn answer(mut stream: TcpStream, is_open: bool) {
    let mut request = [0; 1024];
    let status = if is_open { "200 OK" } else { "503 Busy" };
    // A client that is gone has sent nothing.
    let Ok(1..) = stream.read(&mut request) else {
        return;
    };
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok();
}

/// "ready" was said before the processes were.
#[test]
fn a_service_is_not_ready_until_each_required_process_is() {
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let gate = folder.path().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("mkfifo runs").success());
    let slow = format!(
        "echo up $$; read -r _ < {}; echo serving; exec sleep 1000",
        gate.display()
    );
    let tasks = process(
        "web",
        &slow,
        "required = true\nready = { log = \"serving\" }",
    ) + &process("extra", "exec sleep 1000", "ready = { log = \"never\" }");
    let (mut program, _folder) = run(&tasks, &[]);
    let admin = admin(&mut program);
    announced(&mut program, "up");
    assert_eq!(
        readyz(&admin),
        (503, "not ready: process web: not ready yet\n".to_owned())
    );

    std::fs::write(&gate, "\n").expect("it is read");

    until(|| readyz(&admin) == (200, "ready\n".to_owned()));
    program.stop(Signal::TERM).assert_code(0);
}

/// Readiness was kept for ever once it had been reached.
#[test]
fn a_required_process_whose_endpoint_goes_down_is_not_ready_any_more() {
    let server = Server::start();
    let tasks = server.endpoint()
        + &process(
            "app",
            "exec sleep 1000",
            "required = true\nready = { endpoint = \"up\" }",
        );
    let (mut program, _folder) = run(&tasks, &[]);
    let admin = admin(&mut program);
    until(|| readyz(&admin).0 == 200);

    server.set(false);

    let reason = "not ready: process app: its endpoint up is down\n";
    until(|| readyz(&admin) == (503, reason.to_owned()));
    program.has_said("not ready any more: its endpoint up is down task=app");
    server.set(true);
    until(|| readyz(&admin).0 == 200);
    program.has_said("ready again: its endpoint up is up task=app");
    program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_process_whose_liveness_goes_down_is_restarted() {
    let server = Server::start();
    let more = "liveness = { endpoint = \"up\" }\nready = { endpoint = \"up\" }\nbackoff = { initial = \"1ms\" }";
    let tasks = server.endpoint() + &process("app", "echo up $$; exec sleep 1000", more);
    let (mut program, _folder) = run(&tasks, &[]);
    let first = announced(&mut program, "up");
    program.has_said("ready after");

    server.set(false);

    program
        .error_line("its liveness endpoint up is down, so the process was stopped; restart 1 of 5");
    announced(&mut program, "up");
    assert!(!first.is_alive());
    program.stop(Signal::TERM).assert_code(0);
}

/// Failures that never reach the threshold were visible nowhere.
#[test]
fn checks_that_fail_below_the_threshold_are_counted_and_warned_of() {
    let server = Server::start();
    let endpoint = server
        .endpoint()
        .replace("down_after = 2", "down_after = 1000");
    let (mut program, _folder) = run(&endpoint, &[]);
    let admin = admin(&mut program);
    let failed = || {
        let (_, metrics) = get(&admin, "/metrics");
        let series = "headcount_endpoint_checks_total{endpoint=\"up\",result=\"failed\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |count| count.parse().expect("a number"))
    };
    for _ in 0..4 {
        let before = failed();
        server.set(false);
        until(|| failed() > before);
        let before = checks(&admin);
        server.set(true);
        until(|| checks(&admin) > before);
    }
    program.error_line("endpoint flapping: ");
    assert!(failed() >= 4);
    program.stop(Signal::TERM).assert_code(0);
}

/// Returns the number of checks that have succeeded.
fn checks(admin: &str) -> u64 {
    let (_, metrics) = get(admin, "/metrics");
    let series = "headcount_endpoint_checks_total{endpoint=\"up\",result=\"ok\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |count| count.parse().expect("a number"))
}

/// The service went on with nothing to run, and was called ready.
#[test]
fn a_service_whose_processes_were_all_given_up_ends_with_1() {
    let failing = "restart = \"no\"";
    let tasks = process("web", "exit 7", failing)
        + &process("db", "exit 8", failing)
        + &process("migrate", "exit 0", failing);
    let (program, _folder) = run(&tasks, &[]);
    let ended = program.end();
    ended.assert_code(1);
    let reason = "stopping (main failed: no process is left to run; given up: db, web)";
    assert!(ended.report().contains(reason), "{ended:#?}");
}

#[test]
fn a_service_may_stay_without_its_processes_but_is_not_ready() {
    let tasks = process("web", "exit 7", "restart = \"no\"");
    let (command, folder) = to_run_with("", &tasks, &[]);
    let path = folder.path().join("headcount.toml");
    let text = std::fs::read_to_string(&path).expect("just written");
    let stays = "name = \"test\"\nwhen_given_up = \"stay\"";
    std::fs::write(&path, text.replacen("name = \"test\"", stays, 1)).expect("it is ours");
    let mut program = Program::start(command);
    let admin = admin(&mut program);
    program.error_line("no process is left to run; given up: web");
    let reason = "not ready: processes: no process is left to run; given up: web\n";
    until(|| readyz(&admin) == (503, reason.to_owned()));
    program.stop(Signal::TERM).assert_code(0);
}

/// The log never said that the service was ready.
#[test]
fn the_log_says_when_the_service_is_ready() {
    let (mut program, _folder) = run(&process("web", "exec sleep 1000", "required = true"), &[]);
    program.has_said("headcount::progress: the service is ready, ");
    program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_late_start_names_the_parts_that_are_not_ready() {
    let never = "required = true\nready = { log = \"never\" }";
    let tasks = process("db", "exec sleep 1000", never)
        + &process(
            "web",
            "exec sleep 1000",
            "required = true\ndepends_on = [\"db\"]",
        )
        + &process("extra", "exec sleep 1000", "ready = { log = \"never\" }")
        + "[tasks.progress]\nkind = \"progress\"\nexpected = \"200ms\"\n";
    let (mut program, _folder) = run(&tasks, &[]);
    let line = program.error_line("not ready ");
    assert!(line.contains("process db: not ready yet, for "), "{line}");
    assert!(
        line.contains("process web: waiting for db to become ready, for "),
        "{line}"
    );
    assert!(!line.contains("extra"), "{line}");
    // It says so again.
    program.error_line("not ready ");
    program.stop(Signal::TERM).assert_code(0);
}
