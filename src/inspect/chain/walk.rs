//! The walk over all that a future owns.
//!
//! A local of a coroutine that was moved away is still in its state, as a copy. So a future that a
//! coroutine holds without awaiting it is marked as held, and one behind a pointer in it as held or
//! moved away: it may be freed. Neither is ever taken for what the task waits for.

mod containers;
mod leaves;
mod search;

use super::Chains;
use super::values::{Value, inside};
use crate::inspect::program::{Place, Shape, Type};
use search::Found;
use std::collections::HashSet;
use std::rc::Rc;

/// The bounds of the walk of one task.
const LEVELS: u32 = 200;
const VALUES: usize = 50_000;
const NODES: usize = 2000;
pub(super) const ELEMENTS: u64 = 64;

/// The type of a future with a timeout.
const TIMEOUT: &str = "tokio::time::timeout::Timeout<";

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
    pub(crate) text: String,
    /// For a frame, the place of its await.
    pub(crate) place: Option<Place>,
    /// True if only the function's place is known, and not that of the await.
    pub(crate) is_near: bool,
    pub(crate) hold: Hold,
    pub(crate) link: Option<Link>,
    pub(crate) below: Vec<Self>,
}

/// A walk of one task.
pub(super) struct Walk<'w, 'a, 'p> {
    pub(super) chains: &'w Chains<'a, 'p>,
    seen: HashSet<Value>,
    nodes: usize,
    gives: Vec<(Link, bool)>,
    pub(super) hold: Hold,
    is_cut: bool,
    /// The leaves that are awaited: a copy of one may be in a local.
    awaited: HashSet<String>,
    /// The paths of the types around a value, up to the innermost coroutine that is not tokio's.
    pub(super) around: Vec<Rc<str>>,
}

// === impl Node ===

impl Node {
    pub(super) fn new(kind: Kind, text: impl Into<String>, hold: Hold) -> Self {
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
        self.kind == Kind::Frame && self.place.as_ref().is_some_and(Place::is_own)
    }
}

// === impl Walk ===

impl<'w, 'a, 'p> Walk<'w, 'a, 'p> {
    pub(super) fn new(chains: &'w Chains<'a, 'p>) -> Self {
        Self {
            chains,
            seen: HashSet::new(),
            nodes: 0,
            gives: Vec::new(),
            hold: Hold::Awaited,
            is_cut: false,
            awaited: HashSet::new(),
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
        if !self.can_wait(value.of) || !self.is_new(value) {
            return;
        }
        let values = self.chains.values;
        let (shape, name) = (values.shape(value.of), values.types.name(value.of));
        let hold = self.hold;
        if hold == Hold::Held && is_behind_pointer(&shape, &name) {
            self.hold = Hold::Doubtful;
        }
        let depth = self.around.len();
        self.around.push(Rc::clone(&name));
        self.inside(value, &shape, &name, level, out);
        self.around.truncate(depth);
        self.hold = hold;
    }

    fn inside(&mut self, value: Value, shape: &Shape, name: &str, level: u32, out: &mut Vec<Node>) {
        if leaves::is_leaf(name) {
            self.leaf(value, name, out);
            return;
        }
        if shape.is_coroutine() {
            self.nodes += 1;
            self.frame(value, name, level, out);
            return;
        }
        let follows = follows(name);
        if let Some((pointer, table)) = shape.wide("vtable") {
            if follows {
                let (pointer, table) =
                    (value.at.wrapping_add(pointer), value.at.wrapping_add(table));
                self.dynamic(pointer, table, level, out);
            }
            return;
        }
        if let Some(of) = shape.pointee {
            let at = self.chains.values.word(value.at).filter(|at| *at != 0);
            if let Some(at) = at.filter(|_| follows) {
                self.value(Value { of, at }, level + 1, out);
            }
            return;
        }
        if let Some((element, length)) = shape.array {
            self.several(element, value.at, length, level, out);
            return;
        }
        if self.container(value, shape, name, level, out) || shape.is_union {
            return;
        }
        let variant = self.chains.values.variant(value).map(|found| found.0);
        for member in variant.iter().chain(&shape.members) {
            if let Some(inner) = inside(value, member) {
                // A timer in the future of a timeout is not the timeout's own.
                let is_limited = member.name == "value" && name.starts_with(TIMEOUT);
                let around = is_limited.then(|| std::mem::take(&mut self.around));
                self.value(inner, level + 1, out);
                self.around = around.unwrap_or_else(|| std::mem::take(&mut self.around));
            }
        }
    }

    /// Takes a leaf, if it waits.
    fn leaf(&mut self, value: Value, name: &str, out: &mut Vec<Node>) {
        if let Some((text, link)) = self.words(value, name) {
            self.nodes += 1;
            if self.hold == Hold::Awaited {
                self.awaited.insert(text.clone());
            }
            out.push(Node {
                link,
                ..Node::new(Kind::Leaf, text, self.hold)
            });
        }
    }

    /// Takes a coroutine: its await, then its locals.
    fn frame(&mut self, value: Value, name: &str, level: u32, out: &mut Vec<Node>) {
        let values = self.chains.values;
        let Some((variant, state)) = values.variant(value) else {
            return;
        };
        let function = function(name);
        let suspended = inside(value, &variant).filter(|_| state >= 3);
        let Some(suspended) = suspended else {
            let states = ["has not started", "has returned", "has panicked"];
            let known = usize::try_from(state)
                .ok()
                .and_then(|state| states.get(state));
            let text = format!("{function} {}", known.unwrap_or(&"is in an unknown state"));
            out.push(Node::new(Kind::Note, text, self.hold));
            return;
        };
        let shape = values.shape(suspended.of);
        let awaited = shape.member("__awaitee");
        let place = variant.place.clone();
        let outside = |place| {
            let awaited = awaited.and_then(|awaited| awaited.of);
            self.chains.outside_macro(value.of, name, awaited, place)
        };
        let mut node = Node::new(Kind::Frame, function, self.hold);
        if let Some((place, is_near)) = place.map(outside) {
            (node.place, node.is_near) = (Some(place), is_near);
        }
        let around = match name.starts_with("tokio::") {
            true => Vec::new(),
            false => std::mem::take(&mut self.around),
        };
        if let Some(future) = awaited.and_then(|awaited| inside(suspended, awaited)) {
            self.value(future, level + 1, &mut node.below);
            if node.below.is_empty() {
                let text = short(&values.types.name(future.of));
                node.below.push(Node::new(Kind::Note, text, self.hold));
            }
        }
        self.locals(suspended, &shape, level, &mut node.below);
        if !name.starts_with("tokio::") {
            self.around = around;
        }
        out.push(node);
    }

    /// Takes the locals of a coroutine, which it holds and does not await.
    fn locals(&mut self, state: Value, shape: &Shape, level: u32, out: &mut Vec<Node>) {
        let mut held = Vec::new();
        let hold = self.hold;
        self.hold = hold.max(Hold::Held);
        for local in shape
            .members
            .iter()
            .filter(|local| local.name != "__awaitee")
        {
            if let Some(local) = inside(state, local) {
                self.value(local, level + 1, &mut held);
            }
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
        let values = self.chains.values;
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
                node.text += " (or one with the same table)";
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
        if size == 0 || !self.can_wait(of) {
            return;
        }
        self.is_cut |= length > ELEMENTS;
        for element in 0..length.min(ELEMENTS) {
            let at = at.wrapping_add(element.wrapping_mul(size));
            self.value(Value { of, at }, level + 1, out);
        }
    }

    /// Returns whether a value of this type can hold something that waits.
    fn can_wait(&self, of: Type) -> bool {
        let mut known = self.chains.can_wait.borrow_mut();
        search::can_wait(of, &mut known, |of| self.look(of))
    }

    /// Looks whether a type may wait itself, or which ones in it may.
    fn look(&self, of: Type) -> Found<Type> {
        let values = self.chains.values;
        let (shape, name) = (values.shape(of), values.types.name(of));
        let follows = follows(&name);
        let waits = shape.is_coroutine()
            || leaves::is_leaf(&name)
            || containers::is_boxed(&name)
            || follows && shape.wide("vtable").is_some();
        if waits {
            return Found::Waits;
        }
        let mut inside = Vec::new();
        if let Some(pointee) = shape.pointee {
            inside.extend(follows.then_some(pointee));
        } else if !shape.is_union {
            let variants = shape.variants.iter().flat_map(|variants| &variants.all);
            let members = shape
                .members
                .iter()
                .chain(variants.map(|(_, member)| member));
            inside.extend(members.filter_map(|member| member.of));
        }
        if let Some(data) = shape.member("data_ptr").filter(|_| follows) {
            inside.extend(data.of.and_then(|data| values.shape(data).pointee));
        }
        if containers::is_container(&name) {
            inside.extend(shape.parameters.first());
        }
        inside.extend(shape.array.map(|(element, _)| element));
        Found::Inside(inside)
    }
}

/// Returns whether a pointer of this type is followed: it owns the value, or has it for itself.
pub(super) fn follows(name: &str) -> bool {
    is_box(name) || name.starts_with("&mut ")
}

pub(super) fn is_box(name: &str) -> bool {
    name.starts_with("alloc::boxed::Box<")
}

/// Returns whether a value owns something elsewhere, so that a copy of it that was moved away leads
/// to what is freed.
fn is_behind_pointer(shape: &Shape, name: &str) -> bool {
    is_box(name)
        || name.starts_with("alloc::") && shape.member("buf").is_some()
        || containers::is_container(name)
}

/// Returns the name of the function that a coroutine is the state of.
fn function(name: &str) -> String {
    let plain = crate::stacks::awaits::type_name::without_braces(&without_parameters(name));
    let is_block = name.contains("{async_block_env#") || name.contains("{async_closure_env#");
    match is_block {
        true => format!("async block in {plain}"),
        false => plain,
    }
}

/// Returns a name without any type parameters.
fn without_parameters(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let (mut depth, mut before) = (0_i32, ' ');
    for c in name.chars() {
        match c {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            c if depth == 0 => plain.push(c),
            _ => {}
        }
        before = c;
    }
    plain
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
    use super::{function, short};

    #[test]
    fn a_coroutine_is_named_by_its_function() {
        for (name, shown) in [
            ("shop::load::{async_fn_env#0}", "shop::load"),
            ("shop::load::{async_fn_env#0}<u8>", "shop::load"),
            ("shop::{impl#3}::load::{async_fn_env#0}", "shop::load"),
            (
                "axum::serve::handle_connection::{async_fn#0}::{async_block_env#3}<A<B>, C>",
                "async block in axum::serve::handle_connection",
            ),
        ] {
            assert_eq!(function(name), shown);
        }
    }

    #[test]
    fn a_short_type_has_no_paths() {
        let name = "core::result::Result<alloc::vec::Vec<u8>, (shop::Error, u32)>";
        assert_eq!(short(name), "Result<Vec<u8>, (Error, u32)>");
        assert_eq!(short("u32"), "u32");
    }
}
