//! The processes between headcount and a command, which see to it that nothing of the command outlives headcount.
//!
//! ```text
//! headcount ── guardian ── keeper ── command ── whatever it starts
//! ```
//! Both are this binary again, as a child subreaper: whoever loses its parent below one becomes its child, also after a double fork or
//! `setsid`. The *keeper* runs the command and talks to headcount over its standard input; when that closes, it ends the whole tree. The
//! *guardian* only waits for the keeper, and kills what is left below if the keeper did not; the keeper in turn watches the guardian. So
//! nothing survives when any one of the three is killed with SIGKILL, nor headcount together with either. Two processes, because one that is
//! killed cannot clean up, and because headcount could not tell the orphans that it would adopt from children of its own.
//!
//! They are plain blocking code in one thread. They live in groups of their own, so that Ctrl-C on the terminal reaches headcount alone, and
//! take no notice of the signals that ask a process to end: headcount decides. What they cannot do: kill what the kernel does not let them
//! kill (another user's process, say by `sudo`), or outlive SIGKILL to all three at once.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::{Command, ExitCode},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{
        Pid, PidfdFlags, WaitOptions, getpid, getppid, pidfd_open, set_child_subreaper, setsid,
        waitpid,
    },
};
use signal_hook::consts::signal::{
    SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2,
};

use super::{
    exit::Exit,
    wire::{self, Notice, Order},
};

mod keeper;
mod tree;

/// Asked of both: to end only when their work is done.
const NOT_FOR_US: [i32; 7] = [SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// Where the guarding processes hear from headcount, from each other, and of the ends of children.
#[derive(Debug)]
struct Inbox {
    /// `None` once headcount closed its end.
    control: Option<UnixStream>,
    unread: Vec<u8>,
    children: UnixStream,
    /// The guardian, as the keeper sees it; `None` once it ended.
    guardian: Option<OwnedFd>,
}

/// Why a wait ended.
#[derive(Debug, PartialEq)]
enum Woken {
    Order(Order),
    /// Headcount or the guardian is gone.
    Abandoned,
}

/// Runs `headcount guardian NAME`, which only headcount itself calls.
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
        let why = format!("cannot guard a process on this machine: {error}");
        inbox.say(&Notice::Refused { why });
        inbox.say(&Notice::Empty);
    }
    ExitCode::SUCCESS
}

/// The guardian: starts the keeper and waits for it.
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
        match waitpid(pid, WaitOptions::empty()) {
            Ok(Some((_, status))) => break Exit::from(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    if exit != Exit::Code(0) {
        inbox.say(&Notice::KeeperLost { exit });
        tree::Tree::default().kill_until_empty(inbox);
        inbox.say(&Notice::Empty);
    }
    Ok(())
}

/// The keeper: runs the command, and ends with the last process of its tree.
fn keep(guardian: Pid, inbox: &mut Inbox) -> io::Result<()> {
    become_watcher()?;
    // No terminal to read a password from, and no group of headcount's session to join.
    setsid()?;
    // Before Linux 5.3 there is none: then headcount alone notices the guardian's end.
    inbox.guardian = pidfd_open(guardian, PidfdFlags::empty()).ok();
    if getppid() == Some(guardian) {
        keeper::keep(inbox);
    }
    Ok(())
}

fn become_watcher() -> io::Result<()> {
    for signal in NOT_FOR_US {
        // A handler, not SIG_IGN, which the command would inherit (execve(2)).
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    rustix::thread::set_name(c"guardian")?;
    set_child_subreaper(Some(getpid()))?;
    Ok(())
}

// === impl Inbox ===

impl Inbox {
    fn open() -> io::Result<Self> {
        let (children, wake) = UnixStream::pair()?;
        children.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGCHLD, wake)?;
        Ok(Self {
            control: Some(io::stdin().as_fd().try_clone_to_owned()?.into()),
            unread: Vec::new(),
            children,
            guardian: None,
        })
    }

    /// Tells headcount, which may be gone.
    fn say(&mut self, notice: &Notice) {
        if let Some(control) = &mut self.control {
            control.write_all(&wire::line(notice)).ok();
        }
    }

    /// Sleeps until somebody says something, a child ends, or `timeout`.
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

    /// Sleeps until a child ends, or `timeout`.
    fn wait_for_children(&mut self, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).ok();
        let mut children = [PollFd::new(&self.children, PollFlags::IN)];
        if poll(&mut children, timeout.as_ref()) == Ok(1) {
            self.forget_wakes();
        }
    }

    /// Which of the three has something: the ends of children, headcount, the guardian.
    fn poll(&self, timeout: Option<Duration>) -> [bool; 3] {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let sources = [
            Some(self.children.as_fd()),
            self.control.as_ref().map(AsFd::as_fd),
            self.guardian.as_ref().map(AsFd::as_fd),
        ];
        let mut fds: Vec<_> = sources
            .iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
            .collect();
        // An interrupted poll is followed by the wake that interrupted it.
        poll(&mut fds, timeout.as_ref()).ok();
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        sources.map(|source| source.is_some() && ready.next().unwrap_or_default())
    }

    fn forget_wakes(&mut self) {
        let mut wakes = [0; 64];
        while matches!(self.children.read(&mut wakes), Ok(1..)) {}
    }

    fn read_orders(&mut self, woken: &mut Vec<Woken>) {
        let mut buffer = [0; 4096];
        let read = match &mut self.control {
            Some(control) => control.read(&mut buffer),
            None => return,
        };
        match read {
            Ok(1..) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Ok(0) | Err(_) => {
                self.control = None;
                woken.push(Woken::Abandoned);
                return;
            }
        }
        self.unread.extend(&buffer[..read.unwrap_or_default()]);
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.unread.drain(..=end).collect();
            // Both ends are the same binary: what does not parse was not sent by headcount.
            woken.extend(serde_json::from_slice(&line).map(Woken::Order));
        }
    }
}
