//! Headcount's side of one run of a command: the guardian process, its notices, and the command's
//! output.
//!
//! The output comes through two pipes, the notices through a socket. [`Run::next`] reads all three
//! and turns them into [`Event`]s. This module starts and stops; it does not decide when.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as Socket,
    },
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::UnixStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use super::{
    ProcessSettings, Ready,
    children::{Helpers, Strangers},
    exit::Exit,
    group::Group,
    guardian, mark,
    output::{Output, Sink},
    wire::{self, Notice, Order, Start},
};
use crate::service::own_limit;

/// The longest time for forwarding what is still in the pipes when no process of the tree is left.
/// It is used up only if a process outside of the tree holds one of the pipes open.
const LAST_OUTPUT_BUDGET: Duration = Duration::from_millis(250);
/// The longest wait for the exit status of a guardian that has closed its socket.
const LAST_STATUS_BUDGET: Duration = Duration::from_secs(1);

/// The longest time for killing what is left of a tree that has lost both helper processes.
const STRAYS_BUDGET: Duration = Duration::from_secs(5);
/// The pause between two looks for what is left. Two in a row must find nothing.
const STRAYS_LOOK: Duration = Duration::from_millis(10);

/// The way to start a guardian.
#[derive(Debug, Clone)]
pub(super) struct Launcher {
    /// A program that implements the arguments `guardian NAME`. By default, this one.
    pub(super) program: PathBuf,
    /// The guardians that it has started.
    pub(super) helpers: Helpers,
}

/// A running command with its guardian.
///
/// Dropping it orders the keeper to kill the whole tree at once, and does not wait.
#[derive(Debug)]
pub(super) struct Run {
    guardian: Child,
    /// The pids of the guardian and of the keeper, as far as they are known, in `helpers`.
    pids: Vec<u32>,
    helpers: Helpers,
    /// The children of headcount that were there before the run.
    before: Arc<Strangers>,
    /// The control group of the run, if it has one.
    group: Option<Group>,
    /// True once the keeper has said that the command is started in that group.
    is_grouped: bool,
    /// The guardian's exit status, once it has been reaped.
    guardian_exit: Option<Exit>,
    /// The socket to the keeper. It is nonblocking, so orders are written without an await.
    socket: UnixStream,
    /// Bytes of notices that do not make up a line yet.
    unread: Vec<u8>,
    /// Standard output and standard error.
    outputs: [Output; 2],
    /// The text that makes the process ready when a line contains it. `None` once it was found, or
    /// if readiness does not depend on the output.
    needle: Option<String>,
}

/// An event in a run.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    /// The guardian or the keeper sent a notice.
    Notice(Notice),
    /// A line contained the text that makes the process ready. Occurs at most once.
    Line,
    /// The guardian was killed or exited with an error. The keeper is ending the tree.
    GuardianLost(Exit),
    /// Both helper processes of this run have ended. This is the last event.
    Closed,
}

// === impl Launcher ===

impl Default for Launcher {
    fn default() -> Self {
        Self {
            // Works even if the executable was replaced or deleted meanwhile (proc_pid_exe(5)).
            program: PathBuf::from("/proc/self/exe"),
            helpers: Helpers::default(),
        }
    }
}

// === impl Run ===

impl Run {
    /// Starts a guardian and sends the order to start the command.
    ///
    /// `sink` takes the output of all runs of the process.
    ///
    /// # Errors
    /// The error of creating the sockets and pipes or of starting the guardian. A command that
    /// cannot be started is not an error here: [`Self::next`] returns [`Notice::Refused`].
    pub(super) async fn launch(
        launcher: &Launcher,
        name: &str,
        settings: &ProcessSettings,
        sink: &Arc<Sink>,
    ) -> io::Result<Self> {
        let (ours, theirs) = Socket::pair()?;
        let (stdout, their_stdout) = io::pipe()?;
        let (stderr, their_stderr) = io::pipe()?;
        let before = Arc::new(launcher.helpers.strangers());
        let mark = launcher.helpers.mark();
        let of_helper = mark.as_deref().map(mark::of_helper);
        // `Command` holds the guardian's ends of the pipes. It is dropped with this statement, so
        // that the pipes reach their end when the tree is gone.
        let guardian = launcher.helpers.spawn(
            Command::new(&launcher.program)
                .arg0("headcount")
                .args(["guardian", name])
                .envs(of_helper.map(|mark| (mark::VARIABLE, mark)))
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(their_stdout)
                .stderr(their_stderr)
                // Ctrl-C in the terminal must reach headcount only.
                .process_group(0),
        )?;
        ours.set_nonblocking(true)?;
        let mut run = Self {
            pids: guardian.id().into_iter().collect(),
            helpers: launcher.helpers.clone(),
            before,
            guardian,
            group: launcher.helpers.group(),
            is_grouped: false,
            guardian_exit: None,
            socket: UnixStream::from_std(ours)?,
            unread: Vec::new(),
            outputs: [
                Output::new(sink, "stdout", stdout)?,
                Output::new(sink, "stderr", stderr)?,
            ],
            needle: match &settings.ready {
                Ready::Log(needle) => Some(needle.clone()),
                _ => None,
            },
        };
        let mut start = start(settings, mark);
        start.group.clone_from(&run.group);
        let start = wire::line(&Order::Start(start));
        // An error means that the guardian has ended; `next` reports that with its exit status.
        run.socket.write_all(&start).await.ok();
        Ok(run)
    }

    /// Returns the pid of the keeper, once it has begun.
    pub(super) fn keeper(&self) -> Option<u32> {
        self.pids.get(1).copied()
    }

    /// Orders the stop signal, and SIGKILL when the stop budget has elapsed.
    /// Does not wait.
    pub(super) fn stop(&self) {
        self.tell(&Order::Stop);
    }

    /// Orders SIGKILL for the whole tree. Does not wait.
    pub(super) fn kill(&self) {
        self.tell(&Order::Kill);
    }

    /// Waits for the next event, and forwards output meanwhile.
    ///
    /// Output that is still in the pipes 250 ms after the helper processes have ended is dropped.
    ///
    /// # Cancel safety
    /// No event and no output is lost if `next` is called again.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.unread.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Notice::Keeping { pid }) => {
                        self.helpers.note(pid);
                        self.pids.push(pid);
                    }
                    Ok(Notice::Grouped) => self.is_grouped = true,
                    Ok(notice) => return Event::Notice(notice),
                    Err(_) => {}
                }
                continue;
            }
            let [stdout, stderr] = &mut self.outputs;
            let needle = self.needle.as_deref();
            tokio::select! {
                ready = self.socket.readable() => {
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

    /// Stops looking for the text that makes the process ready.
    fn line_found(&mut self) -> Event {
        self.needle = None;
        Event::Line
    }

    /// Reads notices into `unread`. Returns false at the end of the stream or after an error.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 4096];
        match self.socket.try_read(&mut buffer) {
            Ok(length @ 1..) => {
                self.unread.extend(&buffer[..length]);
                true
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(0) => false,
        }
    }

    /// Records the guardian's exit status, and returns it if it is not a success.
    fn guardian_ended(&mut self, status: io::Result<std::process::ExitStatus>) -> Option<Exit> {
        let exit = status.map_or(Exit::Unknown, Exit::from);
        self.guardian_exit = Some(exit);
        if exit == Exit::Code(0) {
            return None;
        }
        // Before Linux 5.3 the keeper cannot watch the guardian. It ends the tree on end of file.
        // The duplicate is closed at once; the shutdown is of the socket.
        if let Ok(duplicate) = self.socket.as_fd().try_clone_to_owned() {
            Socket::from(duplicate).shutdown(Shutdown::Write).ok();
        }
        Some(exit)
    }

    /// Forwards the last output and reaps the guardian, after the end of the notices.
    ///
    /// Returns [`Event::GuardianLost`] if the guardian was lost and no event has said so yet. The
    /// next call then returns [`Event::Closed`].
    async fn finish(&mut self) -> Event {
        let [stdout, stderr] = &mut self.outputs;
        let both = async { tokio::join!(stdout.finish(), stderr.finish()) };
        timeout(LAST_OUTPUT_BUDGET, both).await.ok();
        stdout.flush();
        stderr.flush();
        if self.guardian_exit.is_none() {
            // This also reaps the guardian. If it is still alive, tokio reaps it later.
            let status = timeout(LAST_STATUS_BUDGET, self.guardian.wait()).await;
            if let Some(lost) = status.ok().and_then(|status| self.guardian_ended(status)) {
                return Event::GuardianLost(lost);
            }
        }
        Event::Closed
    }

    /// Ends what is left of the tree after both helper processes were lost, and returns the names of
    /// what had to be killed. `None` if it cannot be known that nothing is left.
    ///
    /// It takes at most [`STRAYS_BUDGET`].
    pub(super) async fn end_strays(&mut self) -> Option<Vec<String>> {
        // The children of a process pass to the next subreaper before its parent can wait for it.
        self.guardian_exit?;
        // A keeper that has closed its socket and is still alive is a stray too.
        let lost = self.pids.clone();
        self.forget_helpers();
        let begun = Instant::now();
        let mut names: Vec<String> = Vec::new();
        let group = self.group.as_ref().filter(|_| self.is_grouped);
        let mut was_empty = false;
        loop {
            let grouped = guardian::living(group.map(Group::members).unwrap_or_default());
            if let Some(group) = group {
                group.kill();
            }
            let look = self.helpers.kill_strays(&self.before, &lost);
            let look = timeout(STRAYS_BUDGET, look).await.ok()?;
            let is_empty = match (group, &look) {
                // Nothing can come to an empty group.
                (Some(group), look) => {
                    was_empty = true;
                    group.is_empty() && look.as_ref().is_none_or(|look| !look.has_strays)
                }
                (None, Some(look)) => !look.has_strays && !look.is_unclear,
                (None, None) => return None,
            };
            // The children of one that ended during a look may have come to headcount after it.
            if is_empty && was_empty {
                return Some(names);
            }
            was_empty = is_empty;
            let strays = look.map(|look| look.killed).unwrap_or_default();
            for name in grouped.into_iter().chain(strays) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            if begun.elapsed() > STRAYS_BUDGET {
                return None;
            }
            sleep(STRAYS_LOOK).await;
        }
    }

    /// Forgets the helper processes of this run. Those that still end are reaped as others are.
    fn forget_helpers(&mut self) {
        for pid in self.pids.drain(..) {
            self.helpers.forget(pid);
        }
    }

    /// Sends an order without waiting.
    fn tell(&self, order: &Order) {
        // The socket's buffer has room for hundreds of orders, so an error means that the helper
        // processes have ended.
        rustix::io::write(&self.socket, &wire::line(order)).ok();
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.kill();
        self.forget_helpers();
        if let Some(group) = &self.group {
            group.remove();
        }
    }
}

/// Returns the part of the settings that the keeper needs. The mark is added to the environment.
fn start(settings: &ProcessSettings, mark: Option<String>) -> Start {
    let mut env = settings.env.clone();
    env.extend(mark.map(|mark| (mark::VARIABLE.to_owned(), mark)));
    Start {
        command: settings.command.clone(),
        env,
        working_folder: settings.working_folder.clone(),
        stop_signal: settings.stop_signal,
        stop_signal_to: settings.stop_signal_to,
        stop_budget: settings.stop_budget,
        file_limit: own_limit::files_of_commands(),
        group: None,
    }
}
