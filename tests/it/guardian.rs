//! Tests of the guarding processes, over the socket that headcount uses to control them: nothing of
//! a command survives, whichever process is killed.
//!
//! The tests play headcount's part. They kill only processes that they started, by pid, and wait on
//! pipes and pidfds; they never sleep for a fixed time.

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::retry_on_intr,
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};
use serde_json::{Value, json};

/// Far longer than anything here takes, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Returns a script that starts a process which leaves its group and session and loses its parent;
/// it prints `NAME PID` and stays.
fn escaped(name: &str) -> String {
    format!("(setsid sh -c 'echo {name} $$; exec sleep 1000' &)")
}

/// A guardian, started as headcount starts it.
struct Guarded {
    guardian: Child,
    orders: UnixStream,
    notices: BufReader<UnixStream>,
    output: BufReader<io::PipeReader>,
}

/// A process that was reported as alive.
struct Process {
    pid: Pid,
    handle: OwnedFd,
}

// === impl Process ===

impl Process {
    fn new(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.parse().expect("a pid is a number")).expect("not zero");
        let handle = pidfd_open(pid, PidfdFlags::empty()).expect("the process is alive");
        Self { pid, handle }
    }

    fn kill(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process is ours and alive");
    }

    fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).expect("a minute fits");
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        // A child of another test may end meanwhile.
        let ready = retry_on_intr(|| poll(&mut fds, Some(&limit)));
        ready.expect("a pidfd can be polled") == 1
    }

    #[track_caller]
    fn assert_ends(&self) {
        assert!(self.ends_within(LONG), "{:?} is still alive", self.pid);
    }

    fn parent(&self) -> Self {
        let pid = self.pid.as_raw_pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it is alive");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        Self::new(parent.expect("every status names the parent").trim())
    }
}

// === impl Guarded ===

impl Guarded {
    fn start(start: Value) -> Self {
        Self::ordered(&[json!({ "start": start })])
    }

    /// Starts a guardian that can read its first orders all at once.
    fn ordered(first: &[Value]) -> Self {
        let (orders, stdin) = UnixStream::pair().expect("sockets are available");
        let (output, stdout) = io::pipe().expect("pipes are available");
        let guardian = Command::new(env!("CARGO_BIN_EXE_headcount"))
            .args(["guardian", "test"])
            .stdin(OwnedFd::from(stdin))
            .stderr(stdout.try_clone().expect("a pipe can be shared"))
            .stdout(stdout)
            .process_group(0)
            .spawn()
            .expect("the binary under test runs");
        orders.set_read_timeout(Some(LONG)).expect("not zero");
        let notices = orders.try_clone().expect("a socket can be shared");
        let mut guarded = Self {
            guardian,
            orders,
            notices: BufReader::new(notices),
            output: BufReader::new(output),
        };
        let first: String = first.iter().map(|order| format!("{order}\n")).collect();
        let sent = guarded.orders.write_all(first.as_bytes());
        sent.expect("the guardian listens");
        assert!(guarded.notice()["keeping"]["pid"].is_u64());
        guarded
    }

    /// Runs a script that SIGTERM stops within `budget`.
    fn script(script: &str, budget: Duration) -> Self {
        Self::start(start(&["sh", "-c", script], budget))
    }

    fn order(&mut self, order: &Value) {
        writeln!(self.orders, "{order}").expect("the guardian listens");
    }

    #[track_caller]
    fn notice(&mut self) -> Value {
        let mut line = String::new();
        let read = self.notices.read_line(&mut line);
        assert!(
            read.expect("a notice comes in time") > 0,
            "the guardian says nothing more"
        );
        serde_json::from_str(&line).expect("notices are JSON")
    }

    /// Asserts that the next notice says that these processes are killed.
    #[track_caller]
    fn says_killed(&mut self, processes: &[&Process]) {
        let notice = self.notice();
        let said = notice["killed"]["processes"].to_string();
        for process in processes {
            let pid = process.pid.as_raw_pid();
            assert!(said.contains(&format!("(pid {pid})")), "{notice}");
        }
    }

    /// Returns the command's process, from the notice that it started.
    #[track_caller]
    fn started(&mut self) -> Process {
        let notice = self.notice();
        Process::new(&notice["started"]["pid"].to_string())
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("output is text");
        line.trim_end().to_owned()
    }

    /// Reads `NAME PID`.
    #[track_caller]
    fn process(&mut self, name: &str) -> Process {
        let line = self.line();
        Process::new(
            line.strip_prefix(name)
                .expect("the script says that name")
                .trim(),
        )
    }

    #[track_caller]
    fn assert_ended(mut self) {
        let status = self.guardian.wait().expect("it is our child");
        assert!(status.success(), "{status}");
    }
}

fn start(command: &[&str], budget: Duration) -> Value {
    json!({
        "command": command,
        "env": {},
        "working_folder": null,
        "stop_signal": "term",
        "stop_signal_to": "tree",
        "stop_budget": { "secs": budget.as_secs(), "nanos": budget.subsec_nanos() },
    })
}

/// Passes headcount's end of the socket to a process that can be killed.
fn headcount(guarded: Guarded) -> (Child, Child) {
    let headcount = Command::new("sleep")
        .arg("1000")
        .stdin(OwnedFd::from(guarded.orders))
        .spawn()
        .expect("sleep runs");
    (headcount, guarded.guardian)
}

#[test]
fn a_double_forked_process_dies_when_headcount_is_killed() {
    let script = format!("{}; exec sleep 1000", escaped("escaped"));
    let mut guarded = Guarded::script(&script, Duration::from_secs(3));
    let command = guarded.started();
    let escaped = guarded.process("escaped");
    let (mut headcount, mut guardian) = headcount(guarded);
    assert!(command.is_alive() && escaped.is_alive());

    headcount.kill().expect("it is our child");

    command.assert_ends();
    escaped.assert_ends();
    headcount.wait().expect("it is our child");
    assert!(guardian.wait().expect("it is our child").success());
}

#[test]
fn a_process_that_ignores_every_signal_dies_when_headcount_is_killed() {
    let script = "trap '' TERM HUP INT QUIT; (setsid sh -c 'echo escaped $$; while :; do sleep 1000; done' &); \
                  echo ready; while :; do sleep 1000; done";
    // Without headcount, the grace period is a second, regardless of the budget.
    let mut guarded = Guarded::script(script, Duration::from_secs(10_000));
    let command = guarded.started();
    let lines = [guarded.line(), guarded.line()];
    let escaped = lines.iter().find_map(|line| line.strip_prefix("escaped "));
    let escaped = Process::new(escaped.expect("both lines were read"));
    let (mut headcount, mut guardian) = headcount(guarded);

    headcount.kill().expect("it is our child");

    command.assert_ends();
    escaped.assert_ends();
    headcount.wait().expect("it is our child");
    assert!(guardian.wait().expect("it is our child").success());
}

#[test]
fn nothing_survives_when_the_guardian_alone_is_killed() {
    let script = format!("{}; exec sleep 1000", escaped("escaped"));
    let mut guarded = Guarded::script(&script, Duration::from_secs(3));
    let command = guarded.started();
    let escaped = guarded.process("escaped");
    let keeper = command.parent();

    guarded.guardian.kill().expect("it is our child");

    command.assert_ends();
    escaped.assert_ends();
    keeper.assert_ends();
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": { "signal": { "number": 15, "core_dumped": false } }, "killed": false } })
    );
    assert_eq!(guarded.notice(), "empty");
    guarded.guardian.wait().expect("it is our child");
}

/// Headcount closes only its sending end when it has lost the guardian, and still reads. Without the
/// last notice it could not know that the tree is gone.
#[test]
fn a_keeper_that_is_no_longer_told_anything_still_says_that_the_tree_is_gone() {
    let mut guarded = Guarded::script("exec sleep 1000", Duration::from_secs(3));
    let command = guarded.started();

    let closed = guarded.orders.shutdown(std::net::Shutdown::Write);

    closed.expect("it is open");
    command.assert_ends();
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": { "signal": { "number": 15, "core_dumped": false } }, "killed": false } })
    );
    assert_eq!(guarded.notice(), "empty");
    guarded.assert_ended();
}

#[test]
fn nothing_survives_when_the_keeper_alone_is_killed() {
    let script = format!("{}; exec sleep 1000", escaped("escaped"));
    let mut guarded = Guarded::script(&script, Duration::from_secs(3));
    let command = guarded.started();
    let escaped = guarded.process("escaped");

    command.parent().kill(Signal::KILL);

    command.assert_ends();
    escaped.assert_ends();
    let killed = json!({ "signal": { "number": 9, "core_dumped": false } });
    assert_eq!(
        guarded.notice(),
        json!({ "keeper_lost": { "exit": killed } })
    );
    guarded.says_killed(&[&escaped]);
    assert_eq!(guarded.notice(), "empty");
    guarded.assert_ended();
}

#[test]
fn nothing_survives_when_headcount_is_killed_together_with_the_guardian() {
    let script = format!("{}; exec sleep 1000", escaped("escaped"));
    let mut guarded = Guarded::script(&script, Duration::from_secs(3));
    let command = guarded.started();
    let escaped = guarded.process("escaped");
    let (mut headcount, mut guardian) = headcount(guarded);

    guardian.kill().expect("it is our child");
    headcount.kill().expect("it is our child");

    command.assert_ends();
    escaped.assert_ends();
    headcount.wait().expect("it is our child");
    guardian.wait().expect("it is our child");
}

#[test]
fn nothing_survives_when_headcount_is_killed_together_with_the_keeper() {
    let script = format!("{}; exec sleep 1000", escaped("escaped"));
    let mut guarded = Guarded::script(&script, Duration::from_secs(3));
    let command = guarded.started();
    let escaped = guarded.process("escaped");
    let keeper = command.parent();
    let (mut headcount, mut guardian) = headcount(guarded);

    keeper.kill(Signal::KILL);
    headcount.kill().expect("it is our child");

    command.assert_ends();
    escaped.assert_ends();
    headcount.wait().expect("it is our child");
    assert!(guardian.wait().expect("it is our child").success());
}

#[test]
fn a_stop_asks_the_whole_tree_and_says_how_the_command_ended() {
    let asked = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.01; done";
    let script = format!(
        "exec 2> /dev/null; (setsid sh -c \"{asked}\" &); sh -c \"{asked}\" & trap 'wait; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    );
    let mut guarded = Guarded::script(&script, LONG);
    guarded.started();
    assert_eq!(
        [guarded.line(), guarded.line(), guarded.line()],
        ["ready"; 3]
    );

    guarded.order(&json!("stop"));

    assert_eq!([guarded.line(), guarded.line()], ["asked"; 2]);
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": { "code": 7 }, "killed": false } })
    );
    assert_eq!(guarded.notice(), "empty");
    guarded.assert_ended();
}

/// A service may be stopped while it starts: the keeper then reads both orders at once. It used to
/// drop the second, so that the process ran on until it was killed.
#[test]
fn a_stop_that_comes_with_the_start_is_not_lost() {
    let start = start(&["sleep", "1000"], LONG * 10);
    let mut guarded = Guarded::ordered(&[json!({ "start": start }), json!("stop")]);
    // The process may have ended by the time this is read.
    assert!(guarded.notice()["started"]["pid"].is_u64());
    let ended = json!({ "signal": { "number": 15, "core_dumped": false } });
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": ended, "killed": false } })
    );
    assert_eq!(guarded.notice(), "empty");
    guarded.assert_ended();
}

#[test]
fn a_process_that_ignores_the_stop_signal_is_killed_after_the_budget() {
    let script = "trap '' TERM; (setsid sh -c 'echo escaped $$; while :; do sleep 1000; done' &); \
                  echo ready; while :; do sleep 1000; done";
    let mut guarded = Guarded::script(script, Duration::from_millis(100));
    let command = guarded.started();
    let lines = [guarded.line(), guarded.line()];
    let escaped = lines.iter().find_map(|line| line.strip_prefix("escaped "));
    let escaped = Process::new(escaped.expect("both lines were read"));

    guarded.order(&json!("stop"));

    guarded.says_killed(&[&command, &escaped]);
    let killed = json!({ "signal": { "number": 9, "core_dumped": false } });
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": killed, "killed": true } })
    );
    assert_eq!(guarded.notice(), "empty");
    assert!(!command.is_alive() && !escaped.is_alive());
    guarded.assert_ended();
}

#[test]
fn a_kill_does_not_wait_for_the_budget() {
    let mut guarded = Guarded::script(
        "trap '' TERM; echo ready; while :; do sleep 1000; done",
        LONG * 10,
    );
    let command = guarded.started();
    assert_eq!(guarded.line(), "ready");
    guarded.order(&json!("stop"));
    guarded.order(&json!("kill"));
    command.assert_ends();
    guarded.says_killed(&[&command]);
    let killed = json!({ "signal": { "number": 9, "core_dumped": false } });
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": killed, "killed": true } })
    );
    assert_eq!(guarded.notice(), "empty");
    guarded.assert_ended();
}

#[test]
fn processes_left_by_a_command_end_with_it() {
    // The command ends once it knows that its escaped process runs.
    let script = "mkfifo \"$0\"; (setsid sh -c 'echo escaped $$; echo > \"$0\"; exec sleep 1000' \"$0\" &); \
                  read -r _ < \"$0\"; exit 3";
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let fifo = folder.path().join("fifo");
    let fifo = fifo.to_str().expect("temporary names are UTF-8");
    let mut guarded = Guarded::start(start(&["sh", "-c", script, fifo], LONG));
    guarded.notice();
    let line = guarded.line();
    assert!(line.starts_with("escaped "), "{line}");
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": { "code": 3 }, "killed": false } })
    );
    assert_eq!(guarded.notice(), "empty");
    let pid = &line["escaped ".len()..];
    assert!(!fs::exists(format!("/proc/{pid}")).expect("/proc can be read"));
    guarded.assert_ended();
}

#[test]
fn a_tree_that_detaches_as_fast_as_it_can_is_killed_whole() {
    // Each process starts two that leave its session, one of which does the same, and ends: no pid
    // lives for long.
    let script =
        "trap '' TERM; setsid sh -c 'exec sleep 1000' & echo more $!; setsid sh -c \"$0\" \"$0\" &";
    let mut guarded = Guarded::start(start(&["sh", "-c", script, script], LONG));
    guarded.notice();
    let seen: Vec<_> = (0..100).map(|_| guarded.line()).collect();
    guarded.order(&json!("kill"));
    // Every live process holds the output open, which ends only when all have ended.
    while !guarded.line().is_empty() {}
    for line in seen {
        let pid = line.strip_prefix("more ").expect("that is all they say");
        assert!(!fs::exists(format!("/proc/{pid}")).expect("/proc can be read"));
    }
    guarded.assert_ended();
}

#[test]
fn the_guardians_take_no_notice_of_signals_that_ask_to_end() {
    let mut guarded = Guarded::script("echo ready; exec sleep 1000", LONG);
    let command = guarded.started();
    assert_eq!(guarded.line(), "ready");
    let keeper = command.parent();
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
    ] {
        keeper.kill(signal);
        keeper.parent().kill(signal);
    }
    guarded.order(&json!("stop"));
    let ended = json!({ "signal": { "number": 15, "core_dumped": false } });
    assert_eq!(
        guarded.notice(),
        json!({ "exited": { "exit": ended, "killed": false } })
    );
    assert_eq!(guarded.notice(), "empty");
    guarded.assert_ended();
}

#[test]
fn a_command_starts_with_a_clean_slate() {
    let slate = "grep -E 'SigIgn|SigBlk' /proc/self/status; readlink /proc/$$/fd/0; ls /proc/$$/fd; echo end";
    // A command that a process which may have inherited descriptors starts without a guardian.
    let plain = Command::new("sh")
        .args(["-c", slate])
        .stdin(Stdio::null())
        .output();
    let plain = String::from_utf8(plain.expect("sh runs").stdout).expect("it is text");

    let script = format!("{slate}; cut -d' ' -f1,5 /proc/$$/stat");
    let mut guarded = Guarded::script(&script, LONG);
    let pid = guarded.notice()["started"]["pid"].to_string();
    for line in plain.lines() {
        assert_eq!(guarded.line(), without_hangup(line));
    }
    assert_eq!(
        guarded.line(),
        format!("{pid} {pid}"),
        "it leads a group of its own"
    );
}

/// Removes SIGHUP from a line of `status`: the test runner may ignore SIGHUP (nohup(1)), for which
/// a guardian has a handler.
fn without_hangup(line: &str) -> String {
    let ignored = line.strip_prefix("SigIgn:\t");
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask, 16).ok());
    mask.map_or_else(
        || line.to_owned(),
        |mask| format!("SigIgn:\t{:016x}", mask & !1),
    )
}

#[test]
fn a_command_that_cannot_start_is_refused_with_what_and_where() {
    let refused = |start: Value| {
        let mut guarded = Guarded::start(start);
        let why = guarded.notice()["refused"]["why"]
            .as_str()
            .expect("a reason")
            .to_owned();
        assert_eq!(guarded.notice(), "empty");
        guarded.assert_ended();
        why
    };
    let with = |command: &[&str], key: &str, value: Value| {
        let mut start = start(command, LONG);
        start[key] = value;
        refused(start)
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be created");
    let script = folder.path().join("script");
    fs::write(&script, "#!/no/such/shell\n").expect("the folder is ours");
    let script = script.to_str().expect("temporary names are UTF-8");

    assert_eq!(
        with(
            &["no-such-program"],
            "env",
            json!({ "PATH": "/nowhere:/bin" })
        ),
        "cannot start no-such-program: not found in PATH (the one below `env`)"
    );
    assert_eq!(
        refused(start(&["/no/such/program"], LONG)),
        "cannot start /no/such/program: No such file or directory (os error 2)"
    );
    assert_eq!(
        refused(start(&["/etc"], LONG)),
        "cannot start /etc: Permission denied (os error 13)"
    );
    assert_eq!(
        with(&["sh"], "working_folder", json!("/no/such/folder")),
        "cannot enter working folder /no/such/folder: No such file or directory (os error 2)"
    );
    fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("the file is ours");
    assert_eq!(
        refused(start(&[script], LONG)),
        format!(
            "cannot start {script}: the interpreter in its `#!` line, or its loader, is missing"
        )
    );
}
