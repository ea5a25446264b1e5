//! Runs all culprits under all peers, and prints the results as docs/culprits.md.

use crate::list::{CULPRITS, Culprit};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// The time limit for a program to be ready, and for it to end.
const LIMIT: Duration = Duration::from_secs(10);
/// The number of programs that run in parallel; one of them may keep a CPU busy.
const AT_A_TIME: usize = 4;

const HEAD: &str = "\
# Culprits

Programs that do not shut down, each with one culprit, and what headcount and its peers report about it. Each cell has
the output on standard error after SIGTERM, reduced to the culprit, and how the process ended.

All three run the same code, `tests/process/hangs/`, in a debug build. `TaskTracker` is that of tokio-util 0.7.20: cancel
a `CancellationToken`, `close()`, and wait for 1 s. tokio-graceful-shutdown is 0.20.0, with a timeout of 1 s and its log,
without the first line, \"Shutting down ...\". Both then return from `main`, as their documentation shows, so that the
runtime is dropped. headcount has 500 ms for the drain, and 300 ms for each further layer that the culprit outlives.
*Killed* means that the process was still running 10 s after the signal. The cells of headcount end with the lines of
code that its report leads to.

To reproduce one cell, run `cargo run --all-features --example hangs -- tracker busy-loop` and send SIGTERM. To
regenerate this file, run `cargo run --all-features --example hangs -- table > docs/culprits.md`.

| culprit | `TaskTracker` | tokio-graceful-shutdown | headcount |
|---|---|---|---|";

/// The output of a program, and how it ended.
struct Said {
    lines: Vec<String>,
    end: String,
}

pub(crate) fn print() -> ExitCode {
    println!("{HEAD}");
    for some in CULPRITS.chunks(AT_A_TIME) {
        let rows: Vec<_> = some
            .iter()
            .map(|culprit| in_thread(|| row(culprit)))
            .collect();
        for row in rows {
            println!("{}", row.join().expect("no thread panics"));
        }
    }
    ExitCode::SUCCESS
}

fn in_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new()
        .spawn(work)
        .expect("the system has threads")
}

fn row(culprit: &'static Culprit) -> String {
    let Culprit { name, is, .. } = culprit;
    let cells = [
        plain(&said("tracker", name)),
        plain(&said("graceful", name)),
        named(&said("headcount", name)),
    ];
    format!("| `{name}`: {is} | {} |", cells.join(" | "))
}

/// Starts a program, stops it, and returns its output.
fn said(peer: &str, name: &str) -> Said {
    let program = std::env::current_exe().expect("a process knows its program");
    let mut child = Command::new(program)
        .args([peer, name])
        // Only the message of a panic is used.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let stdout = lines(child.stdout.take());
    let stderr = lines(child.stderr.take());
    // A peer with all workers blocked never prints "ready".
    stdout.recv_timeout(LIMIT / 2).ok();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)
        .expect("it is not waited for");
    let end = end(&mut child, &stdout);
    Said {
        lines: stderr.iter().collect(),
        end,
    }
}

/// Waits for the program to end; its standard output ends with it.
fn end(child: &mut Child, stdout: &Receiver<String>) -> String {
    let ends = loop {
        match stdout.recv_timeout(LIMIT) {
            Ok(_) => {}
            Err(error) => break error == std::sync::mpsc::RecvTimeoutError::Disconnected,
        }
    };
    if !ends {
        child.kill().expect("it is our child");
    }
    let status = child.wait().expect("it is our child");
    match status.code() {
        Some(code) => format!("exit code {code}"),
        None if ends => status.to_string(),
        None => "killed".to_owned(),
    }
}

fn lines(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, coming) = channel();
    in_thread(move || {
        for line in BufReader::new(stream.expect("it is piped")).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    coming
}

/// Returns the output of a peer, without module names.
fn plain(said: &Said) -> String {
    let mut cell: Vec<String> = said
        .lines
        .iter()
        .map(|line| line.trim())
        .filter(|line| {
            !line.is_empty() && !line.ends_with("Shutting down ...") && !line.starts_with("note:")
        })
        .map(|line| {
            let line = line
                .split_once("tokio_graceful_shutdown::")
                .map_or(line, |(_, rest)| {
                    rest.split_once(": ").map_or(rest, |(_, text)| text)
                });
            format!("`{line}`")
        })
        .collect();
    if cell.is_empty() {
        cell.push("nothing".to_owned());
    }
    format!("{}; {}", cell.join("<br>"), said.end)
}

/// Returns the report's rows about the culprit, each once and without times, and their marked lines.
fn named(said: &Said) -> String {
    let begin = said
        .lines
        .iter()
        .position(|line| line.starts_with("headcount "));
    let report = &said.lines[begin.unwrap_or(0)..];
    // A task that outlives its cancellation is in the rows of two layers.
    let cancel = report.iter().position(|line| line.starts_with("├─ 2"));
    let (drain, later) = report.split_at(cancel.unwrap_or(0));
    let mut cell = rows(later);
    if !later
        .iter()
        .any(|line| line.contains("age") && line.contains("spawned"))
    {
        cell.splice(0..0, rows(drain));
    }
    let mut leads: Vec<String> = Vec::new();
    for line in report {
        for word in line
            .split([' ', '(', ')', ','])
            .filter(|word| word.starts_with("tests/process/hangs/"))
        {
            if let Some(place) = marked(word)
                && !leads.contains(&place)
            {
                leads.push(place);
            }
        }
    }
    cell.extend(leads);
    format!("{}; {}", cell.join("<br>"), said.end)
}

fn rows(lines: &[String]) -> Vec<String> {
    let of_findings = lines.iter().filter(|line| line.starts_with('│'));
    let rows = of_findings.filter_map(|line| line.split_once(['✗', '!']));
    let mut rows: Vec<String> = rows
        .map(|(_, row)| format!("`{}`", short(row.trim())))
        .collect();
    rows.dedup();
    rows
}

/// Returns the row without thread ids, ages, and details that the marked lines show.
fn short(row: &str) -> String {
    let mut text = String::new();
    // Of threads that are alike the row has several ids before the class.
    let alike = row.split_once("(tids ").and_then(|(before, rest)| {
        let (ids, after) = rest.split_once(')')?;
        let class = ids.rsplit(", ").next()?;
        Some(format!("{before}({class}){after}"))
    });
    let row = alike.as_deref().unwrap_or(row);
    let mut parts = row.split("(tid ");
    text += parts.next().unwrap_or("");
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        match rest.strip_prefix(", ") {
            Some(class) => text += &format!("({class}"),
            None => text = text.trim_end().to_owned() + without_held(rest.trim_start_matches(')')),
        }
    }
    let cut = [
        ", awaiting ",
        ", waiting for ",
        ", yields in ",
        ", future ",
        ", closure ",
    ];
    let end = cut.iter().filter_map(|cut| text.find(cut)).min();
    let text = &text[..end.unwrap_or(text.len())];
    let text = steady(&steady(&steady(text, "0x"), "127.0.0.1:"), "polled ");
    let telling = text
        .split(", ")
        .filter(|part| !["age ", "cpu "].iter().any(|start| part.starts_with(start)));
    telling.collect::<Vec<_>>().join(", ")
}

/// Removes the time that the thread was blocked, which differs between runs.
fn without_held(rest: &str) -> &str {
    match rest.strip_prefix(" for ") {
        Some(held) => held.find(',').map_or("", |end| &held[end..]),
        None => rest,
    }
}

/// Replaces the text following `after`, which differs between runs.
fn steady(text: &str, after: &str) -> String {
    let Some((before, rest)) = text.split_once(after) else {
        return text.to_owned();
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    format!("{before}{after}…{rest}")
}

/// Returns a location in the culprits' sources with its line of code, if the line has a mark and is no spawn site.
fn marked(place: &str) -> Option<String> {
    let (file, line) = place
        .strip_prefix("tests/process/hangs/")?
        .split_once(':')?;
    let (_, text) = SOURCES.iter().find(|(name, _)| *name == file)?;
    let number: usize = line.split(':').next()?.parse().ok()?;
    let (code, mark) = text
        .lines()
        .nth(number.checked_sub(1)?)?
        .split_once(" // mark: ")?;
    let is_spawn = mark.starts_with("spawn of") || mark == "main of hangs";
    (!is_spawn).then(|| format!("{file}:{number} `{}`", code.trim().replace('|', "\\|")))
}

const SOURCES: [(&str, &str); 5] = [
    ("dependency.rs", include_str!("dependency.rs")),
    ("foreign.rs", include_str!("foreign.rs")),
    ("tasks.rs", include_str!("tasks.rs")),
    ("threads.rs", include_str!("threads.rs")),
    ("workers.rs", include_str!("workers.rs")),
];
