//! Child processes, as the code that runs them describes them.
//!
//! The registry starts no process and looks at none. What it holds ends up in the report, because a
//! supervisor is the only one to know after which signal a process ended, and what had to be
//! killed.
//!
//! It also holds the last lines of their output (`processes/last_lines.rs`), and hands requests of
//! users to the tasks that run them (`processes/requests.rs`).

#[cfg(feature = "admin")]
mod last_lines;
#[cfg(feature = "admin")]
mod requests;

#[cfg(feature = "admin")]
pub(crate) use last_lines::{LastLines, LineNumbers, OutputLine};
#[cfg(feature = "admin")]
pub(crate) use requests::RequestSender;
#[cfg(feature = "admin")]
pub use requests::{ChildRequest, ChildRequests, ChildVerb};

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The most lost processes that are kept for the report once their tasks have ended.
#[cfg(feature = "admin")]
const LOST: usize = 100;

/// The child processes of a runtime, in the order in which they were registered.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    all: Mutex<Vec<Arc<Process>>>,
    /// The numbers of the lines that they have printed.
    #[cfg(feature = "admin")]
    pub(crate) numbers: Arc<LineNumbers>,
}

/// A child process that a task runs, over all its restarts.
#[derive(Debug)]
pub(crate) struct Process {
    /// The path of the task: its group and its name.
    pub(crate) path: String,
    /// The last lines that it has printed, over all its runs.
    #[cfg(feature = "admin")]
    pub(crate) output: LastLines,
    /// The way of requests to the task that runs it; `None` if it takes none.
    #[cfg(feature = "admin")]
    requests: Mutex<Option<RequestSender>>,
    state: Mutex<ProcessState>,
}

/// The last run of a child process, and what is asked of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessState {
    /// Its state as a word, such as `ready`; empty until its task tells one.
    #[cfg(feature = "admin")]
    pub(crate) word: &'static str,
    /// The pid of the last run; `None` before the first one.
    pub(crate) pid: Option<u32>,
    /// Its command line.
    pub(crate) command: String,
    /// The processes that must end before this one is told to stop.
    pub(crate) waits_for: Vec<String>,
    /// The signal that asked the run to end, and when it was sent.
    pub(crate) told: Option<(i32, Instant)>,
    /// The way in which the run ended, in words, and when; `None` while it is alive.
    pub(crate) end: Option<(String, Instant)>,
    /// The processes that had to be killed after the signal, as `sh (pid 17)`.
    pub(crate) killed: Vec<String>,
    /// The reasons why the run did not stop after the signal, a line for each process of its tree.
    pub(crate) unstopped: Vec<String>,
    /// True if it, or one that it had started, may be alive, and nothing watches it any longer.
    #[cfg(feature = "admin")]
    pub(crate) is_lost: bool,
}

// === impl Processes ===

impl Processes {
    /// Adds a process.
    #[cfg(feature = "admin")]
    pub(crate) fn add(&self, path: String) -> Arc<Process> {
        let process = Arc::new(Process {
            path,
            output: LastLines::new(&self.numbers),
            requests: Mutex::default(),
            state: Mutex::default(),
        });
        self.lock().push(Arc::clone(&process));
        process
    }

    /// Removes a process, unless it is lost: the report has to say so, whenever the shutdown begins.
    /// [`LOST`] of those are kept.
    #[cfg(feature = "admin")]
    pub(crate) fn remove(&self, process: &Arc<Process>) {
        let mut all = self.lock();
        let mut lost = all.iter().filter(|known| known.state().is_lost);
        if process.state().is_lost && lost.nth(LOST).is_none() {
            return;
        }
        all.retain(|known| !Arc::ptr_eq(known, process));
    }

    /// Returns all processes.
    pub(crate) fn all(&self) -> Vec<Arc<Process>> {
        self.lock().clone()
    }

    /// Returns the process that the task of this path runs.
    pub(crate) fn of_task(&self, path: &str) -> Option<ProcessState> {
        let all = self.lock();
        let process = all.iter().rev().find(|process| process.path == path);
        process.map(|process| process.state())
    }

    /// Returns the processes with this name: the path of the task, or its last part.
    #[cfg(feature = "admin")]
    pub(crate) fn named(&self, name: &str) -> Vec<Arc<Process>> {
        let mut all = self.all();
        all.retain(|process| {
            let last = process.path.rsplit('/').next();
            process.path == name || last == Some(name)
        });
        all
    }

    /// A poisoned lock is used as it is: the list is whole between the operations on it.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Process ===

impl Process {
    /// Returns what is known at the moment.
    pub(crate) fn state(&self) -> ProcessState {
        self.lock().clone()
    }

    /// Changes what is known.
    #[cfg(feature = "admin")]
    pub(crate) fn change(&self, change: impl FnOnce(&mut ProcessState)) {
        change(&mut self.lock());
    }

    /// Takes requests from now on, instead of an earlier receiver.
    #[cfg(feature = "admin")]
    pub(crate) fn take_requests(&self) -> ChildRequests {
        let (sender, receiver) = requests::requests();
        *self.request_sender() = Some(sender);
        receiver
    }

    /// Returns the way of requests; `None` if nothing takes them.
    #[cfg(feature = "admin")]
    pub(crate) fn requests(&self) -> Option<RequestSender> {
        self.request_sender().clone()
    }

    #[cfg(feature = "admin")]
    fn request_sender(&self) -> MutexGuard<'_, Option<RequestSender>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A poisoned lock is used as it is: each field is valid on its own.
    fn lock(&self) -> MutexGuard<'_, ProcessState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
