//! The await chain of a task, read from its future by the types of the debug information.
//!
//! A future that is not being polled is a value like any other. The state of an `async` function is
//! an enum: its variant has the line of the await, and the member `__awaitee` is the future that it
//! awaits. A future that is written by hand, such as a connection of hyper, is a struct: the chain
//! goes through all that it *owns*, by its members, its boxes and the containers that are known.
//! What is shared (`Arc`, `&`, raw pointers) is not followed, except from a leaf that is known to what
//! it waits for.
//!
//! A future that runs is torn, and is not read. All that was read of a task, behind its boxes too, is read
//! once more at the end: a task that ran, or that gave its memory to another one, is read again.
//!
//! Nothing here depends on the process: the memory may be this one's, or that of another one.

mod fold;
mod lines;
mod links;
mod summary;
mod values;
mod walk;

pub(crate) use fold::Folds;
pub(crate) use links::Tasks;
pub(crate) use summary::lines as tree_lines;
pub(crate) use walk::{Link, Node};

use super::descriptors::Descriptors;
use super::header::State;
use super::memory::Memory;
use super::program::{Program, Type, Types};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use values::{Value, Values, inside};
use walk::{Plan, Walk};

/// The offset of the address of the table of functions in a task's header.
const TABLE: u64 = 16;
/// The most reads of a task that runs meanwhile.
const READS: usize = 3;
/// The most tasks that are read at once, and the most bytes of notes about what was read of them.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 8 << 20;

/// A reader of await chains in one process.
#[derive(Debug)]
pub(crate) struct Chains<'a, 'p> {
    values: Values<'a, 'p>,
    program: &'a Program,
    descriptors: &'a Descriptors,
    /// The time of the monotonic clock, to which the deadlines of timers are compared.
    now: Duration,
    /// True for a type whose values can hold something that waits.
    can_wait: RefCell<FxHashMap<Type, bool>>,
    plans: RefCell<FxHashMap<Type, Rc<Plan>>>,
    /// The words for a leaf by the types of tokio's futures around it.
    told: RefCell<FxHashMap<Box<[Type]>, Option<String>>>,
    /// By the functions that poll tasks.
    stages: RefCell<FxHashMap<u64, Option<Stage>>>,
}

/// The place of the future in a task.
#[derive(Debug, Clone, Copy)]
struct Stage {
    /// The offset from the header.
    at: u64,
    of: Type,
}

/// The addresses by which a task is read, and the words by which it is told from another one that has its
/// memory later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    /// The address of its header.
    pub(crate) header: u64,
    /// The address of its table of functions.
    pub(crate) table: u64,
    /// The function that polls it.
    pub(crate) poll: u64,
    /// The offset of its id from the header, and the id.
    pub(crate) id: (u64, u64),
}

/// The chains of a task: one for each future that it waits for, with common beginnings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tree {
    /// The type of the future, without a box around it.
    pub(crate) name: Rc<str>,
    pub(crate) roots: Vec<Node>,
    /// Senders of oneshot channels and guards of locks in the future; false for one that may have been
    /// moved away.
    pub(crate) gives: Vec<(Link, bool)>,
    /// True if a bound was reached: the rest is missing.
    pub(crate) is_cut: bool,
}

// === impl Chains ===

impl<'a, 'p> Chains<'a, 'p> {
    pub(crate) fn new(
        types: &'a Types<'p>,
        memory: &'a Memory,
        program: &'a Program,
        descriptors: &'a Descriptors,
    ) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = Duration::from_secs(now.tv_sec.try_into().unwrap_or(0));
        Self {
            values: Values::new(types, memory),
            program,
            descriptors,
            now: seconds + Duration::from_nanos(now.tv_nsec.try_into().unwrap_or(0)),
            can_wait: RefCell::default(),
            plans: RefCell::default(),
            told: RefCell::default(),
            stages: RefCell::default(),
        }
    }

    /// Reads the chains of a task. `None` if it runs or has ended, or if the debug information has no types.
    pub(crate) fn of_task(&self, task: Address) -> Option<Tree> {
        (0..READS).find_map(|_| {
            let mut read = None;
            self.of_batch(&[task], |_, tree| read = Some(tree));
            read
        })?
    }

    /// Reads the chains of tasks, and gives each to `take` with its place among them, in any order. Tasks that are
    /// neighbours in memory are read together.
    pub(crate) fn of_tasks(&self, tasks: &[Address], mut take: impl FnMut(usize, Option<Tree>)) {
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        order.sort_unstable_by_key(|at| tasks[*at].header);
        for batch in order.chunks(BATCH) {
            let of_batch: Vec<Address> = batch.iter().map(|at| tasks[*at]).collect();
            let mut is_taken = vec![false; batch.len()];
            self.of_batch(&of_batch, |at, tree| {
                is_taken[at] = true;
                take(batch[at], tree);
            });
            let changed = (0..batch.len()).filter(|at| !is_taken[*at]);
            changed.for_each(|at| take(batch[at], self.of_task(of_batch[at])));
        }
    }

    /// Reads the chains of tasks from one copy of their memory. A task that changed meanwhile is not given to
    /// `take`.
    fn of_batch(&self, tasks: &[Address], mut take: impl FnMut(usize, Option<Tree>)) {
        let memory = self.values.memory;
        let (mut size, mut read) = (0, Vec::new());
        memory.keep(true);
        for (at, task) in tasks.iter().enumerate() {
            let Some(stage) = self.stage(task.poll) else {
                take(at, None);
                continue;
            };
            if size > BATCH_BYTES {
                break;
            }
            memory.note();
            let is_idle = task.is_idle(memory);
            let tree = is_idle.then(|| self.tree(stage, task.header.wrapping_add(stage.at)));
            let noted = memory.noted();
            match tree {
                Some(tree) => {
                    size += noted.size();
                    read.push((at, noted, tree));
                }
                None => take(at, None),
            }
        }
        // What was copied is older than what is read from here on.
        memory.keep(true);
        for (at, noted, tree) in read {
            if memory.is_unchanged(&noted) {
                take(at, tree);
            }
        }
        memory.keep(false);
    }

    /// Returns the place of the future in the tasks that a function polls.
    fn stage(&self, poll: u64) -> Option<Stage> {
        let mut stages = self.stages.borrow_mut();
        *stages.entry(poll).or_insert_with(|| {
            let types = self.values.types;
            let future = types.future(self.program.in_file(poll))?;
            let (at, of) = types.stage(future)?;
            Some(Stage { at, of })
        })
    }

    /// Reads the chains of the future in a task's stage.
    fn tree(&self, stage: Stage, at: u64) -> Option<Tree> {
        let shape = self.values.shape(stage.of);
        let running = self.values.variant(at, &shape)?;
        if running.name != "Running" {
            return None;
        }
        let running = inside(Value { of: stage.of, at }, running)?;
        let shape = self.values.shape(running.of);
        let future = inside(running, shape.members.first()?)?;
        let mut walk = Walk::new(self);
        let mut roots = Vec::new();
        walk.value(future, 0, &mut roots);
        Some(Tree {
            name: self.values.types.name(self.concrete(future)),
            roots,
            gives: walk.gives(),
            is_cut: walk.is_cut(),
        })
    }

    /// Returns the type of a future without the box that it may be in.
    fn concrete(&self, future: Value) -> Type {
        let boxed = "core::pin::Pin<alloc::boxed::Box<(dyn";
        let is_boxed = self.values.types.name(future.of).starts_with(boxed);
        let table = is_boxed.then(|| self.values.word_of(future, &["vtable"]));
        let table = table.flatten().map(|table| self.program.in_file(table));
        let types = table.map(|table| self.values.types.of_table(table));
        let one = types.and_then(|types| match types.as_slice() {
            [one] => Some(*one),
            _ => None,
        });
        one.unwrap_or(future.of)
    }
}

// === impl Address ===

impl Address {
    /// Returns whether the task is still the one at this address, and is neither polled nor finished.
    fn is_idle(&self, memory: &Memory) -> bool {
        let is_same = memory.word(self.header.wrapping_add(TABLE)) == Some(self.table)
            && memory.word(self.header.wrapping_add(self.id.0)) == Some(self.id.1);
        let state = memory.word(self.header).map(State);
        is_same && state.is_some_and(|state| !state.is_running() && !state.is_complete())
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Memory, TABLE};
    use std::path::Path;

    const TABLE_OF_TASK: u64 = 0x1000;
    const ID: (usize, u64) = (5, 17);
    const IDLE: u64 = 2 * 64;

    /// Changes a word of a task that waits, and returns whether it is still taken for that task.
    fn is_idle_with(word: usize, value: u64) -> bool {
        let memory = Memory::open(Path::new("/proc/self"), 1 << 20);
        let memory = memory.expect("a process may read its own memory");
        let mut words = [IDLE, 0, TABLE_OF_TASK, 3, 0, ID.1];
        words[word] = value;
        let task = Address {
            header: (&raw const words).addr() as u64,
            table: TABLE_OF_TASK,
            poll: 0,
            id: (8 * ID.0 as u64, ID.1),
        };
        task.is_idle(&memory)
    }

    #[test]
    fn the_memory_of_a_task_that_has_another_one_by_now_is_not_read_as_the_first() {
        assert!(
            is_idle_with(1, 0x2000),
            "its place in a queue tells nothing"
        );
        assert!(!is_idle_with(ID.0, ID.1 + 1));
        assert!(!is_idle_with(TABLE as usize / 8, TABLE_OF_TASK + 0x60));
        assert!(!is_idle_with(0, IDLE | 1), "it runs");
        assert!(!is_idle_with(0, IDLE | 2), "it has ended");
    }
}
