//! Values of a process, read by their types.

use crate::inspect::memory::Memory;
use crate::inspect::program::{Member, Shape, Type, Types};
use std::rc::Rc;

/// The most levels of members in which one is searched by its name.
const LEVELS: usize = 8;
/// The most members of a level that are searched.
const WIDTH: usize = 500;
/// The most members between a pointer and the value around it.
const POINTER: u32 = 6;

/// A value: its type and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    pub(crate) of: Type,
    pub(crate) at: u64,
}

/// A reader of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values<'a, 'p> {
    pub(crate) types: &'a Types<'p>,
    pub(crate) memory: &'a Memory,
}

// === impl Values ===

impl Values<'_, '_> {
    pub(super) fn shape(&self, of: Type) -> Rc<Shape> {
        self.types.shape(of)
    }

    pub(super) fn word(&self, at: u64) -> Option<u64> {
        self.memory.word(at)
    }

    /// Returns a number of up to eight bytes.
    fn bytes(&self, at: u64, size: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        let size = usize::try_from(size.min(8)).ok()?;
        let read = self.memory.read(at, &mut bytes[..size]);
        (read == size).then(|| u64::from_le_bytes(bytes))
    }

    /// Returns the number that a value is.
    pub(super) fn number(&self, value: Value) -> Option<u64> {
        self.bytes(value.at, self.shape(value.of).size.clamp(1, 8))
    }

    /// Returns the variant that an enum is in, or the state of a coroutine, and the number that tells
    /// it.
    pub(super) fn variant(&self, value: Value) -> Option<(Member, u64)> {
        let shape = self.shape(value.of);
        let variants = shape.variants.as_ref()?;
        let number = match variants.size {
            // An enum with one variant has nothing that tells it.
            0 => 0,
            size => self.bytes(value.at.wrapping_add(variants.at), size)?,
        };
        Some((variants.with(number)?.clone(), number))
    }

    /// Returns whether an enum is in the variant of this name.
    pub(super) fn is(&self, value: Value, variant: &str) -> bool {
        self.variant(value)
            .is_some_and(|found| found.0.name == variant)
    }

    /// Returns the member of a value, wherever in it, without following pointers; then the next name
    /// in that.
    pub(super) fn member(&self, value: Value, path: &[&str]) -> Option<Value> {
        let mut names = path.iter();
        names.try_fold(value, |value, name| self.find(value, name))
    }

    fn find(&self, value: Value, name: &str) -> Option<Value> {
        let mut level = vec![value];
        for _ in 0..LEVELS {
            let mut next = Vec::new();
            for value in level {
                let shape = self.shape(value.of);
                let variant = self.variant(value).map(|found| found.0);
                for member in shape.members.iter().chain(&variant) {
                    let Some(inside) = inside(value, member) else {
                        continue;
                    };
                    if member.name == name {
                        return Some(inside);
                    }
                    next.push(inside);
                }
            }
            if next.is_empty() || next.len() > WIDTH {
                return None;
            }
            level = next;
        }
        None
    }

    /// Returns the number that a member is.
    pub(super) fn number_of(&self, value: Value, path: &[&str]) -> Option<u64> {
        self.number(self.member(value, path)?)
    }

    /// Returns the word that a member begins with, such as a pointer.
    pub(super) fn word_of(&self, value: Value, path: &[&str]) -> Option<u64> {
        self.word(self.member(value, path)?.at)
    }

    /// Returns the type that a pointer in a value points to.
    pub(super) fn pointee(&self, of: Type) -> Option<Type> {
        self.pointee_within(of, POINTER)
    }

    fn pointee_within(&self, of: Type, levels: u32) -> Option<Type> {
        let shape = self.shape(of);
        if levels == 0 || shape.pointee.is_some() {
            return shape.pointee;
        }
        let variants = shape.variants.iter().flat_map(|variants| &variants.all);
        let members = shape
            .members
            .iter()
            .chain(variants.map(|(_, member)| member));
        let mut types = members.filter_map(|member| member.of);
        types.find_map(|of| self.pointee_within(of, levels - 1))
    }

    /// Returns the value that an `Arc` shares.
    pub(super) fn shared(&self, arc: Value) -> Option<Value> {
        let inner = self.pointee(arc.of)?;
        let at = self.word(arc.at).filter(|at| *at != 0)?;
        let shape = self.shape(inner);
        inside(Value { of: inner, at }, shape.member("data")?)
    }

    /// Returns whether the `Option` in a value, such as a cell, is `Some`.
    pub(super) fn is_some_inside(&self, value: Value) -> bool {
        let option = self.enum_inside(value);
        option.is_some_and(|option| self.is(option, "Some"))
    }

    /// Returns whether the `Option` in a value is `None`.
    pub(super) fn is_none_inside(&self, value: Value) -> bool {
        let option = self.enum_inside(value);
        option.is_some_and(|option| self.is(option, "None"))
    }

    /// Returns the enum in a value, such as a cell.
    fn enum_inside(&self, value: Value) -> Option<Value> {
        let mut value = value;
        for _ in 0..POINTER {
            let shape = self.shape(value.of);
            if shape.variants.is_some() {
                return Some(value);
            }
            let mut members = shape
                .members
                .iter()
                .filter_map(|member| inside(value, member));
            value = members.find(|member| self.shape(member.of).size > 0)?;
        }
        None
    }
}

/// Returns the member of a value.
pub(super) fn inside(value: Value, member: &Member) -> Option<Value> {
    Some(Value {
        of: member.of?,
        at: value.at.checked_add(member.at)?,
    })
}
