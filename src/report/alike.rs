//! Threads that are alike: the threads of a pool, which all wait at one place, are one row with a
//! count in a report and in a dump. In the data each has its own row.

use super::{ThreadRow, stack};
use crate::threads::ThreadClass;
use std::collections::HashMap;
use std::panic::Location;
use std::time::Duration;

/// The most ids that are shown of threads that are alike.
const IDS: usize = 3;

/// Threads that differ only in their ids, their ages, their CPU times and the addresses that they
/// wait at.
pub(super) struct Alike<'a> {
    /// The first of them.
    pub(super) first: &'a ThreadRow,
    /// Their ids.
    tids: Vec<u32>,
    /// The age of the oldest.
    pub(super) age: Duration,
    /// The CPU time of all of them.
    pub(super) cpu: Duration,
}

/// The part of a row that threads that are alike share.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    name: &'a str,
    class: ThreadClass,
    own: bool,
    there_before: bool,
    started: Option<&'static Location<'static>>,
    state: &'static str,
    /// Without addresses.
    waits: Option<String>,
    task: Option<&'a str>,
    tried: &'a [String],
    appeared_while_stopping: bool,
    /// The lines of the stack, without those that only count frames: the runtime around a task takes
    /// one path or another.
    lines: Vec<String>,
}

// === impl Alike ===

impl Alike<'_> {
    /// Returns the number of threads.
    pub(super) fn count(&self) -> usize {
        self.tids.len()
    }

    /// Returns ` (tid 17, worker)`, or ` ×50 (tids 17, 18, 19 and 47 more, worker)`.
    pub(super) fn ids(&self, class: &str) -> String {
        let count = self.tids.len();
        if let [tid] = self.tids[..] {
            return format!(" (tid {tid}, {class})");
        }
        let shown: Vec<String> = self.tids.iter().take(IDS).map(u32::to_string).collect();
        let more = match count.saturating_sub(IDS) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        format!(" ×{count} (tids {}{more}, {class})", shown.join(", "))
    }
}

// === impl Key ===

impl<'a> Key<'a> {
    /// Returns the key of a thread.
    fn of(thread: &'a ThreadRow) -> Self {
        let ThreadRow {
            tid: _,
            name,
            class,
            own,
            there_before,
            started,
            age: _,
            cpu: _,
            state,
            waits,
            task,
            tried,
            appeared_while_stopping,
            stack,
            stack_note,
            no_stack,
        } = thread;
        let mut lines = stack::lines(stack, stack_note.as_deref(), no_stack.as_deref());
        lines.retain(|line| !line.starts_with('…'));
        Self {
            name,
            class: *class,
            own: *own,
            there_before: *there_before,
            started: *started,
            state,
            waits: waits.as_deref().map(without_addresses),
            task: task.as_deref(),
            tried,
            appeared_while_stopping: *appeared_while_stopping,
            lines,
        }
    }
}

/// Groups the threads that are alike, in the order of the first of each group.
///
/// Its time grows with the number of threads, because it runs on the control thread in a shutdown.
pub(super) fn alike<'a>(threads: impl IntoIterator<Item = &'a ThreadRow>) -> Vec<Alike<'a>> {
    let mut groups: Vec<Alike<'a>> = Vec::new();
    let mut indexes: HashMap<Key<'a>, usize> = HashMap::new();
    for thread in threads {
        let index = *indexes.entry(Key::of(thread)).or_insert(groups.len());
        match groups.get_mut(index) {
            Some(group) => {
                group.tids.push(thread.tid);
                group.age = group.age.max(thread.age);
                group.cpu += thread.cpu;
            }
            None => groups.push(Alike {
                first: thread,
                tids: vec![thread.tid],
                age: thread.age,
                cpu: thread.cpu,
            }),
        }
    }
    groups
}

/// Replaces `0x7f12ab` with `0x`: each thread of a pool has a futex of its own to park at.
fn without_addresses(waits: &str) -> String {
    let mut parts = waits.split("0x");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text += "0x";
        text += part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    }
    text
}
