//! The sections of the file: `service`, `log`, `shutdown`, `runtime`, `tasks`.

use std::collections::HashMap;
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::problem::quoted;
use super::reader::{Read, Table, closest};
use super::value::{Value, shown};
use super::{
    Config, Kind, LogFormat, LogSettings, RuntimeSettings, ShutdownSettings, Task, endpoint, graph,
    process, resources,
};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const KINDS: [&str; 3] = ["resources", "endpoint", "process"];
/// Kinds that are planned, so that a file for a later version gets a better answer than "unknown".
const LATER: [&str; 3] = ["progress", "mesh", "prewarm"];
const NAME: &str = "allowed: 1 to 64 of A-Z a-z 0-9 _ . -, the first a letter, a digit or _";
const MOST_TASKS: usize = 1000;
const HOUR: Duration = Duration::from_secs(60 * 60);

pub(super) fn service(mut table: Table<'_>) -> String {
    let name = table.or("name", Config::default().name, |value| {
        let name = value.text("name = \"orders\"")?;
        if !is_name(name) {
            return value.refuse(format!("{} cannot name a service", quoted(name)), NAME);
        }
        Some(name.to_owned())
    });
    table.finish();
    name.value
}

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
        _ => value.whole_or(1..=1_000_000u64, ", \"off\"").map(Some),
    });
    table.finish();
    LogSettings {
        filter: filter.value,
        format: format.value,
        limit: limit.value,
    }
}

const FILTER: &str = "allowed: off, error, warn, info, debug, trace, and target=level, \
                      with commas between: \"info,headcount=debug\"";

/// A log filter: a level, and `target=level` for what differs.
///
/// # Errors
///
/// Says which part is not one of the two. A target without a level is refused, because it would
/// also swallow a misspelt level.
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
                None => return Err(format!("{} is not a level{}", quoted(part), meant(part))),
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
                    None => return Err(format!("{} is not a level{}", quoted(word), meant(word))),
                }
            }
        }
    }
    Ok(filter)
}

fn meant(word: &str) -> String {
    closest(word, &LEVELS).map_or_else(String::new, |level| format!(", did you mean {level}?"))
}

/// The budgets, and whether `drain` is the one that was meant.
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
    };
    (settings, drain.sound)
}

/// Complains if the parts do not fit into the deadline.
fn fit(table: &Table<'_>, parts: &[(&str, &Read<Duration>)], deadline: &Read<Duration>) {
    let needed: Duration = parts.iter().map(|(_, part)| part.value).sum();
    if needed <= deadline.value {
        return;
    }
    // What the writer of the file wrote, rather than a default that is not there.
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
            "the budgets need {}, and the deadline is {}",
            shown(needed),
            shown(deadline.value)
        ),
        format!(
            "{}; allowed: a deadline of at least their sum",
            sum.join(" + ")
        ),
    );
}

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
    // Beyond this a file was generated by mistake, and the suggestions below would take long.
    if declared.len() > MOST_TASKS {
        let what = format!("declares {} tasks", declared.len());
        root.refuse("tasks", what, format!("allowed: 1 to {MOST_TASKS}"));
        return Vec::new();
    }
    let mut tasks = Vec::new();
    let mut links = Vec::new();
    let mut seen: HashMap<String, &str> = HashMap::new();
    for (name, at, value) in &declared {
        if !is_name(name) {
            let what = format!("{} cannot name a task", quoted(name));
            table.problems.add(at.clone(), &*value.path, what, NAME);
        } else if let Some(other) = seen.insert(plain(name), name) {
            let what = format!("differs from `{other}` only in case or punctuation");
            let help = "allowed: names that stay different in file names and on dashboards";
            table.problems.add(at.clone(), &*value.path, what, help);
        }
        tasks.extend(task(name, value, drain, &mut links));
    }
    let names: Vec<&str> = declared.iter().map(|(name, ..)| *name).collect();
    graph::check(&names, &tasks, &links, table.problems);
    tasks
}

/// The task, if all of it could be read.
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

fn kind(table: &mut Table<'_>) -> Option<&'static str> {
    let value = table.require("kind", "kind = \"resources\", \"endpoint\" or \"process\"")?;
    match value.as_text() {
        Some(later) if LATER.contains(&later) => value.refuse(
            format!("kind \"{later}\" is not available in this version"),
            format!("allowed: \"{}\"", KINDS.join("\", \"")),
        ),
        _ => value.choice(&KINDS.map(|kind| (kind, kind))),
    }
}

/// Whether this may name a task or the service: it goes into logs, labels and paths.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=64).contains(&name.len())
        && name.chars().all(fits)
        && !name.starts_with(['-', '.'])
        // The label of all names beyond the bound.
        && name != "_other"
}

/// What is left of a name where case and punctuation are lost.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['-', '.'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_levels_and_targets_with_levels() {
        let filter = parse_filter("info, headcount::service=debug,hyper=off").expect("it is one");
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
            "\"inof\" is not a level, did you mean info?"
        );
        assert_eq!(
            message("headcount=dbug"),
            "\"dbug\" is not a level, did you mean debug?"
        );
        assert_eq!(message("3"), "\"3\" is not a level");
        assert_eq!(message("info,"), "\"\" is not a level");
        assert_eq!(message("[span]=info"), "\"[span]\" is not a target");
    }

    #[test]
    fn names_are_short_and_plain() {
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
