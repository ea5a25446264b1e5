//! The host of a culprit: the same code runs under headcount and its peers, each used as its documentation shows.

use headcount::TaskGroup;
use std::convert::Infallible;
use std::future::pending;
use tokio_graceful_shutdown::{SubsystemBuilder, SubsystemHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) enum Host<'a> {
    Headcount(TaskGroup),
    Tracker(TaskTracker, CancellationToken),
    Graceful(&'a SubsystemHandle),
}

/// Notifies a culprit that the service stops.
pub(crate) enum Stop {
    Group(TaskGroup),
    Token(CancellationToken),
}

/// Spawns from within a task.
pub(crate) enum Spawner {
    Group(TaskGroup),
    Tracker(TaskTracker),
    /// The handle of a subsystem stays with the subsystem.
    Bare,
}

// === impl Host ===

impl Host<'_> {
    #[track_caller]
    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        match self {
            Self::Headcount(tasks) => drop(tasks.spawn(name, task)),
            Self::Tracker(tracker, _) => drop(tracker.spawn(task)),
            Self::Graceful(system) => {
                let run = async move |_: &mut SubsystemHandle| {
                    task.await;
                    Ok::<(), Infallible>(())
                };
                system.start(SubsystemBuilder::new(name, run));
            }
        }
    }

    #[track_caller]
    pub(crate) fn spawn_blocking(&self, name: &'static str, work: fn()) {
        match self {
            Self::Headcount(tasks) => drop(tasks.spawn_blocking(name, work)),
            Self::Tracker(tracker, _) => drop(tracker.spawn_blocking(work)),
            #[expect(clippy::disallowed_methods, reason = "it has no such function")]
            Self::Graceful(_) => self.spawn(name, async move {
                tokio::task::spawn_blocking(work).await.ok();
            }),
        }
    }

    pub(crate) fn stop(&self) -> Stop {
        match self {
            Self::Headcount(tasks) => Stop::Group(tasks.clone()),
            Self::Tracker(_, token) => Stop::Token(token.clone()),
            Self::Graceful(system) => Stop::Token(system.create_cancellation_token()),
        }
    }

    pub(crate) fn spawner(&self) -> Spawner {
        match self {
            Self::Headcount(tasks) => Spawner::Group(tasks.clone()),
            Self::Tracker(tracker, _) => Spawner::Tracker(tracker.clone()),
            Self::Graceful(_) => Spawner::Bare,
        }
    }
}

// === impl Stop ===

impl Stop {
    /// Waits until the service stops.
    pub(crate) async fn told(&self) {
        match self {
            Self::Group(tasks) => {
                tasks.until_draining(pending::<()>()).await;
            }
            Self::Token(token) => token.cancelled().await,
        }
    }
}

// === impl Spawner ===

impl Spawner {
    /// Waits until the task has ended, regardless of the outcome.
    #[track_caller]
    pub(crate) fn run(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        enum Handle {
            Headcount(headcount::TaskHandle<()>),
            Tokio(tokio::task::JoinHandle<()>),
        }
        #[expect(clippy::disallowed_methods, reason = "the peer spawns like this")]
        let handle = match self {
            Self::Group(tasks) => Handle::Headcount(tasks.spawn(name, task)),
            Self::Tracker(tracker) => Handle::Tokio(tracker.spawn(task)),
            Self::Bare => Handle::Tokio(tokio::spawn(task)),
        };
        async {
            match handle {
                Handle::Headcount(handle) => drop(handle.await),
                Handle::Tokio(handle) => drop(handle.await),
            }
        }
    }
}
