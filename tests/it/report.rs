//! Tests of reports for users and machines, word for word.

use crate::scenario::{Gate, SHORT, alone, hasty};
use headcount::{Report, ThreadKind};
use std::future::pending;
use std::process::Command;
use std::time::Duration;

/// Runs a service that leaves one of each kind behind.
fn eventful() -> Report {
    let gate = Gate::default();
    let mut child = None;
    let report = hasty()
        .name("orders")
        .drain_budget(SHORT * 3)
        .close_budget(Duration::from_secs(1))
        .build()
        .unwrap()
        .run(async |tasks| {
            let http = tasks.group("http").drain_budget(SHORT);
            let (held, stuck) = (gate.clone(), gate.clone());
            let told = Gate::default();
            let inside = told.clone();
            drop(tasks.spawn_blocking("reindex", move || {
                inside.open();
                held.wait();
            }));
            told.wait();
            for _ in 0..3 {
                drop(http.spawn("accept", pending::<()>()));
            }
            let member = http.clone();
            drop(http.spawn("member", async move { member.draining().await }));
            drop(tasks.spawn_thread("watcher", ThreadKind::Tracked, move || stuck.wait()));
            for _ in 0..3 {
                #[expect(clippy::disallowed_methods, reason = "an untracked task is needed")]
                drop(tokio::spawn(pending::<()>()));
            }
            child = Some(Command::new("sleep").arg("1020").spawn().unwrap());
            tasks.stop("enough");
            tasks.draining().await;
        });
    gate.open();
    let mut child = child.expect("main ran");
    child.kill().unwrap();
    child.wait().unwrap();
    report
}

/// Runs a service that leaves nothing behind.
fn quiet() -> Report {
    crate::scenario::quiet()
        .name("orders")
        .drain_budget(Duration::from_millis(9500))
        .build()
        .unwrap()
        .run(async |tasks| {
            for _ in 0..3 {
                let member = tasks.clone();
                drop(tasks.spawn("member", async move { member.draining().await }));
            }
        })
}

/// Removes what a task awaits, which is present only with the feature `stacks`, or the type of its
/// future, which is present otherwise. Other tests check them.
pub(crate) fn without_awaits(line: &str) -> String {
    let starts = [", awaiting ", ", waiting for ", ", future ", ", closure "];
    let Some((row, rest)) = starts.iter().find_map(|start| line.split_once(start)) else {
        return line.to_owned();
    };
    // Colours end with the row.
    row.to_owned() + rest.find('␛').map_or("", |end| &rest[end..])
}

/// Replaces times, process and thread ids, source locations and thread counts, which differ between
/// runs.
pub(crate) fn normal(text: &str) -> String {
    let mut normal = String::new();
    for line in text
        .lines()
        .filter(|line| !is_of_stack(line) && !is_verdict(line))
    {
        let line = line.replace('\u{1b}', "␛");
        let line = without_lock(&line);
        let line = line.replace(")  running, age", ")  sleeping, age");
        let line = without_awaits(&line);
        let line = without_addresses(&line);
        let line = without_type(&line);
        let mut rest = line.as_str();
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            let (before, from) = rest.split_at(at);
            let end = from.find(|c: char| !c.is_ascii_digit() && c != '.');
            let (number, after) = from.split_at(end.unwrap_or(from.len()));
            normal += before;
            let time = ["ms", "µs", "s"].iter().any(|unit| {
                let after = after.strip_prefix(unit);
                after.is_some_and(|after| !after.starts_with(char::is_alphanumeric))
            });
            let budget = before.ends_with(" of ");
            let varies = ["(tid ", "(tids ", ".rs:", "process "]
                .iter()
                .any(|word| before.ends_with(word))
                || normal.ends_with(".rs:N:")
                || normal
                    .rfind("(tids ")
                    .is_some_and(|at| !normal[at..].contains(')'))
                || after.starts_with(" ended,")
                || after.starts_with(" ended)")
                || after.starts_with(" expected)")
                || (time && !budget);
            normal += if varies { "N" } else { number };
            rest = after;
        }
        normal += rest;
        normal.push('\n');
    }
    while normal.contains("   ") {
        normal = normal.replace("   ", "  ");
    }
    normal.replace("Nms", "Ns").replace("Nµs", "Ns")
}

/// Replaces the type of untracked tasks, which needs the feature `stacks` and time.
fn without_type(line: &str) -> String {
    for mark in ["untracked ×3  ", "─ ×3  "] {
        if let Some((before, of)) = line.split_once(mark) {
            let (kind, place) = match of.find("spawned ") {
                Some(at) => of.split_at(at),
                None => of.split_at(of.find(", ").unwrap_or(of.len())),
            };
            let kind = if kind.is_empty() || of.contains("spawned ") {
                ""
            } else {
                "TYPE"
            };
            return format!("{before}{mark}{kind}{place}");
        }
    }
    line.to_owned()
}

/// Returns whether the line is the verdict, which depends on stacks.
pub(crate) fn is_verdict(line: &str) -> bool {
    let content = line.trim_start_matches(' ');
    line.len() - content.len() == 3 && !content.starts_with(['│', '├', '└'])
}

/// Returns whether the line belongs to a stack, which needs the feature `stacks` and differs with
/// optimization.
pub(crate) fn is_of_stack(line: &str) -> bool {
    let mut plain = String::new();
    for (at, part) in line.split('\u{1b}').enumerate() {
        let code = part.find('m').filter(|_| at > 0).map_or(0, |end| end + 1);
        plain += &part[code..];
    }
    let content = plain.trim_start_matches(|c| "│├└─ ".contains(c));
    let depth = plain.chars().count() - content.chars().count();
    let others = [
        "at ",
        "(this stack is ",
        "(no stack: ",
        "same stack as tid ",
    ];
    let is_cut = content.starts_with("… ") && content.contains(" more, ");
    let is_frame = content
        .split_once(' ')
        .is_some_and(|(number, frame)| !frame.starts_with(' ') && number.parse::<usize>().is_ok());
    depth > 3 && (is_frame || is_cut || others.iter().any(|other| content.starts_with(other)))
}

/// Replaces details of a futex that only the stack shows with the kernel's description.
pub(crate) fn without_lock(line: &str) -> String {
    let line = line.replace(")  parked", ")  waiting on futex 0x0");
    line.replace(")  waiting for a condition", ")  waiting on futex 0x0")
}

/// Replaces `0x7f12ab` with `A`.
fn without_addresses(line: &str) -> String {
    let mut parts = line.split("0x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('A');
        text += part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    text
}

/// Asserts a snapshot; there is one for each of the modes exact and estimated.
pub(crate) fn assert_snapshot(name: &str, text: &str) {
    let built = if cfg!(tokio_unstable) {
        "exact"
    } else {
        "estimated"
    };
    insta::assert_snapshot!(format!("{name}_{built}"), text);
}

#[test]
fn the_report_shows_everything_left_as_a_tree() {
    alone(|| {
        let report = eventful();
        assert_snapshot("report_plain", &normal(&report.to_text(false)));
        assert_snapshot("report_colours", &normal(&report.to_text(true)));
        assert_eq!(report.to_string(), report.to_text(false));
    });
}

#[test]
fn the_report_of_a_clean_shutdown_is_short() {
    alone(|| assert_snapshot("report_clean", &normal(&quiet().to_text(false))));
}

/// Replaces values in JSON that differ between runs.
pub(crate) fn settle(value: &mut serde_json::Value) {
    use serde_json::{Value, json};
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let varies = key.ends_with("_seconds") && key != "budget_seconds";
                match key.as_str() {
                    "stack" if value.is_array() => *value = json!(["F"]),
                    "stack_note" | "no_stack" => *value = json!("?"),
                    "waits" => {
                        let waits = format!(")  {}", value.as_str().unwrap_or_default());
                        *value = json!(
                            normal(&without_lock(&waits))
                                .trim_start_matches(")  ")
                                .trim_end()
                        );
                    }
                    "id" | "tid" | "pid" | "on_thread" | "ended" | "expected"
                        if value.is_number() =>
                    {
                        *value = json!("N");
                    }
                    // A task may have been told before or after its first poll.
                    "not_polled" if value.is_number() => *value = json!("N"),
                    "state" => *value = json!("S"),
                    // The type of an untracked task needs the feature `stacks`, and time.
                    "future" => *value = json!("?"),
                    "age_seconds" if value.is_null() => *value = json!("T"),
                    // Present only with the feature `stacks`.
                    "awaits" | "verdict" => *value = Value::Null,
                    "ids" => *value = json!(vec!["N"; value.as_array().map_or(0, Vec::len)]),
                    _ if varies && value.is_number() => *value = json!("T"),
                    _ => settle(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(settle),
        Value::String(text) => *text = normal(text).trim_end().to_owned(),
        _ => {}
    }
}

#[test]
fn the_report_is_one_line_of_json() {
    use serde_json::Value;

    alone(|| {
        let line = eventful().to_json();
        assert!(!line.contains('\n'));
        let mut value: Value = serde_json::from_str(&line).unwrap();
        settle(&mut value);
        let text = serde_json::to_string_pretty(&value).unwrap();
        assert_snapshot("report_json", &text);
    });
}

#[test]
fn the_report_and_the_log_record_of_the_shutdown_have_the_verdict() {
    alone(|| {
        let heard = crate::heard::Heard::of("headcount::shutdown");
        let report = crate::scenario::impatient()
            .build()
            .unwrap()
            .run(async |tasks| {
                drop(tasks.spawn("deaf", pending::<()>()));
            });
        let verdict = report.verdict.as_deref().expect("there is a culprit");
        assert!(
            verdict.starts_with("deaf (tests/it/report.rs:"),
            "{verdict}"
        );
        assert!(verdict.ends_with(", held the stop for 0.1s"), "{verdict}");
        let (said, _) = heard.next();
        assert!(said.contains("shutdown completed"), "{said}");
        assert!(
            said.contains("verdict=\"deaf (tests/it/report.rs:N)"),
            "{said}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["verdict"], verdict);
    });
}
