//! What the vigil says, as log events, in the order in which it happened.

use super::super::voice::Voice;
use super::described::{Described, describe};
#[cfg(tokio_unstable)]
use super::workers::Held;
use crate::registry::heartbeats;
use crate::registry::holders::{self, Holder};
use crate::registry::kind::Kind;
use crate::registry::root::Root;
use crate::report::brief;
use crate::task::TaskId;
use crate::threads;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// Something that happened.
#[derive(Debug)]
pub(in crate::shutdown) enum News {
    /// A task is in one poll for so long.
    Holds {
        holder: Holder,
        /// The number of the worker, where it is known.
        worker: Option<usize>,
        held: Duration,
        /// How many more did the same and are not told of.
        more: u32,
    },
    /// It has left its thread after so long.
    CameBack { holder: Holder, held: Duration },
    /// Untracked tasks hold a worker for so long.
    #[cfg(tokio_unstable)]
    Untracked {
        on: Held,
        held: Duration,
        /// How many more did the same and are not told of.
        more: u32,
    },
    /// They do no longer.
    #[cfg(tokio_unstable)]
    WorkerCameBack { on: Held, held: Duration },
    /// A task has missed its heartbeat, or beats again.
    Heartbeat {
        change: heartbeats::Change,
        /// How many more missed theirs and are not told of.
        more: u32,
    },
    /// Every worker is held.
    AllStuck { workers: usize },
}

/// Says it.
#[derive(Debug)]
pub(in crate::shutdown) struct Teller {
    root: Arc<Root>,
    voice: Voice,
    /// Those of whom it was not said that they hold a worker, because they had given it away.
    unsaid: HashSet<TaskId>,
}

// === impl Teller ===

impl Teller {
    pub(super) fn new(root: &Arc<Root>, voice: &Voice) -> Self {
        Self {
            root: Arc::clone(root),
            voice: voice.clone(),
            unsaid: HashSet::new(),
        }
    }

    /// Says what comes until nobody is left who could send it.
    pub(in crate::shutdown) async fn run(mut self, mut news: UnboundedReceiver<News>) {
        while let Some(news) = news.recv().await {
            match news {
                News::Holds {
                    holder,
                    worker,
                    held,
                    more,
                } => {
                    let scope = self.root.scope;
                    let is_still = move || {
                        let mut on = holders::holders(scope).into_iter();
                        on.any(|other| other.is_same(&holder))
                    };
                    let described = describe(self.root.number, holder.tid, is_still).await;
                    if described.gave_worker_away {
                        self.unsaid.insert(holder.id);
                    } else {
                        self.holds(holder, worker, held, more, described);
                    }
                }
                News::CameBack { holder, held } => {
                    if !self.unsaid.remove(&holder.id) {
                        self.came_back(holder, held);
                    }
                }
                #[cfg(tokio_unstable)]
                News::Untracked { on, held, more } => {
                    let same = on.clone();
                    let is_still = move || same.is_still();
                    let described = describe(self.root.number, on.tid, is_still).await;
                    self.untracked(on, held, more, described);
                }
                #[cfg(tokio_unstable)]
                News::WorkerCameBack { on, held } => self.worker_came_back(&on, held),
                News::Heartbeat { change, more } => self.heartbeat(change, more),
                News::AllStuck { workers } => self.all_stuck(workers),
            }
        }
    }

    fn holds(
        &self,
        holder: Holder,
        worker: Option<usize>,
        held: Duration,
        more: u32,
        seen: Described,
    ) {
        let thread = thread_name(holder.tid);
        let more = (more > 0).then_some(more);
        self.voice.log(move || {
            let kind: &Kind = holder.kind;
            tracing::warn!(
                target: "headcount::worker",
                group = kind.group(), task = kind.name, id = holder.id.get(), spawned = %kind.site,
                thread, tid = holder.tid, worker, held_seconds = held.as_secs_f64(),
                waits = seen.waits, stack = seen.stack, no_stack = seen.no_stack, unsaid = more,
                "task holds its thread for {} in one poll: nothing else runs there", brief(held)
            );
        });
    }

    fn came_back(&self, holder: Holder, held: Duration) {
        let thread = thread_name(holder.tid);
        self.voice.log(move || {
            let kind: &Kind = holder.kind;
            tracing::info!(
                target: "headcount::worker",
                group = kind.group(), task = kind.name, id = holder.id.get(),
                thread, tid = holder.tid, held_seconds = held.as_secs_f64(),
                "task came back after {}", brief(held)
            );
        });
    }

    #[cfg(tokio_unstable)]
    fn untracked(&self, on: Held, held: Duration, more: u32, seen: Described) {
        let thread = thread_name(on.tid);
        let more = (more > 0).then_some(more);
        self.voice.log(move || {
            let held_for = brief(held);
            let said = if on.is_asleep() {
                format!(
                    "untracked task sleeps on its worker for {held_for}: nothing else runs there"
                )
            } else {
                format!("untracked tasks keep a worker busy for {held_for}, in one poll or few")
            };
            tracing::warn!(
                target: "headcount::worker",
                thread, tid = on.tid, worker = on.worker, held_seconds = held.as_secs_f64(),
                waits = seen.waits, stack = seen.stack, no_stack = seen.no_stack, unsaid = more,
                "{said}"
            );
        });
    }

    #[cfg(tokio_unstable)]
    fn worker_came_back(&self, on: &Held, held: Duration) {
        let (thread, tid, worker) = (thread_name(on.tid), on.tid, on.worker);
        self.voice.log(move || {
            tracing::info!(
                target: "headcount::worker",
                thread, tid, worker, held_seconds = held.as_secs_f64(),
                "worker came back after {}", brief(held)
            );
        });
    }

    fn heartbeat(&self, change: heartbeats::Change, more: u32) {
        let more = (more > 0).then_some(more);
        self.voice.log(move || {
            let (kind, id, silent) = (change.kind, change.id.get(), brief(change.silent));
            if change.is_stalled {
                let (every, required) = (brief(change.every), kind.options.required);
                tracing::warn!(
                    target: "headcount::task",
                    group = kind.group(), task = kind.name, id, spawned = %kind.site, required,
                    silent_seconds = change.silent.as_secs_f64(), unsaid = more,
                    "task is stalled: no heartbeat for {silent}, and it declared one every {every}"
                );
            } else {
                tracing::info!(
                    target: "headcount::task",
                    group = kind.group(), task = kind.name, id,
                    silent_seconds = change.silent.as_secs_f64(),
                    "task beats again after {silent}"
                );
            }
        });
    }

    fn all_stuck(&self, workers: usize) {
        self.voice.log(move || {
            let sentence = match workers {
                1 => "the only worker is stuck".to_owned(),
                n => format!("all {n} workers are stuck"),
            };
            tracing::warn!(
                target: "headcount::worker", workers,
                "{sentence}: no task runs until one comes back"
            );
        });
    }
}

/// What the thread was registered as.
fn thread_name(tid: u32) -> Option<String> {
    let known = threads::all().into_iter().find(|known| known.tid == tid);
    known.map(|known| known.name)
}
