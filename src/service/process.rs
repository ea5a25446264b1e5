//! The `process` task kind: child processes with dependencies, readiness, restarts and an ordered
//! stop.
//!
//! Each declared process has one supervising task, which makes all decisions. Each run of its
//! command also has two helper processes, the guardian and the keeper ([`guardian_main`]), which
//! ensure that nothing the command started outlives headcount. They end with the run: a restart
//! gets a new pair.
//!
//! This module deliberately does not run a shell, start several copies of a command, or give a
//! command a terminal or a standard input. It does not restart a running process because a process
//! that it depends on restarted, and it does not watch files.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{TaskGroup, service::endpoint::Health, service::secrets::Secrets};

mod board;
mod children;
mod command;
mod exit;
mod group;
mod guardian;
mod mark;
mod output;
mod restart;
mod run;
mod supervisor;
mod wire;

#[cfg(test)]
mod tests;

use self::exit::Exit;
pub(crate) use board::Dependencies;
pub(crate) use command::Commands;
pub use guardian::guardian_main;
pub(crate) use output::{OUTPUT_TARGET, is_whole};

/// The target of log events about processes.
const TARGET: &str = "headcount::process";

/// The settings of one declared process. [`Default`] gives the defaults of the configuration, with
/// an empty command.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProcessSettings {
    /// The program and its arguments. They are passed as they are: no shell expands them.
    pub(crate) command: Vec<String>,
    /// Variables that are added to the inherited environment.
    pub(crate) env: Secrets,
    /// The command's working directory; headcount's own if `None`.
    pub(crate) working_folder: Option<PathBuf>,
    /// The conditions, by the name of a process or endpoint, that must all hold before each start of
    /// this process.
    pub(crate) depends_on: BTreeMap<String, Condition>,
    /// The consequence of an endpoint in `depends_on` that goes down while the process runs.
    pub(crate) when_down: WhenDown,
    /// The condition for readiness.
    pub(crate) ready: Ready,
    /// The endpoint task that must stay up once the process is ready. If it goes down, the run is
    /// stopped and counts as failed. Nothing is checked if `None`.
    pub(crate) liveness: Option<String>,
    /// The longest time from a start to readiness. If it elapses first, the run is stopped and
    /// counts as failed.
    pub(crate) ready_timeout: Duration,
    /// The ends after which the process is restarted.
    pub(crate) restart: Restart,
    /// The delay before each restart.
    pub(crate) backoff: Backoff,
    /// The number of restarts allowed in a row. The count starts again after a run that was ready
    /// for `backoff.reset_after`. Unlimited if `None`.
    pub(crate) max_restarts: Option<u32>,
    /// True if the service stops when the process has ended and is not restarted.
    pub(crate) required: bool,
    /// The signal that asks the process to end.
    pub(crate) stop_signal: StopSignal,
    /// The processes that are sent it.
    pub(crate) stop_signal_to: StopSignalTo,
    /// The time between the stop signal and SIGKILL.
    pub(crate) stop_budget: Duration,
    /// A file for the output; none if `None`.
    pub(crate) log_file: Option<LogFileSettings>,
}

/// A file for the output of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFileSettings {
    pub(crate) path: PathBuf,
    /// The most bytes of the file, unless a single line is longer.
    pub(crate) size: u64,
    /// The number of older files that are kept.
    pub(crate) kept: u32,
}

/// The consequence for a running process when an endpoint that it depends on goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum WhenDown {
    /// None.
    #[default]
    Ignore,
    /// It is not ready until the endpoint is up.
    Unready,
    /// It is stopped, and started when the endpoint is up. That is no failure of the process.
    Restart,
}

/// A condition that a process must meet before another process that depends on it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It has been started at least once, and may have ended since.
    Started,
    /// It is ready, or it was ready in its last run and that run exited successfully. An endpoint is
    /// ready while it is up.
    Ready,
    /// It has exited successfully at least once.
    Exited,
}

/// The condition under which a process is ready.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Ready {
    /// As soon as it runs.
    #[default]
    Started,
    /// When a line of its standard output or standard error contains this text.
    Log(String),
    /// When the endpoint task with this name is up.
    Endpoint(String),
    /// When it has exited with this code, which then counts as success instead of 0.
    Exit(i32),
}

/// The ends after which a process is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Restart {
    /// Never.
    No,
    /// After a failed start, an unsuccessful exit code, or death by a signal.
    #[default]
    OnFailure,
    /// After every end, even a successful one.
    Always,
}

/// The delay before a restart, which grows exponentially with the number of restarts in a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Backoff {
    /// The delay before the first restart.
    pub(crate) initial: Duration,
    /// The longest delay.
    pub(crate) max: Duration,
    /// The growth from one delay to the next. Values below 1 count as 1.
    pub(crate) factor: f64,
    /// The time in readiness after which the next failure counts as the first in a row.
    pub(crate) reset_after: Duration,
}

/// The signal that asks a process to end.
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
    /// Kills at once: the stop budget does not apply.
    Kill,
}

/// The processes that a stop signal is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopSignalTo {
    /// The command alone. What it leaves behind is told once it has ended.
    Command,
    /// The command and everything that it has started.
    #[default]
    Tree,
}

/// The processes of a service, once they are started.
#[derive(Debug)]
pub(crate) struct Processes {
    board: board::Board,
    required: Vec<String>,
}

/// Prepares to start commands: ends what an earlier run of `service` left behind when it was killed
/// together with its helper processes. A thread reaps the children that headcount adopts.
pub(crate) fn commands(service: &str, tasks: &TaskGroup) -> Commands {
    let strays = mark::end_strays(service);
    for stray in strays.ended {
        tracing::warn!("ended {stray}, which an earlier run left behind when it was killed");
    }
    for stray in strays.alive {
        tracing::warn!(
            "could not end {stray}, which an earlier run left behind when it was killed"
        );
    }
    let commands = Commands::default();
    if let Err(error) = commands.0.helpers.take_charge(service, tasks) {
        tracing::warn!("processes that headcount adopts are not looked after: {error}");
    }
    commands
}

/// Starts a supervising task for each process, in the group `process` of `tasks`.
///
/// `endpoints` returns the channel of the endpoint task with the given name, or `None` if there is no
/// such task.
///
/// The service is not ready until each required process is.
///
/// When the group drains, each process is stopped after all processes that depend on it have ended.
/// When a supervising task is cancelled, its command is killed together with all of its
/// descendants.
pub(crate) fn start_all(
    commands: &Commands,
    processes: BTreeMap<String, ProcessSettings>,
    endpoints: &dyn Fn(&str) -> Option<watch::Receiver<Health>>,
    tasks: &TaskGroup,
) -> Processes {
    let required = processes.iter().filter(|(_, settings)| settings.required);
    let required = required.map(|(name, _)| name.clone()).collect();
    Processes {
        board: supervisor::start_all(processes, endpoints, tasks, &commands.0),
        required,
    }
}

// === impl Processes ===

impl Processes {
    /// Returns conditions, by process name, to wait for.
    /// A condition on an endpoint holds while `endpoints` says that it is up.
    pub(crate) fn dependencies(
        &self,
        conditions: &BTreeMap<String, Condition>,
        endpoints: &dyn Fn(&str) -> Option<watch::Receiver<Health>>,
    ) -> Dependencies {
        self.board.dependencies(conditions, endpoints)
    }

    /// Waits until no process is left to run although one of them was given up, and returns the names
    /// of those. Never ends if that does not happen. A process may be started again on request.
    pub(crate) async fn given_up(&self) -> Vec<String> {
        let failed = self.board.given_up().await;
        if failed.iter().any(|name| self.required.contains(name)) {
            // The end of a required process is a reason of its own.
            std::future::pending::<()>().await;
        }
        failed
    }

    /// Waits until a process was started again after [`given_up`](Self::given_up).
    pub(crate) async fn revived(&self) {
        self.board.revived().await;
    }
}

// === impl LogFileSettings ===

impl LogFileSettings {
    /// The default of `size`: 10 MiB.
    pub(crate) const SIZE: u64 = 10 * 1024 * 1024;
    /// The default of `kept`.
    pub(crate) const KEPT: u32 = 5;
}

// === impl ProcessSettings ===

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: Secrets::default(),
            working_folder: None,
            depends_on: BTreeMap::new(),
            when_down: WhenDown::default(),
            ready: Ready::default(),
            liveness: None,
            ready_timeout: Duration::from_secs(60),
            restart: Restart::default(),
            backoff: Backoff::default(),
            max_restarts: Some(5),
            required: false,
            stop_signal: StopSignal::default(),
            stop_signal_to: StopSignalTo::default(),
            stop_budget: Duration::from_secs(3),
            log_file: None,
        }
    }
}

impl ProcessSettings {
    /// Returns true if `exit` is a success: the code that [`Ready::Exit`] expects, or else 0.
    fn is_success(&self, exit: Exit) -> bool {
        match (&self.ready, exit) {
            (Ready::Exit(expected), Exit::Code(code)) => code == *expected,
            (_, Exit::Code(code)) => code == 0,
            (_, Exit::Signal { .. } | Exit::Unknown) => false,
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
