//! The tracked future, which holds a row in the registry.
//!
//! A row begins when the task is spawned and ends after its future is dropped, however that happens: by completion, by
//! cancel, by a panic, or by the runtime that goes away.

use super::slot::Slot;
use super::{chains, clock, kind, pulse, shard, untracked};
use crate::audit::asking::Asking;
use crate::task::{TaskError, TaskId, TaskOutcome};
use notes::PUBLISHED;
use pin_project_lite::pin_project;
use row::Life;
pub(crate) use row::{Entered, Row, Span, Turn};
use std::fmt::Display;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

mod notes;
mod row;

pin_project! {
    /// A future whose life is a row of the registry.
    ///
    /// It adds no allocation. It gives its future's output, or why there is none.
    #[derive(Debug)]
    pub(crate) struct Tracked<F: Future, J> {
        life: Life,
        judge: J,
        #[pin]
        held: Option<Held<F>>,
    }

    impl<F: Future, J> PinnedDrop for Tracked<F, J> {
        fn drop(this: Pin<&mut Self>) {
            if this.held.is_some() {
                let _unmarked = untracked::mark_untracked();
                // Dropped by somebody else: an abort, or the runtime. That may take as long as a poll.
                this.slot().mark_polled(pulse::last());
                this.cancelled();
            }
        }
    }
}

pin_project! {
    /// The future of a task that has not ended. With the slot beside it, that there is one takes no memory of its own.
    #[derive(Debug)]
    struct Held<F> {
        slot: &'static Slot,
        #[pin]
        future: F,
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

/// The slot of a task that panicked after it had returned, and the panic.
type Spoiled = (&'static Slot, Payload);

type Payload = Box<dyn std::any::Any + Send>;

const HELD: &str = "nobody polls a task that has ended";

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
    pub(crate) fn new(entered: Entered, span: Span, judge: J, future: F) -> Self {
        let Entered { slot, notes } = entered;
        Self {
            life: Life::new(notes, span),
            judge,
            held: Some(Held { slot, future }),
        }
    }
}

impl<F: Future, J: Judge<F::Output>> Future for Tracked<F, J> {
    type Output = Result<F::Output, TaskError>;

    // Into tokio's own poll: as a function of its own it saves and restores registers at every poll of the task. With
    // tokio-console there is a span between the two, which is inlined there if this is not, and else is such a function.
    #[cfg_attr(not(feature = "console"), inline(always))]
    #[cfg_attr(feature = "console", inline(never))]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let held = this.held.as_pin_mut().expect(HELD).project();
        let slot = *held.slot;
        // Most polls are of a task that was asked for nothing and has parked before: what they need comes first, and
        // all else is in functions that take `self` alone, so that this one keeps little for them in registers.
        let turn = this.life.turn(slot);
        if turn != Turn::Poll {
            return self.turned(turn, cx);
        }
        let polled = this.life.poll_alone(slot, || held.future.poll(cx));
        if matches!(polled, Ok(Poll::Pending)) && this.life.notes.has(PUBLISHED) {
            return Poll::Pending;
        }
        self.settle(polled, cx)
    }
}

impl<F: Future, J: Judge<F::Output>> Tracked<F, J> {
    /// A turn that few polls have.
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

    /// Has a waker known to cancellers where the task goes on, and ends the row where it does not.
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

    fn poll_future(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Result<Poll<F::Output>, Payload> {
        let this = self.project();
        let held = this.held.as_pin_mut().expect(HELD).project();
        this.life.poll(held.slot, || held.future.poll(cx))
    }

    /// Polls the future with a waker that notes who keeps it. Who asked may have the chains; the poll counts as any other.
    #[cold]
    fn answer(mut self: Pin<&mut Self>, waker: &Waker) -> Result<Poll<F::Output>, Payload> {
        let asking = Asking::new(waker);
        let asked = asking.waker();
        let polled = self.as_mut().poll_future(&mut Context::from_waker(&asked));
        chains::answer(TaskId(self.slot().own_id()), asking.close());
        polled
    }

    /// Ends the row of a future that returned. What is left of the future is dropped first, as a part of its poll.
    #[inline(never)]
    fn returned(mut self: Pin<&mut Self>, output: &F::Output) -> Result<(), Spoiled> {
        let (slot, dropped) = self.as_mut().drop_future();
        let this = self.project();
        let judge = || this.judge.failure(output);
        match dropped.and_then(|()| catch_unwind(AssertUnwindSafe(judge))) {
            Ok(None) => this.life.end(slot, TaskOutcome::Completed),
            Ok(Some(error)) => this.life.end_failed(slot, &error),
            Err(payload) => return Err((slot, payload)),
        }
        Ok(())
    }

    /// Ends the row of a future that returned, and panicked thereafter.
    #[cold]
    fn spoiled(self: Pin<&mut Self>, output: F::Output, (slot, payload): Spoiled) -> TaskError {
        drop(catch_unwind(AssertUnwindSafe(|| drop(output))));
        self.project().life.end_panicked(slot, payload)
    }
}

impl<F: Future, J> Tracked<F, J> {
    #[cold]
    fn panicked(mut self: Pin<&mut Self>, payload: Payload) -> TaskError {
        // What the panic left of the future may panic again.
        let (slot, _) = self.as_mut().drop_future();
        self.project().life.end_panicked(slot, payload)
    }

    #[cold]
    fn cancelled(mut self: Pin<&mut Self>) -> TaskError {
        let (slot, dropped) = self.as_mut().drop_future();
        let error = self.project().life.end_dropped(slot, dropped);
        error.unwrap_or(TaskError::Cancelled)
    }

    /// Leaves the waker where a canceller finds it, once; false when one came before.
    #[inline(never)]
    fn publish(self: Pin<&mut Self>, waker: &Waker) -> bool {
        let slot = self.slot();
        let life = self.project().life;
        life.notes.has(PUBLISHED) || life.publish(slot, waker)
    }

    /// Drops what there is of the future. The row is to be ended after this.
    #[inline]
    fn drop_future(self: Pin<&mut Self>) -> (&'static Slot, Result<(), Payload>) {
        let slot = self.slot();
        let mut this = self.project();
        (slot, this.life.poll(slot, || this.held.set(None)))
    }

    /// The slot of a task that has not ended.
    #[inline]
    fn slot(&self) -> &'static Slot {
        self.held.as_ref().expect(HELD).slot
    }
}
