//! The task kind `process`: child processes with dependencies, readiness, restarts and an ordered stop.
//!
//! Every declared process has one supervising task here, which decides, and one pair of guarding processes ([`guardian_main`]), which see
//! to it that nothing that the command started outlives headcount. A run of the command is a run of its guardians: a restart has its own.
//!
//! What it deliberately does not do: run a shell, start several copies of a command, give a command a terminal or standard input, restart
//! what runs because something that it depends on was restarted, or watch files.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::TaskGroup;

mod board;
mod exit;
mod guardian;
mod output;
mod restart;
mod run;
mod supervisor;
mod wire;

#[cfg(test)]
mod tests;

use self::{board::Board, exit::Exit};
pub use guardian::guardian_main;

/// One declared process.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessSettings {
    /// Program and arguments; no shell sees them.
    pub(crate) command: Vec<String>,
    /// Added to the inherited environment.
    pub(crate) env: BTreeMap<String, String>,
    /// Where it runs; headcount's own folder without it.
    pub(crate) working_folder: Option<PathBuf>,
    /// What must hold of other processes before each of its starts.
    pub(crate) depends_on: BTreeMap<String, Condition>,
    /// When it counts as ready.
    pub(crate) ready: Ready,
    /// From its start until it must be ready; after that the start has failed.
    pub(crate) ready_timeout: Duration,
    /// After which ends it is started again.
    pub(crate) restart: Restart,
    /// How long to wait before that.
    pub(crate) backoff: Backoff,
    /// How often it may be restarted without having been up for `backoff.reset_after`; `None` is without limit.
    pub(crate) max_restarts: Option<u32>,
    /// Its last end stops the service.
    pub(crate) required: bool,
    /// What asks it to end.
    pub(crate) stop_signal: StopSignal,
    /// From the stop signal to SIGKILL.
    pub(crate) stop_budget: Duration,
}

/// What must hold of a process before one that depends on it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It runs, or ran.
    Started,
    /// It is ready.
    Ready,
    /// It ended with success.
    Exited,
}

/// When a process is ready.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Ready {
    /// As soon as it runs.
    #[default]
    Started,
    /// When a line of its output holds this.
    Log(String),
    /// When the endpoint task of this name is up.
    Endpoint(String),
    /// When it has exited with this code, which then is success.
    Exit(i32),
}

/// After which ends a process is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Restart {
    /// After none.
    No,
    /// After a failed start, an exit code that is no success, or a signal.
    #[default]
    OnFailure,
    /// After success, too.
    Always,
}

/// How long to wait before a restart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backoff {
    pub(crate) initial: Duration,
    pub(crate) max: Duration,
    pub(crate) factor: f64,
    /// After this long in readiness the next failure counts as the first.
    pub(crate) reset_after: Duration,
}

/// What asks a process to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopSignal {
    #[default]
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
    /// Without asking, so also without a budget.
    Kill,
}

/// Starts a supervising task for each process, in the group `process` of `tasks`, and returns the board on which they are listed.
///
/// `endpoints` finds the endpoint task of a name, and whether it is up. When the group drains, a process is stopped after all that depend on
/// it; when a task is cancelled, its process is killed with everything below it.
pub(crate) fn start_all(
    processes: BTreeMap<String, ProcessSettings>,
    endpoints: impl Fn(&str) -> Option<watch::Receiver<bool>>,
    tasks: &TaskGroup,
) -> Board {
    supervisor::start_all(processes, &endpoints, tasks, &run::Launcher::default())
}

// === impl ProcessSettings ===

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: BTreeMap::new(),
            working_folder: None,
            depends_on: BTreeMap::new(),
            ready: Ready::default(),
            ready_timeout: Duration::from_secs(60),
            restart: Restart::default(),
            backoff: Backoff::default(),
            max_restarts: Some(5),
            required: false,
            stop_signal: StopSignal::default(),
            stop_budget: Duration::from_secs(3),
        }
    }
}

impl ProcessSettings {
    /// Whether this end is what the process was started for.
    fn is_success(&self, exit: Exit) -> bool {
        match (&self.ready, exit) {
            (Ready::Exit(expected), Exit::Code(code)) => code == *expected,
            (_, Exit::Code(code)) => code == 0,
            (_, Exit::Signal { .. }) => false,
        }
    }
}

// === impl Backoff ===

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            max: Duration::from_secs(30),
            factor: 2.0,
            reset_after: Duration::from_secs(60),
        }
    }
}

// === impl StopSignal ===

impl From<StopSignal> for Signal {
    fn from(signal: StopSignal) -> Self {
        match signal {
            StopSignal::Term => Self::TERM,
            StopSignal::Int => Self::INT,
            StopSignal::Quit => Self::QUIT,
            StopSignal::Hup => Self::HUP,
            StopSignal::Usr1 => Self::USR1,
            StopSignal::Usr2 => Self::USR2,
            StopSignal::Kill => Self::KILL,
        }
    }
}
