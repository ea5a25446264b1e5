//! The threads and the process tree of another process.
//!
//! Nothing but its files in `/proc` is read, so it need not run, and need not be this user's.

use super::{OsThread, command_of, parse_stat};
use rustix::param::page_size;
use std::fs;

/// The most threads that are listed.
const THREADS: usize = 1 << 14;
/// The most processes of a tree, and its most levels.
const PROCESSES: usize = 500;
const LEVELS: usize = 32;

/// A process of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsProcess {
    /// The number of its ancestors in the tree.
    pub(crate) level: usize,
    /// Its main thread, but with the CPU time of all its threads.
    pub(crate) stat: OsThread,
    /// The command line, at most 200 characters; the name in brackets if there is none.
    pub(crate) command: String,
    /// The memory that is resident, in bytes.
    pub(crate) resident: u64,
}

/// Lists the threads of a process, by id.
pub(crate) fn threads(pid: u32) -> Vec<OsThread> {
    let threads = tids(pid).filter_map(|tid| {
        let stat = fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
        parse_stat(tid, &String::from_utf8_lossy(&stat))
    });
    let mut threads: Vec<OsThread> = threads.collect();
    threads.sort_by_key(|thread| thread.key.tid);
    threads
}

/// Lists a process and all that descend from it, each after its parent. Empty if it has ended.
///
/// A child of which the parent has ended is in no tree. Without `CONFIG_PROC_CHILDREN` in the kernel,
/// no child is found (proc_tid_children(5)).
pub(crate) fn tree(pid: u32) -> Vec<OsProcess> {
    let mut found = Vec::new();
    let mut open = vec![(pid, 0)];
    while let Some((pid, level)) = open.pop() {
        if found.len() == PROCESSES {
            break;
        }
        let Some(process) = process(pid, level) else {
            continue;
        };
        found.push(process);
        if level < LEVELS {
            let mut children = children(pid);
            children.sort_unstable();
            open.extend(children.into_iter().rev().map(|pid| (pid, level + 1)));
        }
    }
    found
}

fn process(pid: u32, level: usize) -> Option<OsProcess> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = parse_stat(pid, &String::from_utf8_lossy(&stat))?;
    let pages = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = pages.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    Some(OsProcess {
        level,
        stat,
        command: command_of(pid),
        resident: pages.unwrap_or(0_u64).saturating_mul(page_size() as u64),
    })
}

fn children(pid: u32) -> Vec<u32> {
    let lines = tids(pid)
        .filter_map(|tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok());
    let mut children = Vec::new();
    for line in lines {
        let pids = line.split_ascii_whitespace();
        children.extend(pids.filter_map(|pid| pid.parse::<u32>().ok()));
    }
    children
}

fn tids(pid: u32) -> impl Iterator<Item = u32> {
    let folders = fs::read_dir(format!("/proc/{pid}/task"));
    let folders = folders.into_iter().flatten().flatten().take(THREADS);
    folders.filter_map(|folder| folder.file_name().to_str()?.parse().ok())
}

#[cfg(all(test, not(headcount_loom)))]
mod tests {
    use super::{threads, tree};
    use crate::threads::own_tid;
    use std::process::{Command, Stdio, id};

    #[test]
    fn a_child_is_listed_below_its_parent() {
        let child = Command::new("cat").stdin(Stdio::piped()).spawn();
        let mut child = child.expect("cat is installed");
        let tree = tree(id());
        let own = tree.first().expect("this process is alive");
        assert_eq!((own.level, own.stat.key.tid), (0, id()));
        assert!(own.resident > 0);
        let found = tree
            .iter()
            .find(|process| process.stat.key.tid == child.id());
        assert_eq!(found.expect("it is alive").level, 1);
        // It ends with its input.
        drop(child.stdin.take());
        child.wait().expect("it is ours");
    }

    #[test]
    fn the_threads_of_a_process_are_listed_and_none_of_one_that_is_not_there() {
        let threads = threads(id());
        assert!(threads.iter().any(|thread| thread.key.tid == own_tid()));
        assert_eq!((super::threads(u32::MAX), tree(u32::MAX)), (vec![], vec![]));
    }
}
