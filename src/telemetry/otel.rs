//! Traces, logs and the report, pushed to a collector by OTLP over HTTP.
//!
//! One thread of ours exports, with a runtime of its own, so that a request can be given up at any moment; the SDK's
//! processors, which block when the process ends, are not used. Nobody on the work side waits: what does not fit into
//! the queues is dropped and counted.

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

pub use settings::TelemetryError;

use super::exports::{Drop as Why, Exports, Signal};
use super::text::Exemplar;
use crate::registry::observer::{Ids, Observer};
use crate::registry::root::Root;
use crate::shutdown::ending::Ending;
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

/// Spans, logs and reports on their way to a collector. Clones are the same.
///
/// Given to a runtime by [`Builder::telemetry`](crate::Builder::telemetry), it makes a span of each task; its
/// [`layer`](Self::layer) adds the spans and events of `tracing`, which nest under the task that they are in.
///
/// # Which tasks have a span
///
/// Of tasks that complete, the share that the sampler takes; long-lived ones, and those that failed, panicked, were
/// cancelled or never ended, always. A short task is a child of its spawner's span, and decided with it. A long-lived one
/// has a trace of its own, and so has each task and each span that it starts, linked to it: a trace that lasts for days
/// is one that no store takes.
///
/// # Limits
///
/// Spans of `tracing` in a task without a span are not recorded, also when the task then fails; those that are open when
/// the process ends are lost. What waits in the queues is bounded (2048 records a signal), and what is beyond is counted.
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

/// The settings of a [`Telemetry`]; what is not set is read from the variables of OpenTelemetry's specification.
///
/// `OTEL_SDK_DISABLED`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and its `_ARG`,
/// `OTEL_BSP_{SCHEDULE_DELAY,MAX_QUEUE_SIZE,MAX_EXPORT_BATCH_SIZE}`, `OTEL_{TRACES,METRICS,LOGS}_EXPORTER` (`otlp` or
/// `none`), and `OTEL_EXPORTER_OTLP_{ENDPOINT,HEADERS,CERTIFICATE,COMPRESSION,PROTOCOL}`, also for one signal, and
/// `_TIMEOUT`. The protocol is `http/protobuf`, without compression unless it is `gzip`; without a certificate the
/// machine's own are trusted.
#[derive(Debug, Default)]
#[must_use = "it builds nothing until `build`"]
pub struct TelemetryBuilder {
    endpoint: Option<String>,
    service: Option<String>,
    version: String,
    ratio: Option<f64>,
    timeout: Option<Duration>,
    delay: Option<Duration>,
    queue: Option<usize>,
    headers: Vec<(String, String)>,
    attributes: Vec<(String, String)>,
    discard: bool,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    version: String,
    numbers: Numbers,
    hanging: Hanging,
    /// The span of the shutdown.
    shutdown: Ids,
    spans: Arc<Queue<SpanRecord>>,
    logs: Arc<Queue<LogRecord>>,
    metrics: Arc<Queue<Metric>>,
    exports: Arc<Exports>,
    exemplars: Arc<Exemplars>,
    running: Mutex<Running>,
}

/// The runtimes that export by this, and the thread that does.
#[derive(Debug, Default)]
struct Running {
    runtimes: usize,
    hurry: Option<watch::Sender<Hurry>>,
}

/// The layer of the process's telemetry, which the `OTEL_*` variables describe: made with the first call, and used by
/// every runtime that is not given another.
///
/// # Panics
///
/// When the variables say what is not allowed. [`TelemetryBuilder::build`] returns that as an error.
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

// === impl TelemetryBuilder ===

impl TelemetryBuilder {
    /// The base address of the collector's OTLP over HTTP, such as `http://127.0.0.1:4318`.
    pub fn endpoint(mut self, endpoint: &str) -> Self {
        self.endpoint = Some(endpoint.to_owned());
        self
    }

    /// `service.name`. Default: the name of the runtime.
    pub fn service(mut self, name: &str) -> Self {
        self.service = Some(name.to_owned());
        self
    }

    /// `service.version`. Default: that of the runtime.
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// The share of ordinary tasks that have a span, 0 to 1. Default: all.
    pub fn sample_ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio.clamp(0.0, 1.0));
        self
    }

    /// For one request. Default: 10 s; less when the process ends.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long a span may wait for others to go with. Default: 5 s.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// How many records of a signal may wait. Default: 2048.
    pub fn queue(mut self, records: usize) -> Self {
        self.queue = Some(records);
        self
    }

    /// A header of each request, for authentication say.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// An attribute of the resource, such as `deployment.environment.name`.
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.push((key.to_owned(), value.to_owned()));
        self
    }

    /// What is exported is written and thrown away, as if a collector took all at once: for benchmarks.
    #[doc(hidden)]
    pub fn discard(mut self) -> Self {
        self.discard = true;
        self
    }

    /// Nothing is sent before a runtime has it.
    ///
    /// # Errors
    ///
    /// An endpoint or a variable that is not allowed.
    pub fn build(self) -> Result<Telemetry, TelemetryError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let mut settings = Settings::read(&lookup, self.endpoint.as_deref())?;
        settings.service = self.service.or(settings.service);
        settings.ratio = self.ratio.unwrap_or(settings.ratio);
        settings.timeout = self.timeout.unwrap_or(settings.timeout);
        settings.delay = self.delay.unwrap_or(settings.delay);
        settings.queue = self.queue.unwrap_or(settings.queue).max(1);
        settings.batch = settings.batch.min(settings.queue);
        settings.attributes.extend(self.attributes);
        settings.discard = self.discard;
        for target in settings.targets.iter_mut().flatten() {
            target.headers.extend(self.headers.iter().cloned());
        }
        Ok(Telemetry(Arc::new(Inner::new(settings, self.version))))
    }
}

// === impl Telemetry ===

impl Telemetry {
    /// Settings, all with defaults.
    pub fn builder() -> TelemetryBuilder {
        TelemetryBuilder::default()
    }

    /// Whether the variables say where a collector is.
    #[must_use]
    pub fn is_in_environment() -> bool {
        let signals = Signal::ALL.map(|signal| settings::of_signal(signal.word(), "ENDPOINT"));
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        is_set("OTEL_EXPORTER_OTLP_ENDPOINT") || signals.iter().any(|name| is_set(name))
    }

    /// Whether this can be given to [`TelemetryBuilder::endpoint`].
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn check_endpoint(endpoint: &str) -> Result<(), TelemetryError> {
        http::Target::parse(endpoint, None)
            .map(drop)
            .map_err(|reason| TelemetryError::endpoint(endpoint, reason))
    }

    /// The one that [`layer`] made, if it did.
    pub(crate) fn of_process() -> Option<Self> {
        PROCESS.get().cloned()
    }

    /// A layer that exports spans and events of `tracing`, to put beside others.
    ///
    /// Spans and events from INFO on; from headcount itself events from DEBUG on.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        layer::layers(&self.0)
    }

    /// A trace for a bucket of a histogram.
    pub(crate) fn exemplar(&self, family: &str, label: &str, bound: f64) -> Option<Exemplar> {
        self.0.exemplars.find(family, label, bound)
    }

    pub(crate) fn exports(&self) -> &Arc<Exports> {
        &self.0.exports
    }

    /// A runtime begins: its tasks have spans from here on, and its end flushes what waits.
    #[track_caller]
    pub(crate) fn begin(
        &self,
        root: &Arc<Root>,
        (service, version): (&str, &str),
    ) -> io::Result<Arc<dyn Ending>> {
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

    /// Starts the thread that exports.
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
            // A resolver that does not answer holds a thread that nobody can end.
            runtime.shutdown_background();
        };
        let site = Location::caller();
        // It ends when the last runtime has, or when nobody has the telemetry any more.
        let _detached: ThreadHandle<()> = threads::start(
            root,
            "headcount-telemetry",
            ThreadClass::Telemetry,
            site,
            work,
        )?;
        Ok(hurry)
    }

    /// Asks for all that waits to be sent; which signals will answer.
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

    /// The flush is over; other runtimes go on.
    fn calm(&self) {
        if let Some(hurry) = &self.running().hurry {
            hurry.send_replace(Hurry(None));
        }
    }

    /// A runtime is gone without a shutdown.
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
            // No task has this number.
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
            target: self.settings.targets[signal as usize].clone()?,
            connection: None,
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
