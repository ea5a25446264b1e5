//! The end: spans of the shutdown and of those that never ended, the numbers of the report, and then all that waits, within
//! a budget. What is lost by then is said in the report.

use super::super::exports::{SIGNALS, Signal};
use super::super::family::Families;
use super::super::past;
use super::Telemetry;
use super::pipe::{Flushing, Sent};
use super::record::{SpanRecord, flags, text, unix_nanos};
use crate::registry::observer::Ids;
use crate::registry::root::Root;
use crate::report::{Flush, FlushResult, Outcome, Reason, Report, Timing};
use crate::shutdown::ending::Ending;
use crate::state::LastShutdown;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, number_data_point};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// For a signal. They go out at the same time.
const BUDGET: Duration = Duration::from_secs(1);
/// From that to the report.
const RESERVE: Duration = Duration::from_millis(50);

/// The end of what one runtime exports.
#[derive(Debug)]
pub(crate) struct Flusher {
    telemetry: Telemetry,
    root: Arc<Root>,
    version: String,
    begun: Mutex<Option<SystemTime>>,
    ended: AtomicBool,
}

// === impl Flusher ===

impl Flusher {
    pub(super) fn new(telemetry: Telemetry, root: Arc<Root>, version: &str) -> Self {
        Self {
            telemetry,
            root,
            version: version.to_owned(),
            begun: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// Sends all that waits, and says what came of it.
    fn flush(&self, until: Instant) -> Vec<Flush> {
        let begun = Instant::now();
        let until = until.checked_sub(RESERVE).unwrap_or(until);
        let (reply, replies) = sync_channel(SIGNALS.len());
        let asked = self.telemetry.ask(|last| Flushing {
            until: until.into(),
            last,
            reply,
        });
        let mut sent: [Option<(Sent, Duration)>; SIGNALS.len()] = [None, None, None];
        let patience = until + RESERVE / 2;
        for _ in 0..asked.len() {
            let left = patience.saturating_duration_since(Instant::now());
            let Ok((signal, what)) = replies.recv_timeout(left) else {
                break;
            };
            sent[signal as usize] = Some((what, begun.elapsed()));
        }
        self.telemetry.calm();
        let rows = asked
            .into_iter()
            .filter_map(|signal| match sent[signal as usize].take() {
                Some((sent, took)) => row(signal, &sent, took),
                None => {
                    let text = format!("{} not delivered: no answer in time", signal.word());
                    Some(Flush::new(
                        signal.word(),
                        FlushResult::TimedOut,
                        text,
                        begun.elapsed(),
                    ))
                }
            });
        rows.collect()
    }

    fn push_shutdown(&self, report: &Report) {
        let now = SystemTime::now();
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = begun.unwrap_or_else(|| now - report.total);
        let inner = &self.telemetry.0;
        let trace = inner.shutdown;
        let mut attributes = vec![
            text("headcount.shutdown.outcome", report.outcome.as_str()),
            text("headcount.shutdown.reason", report.reason.to_string()),
        ];
        attributes.extend(
            report
                .required_failed
                .then(|| text("error.type", "required_failed")),
        );
        let is_bad = matches!(report.outcome, Outcome::Lingering | Outcome::Forced);
        let mut whole = span("headcount.shutdown", trace, None, (begun, now), attributes);
        if is_bad || report.required_failed {
            whole.status = Some(Status {
                code: StatusCode::Error.into(),
                message: report.outcome.as_str().to_owned(),
            });
        }
        let mut at = begun + report.pre_drain;
        let layers = [
            ("drain", &report.drain.timing),
            ("cancel", &report.cancel.timing),
            ("close", &report.close.timing),
        ];
        for (number, (name, timing)) in (1..).zip(layers) {
            let own = Ids {
                span: trace.span.wrapping_add(number).max(1),
                ..trace
            };
            let end = at + timing.took;
            let attributes = layer_attributes(timing);
            inner.push_span(written(span(name, own, Some(trace), (at, end), attributes)));
            at = end;
        }
        let own = Ids {
            span: trace.span.wrapping_add(4).max(1),
            ..trace
        };
        // What is sent cannot tell how long the sending took.
        inner.push_span(written(span(
            "flush",
            own,
            Some(trace),
            (at.min(now), now),
            Vec::new(),
        )));
        inner.push_span(written(whole));
    }
}

impl Ending for Flusher {
    fn name(&self) -> &'static str {
        "telemetry"
    }

    fn budget(&self) -> Duration {
        BUDGET
    }

    fn begun(&self, _: &Reason) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun = Some(SystemTime::now());
    }

    fn end(&self, report: &Report, until: Instant) -> Vec<Flush> {
        self.telemetry.0.push_lingering(&self.root);
        self.push_shutdown(report);
        self.telemetry
            .push_last(&LastShutdown::of(report, &self.version, SystemTime::now()));
        self.ended.store(true, Ordering::SeqCst);
        self.flush(until)
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::SeqCst) {
            self.telemetry.leave();
        }
    }
}

impl Telemetry {
    /// The numbers of how a run ended, which nobody may come to scrape.
    pub(crate) fn push_last(&self, last: &LastShutdown) {
        let mut families = Families::default();
        past::write(last, &mut families);
        let now = unix_nanos(SystemTime::now());
        for family in families.into_families() {
            let points = family.get_metric().iter().map(|metric| NumberDataPoint {
                attributes: labels(metric),
                time_unix_nano: now,
                value: Some(number_data_point::Value::AsDouble(
                    metric.get_gauge().get_value(),
                )),
                ..NumberDataPoint::default()
            });
            self.0.push_metric(Metric {
                name: family.name().to_owned(),
                description: family.help().to_owned(),
                data: Some(Data::Gauge(Gauge {
                    data_points: points.collect(),
                })),
                ..Metric::default()
            });
        }
    }
}

fn labels(metric: &prometheus::proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter();
    labels
        .map(|label| text(label.name(), label.value()))
        .collect()
}

/// What a flush says of a signal; nothing where there was nothing to send.
fn row(signal: Signal, sent: &Sent, took: Duration) -> Option<Flush> {
    let result = match (sent.delivered, sent.lost) {
        (0, 0) => return None,
        (_, 0) => FlushResult::Delivered,
        (0, _) => FlushResult::Failed,
        _ => FlushResult::Partial,
    };
    Some(Flush::new(signal.word(), result, sent.text(signal), took))
}

fn layer_attributes(timing: &Timing) -> Vec<KeyValue> {
    let budget = format!("{:?}", timing.budget);
    vec![
        text("headcount.shutdown.budget", budget),
        text(
            "headcount.shutdown.cut",
            if timing.cut { "true" } else { "false" },
        ),
    ]
}

fn written(span: Span) -> SpanRecord {
    SpanRecord::Written(Box::new(span))
}

fn span(
    name: &str,
    own: Ids,
    parent: Option<Ids>,
    (begun, ended): (SystemTime, SystemTime),
    attributes: Vec<KeyValue>,
) -> Span {
    Span {
        trace_id: own.trace_bytes(),
        span_id: own.span_bytes(),
        parent_span_id: parent.map_or_else(Vec::new, Ids::span_bytes),
        flags: flags(false),
        name: name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: unix_nanos(begun),
        end_time_unix_nano: unix_nanos(ended),
        attributes,
        ..Span::default()
    }
}
