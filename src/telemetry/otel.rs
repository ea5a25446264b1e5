//! Export of traces, logs and the numbers of the final report to a collector, through OTLP over
//! HTTP.
//!
//! Records are pushed into bounded queues and the work side never waits: a record without room is
//! dropped and counted. One thread, `headcount-telemetry`, sends them on its own runtime, so that a
//! request can be given up at any moment. The processors of the SDK are not used: they block when
//! the process ends.

mod encode;
mod exemplars;
mod flush;
mod http;
mod layer;
mod pipe;
mod queue;
mod record;
mod resource;
mod settings;
mod spans;
mod striped;
#[cfg(test)]
mod tests;

pub use settings::{TelemetryBuilder, TelemetryError};

use super::metrics::exports::{Drop as Why, Exports, Signal};
use super::metrics::text::Exemplar;
use crate::control::exit_hook::ExitHook;
use crate::registry::observer::{Ids, Observer};
use crate::registry::root::Root;
use crate::task::TaskId;
use crate::threads::{self, ThreadClass, ThreadHandle};
use exemplars::Exemplars;
use flush::Flusher;
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use pipe::{Flushing, Form, Hurry, Pipe};
use prost::Message;
use queue::Queue;
use record::SpanRecord;
use settings::{LOG_DELAY, Settings};
use spans::{Hanging, Numbers};
use std::io;
use std::panic::Location;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// An exporter of spans, logs and reports to an OTLP collector. Clones are the same exporter.
///
/// Given to a runtime with [`Builder::telemetry`](crate::Builder::telemetry), it makes a span of
/// each task. Its [`layer`](Self::layer) adds the spans and events of `tracing`, which nest under
/// the task that they are in.
///
/// # Which tasks have a span
///
/// - Of the tasks that complete, those that the sampler takes.
/// - All long-lived tasks, and all that failed, panicked, were cancelled or never ended.
///
/// A short task is a child of the span that it was spawned in, and is sampled with it. A long-lived
/// task has its own trace. The tasks and spans that it starts begin traces of their own, linked to
/// it, because trace stores do not accept a trace that lasts for days.
///
/// # Limits
///
/// Spans of `tracing` in a task without a span are not recorded, even if the task then fails. Spans
/// that are open when the process ends are lost. The queues hold 2048 records of each signal by
/// default; further ones are dropped and counted.
///
/// # Examples
///
/// ```no_run
/// use headcount::telemetry::Telemetry;
/// use tracing_subscriber::layer::SubscriberExt as _;
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// let telemetry = Telemetry::builder().sample_ratio(0.01).build()?;
/// tracing_subscriber::registry()
///     .with(tracing_subscriber::fmt::layer())
///     .with(telemetry.layer())
///     .init();
/// let runtime = headcount::Runtime::builder().name("orders").telemetry(&telemetry).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Telemetry(Arc<Inner>);

/// The exporter, shared by all clones and by the layer.
#[derive(Debug)]
struct Inner {
    settings: Settings,
    version: String,
    numbers: Numbers,
    hanging: Hanging,
    /// The ids of the span of the shutdown.
    shutdown: Ids,
    spans: Arc<Queue<SpanRecord>>,
    logs: Arc<Queue<LogRecord>>,
    metrics: Arc<Queue<Metric>>,
    exports: Arc<Exports>,
    exemplars: Arc<Exemplars>,
    running: Mutex<Running>,
}

/// The number of runtimes that use the exporter, and the channel to its thread, which ends when the
/// sender is dropped.
#[derive(Debug, Default)]
struct Running {
    runtimes: usize,
    hurry: Option<watch::Sender<Hurry>>,
}

/// Returns a `tracing` layer of the process-wide telemetry, which the `OTEL_*` variables configure.
///
/// The first call creates the telemetry. Every runtime built after that without another one uses
/// it.
///
/// # Panics
///
/// Panics if a variable has an invalid value. [`TelemetryBuilder::build`] returns that as an error.
///
/// # Examples
///
/// ```no_run
/// use tracing_subscriber::layer::SubscriberExt as _;
/// use tracing_subscriber::util::SubscriberInitExt as _;
///
/// tracing_subscriber::registry().with(headcount::telemetry::layer()).init();
/// headcount::run("orders", async |tasks| tasks.draining().await);
/// ```
pub fn layer<S>() -> impl Layer<S> + Send + Sync + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let made = PROCESS.get_or_init(|| match Telemetry::builder().build() {
        Ok(telemetry) => telemetry,
        Err(error) => panic!("failed to {error}"),
    });
    made.layer()
}

static PROCESS: OnceLock<Telemetry> = OnceLock::new();

// === impl Telemetry ===

impl Telemetry {
    /// Returns a builder with defaults for all settings.
    pub fn builder() -> TelemetryBuilder {
        TelemetryBuilder::default()
    }

    /// Returns whether a variable names the endpoint of a collector, for all signals or for one.
    #[must_use]
    pub fn is_in_environment() -> bool {
        let signals = Signal::ALL.map(|signal| settings::of_signal(signal.word(), "ENDPOINT"));
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || signals.iter().any(|name| is_set(name))
    }

    /// Checks an endpoint for [`TelemetryBuilder::endpoint`], without connecting to it.
    ///
    /// # Errors
    ///
    /// Returns the reason why the endpoint is invalid.
    ///
    /// # Examples
    ///
    /// ```
    /// # use headcount::telemetry::Telemetry;
    /// assert!(Telemetry::check_endpoint("http://collector:4318").is_ok());
    /// assert!(Telemetry::check_endpoint("collector:4318").is_err());
    /// ```
    pub fn check_endpoint(endpoint: &str) -> Result<(), TelemetryError> {
        http::Target::parse(endpoint, None)
            .map(drop)
            .map_err(|reason| TelemetryError::endpoint(endpoint, reason))
    }

    /// Returns the telemetry that [`layer`] created, if it was called.
    pub(crate) fn of_process() -> Option<Self> {
        PROCESS.get().cloned()
    }

    /// Returns a layer that exports the spans and events of `tracing`.
    ///
    /// It takes spans and events at INFO and above, and events of headcount itself at DEBUG and
    /// above.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        layer::layers(&self.0)
    }

    /// Returns an exemplar for a bucket of a histogram.
    pub(crate) fn exemplar(&self, family: &str, label: &str, bound: f64) -> Option<Exemplar> {
        self.0.exemplars.find(family, label, bound)
    }

    /// Returns the budget of the flush at the end of a run.
    pub(crate) fn flush_budget(&self) -> Duration {
        self.0.settings.flush_budget
    }

    pub(crate) fn exports(&self) -> &Arc<Exports> {
        &self.0.exports
    }

    /// Attaches a runtime: its tasks have spans from now on, and its end flushes the queues. The
    /// first one starts the thread.
    #[track_caller]
    pub(crate) fn begin(
        &self,
        root: &Arc<Root>,
        (service, version): (&str, &str),
    ) -> io::Result<Arc<dyn ExitHook>> {
        let mut running = self.running();
        if running.hurry.is_none() {
            running.hurry = Some(self.start(root.number, (service, version))?);
        }
        running.runtimes += 1;
        let observer: Arc<dyn Observer> = Arc::new(Arc::clone(&self.0));
        root.observe(observer);
        let root = Arc::clone(root);
        Ok(Arc::new(Flusher::new(self.clone(), root, version)))
    }

    /// Starts the exporting thread.
    #[track_caller]
    fn start(
        &self,
        root: u64,
        (service, version): (&str, &str),
    ) -> io::Result<watch::Sender<Hurry>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .thread_name("headcount-dns")
            .on_thread_start(move || threads::register_pooled(root, ThreadClass::Telemetry))
            .on_thread_stop(threads::forget_own)
            .enable_all()
            .build()?;
        let (hurry, heard) = watch::channel(Hurry::default());
        let inner = Arc::clone(&self.0);
        let service = inner.settings.service.as_deref().unwrap_or(service);
        let version = match &*inner.version {
            "" => version,
            version => version,
        };
        let resource = resource::resource(service, version, &inner.settings.attributes);
        let resource = Arc::new(resource);
        let work = move || {
            let spans = inner.pipe(Signal::Traces, &inner.spans, SPANS, &resource, &heard);
            let logs = inner.pipe(Signal::Logs, &inner.logs, LOGS, &resource, &heard);
            let metrics = inner.pipe(Signal::Metrics, &inner.metrics, METRICS, &resource, &heard);
            drop(heard);
            runtime.block_on(async {
                tokio::join!(run(spans), run(logs), run(metrics));
            });
            // A hanging resolver blocks a thread that cannot be stopped.
            runtime.shutdown_background();
        };
        let site = Location::caller();
        // The thread ends with the last runtime, or when the sender of `hurry` is dropped.
        let _detached: ThreadHandle<()> = threads::start(
            root,
            "headcount-telemetry",
            ThreadClass::Telemetry,
            site,
            work,
        )?;
        Ok(hurry)
    }

    /// Requests a flush for a runtime that ends, and returns the signals that will reply.
    fn ask(&self, flushing: impl FnOnce(bool) -> Flushing) -> Vec<Signal> {
        let mut running = self.running();
        running.runtimes = running.runtimes.saturating_sub(1);
        let last = running.runtimes == 0;
        let Some(hurry) = &running.hurry else {
            return Vec::new();
        };
        hurry.send_replace(Hurry(Some(flushing(last))));
        if last {
            running.hurry = None;
        }
        let targets = &self.0.settings.targets;
        let exported = |signal: &Signal| targets[*signal as usize].is_some();
        Signal::ALL.into_iter().filter(exported).collect()
    }

    /// Ends the flush, if other runtimes still export.
    fn calm(&self) {
        if let Some(hurry) = &self.running().hurry {
            hurry.send_replace(Hurry(None));
        }
    }

    /// Detaches a runtime that ended without a flush.
    fn leave(&self) {
        let mut running = self.running();
        running.runtimes = running.runtimes.saturating_sub(1);
        if running.runtimes == 0 {
            running.hurry = None;
        }
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run<T>(pipe: Option<Pipe<T>>) {
    if let Some(pipe) = pipe {
        pipe.run().await;
    }
}

// === impl Inner ===

impl Inner {
    fn new(settings: Settings, version: String) -> Self {
        let (queue, batch) = (settings.queue, settings.batch);
        let numbers = Numbers::new(settings.ratio);
        let exports = Exports::default();
        for signal in Signal::ALL {
            if settings.targets[signal as usize].is_some() {
                exports.enable(signal);
            }
        }
        Self {
            version,
            // No task has this id.
            shutdown: numbers.of(TaskId(u64::MAX)),
            numbers,
            hanging: Hanging::default(),
            spans: Arc::new(Queue::new(queue, batch)),
            logs: Arc::new(Queue::new(queue, batch)),
            metrics: Arc::new(Queue::new(queue, batch)),
            exports: Arc::new(exports),
            exemplars: Arc::default(),
            running: Mutex::default(),
            settings,
        }
    }

    fn pipe<T>(
        &self,
        signal: Signal,
        queue: &Arc<Queue<T>>,
        form: Form<T>,
        resource: &Arc<Resource>,
        hurry: &watch::Receiver<Hurry>,
    ) -> Option<Pipe<T>> {
        let delay = match signal {
            Signal::Traces => self.settings.delay,
            Signal::Logs | Signal::Metrics => LOG_DELAY.min(self.settings.delay),
        };
        Some(Pipe {
            signal,
            queue: Arc::clone(queue),
            collector: http::Collector::new(self.settings.targets[signal as usize].clone()?),
            discard: self.settings.discard,
            form,
            resource: Arc::clone(resource),
            timeout: self.settings.timeout,
            delay,
            exports: Arc::clone(&self.exports),
            exemplars: Arc::clone(&self.exemplars),
            hurry: hurry.clone(),
        })
    }

    #[inline]
    fn push_span(&self, span: SpanRecord) {
        self.push(Signal::Traces, &self.spans, span);
    }

    fn push_log(&self, log: LogRecord) {
        self.push(Signal::Logs, &self.logs, log);
    }

    fn push_metric(&self, metric: Metric) {
        self.push(Signal::Metrics, &self.metrics, metric);
    }

    #[inline]
    fn push<T>(&self, signal: Signal, queue: &Queue<T>, record: T) {
        if self.settings.targets[signal as usize].is_some() && !queue.push(record) {
            self.exports.dropped(signal, Why::QueueFull, 1);
        }
    }
}

// === impl Form ===

const SPANS: Form<SpanRecord> = Form {
    write: encode::spans,
    refused: |answer| {
        let answer = ExportTraceServiceResponse::decode(answer).ok()?;
        Some(
            answer
                .partial_success
                .map_or(0, |partial| refused(partial.rejected_spans)),
        )
    },
};

const LOGS: Form<LogRecord> = Form {
    write: |log_records, context| {
        let request = ExportLogsServiceRequest {
            resource_logs: vec![ResourceLogs {
                resource: Some(context.resource.clone()),
                scope_logs: vec![ScopeLogs {
                    scope: Some(scope()),
                    log_records,
                    ..ScopeLogs::default()
                }],
                ..ResourceLogs::default()
            }],
        };
        request.encode_to_vec().into()
    },
    refused: |answer| {
        let answer = ExportLogsServiceResponse::decode(answer).ok()?;
        Some(
            answer
                .partial_success
                .map_or(0, |partial| refused(partial.rejected_log_records)),
        )
    },
};

const METRICS: Form<Metric> = Form {
    write: |metrics, context| {
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(context.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(scope()),
                    metrics,
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        request.encode_to_vec().into()
    },
    refused: |answer| {
        let answer = ExportMetricsServiceResponse::decode(answer).ok()?;
        Some(
            answer
                .partial_success
                .map_or(0, |partial| refused(partial.rejected_data_points)),
        )
    },
};

fn refused(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "headcount".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}
