//! A survey of the live tasks of a root at a bounded cost: how many tasks of each kind are in each
//! state, and the age of the oldest task of each group.
//!
//! Each survey reads at most 131,072 slots, which takes about a millisecond, and continues where
//! the last one stopped. With no more slots than that it is complete. With more, the states are
//! those of a sample, and an oldest task may be found only some surveys later.

use crate::registry::root::Root;
use crate::registry::slots::slot::Slot;
use crate::registry::{bounds, clock, heartbeats, kind, live_task, scope, slots};
use std::collections::HashSet;
use std::time::Duration;

/// The number of chunks of slots that one survey reads. Each chunk has 1,024 slots.
const CHUNKS: usize = 128;
/// The number of labels of groups.
const GROUPS: usize = bounds::GROUP_LABELS;

/// A sequence of surveys, which remembers where it stopped and the oldest task of each group.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The chunk at which the next survey begins.
    from: usize,
    /// The oldest live task found so far, by the group's label.
    oldest: [Option<Oldest>; GROUPS],
}

/// The result of one survey.
#[derive(Debug, Default)]
pub(crate) struct Surveyed {
    /// The number of tasks, by the kind's number and by [`TaskState`](crate::task::TaskState) as a
    /// number.
    pub(crate) states: Vec<[u64; 5]>,
    /// The age of the oldest task found so far, by the group's label; `None` if there is none.
    pub(crate) oldest: [Option<Duration>; GROUPS],
    /// True if every slot was read, so `states` counts all live tasks.
    pub(crate) complete: bool,
}

/// A live task, with what identifies it in its slot.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    /// The slot in which it was found.
    slot: &'static Slot,
    /// It tells the task from a later one in the slot.
    id: u64,
    /// The clock's reading at its spawn.
    started: u64,
}

// === impl Survey ===

impl Survey {
    /// Reads the next slots, and returns what was found of the root's tasks. Oldest tasks of
    /// earlier surveys that have ended are forgotten first.
    ///
    /// Called when the metrics are read. Allocates a row for each kind.
    pub(crate) fn take(&mut self, root: &Root) -> Surveyed {
        let now = clock::raw();
        let stalled = heartbeats::stalled();
        let made = slots::chunks_made();
        let mut seen = Surveyed {
            states: vec![[0; 5]; kind::made()],
            complete: made <= CHUNKS,
            ..Surveyed::default()
        };
        for oldest in &mut self.oldest {
            *oldest = oldest.filter(Oldest::lives);
        }
        let from = if seen.complete { 0 } else { self.from };
        for chunk in (from..from + made.min(CHUNKS)).map(|chunk| chunk % made) {
            for slot in slots::chunk(chunk) {
                self.look(slot, root, (now, &stalled), &mut seen);
            }
        }
        self.from = (from + CHUNKS) % made.max(1);
        for (age, oldest) in seen.oldest.iter_mut().zip(&self.oldest) {
            let since = |oldest: &Oldest| clock::nanos_between(oldest.started, now);
            *age = oldest.as_ref().map(since).map(Duration::from_nanos);
        }
        seen
    }

    /// Reads one slot, and adds its task to `seen` if the task belongs to the root.
    fn look(
        &mut self,
        slot: &'static Slot,
        root: &Root,
        (now, stalled): (u64, &HashSet<(usize, u64)>),
        seen: &mut Surveyed,
    ) {
        let Some(reading) = slot.read() else { return };
        if scope::at(reading.entry.scope).root() != root.number {
            return;
        }
        let task = live_task(slot, &reading, now, stalled);
        // A kind that was made since the survey began is counted by the next one.
        let Some(states) = seen.states.get_mut(task.kind.number as usize) else {
            return;
        };
        states[task.state as usize] += 1;
        let oldest = &mut self.oldest[task.kind.label];
        let started = reading.entry.started;
        if oldest.is_none_or(|oldest| started < oldest.started) {
            let id = task.id.get();
            *oldest = Some(Oldest { slot, id, started });
        }
    }
}

// === impl Oldest ===

impl Oldest {
    /// Returns whether the task is still in its slot.
    fn lives(&self) -> bool {
        let reading = self.slot.read();
        reading.is_some_and(|reading| reading.entry.id == self.id)
    }
}
