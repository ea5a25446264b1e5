//! `GET /api/logs`: the last lines that child processes have printed.
//!
//! Lines have numbers in one sequence over all children. A reader asks for the lines after the last
//! number that it has seen, and may wait for the next one for at most [`PATIENCE`](super::PATIENCE).
//! Lines may contain secrets, so only the control socket serves them.

use super::{Controls, PATIENCE, UnknownProcess};
use crate::admin::answers::{error, json};
use crate::registry::root::{OutputLine, Process};
use crate::telemetry::unix;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use std::sync::Arc;
use tokio::time::timeout;

/// The most lines of an answer, and their number without the parameter `lines`.
const MOST: usize = 1000;
const USUAL: usize = 100;

/// The parameters of a request.
#[derive(Debug, Default)]
struct Asked {
    /// The name of a process; all processes if empty.
    process: Option<String>,
    /// Only lines with greater numbers.
    after: Option<u64>,
    lines: Option<usize>,
    wait: bool,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    lines: Vec<Line>,
    /// The value of `after` for the next request.
    next: u64,
    /// True if lines after `after` were dropped before this answer.
    missed: bool,
}

/// A line of the answer.
#[derive(Debug, Serialize)]
struct Line {
    number: u64,
    /// In seconds since 1970.
    at: f64,
    process: String,
    stream: &'static str,
    text: String,
}

impl Controls {
    /// Answers `/api/logs`.
    pub(super) async fn logs(&self, query: super::Query) -> Response {
        let asked = query.ok().and_then(|query| Asked::of(&query.0));
        let Some(asked) = asked else {
            let allowed = "the parameters are 'process' (a name), 'lines' (1 to 1000), 'after' (a number) and 'wait' \
                           (true or false)";
            return error(StatusCode::BAD_REQUEST, allowed);
        };
        let processes = &self.tasks.registry_root().processes;
        let of = match &asked.process {
            None => processes.all(),
            Some(name) => processes.named(name),
        };
        if let Some(name) = asked.process.as_ref().filter(|_| of.is_empty()) {
            return UnknownProcess::of(name, false, &self.tasks);
        }
        let mut answer = asked.read(&of, processes.numbers.last());
        if asked.wait && answer.lines.is_empty() {
            let lines = async {
                loop {
                    processes.numbers.beyond(answer.next).await;
                    answer = asked.read(&of, processes.numbers.last());
                    if !answer.lines.is_empty() {
                        break;
                    }
                }
            };
            // Without a line, the answer has none.
            timeout(PATIENCE, lines).await.ok();
        }
        json(&answer)
    }
}

// === impl Asked ===

impl Asked {
    /// Parses the parameters. Returns `None` if one is unknown, given twice or not allowed.
    fn of(query: &[(String, String)]) -> Option<Self> {
        let mut asked = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (key, value) in query {
            if seen.contains(&&**key) {
                return None;
            }
            seen.push(key);
            match &**key {
                "process" => asked.process = Some(value.clone()).filter(|name| !name.is_empty()),
                "after" => asked.after = Some(value.parse().ok()?),
                "lines" => {
                    let lines = value.parse().ok()?;
                    asked.lines = Some(lines).filter(|lines| (1..=MOST).contains(lines));
                    asked.lines?;
                }
                "wait" => asked.wait = value.parse().ok()?,
                _ => return None,
            }
        }
        Some(asked)
    }

    /// Reads the lines up to the number `last`. With `after`, the first ones that fit into an answer,
    /// else the last ones.
    fn read(&self, processes: &[Arc<Process>], last: u64) -> Answer {
        let after = self.after.unwrap_or(0);
        let most = match self.after {
            None => self.lines.unwrap_or(USUAL),
            Some(_) => usize::MAX,
        };
        let mut lines: Vec<Line> = Vec::new();
        for process in processes {
            let read = process.output.read(after, last, most);
            lines.extend(read.into_iter().map(|line| Line::of(&process.path, line)));
        }
        lines.sort_by_key(|line| line.number);
        let mut next = last;
        match self.after {
            None => drop(lines.drain(..lines.len().saturating_sub(most))),
            Some(_) => {
                lines.truncate(self.lines.unwrap_or(MOST));
                next = lines.last().map_or(last, |line| line.number).max(after);
            }
        }
        let mut all = processes.iter();
        let missed = all.any(|process| process.output.has_dropped(after));
        Answer {
            lines,
            next,
            missed: missed && self.after.is_some(),
        }
    }
}

// === impl Line ===

impl Line {
    fn of(process: &str, line: OutputLine) -> Self {
        Self {
            number: line.number,
            at: unix(line.at),
            process: process.to_owned(),
            stream: line.stream,
            text: line.text,
        }
    }
}
