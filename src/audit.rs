//! The operating system's view of this process: its threads and its child processes.
//!
//! [`threads`] and [`children`] list them as `/proc` shows them, so a thread that was never
//! registered is listed too. Each entry is compared with the [`Baseline`] taken at start and joined
//! with what [`crate::threads`] knows of it. [`waits`] says what a thread waits for; [`nudge`] and
//! [`tag`] reach threads by signals and signal masks.
//!
//! The kernel has no call that lists threads atomically: one that starts while the list is read may
//! be missing, and one that ends meanwhile is left out. Outside Linux, and where `/proc` belongs to
//! another PID namespace, nothing is listed: [`is_observed`] returns false. This module does not
//! decide which threads may be alive; that is the rule of `threads` and of the shutdown.

pub(crate) mod nudge;
pub(crate) mod ownership;
#[cfg(target_os = "linux")]
pub(crate) mod parent_death;
pub(crate) mod proc;
#[cfg(target_os = "linux")]
pub(crate) mod room;
#[cfg(target_os = "linux")]
pub(crate) mod tag;
pub(crate) mod waits;

#[cfg(tokio_unstable)]
pub(crate) use proc::counted;
pub(crate) use proc::{Child, ThreadKey, is_observed, start_of};

use crate::threads::{self, Known, ThreadClass};
use proc::OsThread;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The threads and child processes that existed when headcount started. They are expected to
/// outlive a shutdown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Baseline {
    /// By id and start time, so that a reused id is a new thread.
    threads: HashSet<ThreadKey>,
    /// By pid only. A child of the baseline that ends frees its pid, and a later child that gets it
    /// is taken for expected.
    children: HashSet<u32>,
}

/// A thread of the process, joined with its registration and the baseline.
#[derive(Debug, Clone)]
pub(crate) struct Audited {
    /// The thread as the kernel shows it.
    pub(crate) os: OsThread,
    /// The time since the thread started.
    pub(crate) age: Duration,
    /// Its registration; `None` for a thread that headcount did not start and that no pool
    /// registered.
    pub(crate) known: Option<Known>,
    /// True if the thread is in the baseline.
    pub(crate) in_baseline: bool,
}

// === impl Baseline ===

impl Baseline {
    /// Returns the threads and children of this moment.
    ///
    /// Called once for each runtime, before the first thread of headcount starts. Costs a listing
    /// of all threads and children.
    pub(crate) fn take() -> Self {
        Self {
            threads: proc::threads().iter().map(|thread| thread.key).collect(),
            children: proc::children(&HashSet::new())
                .iter()
                .map(|child| child.pid)
                .collect(),
        }
    }
}

// === impl Audited ===

impl Audited {
    /// Returns the class it was registered as; `Unknown` if it was not registered.
    pub(crate) fn class(&self) -> ThreadClass {
        self.known
            .as_ref()
            .map_or(ThreadClass::Unknown, |known| known.class)
    }

    /// Returns the registered name if there is one, else the kernel's, which is cut to 15 bytes.
    pub(crate) fn name(&self) -> &str {
        match &self.known {
            Some(known) if !known.name.is_empty() => &known.name,
            _ => &self.os.comm,
        }
    }
}

/// Lists every thread of the process, zombies left out.
///
/// The registered threads are read before `/proc`, so a thread that registers in between appears as
/// unknown; those that judge it allow for the time of a start. Takes the lock of the registered
/// threads for a moment.
pub(crate) fn threads(baseline: &Baseline) -> Vec<Audited> {
    let known: HashMap<u32, Known> = threads::all()
        .into_iter()
        .map(|known| (known.tid, known))
        .collect();
    let uptime = proc::uptime();
    proc::threads()
        .into_iter()
        .map(|os| Audited {
            age: os.age(uptime),
            known: known.get(&os.key.tid).cloned(),
            in_baseline: baseline.threads.contains(&os.key),
            os,
        })
        .collect()
}

/// Lists the live child processes that are not in the baseline.
///
/// Costs a listing of each thread's children, and a read of the command line of each child that is
/// new.
pub(crate) fn children(baseline: &Baseline) -> Vec<Child> {
    proc::children(&baseline.children)
}
