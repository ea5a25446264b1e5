//! The two helper processes between headcount and a command, which ensure that nothing the command
//! started outlives headcount.
//!
//! ```text
//! headcount ── guardian ── keeper ── command ── its descendants
//! ```
//! Both helpers run this binary, and each is a child subreaper (prctl(2)): when a process below it
//! loses its parent, it becomes the subreaper's child, even after a double fork or `setsid`.
//!
//! - The *keeper* runs the command. It receives orders and sends notices over its standard input, a
//!   socket to headcount. When the socket reaches its end, or the guardian ends, the keeper ends
//!   the whole tree.
//! - The *guardian* only waits for the keeper. If the keeper is lost, the guardian kills what is
//!   left below.
//!
//! So nothing survives when any one of headcount, guardian and keeper is killed with SIGKILL, or
//! headcount together with one of the others. There are two helpers because a killed process cannot
//! clean up. When both are killed, the kernel kills the command, since its parent has ended, and
//! headcount adopts and kills the rest ([`super::children`]), or all of its control group if it has one
//! ([`super::group`]). When headcount is killed too, the next
//! run finds the rest by its mark ([`super::mark`]).
//!
//! A helper that is stopped (SIGSTOP) guards nothing. The guardian kills a keeper that is stopped, and
//! headcount a guardian; without headcount, the keeper does so when its work is done.
//!
//! The helpers are blocking code in one thread. Each leads its own process group, so that Ctrl-C in
//! the terminal reaches headcount only. They ignore the signals that ask a process to end, because
//! headcount decides when they end.
//!
//! The limits: they cannot kill a process that the kernel does not let them kill, for example one
//! that runs as another user through `sudo`. If all three are killed at once, what the command has
//! started survives until the next run.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, ExitCode},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, getpid, getppid, kill_process, pidfd_open,
        set_child_subreaper, setsid, waitpid,
    },
};
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::{
    exit::Exit,
    wire::{self, Notice, Order},
};
use crate::service::own_limit;
use crate::service::signals::{self, MEANINGLESS};

mod keeper;
mod tree;

pub(super) use tree::{children, describe, is_stopped, kill_trees, living, parent_of, started_at};

/// The signals that ask a process to stop or to dump. Both helpers disregard them, so that they end
/// only when their work is done.
const FOR_HEADCOUNT: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// The event sources of a helper process: headcount, the ends of children, and the guardian.
#[derive(Debug)]
struct Inbox {
    /// The socket to headcount.
    control: UnixStream,
    /// False once headcount has closed its end for writing or a read has failed. It may still read:
    /// it closes only that end when it has lost the guardian.
    hears: bool,
    /// Bytes of orders that do not make up a line yet.
    unread: Vec<u8>,
    /// The nonblocking reading end of a socket pair. The SIGCHLD handler writes to the other end.
    children: UnixStream,
    /// In the keeper, a pidfd of the guardian; `None` once the guardian has ended, and before Linux
    /// 5.3. Always `None` in the guardian itself.
    guardian: Option<OwnedFd>,
}

/// An event that the keeper must handle.
#[derive(Debug, PartialEq)]
enum Woken {
    /// Headcount sent an order.
    Order(Order),
    /// Headcount or the guardian is gone.
    Abandoned,
}

/// Runs `headcount guardian NAME`, which headcount starts for each run of a process. It is not
/// meant to be called by users.
///
/// `args` are the arguments after `guardian`: the name of the process, and for the second of the
/// two helper processes also the pid of the first. Standard input must be a Unix socket to
/// headcount. The function blocks until the command and all of its descendants have ended.
///
/// The exit code is 2 if the process cannot be set up to receive messages. Other errors are sent to
/// headcount over the socket, and the exit code is 0.
pub fn guardian_main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let name = args.next().unwrap_or_default();
    let guardian = args.next().and_then(|pid| pid.to_str()?.parse().ok());
    let Ok(mut inbox) = Inbox::open() else {
        return ExitCode::from(2);
    };
    let outcome = match guardian.and_then(Pid::from_raw) {
        None => guard(&name, &mut inbox),
        Some(guardian) => keep(guardian, &mut inbox),
    };
    if let Err(error) = outcome {
        let why = format!("cannot set up the helper processes: {error}");
        let own_limit = own_limit::is_cause_of_start(&error);
        inbox.say(&Notice::Refused { why, own_limit });
        inbox.say(&Notice::Empty);
    }
    ExitCode::SUCCESS
}

/// Runs the guardian: starts the keeper, waits for it, and kills what is left if the keeper was
/// killed or failed.
fn guard(name: &OsString, inbox: &mut Inbox) -> io::Result<()> {
    become_watcher()?;
    let keeper = Command::new("/proc/self/exe")
        .arg0("headcount")
        .arg("guardian")
        .arg(name)
        .arg(getpid().as_raw_pid().to_string())
        .spawn()?;
    let pid = i32::try_from(keeper.id()).ok().and_then(Pid::from_raw);
    let exit = loop {
        match waitpid(pid, WaitOptions::UNTRACED) {
            Ok(Some((keeper, status))) if status.stopped() => {
                // It may have been continued and ended.
                kill_process(keeper, Signal::KILL).ok();
            }
            Ok(Some((_, status))) => break Exit::from(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if exit != Exit::Code(0) {
        inbox.say(&Notice::KeeperLost { exit });
        tree::Tree::default().kill_until_empty(true, inbox);
        inbox.say(&Notice::Empty);
    }
    Ok(())
}

/// Runs the keeper: starts the command, and returns after the end of the last process of its tree.
fn keep(guardian: Pid, inbox: &mut Inbox) -> io::Result<()> {
    become_watcher()?;
    // A new session: the command has no terminal to read a password from, and cannot join a process
    // group of headcount's session.
    setsid()?;
    // Before Linux 5.3 there are no pidfds. Headcount then notices the end of the guardian and
    // closes the socket.
    inbox.guardian = pidfd_open(guardian, PidfdFlags::empty()).ok();
    // If the guardian ended before the pidfd was opened, the pid may belong to another process.
    if getppid() == Some(guardian) {
        inbox.say(&Notice::Keeping {
            pid: getpid().as_raw_pid().unsigned_abs(),
        });
        keeper::keep(inbox);
    }
    if getppid() == Some(guardian) && is_stopped(guardian) {
        // It would never end, and headcount may be gone.
        kill_process(guardian, Signal::KILL).ok();
    }
    Ok(())
}

/// Makes this process disregard signals, names its thread, and makes it a child subreaper.
fn become_watcher() -> io::Result<()> {
    signals::disregard(&FOR_HEADCOUNT)?;
    signals::disregard(&MEANINGLESS)?;
    rustix::thread::set_name(c"guardian")?;
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}

// === impl Inbox ===

impl Inbox {
    /// Takes a duplicate of standard input as the socket to headcount, and registers for SIGCHLD.
    fn open() -> io::Result<Self> {
        let (children, wake) = UnixStream::pair()?;
        children.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, wake)?;
        Ok(Self {
            control: io::stdin().as_fd().try_clone_to_owned()?.into(),
            hears: true,
            unread: Vec::new(),
            children,
            guardian: None,
        })
    }

    /// Sends a notice to headcount. Does nothing if headcount is gone.
    fn say(&mut self, notice: &Notice) {
        self.control.write_all(&wire::line(notice)).ok();
    }

    /// Waits for an order, the end of headcount, of the guardian or of a child, or for `timeout`.
    ///
    /// Returns the orders and the end of headcount or the guardian. The list is empty after the end
    /// of a child, after the timeout, and when a signal interrupts the wait.
    fn wait(&mut self, timeout: Option<Duration>) -> Vec<Woken> {
        let mut woken = Vec::new();
        let [children, control, guardian] = self.poll(timeout);
        if children {
            self.forget_wakes();
        }
        if control {
            self.read_orders(&mut woken);
        }
        if guardian {
            self.guardian = None;
            woken.push(Woken::Abandoned);
        }
        woken
    }

    /// Waits until a child ends, or for `timeout`. Leaves orders unread.
    fn wait_for_children(&mut self, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).ok();
        let mut children = [PollFd::new(&self.children, PollFlags::IN)];
        if poll(&mut children, timeout.as_ref()) == Ok(1) {
            self.forget_wakes();
        }
    }

    /// Waits until a source is readable, and returns which ones are: children, headcount, guardian.
    fn poll(&self, timeout: Option<Duration>) -> [bool; 3] {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let sources = [
            Some(self.children.as_fd()),
            self.hears.then(|| self.control.as_fd()),
            self.guardian.as_ref().map(AsFd::as_fd),
        ];
        let mut fds: Vec<_> = sources
            .iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        // A poll that SIGCHLD interrupts reports nothing. The handler has made `children` readable,
        // so the next poll returns at once.
        poll(&mut fds, timeout.as_ref()).ok();
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        sources.map(|source| source.is_some() && ready.next().unwrap_or_default())
    }

    /// Discards what the handler of SIGCHLD has written.
    fn forget_wakes(&mut self) {
        let mut wakes = [0; 64];
        while matches!(self.children.read(&mut wakes), Ok(1..)) {}
    }

    /// Reads from headcount once, and adds the orders that are complete, or the end.
    fn read_orders(&mut self, woken: &mut Vec<Woken>) {
        let mut buffer = [0; 4096];
        let read = self.control.read(&mut buffer);
        match read {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Ok(0) | Err(_) => {
                self.hears = false;
                woken.push(Woken::Abandoned);
                return;
            }
        }
        self.unread.extend(&buffer[..read.unwrap_or_default()]);
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.unread.drain(..=end).collect();
            // Both ends are the same binary, so a line that does not parse is not from headcount.
            // It is ignored.
            woken.extend(serde_json::from_slice(&line).map(Woken::Order));
        }
    }
}
