//! What the command line says about a configuration.

use std::fmt::Write as _;

use crate::service::config::{Config, Kind, Task};
use crate::service::endpoint::Check;

/// The answer of `headcount check`.
pub(super) fn check(config: &Config) -> String {
    let tasks: Vec<String> = config
        .tasks
        .iter()
        .map(|task| format!("{} ({})", task.name, task.kind.word()))
        .collect();
    let shutdown = &config.shutdown;
    let time = humantime::format_duration;
    format!(
        "{}: ok: {}: {}\nservice {}, shutdown: drain {}, cancel {}, close {}, deadline {}\n",
        config.origin,
        count(config),
        tasks.join(", "),
        config.name,
        time(shutdown.drain),
        time(shutdown.cancel),
        time(shutdown.close),
        time(shutdown.deadline),
    )
}

/// What `headcount run` says first, to people.
pub(super) fn start(config: &Config) -> String {
    let mut text = format!(
        "headcount {}: running {} as \"{}\", pid {}, from {}\n",
        env!("CARGO_PKG_VERSION"),
        count(config),
        config.name,
        std::process::id(),
        config.origin,
    );
    let widest = config.tasks.iter().map(|task| task.name.len()).max();
    let width = widest.unwrap_or(0);
    for task in &config.tasks {
        let (name, kind) = (&task.name, task.kind.word());
        writeln!(text, "  {name:width$}  {kind:9}  {}", what(task))
            .expect("a String takes every write");
    }
    text.push_str("stop: Ctrl-C or SIGTERM drains, a second one cancels, a third exits at once\n");
    text
}

/// The same, for machines.
pub(super) fn log_start(config: &Config) {
    for task in &config.tasks {
        let (name, kind) = (&*task.name, task.kind.word());
        tracing::info!(task = name, kind, what = what(task), "declared");
    }
    tracing::info!(
        service = config.name,
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        config = config.origin,
        tasks = config.tasks.len(),
        "running"
    );
}

fn count(config: &Config) -> String {
    match config.tasks.len() {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    }
}

/// What a task does, in a few words.
fn what(task: &Task) -> String {
    let time = humantime::format_duration;
    match &task.kind {
        Kind::Resources(settings) => format!("every {}", time(settings.interval)),
        Kind::Endpoint(settings) => {
            let target = match &settings.check {
                Check::Tcp { address } => format!("tcp {address}"),
                Check::Http { url, .. } => without_query(url).to_owned(),
            };
            format!("{target} every {}", time(settings.interval))
        }
        // Arguments may hold secrets, and are long; the name of the program says enough.
        Kind::Process(settings) => {
            let wants: Vec<&str> = settings.depends_on.keys().map(String::as_str).collect();
            let program = settings.command.first().map_or("", String::as_str);
            match wants.as_slice() {
                [] => program.to_owned(),
                wants => format!("{program} after {}", wants.join(", ")),
            }
        }
    }
}

/// The URL without its query, which may hold a secret.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(before, _)| before)
}
