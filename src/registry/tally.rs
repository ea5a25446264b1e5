//! Live tasks by kind: as many rows as there are places in the code, however many tasks.

use super::kind::Kind;
use super::scope::{self, Scope};
use super::{LiveTask, live_tasks, on_threads};
use crate::task::TaskId;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many ids a row keeps.
const IDS: usize = 5;

/// Live tasks by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(BTreeMap<u32, TallyRow>);

/// The live tasks of one kind.
#[derive(Debug, Clone)]
pub(crate) struct TallyRow {
    pub(crate) kind: &'static Kind,
    pub(crate) count: u64,
    pub(crate) oldest: Duration,
    /// The longest that one of them has been draining.
    pub(crate) drained: Option<Duration>,
    /// The first few of them.
    pub(crate) ids: Vec<TaskId>,
    /// The thread that one of them holds.
    pub(crate) on_thread: Option<u32>,
    /// How long that one has been in one poll; not of a closure, which has no polls.
    pub(crate) held: Option<Duration>,
}

// === impl Tally ===

impl Tally {
    /// The live tasks of a scope and below for which `choose` holds.
    pub(crate) fn of(scope: &'static Scope, mut choose: impl FnMut(&LiveTask) -> bool) -> Self {
        let mut tally = Self::default();
        let on_threads = on_threads();
        for task in live_tasks(scope) {
            if choose(&task) {
                tally.add(&task, on_threads.get(&task.place()).copied());
            }
        }
        tally
    }

    fn add(&mut self, task: &LiveTask, on_thread: Option<u32>) {
        let drained = scope::at(task.scope).draining_for();
        self.merge_row(TallyRow {
            kind: task.kind,
            count: 1,
            oldest: task.age(),
            drained,
            ids: vec![task.id],
            on_thread,
            held: on_thread.and_then(|_| task.last_poll()),
        });
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for row in other.0.into_values() {
            self.merge_row(row);
        }
    }

    fn merge_row(&mut self, row: TallyRow) {
        match self.0.get_mut(&row.kind.number) {
            None => {
                self.0.insert(row.kind.number, row);
            }
            Some(known) => {
                known.count += row.count;
                known.oldest = known.oldest.max(row.oldest);
                known.drained = known.drained.max(row.drained);
                if known.on_thread.is_none() {
                    (known.on_thread, known.held) = (row.on_thread, row.held);
                }
                let room = IDS.saturating_sub(known.ids.len());
                known.ids.extend(row.ids.into_iter().take(room));
            }
        }
    }

    /// The rows, those with the oldest task first.
    pub(crate) fn rows(&self) -> Vec<&TallyRow> {
        let mut rows: Vec<_> = self.0.values().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.oldest));
        rows
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.values().map(|row| row.count).sum()
    }
}
