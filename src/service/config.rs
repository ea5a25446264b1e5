//! The configuration of the service: the settings, their defaults, and the reader of the TOML file.
//!
//! A configuration is accepted as a whole or refused as a whole, before anything is started. All
//! problems of a file are reported together. `default.toml` is the embedded default and the
//! reference of all keys; tests compare it with the `Default` implementations here and with the
//! keys that the readers accept.
//!
//! `load` turns a file into a [`Config`]. It parses the TOML document, reads each section with the
//! module of that name, and then checks the dependencies between tasks in `graph`. `table` and
//! `value` read keys and values; `problem` collects and prints what is wrong.
//!
//! `variables` replaces `${NAME}` in strings before they are read. Apart from these, the configuration is
//! checked without looking at the machine: a program or an address that does not exist is found at run
//! time, and `headcount check` warns of programs.

mod endpoint;
mod graph;
mod load;
mod prewarm;
mod problem;
mod process;
mod progress;
mod resources;
mod sections;
mod table;
mod value;
mod variables;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

use super::endpoint::EndpointSettings;
use super::prewarm::PrewarmSettings;
use super::process::ProcessSettings;
use super::progress::ProgressSettings;
use super::resources::ResourcesSettings;
use crate::threads::ThreadRule;

pub(crate) use load::DEFAULT;
pub(crate) use problem::ConfigError;
pub(crate) use sections::admin::parse_listen;
pub(crate) use sections::parse_filter;

/// A valid configuration.
///
/// Command line options may replace some of its settings after it was loaded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// The path of the file as it was given, or "embedded default".
    pub(crate) origin: String,
    /// The name of the service: 1 to 64 characters of `A-Z a-z 0-9 _ . -`.
    pub(crate) name: String,
    /// True if the service ends with exit code 1 when no process is left to run and one of them was
    /// given up. Default: true.
    pub(crate) ends_when_given_up: bool,
    pub(crate) log: LogSettings,
    pub(crate) shutdown: ShutdownSettings,
    pub(crate) runtime: RuntimeSettings,
    pub(crate) admin: AdminSettings,
    pub(crate) telemetry: TelemetrySettings,
    pub(crate) console: ConsoleSettings,
    pub(crate) state: StateSettings,
    /// Rules for expected threads, in addition to the built-in ones.
    pub(crate) expected_threads: Vec<ThreadRule>,
    /// The declared tasks, in the order of the file; never empty.
    pub(crate) tasks: Vec<Task>,
}

/// The log on standard error: filter, format and rate limit.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LogSettings {
    /// The levels that are logged. Default: `info`.
    pub(crate) filter: Targets,
    pub(crate) format: LogFormat,
    /// The maximum number of lines per log statement within [`LogSettings::EVERY`]; unlimited if
    /// `None`. Default: 1000.
    pub(crate) limit: Option<u64>,
}

/// The OpenTelemetry export.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TelemetrySettings {
    /// The collector. Default: [`Endpoint::Environment`].
    pub(crate) endpoint: Endpoint,
    /// The share of successful tasks that is exported, 0 to 1; as the `OTEL_*` variables say if
    /// `None`.
    pub(crate) sample_ratio: Option<f64>,
}

/// The address of a collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Nothing is exported, even if the `OTEL_*` variables name a collector.
    Off,
    /// The address in the `OTEL_*` variables. Nothing is exported if they name none.
    Environment,
    /// An `http://` or `https://` URL.
    At(String),
}

/// The tokio-console server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsoleSettings {
    /// The address to listen on; no server is started if `None`, the default.
    pub(crate) listen: Option<SocketAddr>,
    /// The time for which ended tasks are kept: 1 s to 60 s. Default: 60 s.
    pub(crate) retention: Duration,
}

/// The format of log lines.
///
/// The docs of the variants are part of `headcount run --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// One readable line per event.
    Human,
    /// One JSON object per line.
    Json,
}

/// The time limits of the shutdown.
///
/// The sum of `pre_drain_delay`, `drain`, `cancel` and `close` is at most `deadline`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShutdownSettings {
    /// The time for which the service keeps serving after it became unready. Default: 0 s.
    pub(crate) pre_drain_delay: Duration,
    /// Budget of the drain layer. Default: 5 s.
    pub(crate) drain: Duration,
    /// Budget of the cancel layer. Default: 2 s.
    pub(crate) cancel: Duration,
    /// Budget of the close layer. Default: 1 s.
    pub(crate) close: Duration,
    /// The time from the beginning of the shutdown after which the process exits. Default: 9.5 s.
    pub(crate) deadline: Duration,
    /// The maximum wait for a final scrape of `/metrics`; zero disables the wait. Default: 10 s.
    pub(crate) scrape_hold: Duration,
    /// True if it is a failure that something had to be cancelled, dropped or killed. Default:
    /// false.
    pub(crate) strict: bool,
}

/// The tokio runtime that the tasks run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuntimeSettings {
    /// The number of worker threads; one per CPU if `None`.
    pub(crate) worker_threads: Option<usize>,
    /// The time that one poll of a task may take before a warning is logged; no warnings if `None`.
    /// Default: 1 s.
    pub(crate) hold_limit: Option<Duration>,
}

/// The admin server and the control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminSettings {
    /// The address to listen on; no server is started if `None`. Default: `127.0.0.1:9464`.
    pub(crate) listen: Option<SocketAddr>,
    /// Allowed host names, in addition to the address and the names of the loopback.
    pub(crate) allowed_hosts: Vec<String>,
    pub(crate) control_socket: ControlSocket,
}

/// The location of the control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ControlSocket {
    /// The first free one of [`control_sockets`](crate::runtime::control_sockets).
    #[default]
    Auto,
    /// There is none.
    Off,
    At(PathBuf),
}

/// The record of how a run ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateSettings {
    pub(crate) folder: StateFolder,
    /// A file for the textfile collector of node_exporter, which reads only names that end in
    /// `.prom`; none is written if `None`.
    pub(crate) textfile: Option<PathBuf>,
    /// Whether the run keeps a black box; `None`: if it has a state folder.
    pub(crate) black_box: Option<bool>,
}

/// The location of the state folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum StateFolder {
    /// `$STATE_DIRECTORY`, else a folder below `$XDG_STATE_HOME` or `~/.local/state`.
    #[default]
    Auto,
    /// No record is kept.
    Off,
    At(PathBuf),
}

/// A declared task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Task {
    /// 1 to 64 characters of `A-Z a-z 0-9 _ . -`. Two names always differ in more than case and
    /// punctuation.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// The kind of a declared task, with its settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    /// Monitors the resources of the process and the host.
    Resources(ResourcesSettings),
    /// Checks whether a server is up.
    Endpoint(EndpointSettings),
    /// Runs a child process.
    Process(ProcessSettings),
    /// Warms files, servers and programs before the service is ready.
    Prewarm(PrewarmSettings),
    /// Says when the service is ready, and what a late start waits for.
    Progress(ProgressSettings),
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: "embedded default".to_owned(),
            name: "headcount".to_owned(),
            ends_when_given_up: true,
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
            // OpenTelemetry's default port for Prometheus exporters.
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 9464))),
            allowed_hosts: Vec::new(),
            control_socket: ControlSocket::Auto,
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
    /// The interval in which the lines of a log statement are counted against the limit.
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
            // Docker kills a container 10 s after it asked it to stop.
            deadline: Duration::from_millis(9500),
            scrape_hold: Duration::from_secs(10),
            strict: false,
        }
    }
}

// === impl Task ===

impl Task {
    /// Returns true if the task runs a child process.
    pub(crate) fn is_process(&self) -> bool {
        matches!(self.kind, Kind::Process(_))
    }
}

// === impl Kind ===

impl Kind {
    /// Returns the value of the key `kind` for this kind.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Resources(_) => "resources",
            Self::Endpoint(_) => "endpoint",
            Self::Process(_) => "process",
            Self::Prewarm(_) => "prewarm",
            Self::Progress(_) => "progress",
        }
    }
}
