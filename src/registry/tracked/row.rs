//! The row of one live task: its slot, and what the task itself keeps of it.

use super::Payload;
#[cfg(feature = "otel")]
use super::notes::OBSERVED;
use super::notes::{FRESH, LIVE, Notes, PUBLISHED, REFUSED, TIMED};
use crate::registry::kind::{self, Found, Kind};
#[cfg(feature = "otel")]
use crate::registry::observer::{self, Current, End, NewTask, Observer, TaskSpan};
use crate::registry::root::{self, Event, PanicText};
use crate::registry::scope::{self, Scope};
use crate::registry::shard::{self, Shard};
use crate::registry::slot::{Entry, Slot};
use crate::registry::{cancels, clock, heartbeats, panics, pulse, slots, untracked};
use crate::task::{Panic, TaskError, TaskOutcome};
#[cfg(feature = "otel")]
use crate::task::{TaskId, Traceparent};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use std::time::Duration;

/// A live task's hold on its slot. One that is never ended is ended as cancelled when it is dropped.
#[derive(Debug)]
pub(crate) struct Row {
    pub(super) slot: &'static Slot,
    pub(super) life: Life,
}

/// A task that was entered and is in nobody's care yet: two words, which are handed on in registers. Whoever has one makes
/// a row or a tracked future of it.
#[derive(Debug, Clone, Copy)]
#[must_use = "nobody else ends the task"]
pub(crate) struct Entered {
    pub(super) slot: &'static Slot,
    pub(super) notes: Notes,
}

/// What the root's observer has of a task. Thin, for the others.
#[cfg(feature = "otel")]
pub(crate) type Span = Option<Box<TaskSpan>>;
#[cfg(not(feature = "otel"))]
pub(crate) type Span = ();

/// What is of a row beside its slot, which whoever has this knows.
#[derive(Debug, Default)]
pub(super) struct Life {
    pub(super) notes: Notes,
    #[cfg(feature = "otel")]
    span: Span,
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

// === impl Entered ===

impl Entered {
    /// Enters a task. From here on it is counted and listed.
    #[inline]
    pub(crate) fn start(found: Found, scope: &'static Scope) -> Self {
        let started = clock::raw();
        let kind = found.kind;
        found.bump(|counters| &counters.started);
        let (slot, free) = slots::take();
        // Before the slot can be seen: who asks for something after that changes the word.
        let mut notes = Notes::new(cancels::now());
        if scope.is_cancelling() {
            notes.add(REFUSED);
        }
        let id = shard::with(move |shard| {
            let id = shard.next_id();
            let entry = Entry {
                id,
                started,
                kind: kind.number,
                scope: scope.number,
            };
            let counters = shard.scope(scope.number).of(kind.options.daemon);
            shard::bump(&counters.started);
            slot.occupy(free, entry);
            id
        });
        if id.is_multiple_of(FIRST_POLLS) {
            notes.add(TIMED);
        }
        Self { slot, notes }
    }

    /// Has the root's observer make a span of the task, if it wants one.
    #[cfg(feature = "otel")]
    #[inline(never)]
    pub(crate) fn observed(
        self,
        observer: &dyn Observer,
        parent: Option<Traceparent>,
    ) -> (Self, Span) {
        // Ends the task if the observer panics.
        let mut row = Row::new(self, None);
        let entry = row.slot.own_entry();
        let span = observer.spawned(&NewTask {
            id: TaskId(entry.id),
            kind: kind::at(entry.kind),
            parent,
        });
        let mut notes = std::mem::take(&mut row.life).notes;
        notes.add(OBSERVED);
        (Self { notes, ..self }, span)
    }

    /// What tokio is to call the task, if tokio-console looks.
    #[cfg(all(tokio_unstable, feature = "console"))]
    #[inline]
    pub(crate) fn name_for_tokio(self) -> Option<String> {
        crate::registry::named::name(|| kind::at(self.slot.own_entry().kind))
    }

    #[cfg(all(test, feature = "otel"))]
    pub(crate) fn id(self) -> TaskId {
        TaskId(self.slot.own_id())
    }

    /// The task is to say at least so often that it is well.
    pub(crate) fn expect_beats(self, every: Duration) {
        heartbeats::declare(self.slot, every);
    }
}

// === impl Row ===

impl Row {
    pub(crate) fn new(Entered { slot, notes }: Entered, span: Span) -> Self {
        let life = Life::new(notes, span);
        Self { slot, life }
    }

    /// What the task was asked to do. Called before each poll.
    pub(crate) fn turn(&mut self) -> Turn {
        self.life.turn(self.slot)
    }

    /// Calls `f`, which runs or drops the task's closure, and says meanwhile that this thread is at it.
    pub(crate) fn poll<T>(&self, f: impl FnOnce() -> T) -> Result<T, Payload> {
        self.life.poll(self.slot, f)
    }

    /// Ends the row of a task that returned.
    pub(crate) fn end(&mut self, outcome: TaskOutcome) {
        self.life.end(self.slot, outcome);
    }

    /// Ends the row of a task that was dropped before it returned; `dropped` tells whether the drop panicked.
    pub(crate) fn end_dropped(&mut self, dropped: Result<(), Payload>) -> Option<TaskError> {
        self.life.end_dropped(self.slot, dropped)
    }

    pub(crate) fn end_panicked(&mut self, payload: Payload) -> TaskError {
        self.life.end_panicked(self.slot, payload)
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        if self.life.notes.has(LIVE) {
            self.end(TaskOutcome::Cancelled);
        }
    }
}

// === impl Life ===

impl Life {
    #[inline]
    pub(super) fn new(notes: Notes, span: Span) -> Self {
        #[cfg(not(feature = "otel"))]
        let () = span;
        Self {
            notes,
            #[cfg(feature = "otel")]
            span,
        }
    }

    /// What the task was asked to do. Called before each poll.
    #[inline]
    pub(super) fn turn(&mut self, slot: &'static Slot) -> Turn {
        let word = cancels::now();
        if self.notes.is_calm(word) {
            Turn::Poll
        } else {
            self.look(slot, word)
        }
    }

    /// Looks into the slot: when somebody may have been asked for something since the last look, or since the task
    /// started. The first poll and one that is nested come here too, and wait for nothing that the slot says: its line
    /// may be in another processor's cache. Yet they read it, so that it is on its way for a task that ends soon.
    #[inline(never)]
    fn look(&mut self, slot: &'static Slot, word: u64) -> Turn {
        let before = self.notes;
        let is_changed = before.word() != word;
        let is_timed = if before.has(FRESH) {
            before.has(TIMED)
        } else {
            is_changed
        };
        let is_asked = slot.is_asked();
        let is_nested = shard::for_notes().own_current() != 0;
        self.notes.looked(word, is_nested);
        slot.mark_polled(pulse::last());
        // One that started while its group was told to end may have been missed by the walk.
        let is_refused = || scope::at(slot.own_scope()).is_cancelling();
        if before.has(REFUSED) || before.has(FRESH) && is_changed && is_refused() {
            return Turn::End;
        }
        if is_changed && is_asked {
            self.asked(slot)
        } else if is_timed {
            Turn::Timed
        } else if is_nested {
            Turn::Nested
        } else {
            Turn::Poll
        }
    }

    #[cold]
    fn asked(&mut self, slot: &'static Slot) -> Turn {
        if slot.lost_waker() {
            self.notes.remove(PUBLISHED);
        }
        let asked = slot.was_asked();
        if slot.is_cancelling() {
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
    pub(super) fn poll<T>(&self, slot: &'static Slot, f: impl FnOnce() -> T) -> Result<T, Payload> {
        self.poll_within(slot, shard::for_notes().own_current(), f)
    }

    /// The same, for one that is not nested: it need not remember whom this thread polls besides, which costs a poll
    /// three nanoseconds.
    #[inline]
    pub(super) fn poll_alone<T>(
        &self,
        slot: &'static Slot,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        self.poll_within(slot, 0, f)
    }

    /// `outer` is the place of the task that this thread polls besides, 0 for none.
    #[inline]
    fn poll_within<T>(
        &self,
        slot: &'static Slot,
        outer: usize,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        #[cfg(feature = "otel")]
        if self.notes.has(OBSERVED) {
            return self.poll_observed(slot, outer, f);
        }
        self.poll_noted(slot, outer, f)
    }

    #[cfg(feature = "otel")]
    #[inline(never)]
    fn poll_observed<T>(
        &self,
        slot: &'static Slot,
        outer: usize,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        let poll = || self.poll_noted(slot, outer, f);
        match &self.span {
            Some(span) => span.around(poll),
            None => observer::within(Current::Unsampled, poll),
        }
    }

    #[inline]
    fn poll_noted<T>(
        &self,
        slot: &'static Slot,
        outer: usize,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        let shard = shard::for_notes();
        shard.set_current(slot.place());
        let result = catch_unwind(AssertUnwindSafe(f));
        shard.set_current(outer);
        result
    }

    /// Leaves the waker where a canceller finds it; false when one came before.
    #[inline(never)]
    pub(super) fn publish(&mut self, slot: &'static Slot, waker: &Waker) -> bool {
        self.notes.add(PUBLISHED);
        slot.publish(waker);
        !slot.is_cancelling()
    }

    #[cold]
    pub(super) fn end_failed(&mut self, slot: &'static Slot, error: &str) {
        let kind = kind::at(slot.own_entry().kind);
        told(|| {
            tracing::warn!(
                name: "headcount.task.finished",
                target: "headcount::task",
                group = kind.group(), task = kind.name, id = slot.own_id(), error,
                "task failed"
            );
        });
        self.end_with(slot, TaskOutcome::Failed, Some(error));
    }

    /// Ends the row of a task that was dropped before it returned; `dropped` tells whether the drop panicked.
    pub(super) fn end_dropped(
        &mut self,
        slot: &'static Slot,
        dropped: Result<(), Payload>,
    ) -> Option<TaskError> {
        match dropped {
            Ok(()) => {
                self.end(slot, TaskOutcome::Cancelled);
                None
            }
            Err(payload) => Some(self.end_panicked(slot, payload)),
        }
    }

    #[cold]
    pub(super) fn end_panicked(&mut self, slot: &'static Slot, payload: Payload) -> TaskError {
        let panic = Panic::new(payload, panics::take_location());
        let kind = kind::at(slot.own_entry().kind);
        told(|| {
            tracing::error!(
                name: "headcount.task.panicked",
                target: "headcount::task",
                group = kind.group(), task = kind.name, id = slot.own_id(), spawned = %kind.site,
                "task panicked: {panic}"
            );
        });
        let root = scope::at(slot.own_scope()).root();
        let text = PanicText {
            message: panic.message().to_owned(),
            location: panic.location().map(ToString::to_string),
        };
        root::tell(root, Event::Panicked(kind, text));
        self.end_with(slot, TaskOutcome::Panicked, Some(&panic.to_string()));
        TaskError::Panicked(panic)
    }

    #[cfg(feature = "otel")]
    #[inline(never)]
    fn tell_observer(
        &mut self,
        slot: &'static Slot,
        ended: u64,
        outcome: TaskOutcome,
        error: Option<&str>,
    ) {
        let span = self.span.take();
        if span.is_none() && outcome == TaskOutcome::Completed {
            return;
        }
        let entry = slot.own_entry();
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
        // It logs.
        told(|| observer::tell_end(scope.root(), &end, span));
    }

    /// Ends the row: of a task that returned, or whose future is dropped.
    #[inline]
    pub(super) fn end(&mut self, slot: &'static Slot, outcome: TaskOutcome) {
        self.end_with(slot, outcome, None);
    }

    #[inline(never)]
    #[cfg_attr(
        not(feature = "otel"),
        expect(unused_variables, reason = "nobody observes")
    )]
    fn end_with(&mut self, slot: &'static Slot, outcome: TaskOutcome, error: Option<&str>) {
        let ended = clock::raw();
        #[cfg(feature = "otel")]
        if self.notes.has(OBSERVED) {
            self.tell_observer(slot, ended, outcome, error);
        }
        self.notes.remove(LIVE);
        let entry = slot.own_entry();
        let kind = kind::at(entry.kind);
        let scope = scope::at(entry.scope);
        // Once the end is counted the scope may serve another runtime.
        let (root, is_hooked) = (scope.root(), scope.is_hooked());
        let nanos = clock::nanos_between(entry.started, ended);
        let free = slot.vacate(self.notes.has(PUBLISHED));
        match shard::own() {
            Some(shard) => count_end(shard, kind, entry.scope, outcome, nanos),
            None => count_end_shared(kind, entry.scope, outcome, nanos),
        }
        slots::give(slot, free);
        scope.after_end();
        if is_hooked {
            untracked::tracked_task_ended();
        }
        if kind.options.required {
            root::tell(root, Event::RequiredEnded(kind, outcome));
        }
    }
}

/// Calls the user's subscriber, which must not take the row with it when it panics.
#[cold]
fn told(tell: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(tell)));
}

#[inline(always)]
fn count_end(shard: &Shard, kind: &Kind, scope: u32, outcome: TaskOutcome, nanos: u64) {
    shard::bump(&shard.kind(kind.number).ended[outcome as usize]);
    shard.duration(kind.label).record(nanos);
    let counters = shard.scope(scope).of(kind.options.daemon);
    shard::bump_seq_cst(&counters.ended);
}

/// The same, on a thread that has no shard of its own.
#[cold]
#[inline(never)]
fn count_end_shared(kind: &'static Kind, scope: u32, outcome: TaskOutcome, nanos: u64) {
    shard::with(move |shard| count_end(shard, kind, scope, outcome, nanos));
}
