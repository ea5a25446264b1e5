//! The span records of tasks, and constructors for the OTLP types that they become.
//!
//! The end of a task leaves only a small record, so that it costs the work side little. Names and
//! attributes are added on the exporting thread.
//!
//! The division of labour: a worker copies ids, clock readings and the address of the kind, and
//! allocates only for an error text or logged events. The exporting thread turns readings into Unix
//! times, names into attributes and all of it into bytes (`encode.rs`).
//!
//! A kind is never freed, so a record may refer to it after its runtime has ended.

use crate::registry::clock;
use crate::registry::kind::Kind;
use crate::registry::observer::{Ids, Origin};
use crate::report;
use crate::task::{TaskId, TaskOutcome};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::{Event, Link, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, SpanFlags, Status};
use opentelemetry_sdk::trace::SpanData;
use std::mem;
use std::time::{SystemTime, UNIX_EPOCH};

/// The end of the span of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanEnd {
    /// The task ended with this outcome.
    Ended(TaskOutcome),
    /// The task was still alive when the process ended. Made by the flush, for each task of the
    /// root.
    Lingering,
}

/// The span of a task that has ended, or never will.
#[derive(Debug)]
pub(super) struct TaskRecord {
    /// The ids that the span had while the task ran, so that its children refer to it.
    pub(super) ids: Ids,
    /// The parent, or the span that the trace is linked to.
    pub(super) origin: Origin,
    /// The attribute `headcount.task.id`.
    pub(super) id: TaskId,
    /// Group, name, spawn site and options of the task.
    pub(super) kind: &'static Kind,
    /// The clock readings: spawn, first poll, request to drain, and end.
    pub(super) started: u64,
    /// The first poll; `None` if the task was never polled, or had no span to note it.
    pub(super) polled: Option<u64>,
    /// The request to drain; `None` if there was none.
    pub(super) told: Option<u64>,
    /// The end; for a task that lingers the time of the flush.
    pub(super) ended: u64,
    pub(super) end: SpanEnd,
    /// The name of the thread on which the task ended; empty if it is not known.
    pub(super) thread: &'static str,
    /// The parts that few records have; boxed to keep the others small. If it is `None`, the events
    /// of the span are the lifecycle alone, which the encoder writes without building them first.
    pub(super) rare: Option<Box<Rare>>,
}

/// The parts of a record that few tasks have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// The text of the error or the panic.
    pub(super) error: Option<Box<str>>,
    /// Events logged in the task and outside any span of `tracing` in it. At most 128; see
    /// `task_span.rs`.
    pub(super) events: Vec<Event>,
}

/// A span that is waiting to be exported.
#[derive(Debug)]
pub(super) enum SpanRecord {
    // Not boxed: a box would be allocated on a worker and freed on the exporting thread, and both
    // would contend for the heap of the worker.
    Task(TaskRecord),
    /// A span of `tracing`.
    Made(Box<SpanData>),
    /// A span in its final form: of the shutdown and its layers.
    Written(Box<Span>),
}

/// A moment on both clocks, which converts clock readings into Unix times.
///
/// One moment serves all records of a request, so their order is that of the clock readings,
/// however the system clock was set between them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// The reading of the clock. It has no unit; see [`clock`].
    raw: u64,
    /// The Unix time in nanoseconds.
    unix: u64,
}

// === impl Moment ===

impl Moment {
    /// Reads both clocks.
    ///
    /// The readings are taken one after the other. If the thread is interrupted in between, all
    /// times of the request are late by the interruption.
    pub(super) fn now() -> Self {
        Self {
            raw: clock::raw(),
            unix: unix_nanos(SystemTime::now()),
        }
    }

    /// Returns the Unix time of a clock reading, in nanoseconds. The system clock may have been set
    /// in between; the result is relative to this moment.
    pub(super) fn unix(self, raw: u64) -> u64 {
        if raw <= self.raw {
            let before = clock::nanos_between(raw, self.raw);
            self.unix.saturating_sub(before)
        } else {
            self.unix + clock::nanos_between(self.raw, raw)
        }
    }
}

// === impl TaskRecord ===

impl TaskRecord {
    /// Returns the part of the span that all tasks of the same kind and with the same end have in
    /// common. The encoder writes it once.
    ///
    /// It has no ids, times or events. Concatenated with a message of these, it decodes to the
    /// whole span.
    pub(super) fn shared(&self) -> Span {
        let path = report::path(self.kind.group(), self.kind.name);
        Span {
            name: format!("task {path}"),
            kind: SpanKind::Internal.into(),
            attributes: self.attributes(),
            ..Span::default()
        }
    }

    /// Returns the links and the status, if the span has any.
    pub(super) fn rare_parts(&self) -> Option<Span> {
        let links: Vec<_> = match self.origin {
            Origin::Root(Some(cause)) => vec![link(cause)],
            _ => Vec::new(),
        };
        let status = self.status();
        (status.is_some() || !links.is_empty()).then(|| Span {
            links,
            status,
            ..Span::default()
        })
    }

    /// Returns the attributes that depend only on the kind and the end.
    ///
    /// The names `headcount.*` are those of this crate. `code.*` and `error.type` are those of
    /// <https://opentelemetry.io/docs/specs/semconv/>.
    fn attributes(&self) -> Vec<KeyValue> {
        let kind = self.kind;
        let mut attributes = Vec::with_capacity(7);
        attributes.extend([
            text("headcount.task.name", kind.name),
            text("headcount.task.group", group(kind)),
            text("headcount.task.kind", kind.options.runs.as_str()),
            text("headcount.task.outcome", self.end.word()),
            text("code.file.path", kind.site.file()),
            number("code.line.number", u64::from(kind.site.line())),
        ]);
        attributes.extend(self.end.error().map(|error| text("error.type", error)));
        attributes
    }

    /// Returns the status ERROR with the error text, for an end that is an error.
    ///
    /// A task without an error keeps the status UNSET, as the specification asks of
    /// instrumentation: <https://opentelemetry.io/docs/specs/otel/trace/api/#set-status>.
    fn status(&self) -> Option<Status> {
        self.end.error().map(|_| Status {
            code: StatusCode::Error.into(),
            message: match (self.error(), self.end) {
                (Some(error), _) => error.to_string(),
                (None, SpanEnd::Lingering) => "alive at the end of the process".to_owned(),
                (None, _) => String::new(),
            },
        })
    }

    /// Returns the text of the error or the panic; `None` if there is none or the end is no error.
    fn error(&self) -> Option<&str> {
        self.rare.as_ref()?.error.as_deref()
    }

    /// Returns the lifecycle events in the order of their times, as names and clock readings.
    ///
    /// At most three: started, draining, and the end. A task can be told to drain before its first
    /// poll, so the first two are compared.
    pub(super) fn lifecycle(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let polled = self.polled.map(|at| ("headcount.task.started", at));
        let told = self.told.map(|at| ("headcount.task.draining", at));
        let last = (self.end.event(), self.ended);
        let [first, second] = match (polled, told) {
            (Some((_, polled_at)), Some((_, told_at))) if told_at < polled_at => [told, polled],
            _ => [polled, told],
        };
        first.into_iter().chain(second).chain([last])
    }

    /// Returns the lifecycle events and the logged events, sorted by time. The last lifecycle event
    /// carries the error text as `exception.message`.
    ///
    /// Takes the logged events out of the record. The sort is stable: of events with one time, a
    /// logged one comes before those of the lifecycle.
    pub(super) fn all_events(&mut self, now: Moment) -> Vec<Event> {
        let rare = self.rare.as_mut();
        let mut events = rare.map_or_else(Vec::new, |rare| mem::take(&mut rare.events));
        events.extend(self.lifecycle().map(|(name, at)| event(name, now.unix(at))));
        if let (Some(error), Some(last)) = (self.error(), events.last_mut()) {
            last.attributes.push(text("exception.message", error));
        }
        events.sort_by_key(|event| event.time_unix_nano);
        events
    }
}

// === impl SpanEnd ===

impl SpanEnd {
    /// The number of different ends.
    ///
    /// The encoder has that many caches for each kind.
    pub(super) const COUNT: usize = TaskOutcome::Cancelled as usize + 2;

    /// Returns an index below [`COUNT`](Self::COUNT).
    pub(super) fn number(self) -> usize {
        match self {
            Self::Ended(outcome) => outcome as usize,
            Self::Lingering => Self::COUNT - 1,
        }
    }

    /// Returns the value of `headcount.task.outcome`.
    fn word(self) -> &'static str {
        match self {
            Self::Ended(outcome) => outcome.as_str(),
            Self::Lingering => "lingering",
        }
    }

    /// Returns the name of the lifecycle event.
    fn event(self) -> &'static str {
        match self {
            Self::Ended(TaskOutcome::Completed | TaskOutcome::Failed) => "headcount.task.finished",
            Self::Ended(TaskOutcome::Panicked) => "headcount.task.panicked",
            Self::Ended(TaskOutcome::Cancelled) => "headcount.task.cancelled",
            Self::Lingering => "headcount.task.lingering",
        }
    }

    /// Returns the value of `error.type`; `None` if the end is no error. A cancelled task is none.
    /// Cancelling is how a service stops its tasks, so it must not raise the rate of errors.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Ended(TaskOutcome::Failed) => Some("error"),
            Self::Ended(TaskOutcome::Panicked) => Some("panic"),
            Self::Lingering => Some("lingering"),
            Self::Ended(_) => None,
        }
    }
}

/// Returns the group of a kind as metrics name it: `/` outside any group.
pub(super) fn group(kind: &Kind) -> &'static str {
    match kind.group() {
        "" => "/",
        group => group,
    }
}

/// Returns the Unix time in nanoseconds; 0 for a time before 1970.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the flags of a span: sampled, and whether the parent is in another process.
///
/// Bit 0 is the sampled flag of <https://www.w3.org/TR/trace-context/#trace-flags>: only sampled
/// spans are exported. Without the mask bit a receiver could not tell "local" from "not known".
pub(super) fn flags(is_remote: bool) -> u32 {
    let mut flags = 1 | SpanFlags::ContextHasIsRemoteMask as u32;
    if is_remote {
        flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    flags
}

/// Returns a link to a sampled span of this process.
pub(super) fn link(to: Ids) -> Link {
    Link {
        trace_id: to.trace_bytes(),
        span_id: to.span_bytes(),
        flags: flags(false),
        ..Link::default()
    }
}

/// Returns a span event without attributes, at a Unix time in nanoseconds.
pub(super) fn event(name: &str, unix: u64) -> Event {
    Event {
        time_unix_nano: unix,
        name: name.to_owned(),
        ..Event::default()
    }
}

/// Returns a string attribute.
pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

/// Returns an integer attribute; a value above `i64::MAX` becomes that.
pub(super) fn number(key: &str, value: u64) -> KeyValue {
    pair(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

/// Returns an attribute.
pub(super) fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
