//! The verdict: one sentence about a shutdown for the person on call. It names the first culprit,
//! its place in the program, what it is stuck in, and for how long it held the stop.
//!
//! A task that had no turn is no culprit. Nor is a thread or a process whose task is named already.

use super::alike::alike;
use super::{
    CancelLayer, ChildRow, Frame, KindRow, Report, ThreadRow, UntrackedRow, brief, row, stack,
    times,
};
use crate::task::TaskKind;
use std::collections::HashSet;
use std::time::Duration;

/// Calls in which a thread waits, each by a part of the file or the function, a part of the function,
/// and the words for it. The first that fits is used.
const CALLS: [(&str, &str, &str); 15] = [
    ("mpsc", "recv", "blocked in a channel's recv"),
    ("mpmc", "recv", "blocked in a channel's recv"),
    ("channel", "recv", "blocked in a channel's recv"),
    ("channel", "send", "blocked in a channel's send"),
    ("mpsc", "send", "blocked in a channel's send"),
    ("mutex", "lock", "waiting for a mutex"),
    ("rwlock", "read", "waiting for a read-write lock"),
    ("rwlock", "write", "waiting for a read-write lock"),
    ("condvar", "wait", "waiting for a condition"),
    ("barrier", "wait", "waiting at a barrier"),
    ("process", "wait", "waiting for a child process"),
    ("thread", "join", "waiting for a thread to end"),
    ("thread", "sleep", "sleeping"),
    ("thread", "park", "parked"),
    ("runtime", "block_on", "blocked in block_on"),
];

/// Parts of the names of functions in which a server waits for its connections to end. Each connection
/// is an untracked task, with the handler of its request in it.
const SERVERS: [&str; 3] = [
    "axum::serve",
    "hyper_util::server",
    "tonic::transport::server",
];

/// Returns the verdict; `None` if there is no culprit.
pub(crate) fn of(report: &Report) -> Option<String> {
    let culprits = culprits(report);
    let first = culprits.first()?;
    Some(match culprits.len() - 1 {
        0 => first.clone(),
        n => format!("{first}; and {n} more"),
    })
}

/// Returns a sentence for each culprit: first what is still there, then what had to be cancelled,
/// killed or dropped.
fn culprits(report: &Report) -> Vec<String> {
    let (lingering, close) = (&report.cancel.lingering, &report.close);
    let mut culprits: Vec<String> = lingering
        .iter()
        .map(|task| of_task(report, task) + ", and is still there")
        .collect();
    // The thread of a task that lingers is not one more culprit.
    let threads = close.threads.iter().filter(|row| row.task.is_none());
    culprits.extend(
        alike(threads)
            .iter()
            .map(|threads| of_thread(threads.first, threads.count())),
    );
    let children = close.children.iter();
    culprits.extend(children.map(|child| format!("{} is still there", process(child))));
    let ignored = report.drain.ignored.iter().filter(|task| {
        // One that was never told has held nothing.
        task.draining.is_some() && !lingering.iter().any(|other| other.is_same_kind(task))
    });
    let named: HashSet<String> = lingering
        .iter()
        .chain(ignored.clone())
        .map(KindRow::path)
        .collect();
    let (left, killed) = of_processes(report, &named);
    culprits.extend(left);
    let held = of_connections(report, ignored.clone());
    let obeyed = |task: &&KindRow| !held.is_empty() && is_server(task);
    let ignored: Vec<&KindRow> = ignored.filter(|task| !obeyed(task)).collect();
    let is_named = |row: &UntrackedRow| !held.is_empty() && row.in_program.is_some();
    let untracked: Vec<String> = of_untracked(&report.cancel, is_named).collect();
    culprits.extend(held);
    culprits.extend(ignored.into_iter().map(|task| of_task(report, task)));
    culprits.extend(killed);
    culprits.extend(untracked);
    culprits
}

/// Returns true if the task waits for the connections of a server to end.
fn is_server(task: &KindRow) -> bool {
    let frames = task.awaits().into_iter().flatten().flatten();
    let mut functions = frames.map(|frame| &*frame.function);
    functions.any(|function| SERVERS.iter().any(|part| function.contains(part)))
}

/// Returns a sentence for each kind of untracked task that waits in the program's own code while a
/// server waits for its connections. The server did what it was told.
fn of_connections<'a>(
    report: &Report,
    mut ignored: impl Iterator<Item = &'a KindRow>,
) -> Vec<String> {
    let Some(server) = ignored.find(|task| is_server(task)) else {
        return Vec::new();
    };
    let held = brief(server.draining.unwrap_or(report.total));
    let rows = report.cancel.untracked.iter().flatten();
    let rows = rows.filter(|row| row.dropped + row.live > 0);
    rows.filter_map(|row| {
        let awaits = row.in_program.as_deref()?;
        let count = super::count(row.dropped + row.live, "untracked task");
        let server = server.path();
        Some(format!("{awaits}, in {count}, held {server} for {held}"))
    })
    .collect()
}

/// Returns the sentences about processes that are still there, and about those that had to be killed.
///
/// A process of a task that is `named` is not one more culprit, nor one that the close layer found.
fn of_processes(report: &Report, named: &HashSet<String>) -> (Vec<String>, Vec<String>) {
    let (mut left, mut killed) = (Vec::new(), Vec::new());
    let is_named = |task: &String| named.contains(task);
    for one in &report.processes {
        let mut children = report.close.children.iter();
        if one.task.as_ref().is_some_and(is_named) || children.any(|child| child.pid == one.pid) {
            continue;
        }
        match one.end {
            None => left.push(format!("{} may still be alive", process(one))),
            Some(_) => killed.extend(of_killed(one)),
        }
    }
    (left, killed)
}

/// Returns `child process 17 (postgres) of database`. Its arguments may hold secrets, and the verdict
/// goes into the log.
fn process(process: &ChildRow) -> String {
    let task = process.task.as_deref();
    let task = task.map_or_else(String::new, |task| format!(" of {task}"));
    format!(
        "child process {} ({}){task}",
        process.pid,
        process.program()
    )
}

/// Returns the sentence about a process that ended only because it, or one that it started, was
/// killed.
fn of_killed(ended: &ChildRow) -> Option<String> {
    let (own, others): (Vec<_>, Vec<_>) = ended
        .killed
        .iter()
        .partition(|killed| killed.ends_with(&format!("(pid {})", ended.pid)));
    let name = process(ended);
    Some(match (own.is_empty(), &*others) {
        (true, []) => return None,
        (true, others) => {
            let others: Vec<&str> = others.iter().map(|other| other.as_str()).collect();
            let others = others.join(", ");
            format!("{others}, started by {name}, had to be killed")
        }
        (false, []) => format!("{name} had to be killed"),
        (false, others) => {
            let others = others.len();
            format!("{name} and {others} that it started had to be killed")
        }
    })
}

/// Returns a sentence for each spawn site of untracked tasks that were dropped, or that hold a worker.
/// Tasks for which no worker is free are not to blame.
/// Those that are named elsewhere are left out.
fn of_untracked(
    layer: &CancelLayer,
    is_named: impl Fn(&UntrackedRow) -> bool,
) -> impl Iterator<Item = String> {
    let lingers = layer.lingering_untracked() > 0;
    let sites = layer.untracked.iter().flatten();
    let sites = sites.filter(move |site| !is_named(site));
    sites.filter_map(move |site| {
        let live = if lingers { site.live } else { 0 };
        if site.dropped + live == 0 {
            return None;
        }
        let count = super::count(site.dropped + live, "untracked task");
        let place = match (site.spawned, &site.future) {
            (Some(at), _) => format!(" ({})", spawned_at(at)),
            (None, Some(future)) => format!(" ({future})"),
            (None, None) => String::new(),
        };
        Some(match live {
            0 => format!("{count}{place} had to be dropped"),
            _ => format!("{count}{place} could not be dropped"),
        })
    })
}

/// Returns `importer (src/import.rs:15), blocked in a channel's recv, held the stop for 5.0s`.
fn of_task(report: &Report, task: &KindRow) -> String {
    let name = format!("{}{}", task.path(), times(task.count));
    // A lingering task has the later stack; the chain of awaits is known of the drain only.
    let mut seen = report.drain.ignored.iter();
    let drained = seen.find(|other| other.is_same_kind(task));
    let awaits = task.awaits().or_else(|| drained?.awaits());
    let chain = awaits.and_then(|chains| chains.first());
    let own = stack::of_task(&task.stack);
    let frames = if own.is_empty() {
        chain.map_or(&[][..], Vec::as_slice)
    } else {
        own
    };
    let place = place(frames).unwrap_or_else(|| spawned_at(task.spawned));
    let what = match task.always_ready() {
        Some(_) => Some("always ready".to_owned()),
        None if own.is_empty() => awaited(task, chain),
        None => Some(call(own)),
    };
    let what = match (task.is_dropping(), what) {
        (true, Some(what)) => format!(", {what} in its drop"),
        (true, None) => ", in its drop".to_owned(),
        (false, Some(what)) => format!(", {what}"),
        (false, None) => String::new(),
    };
    let held = task.draining.unwrap_or(report.total);
    format!(
        "{name} ({place}){what}, held the stop for {}",
        brief(held.max(Duration::ZERO))
    )
}

/// Returns what a task without a stack does, if that is known.
fn awaited(task: &KindRow, chain: Option<&Vec<Frame>>) -> Option<String> {
    let leaf = chain.and_then(|chain| chain.first());
    match (leaf, task.awaits()) {
        (Some(leaf), _) => Some(match &leaf.waits_for {
            Some(what) => format!("waiting for {what}"),
            None => format!("awaiting {}", brief_name(&leaf.function)),
        }),
        (None, Some(_)) => Some("awaiting a future that nothing can wake".to_owned()),
        (None, None) if task.kind == TaskKind::Blocking => Some("still running".to_owned()),
        (None, None) if task.on_thread.is_some() => Some("stuck inside a poll".to_owned()),
        (None, None) => None,
    }
}

/// Returns `thread "pg-reader" (src/db.rs:112), blocked in recv(fd 4), is still there`.
fn of_thread(thread: &ThreadRow, count: usize) -> String {
    let name = format!("thread \"{}\"{}", thread.name, times(count as u64));
    let started = || thread.started.map(spawned_at);
    let place = place(&thread.stack).or_else(started);
    let place = place.map_or_else(String::new, |place| format!(" ({place})"));
    let is = if count == 1 { "is" } else { "are" };
    // The kernel tells apart what a thread waits for, except locks: those the stack shows.
    let is_lock = ["parked", "waiting on futex"]
        .iter()
        .any(|wait| thread.waits().starts_with(wait));
    let known = made_call(stack::of_task(&thread.stack));
    let waits = known.filter(|_| is_lock).unwrap_or(thread.waits());
    format!("{name}{place}, {waits}, {is} still there")
}

/// Returns file and line of the innermost frame of the program.
fn place(frames: &[Frame]) -> Option<String> {
    let frame = frames.iter().find(|frame| stack::is_of_program(frame))?;
    Some(format!("{}:{}", frame.file.as_deref()?, frame.line?))
}

/// Returns file and line of a spawn site.
fn spawned_at(location: &std::panic::Location<'_>) -> String {
    let place = format!("{}:{}", location.file(), location.line());
    row::in_crate(&place).to_owned()
}

/// Returns the words for the call that the program made, or for the function that it is in.
fn call(own: &[Frame]) -> String {
    if let Some(known) = made_call(own) {
        return known.to_owned();
    }
    let library = in_library(own);
    match library.last().or_else(|| own.get(library.len())) {
        Some(frame) => format!("in {}", brief_name(&frame.function)),
        None => "stuck".to_owned(),
    }
}

/// Returns the words for the call that the program made, if they are known. Calls are nested: the
/// outermost one that is known is the one that the program made.
fn made_call(own: &[Frame]) -> Option<&'static str> {
    in_library(own).iter().rev().find_map(known_call)
}

/// Returns the frames inside the innermost one of the program.
fn in_library(own: &[Frame]) -> &[Frame] {
    let program = own.iter().position(stack::is_of_program);
    &own[..program.unwrap_or(own.len())]
}

/// Returns the words for a call in which a thread waits, if the frame is one.
fn known_call(frame: &Frame) -> Option<&'static str> {
    let file = frame.file.as_deref().unwrap_or_default();
    let function = frame.function.to_lowercase();
    let last = brief_name(&function);
    let last = last.rsplit("::").next().unwrap_or_default();
    let fits = |(part, call, _): &&(&str, &str, &str)| {
        last.contains(call) && (file.contains(part) || function.contains(part))
    };
    CALLS.iter().find(fits).map(|(_, _, words)| *words)
}

/// Returns the last two parts of a function's path, without types. A future is named by its type.
fn brief_name(function: &str) -> String {
    // `<tokio::sync::oneshot::Receiver<T> as core::future::future::Future>::poll`
    let of_trait = function.strip_prefix('<').and_then(|rest| {
        let (own, rest) = rest.split_once(" as ")?;
        let (_, method) = rest.rsplit_once(">::")?;
        Some(format!("{own}::{method}"))
    });
    let function = of_trait.as_deref().unwrap_or(function);
    let mut plain = String::new();
    let mut depth = 0_u32;
    for c in function.chars() {
        match c {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            c if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    let mut parts: Vec<&str> = plain
        .split("::")
        .filter(|part| !part.is_empty() && !part.starts_with('{'))
        .collect();
    if parts.len() > 1 && parts.last() == Some(&"poll") {
        parts.pop();
    }
    let parts = &parts[parts.len().saturating_sub(2)..];
    match parts {
        [] => function.to_owned(),
        parts => parts.join("::"),
    }
}
