//! The tasks that a runtime itself lists: which of them are untracked, and which tasks can never
//! wake.
//!
//! tokio's list has every task of the runtime, and does not know which are headcount's. Only
//! headcount spawns the type of a tracked future, so one task decides for all of its type:
//!
//! - The waker in a slot refers to the task of the slot.
//! - A task that has published no waker has the reference to its slot among the words of its future.
//! - A task that waits, and for which neither holds, is untracked.
//!
//! The slots are read after the list, and a task decides only if it is still there afterwards: its
//! address may serve another one by then. Nothing is read before the first look.

use crate::inspect::header::Task;
use crate::inspect::list::{Bounds, End};
use crate::inspect::own::{OwnReader, Place, Refusal};
use crate::registry::kind::{self, Kind};
use crate::registry::scope::{self, Scope};
use crate::registry::slots;
use crate::registry::untracked::mark::mark_tracked;
use crate::task::TaskId;
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The longest time of a look. One million tasks take about half of it.
const BUDGET: Duration = Duration::from_secs(1);
/// The most tasks of a look.
const TASKS: usize = 1 << 20;
/// The words of a future among which the reference to its slot is looked for.
const FUTURE: usize = 1 << 13;
/// The most types of futures of which it is known whether they are tracked.
const TYPES: usize = 1 << 16;
/// The most spawn sites of which the places are read.
const SITES: usize = 1 << 12;
/// The pauses before types that are not known yet are looked at again: their tasks were being polled.
const MOMENTS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(1), LAST_MOMENT];
/// The last of them. A task that is still being polled is not a tracked one in its last moment, in
/// which its slot is free already.
const LAST_MOMENT: Duration = Duration::from_millis(20);
/// The number of looks that are remembered, to tell the age of a task.
const LOOKS: usize = 32;

/// The types of futures by the addresses of their tables: true for those that headcount spawns. In
/// the whole process.
static KNOWN: Mutex<Option<HashMap<u64, bool>>> = Mutex::new(None);

/// The reader of a runtime's tasks, which is made at the first look.
#[derive(Debug, Default)]
pub(crate) struct RuntimeReader(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    reader: Option<OwnReader>,
    /// The times of earlier looks, each with the largest id of a task at that time. Ids grow, so a
    /// task with a smaller one is older than that.
    looks: Vec<(Instant, u64)>,
}

/// The tasks of a runtime at one look.
#[derive(Debug, Default)]
pub(crate) struct RuntimeTasks {
    /// The untracked tasks.
    pub(crate) untracked: Vec<UntrackedTask>,
    /// The tracked tasks that wait although nothing is left that could wake them.
    pub(crate) unwakeable: Vec<(TaskId, &'static Kind)>,
    /// The functions of the types of the untracked tasks, by the addresses of their tables.
    pub(crate) functions: HashMap<u64, [u64; 7]>,
    /// The places of spawns by their addresses, with `tokio_unstable`.
    pub(crate) places: HashMap<u64, Place>,
    /// True if every task was seen.
    pub(crate) is_listed: bool,
    /// True if every task was seen, and its type is known.
    pub(crate) is_whole: bool,
}

/// An untracked task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UntrackedTask {
    pub(crate) task: Task,
    /// The time for which it has lived at least; `None` if no earlier look saw a task as young.
    pub(crate) age: Option<Duration>,
    /// True if it waits although nothing is left that could wake it.
    pub(crate) unwakeable: bool,
}

/// The tracked tasks of the process.
#[derive(Debug, Default)]
struct TrackedTasks {
    /// By the address of the task, from the wakers in the slots.
    by_header: HashMap<u64, TrackedTask>,
    /// The addresses of the slots without a waker.
    unpublished: HashSet<u64>,
}

#[derive(Debug, Clone, Copy)]
struct TrackedTask {
    id: TaskId,
    kind: &'static Kind,
    scope: &'static Scope,
}

// === impl RuntimeReader ===

impl RuntimeReader {
    /// Looks at the tasks of the runtime of `handle`. Its tracked tasks are in `scope`. `own` returns
    /// the id of the last task of headcount itself. Takes about half a microsecond a task, and at most
    /// about a second. Other looks at the same runtime wait meanwhile.
    ///
    /// # Errors
    ///
    /// Fails if the list cannot be read; the reason is for people.
    pub(in crate::registry) fn look(
        &self,
        scope: &'static Scope,
        own: impl Fn() -> u64,
        handle: &Handle,
    ) -> Result<RuntimeTasks, Refusal> {
        self.open(scope, handle)?;
        let mut state = self.lock();
        let State { reader, looks } = &mut *state;
        let Some(reader) = reader else {
            // Another look has closed it meanwhile.
            return Ok(RuntimeTasks::default());
        };
        let begun = Instant::now();
        let until = begun + BUDGET;
        let bounds = Bounds {
            tasks: TASKS,
            until: End::At(until),
        };
        let look = reader.look(handle, bounds);
        // After the look: a tracked task that was in the list and is alive now has its slot.
        let tracked = TrackedTasks::all();
        let types = tracked.types(reader, handle, &look.tasks, own(), until);
        let mut tasks = RuntimeTasks {
            is_listed: look.is_whole(),
            is_whole: look.is_whole(),
            ..RuntimeTasks::default()
        };
        for task in &look.tasks {
            match types.get(&task.table) {
                Some(true) => tasks.unwakeable.extend(
                    tracked
                        .unwakeable(reader, handle, task, scope)
                        .map(|tracked| (tracked.id, tracked.kind)),
                ),
                Some(false) => tasks.add(reader, task, looks, begun),
                None => tasks.is_whole = false,
            }
        }
        if let Some(youngest) = look.tasks.iter().map(|task| task.id).max() {
            remember(looks, begun, youngest);
        }
        Ok(tasks)
    }

    /// Makes the reader, unless there is one. Not under the lock: tokio calls hooks of the application
    /// when a task is spawned.
    fn open(&self, scope: &'static Scope, handle: &Handle) -> Result<(), Refusal> {
        if self.lock().reader.as_ref().is_some_and(OwnReader::is_ours) {
            return Ok(());
        }
        let reader = {
            // The task by which the list is found is headcount's.
            let _mark = mark_tracked();
            OwnReader::new(scope.root(), handle)
        };
        self.lock().reader = Some(reader?);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is kept is whole between two looks.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl RuntimeTasks ===

impl RuntimeTasks {
    /// Adds an untracked task.
    fn add(&mut self, reader: &OwnReader, task: &Task, looks: &[(Instant, u64)], now: Instant) {
        if let Some(functions) = reader.functions(task) {
            self.functions.entry(task.table).or_insert(functions);
        }
        if task.spawned != 0 && self.places.len() < SITES {
            let places = &mut self.places;
            if !places.contains_key(&task.spawned) {
                places.extend(reader.place(task).map(|place| (task.spawned, place)));
            }
        }
        let older = |(_, id): &&(Instant, u64)| *id >= task.id;
        self.untracked.push(UntrackedTask {
            task: *task,
            age: looks.iter().find(older).map(|(at, _)| now - *at),
            unwakeable: task.state.can_never_wake(0),
        });
    }
}

/// Keeps the time of a look. Every second one is dropped when there are too many, so that the
/// oldest reach far back.
fn remember(looks: &mut Vec<(Instant, u64)>, at: Instant, youngest: u64) {
    if looks.last().is_some_and(|(_, last)| *last >= youngest) {
        // No task was spawned since.
        return;
    }
    if looks.len() >= LOOKS {
        let mut keep = false;
        looks.retain(|_| {
            keep = !keep;
            keep
        });
    }
    looks.push((at, youngest));
}

/// An answer of a task to the question whether headcount spawns the tasks of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// It does, or it does not.
    Surely(bool),
    /// It does, unless a word in the task's memory is not its own.
    Perhaps,
}

// === impl TrackedTasks ===

impl TrackedTasks {
    /// Reads the slots of all live tasks of the process: several runtimes may be watched, and one may
    /// be watched twice.
    fn all() -> Self {
        let mut tracked = Self::default();
        for slot in slots::all() {
            let Some(before) = slot.read() else {
                continue;
            };
            let header = slot.waker_address();
            // The slot may have changed hands before the waker was read.
            let id = before.entry.id;
            if slot.read().is_none_or(|after| after.entry.id != id) {
                continue;
            }
            let task = TrackedTask {
                id: TaskId(id),
                kind: kind::at(before.entry.kind),
                scope: scope::at(before.entry.scope),
            };
            match header {
                Some(header) => drop(tracked.by_header.insert(header, task)),
                None => drop(tracked.unpublished.insert(slot.address() as u64)),
            }
        }
        tracked
    }

    /// Returns the types of tasks: true for those that headcount spawns. One that could not be told by
    /// `until` is missing. `own`: the id of a task of headcount itself.
    fn types(
        &self,
        reader: &OwnReader,
        handle: &Handle,
        tasks: &[Task],
        own: u64,
        until: Instant,
    ) -> HashMap<u64, bool> {
        let mut types = known().get_or_insert_default().clone();
        let mut unknown: Vec<&Task> = tasks.iter().collect();
        let mut polled = HashMap::new();
        for pause in MOMENTS {
            unknown.retain(|task| !types.contains_key(&task.table));
            if unknown.is_empty() {
                break;
            }
            thread::sleep(pause);
            let is_last = pause == LAST_MOMENT;
            // Most tasks that had no waker then have one by now.
            let later = is_last.then(Self::all);
            let tracked = later.as_ref().unwrap_or(self);
            for task in &unknown {
                if Instant::now() > until {
                    break;
                }
                if types.contains_key(&task.table) {
                    continue;
                }
                match tracked.is_tracked(reader, handle, task, own) {
                    Some(Told::Surely(is_tracked)) => drop(types.insert(task.table, is_tracked)),
                    Some(Told::Perhaps) if is_last => drop(polled.insert(task.table, true)),
                    None if is_last && reader.again(handle, task).is_some() => {
                        polled.insert(task.table, false);
                    }
                    Some(Told::Perhaps) | None => {}
                }
            }
        }
        let mut known = known();
        let known = known.get_or_insert_default();
        for (table, is_tracked) in &types {
            if known.len() < TYPES {
                known.insert(*table, *is_tracked);
            }
        }
        // For this look alone, because it is not certain.
        polled.extend(types);
        polled
    }

    /// Returns what a task tells about whether headcount spawned those of its type; `None` if it does not
    /// tell.
    fn is_tracked(
        &self,
        reader: &OwnReader,
        handle: &Handle,
        task: &Task,
        own: u64,
    ) -> Option<Told> {
        // It was there before and after the slots were read, so the address was its own.
        let now = reader.again(handle, task)?;
        if self.by_header.contains_key(&task.header) || task.id == own {
            return Some(Told::Surely(true));
        }
        let words = reader.cell(handle, task, FUTURE);
        // The word may also be left of a task that had this memory before.
        if words.iter().any(|word| self.unpublished.contains(word)) {
            return Some(Told::Perhaps);
        }
        // A task that is being polled may be a tracked one in its last moment: its slot is free.
        let is_still = !now.state.is_running() && !now.state.is_complete();
        let is_seen = self.unpublished.is_empty() || words.len() < FUTURE;
        (is_still && is_seen).then_some(Told::Surely(false))
    }

    /// Returns the tracked task, if it is in the scope and waits although nothing is left that could
    /// wake it.
    fn unwakeable(
        &self,
        reader: &OwnReader,
        handle: &Handle,
        task: &Task,
        scope: &'static Scope,
    ) -> Option<TrackedTask> {
        // Its slot holds a waker.
        if !task.state.can_never_wake(1) {
            return None;
        }
        let tracked = self.by_header.get(&task.header)?;
        let now = reader.again(handle, task)?;
        (now.state.can_never_wake(1) && tracked.scope.is_below(scope)).then_some(*tracked)
    }
}

fn known() -> MutexGuard<'static, Option<HashMap<u64, bool>>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
