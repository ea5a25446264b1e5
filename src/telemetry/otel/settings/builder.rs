//! The settings that a program makes, and the exporter built from them.

use super::super::{Inner, Telemetry, http};
use super::{Settings, TelemetryError};
use std::sync::Arc;
use std::time::Duration;

/// The settings of a [`Telemetry`].
///
/// A setting that is not made here is read from the environment variables of the OpenTelemetry
/// specification: `OTEL_SDK_DISABLED`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
/// `OTEL_TRACES_SAMPLER` and its `_ARG`,
/// `OTEL_BSP_{SCHEDULE_DELAY,MAX_QUEUE_SIZE,MAX_EXPORT_BATCH_SIZE}`,
/// `OTEL_{TRACES,METRICS,LOGS}_EXPORTER` (`otlp` or `none`), `OTEL_EXPORTER_OTLP_TIMEOUT`, and
/// `OTEL_EXPORTER_OTLP_{ENDPOINT,HEADERS,CERTIFICATE,COMPRESSION,PROTOCOL}`, for all signals or for
/// one. The only protocol is `http/protobuf`. Compression is `none` (default) or `gzip`. Without a
/// certificate, the roots of the system are trusted.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::Telemetry;
/// use std::time::Duration;
///
/// let builder = Telemetry::builder().endpoint("http://127.0.0.1:4318").service("orders");
/// assert!(builder.header("x-team", "shop").sample_ratio(0.01).build().is_ok());
///
/// let slow = Telemetry::builder()
///     .endpoint("https://collector.example.org")
///     .timeout(Duration::from_secs(30))
///     .flush_budget(Duration::from_secs(5))
///     .delay(Duration::from_secs(10))
///     .queue(10_000);
/// let named = slow.service("orders").version("1.4.2");
/// assert!(named.attribute("deployment.environment.name", "staging").build().is_ok());
/// ```
#[derive(Debug, Default)]
#[must_use = "it builds nothing until `build`"]
pub struct TelemetryBuilder {
    endpoint: Option<String>,
    service: Option<String>,
    version: String,
    ratio: Option<f64>,
    timeout: Option<Duration>,
    flush_budget: Option<Duration>,
    delay: Option<Duration>,
    queue: Option<usize>,
    headers: http::Headers,
    attributes: Vec<(String, String)>,
    discard: bool,
}

// === impl TelemetryBuilder ===

impl TelemetryBuilder {
    /// Sets the base URL of the collector's OTLP over HTTP, such as `http://127.0.0.1:4318`. It
    /// overrides the endpoint variables.
    pub fn endpoint(mut self, endpoint: &str) -> Self {
        self.endpoint = Some(endpoint.to_owned());
        self
    }

    /// Sets `service.name`. Default: the name of the runtime.
    pub fn service(mut self, name: &str) -> Self {
        self.service = Some(name.to_owned());
        self
    }

    /// Sets `service.version`. Default: the version of the runtime.
    pub fn version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.version);
        self
    }

    /// Sets the share of ordinary tasks that have a span, from 0 to 1. Default: 1, all of them.
    pub fn sample_ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio.clamp(0.0, 1.0));
        self
    }

    /// Sets the timeout of one request. Default: 10 s. It is shorter during the flush at the end.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Sets the longest time that the flush at the end of a run may take, for all signals together.
    /// Default: 1 s.
    ///
    /// The shutdown waits for the flush, within its deadline. The default deadline is longer by
    /// each second that this is above one.
    pub fn flush_budget(mut self, budget: Duration) -> Self {
        self.flush_budget = Some(budget);
        self
    }

    /// Sets the longest time that a span waits for others to be sent with. Default: 5 s.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the capacity of each queue, in records. Default: 2048; the least is 1.
    pub fn queue(mut self, records: usize) -> Self {
        self.queue = Some(records);
        self
    }

    /// Adds a header to each request, for example for authentication.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an attribute of the resource, such as `deployment.environment.name`.
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Encodes and discards all records, as if a collector accepted them at once: for benchmarks.
    #[doc(hidden)]
    pub fn discard(mut self) -> Self {
        self.discard = true;
        self
    }

    /// Creates the exporter. It sends nothing until a runtime uses it.
    ///
    /// # Errors
    ///
    /// Returns an error if the endpoint or a variable has an invalid value.
    pub fn build(self) -> Result<Telemetry, TelemetryError> {
        let lookup = |name: &str| std::env::var(name).ok();
        let mut settings = Settings::read(&lookup, self.endpoint.as_deref())?;
        settings.service = self.service.or(settings.service);
        settings.ratio = self.ratio.unwrap_or(settings.ratio);
        settings.timeout = self.timeout.unwrap_or(settings.timeout);
        settings.flush_budget = self.flush_budget.unwrap_or(settings.flush_budget);
        settings.delay = self.delay.unwrap_or(settings.delay);
        settings.queue = self.queue.unwrap_or(settings.queue).max(1);
        settings.batch = settings.batch.min(settings.queue);
        settings.attributes.extend(self.attributes);
        settings.discard = self.discard;
        for target in settings.targets.iter_mut().flatten() {
            target.headers.0.extend(self.headers.iter().cloned());
        }
        Ok(Telemetry(Arc::new(Inner::new(settings, self.version))))
    }
}
