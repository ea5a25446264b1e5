//! Metrics, traces and logs of a runtime, a limit and a queue for logs, and the server of
//! tokio-console.
//!
//! Metrics are pulled: each read of [`Metrics`] looks at the registry of tasks, the threads, the
//! shutdown and the tokio runtime at that moment. The work side writes nothing for them beyond the
//! counters that headcount keeps anyway. Traces, logs and the numbers of the final report are
//! pushed to a collector through OTLP by `Telemetry` (feature `otel`).
//!
//! No label is unbounded: names beyond a bound share the series of `_other`. `docs/metrics.md`
//! lists all metrics. What cannot be observed is absent, and never 0.

#[cfg(feature = "console")]
mod console;
#[cfg(feature = "otel")]
mod log_limit;
#[cfg(feature = "otel")]
mod log_queue;
pub(crate) mod metrics;
#[cfg(feature = "otel")]
pub(crate) mod otel;
mod part;
pub(crate) mod supervised;
#[cfg(test)]
mod tests;

pub use crate::registry::root::{ChildRequest, ChildRequests, ChildVerb};
#[cfg(feature = "console")]
pub use console::Console;
#[cfg(feature = "console")]
pub(crate) use console::ConsolePart;
#[cfg(feature = "otel")]
pub use log_limit::LogLimit;
#[cfg(feature = "otel")]
pub use log_queue::{LogLine, LogQueue, LogSource};
pub use metrics::{Format, Metrics};
pub(crate) use metrics::{LAYERS, PHASES, Source, blocking_threads, build, unix};
#[cfg(feature = "otel")]
pub use otel::{Telemetry, TelemetryBuilder, TelemetryError, layer};
pub(crate) use part::TelemetryPart;
pub use supervised::{Child, Endpoint};
