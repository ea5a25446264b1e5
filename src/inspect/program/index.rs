//! The entries of units that lead from addresses to types.
//!
//! One pass over a unit finds the functions that poll tasks, with the futures that they poll; the
//! tables of `dyn` pointers, with their types; the cells of tasks; the bodies of `async` functions and
//! blocks; and the places of awaits in functions.

use super::place::Place;
use super::units::{Entry, Type, Units, number};
use gimli::AttributeValue;
use rustc_hash::FxHashMap;
use std::collections::{HashMap, HashSet};

/// The namespace of tokio's cells.
const CELLS: &str = "tokio::runtime::task::core";
/// The variable of a future that is being awaited.
const AWAITED: &str = "__awaitee";
/// The longest path of a namespace, in bytes.
const PATH: usize = 1 << 14;

/// A namespace, by its number among all; 0 is none.
type Space = u32;

/// Entries of the units that were looked through.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) scanned: HashSet<usize>,
    /// The futures of the functions that poll tasks, by the addresses of the functions in the file;
    /// `None` if the debug information has no types.
    pub(super) polls: HashMap<u64, Option<Type>>,
    /// The types of the tables of `dyn` pointers, by the addresses of the tables in the file.
    pub(super) tables: HashMap<u64, Vec<Type>>,
    /// The beginnings of the functions and blocks that coroutines are the states of.
    bodies: HashMap<(Space, String), Place>,
    /// The futures that functions await, with the places.
    pub(super) awaited: Vec<(Type, Place)>,
    /// The cells of tasks that were found, not yet sorted by their futures.
    pub(super) cells: Vec<Type>,
    spaces: FxHashMap<Type, Space>,
    names: Vec<String>,
    /// Units with types that a function that polls a task refers to: with several units a crate, an
    /// optimized build has each type once.
    pub(super) referred: HashSet<usize>,
}

/// The state of a pass over one unit.
struct Pass<'a, 'p> {
    units: &'a Units<'p>,
    unit: usize,
    /// The addresses of the functions that poll tasks.
    wanted: &'a HashSet<u64>,
    /// The namespaces around the entry, each with its depth.
    around: Vec<(isize, Space)>,
    /// The function that polls a task around the entry. Its first type parameter is wanted.
    inside: Option<Inside>,
    /// The types of tables, with the types that they are for.
    contained: FxHashMap<Type, Type>,
    /// Constants: addresses and types.
    constants: Vec<(u64, Type)>,
}

/// A function that polls a task.
#[derive(Clone, Copy)]
struct Inside {
    depth: isize,
    address: u64,
    is_answered: bool,
}

// === impl Index ===

impl Index {
    /// Returns the namespace of a type; empty if it has none, or its unit was not looked through.
    pub(super) fn space(&self, of: Type) -> &str {
        let space = self.spaces.get(&of).copied().unwrap_or(0);
        self.name(space)
    }

    /// Returns the types that were found.
    #[cfg(test)]
    pub(super) fn known(&self) -> Vec<Type> {
        self.spaces.keys().copied().collect()
    }

    fn name(&self, space: Space) -> &str {
        let name = (space as usize).checked_sub(1).map(|at| &self.names[at]);
        name.map_or("", String::as_str)
    }

    /// Returns the beginnings of a function or block by its namespace and name, as units have it.
    pub(super) fn bodies(&self, space: &str, name: &str) -> Vec<Place> {
        let bodies = self.bodies.iter();
        let found = bodies.filter(|((of, own), _)| own == name && self.name(*of) == space);
        let mut places: Vec<Place> = found.map(|(_, place)| place.clone()).collect();
        places.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
        places
    }

    /// Returns whether a unit was looked through.
    pub(super) fn has(&self, unit: usize) -> bool {
        self.scanned.contains(&unit)
    }

    /// Looks through a unit, once. Malformed entries end the look.
    pub(super) fn scan(&mut self, units: &Units<'_>, unit: usize, wanted: &HashSet<u64>) {
        if !self.scanned.insert(unit) {
            return;
        }
        let Some(read) = units.unit(unit) else { return };
        let Ok(mut entries) = read.entries_raw(None) else {
            return;
        };
        let mut pass = Pass {
            units,
            unit,
            wanted,
            around: Vec::new(),
            inside: None,
            contained: FxHashMap::default(),
            constants: Vec::new(),
        };
        let mut entry = Entry::null();
        while !entries.is_empty() {
            match entries.read_entry(&mut entry) {
                Ok(true) => self.take(&mut pass, &entry),
                Ok(false) => {}
                Err(_) => break,
            }
        }
        for (address, of) in pass.constants {
            if let Some(of) = pass.contained.get(&of) {
                self.tables.entry(address).or_default().push(*of);
            }
        }
    }

    /// Takes one entry.
    fn take<'p>(&mut self, pass: &mut Pass<'_, 'p>, entry: &Entry<'p>) {
        let depth = entry.depth();
        while pass.around.last().is_some_and(|around| around.0 >= depth) {
            pass.around.pop();
        }
        pass.inside = pass.inside.filter(|inside| depth > inside.depth);
        let space = pass.around.last().map_or(0, |around| around.1);
        if pass.inside.is_some()
            && let Some(to @ AttributeValue::DebugInfoRef(_)) = entry.attr_value(gimli::DW_AT_type)
        {
            let to = pass.units.reference(pass.unit, Some(to));
            self.referred.extend(to.map(|to| to.unit));
        }
        match entry.tag() {
            gimli::DW_TAG_namespace => {
                let own = pass.text(entry);
                let name = match self.name(space) {
                    "" => own,
                    // Deeper than any source: each level would have the names of all around it.
                    outer if outer.len() > PATH => own,
                    outer => format!("{outer}::{own}"),
                };
                self.names.push(name);
                let space = Space::try_from(self.names.len()).unwrap_or(0);
                pass.around.push((depth, space));
            }
            gimli::DW_TAG_structure_type | gimli::DW_TAG_enumeration_type => {
                self.take_type(pass, entry, space);
            }
            gimli::DW_TAG_variable => {
                let address = pass.constant(entry);
                let of = pass
                    .units
                    .reference(pass.unit, entry.attr_value(gimli::DW_AT_type));
                pass.constants.extend(address.zip(of));
                if pass.units.is_named(pass.unit, entry, AWAITED) {
                    let place = [gimli::DW_AT_decl_file, gimli::DW_AT_decl_line];
                    let place = pass.units.place(pass.unit, entry, place);
                    self.awaited.extend(of.zip(place));
                }
            }
            gimli::DW_TAG_subprogram => self.take_function(pass, entry, space),
            gimli::DW_TAG_template_type_parameter => self.take_parameter(pass, entry),
            _ => {}
        }
    }

    fn take_type<'p>(&mut self, pass: &mut Pass<'_, 'p>, entry: &Entry<'p>, space: Space) {
        let here = pass.here(entry);
        self.spaces.insert(here, space);
        if self.name(space) == CELLS && pass.text(entry).starts_with("Cell<") {
            self.cells.push(here);
        }
        let of = entry.attr_value(gimli::DW_AT_containing_type);
        let of = pass.units.reference(pass.unit, of);
        pass.contained.extend(of.map(|of| (here, of)));
    }

    fn take_function<'p>(&mut self, pass: &mut Pass<'_, 'p>, entry: &Entry<'p>, space: Space) {
        let address = entry.attr_value(gimli::DW_AT_low_pc);
        let address = address.and_then(|value| pass.units.address(pass.unit, value));
        let address = address.unwrap_or(0);
        if pass.wanted.contains(&address) {
            self.polls.entry(address).or_insert(None);
            pass.inside = Some(Inside {
                depth: entry.depth(),
                address,
                is_answered: false,
            });
            return;
        }
        let name = pass.text(entry);
        if name.starts_with("{async_") {
            let of = [gimli::DW_AT_decl_file, gimli::DW_AT_decl_line];
            if let Some(place) = pass.units.place(pass.unit, entry, of) {
                let own = without_parameters(&name).to_owned();
                self.bodies.entry((space, own)).or_insert(place);
            }
        }
    }

    fn take_parameter<'p>(&mut self, pass: &mut Pass<'_, 'p>, entry: &Entry<'p>) {
        let Some(inside) = pass.inside.as_mut() else {
            return;
        };
        // The future is the first parameter.
        if entry.depth() != inside.depth + 1 || std::mem::replace(&mut inside.is_answered, true) {
            return;
        }
        let to = entry.attr_value(gimli::DW_AT_type);
        if let Some(poll) = self.polls.get_mut(&inside.address) {
            *poll = pass.units.reference(pass.unit, to);
        }
    }
}

// === impl Pass ===

impl<'p> Pass<'_, 'p> {
    fn text(&self, entry: &Entry<'p>) -> String {
        self.units.text(self.unit, entry, gimli::DW_AT_name)
    }

    /// Returns the address of a constant: one operation, with the address or its place in a list of them.
    fn constant(&self, entry: &Entry<'p>) -> Option<u64> {
        let Some(AttributeValue::Exprloc(mut expression)) = entry.attr_value(gimli::DW_AT_location)
        else {
            return None;
        };
        let encoding = self.units.unit(self.unit)?.encoding();
        let operation = gimli::Operation::parse(&mut expression.0, encoding).ok()?;
        let value = match operation {
            _ if !expression.0.is_empty() => return None,
            gimli::Operation::Address { address } => AttributeValue::Addr(address),
            gimli::Operation::AddressIndex { index } => AttributeValue::DebugAddrIndex(index),
            _ => return None,
        };
        self.units.address(self.unit, value)
    }

    fn here(&self, entry: &Entry<'p>) -> Type {
        Type {
            unit: self.unit,
            at: entry.offset().0,
        }
    }
}

/// Returns a name up to its type parameters.
pub(super) fn without_parameters(name: &str) -> &str {
    name.split('<').next().unwrap_or_default()
}

/// Returns the size of a type; 0 for a declaration.
pub(super) fn size(entry: &Entry<'_>) -> u64 {
    number(entry, gimli::DW_AT_byte_size).unwrap_or(0)
}
