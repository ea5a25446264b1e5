//! Tallies: live tasks counted by kind. A tally has a row per kind with live tasks, and a few tasks
//! in each, however many there are. Findings are also told apart by the turns that their tasks have
//! had, because a task without one is not to blame.

use super::path;
use super::row::{KindRow, TaskRow};
use crate::registry::kind::Kind;
use crate::registry::scope::Scope;
use crate::registry::{LiveTask, Turns, live_tasks, on_threads};
use crate::task::TaskState;
use crate::threads;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The most tasks that a row lists.
const LISTED: usize = 5;

/// Live tasks, counted by kind.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By the number of the kind, and in findings by the turns; `None` for tasks on a thread.
    kinds: BTreeMap<(u32, Option<Turns>), KindRow>,
    /// The kind of the task that each thread is on, by thread id.
    on_threads: HashMap<u32, &'static Kind>,
}

// === impl Tally ===

impl Tally {
    /// Counts the live tasks of a scope and of all scopes below it for which `choose` returns true.
    pub(crate) fn of(scope: &'static Scope, choose: impl FnMut(&LiveTask) -> bool) -> Self {
        Self::by(scope, choose, |_, _| Some(Turns::Some))
    }

    /// Counts like [`of`](Self::of). Tasks of one kind are in one row only if they have had the
    /// same turns. A task on a thread has a turn, and is in a row with other such tasks only.
    pub(crate) fn by_turns(scope: &'static Scope, choose: impl FnMut(&LiveTask) -> bool) -> Self {
        Self::by(scope, choose, |task, is_on_thread| {
            (!is_on_thread).then_some(task.turns)
        })
    }

    fn by(
        scope: &'static Scope,
        mut choose: impl FnMut(&LiveTask) -> bool,
        turns: fn(&LiveTask, bool) -> Option<Turns>,
    ) -> Self {
        let mut tally = Self::default();
        let on_threads = on_threads();
        for task in live_tasks(scope).iter().filter(|task| choose(task)) {
            let row = TaskRow::new(task, &on_threads);
            if let Some(tid) = row.on_thread {
                tally.on_threads.insert(tid, task.kind);
            }
            let turns = turns(task, row.on_thread.is_some());
            let kind = tally.kinds.entry((task.kind.number, turns));
            let kind = kind.or_insert_with(|| KindRow::new(task.kind));
            kind.add(task, row);
        }
        tally
    }

    /// Adds all rows of another tally.
    pub(crate) fn merge(&mut self, other: Self) {
        self.on_threads.extend(other.on_threads);
        for (number, row) in other.kinds {
            match self.kinds.get_mut(&number) {
                Some(known) => known.merge(row),
                None => drop(self.kinds.insert(number, row)),
            }
        }
    }

    /// Returns the number of tasks in all rows.
    pub(crate) fn count(&self) -> u64 {
        self.kinds.values().map(|row| row.count).sum()
    }

    /// Returns the path of the task that each thread is on, by thread id.
    pub(crate) fn on_threads(&self) -> HashMap<u32, String> {
        let kinds = self.on_threads.iter();
        kinds
            .map(|(tid, kind)| (*tid, path(kind.group(), kind.name)))
            .collect()
    }

    /// Returns the type of the future of the task that each thread is on, by thread id.
    pub(crate) fn futures(&self) -> HashMap<u32, &'static str> {
        let kinds = self.on_threads.iter();
        kinds.map(|(tid, kind)| (*tid, kind.future)).collect()
    }

    /// Returns the rows, the one with the oldest task first.
    pub(crate) fn rows(&self) -> Vec<&KindRow> {
        let mut rows: Vec<_> = self.kinds.values().collect();
        rows.sort_by_key(|row| Reverse(row.oldest));
        rows
    }

    /// Returns the rows with the names of the threads: first those that are on a thread, then those
    /// that were told to drain, the one with the oldest task first.
    pub(crate) fn into_findings(self) -> Vec<KindRow> {
        let mut rows = self.into_rows();
        rows.sort_by_key(|row| (row.tid().is_none(), row.draining.is_none()));
        rows
    }

    /// Returns the rows as [`rows`](Self::rows) does, with the names of the threads.
    pub(crate) fn into_rows(self) -> Vec<KindRow> {
        let known = threads::all();
        let mut rows: Vec<_> = self.kinds.into_values().collect();
        rows.sort_by_key(|row| Reverse(row.oldest));
        for row in &mut rows {
            row.on_thread = row.tid().map(|tid| {
                let name = known.iter().find(|thread| thread.tid == tid);
                let name = name.map_or("", |thread| thread.name.as_str());
                format!("\"{name}\" (tid {tid})")
            });
        }
        rows
    }
}

/// Merges the rows of one kind, whatever turns their tasks have had. The first row of each keeps its
/// place.
pub(crate) fn merged(rows: Vec<KindRow>) -> Vec<KindRow> {
    let mut merged: Vec<KindRow> = Vec::with_capacity(rows.len());
    for row in rows {
        match merged.iter_mut().find(|known| known.is_same_kind(&row)) {
            Some(known) => known.merge(row),
            None => merged.push(row),
        }
    }
    merged
}

// === impl KindRow ===

impl KindRow {
    fn add(&mut self, task: &LiveTask, new: TaskRow) {
        self.count += 1;
        self.states[task.state as usize] += 1;
        self.oldest = self.oldest.max(task.age());
        self.draining = self.draining.max(task.scope().draining_for());
        match task.turns {
            _ if new.on_thread.is_some() => {}
            Turns::Some => {}
            Turns::NoneSinceTold => self.not_polled += 1,
            Turns::Never => self.never_started += 1,
        }
        // Usually false: most tasks are younger than those kept, and occupy no thread.
        let place = self.rows.partition_point(|row| rank(row) <= rank(&new));
        if place < LISTED {
            self.rows.truncate(LISTED - 1);
            let last_poll = task.last_poll();
            self.rows.insert(place, TaskRow { last_poll, ..new });
        }
    }

    /// Leaves `count` of the tasks, and of those that are listed the ones for which `choose` returns
    /// true. The states are those of as many tasks, the furthest first.
    pub(crate) fn keep(&mut self, count: u64, choose: impl FnMut(&TaskRow) -> bool) {
        let first = self.tid();
        self.rows.retain(choose);
        self.rows.truncate(usize::try_from(count).unwrap_or(LISTED));
        if self.tid() != first {
            self.on_thread = None;
        }
        self.count = count;
        let mut left = count;
        for state in self.states.iter_mut().rev() {
            *state = left.min(*state);
            left -= *state;
        }
    }

    /// Adds the tasks of another row of the same kind. The listed tasks of this one stay, unless a
    /// task on a thread takes their place.
    fn merge(&mut self, other: Self) {
        self.count += other.count;
        for (own, other) in self.states.iter_mut().zip(other.states) {
            *own += other;
        }
        self.oldest = self.oldest.max(other.oldest);
        self.draining = self.draining.max(other.draining);
        self.never_started += other.never_started;
        self.not_polled += other.not_polled;
        self.rows.extend(other.rows);
        self.rows.sort_by_key(|row| row.on_thread.is_none());
        self.rows.truncate(LISTED);
    }
}

/// Returns the rank by which tasks are listed, lowest first: on a thread, then stalled, then oldest.
fn rank(row: &TaskRow) -> (bool, bool, Reverse<Duration>) {
    let is_calm = row.state != TaskState::Stalled;
    (row.on_thread.is_none(), is_calm, Reverse(row.age))
}
