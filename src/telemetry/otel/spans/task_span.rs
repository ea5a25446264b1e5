//! The parts of a task's span that need OpenTelemetry: its ids as a context, the context in which
//! the task is polled, and the events that it logs.
//!
//! The order of one poll:
//!
//! 1. The first poll notes the time and makes a context; later ones clone the kept context.
//! 2. The events of the poll around this one are set aside.
//! 3. The context is attached, so spans of `tracing` find their parent, and the thread is marked as
//!    being in this task.
//! 4. The future is polled.
//! 5. Mark and context are restored, then the logged events move into the span. Guards do this, so
//!    it also happens when the poll panics.
//!
//! Polls nest when a task calls `block_on`, or polls a tracked future itself.

use crate::registry::clock;
use crate::registry::observer::{Current, Ids, TaskSpan, within};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use std::cell::RefCell;
use std::mem;

/// The most log events that are kept for a task. Further ones are dropped.
///
/// The bound is that of the specification for the events of a span (`OTEL_SPAN_EVENT_COUNT_LIMIT`).
/// The first ones are kept. The log records of further events are exported all the same.
const EVENTS: usize = 128;

/// The data in a task's span that few tasks have.
///
/// It is boxed into `TaskSpan::kept`, which the registry holds without knowing this type.
#[derive(Debug, Default)]
struct Kept {
    /// The context in which the task is polled. Kept from the second poll on, because many tasks
    /// are polled only once.
    context: Option<Context>,
    /// The events that the task logged.
    events: Vec<Event>,
}

thread_local! {
    /// The events that were logged in the current poll.
    ///
    /// They are collected per thread because the log layer knows the thread, not the span. It is
    /// empty between polls.
    static LOGGED: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// A guard that gives the events logged in a poll to the poll's task, and restores those of the
/// poll around it.
struct Logged<'a> {
    /// The task of this poll.
    span: &'a TaskSpan,
    /// The events that the poll around this one has logged so far.
    outer: Vec<Event>,
}

/// Calls `poll`. Spans and events that are made meanwhile on this thread belong to this span.
/// Nested calls restore the task around them, after a panic too.
///
/// Called by the worker for each poll of a task with a span. It costs a clone of the context and an
/// attach, which take no lock. A task that is polled once allocates nothing here beyond the
/// context.
pub(super) fn poll(span: &TaskSpan, poll: &mut dyn FnMut()) {
    let context = if span.polled.get() == 0 {
        span.polled.set(clock::raw());
        new_context(span)
    } else {
        let mut kept = take(span).unwrap_or_default();
        let context = kept
            .context
            .get_or_insert_with(|| new_context(span))
            .clone();
        span.kept.set(Some(kept));
        context
    };
    let task = match span.is_long {
        true => Current::LongLived(span.ids),
        false => Current::Short(span.ids),
    };
    let _logged = Logged {
        span,
        outer: take_logged(),
    };
    let _attached = context.attach();
    within(task, poll);
}

/// Returns the context in which the task is polled. The span is the parent of what is made in it,
/// except in a long-lived task.
///
/// The span is set as a remote one only because it is no span of the SDK: the context carries its
/// ids, and a child made by the SDK takes trace, parent and sampling from them.
fn new_context(span: &TaskSpan) -> Context {
    match span.is_long {
        true => Context::new(),
        false => Context::new().with_remote_span_context(span.ids.context()),
    }
}

/// Takes the events that the task logged.
///
/// Called at the end of the task. It also drops the kept context.
pub(super) fn take_events(span: &TaskSpan) -> Vec<Event> {
    take(span).map_or_else(Vec::new, |kept| kept.events)
}

/// Takes the data that the span keeps.
///
/// The caller puts it back, if it is to stay. `None` if nothing was kept: the only type stored
/// there is [`Kept`].
fn take(span: &TaskSpan) -> Option<Box<Kept>> {
    span.kept.take()?.downcast().ok()
}

/// Keeps an event that is logged in this thread's task, but in no span within it.
///
/// `event` is called only if there is room. It must not log: the cell is not borrowed while it
/// runs, but its event would be counted after the check.
pub(in crate::telemetry::otel) fn log_in_task(event: impl FnOnce() -> Event) {
    let keep = |logged: &RefCell<Vec<Event>>| {
        if logged.borrow().len() < EVENTS {
            let event = event();
            logged.borrow_mut().push(event);
        }
    };
    LOGGED.try_with(keep).ok();
}

/// Takes the events logged in the current poll, of which there are mostly none.
#[inline]
fn take_logged() -> Vec<Event> {
    let take = |logged: &RefCell<Vec<Event>>| {
        let mut logged = logged.borrow_mut();
        match logged.is_empty() {
            true => Vec::new(),
            false => mem::take(&mut *logged),
        }
    };
    // Empty if the thread-local storage is destroyed.
    LOGGED.try_with(take).unwrap_or_default()
}

// === impl Logged ===

impl Drop for Logged<'_> {
    /// The events of the task are cut to the room that is left for them, after the ones that it
    /// already has.
    fn drop(&mut self) {
        let mut logged = take_logged();
        if !self.outer.is_empty() {
            let outer = mem::take(&mut self.outer);
            LOGGED.try_with(|now| now.replace(outer)).ok();
        }
        if !logged.is_empty() {
            let mut kept = take(self.span).unwrap_or_default();
            logged.truncate(EVENTS.saturating_sub(kept.events.len()));
            kept.events.append(&mut logged);
            self.span.kept.set(Some(kept));
        }
    }
}

// === impl Ids ===

impl Ids {
    /// Returns the id of the trace, as OTLP encodes it. 16 bytes, big-endian; all 0 is not a valid
    /// id.
    pub(crate) fn trace_bytes(self) -> Vec<u8> {
        self.trace.to_be_bytes().to_vec()
    }

    /// Returns the id of the span, as OTLP encodes it. 8 bytes, big-endian.
    pub(crate) fn span_bytes(self) -> Vec<u8> {
        self.span.to_be_bytes().to_vec()
    }

    /// Returns the ids of a context of OpenTelemetry. They are 0 if the context is not valid.
    pub(crate) fn of(context: &SpanContext) -> Self {
        Self {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
        }
    }

    /// Returns the ids as a sampled, local context of OpenTelemetry.
    pub(crate) fn context(self) -> SpanContext {
        SpanContext::new(
            TraceId::from_bytes(self.trace.to_be_bytes()),
            SpanId::from_bytes(self.span.to_be_bytes()),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        )
    }
}
