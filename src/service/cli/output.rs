//! Descriptions of a configuration: the output of `headcount check`, and the start of a run.
//!
//! Arguments of commands and queries of URLs are left out, since they may contain secrets. Text from
//! the configuration is shown without what could change a terminal.

use std::fmt::Write as _;

use crate::service::config::{Config, Kind, Task};
use crate::service::endpoint::Check;
use crate::text::plain;

/// Returns the output of `headcount check` for a valid configuration.
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
        plain(&config.origin),
        count(config),
        tasks.join(", "),
        config.name,
        time(shutdown.drain),
        time(shutdown.cancel),
        time(shutdown.close),
        time(shutdown.deadline),
    )
}

/// Returns the text that `headcount run` prints once it runs: the tasks, and how to stop them.
pub(super) fn start(config: &Config) -> String {
    let mut text = format!(
        "headcount {}: running {} as \"{}\", pid {}, from {}\n",
        env!("CARGO_PKG_VERSION"),
        count(config),
        config.name,
        std::process::id(),
        plain(&config.origin),
    );
    let widest = config.tasks.iter().map(|task| task.name.len()).max();
    let width = widest.unwrap_or(0);
    for task in &config.tasks {
        let (name, kind) = (&task.name, task.kind.word());
        writeln!(text, "  {name:width$}  {kind:9}  {}", plain(&what(task)))
            .expect("a String takes every write");
    }
    text.push_str(
        "to stop: Ctrl-C or SIGTERM drains, a second signal cancels, a third exits at once\n",
    );
    text
}

/// Logs what [`start`] prints: one event per task, then one for the service.
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

/// Returns the number of tasks in words.
fn count(config: &Config) -> String {
    match config.tasks.len() {
        1 => "1 task".to_owned(),
        count => format!("{count} tasks"),
    }
}

/// Describes a task in a few words.
fn what(task: &Task) -> String {
    let time = humantime::format_duration;
    match &task.kind {
        Kind::Resources(settings) => format!("every {}", time(settings.interval)),
        Kind::Endpoint(settings) => {
            let target = match &settings.check {
                Check::Tcp { address } => format!("tcp {address}"),
                Check::Grpc(grpc) => format!("grpc {}", grpc.address),
                Check::Postgres(postgres) => format!("postgres {}", postgres.address),
                Check::Redis(redis) => format!("redis {}", redis.address),
                Check::Command(words) => {
                    format!("command {}", words.first().map_or("", String::as_str))
                }
                Check::Dns(dns) => format!("dns {}", dns.name),
                Check::Http(http) => without_query(&http.url).to_owned(),
            };
            format!("{target} every {}", time(settings.interval))
        }
        Kind::Progress(settings) => match settings.expected {
            Some(expected) => format!("expects to be ready within {}", time(expected)),
            None => "says when the service is ready".to_owned(),
        },
        Kind::Prewarm(settings) => {
            let parts = [
                (settings.files.len(), "of files"),
                (settings.http.len(), "of http"),
                (settings.commands.len(), "commands"),
            ];
            let parts = parts.iter().filter(|(count, _)| *count > 0);
            let parts: Vec<_> = parts
                .map(|(count, what)| format!("{count} {what}"))
                .collect();
            parts.join(", ")
        }
        // Arguments may contain secrets and may be long, so only the program is named.
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

/// Removes the query from a URL, since it may contain a secret.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(before, _)| before)
}
