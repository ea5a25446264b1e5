//! The owner's part of a registration: its turns, its polls and its end.
//!
//! The order of an end: the observer is notified, the slot is vacated, the end is counted, the slot
//! is given back, and waiters are woken. The end is counted after the future was dropped, so a wait
//! for a group never ends before its last task.

use super::Payload;
#[cfg(feature = "otel")]
use super::flags::OBSERVED;
use super::flags::{FRESH, Flags, LIVE, PUBLISHED, REFUSED, TIMED};
use crate::recorder::{self, Subject, What};
use crate::registry::count::counter;
use crate::registry::count::shard::{self, Shard};
use crate::registry::kind::{self, Kind};
#[cfg(feature = "otel")]
use crate::registry::observer::{self, Current, End, TaskSpan};
#[cfg(feature = "otel")]
use crate::registry::root::observers;
use crate::registry::root::{self, Event, PanicText};
use crate::registry::scope;
use crate::registry::slots::slot::Slot;
use crate::registry::slots::{self, attention};
use crate::registry::{clock, panics, untracked};
use crate::stacks::source_file::SourceFile;
#[cfg(feature = "otel")]
use crate::task::TaskId;
use crate::task::{Panic, TaskError, TaskOutcome};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;

/// This file. Its functions run blocking closures and end tasks.
pub(super) static FILE: SourceFile = SourceFile::new(file!());

/// The span that the root's observer made for a task. Boxed, so that a task without one pays for
/// one word.
#[cfg(feature = "otel")]
pub(crate) type Span = Option<Box<TaskSpan>>;
/// The span of a task, which needs the feature `otel`.
#[cfg(not(feature = "otel"))]
pub(crate) type Span = ();

/// The part of a registration that is not in the slot, and that only its owner reads. Every method
/// takes the slot, which its callers already have.
#[derive(Debug, Default)]
pub(super) struct OwnerState {
    /// The flags, and the word that was seen last.
    pub(super) flags: Flags,
    /// The span, if the observer made one.
    #[cfg(feature = "otel")]
    span: Span,
}

/// An action that a task takes when it is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Poll the future. No other task is being polled by this thread.
    Poll,
    /// Poll the future, and record how long the poll takes.
    Timed,
    /// End as cancelled.
    End,
    /// Poll the future once to find out what it awaits, then once more as usual.
    Answer,
    /// Poll the future. This thread may be polling another task around it, which is noted again
    /// afterwards.
    Nested,
}

// === impl OwnerState ===

impl OwnerState {
    /// Returns the state of a task that starts.
    #[inline]
    pub(super) fn new(flags: Flags, span: Span) -> Self {
        #[cfg(not(feature = "otel"))]
        let () = span;
        Self {
            flags,
            #[cfg(feature = "otel")]
            span,
        }
    }

    /// Returns what the task is to do. Must be called before each poll. Mostly costs one load of a
    /// word that is in every processor's cache: the slot is read only if that word has changed, at
    /// the first poll, and at nested polls.
    #[inline]
    pub(super) fn turn(&mut self, slot: &'static Slot) -> Turn {
        let word = attention::now();
        if self.flags.is_calm(word) {
            Turn::Poll
        } else {
            self.look(slot, word)
        }
    }

    /// Looks into the slot, because the task may have been asked for something since its last look,
    /// or since it started.
    ///
    /// The first poll and nested polls come here too, even if the word is unchanged. They read the
    /// slot's state but do not wait for the value, because the cache line may be in another
    /// processor's cache. The load starts the transfer, so that the line has arrived when a short
    /// task ends.
    ///
    /// A cancel comes before a question, a question before the timing of the poll. A poll that
    /// answers a question is not timed.
    ///
    /// A task that was told to drain comes here at each poll, and its polls are counted.
    #[inline(never)]
    fn look(&mut self, slot: &'static Slot, word: u64) -> Turn {
        let before = self.flags;
        let is_changed = before.seen() != word;
        let is_timed = if before.has(FRESH) {
            before.has(TIMED)
        } else {
            is_changed && before.polls() == 0
        };
        let is_asked = slot.is_asked();
        let is_nested = shard::for_notes().own_current() != 0;
        self.flags.looked(word, is_nested);
        slot.mark_polled(clock::last_pulse());
        // A task that started while its group was being cancelled may have been missed by the walk.
        let is_refused = || scope::at(slot.own_scope()).is_cancelling();
        if before.has(REFUSED) || before.has(FRESH) && is_changed && is_refused() {
            return Turn::End;
        }
        if is_changed && scope::at(slot.own_scope()).is_draining() {
            self.flags.count(before.polls() + 1);
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

    /// Returns what the task is to do after its slot has shown that it was asked for something.
    #[cold]
    fn asked(&mut self, slot: &'static Slot) -> Turn {
        if slot.lost_waker() {
            self.flags.remove(PUBLISHED);
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

    /// Calls `f`, which polls or drops the task's future or runs its closure, and notes meanwhile
    /// that this thread is in the task. Afterwards the task that this thread was in before is noted
    /// again.
    ///
    /// # Errors
    ///
    /// The payload, if `f` panics.
    #[inline]
    pub(super) fn poll<T>(&self, slot: &'static Slot, f: impl FnOnce() -> T) -> Result<T, Payload> {
        self.poll_within(slot, shard::for_notes().own_current(), f)
    }

    /// Calls `f` like [`OwnerState::poll`], for a task that is not nested. It does not remember the
    /// task around it, which saves three nanoseconds per poll.
    #[inline]
    pub(super) fn poll_alone<T>(
        &self,
        slot: &'static Slot,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        self.poll_within(slot, 0, f)
    }

    /// Calls `f`. `outer` is the address of the slot of the task that this thread polls around this
    /// one; 0 for none.
    ///
    /// The check for an observer is one bit of the flags, so an unobserved poll stays short.
    #[inline]
    fn poll_within<T>(
        &self,
        slot: &'static Slot,
        outer: usize,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        #[cfg(feature = "otel")]
        if self.flags.has(OBSERVED) {
            return self.poll_observed(slot, outer, f);
        }
        self.poll_noted(slot, outer, f)
    }

    /// Calls `f` as a part of the task's span. A task of an observed root without a span is noted
    /// as unsampled.
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

    /// Calls `f`, and notes at this thread's desk that it is in the task, until `f` returns or
    /// panics. Afterwards `outer` is noted. The notes are two relaxed stores to a cache line that
    /// only this thread writes.
    #[inline]
    fn poll_noted<T>(
        &self,
        slot: &'static Slot,
        outer: usize,
        f: impl FnOnce() -> T,
    ) -> Result<T, Payload> {
        let desk = shard::for_notes();
        desk.set_current(slot.address());
        let result = catch_unwind(AssertUnwindSafe(f));
        desk.set_current(outer);
        result
    }

    /// Publishes the waker for cancellers. Returns false if the task was cancelled before: that
    /// canceller found no waker, so the task must end now.
    #[inline(never)]
    pub(super) fn publish(&mut self, slot: &'static Slot, waker: &Waker) -> bool {
        self.flags.add(PUBLISHED);
        slot.publish(waker);
        !slot.is_cancelling()
    }

    /// Ends the registration of a task that returned an error, and logs the error.
    #[cold]
    pub(super) fn end_failed(&mut self, slot: &'static Slot, error: &str) {
        let kind = kind::at(slot.own_entry().kind);
        ignoring_panics(|| {
            tracing::warn!(
                name: "headcount.task.finished",
                target: "headcount::task",
                group = kind.group(), task = kind.name, id = slot.own_id(), error,
                "task failed"
            );
        });
        note(What::Failed, slot, error);
        self.end_with(slot, TaskOutcome::Failed, Some(error));
    }

    /// Ends the registration of a task that was dropped before it returned. `dropped` is the result
    /// of the drop. Returns the error if the drop panicked.
    pub(super) fn end_dropped(
        &mut self,
        slot: &'static Slot,
        dropped: Result<(), Payload>,
    ) -> Option<TaskError> {
        match dropped {
            Ok(()) => {
                note(What::Cancelled, slot, "");
                self.end(slot, TaskOutcome::Cancelled);
                None
            }
            Err(payload) => Some(self.end_panicked(slot, payload)),
        }
    }

    /// Ends the registration of a task that panicked: logs the panic with its location, notifies
    /// the root's listener, and returns the error for the task's handle.
    #[cold]
    pub(super) fn end_panicked(&mut self, slot: &'static Slot, payload: Payload) -> TaskError {
        let panic = Panic::new(payload, panics::take_location());
        let kind = kind::at(slot.own_entry().kind);
        ignoring_panics(|| {
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
        root::notify(root, Event::Panicked(kind, text));
        let said = panic.to_string();
        note(What::Panicked, slot, &said);
        self.end_with(slot, TaskOutcome::Panicked, Some(&said));
        TaskError::Panicked(panic)
    }

    /// Notifies the observer that the task has ended. Does nothing for a task without a span that
    /// completed.
    #[cfg(feature = "otel")]
    #[inline(never)]
    fn notify_observer(
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
            drain_requested_at: scope.drain_requested_at(),
            ended,
            outcome,
            error,
        };
        // The observer logs, so it calls the user's subscriber.
        ignoring_panics(|| observers::notify_end(scope.root(), &end, span));
    }

    /// Ends the registration of a task that has returned or was dropped.
    #[inline]
    pub(super) fn end(&mut self, slot: &'static Slot, outcome: TaskOutcome) {
        self.end_with(slot, outcome, None);
    }

    /// Ends the registration. `error` is the text of the error or the panic.
    ///
    /// The future or closure must have been dropped before. The registration is ended once: `LIVE`
    /// is cleared, so the drop of a [`Registration`](super::registration::Registration) does not
    /// end it again.
    #[inline(never)]
    #[cfg_attr(
        not(feature = "otel"),
        expect(unused_variables, reason = "there is no observer")
    )]
    fn end_with(&mut self, slot: &'static Slot, outcome: TaskOutcome, error: Option<&str>) {
        let ended = clock::raw();
        #[cfg(feature = "otel")]
        if self.flags.has(OBSERVED) {
            self.notify_observer(slot, ended, outcome, error);
        }
        self.flags.remove(LIVE);
        let entry = slot.own_entry();
        let kind = kind::at(entry.kind);
        let scope = scope::at(entry.scope);
        // Read before the end is counted: after that the scope may serve another group, of another
        // runtime.
        let (root, is_hooked) = (scope.root(), scope.is_hooked());
        let nanos = clock::nanos_between(entry.started, ended);
        let free = slot.vacate(self.flags.has(PUBLISHED));
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
            root::notify(root, Event::RequiredEnded(kind, outcome));
        }
    }
}

/// Notes the end of a task in the black box.
#[cold]
fn note(what: What, slot: &Slot, text: &str) {
    let entry = slot.own_entry();
    let (kind, id) = (entry.kind, entry.id);
    recorder::note(what, Some(Subject { kind, id }), text);
}

/// Calls code that runs the user's subscriber. A panic in it is swallowed: it must not keep the
/// registration from being ended.
///
/// The payload is dropped at once.
#[cold]
fn ignoring_panics(call: impl FnOnce()) {
    drop(catch_unwind(AssertUnwindSafe(call)));
}

/// Counts an end on a shard. The scope's counter comes last and is stored sequentially consistent:
/// see [`Scope::after_end`].
#[inline(always)]
fn count_end(shard: &Shard, kind: &Kind, scope: u32, outcome: TaskOutcome, nanos: u64) {
    counter::bump(&shard.kind(kind.number).ended[outcome as usize]);
    shard.duration(kind.label).record(nanos);
    let counters = shard.scope(scope).of(kind.options.daemon);
    counter::bump_seq_cst(&counters.ended);
}

/// Counts an end on a thread that has no shard of its own, under the lock of the shared one.
#[cold]
#[inline(never)]
fn count_end_shared(kind: &'static Kind, scope: u32, outcome: TaskOutcome, nanos: u64) {
    shard::with(move |shard| count_end(shard, kind, scope, outcome, nanos));
}
