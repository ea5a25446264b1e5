//! The shape of a type: its members, its variants, and the type that a pointer points to.

use super::index::size;
use super::place::Place;
use super::split::Bytes;
use super::units::{Entry, Type, Units, number};
use gimli::{AttributeValue, EntriesTreeNode, UnitOffset};

/// The most members, variants or parameters of a type that are read.
const MOST: usize = 1 << 12;

/// A type as debug information describes it.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    /// Its own name, with parameters and without a path.
    pub(crate) name: String,
    /// In bytes.
    pub(crate) size: u64,
    /// The type that a thin pointer points to.
    pub(crate) pointee: Option<Type>,
    pub(crate) members: Vec<Member>,
    pub(crate) variants: Option<Variants>,
    /// Its type parameters.
    pub(crate) parameters: Vec<Type>,
    /// The element of an array, and the number of elements.
    pub(crate) array: Option<(Type, u64)>,
    pub(crate) is_union: bool,
}

/// A member of a type, or a variant of an enum.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Its offset in the value.
    pub(crate) at: u64,
    pub(crate) of: Option<Type>,
    /// For the variant of a coroutine, the place of its await.
    pub(crate) place: Option<Place>,
}

/// The variants of an enum, or the states of a coroutine.
#[derive(Debug, Default)]
pub(crate) struct Variants {
    /// The offset and size of the value that tells the variant.
    pub(crate) at: u64,
    pub(crate) size: u64,
    /// Each variant with its value; `None` for the variant of all other values.
    pub(crate) all: Vec<(Option<u64>, Member)>,
}

// === impl Shape ===

impl Shape {
    /// Reads the shape of a type; `None` if the debug information is malformed.
    pub(super) fn read(units: &Units<'_>, of: Type) -> Option<Self> {
        let mut tree = units
            .unit(of.unit)?
            .entries_tree(Some(UnitOffset(of.at)))
            .ok()?;
        let root = tree.root().ok()?;
        let entry = root.entry();
        let target = units.reference(of.unit, entry.attr_value(gimli::DW_AT_type));
        let mut shape = Self {
            name: units.text(of.unit, entry, gimli::DW_AT_name),
            size: size(entry),
            is_union: entry.tag() == gimli::DW_TAG_union_type,
            ..Self::default()
        };
        match entry.tag() {
            gimli::DW_TAG_pointer_type => {
                shape.pointee = target;
                return Some(shape);
            }
            gimli::DW_TAG_array_type => shape.array = target.map(|element| (element, 0)),
            _ => {}
        }
        let mut children = root.children();
        while let Some(child) = children.next().ok()? {
            shape.take(units, of.unit, child)?;
        }
        Some(shape)
    }

    /// Takes a child of the type's entry.
    fn take<'p>(
        &mut self,
        units: &Units<'p>,
        unit: usize,
        child: EntriesTreeNode<'_, '_, Bytes<'p>>,
    ) -> Option<()> {
        let entry = child.entry();
        match entry.tag() {
            gimli::DW_TAG_member if self.members.len() < MOST => {
                self.members.push(Member::of(units, unit, entry));
            }
            gimli::DW_TAG_subrange_type => {
                let length = number(entry, gimli::DW_AT_count);
                self.array = self.array.zip(length).map(|((of, _), length)| (of, length));
            }
            gimli::DW_TAG_template_type_parameter if self.parameters.len() < MOST => {
                let of = units.reference(unit, entry.attr_value(gimli::DW_AT_type));
                self.parameters.extend(of);
            }
            gimli::DW_TAG_variant_part => self.variants = Some(Variants::read(units, unit, child)?),
            _ => {}
        }
        Some(())
    }

    /// Returns the member of this name.
    pub(crate) fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }

    /// Returns the offsets of the two words of a wide pointer, if the second one has this name.
    pub(crate) fn wide(&self, second: &str) -> Option<(u64, u64)> {
        match self.members.as_slice() {
            [first, last]
                if last.name == second && ["pointer", "data_ptr"].contains(&&*first.name) =>
            {
                Some((first.at, last.at))
            }
            _ => None,
        }
    }

    /// Returns whether this is the state of an `async` function, block or closure.
    pub(crate) fn is_coroutine(&self) -> bool {
        self.name.starts_with("{async_") && self.variants.is_some()
    }
}

// === impl Member ===

impl Member {
    fn of<'p>(units: &Units<'p>, unit: usize, entry: &Entry<'p>) -> Self {
        let place = [gimli::DW_AT_decl_file, gimli::DW_AT_decl_line];
        Self {
            name: units.text(unit, entry, gimli::DW_AT_name),
            at: number(entry, gimli::DW_AT_data_member_location).unwrap_or(0),
            of: units.reference(unit, entry.attr_value(gimli::DW_AT_type)),
            place: units.place(unit, entry, place),
        }
    }
}

// === impl Variants ===

impl Variants {
    fn read<'p>(
        units: &Units<'p>,
        unit: usize,
        part: EntriesTreeNode<'_, '_, Bytes<'p>>,
    ) -> Option<Self> {
        let mut variants = Self::default();
        if let Some(AttributeValue::UnitRef(at)) = part.entry().attr_value(gimli::DW_AT_discr) {
            let entry = units.unit(unit)?.entry(at).ok()?;
            variants.at = number(&entry, gimli::DW_AT_data_member_location).unwrap_or(0);
            let of = units.reference(unit, entry.attr_value(gimli::DW_AT_type));
            let sized = of.and_then(|of| {
                let unit = units.unit(of.unit)?;
                Some(size(&unit.entry(UnitOffset(of.at)).ok()?))
            });
            variants.size = sized.unwrap_or(1);
        }
        let mut parts = part.children();
        while let Some(child) = parts.next().ok()? {
            if child.entry().tag() != gimli::DW_TAG_variant || variants.all.len() == MOST {
                continue;
            }
            let value = number(child.entry(), gimli::DW_AT_discr_value);
            let mut inside = child.children();
            while let Some(member) = inside.next().ok()? {
                if member.entry().tag() == gimli::DW_TAG_member {
                    let member = Member::of(units, unit, member.entry());
                    variants.all.push((value, member));
                }
            }
        }
        Some(variants)
    }

    /// Returns the variant of a value.
    pub(crate) fn with(&self, value: u64) -> Option<&Member> {
        let mask = match self.size {
            0..8 => (1 << (8 * self.size)) - 1,
            _ => u64::MAX,
        };
        let has = |(own, _): &&(Option<u64>, Member)| own.is_some_and(|own| own & mask == value);
        let others = |(own, _): &&(Option<u64>, Member)| own.is_none();
        let exact = self.all.iter().find(has);
        let found = exact.or_else(|| self.all.iter().find(others));
        found.map(|(_, member)| member)
    }
}
