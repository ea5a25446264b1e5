//! The await chain of a task, read from its future by the types of the debug information.
//!
//! A future that is not being polled is a value like any other. The state of an `async` function is
//! an enum: its variant has the line of the await, and the member `__awaitee` is the future that it
//! awaits. A future that is written by hand, such as a connection of hyper, is a struct: the chain
//! goes through all that it *owns*, by its members, its boxes and the containers that are known.
//! What is shared (`Arc`, `&`, raw pointers) is not followed, except from a leaf that is known to what
//! it waits for.
//!
//! A future that runs is torn, and is not read. A task that ran meanwhile is read again.
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

/// The most reads of a task that runs meanwhile.
const READS: usize = 3;
/// The most bytes of a future that are compared before and after it was read.
const COMPARED: u64 = 1 << 20;
/// The most tasks that are read at once, and the most bytes of their futures.
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
    /// The offset from the header, and the size.
    at: u64,
    size: usize,
    of: Type,
}

/// The addresses by which a task is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Address {
    /// The address of its header.
    pub(crate) header: u64,
    /// The function that polls it.
    pub(crate) poll: u64,
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
        let (mut copies, mut read) = (Vec::new(), Vec::new());
        memory.keep(true);
        for (at, task) in tasks.iter().enumerate() {
            let Some(stage) = self.stage(task.poll) else {
                take(at, None);
                continue;
            };
            let from = copies.len();
            if from > BATCH_BYTES {
                break;
            }
            let is_idle = copy(memory, *task, stage, &mut copies).is_some_and(|state| {
                let state = State(state);
                !state.is_running() && !state.is_complete()
            });
            if is_idle {
                let tree = self.tree(stage, task.header.wrapping_add(stage.at));
                read.push((at, stage, from..copies.len(), tree));
            } else {
                copies.truncate(from);
                take(at, None);
            }
        }
        // What was copied is older than what is read from here on.
        memory.keep(true);
        let mut now = Vec::new();
        for (at, stage, before, tree) in read {
            now.clear();
            copy(memory, tasks[at], stage, &mut now);
            if now == copies[before] {
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
            let size = types.shape(of).size.min(COMPARED);
            Some(Stage {
                at,
                size: usize::try_from(size).ok()?,
                of,
            })
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

/// Copies the state and the future of a task to the end of `into`. Returns the state; `None` if it cannot be read.
fn copy(memory: &Memory, task: Address, stage: Stage, into: &mut Vec<u8>) -> Option<u64> {
    let from = into.len();
    let state = memory.word(task.header)?;
    into.extend(state.to_le_bytes());
    into.resize(from + size_of::<u64>() + stage.size, 0);
    let at = task.header.wrapping_add(stage.at);
    let read = memory.read(at, &mut into[from + size_of::<u64>()..]);
    into.truncate(from + size_of::<u64>() + read);
    Some(state)
}
