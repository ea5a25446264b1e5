//! Values of a process, read by their types.

use crate::inspect::memory::Memory;
use crate::inspect::program::{Member, Shape, Type, Types};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;

/// The most levels of members in which one is searched by its name.
const LEVELS: usize = 8;
/// The most members of a level that are searched.
const WIDTH: usize = 500;
/// The most members between a pointer and the value around it, and the most that are looked at.
const POINTER: u32 = 6;
const MEMBERS: u32 = 10_000;

/// A value: its type and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Value {
    pub(crate) of: Type,
    pub(crate) at: u64,
}

/// A reader of values.
#[derive(Debug)]
pub(crate) struct Values<'a, 'p> {
    pub(crate) types: &'a Types<'p>,
    pub(crate) memory: &'a Memory,
    /// The members that were found by their names.
    routes: RefCell<FxHashMap<(Type, &'static str), Route>>,
}

/// The way from a value to the member of a name in it.
#[derive(Debug, Clone, Copy)]
enum Route {
    /// The offset and the type are the same in all values of the type.
    Fixed(u64, Type),
    /// There is no such member.
    None,
    /// It depends on the variants of enums.
    Varies,
}

// === impl Values ===

impl<'a, 'p> Values<'a, 'p> {
    pub(super) fn new(types: &'a Types<'p>, memory: &'a Memory) -> Self {
        Self {
            types,
            memory,
            routes: RefCell::default(),
        }
    }

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

    /// Returns the number that tells the variant of an enum, or the state of a coroutine.
    pub(super) fn tag(&self, at: u64, shape: &Shape) -> Option<u64> {
        let variants = shape.variants.as_ref()?;
        match variants.size {
            // An enum with one variant has nothing that tells it.
            0 => Some(0),
            size => self.bytes(at.wrapping_add(variants.at), size),
        }
    }

    /// Returns the variant that an enum of this shape is in.
    pub(super) fn variant<'s>(&self, at: u64, shape: &'s Shape) -> Option<&'s Member> {
        let variants = shape.variants.as_ref()?;
        variants.with(self.tag(at, shape)?)
    }

    /// Returns whether an enum is in the variant of this name.
    pub(super) fn is(&self, value: Value, variant: &str) -> bool {
        let shape = self.shape(value.of);
        let found = self.variant(value.at, &shape);
        found.is_some_and(|found| found.name == variant)
    }

    /// Returns the member of a value, wherever in it, without following pointers; then the next name
    /// in that.
    pub(super) fn member(&self, value: Value, path: &[&'static str]) -> Option<Value> {
        let mut names = path.iter();
        names.try_fold(value, |value, name| self.find(value, name))
    }

    fn find(&self, value: Value, name: &'static str) -> Option<Value> {
        let known = self.routes.borrow().get(&(value.of, name)).copied();
        match known {
            Some(Route::Fixed(offset, of)) => {
                let at = value.at.checked_add(offset)?;
                return Some(Value { of, at });
            }
            Some(Route::None) => return None,
            Some(Route::Varies) | None => {}
        }
        let mut varies = false;
        let found = self.search(value, name, &mut varies);
        if known.is_none() {
            let route = match found {
                _ if varies => Route::Varies,
                Some(found) => Route::Fixed(found.at.wrapping_sub(value.at), found.of),
                None => Route::None,
            };
            self.routes.borrow_mut().insert((value.of, name), route);
        }
        found
    }

    /// Searches a value for a member, level by level. `varies` says whether an enum was met, so that
    /// another value may have it elsewhere.
    fn search(&self, value: Value, name: &str, varies: &mut bool) -> Option<Value> {
        let mut level = vec![value];
        for _ in 0..LEVELS {
            let mut next = Vec::new();
            for value in level {
                let shape = self.shape(value.of);
                *varies |= shape.variants.is_some();
                let variant = self.variant(value.at, &shape);
                for member in shape.members.iter().chain(variant) {
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
    pub(super) fn number_of(&self, value: Value, path: &[&'static str]) -> Option<u64> {
        self.number(self.member(value, path)?)
    }

    /// Returns the word that a member begins with, such as a pointer.
    pub(super) fn word_of(&self, value: Value, path: &[&'static str]) -> Option<u64> {
        self.word(self.member(value, path)?.at)
    }

    /// Returns the type that a pointer in a value points to.
    pub(super) fn pointee(&self, of: Type) -> Option<Type> {
        self.pointee_within(of, POINTER, &mut MEMBERS.clone())
    }

    fn pointee_within(&self, of: Type, levels: u32, left: &mut u32) -> Option<Type> {
        let shape = self.shape(of);
        *left = left.saturating_sub(1);
        if levels == 0 || *left == 0 || shape.pointee.is_some() {
            return shape.pointee;
        }
        let variants = shape.variants.iter().flat_map(|variants| &variants.all);
        let members = shape
            .members
            .iter()
            .chain(variants.map(|(_, member)| member));
        let mut types = members.filter_map(|member| member.of);
        types.find_map(|of| self.pointee_within(of, levels - 1, left))
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
