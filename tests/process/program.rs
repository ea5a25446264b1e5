//! A process under test: started, listened to, signalled, and gone at the end of the test whatever happens.
//!
//! The tests wait for lines and for the end of processes, never for time to pass.

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

/// Far more than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A process that was started by the test or by what the test started.
pub(crate) struct Process {
    pid: Pid,
    handle: OwnedFd,
}

/// A program that runs. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    process: Process,
    stdout: Lines,
    stderr: Lines,
    signalled: Option<Instant>,
}

/// What a stream has given so far. Without a stream, nothing.
struct Lines {
    coming: Option<Receiver<String>>,
    seen: Vec<String>,
}

/// What a program left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
    /// From the last signal.
    pub(crate) took: Option<Duration>,
}

// === scenarios ===

/// Waits for what another process does.
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

/// How a scenario is started.
pub(crate) fn command(scenario: &[&str]) -> Command {
    example("scenario", scenario)
}

/// How one of the examples is started.
pub(crate) fn example(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(example_path(name));
    command.args(arguments);
    command
}

pub(crate) fn scenario_path() -> PathBuf {
    example_path("scenario")
}

/// Cargo puts the examples beside the folder that this test is in.
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

/// `cargo test --test process` alone builds no example, and the one that is there may be old.
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
    /// `pid` must be alive, or not yet waited for.
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

    #[cfg(feature = "service")]
    #[track_caller]
    pub(crate) fn assert_ends(&self) {
        assert!(self.ends_within(LONG), "{:?} is still alive", self.pid);
    }

    /// The only child process.
    pub(crate) fn only_child(&self) -> Self {
        let pid = self.pid.as_raw_pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        Self::new(children.expect("it is alive").trim())
    }
}

// === impl Program ===

impl Program {
    /// Starts it with pipes for those standard streams that `command` says nothing of.
    pub(crate) fn start(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts it with a standard error that the test has the other end of.
    pub(crate) fn start_with_stderr(mut command: Command, stderr: impl Into<Stdio>) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr);
        Self::start_as_is(command)
    }

    /// Starts it with a standard output that the test has the other end of.
    #[cfg(feature = "json")]
    pub(crate) fn start_with_stdout(mut command: Command, stdout: impl Into<Stdio>) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(Stdio::piped());
        Self::start_as_is(command)
    }

    /// Starts it with a terminal as standard error, of which the test has the other end.
    pub(crate) fn start_on_terminal(command: Command, ours: File, theirs: OwnedFd) -> Self {
        let mut program = Self::start_with_stderr(command, theirs);
        // Lines end with `\r\n`, and the live line begins with `\r`.
        program.stderr = Lines::new(Some(ours), b'\r');
        program
    }

    fn start_as_is(mut command: Command) -> Self {
        // Only the message of a panic is looked at.
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

    /// That file of each of its threads of that name, as the kernel has it.
    pub(crate) fn files_of(&self, name: &str, file: &str) -> impl Iterator<Item = String> {
        let tasks = format!("/proc/{}/task", self.pid());
        let threads = std::fs::read_dir(tasks).expect("it is alive");
        let folders = threads.map(|thread| thread.expect("it is alive").path());
        let (name, file) = (format!("{name}\n"), file.to_owned());
        folders
            // One that has ended has no files.
            .filter(move |folder| {
                std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm == name)
            })
            .filter_map(move |folder| std::fs::read_to_string(folder.join(&file)).ok())
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Once.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("it was taken once")
    }

    /// The next line on standard output.
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

    /// The next line on standard error that holds `text`.
    #[track_caller]
    pub(crate) fn error_line(&mut self, text: &str) -> String {
        while let Some(line) = self.stderr.next() {
            if line.contains(text) {
                return line;
            }
        }
        panic!("no line with '{text}' in {:#?}", self.stderr.seen);
    }

    /// Waits for a line on standard error that holds `text`, if none has come yet.
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

    /// Waits for its end, and reads all it said.
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

    /// The signal, and the end.
    #[track_caller]
    pub(crate) fn stop(mut self, signal: Signal) -> Ended {
        self.signal(signal);
        self.end()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It has ended, or it must.
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

    /// All lines, those that were given out among them.
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

    /// From the last signal to the end.
    #[track_caller]
    pub(crate) fn assert_took_at_most(&self, limit: Duration) -> &Self {
        let took = self.took.expect("it was signalled");
        assert!(took <= limit, "{took:?}: {self:#?}");
        self
    }

    /// Everything on standard error, steady.
    pub(crate) fn errors(&self) -> String {
        steady_lines(&self.stderr)
    }

    /// The report on standard error, steady.
    #[track_caller]
    pub(crate) fn report(&self) -> String {
        let begin = self
            .stderr
            .iter()
            .position(|line| line.starts_with("headcount ") && line.contains(": stopping ("));
        let begin = begin.unwrap_or_else(|| panic!("no report: {self:#?}"));
        // A log that is slow comes after it.
        let lines = &self.stderr[begin..];
        let end = lines.iter().position(|line| line.starts_with("└─"));
        steady_lines(&lines[..=end.unwrap_or(lines.len() - 1)])
    }
}
