//! The rows of tasks: those that did not end in the drain, those that are still alive, panics, and
//! spawn sites of untracked tasks.
//!
//! A task that held a thread comes first, because it may be the reason for all others. Tasks that
//! had no turn are not to blame: they share one faint line, which says what kept them from it.

use super::processes::process_rows;
use super::{BAD, FAINT, NOTE, Row, count, seconds};
use crate::report::chain::{awaiting, future};
use crate::report::{KindRow, PanicRow, Report, UntrackedRow, mark, on_thread, path, stack, times};
use crate::task::TaskKind;

/// Returns the rows of the drain: tasks that did not end in it, then child processes, then tasks
/// that had no turn, then panics.
pub(super) fn drain_rows(report: &Report) -> Vec<Row> {
    // The stack of a task that is still alive is shown in a later layer.
    let lives = |task: &KindRow| {
        let mut lingering = report.cancel.lingering.iter();
        lingering.any(|other| other.tid() == task.tid() && other.is_same_kind(task))
    };
    let row = |task: &KindRow| {
        // A task that was never told has ignored nothing.
        let (style, mark) = match task.draining {
            Some(_) => (BAD, '✗'),
            None => (FAINT, '·'),
        };
        Row {
            style,
            mark,
            text: format!(
                "{}  {}{}, spawned {}{}{}",
                name(task),
                ignored(task),
                on(task),
                task.spawned,
                awaiting(task.awaits(), task.always_ready()),
                future(task)
            ),
            below: match lives(task) {
                true => Vec::new(),
                false => stack::lines(&task.stack, task.stack_note.as_deref(), None),
            },
        }
    };
    // A task that runs a process is shown as the process.
    let runs = |task: &&KindRow| {
        let mut processes = report.processes.iter();
        processes.any(|process| process.task.as_deref() == Some(&*task.path()))
    };
    let ignored = report.drain.ignored.iter().filter(|task| !runs(task));
    let rows = ignored.map(row).chain(process_rows(report));
    rows.chain(not_polled_rows(&report.drain.not_polled))
        .chain(report.drain.panicked.iter().map(panic_row))
        .collect()
}

/// Returns how the task outlived the drain.
fn ignored(task: &KindRow) -> String {
    match task.draining {
        _ if task.is_dropping() => dropping(task),
        Some(time) => format!("ignored drain for {}", seconds(time)),
        None => "drain ended before its turn".to_owned(),
    }
}

/// Returns the rows of tasks that had no turn: one for each kind of closure that never started, and
/// one line for all tasks that were not polled for the same reason.
fn not_polled_rows(tasks: &[KindRow]) -> Vec<Row> {
    let reason =
        |held_by: Option<&str>| held_by.map_or_else(String::new, |held_by| format!(": {held_by}"));
    let faint = |text: String| Row {
        style: FAINT,
        mark: '·',
        text,
        below: Vec::new(),
    };
    let mut polled: Vec<(Option<&str>, u64)> = Vec::new();
    let mut rows = Vec::new();
    for task in tasks {
        let held_by = task.held_by.as_deref();
        if task.kind == TaskKind::Blocking {
            let (name, why) = (name(task), reason(held_by));
            rows.push(faint(format!(
                "{name}  never started{why}, spawned {}",
                task.spawned
            )));
        } else if let Some((_, n)) = polled.iter_mut().find(|(other, _)| *other == held_by) {
            *n += task.count;
        } else {
            polled.push((held_by, task.count));
        }
    }
    rows.extend(polled.into_iter().map(|(held_by, n)| {
        let were = if n == 1 { "was" } else { "were" };
        faint(format!(
            "{} {were} not polled since the stop began{}",
            count(n, "task"),
            reason(held_by)
        ))
    }));
    rows
}

/// Returns the row of a panic, with the first line of its message.
fn panic_row(panic: &PanicRow) -> Row {
    let name = path(panic.group, panic.name);
    let times = times(panic.count);
    // A row is one line.
    let message = panic.message.lines().next().unwrap_or("");
    let place = panic.location.as_deref().unwrap_or("an unknown location");
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

/// Returns the rows of the cancel layer: tasks that are still alive, those that ended late, panics,
/// untracked tasks, closures that never started, and the number of tasks for which no worker is free.
pub(super) fn cancel_rows(report: &Report) -> Vec<Row> {
    let layer = &report.cancel;
    // The stack of a thread that lingers is shown with the thread.
    let is_listed = |task: &KindRow| {
        let mut threads = report.close.threads.iter();
        threads.any(|thread| Some(thread.tid) == task.tid())
    };
    let tasks = layer.lingering.iter().map(|task| {
        let why = match task.kind {
            _ if task.is_dropping() => dropping(task),
            TaskKind::Blocking => "still running (a closure cannot be cancelled)".to_owned(),
            _ if task.on_thread.is_some() => "stuck inside poll".to_owned(),
            _ => "still alive after cancel".to_owned(),
        };
        let daemon = if task.daemon { ", daemon" } else { "" };
        let age = seconds(task.oldest);
        let text = format!(
            "{}  {why}{}, age {age}{daemon}, spawned {}{}",
            name(task),
            on(task),
            task.spawned,
            future(task)
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
    let late = layer.late.iter().map(|task| Row {
        style: NOTE,
        mark: '!',
        text: format!(
            "{}  late: ended in the close layer, spawned {}",
            name(task),
            task.spawned
        ),
        below: Vec::new(),
    });
    let lingers = layer.lingering_untracked() > 0;
    let sites = layer.untracked.iter().flatten();
    let sites = sites.map(|site| untracked_row(site, lingers));
    let panics = layer.panicked.iter().map(panic_row);
    tasks
        .chain(late)
        .chain(panics)
        .chain(sites)
        .chain(starved_rows(report))
        .collect()
}

/// Returns the rows of closures that never started, and the line about tasks for which no worker is
/// free.
fn starved_rows(report: &Report) -> Vec<Row> {
    let layer = &report.cancel;
    let (closures, tasks): (Vec<_>, Vec<_>) = layer
        .not_polled
        .iter()
        .cloned()
        .partition(|task| task.kind == TaskKind::Blocking);
    let mut rows = not_polled_rows(&closures);
    if layer.starved > 0 {
        let held_by = tasks.iter().find_map(|task| task.held_by.as_deref());
        let why = held_by.map_or_else(String::new, |held_by| format!(": {held_by}"));
        let tasks = count(layer.starved, "task");
        rows.push(Row {
            style: FAINT,
            mark: '·',
            text: format!("no worker free to drop {tasks}{why}"),
            below: Vec::new(),
        });
    }
    rows
}

/// Returns the row of an untracked spawn site. It is a failure only if tasks of it are still alive.
/// `lingers` is false if no worker is free for any untracked task that is alive.
fn untracked_row(site: &UntrackedRow, lingers: bool) -> Row {
    let lives = match site.live {
        0 => String::new(),
        n => format!(", {n} still alive"),
    };
    let total = site.dropped + site.live;
    let never_wake = site.never_wake();
    let never_wake = never_wake.map_or_else(String::new, |clause| format!(", {clause}"));
    let place = site.place();
    let (style, mark) = match site.live > 0 && lingers {
        true => (BAD, '✗'),
        false => (NOTE, '!'),
    };
    Row {
        style,
        mark,
        text: format!("untracked ×{total}  {place}{lives}{never_wake}"),
        below: site.awaiting(),
    }
}

/// Returns the path of a task, its kind if that is not ordinary, and the number of tasks.
fn name(task: &KindRow) -> String {
    format!("{}{}{}", task.path(), mark(task.kind), times(task.count))
}

/// Returns the thread that the task is on, and for how long. Empty for a task that is always ready:
/// it was on a thread by chance.
fn on(task: &KindRow) -> String {
    if task.always_ready().is_some() {
        return String::new();
    }
    let held = task.held().filter(|_| !task.is_dropping());
    on_thread(task.on_thread.as_deref(), held)
}

/// Returns how long ago the task was cancelled whose drop has not returned.
fn dropping(task: &KindRow) -> String {
    match task.held() {
        Some(held) => format!("cancelled {} ago, its drop has not returned", seconds(held)),
        None => "cancelled, its drop has not returned".to_owned(),
    }
}
