//! The service: runs declared tasks on the library, of which it uses public items only.

pub mod cli;
pub(crate) mod config;
pub(crate) mod endpoint;
pub(crate) mod exports;
pub(crate) mod process;
pub(crate) mod resources;

pub use process::guardian_main;

use crate::{BuildError, Report, Runtime, TaskGroup};
use cli::ReportFormat;
use config::{Config, Kind, StateFolder};
use exports::Exports;
use std::collections::BTreeMap;

/// Runs the service until it is stopped.
fn run(config: &Config, format: ReportFormat, exports: Exports) -> Result<Report, BuildError> {
    let shutdown = &config.shutdown;
    let mut builder = Runtime::builder()
        .name(&config.name)
        .pre_drain_delay(shutdown.pre_drain_delay)
        .drain_budget(shutdown.drain)
        .cancel_budget(shutdown.cancel)
        .close_budget(shutdown.close)
        .deadline(shutdown.deadline)
        .scrape_hold(shutdown.scrape_hold)
        .version(env!("CARGO_PKG_VERSION"));
    builder = match &config.state.folder {
        StateFolder::Auto => builder.default_state_folder(),
        StateFolder::At(folder) => builder.state_folder(folder),
        StateFolder::Off => builder,
    };
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
    if format == ReportFormat::Json {
        builder = builder.print_json();
    }
    let runtime = exports.of(builder).build()?;
    if let Some(address) = runtime.admin_address() {
        tracing::info!("admin server: http://{address}/");
    }
    Ok(runtime.run(async |tasks| {
        start(config, &tasks);
        tasks.draining().await;
    }))
}

/// Spawns every declared task.
fn start(config: &Config, tasks: &TaskGroup) {
    let mut endpoints = BTreeMap::new();
    let mut processes = BTreeMap::new();
    for task in &config.tasks {
        let name = task.name.clone();
        match &task.kind {
            Kind::Resources(settings) => {
                let work = resources::run(settings.clone(), tasks.clone());
                tasks.task(&name).long_lived().spawn(work);
            }
            Kind::Endpoint(settings) => {
                let endpoint = endpoint::start(name.clone(), settings.clone(), tasks);
                endpoints.insert(name, endpoint);
            }
            Kind::Process(settings) => {
                processes.insert(name, settings.clone());
            }
        }
    }
    let is_up = |name: &str| endpoints.get(name).map(|endpoint| endpoint.up.clone());
    process::start_all(processes, is_up, tasks);
}
