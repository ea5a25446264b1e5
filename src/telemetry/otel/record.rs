//! The records that are exported, and how OTLP writes them.
//!
//! A task's end leaves a small record; names and attributes are put to it on the exporting thread.

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

/// How a task's span ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanEnd {
    Ended(TaskOutcome),
    /// It had not ended when the process did.
    Lingering,
}

/// The span of a task that is over.
#[derive(Debug)]
pub(super) struct TaskRecord {
    pub(super) ids: Ids,
    pub(super) origin: Origin,
    pub(super) id: TaskId,
    pub(super) kind: &'static Kind,
    /// Readings of the clock.
    pub(super) started: u64,
    pub(super) polled: Option<u64>,
    pub(super) told: Option<u64>,
    pub(super) ended: u64,
    pub(super) end: SpanEnd,
    pub(super) thread: &'static str,
    pub(super) rare: Option<Box<Rare>>,
}

/// What the records of few tasks have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) error: Option<Box<str>>,
    /// What was logged in the task, and in no span of it.
    pub(super) events: Vec<Event>,
}

/// A span that waits.
#[derive(Debug)]
pub(super) enum SpanRecord {
    // No box: it would be made on a worker and freed on the exporting thread, and both fight for the worker's heap.
    Task(TaskRecord),
    /// Of `tracing`.
    Made(Box<SpanData>),
    Written(Box<Span>),
}

/// One moment by both clocks, by which readings become times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    raw: u64,
    unix: u64,
}

// === impl Moment ===

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            raw: clock::raw(),
            unix: unix_nanos(SystemTime::now()),
        }
    }

    /// The Unix time of a reading, in nanoseconds.
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
    /// What it has in common with all that are of its kind and end so.
    pub(super) fn shared(&self) -> Span {
        let path = report::path(self.kind.group(), self.kind.name);
        Span {
            name: format!("task {path}"),
            kind: SpanKind::Internal.into(),
            attributes: self.attributes(),
            ..Span::default()
        }
    }

    /// What only few have.
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

    fn error(&self) -> Option<&str> {
        self.rare.as_ref()?.error.as_deref()
    }

    /// Its lifecycle: names, and readings of the clock.
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

    /// The same with what was logged in it, in order.
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
    /// How many there are.
    pub(super) const COUNT: usize = TaskOutcome::Cancelled as usize + 2;

    /// Below their count.
    pub(super) fn number(self) -> usize {
        match self {
            Self::Ended(outcome) => outcome as usize,
            Self::Lingering => Self::COUNT - 1,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ended(outcome) => outcome.as_str(),
            Self::Lingering => "lingering",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Ended(TaskOutcome::Completed | TaskOutcome::Failed) => "headcount.task.finished",
            Self::Ended(TaskOutcome::Panicked) => "headcount.task.panicked",
            Self::Ended(TaskOutcome::Cancelled) => "headcount.task.cancelled",
            Self::Lingering => "headcount.task.lingering",
        }
    }

    /// The value of `error.type`.
    fn error(self) -> Option<&'static str> {
        match self {
            Self::Ended(TaskOutcome::Failed) => Some("error"),
            Self::Ended(TaskOutcome::Panicked) => Some("panic"),
            Self::Lingering => Some("lingering"),
            Self::Ended(_) => None,
        }
    }
}

/// As metrics name it.
pub(super) fn group(kind: &Kind) -> &'static str {
    match kind.group() {
        "" => "/",
        group => group,
    }
}

pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Sampled, and whether the parent is known to be of another process.
pub(super) fn flags(is_remote: bool) -> u32 {
    let mut flags = 1 | SpanFlags::ContextHasIsRemoteMask as u32;
    if is_remote {
        flags |= SpanFlags::ContextIsRemoteMask as u32;
    }
    flags
}

pub(super) fn link(to: Ids) -> Link {
    Link {
        trace_id: to.trace_bytes(),
        span_id: to.span_bytes(),
        flags: flags(false),
        ..Link::default()
    }
}

pub(super) fn event(name: &str, unix: u64) -> Event {
    Event {
        time_unix_nano: unix,
        name: name.to_owned(),
        ..Event::default()
    }
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

pub(super) fn number(key: &str, value: u64) -> KeyValue {
    pair(
        key,
        Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
    )
}

pub(super) fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}
