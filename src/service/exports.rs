//! What a run says to the outside while it runs: log lines, telemetry, the server of tokio-console.

use super::cli::{BAD_CONFIG, NOT_STARTED};
use super::config::{Config, Endpoint, LogFormat, LogSettings};
use crate::Builder;
use crate::telemetry::{Console, LogFilter, LogLimit, Telemetry};
use std::io::{self, IsTerminal as _};
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The log is installed; the rest waits for its runtime.
#[derive(Debug)]
pub(crate) struct Exports {
    telemetry: Option<Telemetry>,
    console: Option<Console>,
}

// === impl Exports ===

impl Exports {
    /// Installs the log.
    ///
    /// # Errors
    ///
    /// An `OTEL_*` variable that is wrong, or the address of the console that is not to be had; after "failed to", and with
    /// the exit code.
    pub(crate) fn begin(config: &Config) -> Result<Self, (String, u8)> {
        let telemetry = telemetry(config).map_err(|error| (error.to_string(), BAD_CONFIG))?;
        let mut console = match config.console.listen {
            None => None,
            Some(address) => Some(
                Console::bind(address)
                    .map_err(|error| {
                        let what = format!("claim {address} for tokio-console: {error}");
                        (what, NOT_STARTED)
                    })?
                    .retention(config.console.retention),
            ),
        };
        let watching = console.as_mut().and_then(Console::layer);
        let pushed = telemetry.as_ref().map(Telemetry::layer);
        let log = tracing_subscriber::registry().with(watching).with(pushed);
        log.with(lines(&config.log))
            .try_init()
            .expect("the command line installs the first and only log");
        Ok(Self { telemetry, console })
    }

    /// Gives it all to the runtime.
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

/// Lines on standard error.
///
/// A write that fails is dropped in silence: there is nowhere left to say it, and the work goes on.
fn lines<S>(settings: &LogSettings) -> impl tracing_subscriber::Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .log_internal_errors(false);
    let lines = match settings.format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Human => lines.with_ansi(colours()).boxed(),
    };
    let most = settings.limit.unwrap_or(u64::MAX);
    let limit = LogLimit::new(most, LogSettings::EVERY).without("headcount::output");
    lines.with_filter(LogFilter::new(settings.filter.clone()).and(limit))
}

/// Whether stderr takes colours: a terminal, and not <https://no-color.org>.
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

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
