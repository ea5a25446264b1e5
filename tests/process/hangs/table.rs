//! All culprits under all peers, and what each says, as docs/culprits.md.

use crate::list::{CULPRITS, Culprit};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long a program may take to be ready, and to end.
const LIMIT: Duration = Duration::from_secs(10);
/// How many programs run at a time; one of them may keep a processor busy.
const AT_A_TIME: usize = 4;

const HEAD: &str = "\
# Culprits

Programs that do not stop, each with one culprit, and what headcount and its peers say of it. Facts only: each cell is
what the program printed on standard error after SIGTERM, cut to the culprit, and how it ended.

All three run the same code, `tests/process/hangs/`, in a debug build. `TaskTracker` is that of tokio-util 0.7.20: cancel
a `CancellationToken`, `close()`, and wait for 1 s. tokio-graceful-shutdown is 0.20.0, with a timeout of 1 s and its log,
whose first line, \"Shutting down ...\", is left out. Both then return from `main`, as their documentation shows, so that
the runtime is dropped. Headcount has 500 ms for the drain, and 300 ms for each other layer that the culprit outlives.
*Killed* is what has not ended 10 s after the signal. Below what headcount says stand the lines of code that its report
leads to.

One cell: `cargo run --all-features --example hangs -- tracker busy-loop`, and a SIGTERM. This file:
`cargo run --all-features --example hangs -- table > docs/culprits.md`.

| culprit | `TaskTracker` | tokio-graceful-shutdown | headcount |
|---|---|---|---|";

/// What a program said, and how it ended.
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
            println!("{}", row.join().expect("nobody panics"));
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

/// Starts it, stops it, and has what it says.
fn said(peer: &str, name: &str) -> Said {
    let program = std::env::current_exe().expect("a process knows its program");
    let mut child = Command::new(program)
        .args([peer, name])
        // Only the message of a panic is looked at.
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program runs");
    let stdout = lines(child.stdout.take());
    let stderr = lines(child.stderr.take());
    // A peer whose workers are all blocked never says so.
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

/// How it ends; its standard output ends with it.
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

/// What a peer said, without the names of its modules.
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

/// What the report says of the culprit: each row once, without times, and the marked lines that it leads to.
fn named(said: &Said) -> String {
    let begin = said
        .lines
        .iter()
        .position(|line| line.starts_with("headcount "));
    let report = &said.lines[begin.unwrap_or(0)..];
    // A task that lives on is in the rows of two layers.
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

/// The row without numbers of threads, ages, and what is told by the lines that it leads to.
fn short(row: &str) -> String {
    let mut text = String::new();
    let mut parts = row.split("(tid ");
    text += parts.next().unwrap_or("");
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        match rest.strip_prefix(", ") {
            Some(class) => text += &format!("({class}"),
            None => text = text.trim_end().to_owned() + without_held(rest.trim_start_matches(')')),
        }
    }
    let (text, _) = text.split_once(", awaiting").unwrap_or((&text, ""));
    let text = steady(&steady(text, "0x"), "127.0.0.1:");
    let telling = text
        .split(", ")
        .filter(|part| !["age ", "cpu "].iter().any(|start| part.starts_with(start)));
    telling.collect::<Vec<_>>().join(", ")
}

/// How long the thread was held differs from run to run.
fn without_held(rest: &str) -> &str {
    match rest.strip_prefix(" for ") {
        Some(held) => held.find(',').map_or("", |end| &held[end..]),
        None => rest,
    }
}

/// What follows `after` differs from run to run.
fn steady(text: &str, after: &str) -> String {
    let Some((before, rest)) = text.split_once(after) else {
        return text.to_owned();
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    format!("{before}{after}…{rest}")
}

/// A place in the culprits' sources, and its line, when that has a mark and is no place of a spawn.
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
