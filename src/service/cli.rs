//! The command line: what it takes, what it prints, how it exits.
//!
//! Does not run anything itself: that is `service::run`.

mod output;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitCode, Termination as _};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::Targets;

use super::config::{Config, ConfigError, DEFAULT, LogFormat, parse_filter, parse_listen};
use super::endpoint;
use super::exports::Exports;
use crate::BuildError;

/// `EX_OSERR` of sysexits.h.
pub(super) const NOT_STARTED: u8 = 71;
/// `EX_IOERR` of sysexits.h.
const NOT_WRITTEN: u8 = 74;
/// `EX_CONFIG` of sysexits.h.
pub(super) const BAD_CONFIG: u8 = 78;

/// Runs declared tasks, and sees to it that nobody is left inside when it stops.
#[derive(Debug, Parser)]
#[command(name = "headcount", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the tasks of a configuration until stopped; what `headcount` alone does, too
    #[command(after_help = AFTER_HELP)]
    Run(Run),
    /// Say whether a configuration is right, without starting anything
    Check {
        /// TOML file
        config: PathBuf,
    },
    /// Make one GET request, and exit with 0 if it succeeds: for health checks without a shell
    Probe {
        /// Such as `http://127.0.0.1:9464/readyz`
        url: String,
        /// For the whole request
        #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
        timeout: Duration,
    },
    /// Print the default configuration, which explains every key
    Config {
        /// Print the default
        #[arg(long, required = true)]
        default: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Run {
    /// TOML file; without one, the default: see `headcount config --default`
    config: Option<PathBuf>,
    /// How the shutdown report is printed: text on stderr, json on stdout
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    report: ReportFormat,
    /// How log lines look, on stderr; overrides `log.format`
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Where the admin server listens, or `off`; overrides `admin.listen`
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    admin: Option<Listen>,
    /// Serve tokio-console there; without an address, where it looks by itself; overrides `console.listen`
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:6669", value_parser = parse_listen)]
    console: Option<Listen>,
    /// What is logged, such as `info,headcount=debug`; overrides `log.filter`
    #[arg(long, value_parser = parse_filter)]
    log_filter: Option<Targets>,
}

impl Run {
    /// `headcount run`, and no more.
    const BARE: Self = Self {
        config: None,
        report: ReportFormat::Text,
        log_format: None,
        log_filter: None,
        admin: None,
        console: None,
    };
}

/// Where to listen; `None` is not at all. By this name clap takes it for a value, not for one that may be missing.
type Listen = Option<SocketAddr>;

/// How the shutdown report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people: a tree, with colours on a terminal.
    Text,
    /// For machines: one JSON object, with the version of its schema.
    Json,
}

const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT   first: drain; second: cancel at once; third: exit at once
  SIGQUIT           dump all tasks and threads, and go on

Exit codes:
  0      stopped, and nothing lingers
  1      a required task failed
  2      wrong usage
  3      something lingers: the report says what
  70     the deadline was missed, and the watchdog ended the process
  71     the system refused threads, or the admin address: nothing was started
  74     the answer of `check` or `config` could not be written
  78     bad configuration, or an OTEL_* variable: nothing was started
  128+n  ended by a third signal n";

/// Runs the command line of the process and returns what the process exits with.
#[must_use]
pub fn main() -> ExitCode {
    // Without a word it runs what it has on board.
    match Arguments::parse()
        .command
        .unwrap_or(Command::Run(Run::BARE))
    {
        Command::Run(arguments) => run(arguments),
        Command::Check { config } => match Config::load(Some(&config)) {
            Ok(config) => print(&output::check(&config)),
            Err(error) => refuse(&error),
        },
        Command::Probe { url, timeout } => probe(&url, timeout),
        Command::Config { default: _ } => print(DEFAULT),
    }
}

fn run(arguments: Run) -> ExitCode {
    let mut config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return refuse(&error),
    };
    if let Some(format) = arguments.log_format {
        config.log.format = format;
    }
    if let Some(listen) = arguments.admin {
        config.admin.listen = listen;
    }
    if let Some(listen) = arguments.console {
        config.console.listen = listen;
    }
    if let Some(filter) = arguments.log_filter {
        config.log.filter = filter;
    }
    let exports = match Exports::begin(&config) {
        Ok(exports) => exports,
        Err((message, code)) => {
            write_all(io::stderr(), &format!("headcount: failed to {message}\n")).ok();
            return ExitCode::from(code);
        }
    };
    match config.log.format {
        // Whoever reads JSON wants nothing else on the stream.
        LogFormat::Json => output::log_start(&config),
        LogFormat::Human => write_all(io::stderr(), &output::start(&config)).unwrap_or_default(),
    }
    match super::run(&config, arguments.report, exports) {
        Ok(report) => report.report(),
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map_or_else(String::new, |cause| format!(": {cause}"));
            let help = help_for(&error);
            let message = format!("headcount: failed to {error}{cause}\n{help}");
            write_all(io::stderr(), &message).ok();
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// What to do about it, where that is known.
fn help_for(error: &BuildError) -> String {
    let BuildError::Admin { address, source } = error else {
        return String::new();
    };
    let port = address.port();
    let any = SocketAddr::new(address.ip(), 0);
    match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "  `ss -ltnp 'sport = :{port}'` names the process that has the port; take another by [admin] listen or \
             `run --admin`,\n  \"{any}\" for any that is free, or \"off\"\n"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "  take one of this machine by [admin] listen or `run --admin`: \"127.0.0.1:{port}\" for this machine alone, \
             \"0.0.0.0:{port}\" for all\n  its addresses, or \"off\"\n"
        ),
        _ => "  take another by [admin] listen or `run --admin`, or \"off\"\n".to_owned(),
    }
}

/// Whether a URL answers with success.
fn probe(url: &str, timeout: Duration) -> ExitCode {
    match endpoint::probe(url, timeout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            write_all(io::stderr(), &format!("headcount: {url}: {why}\n")).ok();
            ExitCode::FAILURE
        }
    }
}

fn refuse(error: &ConfigError) -> ExitCode {
    // If nobody can read it, the exit code says it.
    write_all(io::stderr(), &format!("{error}\n")).ok();
    ExitCode::from(BAD_CONFIG)
}

/// Prints the answer. A reader that has gone away (`| head`) has what it wanted.
fn print(text: &str) -> ExitCode {
    match write_all(io::stdout(), text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("headcount: stdout cannot be written: {error}\n");
            write_all(io::stderr(), &message).ok();
            ExitCode::from(NOT_WRITTEN)
        }
        _ => ExitCode::SUCCESS,
    }
}

fn write_all(mut stream: impl io::Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
