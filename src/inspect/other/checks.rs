//! The self-checks of the lists of a process.
//!
//! Each holds the tasks against something that was not used to find them. A check that may fail for a
//! moment, because a worker is between two steps, is made again a little later.

use crate::inspect::header::{State, Tables, Task};
use crate::inspect::list::{Lists, Look};
use crate::inspect::memory::Memory;
use rustc_hash::FxHashMap;
use std::time::Duration;

/// The time after which a task is looked at again.
const MOMENT: Duration = Duration::from_millis(20);
/// One in so many tasks may be in another list than its id says: one that was freed and used again
/// while it was read.
const MISPLACED: usize = 50;
/// The allowance for a list that was given up, in tasks.
const GIVEN_UP: u64 = 50;

/// Returns whether the number of tasks is about that which the runtime counts.
pub(super) fn agrees(look: &Look) -> bool {
    look.counted.is_none_or(|(before, after)| {
        let (low, high) = (before.min(after), before.max(after));
        let moved = (high - low).saturating_add(look.given_up as u64 * GIVEN_UP);
        let range = low.saturating_sub(moved.saturating_add(low / 50))
            ..=high.saturating_add(moved).saturating_add(high / 50);
        range.contains(&(look.tasks.len() as u64))
    })
}

/// Returns the problems of a look at the lists of a runtime. `unchecked` gets the checks that were not
/// possible.
pub(super) fn problems(
    memory: &Memory,
    tables: &Tables,
    lists: &Lists,
    look: &Look,
    unchecked: &mut Vec<&'static str>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let tasks = look.tasks.len();
    if look.given_up > 0 {
        wrong.push(format!(
            "{} of {} lists of tasks do not close",
            look.given_up,
            lists.heads.len()
        ));
    }
    if look.misplaced.saturating_mul(MISPLACED) > tasks {
        wrong.push(format!(
            "{} of {tasks} tasks are in another list than their ids say",
            look.misplaced
        ));
    }
    match look.counted {
        Some((before, _)) if !agrees(look) => wrong.push(format!(
            "{tasks} tasks are in the lists, and the runtime counts {before}"
        )),
        Some(_) => {}
        None => unchecked.push("the runtime's own count of its tasks"),
    }
    let now = |task: &Task| {
        let now = lists.task(memory, tables, task.header)?;
        (now.id == task.id && is_linked(memory, tables, &now)).then_some(now)
    };
    let mut ids: FxHashMap<u64, u64> = FxHashMap::default();
    ids.reserve(tasks);
    let doubtful = look.tasks.iter().filter(|task| {
        let other = ids.insert(task.id, task.header);
        task.id == 0 || other.is_some_and(|other| other != task.header)
    });
    let twice = doubtful.filter(|task| now(task).is_some()).count();
    if twice > 0 {
        wrong.push(format!("{twice} tasks have no id, or that of another task"));
    }
    let rules: [(&dyn Fn(State) -> bool, &str); 3] = [
        (
            &|state| state.is_complete(),
            "are finished, and still in the list",
        ),
        (
            &|state| state.is_awaited() && !state.has_join_handle() && !state.is_complete(),
            "have the waker of a handle, and no handle",
        ),
        (
            &|state| state.references() < 1 + u64::from(state.has_join_handle()),
            "have fewer references than holders",
        ),
    ];
    let breaks = |is_wrong: &dyn Fn(State) -> bool| -> Vec<&Task> {
        let suspects = look.tasks.iter().filter(|task| is_wrong(task.state));
        let still = |task: &&Task| now(task).is_some_and(|now| is_wrong(now.state));
        suspects.filter(still).collect()
    };
    let suspects: Vec<Vec<&Task>> = rules.iter().map(|rule| breaks(rule.0)).collect();
    if suspects.iter().any(|suspects| !suspects.is_empty()) {
        std::thread::sleep(MOMENT);
    }
    for ((is_wrong, what), suspects) in rules.iter().zip(suspects) {
        let still = |task: &&&Task| now(task).is_some_and(|now| is_wrong(now.state));
        let count = suspects.iter().filter(still).count();
        if count > 0 {
            wrong.push(format!("{count} tasks {what}"));
        }
    }
    wrong
}

/// Returns whether the neighbours of a task say that it is in its list.
fn is_linked(memory: &Memory, tables: &Tables, task: &Task) -> bool {
    let newer = task.newer == 0
        || tables
            .task(memory, task.newer)
            .is_some_and(|newer| newer.older == task.header);
    let older = task.older == 0
        || tables
            .task(memory, task.older)
            .is_some_and(|older| older.newer == task.header);
    newer && older
}
