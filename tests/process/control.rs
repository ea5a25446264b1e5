//! Tests of the control socket of a service, and of the commands that use it.

use crate::program::{Program, until};
use crate::service::config;
use crate::text::steady;
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

const RESOURCES: &str = "[tasks.resources]\nkind = \"resources\"\n";
const SLEEPS: &str = "[tasks.sleeps]\nkind = \"process\"\ncommand = [\"sleep\", \"1000\"]\n";

/// A running service with a runtime folder of its own.
struct Service {
    program: Program,
    folder: TempDir,
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be created")
}

/// Starts a service and waits until it runs.
#[track_caller]
fn serve(tasks: &str) -> Service {
    serve_in(folder(), tasks)
}

#[track_caller]
fn serve_in(folder: TempDir, tasks: &str) -> Service {
    let config = config(folder.path(), tasks);
    serve_config(folder, &config)
}

#[track_caller]
fn serve_config(folder: TempDir, config: &str) -> Service {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.args(["run", config]);
    command.env_remove("RUNTIME_DIRECTORY");
    command.env("XDG_RUNTIME_DIR", folder.path());
    let mut program = Program::start(command);
    program.error_line("to stop: ");
    Service { program, folder }
}

/// The exit code and the output of a command, with the service's id as N.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Service {
    fn socket(&self) -> PathBuf {
        socket(self.folder.path(), self.program.pid())
    }

    fn output(&self, verb: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.arg(verb).arg(self.program.pid().to_string());
        command.args(more).stdin(Stdio::null());
        command.output().expect("it runs")
    }

    fn json(&self, verb: &str) -> serde_json::Value {
        let output = self.output(verb, &["--json"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("it is JSON")
    }

    fn command(&self, verb: &str, more: &[&str]) -> Said {
        let output = self.output(verb, more);
        let pid = self.program.pid().to_string();
        let folder = self
            .folder
            .path()
            .to_str()
            .expect("temporary names are UTF-8");
        let steady = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("it is UTF-8");
            text.replace(folder, "FOLDER").replace(&pid, "N")
        };
        Said {
            code: output.status.code(),
            stdout: steady(output.stdout),
            stderr: steady(output.stderr),
        }
    }
}

fn socket(folder: &Path, pid: u32) -> PathBuf {
    folder.join("headcount").join(format!("{pid}.sock"))
}

#[test]
fn a_service_is_stopped_through_its_socket_and_says_so() {
    let service = serve(RESOURCES);
    let socket = service.socket();
    assert!(socket.exists());
    let said = service.command("stop", &[]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(said.stdout, "process N: the shutdown has begun\n");
    let ended = service.program.end();
    ended.assert_code(0);
    let report = ended.report();
    assert!(
        report.starts_with("headcount test: stopping (control socket)\n"),
        "{report}"
    );
    assert!(!socket.exists());
}

#[test]
fn a_group_is_drained_or_cancelled_by_its_path_and_a_wrong_path_is_answered_with_the_right_ones() {
    for verb in ["drain", "cancel"] {
        let mut service = serve(&format!("{RESOURCES}{SLEEPS}"));
        service.program.error_line("headcount::process: ready");
        let wrong = service.command(verb, &["pro cess"]);
        assert_eq!(wrong.code, Some(1), "{wrong:?}");
        assert_eq!(
            wrong.stderr,
            "headcount: process N: there is no group 'pro cess'; its groups: process\n"
        );
        let said = service.command(verb, &["process"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert_eq!(
            said.stdout,
            "process N: group 'process': no task is left of 1\n"
        );
        service.program.stop(Signal::TERM).assert_code(0);
    }
}

#[test]
fn without_a_socket_the_commands_say_where_they_looked() {
    let off = format!("[admin]\nlisten = \"off\"\ncontrol_socket = \"off\"\n{RESOURCES}");
    let service = serve_without(&off);
    let said = service.command("stop", &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(
        said.stderr,
        "headcount: process N has no control socket (FOLDER/headcount/N.sock: there is no file)\n"
    );
    service.program.stop(Signal::TERM).assert_code(0);
}

/// Starts a service with this configuration only.
#[track_caller]
fn serve_without(text: &str) -> Service {
    let folder = folder();
    let path = folder.path().join("off.toml");
    fs::write(&path, format!("[state]\nfolder = \"off\"\n{text}")).expect("the folder is ours");
    let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
    command.arg("run").arg(&path);
    command.env_remove("RUNTIME_DIRECTORY");
    command.env("XDG_RUNTIME_DIR", folder.path());
    let mut program = Program::start(command);
    program.error_line("to stop: ");
    Service { program, folder }
}

#[test]
fn a_folder_that_is_a_link_or_open_to_others_is_refused_and_the_service_runs_without() {
    type Plant = fn(&Path);
    let link: Plant = |folder| {
        let elsewhere = folder.join("elsewhere");
        fs::create_dir(&elsewhere).expect("a folder can be made");
        symlink(elsewhere, folder.join("headcount")).expect("a link can be made");
    };
    let open: Plant = |folder| {
        fs::create_dir(folder.join("headcount")).expect("a folder can be made");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.join("headcount"), mode).expect("it is ours");
    };
    for (plant, why) in [
        (link, "it is a symbolic link"),
        (open, "other users may enter it: its mode is 0755, not 0700"),
    ] {
        let folder = folder();
        plant(folder.path());
        let place = folder.path().join("headcount");
        let mut service = serve_in(folder, RESOURCES);
        let warning = format!("there is no control socket in {}: {why}", place.display());
        service.program.has_said(&warning);
        assert!(!service.socket().exists());
        service.program.stop(Signal::TERM).assert_code(0);
    }
}

#[test]
fn the_socket_of_a_killed_service_is_removed_by_the_next_one_and_that_of_a_live_one_is_not() {
    let killed = serve(RESOURCES);
    let (left, live) = (killed.socket(), serve(RESOURCES));
    let folder = killed.folder;
    killed.program.stop(Signal::KILL);
    assert!(left.exists());
    // Another live one in the same folder.
    let kept = folder.path().join("headcount/1.sock");
    let listens = std::os::unix::net::UnixListener::bind(&kept).expect("the folder is there");
    let next = serve_in(folder, RESOURCES);
    assert!(!left.exists());
    assert!(kept.exists());
    assert!(next.socket().exists());
    drop(listens);
    for service in [live, next] {
        service.program.stop(Signal::TERM).assert_code(0);
    }
}

#[cfg(all(
    feature = "stacks",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[test]
fn a_dump_says_which_way_it_came_by() {
    let service = serve(RESOURCES);
    let text = service.command("dump", &[]);
    assert_eq!(text.code, Some(0), "{text:?}");
    let mut lines = text.stdout.lines();
    assert_eq!(lines.next(), Some("pid N, read by the control socket"));
    assert_eq!(lines.nth(1), Some("headcount test: dump, running"));
    let json = service.json("dump");
    assert_eq!(json["by"], "control socket");
    assert_eq!(json["service"], "test");
    // Without the file, the process is read from outside.
    fs::remove_file(service.socket()).expect("it is ours");
    assert_eq!(service.json("dump")["by"], "attach");
    service.program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn two_services_share_a_runtime_folder_and_each_command_reaches_its_own() {
    let shared = folder();
    let start = || {
        let folder = folder();
        let config = config(folder.path(), RESOURCES);
        let mut command = Command::new(env!("CARGO_BIN_EXE_headcount"));
        command.args(["run", &config]);
        command.env("RUNTIME_DIRECTORY", shared.path());
        let mut program = Program::start(command);
        program.error_line("to stop: ");
        Service { program, folder }
    };
    let (first, second) = (start(), start());
    let own = shared.path().join(format!("{}.sock", second.program.pid()));
    assert!(shared.path().join("headcount.sock").exists());
    assert!(own.exists());
    for service in [second, first] {
        assert_eq!(service.command("stop", &[]).code, Some(0));
        service.program.end().assert_code(0);
    }
    let left = fs::read_dir(shared.path()).expect("it is a folder");
    assert_eq!(left.count(), 0);
}

/// A process that says its pid, and ends with success when it is asked to.
const OBEYS: &str = "[tasks.web]\nkind = \"process\"\nrequired = true\nready = { log = \"up\" }\nmax_restarts = 1\n\
    command = [\"sh\", \"-c\", \"trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done\"]\n";

impl Service {
    /// Runs a command about the process `web`, and returns its output without pids.
    #[track_caller]
    fn web(&self, verb: &str) -> String {
        let said = self.command(verb, &["web"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        steady(&said.stdout)
    }

    /// Waits until a metric of the process has this value.
    #[track_caller]
    fn until_metric(&self, line: &str) {
        until(|| self.get("/metrics").contains(line));
    }

    /// Returns an answer of the socket.
    fn get(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }
}

#[test]
fn a_process_is_restarted_by_hand_as_often_as_one_likes() {
    let mut service = serve(OBEYS);
    service.program.error_line("headcount::process: ready");
    for _ in 0..3 {
        let said = service.web("restart");
        assert_eq!(said, "process N: process/web: restarted, pid N\n");
        service.program.error_line("stopping: restart on request");
        service.program.error_line("stopped: exited with code 0");
        service.program.error_line("headcount::process: ready");
    }
    service.until_metric("headcount_child_restarts_total{child=\"web\"} 3\n");
    let ended = service.program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

#[test]
fn a_process_that_was_stopped_by_hand_stays_so_and_is_no_failure() {
    let waits = "[tasks.late]\nkind = \"process\"\ncommand = [\"sleep\", \"1000\"]\ndepends_on = [\"web\"]\n";
    let mut service = serve(&format!("{OBEYS}{waits}"));
    service.program.error_line("ready after");
    service.program.error_line("ready after");
    assert_eq!(service.web("stop"), "process N: process/web: stopped\n");
    assert_eq!(
        service.web("stop"),
        "process N: process/web: it was stopped before\n"
    );
    let answer = service.get("/readyz");
    assert!(
        answer.contains("\r\n\r\nnot ready: process web: stopped on request\n"),
        "{answer}"
    );
    // Another that depends on it waits, and goes on when it is back.
    assert_eq!(service.command("restart", &["late"]).code, Some(0));
    service
        .program
        .error_line("waiting for web to become ready");
    let said = service.web("start");
    assert_eq!(said, "process N: process/web: started, pid N\n");
    service.program.has_said("started task=late");
    until(|| service.get("/readyz").contains("\r\n\r\nready\n"));
    let said = service.web("start");
    assert_eq!(
        said,
        "process N: process/web: it was running before, pid N\n"
    );
    assert_eq!(service.web("stop"), "process N: process/web: stopped\n");
    let ended = service.program.stop(Signal::TERM);
    ended.assert_code(0);
    assert!(ended.report().contains("└─ clean"), "{ended:#?}");
}

#[test]
fn a_process_that_was_given_up_or_has_ended_is_started_by_hand() {
    let fails = "[tasks.web]\nkind = \"process\"\nrestart = \"no\"\ncommand = [\"sh\", \"-c\", \"echo run; exit 3\"]\n";
    let mut service = serve(&format!("{RESOURCES}{SLEEPS}{fails}"));
    service.program.error_line("exited with code 3");
    let said = service.web("start");
    assert_eq!(said, "process N: process/web: started, pid N\n");
    service.program.error_line("exited with code 3");
    let said = service.command("start", &["wbe"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(
        said.stderr,
        "headcount: process N: there is no process 'wbe'; its processes: process/sleeps, process/web\n"
    );
    service.program.stop(Signal::TERM).assert_code(0);
}

/// The service stayed unready after the start.
#[test]
fn a_service_without_processes_is_ready_again_after_a_start_by_hand() {
    let folder = folder();
    let gate = folder.path().join("gate");
    let fails = format!(
        "[tasks.web]\nkind = \"process\"\nrestart = \"no\"\ncommand = [\"sh\", \"-c\", \
            \"[ -e {} ] && exec sleep 1000; exit 3\"]\n",
        gate.display()
    );
    let path = config(folder.path(), &fails);
    let text = fs::read_to_string(&path).expect("just written");
    let stays = "name = \"test\"\nwhen_given_up = \"stay\"";
    fs::write(&path, text.replacen("name = \"test\"", stays, 1)).expect("it is ours");
    let mut service = serve_config(folder, &path);
    service.program.error_line("no process is left to run");
    until(|| service.get("/readyz").contains("not ready: processes: "));
    fs::write(&gate, "").expect("it is ours");
    let said = service.web("start");
    assert_eq!(said, "process N: process/web: started, pid N\n");
    until(|| service.get("/readyz").contains("\r\n\r\nready\n"));
    service.program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn a_request_that_takes_long_is_answered_while_it_goes_on() {
    let deaf = "[tasks.web]\nkind = \"process\"\nready = { log = \"up\" }\nstop_budget = \"10s\"\n\
        command = [\"sh\", \"-c\", \"trap '' TERM; echo up; while :; do sleep 0.01; done\"]\n";
    let mut service = serve(deaf);
    service.program.error_line("headcount::process: ready");
    let said = service.command("stop", &["web"]);
    assert_eq!(said.code, Some(1));
    assert_eq!(
        said.stderr,
        "headcount: process N: process/web: it is stopping; the stop goes on\n"
    );
    service.program.signal(Signal::TERM);
    service.program.stop(Signal::TERM).assert_code(0);
}

#[test]
fn the_last_lines_of_processes_are_shown_and_followed() {
    let says = "[tasks.web]\nkind = \"process\"\n\
        command = [\"sh\", \"-c\", \"echo one; echo two >&2; printf 'a\\\\033[2Jb\\\\n'; read -r _ < gate; echo last; exec sleep 1000\"]\n";
    let folder = folder();
    let gate = folder.path().join("gate");
    let made = Command::new("mkfifo").arg(&gate).status();
    assert!(made.expect("mkfifo runs").success());
    let says = says.replace("< gate", &format!("< {}", gate.display()));
    let mut service = serve_in(folder, &says);
    for line in ["one", "two", "a"] {
        service.program.has_said(&format!("│ {line}"));
    }
    let said = service.command("logs", &["web"]);
    let mut lines: Vec<&str> = said.stdout.lines().collect();
    // The streams are two pipes.
    lines.sort_unstable();
    assert_eq!(lines, ["a\u{fffd}[2Jb", "one", "two"], "{said:?}");
    let said = service.command("logs", &["--lines", "1"]);
    assert!(said.stdout.starts_with("web │ "), "{said:?}");
    assert_eq!(said.stdout.lines().count(), 1);

    // By name alone: no other service has this runtime folder.
    let mut follows = Command::new(env!("CARGO_BIN_EXE_headcount"));
    follows.args(["logs", "web", "--follow", "--json", "--lines", "1"]);
    follows.env_remove("RUNTIME_DIRECTORY");
    follows.env("XDG_RUNTIME_DIR", service.folder.path());
    let mut follows = follows.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = BufReader::new(follows.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("it is UTF-8");
    next();
    fs::write(&gate, "\n").expect("it is read");
    let last: serde_json::Value = serde_json::from_str(&next()).expect("it is JSON");
    assert_eq!(last["text"], "last");
    assert_eq!(last["process"], "process/web");
    assert_eq!(last["stream"], "stdout");
    service.program.stop(Signal::TERM).assert_code(0);
    assert!(follows.wait().expect("it is ours").success());
}
