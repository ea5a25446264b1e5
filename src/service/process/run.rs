//! One run of a command, as headcount sees it: its guardian, what that says, and what the command prints.

use std::{
    io::{self, Write},
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream as Socket},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    process::{Child, Command},
    time::timeout,
};

use super::{
    ProcessSettings, Ready,
    exit::Exit,
    output::Output,
    wire::{self, Notice, Order, Start},
};

/// For what is still in the pipes when nobody of the tree is left; longer only if somebody else was given one of them.
const LAST_OUTPUT_BUDGET: Duration = Duration::from_millis(250);
/// For the wait status of a guardian that has closed its socket.
const LAST_STATUS_BUDGET: Duration = Duration::from_secs(1);

/// How a guardian is started.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    /// A program that knows `guardian NAME`.
    pub(super) program: PathBuf,
}

/// A command with its guardian. Dropping it kills the whole tree at once.
#[derive(Debug)]
pub(super) struct Run {
    guardian: Child,
    guardian_exit: Option<Exit>,
    orders: Socket,
    notices: UnixStream,
    unread: Vec<u8>,
    outputs: [Output; 2],
    /// What a line must hold to make the process ready.
    needle: Option<String>,
}

/// What happened in a run.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Notice(Notice),
    /// A line held what makes the process ready.
    Line,
    /// The guardian was killed; the tree is being ended.
    GuardianLost(Exit),
    /// No process that guards this run is left: the last event.
    Closed,
}

// === impl Launcher ===

impl Default for Launcher {
    fn default() -> Self {
        Self {
            // Also right when the file was replaced or deleted since (proc_pid_exe(5)).
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

// === impl Run ===

impl Run {
    /// Starts a guardian, and orders it to start the command.
    pub(super) async fn launch(
        launcher: &Launcher,
        name: &str,
        settings: &ProcessSettings,
    ) -> io::Result<Self> {
        let (ours, theirs) = Socket::pair()?;
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        // The command holds the guardian's ends, so it must not live longer than this statement.
        let guardian = Command::new(&launcher.program)
            .arg0("headcount")
            .args(["guardian", name])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(their_stdout)
            .stderr(their_stderr)
            // Ctrl-C on the terminal is for headcount alone.
            .process_group(0)
            .spawn()?;
        ours.set_nonblocking(true)?;
        let mut run = Self {
            guardian,
            guardian_exit: None,
            orders: ours.try_clone()?,
            notices: UnixStream::from_std(ours)?,
            unread: Vec::new(),
            outputs: [
                Output::new(name, "stdout", stdout)?,
                Output::new(name, "stderr", stderr)?,
            ],
            needle: match &settings.ready {
                Ready::Log(needle) => Some(needle.clone()),
                _ => None,
            },
        };
        let start = wire::line(&Order::Start(start(settings)));
        // An error says that the guardian has ended, which `next` tells better.
        run.notices.write_all(&start).await.ok();
        Ok(run)
    }

    /// The stop signal to the whole tree, and SIGKILL when the stop budget is over.
    pub(super) fn stop(&self) {
        self.tell(&Order::Stop);
    }

    /// SIGKILL to the whole tree.
    pub(super) fn kill(&self) {
        self.tell(&Order::Kill);
    }

    /// Waits for what happens next, and forwards output meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is lost, except that the last output after `Closed` may be.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.unread.drain(..=end).collect();
                if let Ok(notice) = serde_json::from_slice(&line) {
                    return Event::Notice(notice);
                }
                continue;
            }
            let [stdout, stderr] = &mut self.outputs;
            let needle = self.needle.as_deref();
            tokio::select! {
                ready = self.notices.readable() => {
                    if ready.is_err() || !self.read() {
                        return self.finish().await;
                    }
                }
                () = stdout.forward(needle) => return self.line_found(),
                () = stderr.forward(needle) => return self.line_found(),
                status = self.guardian.wait(), if self.guardian_exit.is_none() => {
                    if let Some(lost) = self.guardian_ended(status) {
                        return Event::GuardianLost(lost);
                    }
                }
            }
        }
    }

    fn line_found(&mut self) -> Event {
        self.needle = None;
        Event::Line
    }

    /// Takes what the guardian said; false at the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.notices.try_read(&mut buffer) {
            Ok(length @ 1..) => {
                self.unread.extend(&buffer[..length]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(0) => false,
        }
    }

    fn guardian_ended(&mut self, status: io::Result<std::process::ExitStatus>) -> Option<Exit> {
        let exit = status.map_or(Exit::Code(0), Exit::from);
        self.guardian_exit = Some(exit);
        if exit == Exit::Code(0) {
            return None;
        }
        // Where the keeper cannot see the guardian's end, it sees this.
        self.orders.shutdown(Shutdown::Write).ok();
        Some(exit)
    }

    /// After the last notice: forwards the last output, and tells how the guardian ended if nobody knows yet.
    async fn finish(&mut self) -> Event {
        let [stdout, stderr] = &mut self.outputs;
        let both = async { tokio::join!(stdout.finish(), stderr.finish()) };
        timeout(LAST_OUTPUT_BUDGET, both).await.ok();
        stdout.flush();
        stderr.flush();
        if self.guardian_exit.is_none() {
            // Reaps it; the runtime does so later if this is too early.
            let status = timeout(LAST_STATUS_BUDGET, self.guardian.wait()).await;
            if let Some(lost) = status.ok().and_then(|status| self.guardian_ended(status)) {
                return Event::GuardianLost(lost);
            }
        }
        Event::Closed
    }

    fn tell(&self, order: &Order) {
        // The socket's buffer holds hundreds of these; an error says that the guardian has ended.
        (&self.orders).write_all(&wire::line(order)).ok();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(settings: &ProcessSettings) -> Start {
    Start {
        command: settings.command.clone(),
        env: settings.env.clone(),
        working_folder: settings.working_folder.clone(),
        stop_signal: settings.stop_signal,
        stop_budget: settings.stop_budget,
    }
}
