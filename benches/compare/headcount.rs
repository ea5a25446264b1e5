//! headcount as a variant. All that touches its interface is here.

use crate::peers::{self, Cancel, Peer};
use headcount::{TaskGroup, TaskHandle};
use std::{future::Future, time::Duration};
use tokio::runtime::Runtime;

pub(crate) const NAME: &str = "headcount";
/// What the reader must know before believing a figure of ours.
pub(crate) const CAVEAT: Option<&str> =
    Some("The rows of headcount are of a placeholder that tracks nothing: they are no figures.");
/// Whether groups can cancel.
pub(crate) const IS_COMPLETE: bool = false;

/// Tasks through a group of headcount.
pub(crate) struct Headcount(TaskGroup);

/// A runtime that headcount owns, with its hooks.
pub(crate) struct Owned(Runtime);

/// Tracking on the runtime that the caller is in.
pub(crate) fn attached() -> Headcount {
    Headcount(TaskGroup::stub())
}

/// How many live tasks a snapshot lists; `None` while there is no snapshot.
pub(crate) fn listed(_: &Headcount) -> Option<usize> {
    None
}

/// Reads every counter once; how many names they belong to, or `None` while there are none.
pub(crate) fn read_counters(_: &Headcount) -> Option<usize> {
    None
}

/// From the end of `main` to the end of the third layer, with `tasks` idle tasks that end when they
/// are told to drain; `None` while there are no layers.
pub(crate) fn three_layers(_tasks: usize) -> Option<Duration> {
    None
}

// === impl Owned ===

impl Owned {
    pub(crate) fn new(workers: usize) -> Self {
        Self(peers::pool(workers))
    }

    pub(crate) fn tasks(&self) -> Headcount {
        Headcount(TaskGroup::stub())
    }

    /// Runs `driver` as a task of this runtime.
    pub(crate) fn drive<F>(&self, driver: F) -> F::Output
    where
        F: Future<Output: Send> + Send + 'static,
    {
        peers::drive(&self.0, driver)
    }
}

// === impl Headcount ===

impl Peer for Headcount {
    type Handle = TaskHandle<()>;

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) -> Self::Handle {
        self.0.spawn("task", task)
    }

    async fn join(&mut self, handles: Vec<Self::Handle>) {
        for handle in handles {
            handle.await.ok();
        }
    }
}

impl Cancel for Headcount {
    async fn cancel(&mut self, _: Vec<Self::Handle>) {
        self.0.drain().await;
    }
}
