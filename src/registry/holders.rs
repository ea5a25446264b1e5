//! Who is on which thread: the tasks that are polled, dropped or run at this moment.

use super::kind::{self, Kind};
use super::scope::{self, Scope};
use super::{shard, slots};
use crate::task::{TaskId, TaskKind};
use std::collections::HashMap;

/// A task that is on a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) id: TaskId,
    pub(crate) kind: &'static Kind,
    pub(crate) tid: u32,
    /// The pulse that was the last when its poll began. While it stays the same, so does the poll.
    pub(crate) pulse: u64,
}

/// Which thread polls, drops or runs the task in which slot at this moment.
pub(crate) fn on_threads() -> HashMap<usize, u32> {
    shard::all().filter_map(shard::Shard::current).collect()
}

/// The tasks of a scope and below that are on a thread; closures of the blocking pool, which may be, left out.
pub(crate) fn holders(scope: &'static Scope) -> Vec<Holder> {
    // Few, whatever lives: one a thread.
    let mut places: Vec<(usize, u32)> = shard::all().filter_map(shard::Shard::current).collect();
    places.sort_unstable();
    let found = slots::at_places(&places);
    let holder = |(slot, tid): (&'static super::slot::Slot, u32)| {
        let reading = slot.read()?;
        let kind = kind::at(reading.entry.kind);
        let is_ours = scope::at(reading.entry.scope).is_below(scope);
        let holds = is_ours && kind.options.runs != TaskKind::Blocking;
        holds.then_some(Holder {
            id: TaskId(reading.entry.id),
            kind,
            tid,
            pulse: reading.polled,
        })
    };
    found.into_iter().filter_map(holder).collect()
}

// === impl Holder ===

impl Holder {
    /// Whether the same poll of the same task is on the same thread.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.id, self.tid, self.pulse) == (other.id, other.tid, other.pulse)
    }
}
