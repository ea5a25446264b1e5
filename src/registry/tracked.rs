//! The tracked future, which is registered until it is dropped.
//!
//! The registration begins when the task is spawned. It ends after the future is dropped: because
//! the future completed, was cancelled or panicked, or because the runtime dropped it. The order
//! matters: once the registration has ended, nothing of the user's future is left.
//!
//! The future is polled and dropped inside `catch_unwind`, because only here the panic's payload,
//! the task's name and its outcome are all known. A panic in the drop of a future is therefore an
//! outcome too.
//!
//! The way of a poll: [`OwnerState::turn`] decides; a plain turn polls and returns `Pending` at
//! once, everything else goes through `turned` and `settle`. Each way out of `settle` other than
//! `Pending` ends the registration exactly once, and takes the future out of `held`, so that the
//! drop finds nothing left to do.

#[cfg(feature = "console")]
pub(crate) mod console_name;
pub(crate) mod flags;
pub(crate) mod owner;
pub(crate) mod registration;
pub(crate) mod spawned;

use super::count::shard;
use super::query::await_query::{self, Answer};
use super::slots::slot::Slot;
use super::{clock, kind, untracked};
use crate::stacks::await_probe::AwaitProbe;
use crate::stacks::frame::Frame;
use crate::stacks::source_file::SourceFile;
use crate::task::{TaskError, TaskId, TaskOutcome};
use flags::PUBLISHED;
use owner::OwnerState;
pub(crate) use owner::{Span, Turn};
use pin_project_lite::pin_project;
pub(crate) use registration::Registration;
pub(crate) use spawned::Spawned;
use std::fmt::Display;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// This file. Its functions poll and drop tasks.
static FILE: SourceFile = SourceFile::new(file!());

/// True if the function polls, drops or runs a tracked task: what it calls is the task's own.
pub(crate) fn holds_task(frame: &Frame) -> bool {
    frame.is_in(&FILE) || frame.is_in(&owner::FILE)
}

pin_project! {
    /// A future that is registered as a task until it is dropped.
    ///
    /// It makes no allocation of its own, and is 24 bytes larger than the future in it (16 without
    /// `otel`). Its output is that of the future, or the reason why there is none.
    #[derive(Debug)]
    pub(crate) struct Tracked<F: Future, J> {
        // The owner's part of the registration.
        state: OwnerState,
        // Decides whether an output is a failure.
        judge: J,
        // The future and the slot; `None` once the registration has ended.
        #[pin]
        held: Option<Held<F>>,
    }

    impl<F: Future, J> PinnedDrop for Tracked<F, J> {
        fn drop(this: Pin<&mut Self>) {
            if this.held.is_some() {
                let _unmarked = untracked::mark::mark_untracked();
                // Dropped from outside: by an abort, or by the runtime.
                this.cancelled();
            }
        }
    }
}

pin_project! {
    /// The future of a task that has not ended, with its slot. The reference to the slot is never
    /// null, so `Option<Held>` needs no memory for its tag.
    #[derive(Debug)]
    struct Held<F> {
        // The slot of the task.
        slot: &'static Slot,
        // The user's future.
        #[pin]
        future: F,
    }
}

/// A rule that tells a failed task from a completed one.
pub(crate) trait Judge<T> {
    /// Returns the error's text if the output is an error.
    fn failure(&self, output: &T) -> Option<String>;
}

/// The rule that every output is a success.
///
/// For futures with an output that is not a `Result`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Any;

/// The rule that `Err` is a failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OkOrErr;

/// The slot of a task that panicked after its future had returned, and the panic.
type Spoiled = (&'static Slot, Payload);

/// The payload of a panic.
///
/// As `catch_unwind` returns it.
type Payload = Box<dyn std::any::Any + Send>;

/// The message of a panic that no program should see.
const HELD: &str = "a task is not polled after it has ended";

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
    /// Wraps the future of a task that was just spawned.
    #[inline]
    pub(crate) fn new(spawned: Spawned, span: Span, judge: J, future: F) -> Self {
        let Spawned { slot, flags } = spawned;
        Self {
            state: OwnerState::new(flags, span),
            judge,
            held: Some(Held { slot, future }),
        }
    }
}

impl<F: Future, J: Judge<F::Output>> Future for Tracked<F, J> {
    type Output = Result<F::Output, TaskError>;

    // Inlined into tokio's own poll: a separate function would save and restore registers at every
    // poll of the task. With tokio-console tokio's poll wraps a span around this call, and the
    // compiler would inline this into the span's wrapper and make that the separate function.
    #[cfg_attr(not(feature = "console"), inline(always))]
    #[cfg_attr(feature = "console", inline(never))]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let held = this.held.as_pin_mut().expect(HELD).project();
        let slot = *held.slot;
        // Most polls are of a task that was asked for nothing and has already published its waker,
        // so that path comes first. Everything else is in functions that take `self` alone, so that
        // this one keeps few values in registers for them.
        let turn = this.state.turn(slot);
        if turn != Turn::Poll {
            return self.turned(turn, cx);
        }
        let polled = this.state.poll_alone(slot, || held.future.poll(cx));
        if matches!(polled, Ok(Poll::Pending)) && this.state.flags.has(PUBLISHED) {
            return Poll::Pending;
        }
        self.settle(polled, cx)
    }
}

impl<F: Future, J: Judge<F::Output>> Tracked<F, J> {
    /// Takes a turn other than a plain poll.
    #[cold]
    fn turned(
        mut self: Pin<&mut Self>,
        turn: Turn,
        cx: &mut Context<'_>,
    ) -> Poll<Result<F::Output, TaskError>> {
        let polled = match turn {
            Turn::Poll | Turn::Nested => self.as_mut().poll_future(cx),
            Turn::End => return Poll::Ready(Err(self.cancelled())),
            Turn::Answer => match self.as_mut().answer(cx.waker()) {
                Ok(Poll::Pending) => self.as_mut().poll_future(cx),
                over => over,
            },
            Turn::Timed => {
                let begun = clock::raw();
                let polled = self.as_mut().poll_future(cx);
                let took = clock::nanos_between(begun, clock::raw());
                let kind = kind::at(self.slot().own_entry().kind);
                shard::with(|shard| shard.polls(kind.label).record(took));
                polled
            }
        };
        self.settle(polled, cx)
    }

    /// Finishes a poll that did more than return `Pending` again. Publishes the waker of a task
    /// that is pending, and ends the registration of one that is not. A pending task that was
    /// cancelled before it published its waker is cancelled here.
    #[inline]
    fn settle(
        mut self: Pin<&mut Self>,
        polled: Result<Poll<F::Output>, Payload>,
        cx: &Context<'_>,
    ) -> Poll<Result<F::Output, TaskError>> {
        match polled {
            Ok(Poll::Pending) if self.as_mut().publish(cx.waker()) => Poll::Pending,
            Ok(Poll::Pending) => Poll::Ready(Err(self.cancelled())),
            Ok(Poll::Ready(output)) => match self.as_mut().returned(&output) {
                Ok(()) => Poll::Ready(Ok(output)),
                Err(spoiled) => Poll::Ready(Err(self.spoiled(output, spoiled))),
            },
            Err(payload) => Poll::Ready(Err(self.panicked(payload))),
        }
    }

    /// Polls the future, and notes meanwhile that this thread polls it.
    ///
    /// For every turn but the plain one.
    fn poll_future(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Result<Poll<F::Output>, Payload> {
        let this = self.project();
        let held = this.held.as_pin_mut().expect(HELD).project();
        this.state.poll(held.slot, || held.future.poll(cx))
    }

    /// Polls the future with a waker that records the call stack of each registration, and hands
    /// the stacks to the asker. The poll counts like any other.
    #[cold]
    fn answer(mut self: Pin<&mut Self>, waker: &Waker) -> Result<Poll<F::Output>, Payload> {
        let probe = AwaitProbe::new(waker);
        let probed = probe.waker();
        let polled = self.as_mut().poll_future(&mut Context::from_waker(&probed));
        let answer = Answer {
            awaits: probe.close(),
            polls: self.as_mut().project().state.flags.polls(),
        };
        await_query::answer(TaskId(self.slot().own_id()), answer);
        polled
    }

    /// Ends the registration of a future that returned. The rest of the future is dropped first, as
    /// a part of its poll.
    ///
    /// # Errors
    ///
    /// If the drop of the future or the judge panicked, the registration is not ended, and the
    /// panic is returned.
    #[inline(never)]
    fn returned(mut self: Pin<&mut Self>, output: &F::Output) -> Result<(), Spoiled> {
        let (slot, dropped) = self.as_mut().drop_future();
        let this = self.project();
        let judge = || this.judge.failure(output);
        match dropped.and_then(|()| catch_unwind(AssertUnwindSafe(judge))) {
            Ok(None) => this.state.end(slot, TaskOutcome::Completed),
            Ok(Some(error)) => this.state.end_failed(slot, &error),
            Err(payload) => return Err((slot, payload)),
        }
        Ok(())
    }

    /// Ends the registration of a future that returned, but panicked afterwards. The output is
    /// dropped; a second panic in its drop is ignored.
    #[cold]
    fn spoiled(self: Pin<&mut Self>, output: F::Output, (slot, payload): Spoiled) -> TaskError {
        drop(catch_unwind(AssertUnwindSafe(|| drop(output))));
        self.project().state.end_panicked(slot, payload)
    }
}

impl<F: Future, J> Tracked<F, J> {
    /// Ends the registration of a future that panicked in a poll.
    #[cold]
    fn panicked(mut self: Pin<&mut Self>, payload: Payload) -> TaskError {
        // The rest of the future may panic again when it is dropped. Only the first panic is
        // reported.
        let (slot, _) = self.as_mut().drop_future();
        self.project().state.end_panicked(slot, payload)
    }

    /// Drops the future and ends its registration as cancelled, or as panicked if the drop panics.
    ///
    /// The drop may take as long as a poll, so the slot shows that it has begun.
    #[cold]
    fn cancelled(mut self: Pin<&mut Self>) -> TaskError {
        self.slot().begin_drop(clock::raw());
        let (slot, dropped) = self.as_mut().drop_future();
        let error = self.project().state.end_dropped(slot, dropped);
        error.unwrap_or(TaskError::Cancelled)
    }

    /// Publishes the waker for cancellers, unless it is published already. A tokio task has the
    /// same waker at every poll, so it is published once, and again only after it was taken.
    /// Returns false if the task was cancelled before.
    #[inline(never)]
    fn publish(self: Pin<&mut Self>, waker: &Waker) -> bool {
        let slot = self.slot();
        let state = self.project().state;
        state.flags.has(PUBLISHED) || state.publish(slot, waker)
    }

    /// Drops the future. The caller must end the registration afterwards.
    #[inline]
    fn drop_future(self: Pin<&mut Self>) -> (&'static Slot, Result<(), Payload>) {
        let slot = self.slot();
        let mut this = self.project();
        (slot, this.state.poll(slot, || this.held.set(None)))
    }

    /// Returns the slot of a task that has not ended.
    ///
    /// # Panics
    ///
    /// If the task has ended, which means that it is polled after it was ready.
    #[inline]
    fn slot(&self) -> &'static Slot {
        self.held.as_ref().expect(HELD).slot
    }
}
