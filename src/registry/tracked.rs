//! The tracked future, and the row that it holds in the registry.
//!
//! A row begins when the task is spawned and ends after its future is dropped, however that happens: by completion, by
//! cancel, by a panic, or by the runtime that goes away.

use super::kind::{self, Found, Kind};
#[cfg(feature = "otel")]
use super::observer::{self, Current, End, NewTask, Observer, TaskSpan};
use super::root::{self, Event, PanicText};
use super::scope::{self, Scope};
use super::shard::{self, Shard};
use super::slot::{Entry, Slot};
use super::{cancels, chains, clock, heartbeats, panics, pulse, slots, untracked};
use crate::audit::asking::Asking;
#[cfg(feature = "otel")]
use crate::task::Traceparent;
use crate::task::{Panic, TaskError, TaskId, TaskOutcome};
#[cfg(feature = "otel")]
use notes::OBSERVED;
use notes::{LIVE, Notes, POLLED, PUBLISHED};
use pin_project_lite::pin_project;
use std::fmt::Display;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

mod notes;

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
            if this.row.notes.has(LIVE) {
                let _unmarked = untracked::mark_untracked();
                // Dropped by somebody else: an abort, or the runtime. That may take as long as a poll.
                this.row.slot.mark_polled(pulse::last());
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
    notes: Notes,
    /// What the root's observer has of it. Thin, for the others.
    #[cfg(feature = "otel")]
    span: Option<Box<TaskSpan>>,
}

/// What a task does with its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Poll,
    /// The same, and how long it takes is counted.
    Timed,
    /// It was asked to end.
    End,
    /// It was asked what it awaits.
    Answer,
    /// The same, and another task may be polled around it.
    Nested,
}

/// Of so many tasks the first poll of one is timed; of all, the first one after each pulse.
const FIRST_POLLS: u64 = 64;

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

    // Into tokio's own poll: as a function of its own it saves and restores registers at every poll of the task.
    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Most polls are of a task that was asked for nothing and has parked before: what they need comes first, and
        // all else is in functions of its own, which keep registers and stores out of it.
        let turn = this.row.turn();
        if turn != Turn::Poll {
            return turned(turn, this.row, this.judge, this.future, cx);
        }
        let future = this.future.as_mut();
        let polled = this.row.poll_alone(|| poll_future(future, cx));
        settle(this.row, this.judge, this.future, polled, cx)
    }
}

/// Has a waker known to cancellers where the task goes on, and ends the row where it does not.
#[inline(always)]
fn settle<F: Future, J: Judge<F::Output>>(
    row: &mut Row,
    judge: &J,
    future: Pin<&mut Option<F>>,
    polled: Result<Poll<F::Output>, Payload>,
    cx: &Context<'_>,
) -> Poll<Result<F::Output, TaskError>> {
    match polled {
        Ok(Poll::Pending) if row.notes.has(PUBLISHED) || row.publish(cx.waker()) => Poll::Pending,
        Ok(Poll::Pending) => Poll::Ready(Err(cancel(row, future))),
        over => end(row, judge, future, over),
    }
}

/// A turn that few polls have.
#[cold]
fn turned<F: Future, J: Judge<F::Output>>(
    turn: Turn,
    row: &mut Row,
    judge: &J,
    mut future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<Result<F::Output, TaskError>> {
    let polled = match turn {
        Turn::Poll | Turn::Nested => poll(row, future.as_mut(), cx),
        Turn::End => return Poll::Ready(Err(cancel(row, future))),
        Turn::Answer => match answer(row, future.as_mut(), cx.waker()) {
            Ok(Poll::Pending) => poll(row, future.as_mut(), cx),
            over => over,
        },
        Turn::Timed => {
            let begun = clock::raw();
            let polled = poll(row, future.as_mut(), cx);
            let took = clock::nanos_between(begun, clock::raw());
            let kind = kind::at(row.slot.own_entry().kind);
            shard::with(|shard| shard.polls(kind.label).record(took));
            polled
        }
    };
    settle(row, judge, future, polled, cx)
}

/// Ends the row of a future that returned or panicked.
#[inline]
fn end<F: Future, J: Judge<F::Output>>(
    row: &mut Row,
    judge: &J,
    future: Pin<&mut Option<F>>,
    over: Result<Poll<F::Output>, Payload>,
) -> Poll<Result<F::Output, TaskError>> {
    match over {
        Ok(polled) => polled.map(|output| {
            match judge.failure(&output) {
                None => row.end(TaskOutcome::Completed),
                Some(error) => row.end_failed(&error),
            }
            Ok(output)
        }),
        Err(payload) => Poll::Ready(Err(panicked(row, future, payload))),
    }
}

#[cold]
fn panicked<F>(row: &mut Row, mut future: Pin<&mut Option<F>>, payload: Payload) -> TaskError {
    // What the panic left of the future is dropped before the row ends, and may panic again.
    drop(catch_unwind(AssertUnwindSafe(|| future.set(None))));
    row.end_panicked(payload)
}

#[inline]
fn poll<F: Future>(
    row: &Row,
    future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Result<Poll<F::Output>, Payload> {
    row.poll(|| poll_future(future, cx))
}

#[inline]
fn poll_future<F: Future>(
    mut future: Pin<&mut Option<F>>,
    cx: &mut Context<'_>,
) -> Poll<F::Output> {
    let polled = future.as_mut().as_pin_mut();
    let polled = polled.expect("a row lives as long as its future").poll(cx);
    if polled.is_ready() {
        future.set(None);
    }
    polled
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
    pub(crate) fn start(found: Found, scope: &'static Scope) -> Self {
        let started = clock::raw();
        let kind = found.kind;
        found.bump(|counters| &counters.started);
        let slot = slots::take();
        shard::with(move |shard| {
            let entry = Entry {
                id: shard.next_id(),
                started,
                kind: kind.number,
                scope: scope.number,
            };
            let counters = shard.scope(scope.number).of(kind.options.daemon);
            shard::bump(&counters.started);
            slot.occupy(entry);
        });
        Self {
            slot,
            notes: Notes::new(),
            #[cfg(feature = "otel")]
            span: None,
        }
    }

    /// Has the root's observer make a span of the task.
    #[cfg(feature = "otel")]
    pub(crate) fn observe(&mut self, observer: &dyn Observer, parent: Option<Traceparent>) {
        let entry = self.slot.own_entry();
        self.span = observer.spawned(&NewTask {
            id: TaskId(entry.id),
            kind: kind::at(entry.kind),
            parent,
        });
        self.notes.add(OBSERVED);
    }

    /// What tokio is to call the task, if tokio-console looks.
    #[cfg(all(tokio_unstable, feature = "console"))]
    #[inline]
    pub(crate) fn name_for_tokio(&self) -> Option<String> {
        super::named::name(|| kind::at(self.slot.own_entry().kind))
    }

    pub(crate) fn id(&self) -> TaskId {
        TaskId(self.slot.own_id())
    }

    /// The task is to say at least so often that it is well.
    pub(crate) fn expect_beats(&self, every: Duration) {
        heartbeats::declare(self.slot, every);
    }

    /// What the task was asked to do. Called before each poll.
    #[inline]
    pub(crate) fn turn(&mut self) -> Turn {
        let word = cancels::now();
        if self.notes.is_calm(word) {
            Turn::Poll
        } else {
            self.look(word)
        }
    }

    /// Looks into the slot: in the first poll, when somebody may have been asked for something, and always when nested.
    #[inline(never)]
    fn look(&mut self, word: u64) -> Turn {
        let is_first = !self.notes.has(POLLED);
        let is_timed = if is_first {
            self.slot.own_id().is_multiple_of(FIRST_POLLS)
        } else {
            self.notes.word() != word
        };
        let is_nested = shard::for_notes().own_current() != 0;
        self.notes.looked(word, is_nested);
        self.slot.mark_polled(pulse::last());
        if is_first && scope::at(self.slot.own_scope()).is_cancelling() {
            return Turn::End;
        }
        if self.slot.is_asked() {
            self.asked()
        } else if is_timed {
            Turn::Timed
        } else if is_nested {
            Turn::Nested
        } else {
            Turn::Poll
        }
    }

    #[cold]
    fn asked(&mut self) -> Turn {
        if self.slot.lost_waker() {
            self.notes.remove(PUBLISHED);
        }
        let asked = self.slot.was_asked();
        if self.slot.is_cancelling() {
            Turn::End
        } else if asked {
            Turn::Answer
        } else {
            Turn::Nested
        }
    }

    /// Calls `f`, which polls or drops the task's future or runs its closure, and says meanwhile that this thread is at
    /// it.
    #[inline]
    pub(crate) fn poll<T>(&self, f: impl FnOnce() -> T) -> Result<T, Payload> {
        self.poll_within(shard::for_notes().own_current(), f)
    }

    /// The same, for one that is not nested: it need not remember whom this thread polls besides, which costs a poll
    /// three nanoseconds.
    #[inline]
    fn poll_alone<T>(&self, f: impl FnOnce() -> T) -> Result<T, Payload> {
        self.poll_within(0, f)
    }

    /// `outer` is the place of the task that this thread polls besides, 0 for none.
    #[inline]
    fn poll_within<T>(&self, outer: usize, f: impl FnOnce() -> T) -> Result<T, Payload> {
        #[cfg(feature = "otel")]
        if self.notes.has(OBSERVED) {
            return self.poll_observed(outer, f);
        }
        self.poll_noted(outer, f)
    }

    #[cfg(feature = "otel")]
    #[inline(never)]
    fn poll_observed<T>(&self, outer: usize, f: impl FnOnce() -> T) -> Result<T, Payload> {
        let poll = || self.poll_noted(outer, f);
        match &self.span {
            Some(span) => span.around(poll),
            None => observer::within(Current::Unsampled, poll),
        }
    }

    #[inline]
    fn poll_noted<T>(&self, outer: usize, f: impl FnOnce() -> T) -> Result<T, Payload> {
        let shard = shard::for_notes();
        shard.set_current(self.slot.place());
        let result = catch_unwind(AssertUnwindSafe(f));
        shard.set_current(outer);
        result
    }

    /// Leaves the waker where a canceller finds it; false when one came before.
    #[inline(never)]
    fn publish(&mut self, waker: &Waker) -> bool {
        self.notes.add(PUBLISHED);
        self.slot.publish(waker);
        !self.slot.is_cancelling()
    }

    #[cold]
    fn end_failed(&mut self, error: &str) {
        let kind = kind::at(self.slot.own_entry().kind);
        tracing::warn!(
            name: "headcount.task.finished",
            target: "headcount::task",
            group = kind.group(), task = kind.name, id = self.id().get(), error,
            "task failed"
        );
        self.end_with(TaskOutcome::Failed, Some(error));
    }

    /// Ends the row of a task that was dropped before it returned; `dropped` tells whether the drop panicked.
    pub(crate) fn end_dropped(&mut self, dropped: Result<(), Payload>) -> Option<TaskError> {
        match dropped {
            Ok(()) => {
                self.end(TaskOutcome::Cancelled);
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
                name: "headcount.task.panicked",
                target: "headcount::task",
                group = kind.group(), task = kind.name, id = self.id().get(), spawned = %kind.site,
                "task panicked: {panic}"
            );
        }));
        drop(told);
        let root = scope::at(self.slot.own_scope()).root();
        let text = PanicText {
            message: panic.message().to_owned(),
            location: panic.location().map(ToString::to_string),
        };
        root::tell(root, Event::Panicked(kind, text));
        self.end_with(TaskOutcome::Panicked, Some(&panic.to_string()));
        TaskError::Panicked(panic)
    }

    #[cfg(feature = "otel")]
    #[inline(never)]
    fn tell_observer(&mut self, ended: u64, outcome: TaskOutcome, error: Option<&str>) {
        let span = self.span.take();
        if span.is_none() && outcome == TaskOutcome::Completed {
            return;
        }
        let entry = self.slot.own_entry();
        let scope = scope::at(entry.scope);
        let end = End {
            id: TaskId(entry.id),
            kind: kind::at(entry.kind),
            started: entry.started,
            told: scope.told(),
            ended,
            outcome,
            error,
        };
        // It logs, and a subscriber that panics must not take the row with it.
        let told = catch_unwind(AssertUnwindSafe(|| {
            observer::tell_end(scope.root(), &end, span);
        }));
        drop(told);
    }

    /// Ends the row: of a task that returned, or whose future is dropped.
    #[inline]
    pub(crate) fn end(&mut self, outcome: TaskOutcome) {
        self.end_with(outcome, None);
    }

    #[inline(never)]
    #[cfg_attr(
        not(feature = "otel"),
        expect(unused_variables, reason = "nobody observes")
    )]
    fn end_with(&mut self, outcome: TaskOutcome, error: Option<&str>) {
        let ended = clock::raw();
        #[cfg(feature = "otel")]
        if self.notes.has(OBSERVED) {
            self.tell_observer(ended, outcome, error);
        }
        self.notes.remove(LIVE);
        let entry = self.slot.own_entry();
        let kind = kind::at(entry.kind);
        let scope = scope::at(entry.scope);
        // Once the end is counted the scope may serve another runtime.
        let (root, is_hooked) = (scope.root(), scope.is_hooked());
        let nanos = clock::nanos_between(entry.started, ended);
        self.slot.vacate(self.notes.has(PUBLISHED));
        match shard::own() {
            Some(shard) => count_end(shard, kind, entry.scope, outcome, nanos),
            None => shard::with(move |shard| count_end(shard, kind, entry.scope, outcome, nanos)),
        }
        slots::give(self.slot);
        scope.after_end();
        if is_hooked {
            untracked::tracked_task_ended();
        }
        if kind.options.required {
            root::tell(root, Event::RequiredEnded(kind, outcome));
        }
    }
}

#[inline]
fn count_end(shard: &Shard, kind: &Kind, scope: u32, outcome: TaskOutcome, nanos: u64) {
    shard::bump(&shard.kind(kind.number).ended[outcome as usize]);
    shard.duration(kind.label).record(nanos);
    let counters = shard.scope(scope).of(kind.options.daemon);
    shard::bump_seq_cst(&counters.ended);
}

impl Drop for Row {
    fn drop(&mut self) {
        if self.notes.has(LIVE) {
            self.end(TaskOutcome::Cancelled);
        }
    }
}
