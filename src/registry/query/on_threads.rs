//! The tasks on threads: the one that each thread is in, because it polls, drops or runs it.
//!
//! The answer comes from the shards, in which each thread notes the slot of its task, and not from
//! the tasks. It costs two loads for each shard, and the threads notice nothing. A note may be one
//! poll old when it is read; [`Holder::is_same`] is how two looks are compared.

use crate::registry::count::shard;
use crate::registry::kind::{self, Kind};
use crate::registry::scope::{self, Scope};
use crate::registry::slots;
use crate::registry::slots::slot::Slot;
use crate::task::{TaskId, TaskKind};
use std::collections::HashMap;

/// A task that is on a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    /// The task's id.
    pub(crate) id: TaskId,
    /// The task's kind.
    pub(crate) kind: &'static Kind,
    /// The kernel's id of the thread.
    pub(crate) tid: u32,
    /// The pulse that was current when the poll began. As long as it stays the same, the poll is
    /// the same.
    pub(crate) pulse: u64,
    /// True if it drops the task's future, which has not returned.
    pub(crate) dropping: bool,
}

/// Returns the thread that is in each task, by the address of the task's slot.
///
/// A slot may hold another task by now, so a caller compares the task's id too if that matters.
pub(crate) fn on_threads() -> HashMap<usize, u32> {
    shard::all().filter_map(shard::Shard::current).collect()
}

/// Returns the number of threads whose notes are not in the black box.
pub(crate) fn outside_box() -> u64 {
    shard::all().filter(|shard| shard.is_held_outside()).count() as u64
}

/// Returns the tasks of a scope and of all scopes below it that are on a thread. Blocking closures
/// are left out, because they may hold their thread.
///
/// Costs a walk over the chunks of slots, not over the slots. Called by the watch over blocked
/// workers.
pub(crate) fn holders(scope: &'static Scope) -> Vec<Holder> {
    // Few, however many tasks are live: at most one per thread.
    let mut addresses: Vec<(usize, u32)> = shard::all().filter_map(shard::Shard::current).collect();
    addresses.sort_unstable();
    let found = slots::at_addresses(&addresses);
    let holder = |(slot, tid): (&'static Slot, u32)| {
        let reading = slot.read()?;
        let kind = kind::at(reading.entry.kind);
        let is_ours = scope::at(reading.entry.scope).is_below(scope);
        let holds = is_ours && kind.options.runs != TaskKind::Blocking;
        holds.then_some(Holder {
            id: TaskId(reading.entry.id),
            kind,
            tid,
            pulse: reading.polled,
            dropping: reading.dropping,
        })
    };
    found.into_iter().filter_map(holder).collect()
}

// === impl Holder ===

impl Holder {
    /// Returns whether the other one is the same poll of the same task on the same thread.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.id, self.tid, self.pulse) == (other.id, other.tid, other.pulse)
    }
}
