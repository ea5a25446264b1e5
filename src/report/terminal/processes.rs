//! The rows of child processes that tasks run.

use super::{BAD, FAINT, NOTE, Row, seconds};
use crate::report::{ChildRow, Report};

/// Returns the rows of child processes: those that did not end in the drain, then those of which
/// something had to be killed, then the others.
pub(super) fn process_rows(report: &Report) -> Vec<Row> {
    let is_late = |process: &ChildRow| {
        let mut ignored = report.drain.ignored.iter();
        ignored.any(|task| process.task.as_deref() == Some(&*task.path()))
    };
    let mut rows: Vec<(u8, Row)> = Vec::new();
    for process in &report.processes {
        let is_late = is_late(process);
        let (rank, style, mark) = match process.killed.is_empty() {
            _ if is_late || process.end.is_none() => (0, BAD, '✗'),
            false => (1, NOTE, '!'),
            true => (2, FAINT, '·'),
        };
        let row = Row {
            style,
            mark,
            text: text(process, is_late),
            below: process.unstopped.clone(),
        };
        rows.push((rank, row));
    }
    rows.sort_by_key(|(rank, _)| *rank);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Returns the text of a process's row. `is_late` is true if its task did not end in the drain.
fn text(process: &ChildRow, is_late: bool) -> String {
    let program = process.program();
    let task = process.task.as_deref().unwrap_or_default();
    let pid = process.pid;
    let (how, others) = (how(process, is_late), others(process));
    format!("{task} (pid {pid}, {program})  {how}{others}")
}

/// Returns how the process ended, after which signal and time, or why it did not.
fn how(process: &ChildRow, is_late: bool) -> String {
    let end = process.end.as_deref();
    let told = process.signal.as_ref().zip(process.took);
    match (told, end) {
        (Some((signal, took)), Some(end)) => format!("{end}, {} after {signal}", seconds(took)),
        (Some((signal, took)), None) => {
            format!("its end was not seen in {} after {signal}", seconds(took))
        }
        (None, end) => {
            let end = end.unwrap_or("its end was not seen");
            match process.waited_for.as_slice() {
                [] if is_late => format!("{end}; it was not told to stop"),
                [] => end.to_owned(),
                first => format!(
                    "{end}; it was not told to stop, because it stops after {}",
                    first.join(", ")
                ),
            }
        }
    }
}

/// Returns the clause about processes that it had started and that had to be killed.
fn others(process: &ChildRow) -> String {
    let own = format!("(pid {})", process.pid);
    let others = process.killed.iter();
    let others: Vec<&str> = others
        .filter(|killed| !killed.ends_with(&own))
        .map(String::as_str)
        .collect();
    match others.as_slice() {
        [] => String::new(),
        others => format!("; killed with it: {}", others.join(", ")),
    }
}
