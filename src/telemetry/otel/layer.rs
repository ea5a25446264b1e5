//! The layers for a `tracing` subscriber: spans that hang on those of tasks, and events as log records.

use super::super::tasks::ROOT;
use super::Inner;
use super::record::{self, event as span_event};
use crate::registry::observer::{Current, Ids, current, log_in_task};
use crate::task::TaskId;
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

/// What headcount logs of tasks and of itself.
const OWN: &str = "headcount::";
/// In it an event names its task.
const TASKS: &str = "headcount::task";
const SHUTDOWN: &str = "headcount::shutdown";

/// Takes the spans of `tracing` that are over.
#[derive(Debug)]
struct Taken(Weak<Inner>);

/// Which spans of `tracing` are exported.
struct Sampled;

/// Makes log records of events.
struct Logs(Arc<Inner>);

/// Which events become log records.
struct Logged;

/// Reads the fields of an event.
#[derive(Default)]
struct Fields {
    message: Option<String>,
    task: Option<u64>,
    attributes: Vec<KeyValue>,
}

/// The two layers.
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
    fn on_start(&self, span: &mut Span, parent: &OtelContext) {
        // An iteration of a long-lived task begins a trace; the link says of which task.
        if let Current::LongLived(task) = current()
            && !parent.has_active_span()
        {
            span.add_link(task.context(), Vec::new());
        }
    }

    fn on_end(&self, span: SpanData) {
        if let Some(inner) = self.0.upgrade() {
            inner.push_span(record::SpanRecord::Made(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

// === impl Sampled ===

impl<S> Filter<S> for Sampled {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        // An event is a part of its span, if that is exported.
        *metadata.level() <= Level::INFO && current() != Current::Unsampled
    }

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
    /// Of headcount itself more: what becomes of tasks is not for a terminal.
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
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        event.record(&mut fields);
        if metadata.target().starts_with("headcount::") {
            fields.name_root();
        }
        let now = record::unix_nanos(SystemTime::now());
        // Events in a span are the span's already.
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
        // A trace that lasts says so while it does.
        if is_named {
            self.0.logs.hasten();
        }
    }
}

/// Whether this thread is in a task, and in no span of `tracing` in it.
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
    /// To which span an event belongs.
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
    fn add(&mut self, field: &Field, value: Value) {
        self.attributes.push(record::pair(field.name(), value));
    }

    /// The group of tasks that are in none has the name that spans and metrics give it.
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
