//! What every process is doing: written by its supervising task, read by those that depend on it and by whoever lists the children.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Instant};

use tokio::sync::watch;

use super::{Condition, exit::Exit};
use crate::{TaskGroup, telemetry};

/// All declared processes, by name.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<BTreeMap<String, watch::Receiver<Status>>>);

/// What a process is doing.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: State,
    /// The command's pid, from its start until nothing of its tree is left.
    pub(crate) pid: Option<u32>,
    /// How often it was started after the first time.
    pub(crate) restarts: u32,
    /// When it entered its state.
    pub(crate) since: Instant,
    /// How it ended last.
    pub(crate) last_exit: Option<Exit>,
    /// It was started at least once.
    started: bool,
    /// It became ready in its last run, and that run did not fail.
    ready: bool,
    /// It ended with success at least once.
    succeeded: bool,
}

/// The states of a declared process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// For what it depends on.
    Waiting,
    /// Running, and not yet ready.
    Starting,
    /// Running and ready.
    Ready,
    /// Failed, and waits before its next start.
    Backoff,
    /// Asked to end.
    Stopping,
    /// Ended by headcount; final.
    Stopped,
    /// Ended with success; final.
    Exited,
    /// Failed for good; final.
    Failed,
}

/// The writing side of one process; a supervising task that is dropped leaves a final state behind.
#[derive(Debug)]
pub(super) struct Post {
    status: watch::Sender<Status>,
    /// The same as metrics; none in tests of the board alone.
    series: Option<telemetry::Child>,
}

// === impl Board ===

impl Board {
    /// A board with a place for each name, and what writes there.
    pub(super) fn with<'a>(names: impl Iterator<Item = &'a String>) -> (Self, Vec<Post>) {
        let mut places = BTreeMap::new();
        let mut posts = Vec::new();
        for name in names {
            let (sender, status) = watch::channel(Status::waiting());
            posts.push(Post {
                status: sender,
                series: None,
            });
            places.insert(name.clone(), status);
        }
        (Self(Arc::new(places)), posts)
    }

    /// Follows one process; `None` when there is none of that name.
    pub(crate) fn watch(&self, name: &str) -> Option<watch::Receiver<Status>> {
        self.0.get(name).cloned()
    }
}

// === impl Status ===

impl Status {
    fn waiting() -> Self {
        Self {
            state: State::Waiting,
            pid: None,
            restarts: 0,
            since: Instant::now(),
            last_exit: None,
            started: false,
            ready: false,
            succeeded: false,
        }
    }

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
    /// No state follows.
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Stopped | Self::Exited | Self::Failed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Exited => "exited",
            Self::Failed => "failed",
        })
    }
}

// === impl Post ===

impl Post {
    /// From here on the process is in the metrics too.
    pub(super) fn show(&mut self, name: &str, tasks: &TaskGroup) {
        self.series = Some(telemetry::Child::register(tasks, name));
    }

    fn tell(&self, what: impl FnOnce(&telemetry::Child)) {
        if let Some(series) = &self.series {
            what(series);
        }
    }

    pub(super) fn enter(&self, state: State) {
        self.status.send_modify(|status| status.enter(state));
    }

    /// The last run counts as ready, or no more.
    pub(super) fn ready(&self, ready: bool) {
        self.status.send_modify(|status| status.ready = ready);
    }

    pub(super) fn started(&self, pid: u32) {
        self.status.send_modify(|status| {
            status.pid = Some(pid);
            status.started = true;
        });
        self.tell(|series| series.set_live(true));
    }

    pub(super) fn exited(&self, exit: Exit, success: bool) {
        self.status.send_modify(|status| {
            status.last_exit = Some(exit);
            status.succeeded |= success;
        });
    }

    /// Nothing of the last run is left.
    pub(super) fn gone(&self) {
        self.status.send_modify(|status| status.pid = None);
        self.tell(|series| series.set_live(false));
    }

    pub(super) fn restarting(&self) {
        self.status.send_modify(|status| status.restarts += 1);
        self.tell(telemetry::Child::restarted);
    }
}

impl Drop for Post {
    fn drop(&mut self) {
        self.status.send_if_modified(|status| {
            let cut_short = !status.state.is_final();
            if cut_short {
                status.enter(State::Stopped);
            }
            cut_short
        });
    }
}

impl Status {
    fn enter(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }
}
