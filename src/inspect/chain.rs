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

mod lines;
mod links;
mod summary;
mod values;
mod walk;

pub(crate) use links::Tasks;
pub(crate) use summary::lines as tree_lines;
pub(crate) use walk::{Link, Node};

use super::descriptors::Descriptors;
use super::header::State;
use super::memory::Memory;
use super::program::{Program, Type, Types};
use lines::Lines;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;
use values::{Value, Values, inside};
use walk::Walk;

/// The most reads of a task that runs meanwhile.
const READS: usize = 3;
/// The most bytes of a future that are compared before and after it was read.
const COMPARED: u64 = 1 << 20;

/// A reader of await chains in one process.
#[derive(Debug)]
pub(crate) struct Chains<'a, 'p> {
    values: Values<'a, 'p>,
    program: &'a Program,
    descriptors: &'a Descriptors,
    /// The time of the monotonic clock, to which the deadlines of timers are compared.
    now: Duration,
    /// Whether values of a type can hold something that waits.
    can_wait: RefCell<HashMap<Type, bool>>,
    lines: Lines,
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
            values: Values { types, memory },
            program,
            descriptors,
            now: seconds + Duration::from_nanos(now.tv_nsec.try_into().unwrap_or(0)),
            can_wait: RefCell::default(),
            lines: Lines::default(),
        }
    }

    /// Reads the chains of the task at `header`, which the function `poll` polls. `None` if the task
    /// runs or has ended, or if the debug information has no types.
    pub(crate) fn of_task(&self, poll: u64, header: u64) -> Option<Tree> {
        let types = self.values.types;
        let future = types.future(self.program.in_file(poll))?;
        let (offset, stage) = types.stage(future)?;
        let stage = Value {
            of: stage,
            at: header.checked_add(offset)?,
        };
        let size = types.shape(stage.of).size.min(COMPARED);
        let size = usize::try_from(size.div_ceil(8)).ok()?;
        let memory = self.values.memory;
        let moment = || (memory.word(header), memory.some_words(stage.at, size));
        let idle = |state: Option<u64>| {
            let state = State(state?);
            (!state.is_running() && !state.is_complete()).then_some(())
        };
        for _ in 0..READS {
            let before = moment();
            idle(before.0)?;
            memory.keep(true);
            let tree = self.tree(stage);
            memory.keep(false);
            if before == moment() {
                return tree;
            }
        }
        None
    }

    /// Reads the chains of the future in a task's stage.
    fn tree(&self, stage: Value) -> Option<Tree> {
        let (running, _) = self.values.variant(stage)?;
        if running.name != "Running" {
            return None;
        }
        let running = inside(stage, &running)?;
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
