//! Pieces of text that reports, dumps and logs share: counts, times, and names of tasks.

use crate::task::TaskKind;
use std::time::Duration;

/// Returns ` ×3`, and nothing for one.
pub(crate) fn times(count: u64) -> String {
    match count {
        1 => String::new(),
        n => format!(" ×{n}"),
    }
}

/// Returns ` (blocking)`, and nothing for ordinary tasks.
pub(crate) fn mark(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Blocking => " (blocking)",
        TaskKind::Local => " (local)",
        TaskKind::Async | TaskKind::Main => "",
    }
}

/// Returns `, on thread "x" (tid 17) for 7.1s`, and nothing if no thread is known.
pub(crate) fn on_thread(thread: Option<&str>, held: Option<Duration>) -> String {
    let held = held.map_or_else(String::new, |held| format!(" for {}", seconds(held)));
    thread.map_or_else(String::new, |thread| format!(", on thread {thread}{held}"))
}

/// Joins the path of a group and a name.
pub(crate) fn path(group: &str, name: &str) -> String {
    match group {
        "" => name.to_owned(),
        group => format!("{group}/{name}"),
    }
}

/// Returns `1 task`, `2 tasks`.
pub(crate) fn count(n: u64, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

/// Formats a measured time: `3ms`, `5.002s`.
pub(crate) fn millis(time: Duration) -> String {
    match time.as_millis() {
        0 => format!("{}µs", time.as_micros()),
        ms @ 1..1000 => format!("{ms}ms"),
        _ => format!("{:.3}s", time.as_secs_f64()),
    }
}

/// Formats an age: `5.0s`, and for longer times `3m07s`, `2h05m`, `4d01h`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:.1}s", time.as_secs_f64()),
        s @ 60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        s @ 3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        s => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}
