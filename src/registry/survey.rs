//! What the live tasks of a root are doing, at a bounded cost: how many of a kind are in which state, and how old the
//! oldest of a group is.
//!
//! Each time it looks at 131,072 slots at most, which takes about a millisecond, and goes on where it stopped. So with
//! fewer slots it knows all; with more, the states are those of a sample, and an oldest task is found some looks later.

use super::root::Root;
use super::slot::Slot;
use super::{clock, heartbeats, kind, live_task, scope, slots};
use std::collections::HashSet;
use std::time::Duration;

/// Chunks of slots that are looked at each time.
const CHUNKS: usize = 128;
const GROUPS: usize = kind::GROUP_LABELS;

/// Looks again and again.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    from: usize,
    oldest: [Option<Oldest>; GROUPS],
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Surveyed {
    /// By kind, and by state as a number.
    pub(crate) states: Vec<[u64; 5]>,
    /// By the group's label.
    pub(crate) oldest: [Option<Duration>; GROUPS],
    /// Whether every slot was looked at.
    pub(crate) complete: bool,
}

#[derive(Debug, Clone, Copy)]
struct Oldest {
    slot: &'static Slot,
    id: u64,
    started: u64,
}

// === impl Survey ===

impl Survey {
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
        // A kind that was made since is for the next time.
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
    fn lives(&self) -> bool {
        let reading = self.slot.read();
        reading.is_some_and(|reading| reading.entry.id == self.id)
    }
}
