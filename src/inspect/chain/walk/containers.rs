//! Containers of futures with elements behind a pointer that does not tell their type.
//!
//! They are recognized by name, and their members too. A container with private members of other
//! names in another version has no elements here; nothing is invented.

use super::{ELEMENTS, Node, Walk, is_box};
use crate::inspect::chain::values::Value;
use crate::inspect::program::{Shape, Type};

const VEC: &str = "alloc::vec::Vec<";
const DEQUE: &str = "alloc::collections::vec_deque::VecDeque<";
const UNORDERED: &str = "futures_util::stream::futures_unordered::FuturesUnordered<";
const JOIN_SET: &str = "tokio::util::idle_notified_set::IdleNotifiedSet<";

/// Returns whether a type is a container of its first parameter.
pub(super) fn is_container(name: &str) -> bool {
    [VEC, DEQUE, UNORDERED, JOIN_SET]
        .iter()
        .any(|start| name.starts_with(start))
}

/// Returns whether a type is the box of tokio-util for one future after the other.
pub(super) fn is_boxed(name: &str) -> bool {
    name.contains("::reusable_box::ReusableBoxFuture<")
}

// === impl Walk ===

impl Walk<'_, '_, '_> {
    /// Takes the elements of a container.
    pub(super) fn container(
        &mut self,
        value: Value,
        shape: &Shape,
        name: &str,
        level: u32,
        out: &mut Vec<Node>,
    ) {
        let element = shape.parameters.first().copied();
        if let Some((pointer, length)) = shape.wide("length").filter(|_| is_box(name)) {
            self.slice(value, shape, (pointer, length), level, out);
            return;
        }
        // A container of another layout has no elements.
        match element {
            Some(element) if name.starts_with(VEC) => self.vec(value, element, level, out),
            Some(element) if name.starts_with(DEQUE) => self.deque(value, element, level, out),
            _ if name.starts_with(UNORDERED) => self.unordered(value, level, out),
            _ if name.starts_with(JOIN_SET) => self.join_set(value, level, out),
            _ if is_boxed(name) => self.boxed(value, level, out),
            _ => None,
        };
    }

    fn slice(
        &mut self,
        value: Value,
        shape: &Shape,
        (pointer, length): (u64, u64),
        level: u32,
        out: &mut Vec<Node>,
    ) {
        let values = &self.chains.values;
        let data = shape.member("data_ptr").and_then(|data| data.of);
        let element = data.and_then(|data| values.shape(data).pointee);
        let words = (
            values.word(value.at.wrapping_add(pointer)),
            values.word(value.at.wrapping_add(length)),
        );
        if let (Some(element), (Some(at), Some(length))) = (element, words) {
            self.several(element, at, length, level, out);
        }
    }

    fn vec(&mut self, value: Value, of: Type, level: u32, out: &mut Vec<Node>) -> Option<()> {
        let values = &self.chains.values;
        let at = values.word_of(value, &["buf", "ptr"])?;
        let length = values.word_of(value, &["len"])?;
        self.several(of, at, length, level, out);
        Some(())
    }

    fn deque(&mut self, value: Value, of: Type, level: u32, out: &mut Vec<Node>) -> Option<()> {
        let values = &self.chains.values;
        let at = values.word_of(value, &["buf", "ptr"])?;
        let length = values.word_of(value, &["len"])?;
        let head = values.word_of(value, &["head"])?;
        let capacity = values.word_of(value, &["buf", "cap"])?;
        let size = values.shape(of).size;
        let first = length.min(capacity.saturating_sub(head));
        self.several(
            of,
            at.wrapping_add(head.wrapping_mul(size)),
            first,
            level,
            out,
        );
        self.several(of, at, length - first, level, out);
        Some(())
    }

    fn unordered(&mut self, value: Value, level: u32, out: &mut Vec<Node>) -> Option<()> {
        let values = &self.chains.values;
        let head = values.member(value, &["head_all"])?;
        let node = *values.shape(head.of).parameters.first()?;
        let first = values.word(head.at)?;
        self.linked(node, first, "future", &["next_all"], level, out);
        Some(())
    }

    fn join_set(&mut self, value: Value, level: u32, out: &mut Vec<Node>) -> Option<()> {
        let values = &self.chains.values;
        let lists = values.shared(values.member(value, &["lists"])?)?;
        for list in ["notified", "idle"] {
            let Some(head) = values.member(lists, &[list, "head"]) else {
                continue;
            };
            let node = values.pointee(head.of)?;
            let first = values.word(head.at)?;
            self.linked(node, first, "value", &["pointers", "next"], level, out);
        }
        Some(())
    }

    fn boxed(&mut self, value: Value, level: u32, out: &mut Vec<Node>) -> Option<()> {
        let pointer = self.chains.values.member(value, &["pointer"])?;
        self.dynamic(pointer.at, pointer.at.wrapping_add(8), level, out);
        Some(())
    }

    /// Takes the nodes of a list, each of which points to the next one.
    fn linked(
        &mut self,
        of: Type,
        first: u64,
        value: &'static str,
        next: &[&'static str],
        level: u32,
        out: &mut Vec<Node>,
    ) {
        let values = &self.chains.values;
        let mut at = first;
        for _ in 0..ELEMENTS {
            let node = Value { of, at };
            if at == 0 || !self.is_new(node) {
                return;
            }
            if let Some(element) = values.member(node, &[value]) {
                self.value(element, level + 1, out);
            }
            at = values.word_of(node, next).unwrap_or(0);
        }
        if at != 0 {
            self.cut();
        }
    }
}
