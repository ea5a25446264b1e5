//! The outputs of a run besides the admin server: log lines, telemetry, and the tokio-console server.
//!
//! All of them are layers of one `tracing` subscriber, which is installed before the runtime is
//! built. The exporter and the tokio-console server start with the runtime.

mod log_lines;
pub(crate) mod prefix;

use super::config::{Config, Endpoint, LogFormat, LogSettings};
use super::exit_code::{BAD_CONFIG, NOT_STARTED};
use super::process::{OUTPUT_TARGET, is_whole};
use crate::Builder;
use crate::telemetry::{Console, LogLimit, LogQueue, Telemetry};
use log_lines::LogLines;
use std::io::{self, IsTerminal};
use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The parts that are handed to the runtime once the log is installed.
#[derive(Debug)]
pub(crate) struct Exports {
    log: LogQueue,
    telemetry: Option<Telemetry>,
    console: Option<Console>,
}

// === impl Exports ===

impl Exports {
    /// Installs the global `tracing` subscriber and binds the address of tokio-console, if one is
    /// configured.
    ///
    /// # Errors
    ///
    /// Returns a message that fits after "failed to", and the exit code, if an `OTEL_*` variable is
    /// invalid or the address of tokio-console cannot be bound.
    ///
    /// # Panics
    ///
    /// Panics if a global subscriber is already installed.
    pub(crate) fn begin(config: &Config) -> Result<Self, (String, u8)> {
        let telemetry = telemetry(config).map_err(|error| (error.to_string(), BAD_CONFIG))?;
        let queue = LogQueue::stderr();
        let queue = queue.map_err(|error| (format!("start the log: {error}"), NOT_STARTED))?;
        let mut console = match config.console.listen {
            None => None,
            Some(address) => Some(
                Console::bind(address)
                    .map_err(|error| {
                        let what = format!("bind tokio-console to {address}: {error}");
                        (what, NOT_STARTED)
                    })?
                    .retention(config.console.retention),
            ),
        };
        let watching = console.as_mut().and_then(Console::layer);
        let pushed = telemetry.as_ref().map(Telemetry::layer);
        let pushed = pushed.map(|layer| layer.with_filter(filter_fn(is_whole)));
        let log = tracing_subscriber::registry().with(watching).with(pushed);
        log.with(lines(config, queue.clone()))
            .try_init()
            .expect("the command line installs the first and only log");
        Ok(Self {
            log: queue,
            telemetry,
            console,
        })
    }

    /// Returns the queue of the log, for text that belongs between its lines.
    pub(crate) fn log(&self) -> &LogQueue {
        &self.log
    }

    /// Adds the exporters to the runtime.
    pub(crate) fn of(self, mut builder: Builder) -> Builder {
        if let Some(telemetry) = &self.telemetry {
            builder = builder.telemetry(telemetry);
        }
        match self.console {
            Some(console) => builder.console(console),
            None => builder,
        }
    }
}

/// Returns the layer that writes log lines to standard error.
///
/// A line that cannot be written is dropped and counted: there is no other place to report it, and
/// the tasks must not be affected. The output of child processes is exempt from the limit of lines.
fn lines<S>(config: &Config, queue: LogQueue) -> impl tracing_subscriber::Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let settings = &config.log;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(queue)
        .log_internal_errors(false);
    let lines = match settings.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            lines.with_filter(filter_fn(is_whole)).boxed()
        }
        LogFormat::Human => {
            let colours = colours(&io::stderr());
            let processes = config.tasks.iter().filter(|task| task.is_process());
            let names = processes.map(|task| &*task.name);
            let lines = lines.event_format(LogLines::new(names, colours));
            lines.with_ansi(colours).boxed()
        }
    };
    let most = settings.limit.unwrap_or(u64::MAX);
    let limit = LogLimit::new(most, LogSettings::EVERY).without(OUTPUT_TARGET);
    lines.with_filter(settings.filter.clone().and(limit))
}

/// Returns true if the stream is a terminal and `NO_COLOR` is unset or empty (<https://no-color.org>).
pub(crate) fn colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Sets up the OpenTelemetry export. Returns `None` if it is off or no collector is known.
fn telemetry(config: &Config) -> Result<Option<Telemetry>, crate::telemetry::TelemetryError> {
    let mut builder = Telemetry::builder().version(env!("CARGO_PKG_VERSION"));
    match &config.telemetry.endpoint {
        Endpoint::Off => return Ok(None),
        Endpoint::Environment if !Telemetry::is_in_environment() => return Ok(None),
        Endpoint::Environment => {}
        Endpoint::At(endpoint) => builder = builder.endpoint(endpoint),
    }
    if let Some(ratio) = config.telemetry.sample_ratio {
        builder = builder.sample_ratio(ratio);
    }
    builder.build().map(Some)
}
