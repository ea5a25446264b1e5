//! The columns of the three tables: their texts, and their orders.

use super::super::tasks::age;
use super::super::ways::Way;
use super::sample::{Age, ProcessLine, TaskLine, ThreadLine};
use std::cmp::Ordering;
use std::time::Duration;

/// The text for a value that is not known.
const UNKNOWN: &str = "–";

/// A column of a table of `T`.
pub(super) struct Column<T> {
    pub(super) title: &'static str,
    /// The width in cells; 0 for the column that takes the rest.
    pub(super) width: u16,
    /// The narrowest table that has the column.
    pub(super) from: u16,
    pub(super) is_number: bool,
    pub(super) text: fn(&T) -> String,
    /// The order in which the table is sorted by the column.
    pub(super) order: fn(&T, &T) -> Ordering,
}

/// The columns of tasks. The first order is by age.
pub(super) const TASKS: [Column<TaskLine>; 8] = [
    Column {
        title: "AGE",
        width: 8,
        from: 0,
        is_number: true,
        text: |task| match task.age {
            Some(Age::Known(known)) => age(known),
            Some(Age::AtLeast(least)) => format!(">{}", age(least)),
            None => UNKNOWN.to_owned(),
        },
        order: |a, b| b.age.map(Age::time).cmp(&a.age.map(Age::time)),
    },
    Column {
        title: "POLLED",
        width: 7,
        from: 64,
        is_number: true,
        text: |task| time(task.idle),
        order: |a, b| b.idle.cmp(&a.idle),
    },
    Column {
        title: "BUSY",
        width: 6,
        from: 50,
        is_number: true,
        text: |task| time(task.busy),
        order: |a, b| (b.thread.is_some(), b.busy).cmp(&(a.thread.is_some(), a.busy)),
    },
    Column {
        title: "STATE",
        width: 11,
        from: 0,
        is_number: false,
        text: |task| task.state.clone(),
        order: |a, b| a.state.cmp(&b.state),
    },
    Column {
        title: "ID",
        width: 8,
        from: 72,
        is_number: true,
        text: |task| match task.id {
            Some(id) => id.to_string(),
            None => format!("×{}", task.count),
        },
        order: |a, b| a.id.cmp(&b.id),
    },
    Column {
        title: "THREAD",
        width: 7,
        from: 96,
        is_number: true,
        text: |task| task.thread.map_or_else(String::new, |tid| tid.to_string()),
        order: |a, b| b.thread.cmp(&a.thread),
    },
    Column {
        title: "BY",
        width: 6,
        from: 88,
        is_number: false,
        text: |task| short(task.by).to_owned(),
        order: |a, b| short(a.by).cmp(short(b.by)),
    },
    Column {
        title: "TASK",
        width: 0,
        from: 0,
        is_number: false,
        text: |task| task.name.clone(),
        order: |a, b| a.name.cmp(&b.name),
    },
];

/// The columns of threads. The first order is by the use of processors.
pub(super) const THREADS: [Column<ThreadLine>; 7] = [
    Column {
        title: "CPU %",
        width: 6,
        from: 0,
        is_number: true,
        text: |thread| percent(thread.busy),
        order: |a, b| b.busy.partial_cmp(&a.busy).unwrap_or(Ordering::Equal),
    },
    Column {
        title: "CPU",
        width: 7,
        from: 50,
        is_number: true,
        text: |thread| age(thread.cpu),
        order: |a, b| b.cpu.cmp(&a.cpu),
    },
    Column {
        title: "STATE",
        width: 9,
        from: 0,
        is_number: false,
        text: |thread| state(thread.state).to_owned(),
        order: |a, b| a.state.cmp(b.state),
    },
    Column {
        title: "TID",
        width: 7,
        from: 60,
        is_number: true,
        text: |thread| thread.tid.to_string(),
        order: |a, b| a.tid.cmp(&b.tid),
    },
    Column {
        title: "CLASS",
        width: 9,
        from: 76,
        is_number: false,
        text: |thread| thread.class.unwrap_or(UNKNOWN).to_owned(),
        order: |a, b| a.class.cmp(&b.class),
    },
    Column {
        title: "THREAD",
        width: 22,
        from: 0,
        is_number: false,
        text: |thread| thread.name.clone(),
        order: |a, b| a.name.cmp(&b.name),
    },
    Column {
        title: "TASK",
        width: 0,
        from: 0,
        is_number: false,
        text: |thread| match (&thread.task, thread.held) {
            (Some(task), Some(held)) => format!("{task} for {}", age(held)),
            (Some(task), None) => task.clone(),
            (None, _) => String::new(),
        },
        order: |a, b| b.held.cmp(&a.held),
    },
];

/// The columns of processes. The first order is that of the tree.
pub(super) const PROCESSES: [Column<ProcessLine>; 6] = [
    Column {
        title: "PID",
        width: 8,
        from: 0,
        is_number: true,
        text: |process| process.pid.to_string(),
        order: |_, _| Ordering::Equal,
    },
    Column {
        title: "CPU %",
        width: 6,
        from: 0,
        is_number: true,
        text: |process| percent(process.busy),
        order: |a, b| b.busy.partial_cmp(&a.busy).unwrap_or(Ordering::Equal),
    },
    Column {
        title: "CPU",
        width: 7,
        from: 60,
        is_number: true,
        text: |process| age(process.cpu),
        order: |a, b| b.cpu.cmp(&a.cpu),
    },
    Column {
        title: "MEMORY",
        width: 9,
        from: 50,
        is_number: true,
        text: |process| bytes(process.resident),
        order: |a, b| b.resident.cmp(&a.resident),
    },
    Column {
        title: "STATE",
        width: 9,
        from: 40,
        is_number: false,
        text: |process| state(process.state).to_owned(),
        order: |a, b| a.state.cmp(b.state),
    },
    Column {
        title: "COMMAND",
        width: 0,
        from: 0,
        is_number: false,
        text: |process| format!("{}{}", "  ".repeat(process.level), process.command),
        order: |a, b| a.command.cmp(&b.command),
    },
];

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| UNKNOWN.to_owned(), age)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(
        || UNKNOWN.to_owned(),
        |share| format!("{:.1}", share * 100.0),
    )
}

/// Returns a word of at most nine characters for the kernel's state of a thread.
fn state(state: &'static str) -> &'static str {
    match state {
        "in uninterruptible sleep" => "disk",
        "in an unknown state" => "unknown",
        state => state,
    }
}

/// Returns a way in one short word.
pub(super) fn short(way: Way) -> &'static str {
    match way {
        Way::Socket => "socket",
        Way::BlackBox => "box",
        Way::Attach => "attach",
    }
}

/// Returns a number of bytes in the largest fitting unit.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64 / 1024.0;
    for unit in ["KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return match value < 10.0 {
                true => format!("{value:.1} {unit}"),
                false => format!("{value:.0} {unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

// === impl Age ===

impl Age {
    fn time(self) -> Duration {
        match self {
            Self::Known(time) | Self::AtLeast(time) => time,
        }
    }
}
