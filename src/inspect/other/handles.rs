//! The lists of tasks, found from the stacks of a process's threads.
//!
//! A thread that runs a runtime, or waits in `block_on`, has the address of the runtime's handle on
//! its stack, and each task has it too. The lists are at another place in the handle in each version of
//! tokio, so they are found by their shape: an array of locked lists, its length, and a mask that is one less. Before tokio
//! 1.33, and in a `LocalSet`, there is one list.

use super::checks;
use crate::inspect::header::{Tables, Task};
use crate::inspect::list::{self, Bounds, End, Lists};
use crate::inspect::memory::Memory;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::time::Duration;

/// The bytes of a stack that are searched, from its pointer on.
const STACK: u64 = 1 << 20;
/// The words of a handle that are searched.
const HANDLE: usize = 256;
/// The most lists of a runtime.
const SHARDS: u64 = 1 << 16;
/// The words of a locked list: its lock, and its two ends.
const LIST: usize = 3;
/// The most addresses that are looked at as handles.
const CANDIDATES: usize = 1 << 18;
/// The words of a shared value that are looked at, with its two counts.
const SHARED: usize = 6;
/// More references than a value has.
const MANY: u64 = 1 << 32;
/// The most tasks, and the most processor time, for a look that tells a runtime's count.
const TASKS: usize = 1 << 20;
const LOOK: Duration = Duration::from_secs(1);
/// The most reads of an array of lists while their tasks come and go.
const TRIES: u32 = 4;
/// The fewest lists by which a runtime without tasks is recognized.
const EMPTY: u64 = 4;

/// The lists of a process.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By their owners.
    pub(super) lists: BTreeMap<u64, Lists>,
    /// The owners of tasks that stacks point to, if their lists were not found.
    pub(super) lost: HashSet<u64>,
    /// Tasks on stacks that run and are cancelled, by their addresses: a runtime that is dropped removes them from its
    /// lists, and waits for them.
    pub(super) cancelled: BTreeMap<u64, Task>,
    /// Runtimes without tasks.
    pub(super) empty: usize,
}

// === impl Found ===

impl Found {
    /// Adds lists. All lists of a runtime are more than one of them, or than something that looks like one.
    fn insert(&mut self, lists: Lists) {
        let known = self.lists.get(&lists.owner);
        if known.is_none_or(|known| known.heads.len() < lists.heads.len()) {
            self.lists.insert(lists.owner, lists);
        }
    }

    /// Adds the result of another search.
    pub(super) fn merge(&mut self, other: Self) {
        other
            .lists
            .into_values()
            .for_each(|lists| self.insert(lists));
        self.cancelled.extend(other.cancelled);
        self.lost.extend(other.lost);
        self.lost.retain(|owner| !self.lists.contains_key(owner));
        self.empty = self.empty.max(other.empty);
    }
}

/// Searches stacks, of which the ranges are given.
pub(super) fn find(memory: &Memory, tables: &Tables, stacks: &[Range<u64>]) -> Found {
    let mut search = Search {
        memory,
        tables,
        seen: HashSet::new(),
        found: Found::default(),
        empty: HashSet::new(),
        owners: BTreeMap::new(),
    };
    memory.keep(true);
    for stack in stacks {
        let length = (stack.end - stack.start).min(STACK) / 8;
        for word in memory.some_words(stack.start, usize::try_from(length).unwrap_or(0)) {
            search.look_at(word);
        }
    }
    memory.keep(false);
    let Search {
        mut found,
        empty,
        owners,
        ..
    } = search;
    let lost = owners
        .into_keys()
        .filter(|owner| !found.lists.contains_key(owner));
    found.lost = lost.collect();
    found.empty = empty.len();
    found
}

struct Search<'a> {
    memory: &'a Memory,
    tables: &'a Tables,
    seen: HashSet<u64>,
    found: Found,
    /// The addresses of lists that are empty.
    empty: HashSet<u64>,
    /// The owners of tasks that were met.
    owners: BTreeMap<u64, u64>,
}

/// The lists at one place.
enum Place {
    Lists(Lists),
    /// The address of the array of a runtime's lists, which are all empty.
    Empty(u64),
}

// === impl Search ===

impl Search<'_> {
    /// Looks at a word of a stack: it may be the address of a handle, or of a task.
    fn look_at(&mut self, word: u64) {
        let is_new = self.seen.len() < CANDIDATES
            && is_address(word)
            && self.memory.is_writable(word)
            && self.seen.insert(word);
        if !is_new {
            return;
        }
        if let Some(task) = self.tables.task(self.memory, word) {
            if is_cancelled(&task) {
                self.found.cancelled.insert(word, task);
            } else if task.owner != 0 && !task.state.is_complete() {
                self.owners.insert(task.owner, word);
            }
            let is_new = self.seen.insert(task.scheduler);
            if is_new && self.memory.is_writable(task.scheduler) {
                self.take(task.scheduler);
            }
            return;
        }
        self.take(word);
        // A `LocalSet` has its list behind an `Rc` and an `Arc`.
        if let Some([strong, weak, inside @ ..]) = self.memory.words::<SHARED>(word)
            && [strong, weak].iter().all(|count| (1..MANY).contains(count))
        {
            for word in inside {
                let is_new = is_address(word) && self.memory.is_writable(word);
                if is_new && self.seen.insert(word) {
                    self.take(word);
                }
            }
        }
    }

    /// Takes the lists of a handle, if the address is that of one.
    fn take(&mut self, handle: u64) {
        for place in places(self.memory, self.tables, handle) {
            match place {
                Place::Lists(lists) => self.take_lists(lists, handle),
                Place::Empty(at) => {
                    self.empty.insert(at);
                }
            }
        }
    }

    fn take_lists(&mut self, lists: Lists, handle: u64) {
        // A worker that changes one of many lists has the address of that list on its stack. The handle
        // that the tasks point to has all of them.
        let is_one = lists.heads.len() == 1;
        match self.of_scheduler(&lists) {
            Some(lists) => self.found.insert(lists),
            // Two words with the address of a task that was removed from its list look like a list.
            None if is_one && self.is_removed(&lists) => {}
            None if is_one => {
                self.owners.insert(lists.owner, handle);
            }
            None => self.found.insert(lists),
        }
    }

    /// Returns whether the newest task of some lists may have been removed from them.
    fn is_removed(&self, lists: &Lists) -> bool {
        let newest = self.memory.word(lists.heads[0]);
        let newest = newest.and_then(|newest| self.tables.task(self.memory, newest));
        newest.is_some_and(|newest| is_cancelled(&newest))
    }

    /// Returns the lists in the handle that the tasks of some lists have as their scheduler.
    fn of_scheduler(&self, lists: &Lists) -> Option<Lists> {
        let newest = |head: &u64| {
            let newest = self.memory.word(*head).filter(|newest| *newest != 0)?;
            lists.task(self.memory, self.tables, newest)
        };
        let task = lists.heads.iter().find_map(newest)?;
        let places = places(self.memory, self.tables, task.scheduler).into_iter();
        let own = places.filter_map(|place| match place {
            Place::Lists(found) if found.owner == lists.owner => Some(found),
            _ => None,
        });
        // Of equal ones the first: memory behind the handle may have a copy that was moved away, with an old count.
        own.reduce(|first, other| match other.heads.len() > first.heads.len() {
            true => other,
            false => first,
        })
    }
}

/// Returns whether a task is being polled, or dropped, and is not to be polled again.
pub(super) fn is_cancelled(task: &Task) -> bool {
    task.owner != 0 && task.state.is_running() && task.state.is_cancelled()
}

fn is_address(word: u64) -> bool {
    word.is_multiple_of(8) && (1 << 16..1 << 48).contains(&word)
}

/// Searches a handle for its lists. The ends of a queue of tasks that were woken look like a single list for a moment, so
/// there may be several.
fn places(memory: &Memory, tables: &Tables, handle: u64) -> Vec<Place> {
    let words = memory.some_words(handle, HANDLE);
    let mut found = Vec::new();
    for (at, window) in (handle..).step_by(8).zip(words.windows(5)) {
        found.extend(sharded(memory, tables, at, window));
        let [newest, oldest] = [window[0], window[1]];
        if is_address(newest)
            && is_address(oldest)
            && let Some(owner) = owner(memory, tables, newest, oldest)
            && !is_in_task(memory, tables, newest, at)
        {
            found.push(Place::Lists(Lists {
                heads: vec![at],
                owner,
                count: None,
            }));
        }
    }
    found
}

/// Takes words of a handle for its array of lists, if they have the shape of one. `at` is the address
/// of the first word.
fn sharded(memory: &Memory, tables: &Tables, at: u64, words: &[u64]) -> Option<Place> {
    let (array, shards) = (words[0], words[1]);
    if !is_address(array) || !shards.is_power_of_two() || shards > SHARDS {
        return None;
    }
    let masks = (2..words.len()).filter(|place| words[*place] == shards - 1);
    let masks: Vec<usize> = masks.collect();
    masks.first()?;
    let mut lists = Vec::new();
    for _ in 0..TRIES {
        lists = memory.some_words(array, LIST * usize::try_from(shards).ok()?);
        if lists.len() as u64 != LIST as u64 * shards {
            return None;
        }
        // The lock is before the list or behind it.
        let found = [1, 0].into_iter().find_map(|first| {
            let owner = owner_of_lists(memory, tables, &lists, first)?;
            Some((first as u64, owner))
        });
        if let Some((first, owner)) = found {
            let heads = (0..shards).map(|shard| array + 8 * (first + LIST as u64 * shard));
            let lists = Lists {
                heads: heads.collect(),
                owner,
                count: None,
            };
            // The count is the word before the mask, unless there is none.
            let counts = masks.iter().filter(|mask| **mask > 2);
            let counts: Vec<u64> = counts.map(|mask| at + 8 * (*mask as u64 - 1)).collect();
            return Some(Place::Lists(with_count(memory, tables, lists, &counts)));
        }
        // The oldest tasks may have ended between two reads. Words without any task are no lists.
        let tasks = lists.iter().filter(|word| {
            let task = is_address(**word).then(|| tables.task(memory, **word));
            task.flatten().is_some()
        });
        if tasks.clone().next().is_none() {
            break;
        }
        tasks.for_each(|task| forget(memory, tables, *task));
        (0..lists.len() as u64).for_each(|word| memory.forget(array + 8 * word));
    }
    let is_zero = |mask: &usize| *mask > 2 && words[mask - 1] == 0;
    let is_empty = shards >= EMPTY && masks.iter().any(is_zero);
    let is_empty = is_empty && lists.iter().all(|word| *word == 0);
    is_empty.then_some(Place::Empty(array))
}

/// Returns the owner of the tasks of an array of lists, of which the first end is this word of three.
fn owner_of_lists(memory: &Memory, tables: &Tables, lists: &[u64], first: usize) -> Option<u64> {
    let ends = lists
        .chunks_exact(LIST)
        .map(|list| (list[first], list[first + 1]));
    let filled = ends.filter(|(newest, oldest)| (newest | oldest) != 0);
    let filled: Vec<(u64, u64)> = filled.collect();
    let owners = filled
        .iter()
        .filter(|ends| ends.0 != 0)
        .filter_map(|ends| owner_of_oldest(memory, tables, ends.1));
    let owners: Vec<u64> = owners.collect();
    // A list may change while its ends are looked at; most do not.
    let is_sure = owners.len() * 2 >= filled.len();
    let first = owners.first().copied().filter(|_| is_sure)?;
    owners.iter().all(|owner| *owner == first).then_some(first)
}

/// Forgets the copies of a task.
fn forget(memory: &Memory, tables: &Tables, task: u64) {
    memory.forget(task);
    memory.forget(task + 16);
    let table = memory.word(task + 16);
    if let Some(table) = table.and_then(|table| tables.get(memory, table)) {
        memory.forget(task.wrapping_add(table.trailer));
    }
}

/// Adds the address of the runtime's count to its lists. A count may be equal to the mask, so there may be
/// several places: the one that agrees with the tasks is taken, or none.
fn with_count(memory: &Memory, tables: &Tables, lists: Lists, counts: &[u64]) -> Lists {
    let with = |count| Lists {
        count,
        ..lists.clone()
    };
    if counts.len() < 2 {
        return with(counts.first().copied());
    }
    let agrees = |count: &&u64| {
        let bounds = Bounds {
            tasks: TASKS,
            until: End::after(LOOK),
        };
        let look = list::look(memory, tables, &with(Some(**count)), bounds);
        look.given_up == 0 && checks::agrees(&look)
    };
    let count = counts.iter().find(agrees).copied();
    memory.keep(true);
    with(count)
}

/// Returns the owner of the oldest task of a list, if none is beyond it. The newest may have ended already
/// when it is read; the oldest seldom changes.
fn owner_of_oldest(memory: &Memory, tables: &Tables, oldest: u64) -> Option<u64> {
    let oldest = tables.task(memory, oldest)?;
    (oldest.owner != 0 && oldest.older == 0).then_some(oldest.owner)
}

/// Returns whether an address is that of the neighbours in a task: those of the second task of three
/// are the ends of its list too.
fn is_in_task(memory: &Memory, tables: &Tables, newest: u64, at: u64) -> bool {
    let second = tables.task(memory, newest).map(|newest| newest.older);
    let second = second.and_then(|second| tables.task(memory, second));
    second.is_some_and(|task| {
        let table = tables.get(memory, task.table);
        table.is_some_and(|table| task.header.wrapping_add(table.trailer) == at)
    })
}

/// Returns the owner of the two ends of a list, if nothing is beyond them.
fn owner(memory: &Memory, tables: &Tables, newest: u64, oldest: u64) -> Option<u64> {
    let newest = tables.task(memory, newest)?;
    let oldest = tables.task(memory, oldest)?;
    let is_list =
        newest.owner != 0 && newest.owner == oldest.owner && newest.newer == 0 && oldest.older == 0;
    is_list.then_some(newest.owner)
}
