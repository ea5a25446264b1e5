//! The walk over all that a future owns.
//!
//! A local of a coroutine that was moved away is still in its state, as a copy. So a future that a
//! coroutine holds without awaiting it is marked as held, and one behind a pointer in it as held or
//! moved away: it may be freed. Neither is ever taken for what the task waits for.

mod containers;
mod leaves;
mod plan;
mod search;

pub(super) use plan::Plan;

use super::Chains;
use super::values::{Value, inside};
use crate::inspect::program::{Place, Type};
use plan::{Coroutine, Step};
use rustc_hash::FxHashSet;
use std::rc::Rc;

/// The bounds of the walk of one task.
const LEVELS: u32 = 200;
const VALUES: usize = 50_000;
const NODES: usize = 2000;
pub(super) const ELEMENTS: u64 = 64;
/// The most bytes of a leaf that are compared before and after it was read.
const LEAF: usize = 1 << 10;

/// The kind of a node of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A suspended `async` function or block.
    Frame,
    /// Something that wakes the task.
    Leaf,
    /// A future of which nothing more is known.
    Note,
}

/// The certainty that a node is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// It is awaited.
    Awaited,
    /// A local of the coroutine above that is not awaited.
    Held,
    /// Behind a pointer in such a local: it may be freed.
    Doubtful,
}

/// An object by which the task is found that another one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Link {
    /// A oneshot channel.
    Oneshot(u64),
    /// The semaphore of a lock.
    Lock(u64),
    /// The header of a task.
    Task(u64),
}

/// A future that a task owns, with the futures that it awaits or holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    /// The function of a frame, or what a leaf waits for.
    pub(crate) text: Rc<str>,
    /// For a frame, the place of its await.
    pub(crate) place: Option<Rc<Place>>,
    /// True if only the function's place is known, and not that of the await.
    pub(crate) is_near: bool,
    pub(crate) hold: Hold,
    pub(crate) link: Option<Link>,
    pub(crate) below: Vec<Self>,
}

/// A walk of one task.
pub(super) struct Walk<'w, 'a, 'p> {
    pub(super) chains: &'w Chains<'a, 'p>,
    seen: FxHashSet<Value>,
    nodes: usize,
    gives: Vec<(Link, bool)>,
    pub(super) hold: Hold,
    is_cut: bool,
    /// The leaves that are awaited: a copy of one may be in a local.
    awaited: Vec<Rc<str>>,
    /// The types of tokio around a value, up to the innermost coroutine that is not tokio's.
    pub(super) around: Vec<Type>,
}

// === impl Node ===

impl Node {
    pub(super) fn new(kind: Kind, text: impl Into<Rc<str>>, hold: Hold) -> Self {
        Self {
            kind,
            text: text.into(),
            place: None,
            is_near: false,
            hold,
            link: None,
            below: Vec::new(),
        }
    }

    /// Returns the place in parentheses, after a space; empty if there is none.
    pub(crate) fn shown_place(&self) -> String {
        let near = if self.is_near { "somewhere after " } else { "" };
        let place = self.place.as_ref();
        place.map_or_else(String::new, |place| format!(" ({near}{place})"))
    }

    /// Returns whether it is a frame of the program's own code.
    pub(crate) fn is_own(&self) -> bool {
        self.kind == Kind::Frame && self.place.as_deref().is_some_and(Place::is_own)
    }
}

// === impl Walk ===

impl<'w, 'a, 'p> Walk<'w, 'a, 'p> {
    pub(super) fn new(chains: &'w Chains<'a, 'p>) -> Self {
        Self {
            chains,
            seen: FxHashSet::default(),
            nodes: 0,
            gives: Vec::new(),
            hold: Hold::Awaited,
            is_cut: false,
            awaited: Vec::new(),
            around: Vec::new(),
        }
    }

    pub(super) fn gives(&mut self) -> Vec<(Link, bool)> {
        std::mem::take(&mut self.gives)
    }

    /// Notes something that another task may wait for: a sender, or a guard. One behind a pointer in a
    /// local may be freed, and is not noted.
    pub(super) fn give(&mut self, what: Link) {
        if self.hold != Hold::Doubtful {
            self.gives.push((what, self.hold == Hold::Awaited));
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut
    }

    pub(super) fn cut(&mut self) {
        self.is_cut = true;
    }

    /// Notes a value. Returns false for one that was seen.
    pub(super) fn is_new(&mut self, value: Value) -> bool {
        self.seen.insert(value)
    }

    /// Walks a value.
    pub(super) fn value(&mut self, value: Value, level: u32, out: &mut Vec<Node>) {
        if level > LEVELS || self.seen.len() >= VALUES || self.nodes >= NODES {
            self.is_cut = true;
            return;
        }
        let plan = self.chains.plan(value.of);
        if matches!(plan.step, Step::Nothing) || !self.is_new(value) {
            return;
        }
        let hold = self.hold;
        if hold == Hold::Held && plan.is_behind_pointer {
            self.hold = Hold::Doubtful;
        }
        let depth = self.around.len();
        if plan.is_of_tokio {
            self.around.push(value.of);
        }
        self.inside(value, &plan, level, out);
        self.around.truncate(depth);
        self.hold = hold;
    }

    fn inside(&mut self, value: Value, plan: &Plan, level: u32, out: &mut Vec<Node>) {
        let values = &self.chains.values;
        match &plan.step {
            Step::Nothing => {}
            Step::Leaf(leaf, payload) => self.leaf(value, leaf, payload, out),
            Step::Coroutine(coroutine) => {
                self.nodes += 1;
                self.frame(value, coroutine, level, out);
            }
            Step::Dynamic(pointer, table) => {
                let words = (
                    value.at.wrapping_add(*pointer),
                    value.at.wrapping_add(*table),
                );
                self.dynamic(words.0, words.1, level, out);
            }
            Step::Pointer(of) => {
                if let Some(at) = values.word(value.at).filter(|at| *at != 0) {
                    self.value(Value { of: *of, at }, level + 1, out);
                }
            }
            Step::Array(element, length) => self.several(*element, value.at, *length, level, out),
            Step::Container(shape) => self.container(value, shape, &plan.name, level, out),
            Step::Members(members, of_enum) => {
                let variant = of_enum
                    .as_ref()
                    .and_then(|shape| values.variant(value.at, shape));
                if let Some(inner) = variant.and_then(|variant| inside(value, variant)) {
                    self.value(inner, level + 1, out);
                }
                for member in members {
                    let inner = Value {
                        of: member.of,
                        at: value.at.wrapping_add(member.at),
                    };
                    // A timer in the future of a timeout is not the timeout's own.
                    let around = member.is_limited.then(|| std::mem::take(&mut self.around));
                    self.value(inner, level + 1, out);
                    self.around = around.unwrap_or_else(|| std::mem::take(&mut self.around));
                }
            }
        }
    }

    /// Takes a leaf, if it waits.
    fn leaf(&mut self, value: Value, leaf: &'static str, payload: &str, out: &mut Vec<Node>) {
        let values = &self.chains.values;
        // The leaf is the task's own. What it shares with others changes while the task waits.
        let size = usize::try_from(values.shape(value.of).size).unwrap_or(LEAF);
        let memory = values.memory;
        memory.read(value.at, &mut [0; LEAF][..size.min(LEAF)]);
        if let Some((text, link)) = memory.aside(|| self.words(value, leaf, payload)) {
            self.nodes += 1;
            let text: Rc<str> = text.into();
            if self.hold == Hold::Awaited && !self.awaited.contains(&text) {
                self.awaited.push(Rc::clone(&text));
            }
            out.push(Node {
                link,
                ..Node::new(Kind::Leaf, text, self.hold)
            });
        }
    }

    /// Takes a coroutine: its await, then its locals.
    fn frame(&mut self, value: Value, coroutine: &Coroutine, level: u32, out: &mut Vec<Node>) {
        let Some(state) = self.chains.values.tag(value.at, &coroutine.shape) else {
            return;
        };
        let suspended = match self.chains.suspended(coroutine, state) {
            Ok(suspended) => suspended,
            Err(text) => {
                out.push(Node::new(Kind::Note, text, self.hold));
                return;
            }
        };
        let mut node = Node::new(Kind::Frame, Rc::clone(&coroutine.function), self.hold);
        (node.place, node.is_near) = (suspended.place.clone(), suspended.is_near);
        let around = match coroutine.is_of_tokio {
            true => None,
            false => Some(std::mem::take(&mut self.around)),
        };
        let at = |offset| value.at.wrapping_add(offset);
        if let Some((offset, of, note)) = &suspended.awaited {
            let future = Value {
                of: *of,
                at: at(*offset),
            };
            self.value(future, level + 1, &mut node.below);
            if node.below.is_empty() {
                node.below
                    .push(Node::new(Kind::Note, Rc::clone(note), self.hold));
            }
        }
        let locals = suspended.locals.iter();
        let locals = locals.map(|(offset, of)| Value {
            of: *of,
            at: at(*offset),
        });
        self.locals(locals, level, &mut node.below);
        self.around = around.unwrap_or_else(|| std::mem::take(&mut self.around));
        out.push(node);
    }

    /// Takes the locals of a coroutine, which it holds and does not await.
    fn locals(&mut self, locals: impl Iterator<Item = Value>, level: u32, out: &mut Vec<Node>) {
        let mut held = Vec::new();
        let hold = self.hold;
        self.hold = hold.max(Hold::Held);
        for local in locals {
            self.value(local, level + 1, &mut held);
        }
        self.hold = hold;
        // A local that was moved into what is awaited is still there, as a copy.
        let is_other = |node: &Node| match node.kind {
            Kind::Frame => true,
            Kind::Leaf => !self.awaited.contains(&node.text),
            Kind::Note => false,
        };
        out.extend(held.into_iter().filter(is_other));
    }

    /// Takes the value behind a pointer to a `dyn` type.
    pub(super) fn dynamic(&mut self, pointer: u64, table: u64, level: u32, out: &mut Vec<Node>) {
        let values = &self.chains.values;
        let (Some(at), Some(table)) = (values.word(pointer), values.word(table)) else {
            return;
        };
        let types = values.types.of_table(self.chains.program.in_file(table));
        let Some(of) = types.first().copied() else {
            return;
        };
        // The table has the size and alignment of its type: a type of another size is not it.
        let Some([_, size, alignment]) = values.memory.words(table) else {
            return;
        };
        if size != values.shape(of).size || !alignment.is_power_of_two() {
            return;
        }
        let before = out.len();
        self.value(Value { of, at }, level + 1, out);
        let name = values.types.name(of);
        if types.iter().any(|other| values.types.name(*other) != name) {
            for node in &mut out[before..] {
                node.text = format!("{} (or one with the same table)", node.text).into();
            }
        }
    }

    /// Takes the elements of an array.
    pub(super) fn several(
        &mut self,
        of: Type,
        at: u64,
        length: u64,
        level: u32,
        out: &mut Vec<Node>,
    ) {
        let size = self.chains.values.shape(of).size;
        if size == 0 || matches!(self.chains.plan(of).step, Step::Nothing) {
            return;
        }
        self.is_cut |= length > ELEMENTS;
        for element in 0..length.min(ELEMENTS) {
            let at = at.wrapping_add(element.wrapping_mul(size));
            self.value(Value { of, at }, level + 1, out);
        }
    }
}

/// Returns whether a pointer of this type is followed: it owns the value, or has it for itself.
pub(super) fn follows(name: &str) -> bool {
    is_box(name) || name.starts_with("&mut ")
}

pub(super) fn is_box(name: &str) -> bool {
    name.starts_with("alloc::boxed::Box<")
}

/// Returns a type with the last part of each path in it.
pub(super) fn short(name: &str) -> String {
    let mut short = String::new();
    let mut word = String::new();
    for c in name.chars() {
        match c {
            ':' => word.clear(),
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            c => {
                short.push_str(&std::mem::take(&mut word));
                short.push(c);
            }
        }
    }
    short + &word
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn a_short_type_has_no_paths() {
        let name = "core::result::Result<alloc::vec::Vec<u8>, (shop::Error, u32)>";
        assert_eq!(short(name), "Result<Vec<u8>, (Error, u32)>");
        assert_eq!(short("u32"), "u32");
    }
}
