//! The `tracing` layers of an exporter: spans nested under those of tasks, and events as log
//! records.
//!
//! The span layer is `tracing_opentelemetry` with a span processor that pushes finished spans into
//! the queue. The log layer turns each event into a log record with the ids of the span or the task
//! that it belongs to. An event in a task but outside any span of `tracing` is also added to the
//! span of the task.
//!
//! The place of a span or event of `tracing`:
//!
//! | the thread is in | span | event |
//! |---|---|---|
//! | no task | as `tracing` nests it | log record, of the active span if there is one |
//! | a task without a span | not recorded | log record without ids |
//! | a short task | child of the task | log record; also in the task's span |
//! | a long-lived task | own trace, linked to the task | log record of the task; also in its span |
//! | a span within a task | child of that span | log record of that span |
//!
//! Both layers run on the thread that logs, and push into a queue without waiting. They have no
//! batch, no timer and no thread.

use super::Inner;
use super::record::{self, event as span_event};
use super::spans::task_span::log_in_task;
use crate::registry::observer::{Current, Ids, current};
use crate::task::TaskId;
use crate::telemetry::metrics::tasks::ROOT;
use opentelemetry::trace::{Span as _, SpanContext, TraceContextExt};
use opentelemetry::{Context as OtelContext, InstrumentationScope, trace::TracerProvider as _};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, SeverityNumber};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// The prefix of the targets of headcount.
///
/// The log layer takes these at DEBUG.
const OWN: &str = "headcount::";
/// The target of events about one task, which carry its id in the field `id`. The span may be that
/// of another task than the one in which the event is logged.
const TASKS: &str = "headcount::task";
/// The target of events about the shutdown, which belong to its span.
const SHUTDOWN: &str = "headcount::shutdown";

/// A span processor that pushes finished spans of `tracing` into the queue.
///
/// The reference is weak: a tracer that outlives the exporter does not keep its queues. Finished
/// spans are dropped then.
#[derive(Debug)]
struct Taken(Weak<Inner>);

/// The filter of the span layer.
///
/// It makes the spans below INFO, and those in a task without a span, cost nothing but the check.
struct Sampled;

/// A layer that turns events into log records.
///
/// It keeps the exporter alive, so its queue still takes records between two runtimes.
struct Logs(Arc<Inner>);

/// The filter of the log layer.
///
/// It depends on the metadata alone, so `tracing` evaluates it once for each call site.
struct Logged;

/// A visitor that collects the fields of an event.
#[derive(Default)]
struct Fields {
    /// The field `message`.
    message: Option<String>,
    /// The field `id`, which is a task id under the target [`TASKS`].
    ///
    /// Only an unsigned field is taken for it.
    task: Option<u64>,
    /// The other fields, and `id`. Each is an allocation or two; an event is built only after the
    /// filter has taken it.
    attributes: Vec<KeyValue>,
}

/// Returns both layers, each with its filter.
///
/// The sampler has the same ratio as that of tasks. It decides only for spans outside of any task
/// and for traces that begin in a long-lived task: all others follow their parent.
pub(super) fn layers<S>(inner: &Arc<Inner>) -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let provider = SdkTracerProvider::builder()
        .with_span_processor(Taken(Arc::downgrade(inner)))
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            inner.settings.ratio,
        ))))
        .build();
    let scope = InstrumentationScope::builder("tracing").build();
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer_with_scope(scope))
        .with_filter(Sampled);
    spans.and_then(Logs(Arc::clone(inner)).with_filter(Logged))
}

// === impl Taken ===

impl SpanProcessor for Taken {
    /// Called by the SDK when it starts a sampled span.
    fn on_start(&self, span: &mut Span, parent: &OtelContext) {
        // A span without a parent in a long-lived task begins a trace; the link names the task.
        if let Current::LongLived(task) = current()
            && !parent.has_active_span()
        {
            span.add_link(task.context(), Vec::new());
        }
    }

    /// Called on the thread that closes the span. A span that is open when the process ends never
    /// gets here.
    fn on_end(&self, span: SpanData) {
        if let Some(inner) = self.0.upgrade() {
            inner.push_span(record::SpanRecord::Made(Box::new(span)));
        }
    }

    /// Does nothing: the flush at the end of a run sends the queue.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

// === impl Sampled ===

impl<S> Filter<S> for Sampled {
    /// Reads the task of the thread, so the result differs between calls at one call site.
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        // Events need no check: an event is a part of its span, if that is exported.
        *metadata.level() <= Level::INFO && current() != Current::Unsampled
    }

    /// `sometimes`, because the answer for a call site depends on the task. `never` lets `tracing`
    /// skip the call site without asking again.
    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if *metadata.level() <= Level::INFO {
            Interest::sometimes()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

// === impl Logged ===

impl Logged {
    /// Returns whether an event becomes a log record: at INFO and above, for headcount itself at
    /// DEBUG and above. The lifecycle of tasks is at DEBUG because it is not for a terminal.
    fn takes(metadata: &Metadata<'_>) -> bool {
        let most = match metadata.target().starts_with(OWN) {
            true => Level::DEBUG,
            false => Level::INFO,
        };
        metadata.is_event() && *metadata.level() <= most
    }
}

impl<S> Filter<S> for Logged {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        Self::takes(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if Self::takes(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::DEBUG)
    }
}

// === impl Logs ===

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Logs {
    /// Turns the event into a log record, and in a task also into an event of its span.
    ///
    /// It allocates for each field and for the record. It must not log: the event would come back
    /// here.
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        if metadata.target().starts_with("headcount::") {
            fields.name_root();
        }
        let now = record::unix_nanos(SystemTime::now());
        // An event in a span of `tracing` is already a part of that span.
        if is_in_task_alone() {
            log_in_task(|| {
                let name = fields.message.as_deref().unwrap_or(metadata.name());
                let mut event = span_event(name, now);
                event.attributes.clone_from(&fields.attributes);
                event
                    .attributes
                    .push(record::text("level", metadata.level().as_str()));
                event
                    .attributes
                    .push(record::text("target", metadata.target()));
                event
            });
        }
        let ids = self.ids(metadata, &fields);
        let is_named = metadata.name().starts_with("headcount.");
        let mut attributes = fields.attributes;
        attributes.push(record::text("code.namespace", metadata.target()));
        self.0.push_log(LogRecord {
            time_unix_nano: now,
            observed_time_unix_nano: now,
            severity_number: severity(*metadata.level()).into(),
            severity_text: metadata.level().as_str().to_owned(),
            body: fields.message.map(|text| AnyValue {
                value: Some(Value::StringValue(text)),
            }),
            attributes,
            flags: u32::from(ids.is_some()),
            trace_id: ids.map_or_else(Vec::new, Ids::trace_bytes),
            span_id: ids.map_or_else(Vec::new, Ids::span_bytes),
            event_name: if is_named {
                metadata.name().to_owned()
            } else {
                String::new()
            },
            ..LogRecord::default()
        });
        // Events with a name are exported at once. So the start of a long-lived task is visible
        // while the task runs.
        if is_named {
            self.0.logs.hasten();
        }
    }
}

/// Returns whether this thread polls a task with a span, and is in no span of `tracing` inside it.
///
/// In a short task the context of the task itself is active then, in a long-lived one an empty
/// context.
fn is_in_task_alone() -> bool {
    let active = OtelContext::map_current(|context| {
        let span = context.span().span_context().span_id();
        u64::from_be_bytes(span.to_bytes())
    });
    match current() {
        Current::Short(task) => active == task.span,
        Current::LongLived(..) => active == 0,
        Current::Outside | Current::Unsampled => false,
    }
}

impl Logs {
    /// Returns the span that an event belongs to: that of the task it names, of the shutdown, the
    /// active one, or that of the long-lived task being polled. `None` outside of all of them. For
    /// an event about a task, the stripes of the live spans are searched under their locks.
    fn ids(&self, metadata: &Metadata<'_>, fields: &Fields) -> Option<Ids> {
        match (metadata.target(), fields.task) {
            (TASKS, Some(task)) => return Some(self.0.ids_of_task(TaskId(task))),
            (SHUTDOWN, _) => return Some(self.0.shutdown),
            _ => {}
        }
        let active = OtelContext::map_current(|context| {
            let span: SpanContext = context.span().span_context().clone();
            span.is_valid().then(|| Ids::of(&span))
        });
        active.or(match current() {
            Current::LongLived(task) => Some(task),
            _ => None,
        })
    }
}

/// Returns the severity number of a level.
///
/// The numbers are those of
/// <https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber>.
fn severity(level: Level) -> SeverityNumber {
    match level {
        Level::TRACE => SeverityNumber::Trace,
        Level::DEBUG => SeverityNumber::Debug,
        Level::INFO => SeverityNumber::Info,
        Level::WARN => SeverityNumber::Warn,
        Level::ERROR => SeverityNumber::Error,
    }
}

// === impl Fields ===

impl Fields {
    /// Adds a field as an attribute.
    fn add(&mut self, field: &Field, value: Value) {
        self.attributes.push(record::pair(field.name(), value));
    }

    /// Replaces an empty `group` by `/`, the name that spans and metrics give to tasks outside any
    /// group.
    ///
    /// Only for events of headcount: in those of the program a field `group` may mean anything.
    fn name_root(&mut self) {
        let nameless = record::text("group", "");
        for attribute in &mut self.attributes {
            if *attribute == nameless {
                *attribute = record::text("group", ROOT);
            }
        }
    }
}

impl Visit for Fields {
    /// A message with arguments arrives here, as `fmt::Arguments`.
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = Some(text),
            _ => self.add(field, Value::StringValue(text)),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = Some(value.to_owned()),
            _ => self.add(field, Value::StringValue(value.to_owned())),
        }
    }

    /// A value above `i64::MAX`, which OTLP cannot express, becomes that.
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "id" {
            self.task = Some(value);
        }
        self.add(
            field,
            Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)),
        );
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::IntValue(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, Value::DoubleValue(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::BoolValue(value));
    }
}
