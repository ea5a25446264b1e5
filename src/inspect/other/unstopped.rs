//! The reasons why a process does not end after a signal that asks it to, as far as they are visible from
//! outside.
//!
//! Linux tells whether a process ignores, blocks or handles the signal, and what each of its threads
//! waits for (proc_pid_status(5), proc_pid_syscall(5)). The tasks of a tokio program are read from its
//! memory. The process is not stopped, signalled or changed.
//!
//! It is a look at one moment, and shows no code: a program in another language is described by its
//! signals and system calls alone.

use super::picture::{Labels, Picture};
use super::{Limits, Process};
use crate::audit::proc::other::{self, OsProcess};
use crate::audit::proc::syscall::WaitPoint;
use crate::audit::waits;
use crate::inspect::descriptors::Descriptors;
use crate::text::plain;
use signal_hook::low_level::signal_name;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The most processes of a tree that are described.
const PROCESSES: usize = 4;
/// The most threads of a process that are looked at.
const THREADS: usize = 1000;
/// The most kinds of wait, and the most groups of tasks, that are described of a process.
const KINDS: usize = 3;
/// The most characters of a line.
const LONGEST: usize = 400;

/// The most bytes of debug information that are copied, and the longest time for them.
const BYTES: u64 = 256 << 20;
const TIME: Duration = Duration::from_secs(10);

/// Locked while tasks are read.
static READING: Mutex<()> = Mutex::new(());

/// The signals of a process, as sets with signal 1 as the lowest bit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Signals {
    ignored: u64,
    caught: u64,
    /// The signals that its main thread blocks.
    blocked: u64,
    /// The process that traces it; 0 if there is none.
    tracer: u32,
    /// Its pid in its own namespace.
    own_pid: u32,
}

/// Describes the processes below `ancestor`, at most four of them: what each does with the signal with
/// this number, and what it waits for. Each text is a line.
///
/// `tell` is called with all lines: at once, and with the tasks of tokio programs, which may take seconds
/// of processor time in a program with much debug information. If it returns false, nothing more is
/// looked at. Tasks are read by one look at a time.
pub(crate) fn unstopped(ancestor: u32, signal: i32, mut tell: impl FnMut(Vec<String>) -> bool) {
    let name = signal_name(signal).unwrap_or("the signal");
    let tree = other::tree(ancestor);
    // The main thread of a process may end before others.
    let alive = tree.iter().filter(|process| {
        process.stat.state != 'Z' || other::threads(process.stat.key.tid).len() > 1
    });
    let below: Vec<&OsProcess> = alive.filter(|process| process.level > 0).collect();
    let described = || below.iter().take(PROCESSES);
    let more = below.len().saturating_sub(PROCESSES);
    let more = (more > 0).then(|| format!("and {more} more processes"));
    let mut lines: Vec<Vec<String>> = described()
        .map(|process| parts(process, signal, name, &tree))
        .collect();
    let whole = |lines: &[Vec<String>]| {
        let lines = lines.iter().map(|parts| line(parts));
        lines.chain(more.clone()).collect()
    };
    let mut is_wanted = tell(whole(&lines));
    let Ok(_one) = READING.try_lock() else {
        return;
    };
    for at in 0..lines.len() {
        if !is_wanted {
            return;
        }
        let tasks = tasks(below[at].stat.key.tid);
        if !tasks.is_empty() {
            lines[at].extend(tasks);
            is_wanted = tell(whole(&lines));
        }
    }
}

/// Describes one process.
fn parts(process: &OsProcess, signal: i32, name: &str, tree: &[OsProcess]) -> Vec<String> {
    let pid = process.stat.key.tid;
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let attitude = attitude(process, &folder, signal, name);
    let mut parts = vec![format!("{} (pid {pid}) {attitude}", process.stat.comm)];
    parts.extend(waits_of(&folder, tree));
    parts
}

/// Returns the parts as one line.
fn line(parts: &[String]) -> String {
    let text = parts.join("; ");
    let text = plain(&text);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into_owned(),
    }
}

/// Says what the process does with the signal.
fn attitude(process: &OsProcess, folder: &Path, signal: i32, name: &str) -> String {
    let status = fs::read_to_string(folder.join("status")).unwrap_or_default();
    let Some(signals) = Signals::parse(&status) else {
        return "cannot be looked at".to_owned();
    };
    let has = |set: u64| set >> (signal - 1).clamp(0, 63) & 1 == 1;
    match process.stat.state {
        't' if signals.tracer != 0 => {
            return format!("is held by its debugger (pid {})", signals.tracer);
        }
        'T' => return "is stopped by a signal".to_owned(),
        _ => {}
    }
    if has(signals.ignored) {
        format!("ignores {name}")
    } else if has(signals.blocked) && is_blocked_everywhere(folder, has) {
        format!("blocks {name}")
    } else if has(signals.caught) {
        format!("handles {name}")
    } else if signals.own_pid == 1 {
        format!("is process 1 of its PID namespace without a handler for {name}, so Linux drops it")
    } else {
        format!("has no handler for {name}")
    }
}

/// Returns whether each thread blocks the signal. One that does not would take it.
fn is_blocked_everywhere(folder: &Path, has: impl Fn(u64) -> bool) -> bool {
    threads(folder).all(|thread| {
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        Signals::parse(&status).is_none_or(|signals| has(signals.blocked))
    })
}

/// Describes what the threads wait for, the main thread first, and the others by their numbers.
fn waits_of(folder: &Path, tree: &[OsProcess]) -> Vec<String> {
    let descriptors = Descriptors::of(folder);
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for thread in threads(folder) {
        let Some(wait) = wait_of(&thread, &descriptors, tree) else {
            continue;
        };
        if thread.file_name() == folder.file_name() {
            lines.push(wait);
        } else {
            *others.entry(wait).or_default() += 1;
        }
    }
    if !others.is_empty() {
        for line in &mut lines {
            line.insert_str(0, "main thread ");
        }
    }
    let mut others: Vec<(usize, String)> = others.into_iter().map(|(wait, n)| (n, wait)).collect();
    others.sort_by(|one, other| other.cmp(one));
    let others = others.into_iter().take(KINDS);
    lines.extend(others.map(|(count, wait)| match count {
        1 => format!("1 thread {wait}"),
        count => format!("{count} threads {wait}"),
    }));
    lines
}

/// Describes what a thread waits for; `None` if it has ended.
fn wait_of(thread: &Path, descriptors: &Descriptors, tree: &[OsProcess]) -> Option<String> {
    let text = |name: &str| fs::read_to_string(thread.join(name)).unwrap_or_default();
    let stat = text("stat");
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    let place = || match text("wchan") {
        place if place.is_empty() || place == "0" => String::new(),
        place => format!(" in kernel function {place}"),
    };
    match state {
        Some('D') => return Some(format!("in uninterruptible sleep{}", place())),
        Some('R') => return Some("on CPU".to_owned()),
        Some('Z' | 'X') | None => return None,
        _ => {}
    }
    let call = WaitPoint::parse(text("syscall").trim_end()).and_then(|point| point.call);
    let Some(call) = call else {
        return Some(format!("waiting{}", place()));
    };
    let wait = waits::of_other(call, |number| {
        let what = descriptors.of_number(number)?;
        // A file is `descriptor 3 (/var/log/app)`, and its number is shown anyway.
        let inner = what.strip_prefix(&format!("descriptor {number} ("));
        let inner = inner.and_then(|inner| inner.strip_suffix(')'));
        let inner = inner.map(|inner| inner.split(":[").next().unwrap_or(inner));
        Some(inner.unwrap_or(&what).to_owned())
    });
    Some(match wait {
        waits::Wait::Child(pid) => {
            let parent = thread
                .file_name()
                .and_then(|tid| tid.to_str()?.parse().ok());
            of_child(pid, parent, tree).unwrap_or_else(|| wait.to_string())
        }
        waits::Wait::Unknown { .. } => format!("waiting{}", place()),
        wait => wait.to_string(),
    })
}

/// Names the child that a process waits for: the one with this pid, or its only one.
fn of_child(pid: Option<u32>, parent: Option<u32>, tree: &[OsProcess]) -> Option<String> {
    let at = tree
        .iter()
        .position(|process| Some(process.stat.key.tid) == parent)?;
    let level = tree[at].level;
    let below = tree[at + 1..]
        .iter()
        .take_while(|process| process.level > level);
    let mut children = below.filter(|process| process.level == level + 1);
    let child = match pid {
        Some(pid) => children.find(|child| child.stat.key.tid == pid)?,
        None => children.next().filter(|_| children.next().is_none())?,
    };
    let (name, pid) = (&child.stat.comm, child.stat.key.tid);
    Some(format!("waiting for its child {name} (pid {pid})"))
}

/// Describes the tasks of a tokio program. Empty for any other, and if they cannot be read.
fn tasks(pid: u32) -> Vec<String> {
    let limits = Limits {
        bytes: BYTES,
        until: Some(Instant::now() + TIME),
        is_whole: false,
    };
    let process = Process::read(pid);
    let picture =
        process.and_then(|process| Picture::with_chains(&process, &Labels::new(), false, limits));
    let groups = picture.map(|picture| picture.groups).unwrap_or_default();
    let groups = groups.into_iter().take(KINDS);
    let lines = groups.map(|group| {
        let what = group
            .summary
            .unwrap_or_else(|| format!("{}, {}", group.name, group.state));
        match group.count {
            1 => format!("task {what}"),
            count => format!("{count} tasks {what}"),
        }
    });
    lines.collect()
}

/// Returns the folders of the threads of a process.
fn threads(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder.join("task"));
    let entries = entries.into_iter().flatten().flatten();
    entries.take(THREADS).map(|entry| entry.path())
}

// === impl Signals ===

impl Signals {
    /// Parses the `status` of a process or thread.
    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let set = |name| u64::from_str_radix(field(name)?.trim(), 16).ok();
        let last = |name| field(name)?.split_ascii_whitespace().last()?.parse().ok();
        Some(Self {
            ignored: set("SigIgn:")?,
            caught: set("SigCgt:")?,
            blocked: set("SigBlk:")?,
            tracer: last("TracerPid:").unwrap_or(0),
            own_pid: last("NSpid:").unwrap_or(0),
        })
    }
}
