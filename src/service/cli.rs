//! The command line of `headcount`: its arguments, output and exit codes.
//!
//! Doc comments of the argument types are the text of `--help`. Options of `run` replace settings of
//! the configuration after it was loaded. Answers of `check` and `config` go to stdout; everything
//! else goes to stderr, except a report in JSON. This module does not run any task itself:
//! `service::run` does.

mod control;
mod generated;
mod init;
mod logs;
mod output;
mod programs;
mod report;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod services;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod tasks;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod top;
#[cfg(all(
    feature = "stacks",
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod ways;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitCode, Termination as _};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use rustix::io::Errno;
use tracing_subscriber::filter::Targets;

use super::config::{Config, ConfigError, DEFAULT, LogFormat, parse_filter, parse_listen};
use super::endpoint;
use super::exit_code::{BAD_CONFIG, NOT_STARTED, NOT_WRITTEN};
use super::exports::Exports;
use super::signals;
use crate::BuildError;
use crate::runtime::release_signals;
use crate::text::{plain, without_user_info};

/// Runs the tasks in a configuration file and makes sure nothing is left running when it stops.
#[derive(Debug, Parser)]
#[command(name = "headcount", version, after_help = AFTER_HELP, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the configured tasks until stopped (the default command)
    #[command(after_help = AFTER_HELP)]
    Run(Run),
    /// Validate a configuration file without starting anything
    Check {
        /// Configuration file (TOML)
        config: PathBuf,
    },
    /// Make one GET request and exit with 0 on success, for health checks without a shell
    Probe {
        /// URL to request, such as `http://127.0.0.1:9464/readyz`
        url: String,
        /// Time limit for the whole request
        #[arg(long, value_parser = humantime::parse_duration, default_value = "2s")]
        timeout: Duration,
    },
    /// List the tasks of a running tokio program by type and state
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[command(after_help = AFTER_LOOK)]
    Ps(tasks::List),
    /// Show what each task of a running tokio program waits for
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[command(after_help = AFTER_LOOK)]
    Tree(tasks::Arguments),
    /// Watch tasks, threads and processes of a running tokio program
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[command(after_help = AFTER_TOP)]
    Top(top::Arguments),
    /// Show what each task waits for, and the stacks of all threads
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    #[command(after_help = AFTER_DUMP)]
    Dump(tasks::Arguments),
    /// Show the last run of a service, even if it was killed, or what a process is doing
    Report(report::Arguments),
    /// Stop a service: begin its shutdown through its control socket; or stop one of its processes
    #[command(after_help = AFTER_VERB)]
    Stop(control::Stop),
    /// Start a process of a service that was stopped, has ended or was given up
    #[command(after_help = AFTER_VERB)]
    Start(control::Child),
    /// Restart a process of a service
    #[command(after_help = AFTER_VERB)]
    Restart(control::Child),
    /// Show the last lines that the processes of a service have printed
    #[command(after_help = AFTER_LOGS)]
    Logs(logs::Arguments),
    /// Drain a group of a service: let its tasks finish the work in hand
    #[command(after_help = AFTER_VERB)]
    Drain(control::Group),
    /// Cancel the tasks of a group of a service
    #[command(after_help = AFTER_VERB)]
    Cancel(control::Group),
    /// Write a configuration file to start from
    Init(init::Arguments),
    /// Print the default configuration, which documents every key
    Config {
        /// Print the default configuration
        #[arg(long, required = true)]
        default: bool,
    },
    /// Print the completions of the commands for a shell
    Completions(generated::Completions),
    /// Write manual pages to a folder
    #[command(hide = true)]
    Man(generated::Man),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Configuration file (TOML) [default: embedded, see `headcount config --default`]
    config: Option<PathBuf>,
    /// Format of the shutdown report; text goes to stderr, json to stdout
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    report: ReportFormat,
    /// Format of log lines on stderr; overrides `log.format`
    #[arg(long, value_enum)]
    log_format: Option<LogFormat>,
    /// Address of the admin server, or `off`; overrides `admin.listen`
    #[arg(long, value_name = "ADDRESS", value_parser = parse_listen)]
    admin: Option<Listen>,
    /// Serve tokio-console on ADDRESS, 127.0.0.1:6669 if omitted; overrides `console.listen`
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:6669", value_parser = parse_listen)]
    console: Option<Listen>,
    /// Log filter, such as `info,headcount=debug`; overrides `log.filter`
    #[arg(long, value_parser = parse_filter)]
    log_filter: Option<Targets>,
}

impl Run {
    /// The arguments of a plain `headcount run`, which is also the command if none is given.
    const BARE: Self = Self {
        config: None,
        report: ReportFormat::Text,
        log_format: None,
        log_filter: None,
        admin: None,
        console: None,
    };
}

/// An address to listen on; `None` stands for "off". The alias keeps clap from treating the `Option` as an optional
/// argument.
type Listen = Option<SocketAddr>;

/// The format of the shutdown report.
///
/// The docs of the variants are part of `headcount run --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// A readable tree, with colours on a terminal.
    Text,
    /// One JSON object, with the version of its schema.
    Json,
}

const AFTER_HELP: &str = "\
Signals:
  SIGTERM, SIGINT   first: drain; second: cancel at once; third: exit at once
  SIGHUP            drain, unless it was ignored at the start, as by nohup
  SIGQUIT           dump all tasks and threads, then continue

Exit codes:
  0      stopped, nothing lingers
  1      a required task failed, or no process is left and one was given up
  2      invalid usage
  3      something lingers: see the report
  4      something had to be cancelled, dropped or killed, and [shutdown] strict is set
  70     the deadline was missed and the watchdog ended the process
  71     threads could not be started or an address could not be bound; nothing was started
  74     the output of a command could not be written
  78     invalid configuration or OTEL_* variable; nothing was started
  128+n  a third signal, number n, ended the process, or a second one before it ran";

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
const AFTER_LOOK: &str = "\
Without --by, a service of headcount answers by its control socket. If it is stopped or does not
answer, its black box is read, and its memory by attach. Any other tokio program is read by attach:
it needs nothing of headcount in it, and is not stopped, signalled or changed. The output says which
way each row came by. The process must run as the same user; root may look into any. Chains by attach
need `debug = 2` in its Cargo profile.

Exit codes:
  0   its tasks were printed
  1   the process cannot be read, or its tasks are laid out in an unknown way; stderr has the reason
  2   invalid usage
  74  the output could not be written";

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
const AFTER_TOP: &str = "\
Keys:
  q, Ctrl-C   quit                          s, S      sort by the next column, or the one before
  Tab, 1 2 3  tasks, threads, processes     r         reverse the order
  /           show only rows with a text    p, Space  pause
  +, -        more often, less often        ?         help

The tasks come from the black box of a service of headcount, else from its control socket; untracked
tasks, and those of any other tokio program, by attach. Ages by attach count from the first sample.
The process is not stopped, signalled or changed, and may be stopped. NO_COLOR turns colours off.

Exit codes:
  0  quit, or the process has ended
  1  the process cannot be read, or there is no terminal; stderr has the reason
  2  invalid usage";

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
const AFTER_DUMP: &str = "\
A service of headcount that has a control socket takes the dump itself, and has 5 s for it. Any other
tokio program is read from outside, as by `tree`: it is not stopped, signalled or changed. The first
line says which. It must run as the same user; root may look into any.

Exit codes:
  0   its tasks were printed
  1   the process cannot be read, or its tasks are laid out in an unknown way; stderr has the reason
  2   invalid usage
  74  the output could not be written";

const AFTER_VERB: &str = "\
The process is one of `headcount run`, or asks for a control socket with the library. It must run as
the same user; root may use any. The command waits for the answer for at most 5 s.

Exit codes:
  0   done; of `drain` and `cancel`: no task is left
  1   refused, not answered, tasks are left, or the process is still stopping; stderr has the reason
  2   invalid usage
  74  the output could not be written";

const AFTER_LOGS: &str = "\
A service keeps the last 1000 lines of each process in memory, at most 64 KiB. It is asked through its
control socket, and must run as the same user; root may ask any.

Exit codes:
  0   the lines were printed; with --follow: the service has ended
  1   refused or not answered; stderr has the reason
  2   invalid usage
  74  the output could not be written";

/// Parses the command line of the process, runs the command, and returns the exit code.
///
/// Without a subcommand, runs the embedded default configuration. Signals that `main` holds keep their
/// default effect in all commands but `run` and `top`. Exits the process with code 2 if
/// the arguments are invalid, and with 0 after `--help` and `--version`.
#[must_use]
pub fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let command = command.unwrap_or(Command::Run(Run::BARE));
    if !command.holds_signals() {
        release_signals();
    }
    match command {
        Command::Run(arguments) => run(arguments),
        Command::Check { config } => match Config::load(Some(&config)) {
            Ok(config) => check(&config),
            Err(error) => refuse(&error),
        },
        Command::Probe { url, timeout } => probe(&url, timeout),
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))]
        Command::Ps(arguments) => {
            let form = tasks::Form::of_stdout();
            match arguments.pid {
                Some(pid) => tell(tasks::ps(&arguments, pid, form)),
                None => print(&services::list(arguments.json, form)),
            }
        }
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))]
        Command::Tree(arguments) => tell(tasks::tree(&arguments, tasks::Form::of_stdout())),
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))]
        Command::Dump(arguments) => dump(&arguments),
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64")
        ))]
        Command::Top(arguments) => tell(top::top(&arguments)),
        Command::Report(arguments) => report::report(&arguments),
        Command::Stop(arguments) => tell(control::stop(&arguments)),
        Command::Start(arguments) => tell(control::start(&arguments)),
        Command::Restart(arguments) => tell(control::restart(&arguments)),
        Command::Logs(arguments) => logs::logs(&arguments),
        Command::Drain(arguments) => tell(control::drain(&arguments)),
        Command::Cancel(arguments) => tell(control::cancel(&arguments)),
        Command::Init(arguments) => tell(init::init(&arguments)),
        Command::Config { default: _ } => print(DEFAULT),
        Command::Completions(arguments) => print(&generated::completions(&arguments)),
        Command::Man(arguments) => tell(generated::man(&arguments)),
    }
}

impl Command {
    /// Returns whether the command acts on signals itself.
    fn holds_signals(&self) -> bool {
        match self {
            Self::Run(_) => true,
            #[cfg(all(
                target_os = "linux",
                any(target_arch = "x86_64", target_arch = "aarch64")
            ))]
            Self::Top(_) => true,
            _ => false,
        }
    }
}

/// The longest wait for the last lines of the log, which may not be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs `headcount run`: loads the configuration, applies the options, and runs the service to its end.
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
            let message = format!("headcount: failed to {}\n", plain(&message));
            write_all(io::stderr(), &message).ok();
            return ExitCode::from(code);
        }
    };
    let log = exports.log().clone();
    let announce = || match config.log.format {
        // With JSON logs, every line on stderr has to be JSON.
        LogFormat::Json => output::log_start(&config),
        LogFormat::Human => log.print(output::start(&config)),
    };
    // An error leaves the default effect of a signal that hardly anything sends.
    signals::disregard(&signals::MEANINGLESS).ok();
    let ended = super::run(&config, arguments.report, exports, announce);
    let code = match ended {
        Ok(report) => report.report(),
        Err(error) => {
            let cause = std::error::Error::source(&error)
                .map_or_else(String::new, |cause| format!(": {cause}"));
            let help = help_for(&error);
            let error = format!("headcount: failed to {error}{cause}");
            log.print(format!("{}\n{help}", plain(&error)));
            ExitCode::from(NOT_STARTED)
        }
    };
    log.flush(LAST_LINES);
    code
}

/// Returns a remedy for a failed start; empty if none is known.
fn help_for(error: &BuildError) -> String {
    match error {
        BuildError::Admin { address, source } => help_for_address(*address, source),
        BuildError::System(source) => help_for_limit(source).to_owned(),
        _ => String::new(),
    }
}

/// Returns a remedy for a refused thread or descriptor.
fn help_for_limit(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "  raise the limit of open files: `ulimit -n`, or LimitNOFILE= of systemd\n"
        }
        // A refused thread is EAGAIN, for whatever reason (pthread_create(3)).
        Some(Errno::AGAIN | Errno::NOMEM) => {
            "  raise the limit of threads or memory: pids.max and memory.max of the control group, `ulimit -u` or \
             `ulimit -v`,\n  or start fewer threads with [runtime] worker_threads\n"
        }
        _ => "",
    }
}

/// Returns a remedy for an admin address that could not be bound.
fn help_for_address(address: SocketAddr, source: &io::Error) -> String {
    let port = address.port();
    let any = SocketAddr::new(address.ip(), 0);
    match source.kind() {
        io::ErrorKind::AddrInUse => format!(
            "  find the process that uses the port with `ss -ltnp 'sport = :{port}'`, or choose another address with \
             [admin] listen\n  or `run --admin`: \"{any}\" for any free port, or \"off\" for no admin server\n"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "  choose an address of this machine with [admin] listen or `run --admin`: \"127.0.0.1:{port}\" for local access \
             only,\n  \"0.0.0.0:{port}\" for all addresses, or \"off\" for no admin server\n"
        ),
        _ => "  set another address with [admin] listen or `run --admin`, or \"off\"\n".to_owned(),
    }
}

/// Runs `headcount dump`.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
fn dump(arguments: &tasks::Arguments) -> ExitCode {
    tell(
        tasks::dump(arguments, tasks::Form::of_stdout()).map(|(text, note)| {
            if let Some(why) = note {
                let note = format!("headcount: {}; it is read from outside\n", plain(&why));
                write_all(io::stderr(), &note).ok();
            }
            text
        }),
    )
}

/// Prints the output of a command about another process, or the reason why it failed.
fn tell(output: Result<String, String>) -> ExitCode {
    match output {
        Ok(text) => print(&text),
        Err(why) => {
            // It may have text of the other process, such as the path of its program.
            let lines: Vec<_> = why.lines().map(plain).collect();
            write_all(io::stderr(), &format!("headcount: {}\n", lines.join("\n"))).ok();
            ExitCode::FAILURE
        }
    }
}

/// Runs `headcount check` for a valid configuration: prints it, and warnings to stderr.
fn check(config: &Config) -> ExitCode {
    for warning in programs::warnings(config) {
        let line = format!("{}: {warning}\n", plain(&config.origin));
        write_all(io::stderr(), &line).ok();
    }
    print(&output::check(config))
}

/// Runs `headcount probe`: makes one request, and prints the reason if it fails.
fn probe(url: &str, timeout: Duration) -> ExitCode {
    match endpoint::probe(url, timeout) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            let text = format!("{url}: {why}");
            let text = without_user_info(&text);
            write_all(io::stderr(), &format!("headcount: {}\n", plain(&text))).ok();
            ExitCode::FAILURE
        }
    }
}

/// Prints the problems of a configuration and returns the exit code for it. A limit that keeps the
/// file from being read is no fault of the configuration.
fn refuse(error: &ConfigError) -> ExitCode {
    // If stderr cannot be written, the exit code still reports the refusal.
    write_all(io::stderr(), &format!("{error}\n")).ok();
    ExitCode::from(if error.is_own_limit {
        NOT_STARTED
    } else {
        BAD_CONFIG
    })
}

/// Prints the output of a command to stdout. A closed pipe is no failure: in `| head`, the reader has
/// read what it needs.
fn print(text: &str) -> ExitCode {
    match write_all(io::stdout(), text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("headcount: failed to write to stdout: {error}\n");
            write_all(io::stderr(), &message).ok();
            ExitCode::from(NOT_WRITTEN)
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Writes and flushes the text. Unlike `println!`, it does not panic if the stream is closed.
fn write_all(mut stream: impl io::Write, text: &str) -> io::Result<()> {
    stream.write_all(text.as_bytes())?;
    stream.flush()
}
