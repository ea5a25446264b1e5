//! The report as a tree for a terminal.
//!
//! The first line has the reason. Each layer is a branch with its findings as rows; lines of a
//! stack may follow a row. Then come the mishaps of the whole run, the parts that were not observed
//! or not delivered, the outcome, and the verdict. A layer shows at most [`ROWS`] rows.

mod processes;
mod tasks;
mod threads;

use super::words::{count, millis, seconds};
use super::{CancelLayer, CloseLayer, DrainLayer, Outcome, Report, Timing, mishaps};
use crate::text::plain;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;
use std::time::Duration;
use tasks::{cancel_rows, drain_rows};
use threads::close_rows;

/// The most rows of a layer; of the rest only the number is shown.
const ROWS: usize = 20;

/// The outcome of a clean shutdown.
const GOOD: Style = AnsiColor::Green.on_default();
/// Things to know that are no failure: cancelled and dropped tasks, exceeded budgets, lost
/// telemetry.
const NOTE: Style = AnsiColor::Yellow.on_default();
/// Failures: tasks and threads that did not end in time, panics.
const BAD: Style = AnsiColor::Red.on_default();
/// The lines of the tree, stacks, and what is expected.
const FAINT: Style = Style::new().dimmed();
/// The first line and the names of the layers.
const HEAD: Style = Style::new().bold();

/// One finding: a mark, its text, and lines below it.
struct Row {
    style: Style,
    mark: char,
    text: String,
    below: Vec<String>,
}

/// The text so far.
struct Page {
    text: String,
    colours: bool,
}

/// Renders the report, with ANSI colours or without.
pub(super) fn render(report: &Report, colours: bool) -> String {
    let mut page = Page {
        text: String::new(),
        colours,
    };
    let head = format!("headcount {}: stopping ({})", report.service, report.reason);
    page.line(&[(HEAD, &head)]);
    page.layer(1, "drain", &report.drain.timing, &drained(&report.drain));
    page.rows(drain_rows(report));
    page.layer(
        2,
        "cancel",
        &report.cancel.timing,
        &cancelled(&report.cancel),
    );
    page.rows(cancel_rows(report));
    page.layer(3, "close", &report.close.timing, &closed(&report.close));
    page.rows(close_rows(&report.close));
    page.last(report);
    page.text
}

// === impl Page ===

impl Page {
    /// Appends a line, without spaces at its end. Names and commands may contain any character, so
    /// what a terminal would obey is replaced.
    fn line(&mut self, parts: &[(Style, &str)]) {
        for (style, text) in parts {
            let text = plain(text);
            if self.colours {
                write!(self.text, "{style}{text}{style:#}").expect("a String takes any text");
            } else {
                self.text.push_str(&text);
            }
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

    /// Appends the line of a layer. Its time is highlighted if the budget was exceeded by more than
    /// 50 ms.
    fn layer(&mut self, number: u32, name: &str, timing: &Timing, summary: &str) {
        let time = format!(
            "{} of {}{}",
            millis(timing.took),
            budget(timing.budget),
            if timing.cut { ", cut short" } else { "" }
        );
        let over = timing.took > timing.budget + Duration::from_millis(50);
        let time = format!("{time:<16}");
        self.line(&[
            (FAINT, "├─ "),
            (HEAD, &format!("{number} {name:<8} ")),
            (if over { NOTE } else { Style::new() }, &time),
            (Style::new(), " "),
            (Style::new(), summary),
        ]);
    }

    /// Appends the rows of a layer.
    fn rows(&mut self, mut rows: Vec<Row>) {
        let hidden = rows.len().saturating_sub(ROWS);
        rows.truncate(ROWS);
        if hidden > 0 {
            rows.push(Row {
                style: NOTE,
                mark: '…',
                text: format!("and {hidden} more"),
                below: Vec::new(),
            });
        }
        let last = rows.len().saturating_sub(1);
        for (at, row) in rows.iter().enumerate() {
            let (branch, beside) = if at == last {
                ("│  └─ ", "│     ")
            } else {
                ("│  ├─ ", "│  │  ")
            };
            let mark = format!("{} ", row.mark);
            self.line(&[
                (FAINT, branch),
                (row.style, &mark),
                (Style::new(), &row.text),
            ]);
            for line in &row.below {
                self.line(&[(FAINT, beside), (FAINT, "   "), (FAINT, line)]);
            }
        }
    }

    /// Appends the mishaps of the run, what was not observed, what was not delivered, the outcome,
    /// and the verdict.
    fn last(&mut self, report: &Report) {
        for sentence in mishaps::sentences(report) {
            self.line(&[(FAINT, "├─ "), (NOTE, "! "), (Style::new(), &sentence)]);
        }
        for sentence in &report.not_observed {
            self.line(&[(FAINT, "├─ "), (FAINT, sentence)]);
        }
        let (delivered, lost): (Vec<_>, Vec<_>) =
            report.flush.iter().partition(|flush| flush.is_delivered());
        for flush in lost {
            let text = format!("{} ({})", flush.text, millis(flush.took));
            self.line(&[(FAINT, "├─ "), (NOTE, "! "), (Style::new(), &text)]);
        }
        let style = match report.outcome {
            _ if report.required_failed || report.exit_code() == 4 => BAD,
            Outcome::Clean => GOOD,
            Outcome::Cancelled => NOTE,
            Outcome::Lingering | Outcome::Forced | Outcome::Unclean => BAD,
        };
        let outcome = format!("{:<34}", outcome(report));
        let mut total = format!(" total {}", millis(report.total));
        for flush in delivered {
            let (text, took) = (&flush.text, millis(flush.took));
            write!(total, ", {text} in {took}").expect("a String takes any text");
        }
        self.line(&[(FAINT, "└─ "), (style, &outcome), (Style::new(), &total)]);
        if let Some(verdict) = &report.verdict {
            self.line(&[(Style::new(), "   "), (Style::new(), verdict)]);
        }
    }
}

/// Returns the outcome in words, with the number of tasks, threads and child processes that linger.
fn outcome(report: &Report) -> String {
    let mut parts = Vec::new();
    let tasks = report.lingering_tasks();
    for (count, one, many) in [
        (tasks, "task", "tasks"),
        (report.close.threads.len() as u64, "thread", "threads"),
        (children_left(report), "child process", "child processes"),
    ] {
        match count {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        }
    }
    match parts.as_slice() {
        [] if report.required_failed => {
            format!("service failed, outcome {}", report.outcome.as_str())
        }
        [] if report.exit_code() == 4 => {
            format!("{}, which is a failure (strict)", report.outcome.as_str())
        }
        [] => report.outcome.as_str().to_owned(),
        parts => format!("{}: {}", report.outcome.as_str(), parts.join(", ")),
    }
}

/// Returns the number of child processes that are left: those that were found, or those whose end was
/// not seen.
fn children_left(report: &Report) -> u64 {
    let unseen = report.processes.iter().filter(|child| child.end.is_none());
    unseen.count().max(report.close.children.len()) as u64
}

/// Summarizes the drain.
fn drained(layer: &DrainLayer) -> String {
    match layer.tasks {
        0 => "no tasks".to_owned(),
        1 if layer.ended == 1 => "the only task ended".to_owned(),
        tasks if layer.ended == tasks => format!("all {tasks} tasks ended"),
        tasks => format!("{} of {} ended", layer.ended, count(tasks, "task")),
    }
}

/// Summarizes the cancel layer.
fn cancelled(layer: &CancelLayer) -> String {
    let observed = layer.untracked.is_some();
    let untracked = observed.then(|| format!("{} untracked dropped", layer.dropped()));
    match (layer.cancelled, untracked.as_deref()) {
        (0, None | Some("0 untracked dropped")) => "nothing to cancel".to_owned(),
        (tracked, None) => format!("{tracked} tracked cancelled"),
        (tracked, Some(untracked)) => format!("{tracked} tracked cancelled, {untracked}"),
    }
}

/// Summarizes the close layer.
fn closed(layer: &CloseLayer) -> String {
    let mut others = format!("{} ended", layer.ended);
    if !layer.threads.is_empty() {
        write!(others, ", {} expected", layer.expected).expect("a String takes any text");
    }
    if !layer.undecided.is_empty() {
        write!(others, ", {} undecided", layer.undecided.len()).expect("a String takes any text");
    }
    match layer.threads.len() {
        0 => format!("no thread lingers ({others})"),
        1 => format!("1 thread lingers ({others})"),
        n => format!("{n} threads linger ({others})"),
    }
}

/// Formats a budget as it was configured, without padding: `500ms`, `5s`, `9.5s`.
fn budget(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms}ms"),
        _ => format!("{}s", time.as_secs_f64()),
    }
}
