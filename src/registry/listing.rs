//! Live tasks a page at a time, the oldest first: as much memory as the page takes, whatever lives.

use super::scope::Scope;
use super::{LiveTask, clock, heartbeats, live_task, readings};
use std::collections::BinaryHeap;

/// A task's place in the order of all: by the clock's reading at its spawn, then by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) started: u64,
    pub(crate) id: u64,
}

/// The first live tasks of a scope.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) tasks: Vec<LiveTask>,
    /// After which the next page begins; `None` when there is none.
    pub(crate) next: Option<Place>,
}

#[derive(Debug)]
struct Row(Place, LiveTask);

/// The oldest `limit` tasks after a place for which `choose` holds.
pub(crate) fn page(
    scope: &'static Scope,
    limit: usize,
    after: Option<Place>,
    choose: impl Fn(&LiveTask) -> bool,
) -> Page {
    let now = clock::raw();
    let stalled = heartbeats::stalled();
    let mut oldest = BinaryHeap::with_capacity(limit + 2);
    readings(scope).for_each(|(slot, reading)| {
        let (started, id) = (reading.entry.started, reading.entry.id);
        let place = Place { started, id };
        let is_late = oldest.len() > limit
            && oldest
                .peek()
                .is_some_and(|Row(youngest, _)| *youngest < place);
        if is_late || after.is_some_and(|after| place <= after) {
            return;
        }
        let task = live_task(slot, &reading, now, &stalled);
        if choose(&task) {
            oldest.push(Row(place, task));
            // One more than the page holds tells that there is another page.
            if oldest.len() > limit + 1 {
                oldest.pop();
            }
        }
    });
    let mut rows = oldest.into_sorted_vec();
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().map(|Row(place, _)| *place);
    Page {
        next: last.filter(|_| more),
        tasks: rows.into_iter().map(|Row(_, task)| task).collect(),
    }
}

// === impl Row ===

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Row {}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
