//! Another process that is looked at again and again.
//!
//! Its program is read once; each look costs its threads and the lists of its tasks.

use super::Process;
use super::picture::names;
use crate::audit::proc::other;
use crate::stacks::awaits::type_name::shortened;
use std::collections::HashMap;
use std::time::Duration;

/// A process with its tasks at the last look.
#[derive(Debug)]
pub(crate) struct Watched {
    process: Process,
    /// The types of the futures, by the addresses of their tables.
    names: HashMap<u64, String>,
}

/// A task at the last look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchedTask<'a> {
    /// The id, as [`tokio::task::Id`] shows it.
    pub(crate) id: u64,
    /// The address of the task. It tells two tasks with one id apart.
    pub(crate) header: u64,
    /// The type of the future, shortened.
    pub(crate) name: &'a str,
    /// `waiting`, `running`, `woken`, `cancelled` or `ending`.
    pub(crate) state: &'static str,
    /// True if nothing is left that could wake it.
    pub(crate) never_wakes: bool,
}

/// A thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsThread {
    pub(crate) tid: u32,
    /// The name that the kernel keeps: at most 15 bytes.
    pub(crate) name: String,
    /// The kernel's state: `running`, `sleeping`, …
    pub(crate) state: &'static str,
    /// The CPU time so far, in clock ticks.
    pub(crate) cpu: Duration,
}

/// A process of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsProcess {
    /// The number of its ancestors in the tree.
    pub(crate) level: usize,
    pub(crate) pid: u32,
    /// The command line, at most 200 characters.
    pub(crate) command: String,
    /// The state of its main thread.
    pub(crate) state: &'static str,
    /// The CPU time of all its threads so far.
    pub(crate) cpu: Duration,
    /// The memory that is resident, in bytes.
    pub(crate) resident: u64,
}

// === impl Watched ===

impl Watched {
    /// Opens a process and looks at its tasks. An error is a sentence.
    pub(crate) fn open(pid: u32) -> Result<Self, String> {
        let process = Process::read(pid)?;
        let names = names(&process, None).into_iter();
        let names = names.map(|(table, name)| (table, shortened(&name.text)));
        Ok(Self {
            names: names.collect(),
            process,
        })
    }

    /// Looks at the tasks anew. An error is a sentence; the tasks are then those of the look before.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        self.process.look()
    }

    /// Returns the process as of the last look.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Returns the tasks.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = WatchedTask<'_>> {
        self.process.tasks().map(|task| WatchedTask {
            id: task.id,
            header: task.header,
            name: self.names.get(&task.table).map_or("", String::as_str),
            state: task.state.as_str(),
            never_wakes: task.state.can_never_wake(0),
        })
    }
}

/// Lists the threads of a process, by id. It need not run.
pub(crate) fn threads(pid: u32) -> Vec<OsThread> {
    let threads = other::threads(pid).into_iter();
    let threads = threads.map(|thread| OsThread {
        tid: thread.key.tid,
        state: thread.state_name(),
        cpu: thread.cpu,
        name: thread.comm,
    });
    threads.collect()
}

/// Lists a process and all that descend from it, each after its parent. It need not run.
pub(crate) fn processes(pid: u32) -> Vec<OsProcess> {
    let tree = other::tree(pid).into_iter();
    let tree = tree.map(|process| OsProcess {
        level: process.level,
        pid: process.stat.key.tid,
        state: process.stat.state_name(),
        cpu: process.stat.cpu,
        command: process.command,
        resident: process.resident,
    });
    tree.collect()
}
