//! The types of a program, from its debug information.
//!
//! Only the units that have the functions of tasks are looked through at first, and others when a
//! type in them is needed. Types need `debug = 2` in the profile of the build; line tables have none.

use super::index::{Index, without_parameters};
use super::place::Place;
use super::shape::{Member, Shape};
use super::split::{Bytes, Split};
use super::units::{Type, Units};
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Instant;

/// The most types that are kept.
const KEPT: usize = 1 << 20;

/// Addresses of functions, in the file, by which the types are found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Functions {
    /// The functions that poll tasks.
    pub(crate) polls: HashSet<u64>,
    /// The other functions of tasks.
    pub(crate) others: Vec<u64>,
    /// The functions that poll closures of `select!` and `join!`.
    pub(crate) closures: Vec<u64>,
}

/// The limits of what is read of the debug information.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The most bytes of all sections together. With more, there are no types.
    pub(crate) bytes: u64,
    /// The time after which no further unit is looked through.
    pub(crate) until: Option<Instant>,
    /// True if all units may be looked through for a type that is in none of the expected ones.
    pub(crate) is_whole: bool,
}

/// The types of a program.
#[derive(Debug)]
pub(crate) struct Types<'p> {
    units: Units<'p>,
    functions: Functions,
    index: RefCell<Index>,
    shapes: RefCell<FxHashMap<Type, Rc<Shape>>>,
    names: RefCell<FxHashMap<Type, Rc<str>>>,
    /// The cells of tasks by their futures.
    cells: RefCell<Cells>,
    awaited: RefCell<Awaited>,
    limits: Cell<Limits>,
    is_cut: Cell<bool>,
}

#[derive(Debug, Default)]
struct Cells {
    by_future: FxHashMap<Type, Option<Type>>,
    /// By the name of the future: units have copies of a type.
    by_name: HashMap<Rc<str>, Type>,
    /// The number of cells of the index that were taken.
    taken: usize,
}

/// The places of awaits.
#[derive(Debug, Default)]
struct Awaited {
    by_name: HashMap<Rc<str>, Vec<Place>>,
    /// The number of awaits of the index that were taken.
    taken: usize,
}

// === impl Limits ===

impl Limits {
    /// The limits for a program that is looked at on behalf of a user.
    pub(crate) const NONE: Self = Self {
        bytes: u64::MAX,
        until: None,
        is_whole: true,
    };
}

// === impl Types ===

impl<'p> Types<'p> {
    /// Looks through the units that have a function that polls a task.
    pub(super) fn of(
        dwarf: gimli::Dwarf<Bytes<'p>>,
        split: &'p Split,
        functions: Functions,
        limits: Limits,
    ) -> Self {
        let types = Self {
            units: Units::of(dwarf, split),
            functions,
            index: RefCell::default(),
            shapes: RefCell::default(),
            names: RefCell::default(),
            cells: RefCell::default(),
            awaited: RefCell::default(),
            limits: Cell::new(limits),
            is_cut: Cell::new(false),
        };
        let polls: Vec<u64> = types.functions.polls.iter().copied().collect();
        types.scan_at(&polls);
        let is_missing = |poll: &u64| !types.index.borrow().polls.contains_key(poll);
        if polls.iter().any(is_missing) {
            for unit in types.units.unlisted() {
                types.scan(*unit);
            }
        }
        types
    }

    /// Sets the time after which no further unit is looked through.
    pub(crate) fn end_at(&self, until: Instant) {
        self.limits.set(Limits {
            until: Some(until),
            ..self.limits.get()
        });
    }

    /// Returns whether a unit was needed after the end of the time. What is not in the other units is
    /// missing since then: a type may have no path.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut.get()
    }

    fn scan(&self, unit: usize) {
        let mut index = self.index.borrow_mut();
        let is_over = || {
            let until = self.limits.get().until;
            until.is_some_and(|until| Instant::now() > until)
        };
        if !index.has(unit) && is_over() {
            self.is_cut.set(true);
            return;
        }
        index.scan(&self.units, unit, &self.functions.polls);
    }

    /// Looks through the units of addresses.
    fn scan_at(&self, addresses: &[u64]) {
        for address in addresses {
            self.units.at(*address).for_each(|unit| self.scan(unit));
        }
    }

    fn scan_all(&self) {
        if !self.limits.get().is_whole {
            return;
        }
        (0..self.units.len()).for_each(|unit| self.scan(unit));
    }

    /// Returns whether the rest of units is in files that were not found.
    pub(crate) fn is_split(&self) -> bool {
        (0..self.units.len()).any(|unit| self.units.is_split(unit))
    }

    /// Returns whether the future of any task is known.
    pub(crate) fn has_futures(&self) -> bool {
        let index = self.index.borrow();
        index.polls.values().any(Option::is_some)
    }

    /// Returns the future that a function polls.
    pub(crate) fn future(&self, poll: u64) -> Option<Type> {
        *self.index.borrow().polls.get(&poll)?
    }

    /// Returns the types that the table of a `dyn` pointer is for: several if they share one table.
    pub(crate) fn of_table(&self, table: u64) -> Vec<Type> {
        self.scan_at(&[table]);
        let index = self.index.borrow();
        index.tables.get(&table).cloned().unwrap_or_default()
    }

    /// Returns the name of a type with its path.
    pub(crate) fn name(&self, of: Type) -> Rc<str> {
        if let Some(name) = self.names.borrow().get(&of) {
            return Rc::clone(name);
        }
        let name: Rc<str> = self.read_name(of).into();
        let mut names = self.names.borrow_mut();
        if names.len() >= KEPT {
            names.clear();
        }
        names.insert(of, Rc::clone(&name));
        name
    }

    fn read_name(&self, of: Type) -> String {
        self.scan(of.unit);
        let shape = self.shape(of);
        let index = self.index.borrow();
        match index.space(of) {
            "" => shape.name.clone(),
            space => format!("{space}::{}", shape.name),
        }
    }

    /// Returns the shape of a type; an empty one if it is not known.
    pub(crate) fn shape(&self, of: Type) -> Rc<Shape> {
        if let Some(shape) = self.shapes.borrow().get(&of) {
            return Rc::clone(shape);
        }
        let shape = Rc::new(Shape::read(&self.units, of).unwrap_or_default());
        let mut shapes = self.shapes.borrow_mut();
        if shapes.len() >= KEPT {
            shapes.clear();
        }
        shapes.insert(of, Rc::clone(&shape));
        shape
    }

    /// Returns the members of a task's header with their offsets, if debug information has them.
    pub(crate) fn header(&self) -> Option<Vec<(String, u64)>> {
        let future = self
            .index
            .borrow()
            .polls
            .values()
            .find_map(|future| *future)?;
        let cell = self.shape(self.cell(future)?);
        let header = self.shape(cell.member("header")?.of?);
        let members = header.members.iter();
        Some(
            members
                .map(|member| (member.name.clone(), member.at))
                .collect(),
        )
    }

    /// Returns the steps from a task's cell to its stage: the offset, and the type.
    pub(crate) fn stage(&self, future: Type) -> Option<(u64, Type)> {
        let mut at = 0_u64;
        let mut of = self.cell(future)?;
        for step in ["core", "stage", "stage", "__0", "value"] {
            let member: Member = self.shape(of).member(step)?.clone();
            at = at.checked_add(member.at)?;
            of = member.of?;
            if self
                .name(of)
                .starts_with("tokio::runtime::task::core::Stage<")
            {
                return Some((at, of));
            }
        }
        None
    }

    /// Returns the cell of a future: from the unit of the function that polls its task, or those of
    /// the task's other functions, or any other.
    fn cell(&self, future: Type) -> Option<Type> {
        if let Some(cell) = self.cells.borrow().by_future.get(&future) {
            return *cell;
        }
        let name = self.name(future);
        let looks: [&dyn Fn(); 4] = [
            &|| {},
            &|| {
                let referred: Vec<usize> = self.index.borrow().referred.iter().copied().collect();
                referred.into_iter().for_each(|unit| self.scan(unit));
            },
            &|| self.scan_at(&self.functions.others),
            &|| self.scan_all(),
        ];
        let found = looks.iter().find_map(|look| {
            look();
            self.take_cells();
            self.cells.borrow().by_name.get(&name).copied()
        });
        self.cells.borrow_mut().by_future.insert(future, found);
        found
    }

    /// Sorts the cells that were found since the last call by the names of their futures.
    fn take_cells(&self) {
        let taken = self.cells.borrow().taken;
        let found: Vec<Type> = self.index.borrow().cells[taken..].to_vec();
        for cell in &found {
            if let Some(future) = self.shape(*cell).parameters.first() {
                let name = self.name(*future);
                self.cells.borrow_mut().by_name.entry(name).or_insert(*cell);
            }
        }
        self.cells.borrow_mut().taken = taken + found.len();
    }

    /// Returns the beginnings of the function or block that a coroutine is the state of, as the units
    /// that were looked through have it.
    pub(crate) fn declared(&self, coroutine: Type) -> Vec<Place> {
        let name = self.shape(coroutine).name.replace("_env#", "#");
        self.scan(coroutine.unit);
        let index = self.index.borrow();
        index.bodies(index.space(coroutine), without_parameters(&name))
    }

    /// Returns the places at which functions await a future of this type, as their debug information has
    /// them: also those in a macro, which have the line of the macro's call. A unit that is not needed
    /// otherwise is looked through only if `is_wanted` is true of no place that is known.
    pub(crate) fn awaited(
        &self,
        future: Type,
        is_wanted: &dyn Fn(&Place) -> bool,
    ) -> Option<Place> {
        let name = self.name(future);
        let near = || self.scan_at(&self.functions.closures);
        let all = || self.scan_all();
        let looks: [&dyn Fn(); 3] = [&|| {}, &near, &all];
        looks.iter().find_map(|look| {
            look();
            self.take_awaited();
            let awaited = self.awaited.borrow();
            let places = awaited.by_name.get(&name).into_iter().flatten();
            places.into_iter().find(|place| is_wanted(place)).cloned()
        })
    }

    /// Sorts the awaits that were found since the last call by the names of their futures.
    fn take_awaited(&self) {
        let taken = self.awaited.borrow().taken;
        let found: Vec<(Type, Place)> = self.index.borrow().awaited[taken..].to_vec();
        let count = found.len();
        for (future, place) in found {
            let name = self.name(future);
            let mut awaited = self.awaited.borrow_mut();
            awaited.by_name.entry(name).or_default().push(place);
        }
        self.awaited.borrow_mut().taken = taken + count;
    }

    /// Returns the types of the units that were looked through.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<Type> {
        let mut known = self.index.borrow().known();
        known.sort_unstable();
        known
    }

    /// Returns the place of an instruction, by the table of lines.
    pub(crate) fn line(&self, address: u64) -> Option<Place> {
        self.units.line(address)
    }
}
