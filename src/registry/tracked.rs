//! The tracked future, and the row that it holds in the registry.
//!
//! A row begins when the task is spawned and ends after its future is dropped, however that happens: by completion, by
//! cancel, by a panic, or by the runtime that goes away.

use super::kind::{self, Kind};
#[cfg(feature = "otel")]
use super::observer::{self, Current, End, NewTask, TaskSpan};
use super::root::{self, Event};
use super::scope::{self, Scope};
use super::slot::{Entry, Slot};
use super::{cancels, chains, clock, panics, shard, slots, untracked};
use crate::audit::asking::Asking;
#[cfg(feature = "otel")]
use crate::task::Traceparent;
use crate::task::{Panic, TaskError, TaskId, TaskOutcome};
use pin_project_lite::pin_project;
use std::fmt::Display;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

pin_project! {
    /// A future whose life is a row of the registry.
    ///
    /// It adds no allocation. It gives its future's output, or why there is none.
    #[derive(Debug)]
    pub(crate) struct Tracked<F: Future, J> {
        row: Row,
        judge: J,
        #[pin]
        future: Option<F>,
    }

    impl<F: Future, J> PinnedDrop for Tracked<F, J> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.row.is_live() {
                let _unmarked = untracked::mark_untracked();
                // Dropped by somebody else: an abort, or the runtime.
                let dropped = this.row.poll(|| this.future.set(None));
                this.row.end_dropped(dropped);
            }
        }
    }
}

/// Tells completed from failed.
pub(crate) trait Judge<T> {
    /// The error's text, when the output is one.
    fn failure(&self, output: &T) -> Option<String>;
}

/// Every output is a success.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Any;

/// `Err` is a failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OkOrErr;

/// A live task's hold on its slot. One that is never ended is ended as cancelled when it is dropped.
#[derive(Debug)]
pub(crate) struct Row {
    slot: &'static Slot,
    live: bool,
    polled: bool,
    /// Whether the slot has the waker.
    published: bool,
    /// The word of `cancels` when the slot was last looked into.
    seen: u64,
    #[cfg(feature = "otel")]
    observed: Observed,
}

/// What an observer of the task's root has of it.
#[cfg(feature = "otel")]
#[derive(Debug)]
enum Observed {
    /// Nobody observes.
    No,
    /// It has no span.
    Unsampled,
    Span(Box<dyn TaskSpan>),
}

/// What a task does with its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Poll,
    /// It was asked to end.
    End,
    /// It was asked what it awaits.
    Answer,
}

type Payload = Box<dyn std::any::Any + Send>;

// === impl Judge ===

impl<T> Judge<T> for Any {
    #[inline]
    fn failure(&self, _: &T) -> Option<String> {
        None
    }
}

impl<T, E: Display> Judge<Result<T, E>> for OkOrErr {
    #[inline]
    fn failure(&self, output: &Result<T, E>) -> Option<String> {
        output.as_ref().err().map(ToString::to_string)
    }
}

// === impl Tracked ===

impl<F: Future, J> Tracked<F, J> {
    #[inline]
    pub(crate) fn new(row: Row, judge: J, future: F) -> Self {
        Self {
            row,
            judge,
            future: Some(future),
        }
    }
}

impl<F: Future, J: Judge<F::Output>> Future for Tracked<F, J> {
    type Output = Result<F::Output, TaskError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut polled = Ok(Poll::Pending);
        match this.row.turn() {
            Turn::Poll => {}
            Turn::End => return Poll::Ready(Err(cancel(this.row, this.future))),
            Turn::Answer => polled = answer(this.row, this.future.as_mut(), cx.waker()),
        }
        if let Ok(Poll::Pending) = polled {
            polled = poll(this.row, this.future.as_mut(), cx);
        }
        match polled {
            Ok(Poll::Pending) if this.row.park(cx.waker()) => Poll::Pending,
            Ok(Poll::Pending) => Poll::Ready(Err(cancel(this.row, this.future))),
            Ok(Poll::Ready(output)) => {
                this.row.end_with(this.judge.failure(&output));
                Poll::Ready(Ok(output))
            }
            Err(payload) => {
                // What the panic left of the future is dropped before the row ends, and may panic again.
                drop(catch_unwind(AssertUnwindSafe(|| this.future.set(None))));
                Poll::Ready(Err(this.row.end_panicked(payload)))
            }
        }
    }
}

#[inline]
fn poll<F: Future>(
    row: &Row,
    mut future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Result<Poll<F::Output>, Payload> {
    row.poll(|| {
        let polled = future.as_mut().as_pin_mut();
        let polled = polled.expect("a row lives as long as its future").poll(cx);
        if polled.is_ready() {
            future.set(None);
        }
        polled
    })
}

/// Polls the future with a waker that notes who keeps it. Who asked may have the chains; the poll counts as any other.
#[cold]
fn answer<F: Future>(
    row: &Row,
    future: Pin<&mut Option<F>>,
    waker: &Waker,
) -> Result<Poll<F::Output>, Payload> {
    let asking = Asking::new(waker);
    let polled = poll(row, future, &mut Context::from_waker(&asking.waker()));
    chains::answer(row.id(), asking.close());
    polled
}

#[cold]
fn cancel<F>(row: &mut Row, mut future: Pin<&mut Option<F>>) -> TaskError {
    let dropped = row.poll(|| future.set(None));
    row.end_dropped(dropped).unwrap_or(TaskError::Cancelled)
}

// === impl Row ===

impl Row {
    /// Enters a task. From here on it is counted and listed.
    #[inline]
    pub(crate) fn start(kind: &'static Kind, scope: &'static Scope) -> Self {
        let started = clock::raw();
        // Before the slot is filled: whoever cancels from here on finds the slot, and changes the word.
        let seen = cancels::now();
        let slot = slots::take();
        shard::with(|shard| {
            let entry = Entry {
                id: shard.next_id(),
                started,
                kind: kind.number,
                scope: scope.number,
            };
            shard::bump(&shard.kind(kind.number).started);
            let counters = shard.scope(scope.number).of(kind.options.daemon);
            shard::bump(&counters.started);
            slot.occupy(entry);
        });
        Self {
            slot,
            live: true,
            polled: false,
            published: false,
            seen: if cancels::is_under_way(seen) {
                cancels::NEVER
            } else {
                seen
            },
            #[cfg(feature = "otel")]
            observed: Observed::No,
        }
    }

    /// Has the root's observer, if there is one, make a span of the task.
    #[cfg(feature = "otel")]
    #[inline]
    pub(crate) fn observe(&mut self, root: &root::Root, parent: Option<Traceparent>) {
        let Some(observer) = root.observer() else {
            return;
        };
        let entry = self.slot.own_entry();
        let span = observer.spawned(&NewTask {
            id: TaskId(entry.id),
            kind: kind::at(entry.kind),
            parent,
        });
        self.observed = span.map_or(Observed::Unsampled, Observed::Span);
    }

    pub(crate) fn id(&self) -> TaskId {
        TaskId(self.slot.own_id())
    }

    #[inline]
    fn is_live(&self) -> bool {
        self.live
    }

    /// What the task was asked to do. Called before each poll.
    #[inline]
    pub(crate) fn turn(&mut self) -> Turn {
        if !self.polled {
            self.polled = true;
            self.slot.mark_polled();
            if scope::at(self.slot.own_scope()).is_cancelling() {
                return Turn::End;
            }
        }
        let word = cancels::now();
        if word == self.seen {
            Turn::Poll
        } else {
            self.look(word)
        }
    }

    #[cold]
    fn look(&mut self, word: u64) -> Turn {
        if !cancels::is_under_way(word) {
            self.seen = word;
        }
        if self.slot.lost_waker() {
            self.published = false;
        }
        let asked = self.slot.was_asked();
        if self.slot.is_cancelling() {
            Turn::End
        } else if asked {
            Turn::Answer
        } else {
            Turn::Poll
        }
    }

    /// Calls `f`, which polls or drops the task's future, and says meanwhile that this thread is at it.
    #[inline]
    pub(crate) fn poll<T>(&self, f: impl FnOnce() -> T) -> Result<T, Payload> {
        #[cfg(feature = "otel")]
        match &self.observed {
            Observed::No => {}
            Observed::Unsampled => {
                return observer::within(Current::Unsampled, || self.poll_counted(f));
            }
            Observed::Span(span) => {
                let (mut f, mut polled) = (Some(f), None);
                span.around(&mut || polled = f.take().map(|f| self.poll_counted(f)));
                return polled.expect("a span calls what it is around");
            }
        }
        self.poll_counted(f)
    }

    #[inline]
    fn poll_counted<T>(&self, f: impl FnOnce() -> T) -> Result<T, Payload> {
        let Some(shard) = shard::own() else {
            // One of the few threads without a shard of its own.
            return catch_unwind(AssertUnwindSafe(f));
        };
        let before = shard.set_current(self.slot.place());
        let result = catch_unwind(AssertUnwindSafe(f));
        shard.set_current(before);
        result
    }

    /// Leaves the waker where a canceller finds it; false when one came before.
    #[inline]
    fn park(&mut self, waker: &Waker) -> bool {
        if !self.published {
            self.published = true;
            self.slot.publish(waker);
            return !self.slot.is_cancelling();
        }
        true
    }

    /// Ends the row of a task that returned.
    #[inline]
    pub(crate) fn end_with(&mut self, failure: Option<String>) {
        match failure {
            None => self.end(TaskOutcome::Completed, None),
            Some(error) => {
                let kind = kind::at(self.slot.own_entry().kind);
                tracing::warn!(
                    target: "headcount::task",
                    group = kind.group(), task = kind.name, id = self.id().get(), error = &*error,
                    "task failed"
                );
                self.end(TaskOutcome::Failed, Some(&error));
            }
        }
    }

    /// Ends the row of a task that was dropped before it returned; `dropped` tells whether the drop panicked.
    pub(crate) fn end_dropped(&mut self, dropped: Result<(), Payload>) -> Option<TaskError> {
        match dropped {
            Ok(()) => {
                self.end(TaskOutcome::Cancelled, None);
                None
            }
            Err(payload) => Some(self.end_panicked(payload)),
        }
    }

    #[cold]
    pub(crate) fn end_panicked(&mut self, payload: Payload) -> TaskError {
        let panic = Panic::new(payload, panics::take_location());
        let kind = kind::at(self.slot.own_entry().kind);
        // A subscriber that panics must not take the row with it.
        let told = catch_unwind(AssertUnwindSafe(|| {
            tracing::error!(
                target: "headcount::task",
                group = kind.group(), task = kind.name, id = self.id().get(), spawned = %kind.site,
                "task panicked: {panic}"
            );
        }));
        drop(told);
        self.end(TaskOutcome::Panicked, Some(&panic.to_string()));
        TaskError::Panicked(panic)
    }

    #[cfg(feature = "otel")]
    #[inline]
    fn tell_observer(&mut self, root: u64, ended: u64, outcome: TaskOutcome, error: Option<&str>) {
        let observed = std::mem::replace(&mut self.observed, Observed::No);
        let is_told = match observed {
            Observed::No => false,
            Observed::Unsampled => outcome != TaskOutcome::Completed,
            Observed::Span(_) => true,
        };
        if !is_told {
            return;
        }
        let entry = self.slot.own_entry();
        let end = End {
            id: TaskId(entry.id),
            kind: kind::at(entry.kind),
            started: entry.started,
            told: scope::at(entry.scope).told(),
            ended,
            outcome,
            error,
        };
        // It logs, and a subscriber that panics must not take the row with it.
        let told = catch_unwind(AssertUnwindSafe(|| match observed {
            Observed::Span(span) => span.end(&end),
            _ => {
                if let Some(observer) = root::observer(root) {
                    observer.ended(&end);
                }
            }
        }));
        drop(told);
    }

    #[inline]
    #[cfg_attr(
        not(feature = "otel"),
        expect(unused_variables, reason = "nobody observes")
    )]
    fn end(&mut self, outcome: TaskOutcome, error: Option<&str>) {
        self.live = false;
        let entry = self.slot.own_entry();
        let kind = kind::at(entry.kind);
        let scope = scope::at(entry.scope);
        // Once the end is counted the scope may serve another runtime.
        let root = scope.root();
        let ended = clock::raw();
        let nanos = clock::nanos_between(entry.started, ended);
        #[cfg(feature = "otel")]
        self.tell_observer(root, ended, outcome, error);
        self.slot.vacate(self.published);
        shard::with(|shard| {
            shard::bump(&shard.kind(entry.kind).ended[outcome as usize]);
            shard.duration(kind.label).record(nanos);
            let counters = shard.scope(entry.scope).of(kind.options.daemon);
            shard::bump_seq_cst(&counters.ended);
        });
        slots::give(self.slot);
        scope.after_end();
        untracked::tracked_task_ended();
        if kind.options.required {
            root::tell(root, Event::RequiredEnded(kind, outcome));
        }
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if self.live {
            self.end(TaskOutcome::Cancelled, None);
        }
    }
}
