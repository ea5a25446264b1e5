//! The keys of a `process` task.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::service::process::{Backoff, Condition, ProcessSettings, Ready, Restart, StopSignal};

use super::graph::{Link, Wants};
use super::problem::quoted;
use super::reader::Table;
use super::value::{DAY, Value, shown};

const COMMAND: &str = "command = [\"program\", \"argument\"]";
const CONDITIONS: [(&str, Condition); 3] = [
    ("started", Condition::Started),
    ("ready", Condition::Ready),
    ("exited", Condition::Exited),
];
const SIGNALS: [(&str, StopSignal); 7] = [
    ("TERM", StopSignal::Term),
    ("INT", StopSignal::Int),
    ("QUIT", StopSignal::Quit),
    ("HUP", StopSignal::Hup),
    ("USR1", StopSignal::Usr1),
    ("USR2", StopSignal::Usr2),
    ("KILL", StopSignal::Kill),
];
const RESTARTS: [(&str, Restart); 3] = [
    ("no", Restart::No),
    ("on-failure", Restart::OnFailure),
    ("always", Restart::Always),
];
const MOST_RESTARTS: u32 = 1_000_000;
const STOP_BUDGET: Duration = Duration::from_secs(3);

/// Reads the table; what the process wants of other tasks is added to `links`.
///
/// `drain` is the budget of the layer in which processes are stopped; `None` if it is not known.
pub(super) fn read(
    task: &str,
    table: &mut Table<'_>,
    drain: Option<Duration>,
    links: &mut Vec<Link>,
) -> ProcessSettings {
    let command = command(table);
    let env = table.or("env", BTreeMap::new(), environment).value;
    let working_folder = table.or("working_folder", None, |value| {
        let folder = value.filled("working_folder = \"/srv/app\"")?;
        Some(Some(PathBuf::from(folder)))
    });
    let depends_on = table
        .or("depends_on", BTreeMap::new(), |value| {
            depends_on(task, value, links)
        })
        .value;
    let ready = table.or("ready", Ready::Started, |value| ready(task, value, links));
    let ready_timeout = table.or("ready_timeout", Duration::from_secs(60), |value| {
        value.duration(Duration::from_millis(10)..=DAY)
    });
    let restart = table.or("restart", Restart::OnFailure, |value| {
        value.choice(&RESTARTS)
    });
    let backoff = backoff(table.section("backoff"));
    let max_restarts = table.or("max_restarts", Some(5), max_restarts).value;
    let required = table.or("required", false, Value::flag).value;
    let stop_signal = table.or("stop_signal", StopSignal::Term, |value| {
        value.choice(&SIGNALS)
    });
    let stop_budget = stop_budget(table, drain);
    ProcessSettings {
        command,
        env,
        working_folder: working_folder.value,
        depends_on,
        ready: ready.value,
        ready_timeout: ready_timeout.value,
        restart: restart.value,
        backoff,
        max_restarts,
        required,
        stop_signal: stop_signal.value,
        stop_budget,
    }
}

fn command(table: &mut Table<'_>) -> Vec<String> {
    let Some(value) = table.require("command", COMMAND) else {
        return Vec::new();
    };
    if let Some(line) = value.as_text() {
        let words: Vec<String> = line.split_whitespace().map(quoted).collect();
        let what = "expected an array, found a string: no shell splits it into words";
        value.complain(what, format!("write [{}]", words.join(", ")));
        return Vec::new();
    }
    let Some(list) = value.list(COMMAND) else {
        return Vec::new();
    };
    match list.first() {
        None => {
            value.complain("is empty", format!("write {COMMAND}"));
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

fn environment(value: &Value<'_>) -> Option<BTreeMap<String, String>> {
    value.texts("env = { PORT = \"8080\" }", |name, _| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err((
                format!("{} cannot name an environment variable", quoted(name)),
                "allowed: at least one character, without `=` and NUL",
            ));
        }
        Ok(())
    })
}

fn depends_on(
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
            let name = endpoint.filled("endpoint = \"db\"")?;
            links.push(Link {
                from: task.to_owned(),
                to: name.to_owned(),
                wants: Wants::Endpoint,
                key: endpoint.path.clone(),
                at: endpoint.at.clone(),
            });
            Some(Ready::Endpoint(name.to_owned()))
        }
        (None, None, Some(exit)) => Some(Ready::Exit(exit.whole(0..=255)?)),
        _ => value.refuse(
            "needs exactly one of `log`, `endpoint` and `exit`",
            "for example { log = \"listening on\" }, { endpoint = \"db\" } or { exit = 0 }; \
             without `ready`, a process is ready when it has started",
        ),
    }
}

fn backoff(mut table: Table<'_>) -> Backoff {
    let allowed = || Duration::from_millis(1)..=DAY;
    let initial = table.or("initial", Duration::from_secs(1), |value| {
        value.duration(allowed())
    });
    let max = table.or("max", Duration::from_secs(30).max(initial.value), |value| {
        value.duration(allowed())
    });
    let factor = table.or("factor", 2.0, |value| value.number(1.0..=100.0));
    let reset_after = table.or("reset_after", Duration::from_secs(60), |value| {
        value.duration(allowed())
    });
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

fn max_restarts(value: &Value<'_>) -> Option<Option<u32>> {
    let or = ", \"unlimited\"; for none, write restart = \"no\"";
    match value.as_text() {
        Some("unlimited") => Some(None),
        Some(other) => value.refuse(
            format!("{} is not known", quoted(other)),
            format!("allowed: 1 to {MOST_RESTARTS}{or}"),
        ),
        None => value.whole_or(1..=MOST_RESTARTS, or).map(Some),
    }
}

fn stop_budget(table: &mut Table<'_>, drain: Option<Duration>) -> Duration {
    let default = drain.map_or(STOP_BUDGET, |drain| drain.min(STOP_BUDGET));
    let budget = table.or("stop_budget", default, |value| {
        value.duration(Duration::ZERO..=DAY)
    });
    if let Some(drain) = drain.filter(|drain| budget.sound && budget.value > *drain) {
        table.refuse(
            "stop_budget",
            format!(
                "{} is longer than the drain layer, which ends after {}",
                shown(budget.value),
                shown(drain)
            ),
            format!(
                "allowed: 0s to {}; or lengthen shutdown.drain",
                shown(drain)
            ),
        );
    }
    budget.value
}
