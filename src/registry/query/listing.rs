//! Lists of live tasks by page, the oldest first. A page needs memory for its own tasks only,
//! however many are live.
//!
//! A page is found by a heap of the oldest tasks seen so far: of each slot it is known at once
//! whether its task can still be on the page. A list that is read page by page is not a snapshot. A
//! task that is live during all of it appears exactly once, since its position does not change.

use crate::registry::scope::Scope;
use crate::registry::{LiveTask, clock, heartbeats, live_task, readings};
use std::collections::BinaryHeap;

/// The position of a task in the order of all tasks: by the clock's reading at its spawn, then by
/// its id. It does not change while the task is live, so the next page can begin after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// The clock's reading at the spawn.
    pub(crate) started: u64,
    /// The task's id.
    pub(crate) id: u64,
}

/// One page of the live tasks of a scope.
#[derive(Debug)]
pub(crate) struct Page {
    /// The tasks, the oldest first.
    pub(crate) tasks: Vec<LiveTask>,
    /// The position after which the next page begins; `None` on the last page.
    pub(crate) next: Option<Position>,
}

/// A task with its position, by which tasks are compared. The youngest row is on top of the heap.
#[derive(Debug)]
struct Row(Position, LiveTask);

/// Returns the oldest `limit` tasks after a position for which `choose` returns true. Walks over
/// all slots, and keeps at most `limit` + 1 tasks.
///
/// `choose` is called only for tasks that could be on the page, so it may be costly.
pub(crate) fn page(
    scope: &'static Scope,
    limit: usize,
    after: Option<Position>,
    choose: impl Fn(&LiveTask) -> bool,
) -> Page {
    let now = clock::raw();
    let stalled = heartbeats::stalled();
    let mut oldest = BinaryHeap::with_capacity(limit + 2);
    readings(scope).for_each(|(slot, reading)| {
        let (started, id) = (reading.entry.started, reading.entry.id);
        let position = Position { started, id };
        let is_late = oldest.len() > limit
            && oldest
                .peek()
                .is_some_and(|Row(youngest, _)| *youngest < position);
        if is_late || after.is_some_and(|after| position <= after) {
            return;
        }
        let task = live_task(slot, &reading, now, &stalled);
        if choose(&task) {
            oldest.push(Row(position, task));
            // One task more than the page holds shows that there is a next page.
            if oldest.len() > limit + 1 {
                oldest.pop();
            }
        }
    });
    let mut rows = oldest.into_sorted_vec();
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().map(|Row(position, _)| *position);
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
