//! The rows of the close layer: threads, child processes, and threads that a rule expects.
//!
//! Threads that are alike share a row, and a stack is shown with the first thread that has it.

use super::{BAD, FAINT, NOTE, Row, count, seconds};
use crate::report::alike::{Alike, alike};
use crate::report::{ChildRow, CloseLayer, ThreadRow, stack};
use std::collections::HashMap;
use std::fmt::Write;

/// Returns the rows of the close layer: threads that linger, hints about them, child processes,
/// expected threads that are blocked, threads that may be expected, and threads that a rule expects.
pub(super) fn close_rows(layer: &CloseLayer) -> Vec<Row> {
    // A reason that several threads in a row share is shown once.
    let (mut shown, mut said) = (HashMap::new(), None);
    let threads = alike(&layer.threads).into_iter().map(|threads| {
        let thread = threads.first;
        let none = thread.no_stack.as_deref();
        let none = none.filter(|why| said.replace(*why) != Some(*why));
        let below = match shown.get(&thread.stack) {
            Some(tid) if thread.stack.len() > 1 => vec![format!("same stack as tid {tid}")],
            _ => {
                shown.insert(&thread.stack, thread.tid);
                stack::lines(&thread.stack, thread.stack_note.as_deref(), none)
            }
        };
        thread_row(&threads, below)
    });
    let hints = layer.hints.iter().map(|hint| Row {
        style: NOTE,
        mark: '!',
        text: hint.clone(),
        below: Vec::new(),
    });
    let children = layer.children.iter().map(|child: &ChildRow| Row {
        style: BAD,
        mark: '✗',
        text: format!("child process {}  {}", child.pid, child.command),
        below: Vec::new(),
    });
    let blocked = layer.blocked.iter().map(blocked_row);
    let undecided = layer.undecided.iter().map(undecided_row);
    let excused = layer.excused.iter().map(excused_row);
    threads
        .chain(hints)
        .chain(children)
        .chain(blocked)
        .chain(undecided)
        .chain(excused)
        .collect()
}

/// Returns the row of an expected thread that is blocked.
fn blocked_row(thread: &ThreadRow) -> Row {
    Row {
        style: NOTE,
        mark: '!',
        text: format!(
            "thread \"{}\" (tid {}, {})  expected, but {}, age {}, cpu {}",
            thread.name,
            thread.tid,
            thread.class.as_str(),
            thread.waits(),
            seconds(thread.age),
            seconds(thread.cpu)
        ),
        below: Vec::new(),
    }
}

/// Returns the row of a thread of which it is not known whether a rule expects it.
fn undecided_row(thread: &ThreadRow) -> Row {
    Row {
        style: FAINT,
        mark: '·',
        text: format!(
            "thread \"{}\" (tid {}) undecided: names took too long; {}, age {}, cpu {}",
            thread.name,
            thread.tid,
            thread.waits(),
            seconds(thread.age),
            seconds(thread.cpu)
        ),
        below: Vec::new(),
    }
}

/// Returns the row of threads that a rule expects.
fn excused_row((reason, threads): (&String, &u64)) -> Row {
    Row {
        style: FAINT,
        mark: '·',
        text: format!("{} expected: {reason}", count(*threads, "thread")),
        below: Vec::new(),
    }
}

/// Returns the row of threads that are alike, with these lines below.
fn thread_row(threads: &Alike<'_>, below: Vec<String>) -> Row {
    let thread = threads.first;
    let mut text = format!(
        "thread \"{}\"{}  {}, age {}, cpu {}",
        thread.name,
        threads.ids(thread.class.as_str()),
        thread.waits(),
        seconds(threads.age),
        seconds(threads.cpu)
    );
    if let Some(task) = &thread.task {
        write!(text, ", running task {task}").expect("a String takes any text");
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
        below,
    }
}
