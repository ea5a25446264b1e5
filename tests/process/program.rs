//! A process under test: it is started, read, and signalled, and always ends with the test.
//!
//! The tests wait for lines and for processes to end; they never sleep for a fixed time.

use crate::text::steady_lines;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Far longer than anything here takes, even on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A process that was started by the test or by one of its children.
pub(crate) struct Process {
    pid: Pid,
    handle: OwnedFd,
}

/// A running program. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    process: Process,
    stdout: Lines,
    stderr: Lines,
    signalled: Option<Instant>,
}

/// The lines of a stream; empty if there is no stream.
struct Lines {
    coming: Option<Receiver<String>>,
    seen: Vec<String>,
}

/// The output and exit status of a program that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
    /// Time since the last signal.
    pub(crate) took: Option<Duration>,
}

// === scenarios ===

/// Waits until another process has caused the condition.
#[track_caller]
pub(crate) fn until(so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < LONG, "it never comes to that");
        std::thread::yield_now();
    }
}

/// Starts a scenario and waits until it is ready.
#[track_caller]
pub(crate) fn ready(scenario: &[&str]) -> Program {
    let mut program = start(scenario);
    assert_eq!(program.line(), "ready");
    program
}

/// Starts a scenario, which may end at once.
pub(crate) fn start(scenario: &[&str]) -> Program {
    Program::start(command(scenario))
}

/// Returns the command that starts a scenario.
pub(crate) fn command(scenario: &[&str]) -> Command {
    example("scenario", scenario)
}

/// Returns the command that starts an example.
pub(crate) fn example(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(example_path(name));
    command.args(arguments);
    command
}

pub(crate) fn scenario_path() -> PathBuf {
    example_path("scenario")
}

/// Returns the path of an example: Cargo puts examples in a folder next to that of this test.
fn example_path(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its program");
    let folder = this
        .ancestors()
        .nth(2)
        .expect("it is in target/profile/deps");
    let program = folder.join("examples").join(name);
    assert_fresh(&program, name);
    program
}

/// Asserts that the example is up to date: `cargo test --test process` alone builds no examples, so
/// it may be missing or stale.
fn assert_fresh(program: &Path, name: &str) {
    let build = format!("`cargo build --example {name}` builds it");
    let time = |path: &Path| path.metadata().and_then(|data| data.modified());
    let built =
        time(program).unwrap_or_else(|error| panic!("{}: {error}; {build}", program.display()));
    let sources = std::fs::read_to_string(program.with_extension("d")).expect("cargo writes it");
    let (_, sources) = sources
        .split_once(": ")
        .expect("it is a line of a makefile");
    for source in sources.split_whitespace() {
        let changed = time(Path::new(source)).expect("the sources are there");
        assert!(
            changed <= built,
            "{} is older than {source}; {build}",
            program.display()
        );
    }
}

// === impl Process ===

impl Process {
    /// Opens a process by its id, which must be alive or not yet waited for.
    pub(crate) fn new(pid: &str) -> Self {
        let pid = Pid::from_raw(pid.parse().expect("a pid is a number")).expect("not zero");
        let handle = pidfd_open(pid, PidfdFlags::empty()).expect("the process is alive");
        Self { pid, handle }
    }

    pub(crate) fn kill(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process is ours and not waited for");
    }

    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let limit = Timespec::try_from(limit).expect("a minute fits");
        let mut fds = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut fds, Some(&limit)).expect("a pidfd can be polled") == 1
    }

    #[cfg(feature = "service")]
    pub(crate) fn is_alive(&self) -> bool {
        !self.ends_within(Duration::ZERO)
    }

    /// Returns whether the signal waits for its handler.
    #[cfg(feature = "service")]
    pub(crate) fn is_pending(&self, signal: Signal) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it was not reaped");
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.map(|mask| u64::from_str_radix(mask.trim(), 16));
        let mask = pending.expect("a line").expect("a mask");
        mask & 1 << (signal.as_raw() - 1) != 0
    }

    #[cfg(feature = "service")]
    #[track_caller]
    pub(crate) fn assert_ends(&self) {
        assert!(self.ends_within(LONG), "{:?} is still alive", self.pid);
    }

    /// Returns the parent process.
    #[cfg(feature = "service")]
    pub(crate) fn parent(&self) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_pid()));
        let status = status.expect("it is alive");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        Self::new(parent.expect("every status has it").trim())
    }

    /// Returns the only child process.
    pub(crate) fn only_child(&self) -> Self {
        Self::new(self.children().trim())
    }

    /// Returns the pids of the children that the main thread has started or adopted.
    pub(crate) fn children(&self) -> String {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.expect("it is alive")
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }
}

// === impl Program ===

impl Program {
    /// Starts the program, with pipes for the standard streams that `command` does not set.
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts the program with a pipe to the test as its standard error.
    pub(crate) fn start_with_stderr(mut command: Command, stderr: impl Into<Stdio>) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        Self::start_as_is(command)
    }

    /// Starts the program with a pipe to the test as its standard output.
    pub(crate) fn start_with_stdout(mut command: Command, stdout: impl Into<Stdio>) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts the program with a terminal as its standard error; the test holds the other end.
    pub(crate) fn start_on_terminal(command: Command, ours: File, theirs: OwnedFd) -> Self {
        let mut program = Self::start_with_stderr(command, theirs);
        // Lines end with `\r
        // `, and the live line begins with `\r`.
        program.stderr = Lines::new(Some(ours), b'\r');
        program
    }

    fn start_as_is(mut command: Command) -> Self {
        // Only the message of a panic is checked.
        command.env("RUST_BACKTRACE", "0");
        if !command.get_envs().any(|(key, _)| key == "NO_COLOR") {
            command.env_remove("NO_COLOR");
        }
        let mut child = command.spawn().expect("the program under test runs");
        let process = Process::new(&child.id().to_string());
        Self {
            process,
            stdout: Lines::new(child.stdout.take(), b'\n'),
            stderr: Lines::new(child.stderr.take(), b'\n'),
            child,
            signalled: None,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns this file in /proc for each thread of the program with this name.
    pub(crate) fn files_of(&self, name: &str, file: &str) -> impl Iterator<Item = String> {
        let tasks = format!("/proc/{}/task", self.pid());
        let threads = std::fs::read_dir(tasks).expect("it is alive");
        let folders = threads.map(|thread| thread.expect("it is alive").path());
        let (name, file) = (format!("{name}\n"), file.to_owned());
        folders
            // A thread that has ended has no files.
            .filter(move |folder| {
                std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm == name)
            })
            .filter_map(move |folder| std::fs::read_to_string(folder.join(&file)).ok())
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Takes the standard input; it can be taken once.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it was taken once")
    }

    /// Returns the next line on standard output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        match self.stdout.next() {
            Some(line) => line,
            None => panic!(
                "no more lines; on standard error: {:#?}",
                self.stderr.rest()
            ),
        }
    }

    /// Returns the next line on standard error that contains `text`.
    #[track_caller]
    pub(crate) fn error_line(&mut self, text: &str) -> String {
        while let Some(line) = self.stderr.next() {
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with '{text}' in {:#?}", self.stderr.seen);
    }

    /// Waits for a line on standard error that contains `text`, unless one has been read already.
    #[cfg(feature = "service")]
    #[track_caller]
    pub(crate) fn has_said(&mut self, text: &str) {
        if !self.stderr.seen.iter().any(|line| line.contains(text)) {
            self.error_line(text);
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.signalled = Some(Instant::now());
        self.process.kill(signal);
    }

    /// Waits for the program to end, and reads all its output.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        if !self.process.ends_within(LONG) {
            self.child.kill().expect("it is our child");
            let (stdout, stderr) = (self.stdout.rest(), self.stderr.rest());
            panic!("it does not end; stdout: {stdout:#?}, stderr: {stderr:#?}");
        }
        let took = self.signalled.map(|at| at.elapsed());
        Ended {
            status: self.child.wait().expect("it is our child"),
            stdout: self.stdout.rest(),
            stderr: self.stderr.rest(),
            took,
        }
    }

    /// Sends the signal, and waits for the program to end.
    #[track_caller]
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has either ended, or must be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

// === impl Lines ===

impl Lines {
    fn new(stream: Option<impl Read + Send + 'static>, end: u8) -> Self {
        let coming = stream.map(|stream| {
            let (sender, coming) = channel();
            let read = move || {
                for line in BufReader::new(stream).split(end).map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line)
                        .trim_start_matches('\n')
                        .to_owned();
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            };
            std::thread::Builder::new()
                .spawn(read)
                .expect("the system has threads");
            coming
        });
        Self {
            coming,
            seen: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<String> {
        let line = self.coming.as_ref()?.recv_timeout(LONG).ok()?;
        self.seen.push(line.clone());
        Some(line)
    }

    /// Returns all lines, including those already returned.
    fn rest(&mut self) -> Vec<String> {
        while self.next().is_some() {}
        self.seen.clone()
    }
}

// === impl Ended ===

impl Ended {
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub(crate) fn assert_killed_by(&self, signal: Signal) -> &Self {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self:#?}");
        self
    }

    /// Asserts the maximum time from the last signal to the end.
    #[track_caller]
    pub(crate) fn assert_took_at_most(&self, limit: Duration) -> &Self {
        let took = self.took.expect("it was signalled");
        assert!(took <= limit, "{took:?}: {self:#?}");
        self
    }

    /// Returns everything on standard error, without values that vary.
    pub(crate) fn errors(&self) -> String {
        steady_lines(&self.stderr)
    }

    /// Returns the report on standard error, without values that vary.
    #[track_caller]
    pub(crate) fn report(&self) -> String {
        let begin = self
            .stderr
            .iter()
            .position(|line| line.starts_with("headcount ") && line.contains(": stopping ("));
        let begin = begin.unwrap_or_else(|| panic!("no report: {self:#?}"));
        // A slow log may follow the report.
        let lines = &self.stderr[begin..];
        let end = lines.iter().position(|line| line.starts_with("└─"));
        steady_lines(&lines[..=end.unwrap_or(lines.len() - 1)])
    }
}
