//! The process tree below a guardian or keeper: finding its members, signalling all of them, and
//! detecting that it is empty.
//!
//! The calling process must be a child subreaper. Then every process below it, however it was
//! forked or detached, is its child, or has a parent below it and becomes its child when that
//! parent ends. So the tree is empty exactly when this process has no children. That is free of
//! races, and the only test for emptiness used here. A walk through `/proc` only finds the
//! processes to signal; the next walk finds what one walk misses.
//!
//! A pid is signalled only if it cannot have been reused. The leader and the other children of this
//! process keep their pids until they are reaped here. For other processes, a pidfd is opened first
//! and the parent is read again. Before Linux 5.3 there are no pidfds, and a small race remains.

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
use crate::service::process::{exit::Exit, group::Group, wire::Notice};

/// The most walks that one [`Tree::kill`] makes to stop new processes before it kills regardless.
const FREEZE_ROUNDS: u32 = 100;
/// The places of fields in `/proc/PID/stat`, counted from the one after the name.
const STATE: usize = 0;
const PARENT: usize = 1;
const START: usize = 19;
/// The most processes that a notice describes.
const LISTED: usize = 20;
/// The time after the first SIGKILL at which remaining processes are reported.
const KILL_PATIENCE: Duration = Duration::from_secs(1);

/// All descendants of this process.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The pid of the command, which is also the id of its process group. After it ends, it is kept
    /// as a zombie so that the number is not reused. `None` in the guardian, and once it is reaped.
    leader: Option<Pid>,
    /// The exit status of the command.
    leader_exit: Option<Exit>,
    /// The control group that the command was started in. This process is not in it.
    group: Option<Group>,
}

/// A process of the tree, with the parent that it had when it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Member {
    pid: Pid,
    parent: Pid,
}

// === impl Tree ===

impl Tree {
    /// Returns the tree of a command, which must be a child of this process and lead a group.
    pub(super) fn led_by(leader: Pid, group: Option<Group>) -> Self {
        Self {
            leader: Some(leader),
            leader_exit: None,
            group,
        }
    }

    /// Reaps the children that have ended, except for the leader, and returns the exit status of
    /// the leader if it has ended.
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
                // It may be alive, or no longer a child.
                waitpid(Some(child.pid), WaitOptions::NOHANG).ok();
            }
        }
        self.leader_exit
    }

    /// Returns true if no process of the tree is left, not even a zombie. Reaps the leader once it
    /// is the last one.
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

    /// Sends `signal` once to every process of the tree: to the leader's group, and to the
    /// processes found outside of that group.
    pub(super) fn signal(&self, signal: Signal) {
        let escaped: Vec<_> = members()
            .filter(|member| getpgid(Some(member.pid)).ok() != self.leader || self.leader.is_none())
            .collect();
        self.signal_group(signal);
        for member in escaped {
            member.signal(signal).ok();
        }
    }

    /// Sends `signal` to the leader, unless it has been reaped.
    pub(super) fn signal_leader(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // It has not been reaped, so the pid still belongs to it.
            kill_process(leader, signal).ok();
        }
    }

    /// Kills every process of the tree that it finds.
    ///
    /// A control group is killed as a whole; the rest is for what is outside of it.
    ///
    /// After the leader's group it stops all other processes with SIGSTOP before it kills the first
    /// one. Otherwise a tree that forks at its process limit refills each slot that a death frees:
    /// 600 processes that each forked and left their session survived for ever without the stop,
    /// and were dead within half a minute with it.
    fn kill(&self) {
        if let Some(group) = &self.group {
            group.kill();
        }
        self.signal_group(Signal::KILL);
        stop_all(members);
        for member in members() {
            member.signal(Signal::KILL).ok();
        }
    }

    /// Kills until the tree is empty, however long that takes.
    ///
    /// Sends [`Notice::Killed`] first if `tells` is true, [`Notice::Exited`] if the leader ends
    /// meanwhile, and [`Notice::Unkillable`] once if processes are left after [`KILL_PATIENCE`].
    pub(super) fn kill_until_empty(&mut self, tells: bool, inbox: &mut Inbox) {
        // This process must get the CPU even among hundreds of processes that fork. Only a
        // privileged process may raise its priority; the error is ignored.
        setpriority_process(None, -20).ok();
        let started = Instant::now();
        let mut exit_said = self.leader_exit.is_some();
        let mut killed = false;
        let mut late = false;
        loop {
            let empty = self.is_empty();
            if let (false, Some(exit)) = (exit_said, self.leader_exit) {
                exit_said = true;
                inbox.say(&Notice::Exited { exit, killed });
            }
            if empty {
                return;
            }
            if tells && !killed {
                let processes = listed(members().filter(|member| !member.is_zombie()));
                if !processes.is_empty() {
                    inbox.say(&Notice::Killed { processes });
                }
            }
            self.kill();
            killed = true;
            if !late && started.elapsed() > KILL_PATIENCE {
                late = true;
                let processes = listed(members());
                inbox.say(&Notice::Unkillable { processes });
            }
            // The end of a child wakes it earlier.
            inbox.wait_for_children(Duration::from_millis(if late { 500 } else { 10 }));
        }
    }

    /// Removes the control group of a tree that is empty.
    pub(super) fn remove_group(&self) {
        if let Some(group) = &self.group {
            group.remove();
        }
    }

    /// Sends `signal` to the leader's group, unless the leader has been reaped.
    fn signal_group(&self, signal: Signal) {
        if let Some(leader) = self.leader {
            // The leader has not been reaped, so the id still belongs to this group.
            kill_process_group(leader, signal).ok();
        }
    }
}

// === impl Member ===

impl Member {
    /// Signals the process, and not another one that got its pid meanwhile.
    ///
    /// # Errors
    /// `ESRCH` if the process is gone or has another parent; else the error of the signal.
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
            // Before Linux 5.3 there are no pidfds. The parent was read shortly before.
            Err(Errno::NOSYS) => kill_process(self.pid, signal),
            Err(error) => Err(error),
        }
    }

    /// Returns true if the process has ended and only waits for its parent.
    fn is_zombie(self) -> bool {
        field(self.pid, STATE).is_some_and(|state| state == "Z")
    }

    /// Returns the process's name and pid for a message. The name is empty if the process is gone.
    fn describe(self) -> String {
        let pid = self.pid.as_raw_pid();
        let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{} (pid {pid})", String::from_utf8_lossy(&name).trim_end())
    }
}

/// Returns the children of this process, whichever of its threads has started or adopted them.
pub(in crate::service::process) fn children() -> Vec<Pid> {
    let me = getpid();
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten();
    let mut found = Vec::new();
    for thread in threads.flatten() {
        let Some(thread) = thread.file_name().to_str().and_then(parse_pid) else {
            continue;
        };
        match children_of(me, thread) {
            Ok(children) => found.extend(children.into_iter().map(|child| child.pid)),
            // The main thread has the file as long as the process lives, if the kernel has it.
            Err(_) if thread == me => {
                let all = by_parents().into_iter();
                let own = all.filter(|member| member.parent == me);
                return own.map(|member| member.pid).collect();
            }
            Err(_) => {}
        }
    }
    found
}

/// Kills these children of this process and all processes below them, and describes those that were
/// alive. All are stopped before the first one is killed, as in [`Tree::kill`].
pub(in crate::service::process) fn kill_trees(children: &[Pid]) -> Vec<String> {
    let parent = getpid();
    let find = || {
        let children = children.iter();
        below(children.map(|pid| Member { pid: *pid, parent }).collect())
    };
    let alive = find().into_iter().filter(|member| !member.is_zombie());
    let names = listed(alive);
    stop_all(find);
    for member in find() {
        member.signal(Signal::KILL).ok();
    }
    names
}

/// Stops processes with SIGSTOP until `find` finds no new one, or [`FREEZE_ROUNDS`] times.
fn stop_all<F: IntoIterator<Item = Member>>(find: impl Fn() -> F) {
    let mut stopped = HashSet::new();
    for _ in 0..FREEZE_ROUNDS {
        let found = find().into_iter();
        let fresh: Vec<_> = found.filter(|member| stopped.insert(member.pid)).collect();
        if fresh.is_empty() {
            break;
        }
        for member in fresh {
            member.signal(Signal::STOP).ok();
        }
    }
}

/// Describes a process for a message.
pub(in crate::service::process) fn describe(pid: Pid) -> String {
    let parent = getpid();
    Member { pid, parent }.describe()
}

/// Describes those of these processes that are alive.
pub(in crate::service::process) fn living(pids: Vec<Pid>) -> Vec<String> {
    let parent = getpid();
    let members = pids.into_iter().map(|pid| Member { pid, parent });
    listed(members.filter(|member| !member.is_zombie()))
}

/// Describes processes for a notice, at most [`LISTED`] and the number of the others.
fn listed(members: impl Iterator<Item = Member>) -> Vec<String> {
    let mut names: Vec<String> = members.map(Member::describe).collect();
    let more = names.len().saturating_sub(LISTED);
    if more > 0 {
        names.truncate(LISTED);
        names.push(format!("{more} more"));
    }
    names
}

/// Returns all processes below this one, each after its parent. Processes that start or move during
/// the walk may be missing.
fn members() -> impl Iterator<Item = Member> {
    by_children_files()
        .unwrap_or_else(|_| by_parents())
        .into_iter()
}

/// Finds the processes below this one in the `children` files of `/proc`.
///
/// This is the fast way, and the kernel may lack the files (`CONFIG_PROC_CHILDREN`). Speed matters:
/// a process that forks, detaches and exits in a loop is only caught by a walk that is faster than
/// the loop. It reads the children of the main thread only, so this process must have one thread.
fn by_children_files() -> io::Result<Vec<Member>> {
    let me = getpid();
    Ok(below(children_of(me, me)?))
}

/// Returns `found` and all processes below them, each after its parent.
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

/// Returns the children that one thread of `parent` has started or adopted.
fn children_of(parent: Pid, thread: Pid) -> io::Result<Vec<Member>> {
    let (process, thread) = (parent.as_raw_pid(), thread.as_raw_pid());
    let children = fs::read_to_string(format!("/proc/{process}/task/{thread}/children"))?;
    let pids = children.split_ascii_whitespace().filter_map(parse_pid);
    Ok(pids.map(|pid| Member { pid, parent }).collect())
}

/// Finds the processes below this one from the parents of all processes of the machine. This works
/// on every kernel.
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

/// Returns the parent of a process; `None` if the process is gone.
pub(in crate::service::process) fn parent_of(pid: Pid) -> Option<Pid> {
    parse_pid(&field(pid, PARENT)?)
}

/// Returns true if the process is stopped by a signal. One that a debugger has stopped is not.
pub(in crate::service::process) fn is_stopped(process: Pid) -> bool {
    field(process, STATE).is_some_and(|state| state == "T")
}

/// Returns when a process was started, in clock ticks since boot; `None` if it has ended.
pub(in crate::service::process) fn started_at(process: u32) -> Option<u64> {
    let process = parse_pid(&process.to_string())?;
    if field(process, STATE)? == "Z" {
        return None;
    }
    field(process, START)?.parse().ok()
}

/// Returns a field of the status of a process; `None` if the process is gone.
fn field(pid: Pid, place: usize) -> Option<String> {
    // `pid (name) state ppid …`. The name can contain spaces, parentheses and any other byte
    // (proc_pid_stat(5)).
    let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, after_name) = stat.rsplit_once(')')?;
    let field = after_name.split_ascii_whitespace().nth(place)?;
    Some(field.to_owned())
}

/// Parses a pid; `None` for anything else, such as the other names in `/proc`.
fn parse_pid(text: &str) -> Option<Pid> {
    // `Pid::from_raw` does not accept negative numbers.
    let number = text.parse::<u32>().ok()?;
    Pid::from_raw(i32::try_from(number).ok()?)
}

#[cfg(test)]
mod tests;
