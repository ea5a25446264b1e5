//! The configuration of the service: what a TOML file may say, and what it means.
//!
//! A configuration is accepted whole or refused whole, before anything starts, with every problem
//! told at once. `default.toml` is the embedded default and the reference of all keys.
//!
//! Does not look at the machine: a program or an address that does not exist is found at run time.

mod admin;
mod endpoint;
mod graph;
mod load;
mod problem;
mod process;
mod reader;
mod resources;
mod sections;
mod state;
mod telemetry;
mod threads;
mod value;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use super::endpoint::EndpointSettings;
use super::process::ProcessSettings;
use super::resources::ResourcesSettings;
use crate::threads::ThreadRule;

pub(crate) use admin::parse_listen;
pub(crate) use load::DEFAULT;
pub(crate) use problem::ConfigError;
pub(crate) use sections::parse_filter;

/// A configuration without a known fault.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The file it came from, or "embedded default".
    pub(crate) origin: String,
    /// The name of the service: 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub(crate) name: String,
    pub(crate) log: LogSettings,
    pub(crate) shutdown: ShutdownSettings,
    pub(crate) runtime: RuntimeSettings,
    pub(crate) admin: AdminSettings,
    pub(crate) telemetry: TelemetrySettings,
    pub(crate) console: ConsoleSettings,
    pub(crate) state: StateSettings,
    /// Besides those that every service expects.
    pub(crate) expected_threads: Vec<ThreadRule>,
    /// In the order of the file; never empty.
    pub(crate) tasks: Vec<Task>,
}

/// What is logged, and how it looks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogSettings {
    pub(crate) filter: Targets,
    pub(crate) format: LogFormat,
    /// How many lines of one site within [`LogSettings::EVERY`]; `None` is no limit.
    pub(crate) limit: Option<u64>,
}

/// What is pushed to a collector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TelemetrySettings {
    pub(crate) endpoint: Endpoint,
    /// Of the tasks that end well; `None` is what the `OTEL_*` variables say.
    pub(crate) sample_ratio: Option<f64>,
}

/// Where a collector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Off,
    /// Where the `OTEL_*` variables say, if they say it.
    Environment,
    At(String),
}

/// The server of tokio-console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsoleSettings {
    /// `None` is no server.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) retention: Duration,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// One line for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The budgets of the shutdown.
///
/// `pre_drain_delay`, `drain`, `cancel` and `close` together are never longer than `deadline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShutdownSettings {
    pub(crate) pre_drain_delay: Duration,
    pub(crate) drain: Duration,
    pub(crate) cancel: Duration,
    pub(crate) close: Duration,
    pub(crate) deadline: Duration,
    /// For a last scrape of `/metrics`; zero for none.
    pub(crate) scrape_hold: Duration,
}

/// The tokio runtime that the tasks run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuntimeSettings {
    /// `None` is one for each CPU.
    pub(crate) worker_threads: Option<usize>,
    /// How long a task may hold its thread before it is warned of; `None` for as long as it likes.
    pub(crate) hold_limit: Option<Duration>,
}

/// The admin server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminSettings {
    /// `None` is no server.
    pub(crate) listen: Option<SocketAddr>,
    /// Names that it answers to besides those of the loopback and the address.
    pub(crate) allowed_hosts: Vec<String>,
}

/// What is remembered of how a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateSettings {
    pub(crate) folder: StateFolder,
    /// For node_exporter.
    pub(crate) textfile: Option<PathBuf>,
}

/// Where it is remembered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum StateFolder {
    /// Where services have such things.
    #[default]
    Auto,
    Off,
    At(PathBuf),
}

/// A declared task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    /// 1 to 64 of `A-Z a-z 0-9 _ . -`, unlike every other in more than case and punctuation.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What a declared task does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Watches the resources of the process and the host.
    Resources(ResourcesSettings),
    /// Checks an endpoint.
    Endpoint(EndpointSettings),
    /// Runs a child process.
    Process(ProcessSettings),
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: "embedded default".to_owned(),
            name: "headcount".to_owned(),
            log: LogSettings::default(),
            shutdown: ShutdownSettings::default(),
            runtime: RuntimeSettings::default(),
            admin: AdminSettings::default(),
            telemetry: TelemetrySettings::default(),
            console: ConsoleSettings::default(),
            state: StateSettings::default(),
            expected_threads: Vec::new(),
            tasks: vec![Task {
                name: "resources".to_owned(),
                kind: Kind::Resources(ResourcesSettings::default()),
            }],
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            // The port that OpenTelemetry gives to exporters for Prometheus.
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
            allowed_hosts: Vec::new(),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            filter: Targets::new().with_default(tracing::Level::INFO),
            format: LogFormat::Human,
            limit: Some(1000),
        }
    }
}

impl LogSettings {
    /// The while in which lines are counted.
    pub(crate) const EVERY: Duration = Duration::from_secs(10);
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            endpoint: Endpoint::Environment,
            sample_ratio: None,
        }
    }
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        Self {
            listen: None,
            retention: Duration::from_secs(60),
        }
    }
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self {
            worker_threads: None,
            hold_limit: Some(Duration::from_secs(1)),
        }
    }
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self {
            pre_drain_delay: Duration::ZERO,
            drain: Duration::from_secs(5),
            cancel: Duration::from_secs(2),
            close: Duration::from_secs(1),
            // Docker kills after 10 s.
            deadline: Duration::from_millis(9500),
            scrape_hold: Duration::from_secs(10),
        }
    }
}

// === impl Kind ===

impl Kind {
    /// The word for it in the file.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Resources(_) => "resources",
            Self::Endpoint(_) => "endpoint",
            Self::Process(_) => "process",
        }
    }
}
