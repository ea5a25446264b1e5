//! The flush at the end of a run.
//!
//! It pushes the spans of the shutdown and of the tasks that are still alive, then the numbers of
//! the report, and sends all queues within a budget. The report says for each signal what was
//! delivered and what was lost.
//!
//! The order in time, within the budget of the flush, by default one second. It is a part of the
//! shutdown's deadline, and less if that is near. All signals are sent at the same time.
//!
//! ```text
//! run: push lingering tasks ─► shutdown spans ─► last_shutdown_* ─► ask all pipes
//!                                                                      │ until − 50 ms: deadline
//! replies, one for each signal ◄───────────────────────────────────────┘
//!   └ until − 25 ms: a signal without a reply is reported as timed out
//! ```
//!
//! Everything that is to be sent is pushed before the pipes are asked, since they stop at the last
//! record. A full queue refuses these records like any others.

use super::Telemetry;
use super::pipe::{Flushing, Sent};
use super::record::{SpanRecord, flags, text, unix_nanos};
use crate::control::exit_hook::ExitHook;
use crate::registry::observer::Ids;
use crate::registry::root::Root;
use crate::report::{Flush, FlushResult, Outcome, Reason, Report, Timing};
use crate::state::LastShutdown;
use crate::telemetry::metrics::exports::{Lost, SIGNALS, Signal};
use crate::telemetry::metrics::family::Families;
use crate::telemetry::metrics::last_run;
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

/// The part of the budget that is kept for the replies of the exporters. Half of it is for the
/// replies to arrive, the other half to return before `until`.
const RESERVE: Duration = Duration::from_millis(50);

/// The exit hook that flushes the telemetry of one runtime.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// The exporter, which other runtimes may share.
    telemetry: Telemetry,
    /// The root of the runtime: its live tasks are the lingering ones.
    root: Arc<Root>,
    /// The version of the service. It goes into `last_shutdown_info`.
    version: String,
    /// The time at which the shutdown began. `None` if the shutdown did not announce it; then it is
    /// computed from the report.
    begun: Mutex<Option<SystemTime>>,
    /// True once the flush was requested. Without one, dropping the hook detaches the runtime. It
    /// is set before the flush is requested, so the runtime is detached once and not twice.
    ended: AtomicBool,
    /// The numbers of lost records when the runtime was attached. An exporter may be older.
    lost_before: Lost,
}

// === impl Flusher ===

impl Flusher {
    /// Called once the exporter has counted the runtime: the new hook must be dropped or run for it
    /// to be uncounted.
    pub(super) fn new(telemetry: Telemetry, root: Arc<Root>, version: &str) -> Self {
        Self {
            lost_before: telemetry.exports().lost(),
            telemetry,
            root,
            version: version.to_owned(),
            begun: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// Sends everything in the queues and returns the result of each signal that had something to
    /// send.
    ///
    /// An exporter that does not reply until shortly before `until` is reported as timed out.
    /// Blocks the calling thread until then at the latest.
    ///
    /// The replies come in any order. The time of each is that from the request to its reply.
    /// Afterwards the exporter of the remaining runtimes returns to its usual pace.
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

    /// Pushes the span `headcount.shutdown` and its children `drain`, `cancel`, `close` and
    /// `flush`.
    ///
    /// The layers have no times of their own in the report, only durations. Their spans are laid
    /// one after the other from the end of the wait before the drain. The ids of the children are
    /// those of the parent plus 1 to 4.
    ///
    /// An outcome that left something alive, and a required task that failed, give the parent the
    /// status ERROR.
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
        // The span is sent in the flush that it describes, so it ends when the flush begins.
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

impl ExitHook for Flusher {
    fn name(&self) -> &'static str {
        "telemetry"
    }

    fn budget(&self) -> Duration {
        self.telemetry.flush_budget()
    }

    /// Takes a lock that only `run` takes otherwise, which comes later, so it does not block.
    fn begun(&self, _: &Reason) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        *begun = Some(SystemTime::now());
    }

    /// Reads a few atomics.
    fn account(&self, report: &mut Report) {
        report.lost_records = self.telemetry.exports().lost_since(&self.lost_before);
    }

    /// Runs on the thread of the hook, once.
    fn run(&self, report: &Report, until: Instant) -> Vec<Flush> {
        self.telemetry.0.push_lingering(&self.root);
        self.push_shutdown(report);
        self.telemetry
            .push_last(&LastShutdown::of(report, &self.version, SystemTime::now()));
        self.ended.store(true, Ordering::SeqCst);
        self.flush(until)
    }
}

impl Drop for Flusher {
    /// The runtime failed to start, or was dropped without a shutdown. Nothing is flushed then.
    fn drop(&mut self) {
        if !self.ended.load(Ordering::SeqCst) {
            self.telemetry.leave();
        }
    }
}

impl Telemetry {
    /// Pushes the metrics `last_shutdown_*` of a run, which may end before the next scrape.
    ///
    /// It is also called at a start, for a previous run that could not push its own. The names,
    /// labels and values are those of `/metrics`; all are sent as gauges.
    pub(crate) fn push_last(&self, last: &LastShutdown) {
        let mut families = Families::default();
        last_run::write(last, &mut families);
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

/// Returns the labels of a sample as attributes.
fn labels(metric: &prometheus::proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter();
    labels
        .map(|label| text(label.name(), label.value()))
        .collect()
}

/// Returns the result of one signal; `None` if there was nothing to send.
fn row(signal: Signal, sent: &Sent, took: Duration) -> Option<Flush> {
    let result = match (sent.delivered, sent.lost) {
        (0, 0) => return None,
        (_, 0) => FlushResult::Delivered,
        (0, _) => FlushResult::Failed,
        _ => FlushResult::Partial,
    };
    Some(Flush::new(signal.word(), result, sent.text(signal), took))
}

/// Returns the attributes of the span of a layer.
///
/// The budget is text with a unit, such as `5s`. `cut` is text too.
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

/// Returns a span as a record.
fn written(span: Span) -> SpanRecord {
    SpanRecord::Written(Box::new(span))
}

/// Returns a span of the shutdown.
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
