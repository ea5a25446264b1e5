//! The current status of every declared process.
//!
//! Each process has one `watch` channel. Its supervising task is the only writer and holds the
//! [`Post`]. The readers hold a receiver: the supervising tasks of processes that depend on it, and
//! of those that it depends on.
//!
//! The board keeps no history, and it does not decide: readers see the latest status only.

use std::{collections::BTreeMap, fmt, sync::Arc};

use rustix::process::Signal;
use tokio::sync::{Notify, watch};

use super::{Condition, StopSignal};
use crate::{TaskGroup, service::endpoint::Health, telemetry};

/// The statuses of all declared processes, by name.
#[derive(Debug)]
pub(super) struct Board {
    statuses: BTreeMap<String, watch::Receiver<Status>>,
    /// Notified when any state changes.
    changes: Arc<Notify>,
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

/// Conditions that other processes must meet.
#[derive(Debug)]
pub(crate) struct Dependencies(Vec<Need>);

/// A dependency: another process and the condition that it must meet, or an endpoint that must be up.
#[derive(Debug)]
pub(super) struct Need {
    name: String,
    condition: Condition,
    source: Source,
}

/// The channel that says whether a dependency is met.
#[derive(Debug)]
enum Source {
    Process(watch::Receiver<Status>),
    Endpoint(watch::Receiver<Health>),
    /// No task has the name.
    Unknown,
}

/// A dependency that can never be met.
#[derive(Debug, thiserror::Error)]
#[error("waiting for {need}, but it {}", fate(.state))]
pub(super) struct Unmet {
    need: String,
    /// The final state of the process; `None` if it is not declared.
    state: Option<State>,
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
    /// Stopped on request, until a request asks for a start. Shown as stopped.
    Held,
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
    changes: Arc<Notify>,
    /// The metrics of the process; `None` until [`Self::show`].
    series: Option<Arc<telemetry::Child>>,
    /// The group whose readiness follows that of the process, and the name under which it does;
    /// `None` if the process is not required.
    gate: Option<(TaskGroup, String)>,
}

// === impl Board ===

impl Board {
    /// Creates a board with a status for each name, and the writers in the order of `names`.
    pub(super) fn with<'a>(names: impl Iterator<Item = &'a String>) -> (Self, Vec<Post>) {
        let changes = Arc::new(Notify::new());
        let mut statuses = BTreeMap::new();
        let mut posts = Vec::new();
        for name in names {
            let (sender, status) = watch::channel(Status::waiting());
            posts.push(Post {
                status: sender,
                changes: Arc::clone(&changes),
                series: None,
                gate: None,
            });
            statuses.insert(name.clone(), status);
        }
        (Self { statuses, changes }, posts)
    }

    /// Waits until all processes are in a final state and one of them has failed, and returns the
    /// names of those that have. Never ends if none fails. A process may leave a final state on
    /// request; see [`Self::revived`].
    pub(super) async fn given_up(&self) -> Vec<String> {
        loop {
            // Created before the look, so that a change in between is not missed.
            let changed = self.changes.notified();
            let failed = self.failed();
            if !failed.is_empty() {
                return failed;
            }
            changed.await;
        }
    }

    /// Waits until a process is in a state that is not final, or none has failed.
    pub(super) async fn revived(&self) {
        loop {
            let changed = self.changes.notified();
            if self.failed().is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Returns the names of the processes that have failed, if all are in a final state.
    fn failed(&self) -> Vec<String> {
        let mut failed = Vec::new();
        for (name, status) in &self.statuses {
            match status.borrow().state {
                State::Failed => failed.push(name.clone()),
                state if state.is_final() => {}
                _ => return Vec::new(),
            }
        }
        failed
    }

    /// Returns dependencies with the statuses of their processes and endpoints.
    pub(super) fn dependencies(
        &self,
        conditions: &BTreeMap<String, Condition>,
        endpoints: &dyn Fn(&str) -> Option<watch::Receiver<Health>>,
    ) -> Dependencies {
        let need = |(name, condition): (&String, &Condition)| Need {
            name: name.clone(),
            condition: *condition,
            source: match (self.watch(name), endpoints(name)) {
                (Some(status), _) => Source::Process(status),
                (None, Some(health)) => Source::Endpoint(health),
                (None, None) => Source::Unknown,
            },
        };
        Dependencies(conditions.iter().map(need).collect())
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

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Held | Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

// === impl Dependencies ===

impl Dependencies {
    /// Returns a dependency that is not met at present; `None` if all are.
    pub(super) fn unmet(&mut self) -> Option<&mut Need> {
        self.0.iter_mut().find(|need| !need.is_met())
    }

    /// Returns the endpoints among them, by name.
    pub(super) fn endpoints(&self) -> Vec<(String, watch::Receiver<Health>)> {
        let endpoint = |need: &Need| match &need.source {
            Source::Endpoint(health) => Some((need.name.clone(), health.clone())),
            _ => None,
        };
        self.0.iter().filter_map(endpoint).collect()
    }

    /// Waits until all are met at the same time.
    ///
    /// # Errors
    /// Returns the reason, in words, once one of them can never be met.
    pub(crate) async fn met(&mut self) -> Result<(), String> {
        while let Some(need) = self.unmet() {
            need.met().await.map_err(|unmet| unmet.to_string())?;
        }
        Ok(())
    }
}

// === impl Need ===

impl Need {
    /// Returns true if the condition holds at present.
    fn is_met(&self) -> bool {
        match &self.source {
            Source::Process(status) => status.borrow().meets(self.condition),
            Source::Endpoint(health) => health.borrow().is_up,
            Source::Unknown => false,
        }
    }

    /// Waits until the condition is met. Never returns if it is about an endpoint that is no longer
    /// checked, which happens in a drain.
    ///
    /// # Errors
    /// Fails if the process is in a final state without meeting the condition, or
    /// if there is no such process.
    pub(super) async fn met(&mut self) -> Result<(), Unmet> {
        let condition = self.condition;
        let decided = |status: &Status| status.meets(condition) || status.state.is_final();
        let state = match &mut self.source {
            // `wait_for` fails when the writer is gone. The last state it leaves is always final.
            Source::Process(status) => status
                .wait_for(decided)
                .await
                .ok()
                .map(|status| status.state),
            Source::Endpoint(health) => {
                if health.wait_for(|health| health.is_up).await.is_err() {
                    std::future::pending::<()>().await;
                }
                return Ok(());
            }
            Source::Unknown => None,
        };
        if self.is_met() {
            return Ok(());
        }
        Err(Unmet {
            need: self.to_string(),
            state,
        })
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (&self.source, self.condition) {
            (Source::Endpoint(_), _) => "be up",
            (_, Condition::Started) => "start",
            (_, Condition::Ready) => "become ready",
            (_, Condition::Exited) => "exit successfully",
        };
        write!(f, "{} to {what}", self.name)
    }
}

/// Returns the reason for which a dependency can no longer be met, as the end of a sentence.
fn fate(state: &Option<State>) -> &'static str {
    match state {
        Some(State::Failed) => "has failed",
        Some(State::Exited) => "exited before that",
        Some(_) => "was stopped",
        None => "is not a declared process",
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

    /// Registers the process for metrics and the report, which every later change updates.
    pub(super) fn show(&mut self, name: &str, group: &TaskGroup) -> Arc<telemetry::Child> {
        let child = Arc::new(telemetry::Child::register(group, name));
        child.set_state(State::Waiting.word());
        self.series = Some(Arc::clone(&child));
        child
    }

    /// Updates the metrics, if they are registered.
    fn tell(&self, what: impl FnOnce(&telemetry::Child)) {
        if let Some(series) = &self.series {
            what(series);
        }
    }

    /// Enters a state.
    pub(super) fn enter(&self, state: State) {
        self.tell(|series| series.set_state(state.word()));
        self.status.send_modify(|status| status.state = state);
        self.changes.notify_waiters();
    }

    /// Records that the last run counts as ready.
    pub(super) fn ready(&self) {
        self.status.send_modify(|status| status.ready = true);
        if let Some((group, what)) = &self.gate {
            group.set_ready(what);
        }
    }

    /// Says what a process that is not ready waits for. It may count as ready by its last run.
    pub(super) fn wait_for(&self, why: &str) {
        if let Some((group, what)) = &self.gate {
            group.set_unready(what, why);
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

    /// Records why the run did not stop in time, a line for each process.
    pub(super) fn unstopped(&self, reasons: &[String]) {
        self.tell(|series| series.unstopped(reasons));
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
        self.changes.notify_waiters();
    }
}
