//! The log of the watch, in the order in which things happened.
//!
//! They are sent from a task of their own on the control runtime, because describing a thread takes
//! long, and the watch must not miss a look meanwhile.
//!
//! ```text
//! watch task ──Event──► log task ──describe──► headcount-look
//!                           └──closure──► headcount-log ──► the application's subscriber
//! ```
//!
//! The first two are tasks of the control runtime. If the subscriber blocks, events are dropped by
//! the queue of the [`Output`], and the watch goes on.

use super::describe::{Described, describe};
use super::episodes::Change;
#[cfg(tokio_unstable)]
use super::workers::{Turn, Worker};
use crate::control::output::Output;
use crate::dump::symbols::Symbolizer;
use crate::recorder::{self, Subject, What};
use crate::registry::heartbeats::{self, Stage};
use crate::registry::kind::Kind;
use crate::registry::query::on_threads::{self, Holder};
use crate::registry::root::Root;
use crate::report::brief;
use crate::task::TaskId;
use crate::threads;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// An observation of the watch.
#[derive(Debug)]
pub(super) enum Event {
    /// A poll of a task takes longer than the limit, or has returned.
    Poll {
        change: Change<Holder>,
        /// The number of the worker, if known.
        worker: Option<usize>,
    },
    /// Untracked tasks block a worker for longer than the limit, or it makes progress again.
    #[cfg(tokio_unstable)]
    Worker(Change<Worker>),
    /// A task has missed its heartbeat, or sends heartbeats again.
    Heartbeat {
        change: heartbeats::Change,
        /// The number of warnings suppressed since the last one.
        suppressed: u32,
    },
    /// Every worker is blocked. Sent once, until a look finds a worker free.
    AllStuck { workers: usize },
}

/// The task that turns observations into log events.
#[derive(Debug)]
pub(super) struct Log {
    /// For a second look at the tasks on threads, and for the number of the root.
    root: Arc<Root>,
    /// The events go through its log queue.
    output: Output,
    symbolizer: Symbolizer,
    /// Tasks without a warning, because they had handed their worker to another thread. The end of
    /// their poll is not logged either. At most as many as there are polls in progress: the end of
    /// a poll removes its task.
    in_place: HashSet<TaskId>,
}

// === impl Log ===

impl Log {
    pub(super) fn new(root: &Arc<Root>, output: &Output, symbolizer: &Symbolizer) -> Self {
        Self {
            root: Arc::clone(root),
            output: output.clone(),
            symbolizer: symbolizer.clone(),
            in_place: HashSet::new(),
        }
    }

    /// Logs observations until the sender is dropped.
    ///
    /// One observation is handled after the other, so a description that takes long delays the next
    /// log event. The queue is unbounded; the rate limits of the watch keep it short.
    pub(super) async fn run(mut self, mut events: UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Poll { change, worker } => self.poll(change, worker).await,
                #[cfg(tokio_unstable)]
                Event::Worker(change) => self.worker(change).await,
                Event::Heartbeat { change, suppressed } => self.heartbeat(change, suppressed),
                Event::AllStuck { workers } => self.all_stuck(workers),
            }
        }
    }

    /// Describes the thread and logs the warning, or logs the end. Nothing is logged of a task that
    /// turns out to be inside `block_in_place`.
    async fn poll(&mut self, change: Change<Holder>, worker: Option<usize>) {
        match change {
            Change::Began {
                of,
                lasted,
                suppressed,
            } => {
                let scope = self.root.scope;
                let is_still = move || {
                    let mut on = on_threads::holders(scope).into_iter();
                    on.any(|other| other.is_same(&of))
                };
                let described =
                    describe(self.root.number, &self.symbolizer, of.tid, is_still).await;
                if described.gave_worker_away {
                    self.in_place.insert(of.id);
                } else {
                    self.long_poll(of, worker, (lasted, suppressed), described);
                }
            }
            Change::Ended { of, lasted } => {
                if !self.in_place.remove(&of.id) {
                    self.poll_returned(of, lasted);
                }
            }
        }
    }

    /// Describes the worker's thread and logs the warning, or logs the progress.
    #[cfg(tokio_unstable)]
    async fn worker(&self, change: Change<Worker>) {
        match change {
            Change::Began {
                of,
                lasted,
                suppressed,
            } => {
                let same = of.clone();
                let is_still = move || same.is_still();
                let described =
                    describe(self.root.number, &self.symbolizer, of.turn.tid, is_still).await;
                self.blocked_worker(&of, (lasted, suppressed), described);
            }
            Change::Ended { of, lasted } => self.worker_progress(of.turn, lasted),
        }
    }

    /// Logs the warning about a poll. Fields that are `None` are left out by `tracing`.
    fn long_poll(
        &self,
        holder: Holder,
        worker: Option<usize>,
        (held, suppressed): (Duration, u32),
        seen: Described,
    ) {
        let thread = thread_name(holder.tid);
        let unsaid = (suppressed > 0).then_some(suppressed);
        let words = (thread.as_deref(), seen.waits.as_deref());
        recorder::note(What::Blocks, Some(of_holder(&holder)), &on_thread(words));
        self.output.log(move || {
            let kind: &Kind = holder.kind;
            tracing::warn!(
                target: "headcount::worker",
                group = kind.group(), task = kind.name, id = holder.id.get(), spawned = %kind.site,
                thread, tid = holder.tid, worker, held_seconds = held.as_secs_f64(),
                waits = seen.waits, stack = seen.stack, no_stack = seen.no_stack, unsaid,
                "{}", match (holder.dropping, brief(held)) {
                    (false, held) => format!("task has blocked its thread for {held} without yielding"),
                    (true, held) => format!("task was cancelled, and its drop has blocked its thread for {held}"),
                }
            );
        });
    }

    /// Logs the end of a poll that was warned of, at the info level.
    fn poll_returned(&self, holder: Holder, held: Duration) {
        let thread = thread_name(holder.tid);
        recorder::note(What::Unblocked, Some(of_holder(&holder)), &brief(held));
        self.output.log(move || {
            let kind: &Kind = holder.kind;
            tracing::info!(
                target: "headcount::worker",
                group = kind.group(), task = kind.name, id = holder.id.get(),
                thread, tid = holder.tid, held_seconds = held.as_secs_f64(),
                "task stopped blocking its thread after {}", brief(held)
            );
        });
    }

    /// Logs the warning about a worker. The message tells a worker that sleeps from one that is
    /// busy.
    #[cfg(tokio_unstable)]
    fn blocked_worker(&self, on: &Worker, (held, suppressed): (Duration, u32), seen: Described) {
        let (turn, sleeps) = (on.turn, on.sleeps());
        let thread = thread_name(turn.tid);
        let unsaid = (suppressed > 0).then_some(suppressed);
        let words = (thread.as_deref(), seen.waits.as_deref());
        recorder::note(What::Blocks, None, &on_thread(words));
        self.output.log(move || {
            let held_for = brief(held);
            let said = if sleeps {
                format!(
                    "untracked task has blocked its worker for {held_for}: it sleeps inside a poll"
                )
            } else {
                format!("untracked tasks have kept a worker busy for {held_for} with long polls")
            };
            tracing::warn!(
                target: "headcount::worker",
                thread, tid = turn.tid, worker = turn.number, held_seconds = held.as_secs_f64(),
                waits = seen.waits, stack = seen.stack, no_stack = seen.no_stack, unsaid,
                "{said}"
            );
        });
    }

    /// Logs the end of a stall of a worker, at the info level.
    #[cfg(tokio_unstable)]
    fn worker_progress(&self, turn: Turn, held: Duration) {
        let (thread, tid, worker) = (thread_name(turn.tid), turn.tid, turn.number);
        recorder::note(What::Unblocked, None, &brief(held));
        self.output.log(move || {
            tracing::info!(
                target: "headcount::worker",
                thread, tid, worker, held_seconds = held.as_secs_f64(),
                "worker makes progress again after {}", brief(held)
            );
        });
    }

    /// Logs a stall as a warning, and its end at the info level.
    fn heartbeat(&self, change: heartbeats::Change, suppressed: u32) {
        let unsaid = (suppressed > 0).then_some(suppressed);
        let what = match change.stage {
            Stage::Stalled => What::Stalled,
            _ => What::BeatsAgain,
        };
        let of = Subject {
            kind: change.kind.number,
            id: change.id.get(),
        };
        recorder::note(what, Some(of), &brief(change.silent));
        self.output.log(move || {
            let (kind, id, silent) = (change.kind, change.id.get(), brief(change.silent));
            if change.stage == Stage::Stalled {
                let (every, required) = (brief(change.every), kind.options.required);
                tracing::warn!(
                    target: "headcount::task",
                    group = kind.group(), task = kind.name, id, spawned = %kind.site, required,
                    silent_seconds = change.silent.as_secs_f64(), unsaid,
                    "task is stalled: no heartbeat for {silent}, expected one every {every}"
                );
            } else {
                tracing::info!(
                    target: "headcount::task",
                    group = kind.group(), task = kind.name, id,
                    silent_seconds = change.silent.as_secs_f64(),
                    "task sends heartbeats again after {silent}"
                );
            }
        });
    }

    /// Logs that no worker is free. Its end shows in the ends of the polls.
    fn all_stuck(&self, workers: usize) {
        recorder::note(What::AllBlocked, None, "");
        self.output.log(move || {
            let sentence = match workers {
                1 => "the only worker is blocked: no task can run until it yields".to_owned(),
                n => format!("all {n} workers are blocked: no task can run until one yields"),
            };
            tracing::warn!(
                target: "headcount::worker", workers,
                "{sentence}"
            );
        });
    }
}

/// Returns the task of a holder, for the black box.
fn of_holder(holder: &Holder) -> Subject {
    Subject {
        kind: holder.kind.number,
        id: holder.id.get(),
    }
}

/// Returns the thread, and what it waits for, for the black box.
fn on_thread((thread, does): (Option<&str>, Option<&str>)) -> String {
    let thread = thread.unwrap_or("an ended thread");
    match does {
        Some(does) => format!("{thread}: {does}"),
        None => thread.to_owned(),
    }
}

/// Returns the name under which the thread is registered. `None` if it has ended. Copies the table
/// of registered threads, which is fine for a rare event.
fn thread_name(tid: u32) -> Option<String> {
    let known = threads::all().into_iter().find(|known| known.tid == tid);
    known.map(|known| known.name)
}
