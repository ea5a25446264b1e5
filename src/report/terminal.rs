//! The report as a tree for people.

use super::{
    CancelLayer, ChildFinding, CloseLayer, DrainLayer, ExcusedThreads, Frame, Outcome,
    PanicFinding, Report, TaskFinding, ThreadFinding, Timing, UntrackedFinding, mark, on_thread,
    path, stack, times,
};
use crate::task::TaskKind;
use anstyle::{AnsiColor, Style};
use std::fmt::Write;
use std::time::Duration;

/// How many rows a layer shows; the rest is a number.
const ROWS: usize = 20;

/// How many chains of awaits a task shows.
const CHAINS: usize = 3;

const GOOD: Style = AnsiColor::Green.on_default();
const NOTE: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const FAINT: Style = Style::new().dimmed();
const HEAD: Style = Style::new().bold();

/// One finding: a mark, its text, and lines below it.
struct Row {
    style: Style,
    mark: char,
    text: String,
    below: Vec<String>,
}

struct Page {
    text: String,
    colours: bool,
}

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
    fn line(&mut self, parts: &[(Style, &str)]) {
        for (style, text) in parts {
            if self.colours {
                write!(self.text, "{style}{text}{style:#}").expect("a String takes any text");
            } else {
                self.text.push_str(text);
            }
        }
        self.text.truncate(self.text.trim_end_matches(' ').len());
        self.text.push('\n');
    }

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

    fn rows(&mut self, mut rows: Vec<Row>) {
        let hidden = rows.len().saturating_sub(ROWS);
        rows.truncate(ROWS);
        if hidden > 0 {
            rows.push(Row {
                style: NOTE,
                mark: '…',
                text: format!("and {hidden} more kinds"),
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

    fn last(&mut self, report: &Report) {
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
            _ if report.required_failed => BAD,
            Outcome::Clean => GOOD,
            Outcome::Cancelled => NOTE,
            Outcome::Lingering | Outcome::Forced => BAD,
        };
        let verdict = format!("{:<34}", verdict(report));
        let mut total = format!(" total {}", millis(report.total));
        for flush in delivered {
            let (text, took) = (&flush.text, millis(flush.took));
            write!(total, ", {text} in {took}").expect("a String takes any text");
        }
        self.line(&[(FAINT, "└─ "), (style, &verdict), (Style::new(), &total)]);
    }
}

fn verdict(report: &Report) -> String {
    let mut parts = Vec::new();
    let tasks = report.lingering_tasks();
    for (count, one, many) in [
        (tasks, "task", "tasks"),
        (report.close.threads.len() as u64, "thread", "threads"),
        (
            report.close.children.len() as u64,
            "child process",
            "child processes",
        ),
    ] {
        match count {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            n => parts.push(format!("{n} {many}")),
        }
    }
    match parts.as_slice() {
        [] if report.required_failed => format!("{}, after a failure", report.outcome.as_str()),
        [] => report.outcome.as_str().to_owned(),
        parts => format!("{}: {}", report.outcome.as_str(), parts.join(", ")),
    }
}

fn drained(layer: &DrainLayer) -> String {
    match layer.tasks {
        0 => "no tasks".to_owned(),
        1 if layer.ended == 1 => "the only task ended".to_owned(),
        tasks if layer.ended == tasks => format!("all {tasks} tasks ended"),
        tasks => format!("{} of {} ended", layer.ended, count(tasks, "task")),
    }
}

fn drain_rows(report: &Report) -> Vec<Row> {
    // Of those that live on it is shown where that is said.
    let lives = |task: &TaskFinding| {
        let mut lingering = report.cancel.lingering.iter();
        lingering.any(|other| other.tid == task.tid && is_same(other, task))
    };
    let row = |task: &TaskFinding| {
        let how = match task.draining {
            Some(time) => format!("ignored drain for {}", seconds(time)),
            None => "was never told to drain".to_owned(),
        };
        Row {
            style: BAD,
            mark: '✗',
            text: format!(
                "{}  {how}{}, spawned {}{}",
                name(task),
                on_thread(task.on_thread.as_deref(), task.held),
                task.spawned,
                awaiting(task.awaits.as_deref())
            ),
            below: match lives(task) {
                true => Vec::new(),
                false => stack::lines(&task.stack, task.stack_note.as_deref(), None),
            },
        }
    };
    let ignored = report.drain.ignored.iter().map(row);
    ignored
        .chain(report.drain.panicked.iter().map(panic_row))
        .collect()
}

fn panic_row(panic: &PanicFinding) -> Row {
    let name = path(&panic.group, &panic.name);
    let times = times(panic.count);
    // One row has one line.
    let message = panic.message.lines().next().unwrap_or("");
    let place = panic.location.as_deref().unwrap_or("a place unknown");
    Row {
        style: BAD,
        mark: '!',
        text: format!(
            "{name}{times}  panicked at {place}: '{message}', spawned {}",
            panic.spawned
        ),
        below: Vec::new(),
    }
}

fn is_same(one: &TaskFinding, other: &TaskFinding) -> bool {
    (&one.spawned, &one.name, &one.group) == (&other.spawned, &other.name, &other.group)
}

/// The chains of awaits: `, awaiting Receiver::recv ← handle (src/http.rs:18) ← serve (src/http.rs:9)`.
pub(crate) fn awaiting(awaits: Option<&[Vec<Frame>]>) -> String {
    let chains = match awaits {
        None => return String::new(),
        Some([]) => return ", awaiting what keeps no waker and so never wakes it".to_owned(),
        Some(chains) => chains,
    };
    let chain = |chain: &Vec<Frame>| {
        let awaits: Vec<String> = chain.iter().map(ToString::to_string).collect();
        awaits.join(" ← ")
    };
    let mut text = chains.iter().take(CHAINS).map(chain).collect::<Vec<_>>();
    text.dedup();
    format!(", awaiting {}", text.join(" or "))
}

fn cancelled(layer: &CancelLayer) -> String {
    let observed = layer.untracked.is_some();
    let untracked = observed.then(|| format!("{} untracked dropped", layer.dropped()));
    match (layer.cancelled, untracked.as_deref()) {
        (0, None | Some("0 untracked dropped")) => "nothing to cancel".to_owned(),
        (tracked, None) => format!("{tracked} tracked cancelled"),
        (tracked, Some(untracked)) => format!("{tracked} tracked cancelled, {untracked}"),
    }
}

fn cancel_rows(report: &Report) -> Vec<Row> {
    let layer = &report.cancel;
    // The stack of a thread that lingers is shown with the thread.
    let is_listed = |task: &TaskFinding| {
        let mut threads = report.close.threads.iter();
        threads.any(|thread| Some(thread.tid) == task.tid)
    };
    let tasks = layer.lingering.iter().map(|task| {
        let why = match task.kind {
            TaskKind::Blocking => "still runs, and a closure cannot be cancelled",
            _ if task.on_thread.is_some() => "does not come back from its poll",
            _ => "was cancelled and lives",
        };
        let daemon = if task.daemon { ", daemon" } else { "" };
        let age = seconds(task.age);
        let text = format!(
            "{}  {why}{}, age {age}{daemon}, spawned {}",
            name(task),
            on_thread(task.on_thread.as_deref(), task.held),
            task.spawned
        );
        Row {
            style: BAD,
            mark: '✗',
            text,
            below: match is_listed(task) {
                true => Vec::new(),
                false => stack::lines(&task.stack, task.stack_note.as_deref(), None),
            },
        }
    });
    let sites = layer.untracked.iter().flatten().map(untracked_row);
    let starved = (layer.starved > 0).then(|| Row {
        style: BAD,
        mark: '!',
        text: format!("no worker free to drop {}", count(layer.starved, "task")),
        below: Vec::new(),
    });
    let panics = layer.panicked.iter().map(panic_row);
    tasks.chain(panics).chain(sites).chain(starved).collect()
}

fn untracked_row(site: &UntrackedFinding) -> Row {
    let lives = match site.lingering {
        0 => String::new(),
        n => format!(", {n} of them live on"),
    };
    let total = site.dropped + site.lingering;
    let place = match site.spawned.as_str() {
        "" => "estimated: their spawn sites are not observed".to_owned(),
        spawned => format!("spawned {spawned}"),
    };
    Row {
        style: if site.lingering > 0 { BAD } else { NOTE },
        mark: if site.lingering > 0 { '✗' } else { '!' },
        text: format!("untracked ×{total}  {place}{lives}"),
        below: Vec::new(),
    }
}

fn closed(layer: &CloseLayer) -> String {
    let ended = layer.ended;
    match layer.threads.len() {
        0 => format!("no thread lingers ({ended} ended)"),
        1 => format!(
            "1 thread lingers ({ended} ended, {} expected)",
            layer.expected
        ),
        n => format!(
            "{n} threads linger ({ended} ended, {} expected)",
            layer.expected
        ),
    }
}

fn close_rows(layer: &CloseLayer) -> Vec<Row> {
    // What holds for all is said once.
    let mut said = None;
    let threads = layer.threads.iter().map(|thread| {
        let none = thread.no_stack.as_deref();
        let none = none.filter(|why| said.replace(*why) != Some(*why));
        thread_row(thread, none)
    });
    let hints = layer.hints.iter().map(|hint| Row {
        style: NOTE,
        mark: '!',
        text: hint.clone(),
        below: Vec::new(),
    });
    let children = layer.children.iter().map(|child: &ChildFinding| Row {
        style: BAD,
        mark: '✗',
        text: format!("child process {}  {}", child.pid, child.command),
        below: Vec::new(),
    });
    let excused = layer.excused.iter().map(excused_row);
    threads
        .chain(hints)
        .chain(children)
        .chain(excused)
        .collect()
}

fn excused_row(threads: &ExcusedThreads) -> Row {
    Row {
        style: FAINT,
        mark: '·',
        text: format!(
            "{} expected: {}",
            count(threads.count, "thread"),
            threads.reason
        ),
        below: Vec::new(),
    }
}

/// `no_stack`: why it has none, where that is said.
fn thread_row(thread: &ThreadFinding, no_stack: Option<&str>) -> Row {
    let mut text = format!(
        "thread \"{}\" (tid {}, {})  {}, age {}, cpu {}",
        thread.name,
        thread.tid,
        thread.class.as_str(),
        thread.waits,
        seconds(thread.age),
        seconds(thread.cpu)
    );
    if let Some(task) = &thread.task {
        write!(text, ", holds task {task}").expect("a String takes any text");
    }
    if let Some(started) = &thread.started {
        write!(text, ", started {started}").expect("a String takes any text");
    }
    for tried in &thread.tried {
        write!(text, ", {tried}").expect("a String takes any text");
    }
    if thread.appeared_while_stopping {
        text.push_str(", appeared while stopping");
    }
    Row {
        style: BAD,
        mark: '✗',
        text,
        below: stack::lines(&thread.stack, thread.stack_note.as_deref(), no_stack),
    }
}

fn name(task: &TaskFinding) -> String {
    format!("{}{}{}", task.path(), mark(task.kind), times(task.count))
}

pub(crate) fn count(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// `3ms`, `5.002s`.
pub(crate) fn millis(time: Duration) -> String {
    match time.as_millis() {
        0 => format!("{}µs", time.as_micros()),
        ms @ 1..1000 => format!("{ms}ms"),
        _ => format!("{:.3}s", time.as_secs_f64()),
    }
}

/// `500ms`, `5s`, `9.5s`: as it was written, not as it was measured.
fn budget(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms}ms"),
        _ => format!("{}s", time.as_secs_f64()),
    }
}

/// `5.0s`, and what people count in for longer times.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}
