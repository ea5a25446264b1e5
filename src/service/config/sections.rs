//! Readers of the sections `service`, `log`, `shutdown`, `runtime`, `state` and `tasks`; the other sections
//! have files of their own.

pub(super) mod admin;
pub(super) mod telemetry;
pub(super) mod threads;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::service::process::ProcessSettings;

use super::problem::{closest, quoted};
use super::table::{Read, Table};
use super::value::{Value, shown};
use super::{
    Config, Kind, LogFormat, LogSettings, RuntimeSettings, ShutdownSettings, StateFolder,
    StateSettings, Task, endpoint, graph, prewarm, process, progress, resources,
};

/// The levels of a log filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// The values of `kind`.
const KINDS: [&str; 5] = ["resources", "endpoint", "process", "prewarm", "progress"];
/// The help for a name that was refused.
const NAME: &str =
    "allowed: 1 to 64 characters of A-Z a-z 0-9 _ . -, the first a letter, a digit or _";
/// The maximum number of tasks.
const MOST_TASKS: usize = 1000;
/// The maximum of the budgets and of `hold_limit`.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// Reads `[service]` and returns the name of the service, and whether it ends when its processes were
/// given up.
pub(super) fn service(mut table: Table<'_>) -> (String, bool) {
    let name = table.or("name", Config::default().name, |value| {
        let name = value.text("name = \"orders\"")?;
        if !is_name(name) {
            return value.refuse(
                format!("{} is not a valid service name", quoted(name)),
                NAME,
            );
        }
        Some(name.to_owned())
    });
    let default = Config::default().ends_when_given_up;
    let ends = table.or("when_given_up", default, |value| {
        value.choice(&[("end", true), ("stay", false)])
    });
    table.finish();
    (name.value, ends.value)
}

/// Reads `[log]`.
pub(super) fn log(mut table: Table<'_>) -> LogSettings {
    let default = LogSettings::default();
    let filter = table.or("filter", default.filter, |value| {
        match parse_filter(value.text("filter = \"info\"")?) {
            Ok(filter) => Some(filter),
            Err(error) => value.refuse(error, FILTER),
        }
    });
    let format = table.or("format", default.format, |value| {
        value.choice(&[("human", LogFormat::Human), ("json", LogFormat::Json)])
    });
    let limit = table.or("limit", default.limit, |value| match value.as_text() {
        Some("off") => Some(None),
        _ => value.whole_or(1..=1_000_000u64, ", or \"off\"").map(Some),
    });
    table.finish();
    LogSettings {
        filter: filter.value,
        format: format.value,
        limit: limit.value,
    }
}

/// The help for a log filter that was refused.
const FILTER: &str = "allowed: off, error, warn, info, debug, trace, and target=level, \
                      separated by commas: \"info,headcount=debug\"";

/// Parses a log filter: a level, and `target=level` for targets with another level, separated by
/// commas.
///
/// Levels are not case-sensitive. Without a level for all targets, the others are off.
///
/// # Errors
///
/// Returns a message that names the invalid part. A target without a level is refused: otherwise a
/// misspelt level would be accepted as a target.
pub(crate) fn parse_filter(text: &str) -> Result<Targets, String> {
    let mut filter = Targets::new();
    let level = |word: &str| match word.to_ascii_lowercase() {
        word if LEVELS.contains(&word.as_str()) => word.parse::<LevelFilter>().ok(),
        _ => None,
    };
    for part in text.split(',').map(str::trim) {
        match part.split_once('=') {
            None => match level(part) {
                Some(level) => filter = filter.with_default(level),
                None => return Err(format!("unknown level {}{}", quoted(part), meant(part))),
            },
            Some((target, word)) => {
                let (target, word) = (target.trim(), word.trim());
                let named = !target.is_empty()
                    && target
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || "_-:.".contains(c));
                if !named {
                    return Err(format!("{} is not a target", quoted(target)));
                }
                match level(word) {
                    Some(level) => filter = filter.with_target(target, level),
                    None => return Err(format!("unknown level {}{}", quoted(word), meant(word))),
                }
            }
        }
    }
    Ok(filter)
}

/// Returns a hint for a misspelt level, or an empty string if no level is similar.
fn meant(word: &str) -> String {
    closest(word, &LEVELS).map_or_else(String::new, |level| format!("; did you mean {level}?"))
}

/// Reads `[shutdown]`.
///
/// Also returns false if the value of `drain` was refused; process tasks must then not be compared
/// with it.
pub(super) fn shutdown(mut table: Table<'_>) -> (ShutdownSettings, bool) {
    let default = ShutdownSettings::default();
    let short = Duration::from_millis(10);
    let mut budget =
        |key, default, shortest| table.or(key, default, |value| value.duration(shortest..=HOUR));
    let pre_drain_delay = budget("pre_drain_delay", default.pre_drain_delay, Duration::ZERO);
    let drain = budget("drain", default.drain, Duration::ZERO);
    let cancel = budget("cancel", default.cancel, short);
    let close = budget("close", default.close, short);
    let deadline = budget("deadline", default.deadline, short);
    let scrape_hold = budget("scrape_hold", default.scrape_hold, Duration::ZERO);
    let strict = table.or("strict", default.strict, Value::flag);
    let parts = [
        ("pre_drain_delay", &pre_drain_delay),
        ("drain", &drain),
        ("cancel", &cancel),
        ("close", &close),
    ];
    if deadline.sound && parts.iter().all(|(_, part)| part.sound) {
        fit(&table, &parts, &deadline);
    }
    table.finish();
    let settings = ShutdownSettings {
        pre_drain_delay: pre_drain_delay.value,
        drain: drain.value,
        cancel: cancel.value,
        close: close.value,
        deadline: deadline.value,
        scrape_hold: scrape_hold.value,
        strict: strict.value,
    };
    (settings, drain.sound)
}

/// Reports a problem if the sum of the parts is longer than the deadline.
fn fit(table: &Table<'_>, parts: &[(&str, &Read<Duration>)], deadline: &Read<Duration>) {
    let needed: Duration = parts.iter().map(|(_, part)| part.value).sum();
    if needed <= deadline.value {
        return;
    }
    // Point at a key that the file sets, rather than at a default.
    let key = match parts.iter().find(|(_, part)| part.written) {
        Some((key, _)) if !deadline.written => key,
        _ => "deadline",
    };
    let sum: Vec<String> = parts
        .iter()
        .map(|(key, part)| format!("{key} {}", shown(part.value)))
        .collect();
    table.refuse(
        key,
        format!(
            "the budgets add up to {}, but the deadline is {}",
            shown(needed),
            shown(deadline.value)
        ),
        format!(
            "{}; allowed: a deadline of at least their sum",
            sum.join(" + ")
        ),
    );
}

/// Reads `[runtime]`.
pub(super) fn runtime(mut table: Table<'_>) -> RuntimeSettings {
    let worker_threads = table.or("worker_threads", None, |value| {
        value
            .whole(1..=1024u16)
            .map(|count| Some(usize::from(count)))
    });
    let shortest = Duration::from_millis(10);
    let default = RuntimeSettings::default();
    let hold_limit = table.or("hold_limit", default.hold_limit, |value| {
        match value.as_text() {
            Some("off") => Some(None),
            _ => value.duration_or(shortest..=HOUR, ", or \"off\"").map(Some),
        }
    });
    table.finish();
    RuntimeSettings {
        worker_threads: worker_threads.value,
        hold_limit: hold_limit.value,
    }
}

/// Reads `[state]`.
pub(super) fn state(mut table: Table<'_>) -> StateSettings {
    let folder = table.or("folder", StateFolder::Auto, folder);
    let textfile = table.or("textfile", None, |value| textfile(value).map(Some));
    let black_box = table.or("black_box", None, |value| value.flag().map(Some));
    table.finish();
    StateSettings {
        folder: folder.value,
        textfile: textfile.value,
        black_box: black_box.value,
    }
}

/// Reads `folder`. A path must contain a slash, so that a misspelt word is not taken for a folder.
fn folder(value: &Value<'_>) -> Option<StateFolder> {
    match value.text("folder = \"/var/lib/orders\"")? {
        "auto" => Some(StateFolder::Auto),
        "off" => Some(StateFolder::Off),
        path if path.contains('/') => Some(StateFolder::At(PathBuf::from(path))),
        other => value.refuse(
            format!("unknown value {}", quoted(other)),
            "allowed: \"auto\", \"off\", or a path that contains a /",
        ),
    }
}

/// Reads `textfile`. Its name must end in `.prom`: node_exporter ignores other files.
fn textfile(value: &Value<'_>) -> Option<PathBuf> {
    let example = "textfile = \"/var/lib/node_exporter/orders.prom\"";
    let path = PathBuf::from(value.filled(example)?);
    if path.extension().is_none_or(|extension| extension != "prom") {
        return value.refuse(
            format!("{} does not end in .prom", quoted(&path.to_string_lossy())),
            "allowed: a path that ends in .prom, because node_exporter ignores other files",
        );
    }
    Some(path)
}

/// Reads `[tasks.*]` and checks the names of the tasks and the dependencies between them.
///
/// `drain` is the drain budget, or `None` if it could not be read.
pub(super) fn tasks(root: &mut Table<'_>, drain: Option<Duration>) -> Vec<Task> {
    let example = "[tasks.NAME]; `headcount config --default` shows all kinds";
    let Some(value) = root.require("tasks", example) else {
        return Vec::new();
    };
    let Some(table) = value.table_like(example) else {
        return Vec::new();
    };
    let declared = table.names();
    if declared.is_empty() {
        root.refuse("tasks", "declares no task", format!("write {example}"));
    }
    // More tasks are probably a mistake, and searching for similar names would take long.
    if declared.len() > MOST_TASKS {
        let what = format!("declares {} tasks", declared.len());
        root.refuse("tasks", what, format!("allowed: 1 to {MOST_TASKS}"));
        return Vec::new();
    }
    let before = table.problems.count();
    let mut tasks = Vec::new();
    let mut links = Vec::new();
    let mut seen: HashMap<String, &str> = HashMap::new();
    for (name, at, value) in &declared {
        if !is_name(name) {
            let what = format!("{} is not a valid task name", quoted(name));
            table.problems.add(at.clone(), &*value.path, what, NAME);
        } else if let Some(other) = seen.insert(plain(name), name) {
            let what = format!("differs from `{other}` only in case or punctuation");
            let help = "use a name that differs in more than case, `-`, `.` and `_`";
            table.problems.add(at.clone(), &*value.path, what, help);
        }
        tasks.extend(task(name, value, drain, &mut links));
    }
    let names: Vec<&str> = declared.iter().map(|(name, ..)| *name).collect();
    graph::check(&names, &tasks, &links, table.problems);
    refuse_shared_files(&declared, &tasks);
    if let Some(drain) = drain
        && table.problems.count() == before
    {
        graph::fit_stops(&declared, &mut tasks, drain, table.problems);
    }
    tasks
}

/// Reports log files that several processes would write and rotate.
fn refuse_shared_files(declared: &[(&str, Range<usize>, Value<'_>)], tasks: &[Task]) {
    let mut seen: HashMap<&Path, &str> = HashMap::new();
    for task in tasks {
        let Kind::Process(ProcessSettings {
            log_file: Some(file),
            ..
        }) = &task.kind
        else {
            continue;
        };
        let Some(other) = seen.insert(&file.path, &task.name) else {
            continue;
        };
        let value = declared.iter().find(|(name, ..)| *name == task.name);
        if let Some(table) = value.and_then(|(.., value)| value.table()) {
            let what = format!("is the log file of `{other}` too");
            table.refuse("log_file", what, "give each process a file of its own");
        }
    }
}

/// Reads a task. Returns `None` if any part of it was refused.
fn task(
    name: &str,
    value: &Value<'_>,
    drain: Option<Duration>,
    links: &mut Vec<graph::Link>,
) -> Option<Task> {
    let mut table = value.table_like("{ kind = \"resources\" }")?;
    let problems = table.problems;
    let before = problems.count();
    let kind = match kind(&mut table)? {
        "resources" => Some(Kind::Resources(resources::read(&mut table))),
        "endpoint" => endpoint::read(&mut table).map(Kind::Endpoint),
        "progress" => Some(Kind::Progress(progress::read(&mut table))),
        "prewarm" => Some(Kind::Prewarm(prewarm::read(name, &mut table, links))),
        _ => Some(Kind::Process(process::read(name, &mut table, drain, links))),
    };
    table.finish();
    if problems.count() > before {
        return None;
    }
    Some(Task {
        name: name.to_owned(),
        kind: kind?,
    })
}

/// Reads `kind`, which every task needs.
fn kind(table: &mut Table<'_>) -> Option<&'static str> {
    let value = table.require(
        "kind",
        "kind = \"resources\", \"endpoint\", \"process\", \"prewarm\" or \"progress\"",
    )?;
    value.choice(&KINDS.map(|kind| (kind, kind)))
}

/// Returns true if this is a valid name of a task or of the service. Names are used in logs, metric
/// labels and paths.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=64).contains(&name.len())
        && name.chars().all(fits)
        && !name.starts_with(['-', '.'])
        // The metric label that stands for all names beyond the limit.
        && name != "_other"
}

/// Normalizes case and punctuation of a name. Two tasks must not have the same normalized name.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_consists_of_levels_and_of_targets_with_levels() {
        let filter =
            parse_filter("info, headcount::service=debug,hyper=off").expect("a valid filter");
        assert!(filter.would_enable("headcount::service", &tracing::Level::DEBUG));
        assert!(!filter.would_enable("headcount", &tracing::Level::DEBUG));
        assert!(!filter.would_enable("hyper", &tracing::Level::ERROR));
        assert!(parse_filter("WARN").is_ok());
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        let message = |text| parse_filter(text).expect_err("it is not a filter");
        assert_eq!(
            message("inof"),
            "unknown level \"inof\"; did you mean info?"
        );
        assert_eq!(
            message("headcount=dbug"),
            "unknown level \"dbug\"; did you mean debug?"
        );
        assert_eq!(message("3"), "unknown level \"3\"");
        assert_eq!(message("info,"), "unknown level \"\"");
        assert_eq!(message("[span]=info"), "\"[span]\" is not a target");
    }

    #[test]
    fn only_short_names_of_plain_characters_are_valid() {
        for name in ["a", "db.primary-1", "_x", "0", &"x".repeat(64)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "-a",
            ".a",
            "a b",
            "ä",
            "a/b",
            "_other",
            "a\n",
            &"x".repeat(65),
        ] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
