//! The tree of processes below a guardian: who is in it, signals to all of it, and when it is empty.
//!
//! The calling process must be a child subreaper: then every process below it, however it was forked or detached, is its child or has a
//! parent that is below it, and becomes its child when that parent ends. So *no child left* is *nobody left*, without a race: that is the
//! only proof of emptiness used here. Walking `/proc` only says whom to signal; what a walk misses, the next one finds.
//!
//! A pid is signalled only when it cannot have been given to somebody else: the leader and other children of this process hold theirs until
//! they are reaped here; for the rest a pidfd is opened first and the parent read again.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, getpgid, getpid, kill_process,
        kill_process_group, pidfd_open, pidfd_send_signal, setpriority_process, wait, waitid,
        waitpid,
    },
};

use super::Inbox;
use crate::service::process::{exit::Exit, wire::Notice};

/// How often a freeze looks for processes that were born meanwhile, before it kills anyhow.
const FREEZE_ROUNDS: u32 = 100;
/// A killed process that is not gone after this long is reported.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// The descendants of this process.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The command, also its process group's id; held as a zombie once it ended, so that the number stays its own.
    leader: Option<Pid>,
    leader_exit: Option<Exit>,
}

/// A process of the tree, and the parent under which it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    pid: Pid,
    parent: Pid,
}

// === impl Tree ===

impl Tree {
    pub(super) fn led_by(leader: Pid) -> Self {
        Self {
            leader: Some(leader),
            leader_exit: None,
        }
    }

    /// Reaps what ended, except the leader, and says how the leader ended.
    pub(super) fn reap(&mut self) -> Option<Exit> {
        if let (Some(leader), None) = (self.leader, self.leader_exit) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            if let Ok(Some(status)) = waitid(WaitId::Pid(leader), options) {
                self.leader_exit = Some(status.into());
            }
        }
        let me = getpid();
        for child in members().filter(|member| member.parent == me) {
            if Some(child.pid) != self.leader {
                // Not a child any more, or alive: both are fine.
                waitpid(Some(child.pid), WaitOptions::NOHANG).ok();
            }
        }
        self.leader_exit
    }

    /// Whether nothing of the tree is left, not even a zombie. The leader is let go when it is the last.
    pub(super) fn is_empty(&mut self) -> bool {
        self.reap();
        if let Some(leader) = self.leader {
            if self.leader_exit.is_none() || members().any(|member| member.pid != leader) {
                return false;
            }
            waitpid(Some(leader), WaitOptions::NOHANG).ok();
            self.leader = None;
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Err(Errno::CHILD) => return true,
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return false,
            }
        }
    }

    /// Sends `signal` to the leader's group, and to every process of the tree that left that group.
    pub(super) fn signal(&self, signal: Signal) {
        let escaped: Vec<_> = members()
            .filter(|member| getpgid(Some(member.pid)).ok() != self.leader || self.leader.is_none())
            .collect();
        self.signal_group(signal);
        for member in escaped {
            member.signal(signal).ok();
        }
    }

    /// Kills every process of the tree that can be found.
    ///
    /// They are stopped before the first is killed: a tree that forks at its limit would fill every place that a death makes free. 600
    /// processes that each forked and left their session did so for ever, and were dead within half a minute with the stop.
    fn kill(&self) {
        self.signal_group(Signal::KILL);
        let mut stopped = HashSet::new();
        for _ in 0..FREEZE_ROUNDS {
            let fresh: Vec<_> = members()
                .filter(|member| stopped.insert(member.pid))
                .collect();
            if fresh.is_empty() {
                break;
            }
            for member in fresh {
                member.signal(Signal::STOP).ok();
            }
        }
        for member in members() {
            member.signal(Signal::KILL).ok();
        }
    }

    /// Kills until nobody is left, however long that takes; who does not die is said once.
    pub(super) fn kill_until_empty(&mut self, inbox: &mut Inbox) {
        // Among hundreds of processes that fork, the one that stops them must not wait for its turn; only root may do this.
        setpriority_process(None, -20).ok();
        let started = Instant::now();
        let mut exit_said = self.leader_exit.is_some();
        let mut late = false;
        loop {
            let empty = self.is_empty();
            if let (false, Some(exit)) = (exit_said, self.leader_exit) {
                exit_said = true;
                inbox.say(&Notice::Exited { exit });
            }
            if empty {
                return;
            }
            self.kill();
            if !late && started.elapsed() > KILL_PATIENCE {
                late = true;
                let processes = members().map(Member::describe).collect();
                inbox.say(&Notice::Unkillable { processes });
            }
            // A death wakes it earlier.
            inbox.wait_for_children(Duration::from_millis(if late { 500 } else { 10 }));
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // The leader is not reaped, so the number is still this group's.
            kill_process_group(leader, signal).ok();
        }
    }
}

// === impl Member ===

impl Member {
    /// Signals the process, and never another one that was given its pid meanwhile.
    fn signal(self, signal: Signal) -> rustix::io::Result<()> {
        if self.parent == getpid() {
            // Only this process can reap it, so the pid is still its own.
            return kill_process(self.pid, signal);
        }
        match pidfd_open(self.pid, PidfdFlags::empty()) {
            Ok(process) if parent_of(self.pid) == Some(self.parent) => {
                pidfd_send_signal(process, signal)
            }
            Ok(_) => Err(Errno::SRCH),
            // Before Linux 5.3: the parent was read just before.
            Err(Errno::NOSYS) => kill_process(self.pid, signal),
            Err(error) => Err(error),
        }
    }

    fn describe(self) -> String {
        let pid = self.pid.as_raw_pid();
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{} (pid {pid})", String::from_utf8_lossy(&name).trim_end())
    }
}

/// Everybody below this process, parents before their children.
fn members() -> impl Iterator<Item = Member> {
    by_children_files()
        .unwrap_or_else(|_| by_parents())
        .into_iter()
}

/// The quick way, which a kernel may lack (`CONFIG_PROC_CHILDREN`): a process that forks, detaches and ends in a circle is caught by being
/// quicker than its circle.
fn by_children_files() -> io::Result<Vec<Member>> {
    let me = getpid();
    Ok(below(children_of(me, me)?))
}

/// `found`, and everybody below.
fn below(mut found: Vec<Member>) -> Vec<Member> {
    let mut next = 0;
    while let Some(&Member { pid, .. }) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid())) else {
            continue;
        };
        for thread in threads.flatten() {
            if let Some(thread) = thread.file_name().to_str().and_then(parse_pid) {
                found.extend(children_of(pid, thread).unwrap_or_default());
            }
        }
    }
    found
}

fn children_of(parent: Pid, thread: Pid) -> io::Result<Vec<Member>> {
    let (process, thread) = (parent.as_raw_pid(), thread.as_raw_pid());
    let children = fs::read_to_string(format!("/proc/{process}/task/{thread}/children"))?;
    let pids = children.split_ascii_whitespace().filter_map(parse_pid);
    Ok(pids.map(|pid| Member { pid, parent }).collect())
}

/// The way that every kernel has: the parents of all processes of the machine.
fn by_parents() -> Vec<Member> {
    let mut children: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(parse_pid) else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent.as_raw_pid()).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut parents = vec![getpid()];
    while let Some(parent) = parents.pop() {
        let pids = children.remove(&parent.as_raw_pid()).unwrap_or_default();
        parents.extend(&pids);
        found.extend(pids.into_iter().map(|pid| Member { pid, parent }));
    }
    found
}

fn parent_of(pid: Pid) -> Option<Pid> {
    // `pid (name) state ppid …`; the name may hold spaces, brackets and any byte (proc_pid_stat(5)).
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name
        .split_ascii_whitespace()
        .nth(1)
        .and_then(parse_pid)
}

fn parse_pid(text: &str) -> Option<Pid> {
    // `Pid` takes no negative number.
    let number = text.parse::<u32>().ok()?;
    Pid::from_raw(i32::try_from(number).ok()?)
}

#[cfg(test)]
mod tests;
