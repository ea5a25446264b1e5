//! The plan of a walk: what it does with the values of a type, found once for each type.
//!
//! Tasks are many and their types are few. Names are compared, members are sorted out and places are
//! looked up for the first value of a type only.

use super::search::{self, Found};
use super::{containers, follows, is_box, leaves, short};
use crate::inspect::chain::Chains;
use crate::inspect::program::{Place, Shape, Type};
use rustc_hash::FxHashMap;
use std::cell::RefCell;
use std::rc::Rc;

/// The most plans that are kept.
const KEPT: usize = 1 << 20;
/// The type of a future with a timeout.
const TIMEOUT: &str = "tokio::time::timeout::Timeout<";
/// The states of a coroutine before the first await.
const STATES: [&str; 3] = ["has not started", "has returned", "has panicked"];

/// The plan for the values of one type.
#[derive(Debug)]
pub(in crate::inspect::chain) struct Plan {
    pub(super) name: Rc<str>,
    pub(super) step: Step,
    /// True if a value owns something elsewhere, so that a copy of one that was moved away leads to what is
    /// freed.
    pub(super) is_behind_pointer: bool,
    /// True if the type is one of tokio or tokio-util, which tells what a leaf inside waits for.
    pub(super) is_of_tokio: bool,
}

/// The step that a walk takes with a value.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing in it can wait.
    Nothing,
    /// A leaf, and its type parameters without paths.
    Leaf(&'static str, String),
    Coroutine(Coroutine),
    /// The offsets of the two words of a `dyn` pointer.
    Dynamic(u64, u64),
    Pointer(Type),
    Array(Type, u64),
    Container(Rc<Shape>),
    /// The members that can wait, and the shape of an enum of which a variant can.
    Members(Vec<Part>, Option<Rc<Shape>>),
}

/// A member that can wait.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) at: u64,
    pub(super) of: Type,
    /// True for the future that a timeout limits.
    pub(super) is_limited: bool,
}

/// The state of an `async` function or block.
#[derive(Debug)]
pub(super) struct Coroutine {
    of: Type,
    pub(super) shape: Rc<Shape>,
    name: Rc<str>,
    pub(super) function: Rc<str>,
    pub(super) is_of_tokio: bool,
    /// By the number of the state.
    states: RefCell<FxHashMap<u64, State>>,
}

/// A state of a coroutine. The error is a state in which nothing is awaited, in words.
type State = Result<Rc<Suspended>, Rc<str>>;

/// The state of a coroutine at one of its awaits. Offsets are from the beginning of the coroutine.
#[derive(Debug)]
pub(super) struct Suspended {
    pub(super) place: Option<Rc<Place>>,
    /// True if only the function's place is known, and not that of the await.
    pub(super) is_near: bool,
    /// The offset, the type and its short name.
    pub(super) awaited: Option<(u64, Type, Rc<str>)>,
    /// The offsets and types of the other locals that can wait.
    pub(super) locals: Vec<(u64, Type)>,
}

// === impl Chains ===

impl Chains<'_, '_> {
    /// Returns the plan for the values of a type.
    pub(super) fn plan(&self, of: Type) -> Rc<Plan> {
        if let Some(plan) = self.plans.borrow().get(&of) {
            return Rc::clone(plan);
        }
        let plan = Rc::new(self.make_plan(of));
        let mut plans = self.plans.borrow_mut();
        if plans.len() >= KEPT {
            plans.clear();
        }
        plans.insert(of, Rc::clone(&plan));
        plan
    }

    fn make_plan(&self, of: Type) -> Plan {
        let (shape, name) = (self.values.shape(of), self.values.types.name(of));
        let step = match self.can_wait(of) {
            true => self.step(of, &shape, &name),
            false => Step::Nothing,
        };
        Plan {
            step,
            is_behind_pointer: is_behind_pointer(&shape, &name),
            is_of_tokio: leaves::file_of(&name).is_some(),
            name,
        }
    }

    fn step(&self, of: Type, shape: &Rc<Shape>, name: &Rc<str>) -> Step {
        if let Some((leaf, payload)) = leaves::leaf(name) {
            return Step::Leaf(leaf, payload);
        }
        if shape.is_coroutine() {
            return Step::Coroutine(Coroutine {
                of,
                shape: Rc::clone(shape),
                name: Rc::clone(name),
                function: function(name).into(),
                is_of_tokio: name.starts_with("tokio::"),
                states: RefCell::default(),
            });
        }
        let follows = follows(name);
        if let Some((pointer, table)) = shape.wide("vtable") {
            return match follows {
                true => Step::Dynamic(pointer, table),
                false => Step::Nothing,
            };
        }
        if let Some(of) = shape.pointee {
            return match follows {
                true => Step::Pointer(of),
                false => Step::Nothing,
            };
        }
        if let Some((element, length)) = shape.array {
            return Step::Array(element, length);
        }
        let is_slice = is_box(name) && shape.wide("length").is_some();
        if is_slice || containers::is_container(name) || containers::is_boxed(name) {
            return Step::Container(Rc::clone(shape));
        }
        if shape.is_union {
            return Step::Nothing;
        }
        let variants = shape.variants.iter().flat_map(|variants| &variants.all);
        let mut variants = variants.filter_map(|(_, member)| member.of);
        let has_variant = variants.any(|of| self.can_wait(of));
        let members = shape.members.iter().filter_map(|member| {
            Some(Part {
                at: member.at,
                of: member.of.filter(|of| self.can_wait(*of))?,
                is_limited: member.name == "value" && name.starts_with(TIMEOUT),
            })
        });
        Step::Members(members.collect(), has_variant.then(|| Rc::clone(shape)))
    }

    /// Returns what a coroutine awaits and holds in a state. The error is a state in which nothing is
    /// awaited, in words.
    pub(super) fn suspended(&self, coroutine: &Coroutine, state: u64) -> State {
        let known = coroutine.states.borrow().get(&state).cloned();
        known.unwrap_or_else(|| {
            let suspended = self.make_suspended(coroutine, state).ok_or_else(|| {
                let known = usize::try_from(state).ok();
                let known = known.and_then(|state| STATES.get(state));
                let state = known.unwrap_or(&"is in an unknown state");
                format!("{} {state}", coroutine.function).into()
            });
            let mut states = coroutine.states.borrow_mut();
            // What is no state may be any number.
            if suspended.is_ok() || state < STATES.len() as u64 {
                states.insert(state, suspended.clone());
            }
            suspended
        })
    }

    fn make_suspended(&self, coroutine: &Coroutine, state: u64) -> Option<Rc<Suspended>> {
        let variants = coroutine.shape.variants.as_ref()?;
        let variant = variants.with(state).filter(|_| state >= 3)?;
        let shape = self.values.shape(variant.of?);
        let member = shape.member("__awaitee");
        let place = variant.place.clone().map(|place| {
            let awaited = member.and_then(|awaited| awaited.of);
            self.outside_macro(coroutine.of, &coroutine.name, awaited, place)
        });
        let awaited = member.and_then(|member| {
            let of = member.of?;
            let name = short(&self.values.types.name(of));
            Some((variant.at.checked_add(member.at)?, of, name.into()))
        });
        let locals = shape
            .members
            .iter()
            .filter(|local| local.name != "__awaitee");
        let locals = locals.filter_map(|local| {
            let of = local.of.filter(|of| self.can_wait(*of))?;
            Some((variant.at.checked_add(local.at)?, of))
        });
        Some(Rc::new(Suspended {
            is_near: place.as_ref().is_some_and(|(_, is_near)| *is_near),
            place: place.map(|(place, _)| Rc::new(place)),
            awaited,
            locals: locals.collect(),
        }))
    }

    /// Returns whether a value of this type can hold something that waits.
    fn can_wait(&self, of: Type) -> bool {
        let mut known = self.can_wait.borrow_mut();
        search::can_wait(of, &mut known, |of| self.look(of))
    }

    /// Looks whether a type may wait itself, or which ones in it may.
    fn look(&self, of: Type) -> Found<Type> {
        let values = &self.values;
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

#[cfg(test)]
mod tests {
    use super::function;

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
}
