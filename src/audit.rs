//! The operating system's view of our threads and children: who is there, whatever the registry believes.
//!
//! It reads `/proc`, so it sees nothing outside Linux, and says so.

pub(crate) mod asking;
pub(crate) mod facts;
pub(crate) mod frame;
mod kept;
pub(crate) mod lock;
pub(crate) mod nudge;
pub(crate) mod places;
pub(crate) mod stack;
#[cfg(target_os = "linux")]
pub(crate) mod tag;
pub(crate) mod trace;

use crate::threads::{self, Known, ThreadClass};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How the kernel tells a thread from another that has its id later: the id and the start time, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ThreadKey {
    pub(crate) tid: u32,
    start: u64,
}

/// The threads and children that were there before we began.
#[derive(Debug, Clone, Default)]
pub(crate) struct Baseline {
    threads: HashSet<ThreadKey>,
    children: HashSet<u32>,
}

/// A thread as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsThread {
    pub(crate) key: ThreadKey,
    /// At most 15 bytes, and the creator's when it was never named.
    pub(crate) comm: String,
    pub(crate) state: char,
    pub(crate) cpu: Duration,
}

/// A thread of the process, with what is known of it.
#[derive(Debug, Clone)]
pub(crate) struct Audited {
    pub(crate) os: OsThread,
    pub(crate) age: Duration,
    pub(crate) known: Option<Known>,
    /// It was there before we began.
    pub(crate) in_baseline: bool,
}

/// A child process of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pub(crate) command: String,
    /// The thread that forked it, or that inherited it from one that ended.
    pub(crate) forked_by: u32,
}

/// Whether threads and children can be listed here. Without `/proc` they cannot, and where it is of another PID name
/// space (pid_namespaces(7)) its numbers are not those that threads know of themselves.
pub(crate) fn is_observed() -> bool {
    std::fs::exists(format!("/proc/self/task/{}", threads::own_tid())).unwrap_or(false)
}

// === impl Baseline ===

impl Baseline {
    /// The threads of this moment.
    pub(crate) fn take() -> Self {
        Self {
            threads: os_threads().into_iter().map(|thread| thread.key).collect(),
            children: all_children().into_iter().map(|child| child.pid).collect(),
        }
    }
}

// === impl OsThread ===

impl OsThread {
    /// The kernel's one-letter state in words (proc_pid_stat(5)).
    pub(crate) fn state_name(&self) -> &'static str {
        match self.state {
            'R' => "running",
            'S' | 'I' => "sleeping",
            'D' => "in uninterruptible sleep",
            'T' | 't' => "stopped",
            _ => "in an unknown state",
        }
    }
}

// === impl Audited ===

impl Audited {
    pub(crate) fn class(&self) -> ThreadClass {
        self.known
            .as_ref()
            .map_or(ThreadClass::Unknown, |known| known.class)
    }

    /// The full name, where the thread was registered under one.
    pub(crate) fn name(&self) -> &str {
        match &self.known {
            Some(known) if !known.name.is_empty() => &known.name,
            _ => &self.os.comm,
        }
    }
}

/// Every thread of the process.
pub(crate) fn threads(baseline: &Baseline) -> Vec<Audited> {
    let known: HashMap<u32, Known> = threads::all()
        .into_iter()
        .map(|known| (known.tid, known))
        .collect();
    let uptime = uptime_ticks();
    os_threads()
        .into_iter()
        .map(|os| Audited {
            age: ticks(uptime.saturating_sub(os.key.start)),
            known: known.get(&os.key.tid).cloned(),
            in_baseline: baseline.threads.contains(&os.key),
            os,
        })
        .collect()
}

/// What the kernel has counted of a thread (`schedstat`, in its `scheduler/sched-stats`).
#[cfg(tokio_unstable)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    /// How long and how often it has run, while it sleeps: it has slept all the while when this stays the same. `None` when
    /// it runs or could run: one that waits for a processor has not run either.
    pub(crate) asleep: Option<String>,
    /// How long it has run.
    pub(crate) ran: Duration,
}

/// The same of that thread; `None` when it is over, and where the kernel does not count.
#[cfg(tokio_unstable)]
pub(crate) fn counted(tid: u32) -> Option<Counted> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/task/{tid}/{file}"));
    let ran = read("schedstat").ok()?;
    let thread = parse_stat(tid, &read("stat").ok()?)?;
    let nanos = ran.split_ascii_whitespace().next()?.parse().ok()?;
    (nanos > 0).then(|| Counted {
        asleep: matches!(thread.state, 'S' | 'D').then_some(ran),
        ran: Duration::from_nanos(nanos),
    })
}

fn os_threads() -> Vec<OsThread> {
    task_folder()
        .filter_map(|entry| {
            let tid = entry.file_name().to_str()?.parse().ok()?;
            // A thread that ends meanwhile has no file any more.
            let stat = std::fs::read(format!("/proc/self/task/{tid}/stat")).ok()?;
            parse_stat(tid, &String::from_utf8_lossy(&stat))
        })
        .collect()
}

/// A folder for each thread; none where they are not observed.
fn task_folder() -> impl Iterator<Item = std::fs::DirEntry> {
    let folder = is_observed().then(|| std::fs::read_dir("/proc/self/task"));
    folder.into_iter().flatten().flatten().flatten()
}

/// The fields of `stat` that we need (proc_pid_stat(5)). The name stands in parentheses and may hold any character,
/// so the fields are counted from the last one.
fn parse_stat(tid: u32, stat: &str) -> Option<OsThread> {
    let (before, after) = stat.rsplit_once(')')?;
    let (_, comm) = before.split_once('(')?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    // Field 3 is the state, 14 and 15 the CPU time, 22 the start time.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let state = fields.first()?.chars().next()?;
    // A zombie's thread is over: only its exit status is left.
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    Some(OsThread {
        key: ThreadKey {
            tid,
            start: number(22)?,
        },
        comm: comm.to_owned(),
        state,
        cpu: ticks(number(14)? + number(15)?),
    })
}

/// The time since boot in the unit of `stat`.
fn uptime_ticks() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let per_second = rustix::param::clock_ticks_per_second();
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * per_second + nanos * per_second / 1_000_000_000
}

fn ticks(n: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(n.saturating_mul(1000) / per_second)
}

/// When a process was started, in ticks since the boot: with the pid it tells one process from all others. `None` when
/// it is over.
#[cfg(feature = "json")]
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let thread = parse_stat(pid, &String::from_utf8_lossy(&stat))?;
    Some(thread.key.start)
}

/// The child processes that live and were not there before.
pub(crate) fn children(baseline: &Baseline) -> Vec<Child> {
    let mut children = all_children();
    // A zombie is over: only its exit status is left, for whoever waits for it.
    children.retain(|child| !baseline.children.contains(&child.pid) && !is_zombie(child.pid));
    for child in &mut children {
        child.command = command_of(child.pid);
    }
    children
}

fn is_zombie(pid: u32) -> bool {
    // A process that was reaped meanwhile has no file any more.
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    parse_stat(pid, &String::from_utf8_lossy(&stat)).is_none()
}

/// Without their commands.
fn all_children() -> Vec<Child> {
    let mut children = Vec::new();
    for thread in task_folder() {
        let forked_by = thread.file_name().to_str().and_then(|tid| tid.parse().ok());
        let line = std::fs::read_to_string(thread.path().join("children"));
        // A thread that ends meanwhile has no file any more; its children are another thread's.
        let (Some(forked_by), Ok(line)) = (forked_by, line) else {
            continue;
        };
        let pids = line
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok());
        children.extend(pids.map(|pid| Child {
            pid,
            command: String::new(),
            forked_by,
        }));
    }
    children.sort_by_key(|child| child.pid);
    children
}

/// The command line, or for one that has none, the name.
fn command_of(pid: u32) -> String {
    let read = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = read("cmdline");
    if line.is_empty() {
        return format!("[{}]", String::from_utf8_lossy(&read("comm")).trim_end());
    }
    let words: Vec<_> = line
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    words.join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::parse_stat;

    #[test]
    fn a_thread_name_may_hold_parentheses_and_spaces() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 1";
        let thread = parse_stat(17, stat).expect("a valid line");
        assert_eq!(thread.comm, "a) b (c");
        assert_eq!((thread.state, thread.key.start), ('S', 12345));
        assert_eq!(thread.cpu.as_millis(), 3000);
    }

    #[test]
    fn a_zombie_is_no_thread() {
        let stat = "17 (a) Z 1 17 17 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 4 0 12345 1 1";
        assert_eq!(parse_stat(17, stat), None);
    }
}
