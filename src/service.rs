//! The service: runs the tasks of a configuration on the library.
//!
//! `cli` is the entry point. It loads a `config::Config`, and `run` turns the settings into a
//! [`Runtime`] and spawns the declared tasks. Reports, shutdown and admin server are those of the
//! library.
//!
//! The service uses public items of the library only, so anything that it does can be done by a user
//! of the library as well. A test checks that.

pub mod cli;
pub(crate) mod config;
pub(crate) mod endpoint;
mod exit_code;
pub(crate) mod exports;
mod own_limit;
pub(crate) mod prewarm;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod resources;
mod secrets;
mod signals;

#[cfg(test)]
mod tests;

pub use process::guardian_main;

use crate::{BuildError, Report, Runtime, TaskGroup};
use cli::ReportFormat;
use config::{Config, ControlSocket, Kind, StateFolder};
use exports::Exports;
use process::Processes;
use progress::ProgressSettings;
use std::collections::BTreeMap;
use tokio::sync::mpsc::{self, UnboundedSender};

/// Runs the service until it is stopped, and returns the report of its shutdown.
///
/// Calls `announce` once the service runs: its ports are bound and its threads are started.
///
/// # Errors
///
/// Returns an error if the runtime could not be built, for example because the admin address is in
/// use. No task was started then.
fn run(
    config: &Config,
    format: ReportFormat,
    exports: Exports,
    announce: impl FnOnce(),
) -> Result<Report, BuildError> {
    own_limit::raise_files();
    let shutdown = &config.shutdown;
    let mut builder = Runtime::builder()
        .name(&config.name)
        .pre_drain_delay(shutdown.pre_drain_delay)
        .drain_budget(shutdown.drain)
        .cancel_budget(shutdown.cancel)
        .close_budget(shutdown.close)
        .deadline(shutdown.deadline)
        .scrape_hold(shutdown.scrape_hold)
        .strict(shutdown.strict)
        .version(env!("CARGO_PKG_VERSION"))
        .unready("start", "not over yet");
    builder = match &config.state.folder {
        StateFolder::Auto => builder.default_state_folder(),
        StateFolder::At(folder) => builder.state_folder(folder),
        StateFolder::Off => builder,
    };
    if let Some(keep) = config.state.black_box {
        builder = builder.black_box(keep);
    }
    if let Some(path) = &config.state.textfile {
        builder = builder.textfile(path);
    }
    for rule in &config.expected_threads {
        builder = builder.expect_threads(rule.clone());
    }
    builder = builder.hold_limit(config.runtime.hold_limit);
    if let Some(workers) = config.runtime.worker_threads {
        builder = builder.worker_threads(workers);
    }
    if let Some(address) = config.admin.listen {
        builder = builder.admin(address);
    }
    for host in &config.admin.allowed_hosts {
        builder = builder.admin_host(host);
    }
    builder = match &config.admin.control_socket {
        ControlSocket::Auto => builder.default_control_socket(),
        ControlSocket::At(path) => builder.control_socket(path),
        ControlSocket::Off => builder,
    };
    if format == ReportFormat::Json {
        builder = builder.print_json();
    }
    let runtime = exports.of(builder).build()?;
    announce();
    if let Some(address) = runtime.admin_address() {
        tracing::info!("admin server: http://{address}/");
    }
    if let Some(path) = runtime.control_socket() {
        tracing::debug!("control socket: {}", path.display());
    }
    Ok(runtime.run(async |tasks| run_tasks(config, tasks).await))
}

/// Runs every declared task until the service is told to stop.
///
/// # Errors
///
/// Returns the failure that ends the service: of required prewarming, or of all processes.
async fn run_tasks(config: &Config, tasks: TaskGroup) -> Result<(), String> {
    let (failed, mut failures) = mpsc::unbounded_channel();
    let processes = start(config, &tasks, failed);
    tasks.set_ready("start");
    loop {
        let names = tokio::select! {
            names = tasks.until_draining(processes.given_up()) => names,
            // The senders are gone when all of it is warm.
            Some(failure) = failures.recv() => return Err(failure),
        };
        let Some(names) = names else {
            return Ok(());
        };
        let what = format!("no process is left to run; given up: {}", names.join(", "));
        if config.ends_when_given_up {
            return Err(what);
        }
        tracing::error!("{what}");
        tasks.set_unready("processes", &what);
        tokio::select! {
            revived = tasks.until_draining(processes.revived()) => match revived {
                Some(()) => tasks.set_ready("processes"),
                None => return Ok(()),
            },
            Some(failure) = failures.recv() => return Err(failure),
        }
    }
}

/// Spawns every declared task. Returns the processes. Failures of required prewarming go to `failed`.
///
/// Processes are started after the endpoint tasks, since their readiness may depend on one, and
/// prewarming last, since it may depend on processes.
fn start(config: &Config, tasks: &TaskGroup, failed: UnboundedSender<String>) -> Processes {
    let mut endpoints = BTreeMap::new();
    let mut processes = BTreeMap::new();
    let (mut prewarms, mut progress) = (Vec::new(), Vec::new());
    let commands = process::commands(&config.name, tasks);
    for task in &config.tasks {
        let name = task.name.clone();
        match &task.kind {
            Kind::Resources(settings) => {
                let work = resources::run(settings.clone(), tasks.clone());
                tasks.task(&name).long_lived().spawn(work);
            }
            Kind::Endpoint(settings) => {
                let run = commands.of_endpoint(&name, tasks);
                let endpoint = endpoint::start(name.clone(), settings.clone(), run, tasks);
                endpoints.insert(name, endpoint);
            }
            Kind::Process(settings) => {
                processes.insert(name, settings.clone());
            }
            Kind::Prewarm(settings) => prewarms.push((name, settings.clone())),
            Kind::Progress(settings) => progress.push((name, settings.clone())),
        }
    }
    let is_up = |name: &str| endpoints.get(name).cloned();
    let processes = process::start_all(&commands, processes, &is_up, tasks);
    for (name, settings) in prewarms {
        let dependencies = processes.dependencies(&settings.depends_on, &is_up);
        let (commands, failed) = (commands.clone(), failed.clone());
        prewarm::start(name, settings, dependencies, commands, tasks, failed);
    }
    if progress.is_empty() {
        progress.push(("progress".to_owned(), ProgressSettings::default()));
    }
    for (name, settings) in progress {
        let watch = progress::run(settings, tasks.clone());
        tasks.task(&name).daemon().spawn(watch);
    }
    processes
}
