//! The keys of a `process` task.
//!
//! Bounds that depend on other keys are checked here too. References to other tasks are only
//! collected as [`Link`]s; `graph` checks them once all tasks are read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::service::process::{
    Backoff, Condition, LogFileSettings, ProcessSettings, Ready, Restart, StopSignal, StopSignalTo,
    WhenDown,
};

use super::graph::{Link, Wants};
use super::problem::quoted;
use super::table::Table;
use super::value::{DAY, Value, shown};

/// The example in messages about `command`.
const COMMAND: &str = "command = [\"program\", \"argument\"]";
/// The values of `depends_on`.
const CONDITIONS: [(&str, Condition); 3] = [
    ("started", Condition::Started),
    ("ready", Condition::Ready),
    ("exited", Condition::Exited),
];
/// The values of `stop_signal`, without the prefix "SIG".
const SIGNALS: [(&str, StopSignal); 7] = [
    ("TERM", StopSignal::Term),
    ("INT", StopSignal::Int),
    ("QUIT", StopSignal::Quit),
    ("HUP", StopSignal::Hup),
    ("USR1", StopSignal::Usr1),
    ("USR2", StopSignal::Usr2),
    ("KILL", StopSignal::Kill),
];
/// The values of `stop_signal_to`.
const RECIPIENTS: [(&str, StopSignalTo); 2] = [
    ("tree", StopSignalTo::Tree),
    ("command", StopSignalTo::Command),
];
/// The values of `when_down`.
const WHEN_DOWN: [(&str, WhenDown); 3] = [
    ("ignore", WhenDown::Ignore),
    ("unready", WhenDown::Unready),
    ("restart", WhenDown::Restart),
];
/// The values of `restart`.
const RESTARTS: [(&str, Restart); 3] = [
    ("no", Restart::No),
    ("on-failure", Restart::OnFailure),
    ("always", Restart::Always),
];
/// The maximum of `max_restarts`; beyond it, "unlimited" is meant.
const MOST_RESTARTS: u32 = 1_000_000;

/// Reads the table, and adds the references to other tasks to `links`.
///
/// `drain` is the budget of the layer in which processes are stopped, and bounds `stop_budget`. It is
/// `None` if that budget could not be read; `stop_budget` is then not compared with it.
pub(super) fn read(
    task: &str,
    table: &mut Table<'_>,
    drain: Option<Duration>,
    links: &mut Vec<Link>,
) -> ProcessSettings {
    let default = ProcessSettings::default();
    let command = command(table);
    let env = table
        .or("env", default.env, |env| environment(env).map(Into::into))
        .value;
    let working_folder = table.or("working_folder", default.working_folder, |value| {
        let folder = value.filled("working_folder = \"/srv/app\"")?;
        Some(Some(PathBuf::from(folder)))
    });
    let depends_on = table
        .or("depends_on", default.depends_on, |value| {
            depends_on(task, value, links)
        })
        .value;
    let when_down = table.or("when_down", default.when_down, |value| {
        links.push(Link {
            from: task.to_owned(),
            to: task.to_owned(),
            wants: Wants::AnyEndpoint,
            key: value.path.clone(),
            at: value.at.clone(),
        });
        value.choice(&WHEN_DOWN)
    });
    let ready = table.or("ready", default.ready, |value| ready(task, value, links));
    let liveness = table.or("liveness", default.liveness, |value| {
        liveness(task, value, links).map(Some)
    });
    let ready_timeout = table.or("ready_timeout", default.ready_timeout, |value| {
        value.duration(Duration::from_millis(10)..=DAY)
    });
    let restart = table.or("restart", default.restart, |value| value.choice(&RESTARTS));
    let backoff = backoff(table.section("backoff"), default.backoff);
    let max_restarts = table.or("max_restarts", default.max_restarts, max_restarts);
    let required = table.or("required", default.required, Value::flag).value;
    let stop_signal = table.or("stop_signal", default.stop_signal, |value| {
        value.choice(&SIGNALS)
    });
    let stop_signal_to = table.or("stop_signal_to", default.stop_signal_to, |value| {
        value.choice(&RECIPIENTS)
    });
    let stop_budget = stop_budget(table, default.stop_budget, drain);
    let log_file = log_file(table);
    ProcessSettings {
        command,
        env,
        working_folder: working_folder.value,
        depends_on,
        when_down: when_down.value,
        ready: ready.value,
        liveness: liveness.value,
        ready_timeout: ready_timeout.value,
        restart: restart.value,
        backoff,
        max_restarts: max_restarts.value,
        required,
        stop_signal: stop_signal.value,
        stop_signal_to: stop_signal_to.value,
        stop_budget,
        log_file,
    }
}

/// Reads `log_file`, `log_file_size` and `log_files_kept`. The latter two need the first.
fn log_file(table: &mut Table<'_>) -> Option<LogFileSettings> {
    let path = table.or("log_file", None, |value| {
        let path = value.filled("log_file = \"logs/web.log\"")?;
        Some(Some(PathBuf::from(path)))
    });
    let size = table.or("log_file_size", LogFileSettings::SIZE, |value| {
        value.size(1024..=1 << 40)
    });
    let kept = table.or("log_files_kept", LogFileSettings::KEPT, |value| {
        value.whole(0..=1000)
    });
    for (key, is_written) in [
        ("log_file_size", size.written),
        ("log_files_kept", kept.written),
    ] {
        if is_written && !path.written {
            let help = "write log_file = \"logs/web.log\"";
            table.refuse(key, "has no effect without `log_file`", help);
        }
    }
    Some(LogFileSettings {
        path: path.value?,
        size: size.value,
        kept: kept.value,
    })
}

/// Reads `command`. A string is refused, with the array that it may stand for.
fn command(table: &mut Table<'_>) -> Vec<String> {
    let value = table.require("command", COMMAND);
    value.map_or_else(Vec::new, |value| words(&value, COMMAND))
}

/// Reads a program and its arguments.
pub(super) fn words(value: &Value<'_>, example: &str) -> Vec<String> {
    if let Some(line) = value.as_text() {
        let words: Vec<String> = line.split_whitespace().map(quoted).collect();
        let what = "expected an array, found a string; commands are not split by a shell";
        value.complain(what, format!("write [{}]", words.join(", ")));
        return Vec::new();
    }
    let Some(list) = value.list(example) else {
        return Vec::new();
    };
    match list.first() {
        None => {
            value.complain("is empty", format!("write {example}"));
        }
        Some(program) => {
            program.filled("\"program\"");
        }
    }
    let arguments = list
        .iter()
        .skip(1)
        .filter_map(|value| value.text("\"argument\""));
    let program = list.first().and_then(Value::as_text);
    program
        .into_iter()
        .chain(arguments)
        .map(str::to_owned)
        .collect()
}

/// Reads `env`. Names follow the rules of the operating system: not empty, no `=` and no NUL.
fn environment(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    value.texts("env = { PORT = \"8080\" }", |name, _| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err((
                format!("{} is not a valid environment variable name", quoted(name)),
                "allowed: at least one character, no `=` and no NUL",
            ));
        }
        Ok(())
    })
}

/// Reads `depends_on`: a table of conditions, or an array of names that stands for `"ready"` each.
pub(super) fn depends_on(
    task: &str,
    value: &Value<'_>,
    links: &mut Vec<Link>,
) -> Option<BTreeMap<String, Condition>> {
    let example = "depends_on = { db = \"ready\" } or depends_on = [\"db\"]";
    let mut wanted = BTreeMap::new();
    let mut want = |name: &str, condition, value: &Value<'_>, at| {
        links.push(Link {
            from: task.to_owned(),
            to: name.to_owned(),
            wants: Wants::Condition(condition),
            key: value.path.clone(),
            at,
        });
        wanted.insert(name.to_owned(), condition)
    };
    if value.is_table() {
        for (name, at, value) in value.table()?.names() {
            if let Some(condition) = value.choice(&CONDITIONS) {
                let at = at.start..value.at.end;
                want(name, condition, &value, at);
            }
        }
        return Some(wanted);
    }
    for value in value.list(example)? {
        let Some(name) = value.filled("\"db\"") else {
            continue;
        };
        if want(name, Condition::Ready, &value, value.at.clone()).is_some() {
            let what = format!("{} is listed twice", quoted(name));
            value.complain(what, "list each task once");
        }
    }
    Some(wanted)
}

/// Reads `ready`: exactly one of its three keys must be set.
fn ready(task: &str, value: &Value<'_>, links: &mut Vec<Link>) -> Option<Ready> {
    let mut table = value.table_like("ready = { log = \"listening on\" }")?;
    let log = table.get("log");
    let endpoint = table.get("endpoint");
    let exit = table.get("exit");
    table.finish();
    match (log, endpoint, exit) {
        (Some(log), None, None) => {
            Some(Ready::Log(log.filled("log = \"listening on\"")?.to_owned()))
        }
        (None, Some(endpoint), None) => {
            Some(Ready::Endpoint(endpoint_task(task, &endpoint, links)?))
        }
        (None, None, Some(exit)) => Some(Ready::Exit(exit.whole(0..=255)?)),
        _ => value.refuse(
            "needs exactly one of `log`, `endpoint` and `exit`",
            "for example { log = \"listening on\" }, { endpoint = \"db\" } or { exit = 0 }; \
             without `ready`, a process is ready as soon as it has started",
        ),
    }
}

/// Reads `liveness`, which has one key, `endpoint`.
fn liveness(task: &str, value: &Value<'_>, links: &mut Vec<Link>) -> Option<String> {
    let example = "liveness = { endpoint = \"api\" }";
    let mut table = value.table_like(example)?;
    let endpoint = table.require("endpoint", example);
    let endpoint = endpoint.and_then(|endpoint| endpoint_task(task, &endpoint, links));
    table.finish();
    endpoint
}

/// Reads the name of an endpoint task, and adds the reference to it to `links`.
fn endpoint_task(task: &str, endpoint: &Value<'_>, links: &mut Vec<Link>) -> Option<String> {
    let name = endpoint.filled("endpoint = \"db\"")?;
    links.push(Link {
        from: task.to_owned(),
        to: name.to_owned(),
        wants: Wants::Endpoint,
        key: endpoint.path.clone(),
        at: endpoint.at.clone(),
    });
    Some(name.to_owned())
}

/// Reads `backoff`. The default of `max` is raised to `initial` if that is longer.
fn backoff(mut table: Table<'_>, default: Backoff) -> Backoff {
    let mut duration = |key, default| {
        table.or(key, default, |value| {
            value.duration(Duration::from_millis(1)..=DAY)
        })
    };
    let initial = duration("initial", default.initial);
    let max = duration("max", default.max.max(initial.value));
    let reset_after = duration("reset_after", default.reset_after);
    let factor = table.or("factor", default.factor, |value| value.number(1.0..=100.0));
    if initial.sound && max.sound && initial.value > max.value {
        table.refuse(
            "max",
            format!("{} is shorter than `initial`", shown(max.value)),
            format!("allowed: at least {}", shown(initial.value)),
        );
    }
    table.finish();
    Backoff {
        initial: initial.value,
        max: max.value,
        factor: factor.value,
        reset_after: reset_after.value,
    }
}

/// Reads `max_restarts`; the inner `None` stands for "unlimited".
fn max_restarts(value: &Value<'_>) -> Option<Option<u32>> {
    let or = ", or \"unlimited\"; to disable restarts, set restart = \"no\"";
    match value.as_text() {
        Some("unlimited") => Some(None),
        Some(other) => value.refuse(
            format!("unknown value {}", quoted(other)),
            format!("allowed: 1 to {MOST_RESTARTS}{or}"),
        ),
        None => value.whole_or(1..=MOST_RESTARTS, or).map(Some),
    }
}

/// Reads `stop_budget`, at most `drain`. The default is shortened to `drain` if necessary.
fn stop_budget(table: &mut Table<'_>, default: Duration, drain: Option<Duration>) -> Duration {
    let default = drain.map_or(default, |drain| drain.min(default));
    let budget = table.or("stop_budget", default, |value| {
        value.duration(Duration::ZERO..=DAY)
    });
    if let Some(drain) = drain.filter(|drain| budget.sound && budget.value > *drain) {
        table.refuse(
            "stop_budget",
            format!(
                "{} is longer than the drain layer, which takes at most {}",
                shown(budget.value),
                shown(drain)
            ),
            format!(
                "allowed: 0s to {}; for more, increase shutdown.drain",
                shown(drain)
            ),
        );
    }
    budget.value
}
