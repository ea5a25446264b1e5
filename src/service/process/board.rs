//! The current status of every declared process.
//!
//! Each process has one `watch` channel. Its supervising task is the only writer and holds the
//! [`Post`]. The readers hold a receiver: the supervising tasks of processes that depend on it, and
//! of those that it depends on.
//!
//! The board keeps no history, and it does not decide: readers see the latest status only.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustix::process::Signal;
use tokio::sync::watch;

use super::{Condition, StopSignal, output::Tail};
use crate::{TaskGroup, service::secrets::Secrets, telemetry};

/// The statuses of all declared processes, by name.
#[derive(Debug)]
pub(super) struct Board {
    statuses: BTreeMap<String, watch::Receiver<Status>>,
    /// The registrations, so that a process which has ended for good is still shown.
    shown: Vec<Arc<telemetry::Child>>,
}

/// The status of one process.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) state: State,
    /// True if the command was started at least once.
    started: bool,
    /// True if the command became ready in its last run, and that run has not failed.
    ready: bool,
    /// True if the command exited successfully at least once.
    succeeded: bool,
}

/// The state of a declared process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Waiting for its dependencies.
    Waiting,
    /// Starting, or running and not yet ready.
    Starting,
    /// Running and ready.
    Ready,
    /// Waiting for the delay before its next start.
    Backoff,
    /// Being stopped, or waiting to be stopped in a drain. Also entered when the command itself has
    /// exited, until its descendants are gone.
    Stopping,
    /// Stopped by headcount, or not started because of a drain. This state is final.
    Stopped,
    /// Exited successfully, and is not restarted. This state is final.
    Exited,
    /// Failed, and is not restarted. This state is final.
    Failed,
}

/// The writer of one process's status.
///
/// Dropping it in a state that is not final enters [`State::Stopped`]. So the last status that a
/// reader sees is always final, even when the supervising task is cancelled or panics.
#[derive(Debug)]
pub(super) struct Post {
    status: watch::Sender<Status>,
    /// The registration of the process; `None` until [`Board::show`].
    series: Option<Arc<telemetry::Child>>,
    /// The group whose readiness follows that of the process, and the name under which it does;
    /// `None` if the process is not required.
    gate: Option<(TaskGroup, String)>,
}

// === impl Board ===

impl Board {
    /// Creates a board with a status for each name, and the writers in the order of `names`.
    pub(super) fn with<'a>(names: impl Iterator<Item = &'a String>) -> (Self, Vec<Post>) {
        let mut places = BTreeMap::new();
        let mut posts = Vec::new();
        for name in names {
            let (sender, status) = watch::channel(Status::waiting());
            posts.push(Post {
                status: sender,
                series: None,
                gate: None,
            });
            places.insert(name.clone(), status);
        }
        let board = Self {
            statuses: places,
            shown: Vec::new(),
        };
        (board, posts)
    }

    /// Registers a process for metrics, the API and the report, which every later change updates.
    pub(super) fn show(&mut self, post: &mut Post, name: &str, group: &TaskGroup) {
        let series = Arc::new(telemetry::Child::register(group, name));
        series.set_state(State::Waiting.as_str());
        self.shown.push(Arc::clone(&series));
        post.series = Some(series);
    }

    /// Waits until all processes are in a final state and one of them has failed, and returns the
    /// names of those that have. Never ends if none fails.
    pub(super) async fn given_up(self) -> Vec<String> {
        let mut failed = Vec::new();
        for (name, mut status) in self.statuses {
            // An error means that the supervising task is gone.
            let last = status.wait_for(|status| status.state.is_final()).await;
            if last.is_ok_and(|status| status.state == State::Failed) {
                failed.push(name);
            }
        }
        if failed.is_empty() {
            std::future::pending::<()>().await;
        }
        drop(self.shown);
        failed
    }

    /// Returns a receiver of the status of one process; `None` if no process has that name.
    pub(super) fn watch(&self, name: &str) -> Option<watch::Receiver<Status>> {
        self.statuses.get(name).cloned()
    }
}

// === impl Status ===

impl Status {
    fn waiting() -> Self {
        Self {
            state: State::Waiting,
            started: false,
            ready: false,
            succeeded: false,
        }
    }

    /// Returns true if the process meets `condition`.
    pub(super) fn meets(&self, condition: Condition) -> bool {
        match condition {
            Condition::Started => self.started,
            Condition::Ready => self.ready,
            Condition::Exited => self.succeeded,
        }
    }
}

// === impl State ===

impl State {
    /// Returns true if no other state can follow.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Exited | Self::Failed)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Post ===

impl Post {
    /// Makes the service not ready until the process is.
    pub(super) fn gate(&mut self, name: &str, group: &TaskGroup) {
        let what = format!("process {name}");
        group.set_unready(&what, "not ready yet");
        self.gate = Some((group.clone(), what));
    }

    /// Updates the metrics, if they are registered.
    fn tell(&self, what: impl FnOnce(&telemetry::Child)) {
        if let Some(series) = &self.series {
            what(series);
        }
    }

    /// Returns what keeps the last lines of output of the process, whose environment may hold secrets.
    pub(super) fn tail(&self, secrets: &Secrets) -> Tail {
        Tail::new(self.series.clone(), secrets)
    }

    /// Enters a state.
    pub(super) fn enter(&self, state: State) {
        self.status.send_modify(|status| status.state = state);
        self.tell(|series| series.set_state(state.as_str()));
    }

    /// Records that the last run counts as ready.
    pub(super) fn ready(&self) {
        self.status.send_modify(|status| status.ready = true);
        if let Some((group, what)) = &self.gate {
            group.set_ready(what);
        }
    }

    /// Records that the last run does not count as ready, and why.
    pub(super) fn unready(&self, why: &str) {
        self.status.send_modify(|status| status.ready = false);
        if let Some((group, what)) = &self.gate {
            group.set_unready(what, why);
        }
    }

    /// Records that the command is running, with this pid.
    pub(super) fn started(&self, pid: u32, command: &[String]) {
        self.status.send_modify(|status| status.started = true);
        self.tell(|series| series.started(pid, &command.join(" ")));
    }

    /// Records that the stop has to wait for these processes.
    pub(super) fn waits_for(&self, names: &[String]) {
        self.tell(|series| series.waits_for(names));
    }

    /// Records that the stop signal was sent.
    pub(super) fn told(&self, signal: StopSignal) {
        self.tell(|series| series.told(Signal::from(signal).as_raw()));
    }

    /// Records that a run exited successfully.
    pub(super) fn succeeded(&self) {
        self.status.send_modify(|status| status.succeeded = true);
    }

    /// Records a process of the run that had to be killed.
    pub(super) fn killed(&self, process: &str) {
        self.tell(|series| series.killed(process));
    }

    /// Records how the command ended.
    pub(super) fn ended(&self, how: &str) {
        self.tell(|series| series.ended(how));
    }

    /// Records that something of the run may still be alive.
    pub(super) fn lost(&self) {
        self.tell(telemetry::Child::lost);
    }

    /// Records that the last run is over.
    pub(super) fn gone(&self) {
        self.tell(|series| series.set_live(false));
    }

    /// Records that the process has failed and is not started again.
    pub(super) fn given_up(&self) {
        self.tell(telemetry::Child::given_up);
    }

    /// Counts a restart.
    pub(super) fn restarting(&self) {
        self.tell(telemetry::Child::restarted);
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.status.send_if_modified(|status| {
            let cut_short = !status.state.is_final();
            if cut_short {
                status.state = State::Stopped;
            }
            cut_short
        });
    }
}
