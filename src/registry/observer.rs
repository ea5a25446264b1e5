//! Who makes a span of each task. The one way, besides `tracing` and a root's listener, by which the registry calls out;
//! a root without an observer pays one look for it.

use super::clock;
use super::kind::Kind;
use super::root;
use crate::task::{TaskId, TaskOutcome, Traceparent};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry_proto::tonic::trace::v1::span::Event;
use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug};
use std::mem;
use std::sync::Arc;

/// What is kept of what is logged in a task directly; the rest is left out.
const EVENTS: usize = 128;

/// Hears of the tasks of one root. Called on the work side, so it must not block; what it may take are locks that are
/// held for nanoseconds.
pub(crate) trait Observer: Debug + Send + Sync {
    /// A task starts. The span is for one of which more than a bad end is to be told.
    fn spawned(&self, task: &NewTask) -> Option<Box<TaskSpan>>;

    /// A task has ended: one with a span, or one without that did otherwise than complete.
    fn ended(&self, end: &End<'_>, span: Option<Box<TaskSpan>>);
}

/// A trace, and a span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
// Many wait to be exported, and 16 bytes of alignment would cost each some 30.
#[repr(Rust, packed(8))]
pub(crate) struct Ids {
    pub(crate) trace: u128,
    pub(crate) span: u64,
}

/// What the span of a task hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It begins a trace, because of that span if there is one.
    Root(Option<Ids>),
    /// It is a part of the trace of that span; whether it came from another process.
    Child(u64, bool),
}

/// The span of one live task. It knows nobody who would have to be counted: workers would fight for that count. And it is
/// small: glibc takes back what is larger than 120 bytes under a lock, from a thread that did not allocate it.
pub(crate) struct TaskSpan {
    pub(crate) ids: Ids,
    pub(crate) origin: Origin,
    /// Its iterations have traces of their own.
    is_long: bool,
    /// Where its observer keeps that it lives, if it does.
    pub(crate) hangs: Option<u8>,
    /// A reading of the clock; 0 before the first poll.
    polled: Cell<u64>,
    /// Kept from the second poll on: many tasks have but one.
    context: Cell<Option<Context>>,
    /// Few tasks log anything.
    events: Cell<Option<Box<Events>>>,
}

#[derive(Debug, Default)]
struct Events(Vec<Event>);

const _: () = assert!(size_of::<TaskSpan>() <= 120);

/// A task that starts.
#[derive(Debug)]
pub(crate) struct NewTask {
    pub(crate) id: TaskId,
    pub(crate) kind: &'static Kind,
    /// The span of somebody else that it is a part of.
    pub(crate) parent: Option<Traceparent>,
}

/// The end of a task.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) id: TaskId,
    pub(crate) kind: &'static Kind,
    /// Readings of the clock: of its start, of the moment when its group was told to drain, of its end.
    pub(crate) started: u64,
    pub(crate) told: Option<u64>,
    pub(crate) ended: u64,
    pub(crate) outcome: TaskOutcome,
    /// What the error or the panic says.
    pub(crate) error: Option<&'a str>,
}

/// In which task of an observed root a thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Current {
    /// In none.
    Outside,
    /// In one without a span.
    Unsampled,
    /// In one with a span of this trace and number.
    Short(Ids),
    /// The same, whose iterations have traces of their own.
    LongLived(Ids),
}

thread_local! {
    static CURRENT: Cell<Current> = const { Cell::new(Current::Outside) };
    /// What was logged in the poll under way.
    static LOGGED: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
    /// The observer that this thread asked for last, and of which root it is. Without it workers would fight for the
    /// lock of the roots at the end of each task.
    static LAST: RefCell<Option<(u64, Arc<dyn Observer>)>> = const { RefCell::new(None) };
}

// === impl TaskSpan ===

impl Debug for TaskSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSpan")
            .field("ids", &self.ids)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl TaskSpan {
    pub(crate) fn new(ids: Ids, origin: Origin, is_long: bool, hangs: Option<u8>) -> Self {
        Self {
            ids,
            origin,
            is_long,
            hangs,
            polled: Cell::new(0),
            context: Cell::default(),
            events: Cell::default(),
        }
    }

    /// When it was polled first, by the clock.
    pub(crate) fn polled(&self) -> Option<u64> {
        Some(self.polled.get()).filter(|polled| *polled > 0)
    }

    pub(crate) fn take_events(&self) -> Vec<Event> {
        self.events.take().unwrap_or_default().0
    }

    /// Calls `poll`, and lets what happens in it be a part of the span.
    pub(super) fn around<T>(&self, poll: impl FnOnce() -> T) -> T {
        let context = if self.polled.get() == 0 {
            self.polled.set(clock::raw());
            self.new_context()
        } else {
            let kept = self.context.take().unwrap_or_else(|| self.new_context());
            self.context.set(Some(kept.clone()));
            kept
        };
        let task = match self.is_long {
            true => Current::LongLived(self.ids),
            false => Current::Short(self.ids),
        };
        let _logged = Logged {
            span: self,
            outer: take_logged(),
        };
        let _attached = context.attach();
        within(task, poll)
    }

    fn new_context(&self) -> Context {
        match self.is_long {
            true => Context::new(),
            false => Context::new().with_remote_span_context(self.ids.context()),
        }
    }
}

// === impl Ids ===

impl Ids {
    pub(crate) fn trace_bytes(self) -> Vec<u8> {
        self.trace.to_be_bytes().to_vec()
    }

    pub(crate) fn span_bytes(self) -> Vec<u8> {
        self.span.to_be_bytes().to_vec()
    }

    /// That of OpenTelemetry, which may be none.
    pub(crate) fn of(context: &SpanContext) -> Self {
        Self {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
        }
    }

    /// As OpenTelemetry passes it on.
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

/// Gives what was logged in a poll to its task.
struct Logged<'a> {
    span: &'a TaskSpan,
    outer: Vec<Event>,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let mut logged = take_logged();
        if !self.outer.is_empty() {
            let outer = mem::take(&mut self.outer);
            LOGGED.try_with(|now| now.replace(outer)).ok();
        }
        if !logged.is_empty() {
            let mut events = self.span.events.take().unwrap_or_default();
            let room = EVENTS.saturating_sub(events.0.len());
            logged.truncate(room);
            events.0.append(&mut logged);
            self.span.events.set(Some(events));
        }
    }
}

/// What was logged in the poll under way, which is mostly nothing.
#[inline]
fn take_logged() -> Vec<Event> {
    let take = |logged: &RefCell<Vec<Event>>| {
        let mut logged = logged.borrow_mut();
        match logged.is_empty() {
            true => Vec::new(),
            false => mem::take(&mut *logged),
        }
    };
    // A thread that ends has lost it.
    LOGGED.try_with(take).unwrap_or_default()
}

/// Keeps what is logged in the task that this thread is in, and in no span of it.
pub(crate) fn log_in_task(event: impl FnOnce() -> Event) {
    let keep = |logged: &RefCell<Vec<Event>>| {
        if logged.borrow().len() < EVENTS {
            let event = event();
            logged.borrow_mut().push(event);
        }
    };
    LOGGED.try_with(keep).ok();
}

/// Tells the observer of the root of that number that a task has ended.
pub(super) fn tell_end(root: u64, end: &End<'_>, mut span: Option<Box<TaskSpan>>) {
    let told = LAST.try_with(|last| match &*last.borrow() {
        Some((known, observer)) if *known == root => {
            observer.ended(end, span.take());
            true
        }
        _ => false,
    });
    // A thread that ends has lost it.
    if told.unwrap_or(false) {
        return;
    }
    let Some(observer) = root::observer(root) else {
        return;
    };
    observer.ended(end, span);
    // Not while a task of another root ends in what is told of this one.
    let before = LAST.try_with(|last| {
        let mut last = last.try_borrow_mut().ok()?;
        last.replace((root, observer))
    });
    drop(before);
}

/// In which task this thread is.
pub(crate) fn current() -> Current {
    // A thread that ends is in none.
    CURRENT.try_with(Cell::get).unwrap_or(Current::Outside)
}

/// Calls `f` as a part of that task.
#[inline]
pub(crate) fn within<T>(task: Current, f: impl FnOnce() -> T) -> T {
    let _before = Restored(CURRENT.try_with(|current| current.replace(task)).ok());
    f()
}

/// What the thread was in before, for a panic too.
struct Restored(Option<Current>);

impl Drop for Restored {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            CURRENT.try_with(|current| current.set(before)).ok();
        }
    }
}
