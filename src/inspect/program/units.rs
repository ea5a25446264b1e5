//! The units of the debug information, each read when it is needed.
//!
//! A large program has about a thousand units, and the futures of its tasks are in some twenty of
//! them. `.debug_aranges` lists the functions and constants of each unit, so the unit of an address is
//! found without reading any.

use super::place::Place;
use super::split::{Bytes, Rest, Split};
use gimli::{ArangeEntry, AttributeValue, DebuggingInformationEntry, DwAt, Unit, UnitHeader};
use std::cell::OnceCell;

pub(super) type Entry<'p> = DebuggingInformationEntry<Bytes<'p>>;
pub(super) type Value<'p> = AttributeValue<Bytes<'p>>;

/// The most units that are read. A large program has some thousand.
const UNITS: usize = 1 << 16;
/// The longest text that is read, in bytes. A future of many combinators has a name of some kibibytes.
const TEXT: usize = 1 << 16;
/// The most ranges of addresses that are read.
const RANGES: usize = 1 << 22;
/// The number of ranges before an address in which it is looked for. Ranges do not overlap, apart
/// from those that the linker removed, which all begin at 0.
const NEAR: usize = 4;

/// A type: its unit, and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Type {
    pub(super) unit: usize,
    pub(super) at: usize,
}

/// All units.
#[derive(Debug)]
pub(super) struct Units<'p> {
    dwarf: gimli::Dwarf<Bytes<'p>>,
    /// The beginning of each unit in the section, in order.
    starts: Vec<usize>,
    headers: Vec<UnitHeader<Bytes<'p>>>,
    split: &'p Split,
    read: Vec<OnceCell<Option<Read<'p>>>>,
    /// Ranges of addresses, with their units, in order.
    ranges: Vec<(u64, u64, usize)>,
    /// The units of which no range is listed.
    unlisted: Vec<usize>,
}

/// A unit that was read.
#[derive(Debug)]
struct Read<'p> {
    /// As it is in the program.
    own: Unit<Bytes<'p>>,
    /// The rest of it, if that is in another file.
    rest: Option<Box<Rest<'p>>>,
}

// === impl Units ===

impl<'p> Units<'p> {
    /// Reads the headers of the units, and the list of their addresses. Malformed parts are left out.
    pub(super) fn of(dwarf: gimli::Dwarf<Bytes<'p>>, split: &'p Split) -> Self {
        let (mut starts, mut headers) = (Vec::new(), Vec::new());
        let mut all = dwarf.units();
        while let Ok(Some(header)) = all.next() {
            if headers.len() == UNITS {
                break;
            }
            if let Some(offset) = header.debug_info_offset() {
                starts.push(offset.0);
                headers.push(header);
            }
        }
        let mut ranges = Vec::new();
        let mut listed = vec![false; starts.len()];
        let mut sets = dwarf.debug_aranges.headers();
        while let Ok(Some(set)) = sets.next() {
            let Ok(unit) = starts.binary_search(&set.debug_info_offset().0) else {
                continue;
            };
            listed[unit] = true;
            let mut entries = set.entries();
            while let Ok(Some(entry)) = entries.next() {
                let entry: ArangeEntry = entry;
                if ranges.len() < RANGES {
                    let end = entry.address().saturating_add(entry.length());
                    ranges.push((entry.address(), end, unit));
                }
            }
        }
        ranges.sort_unstable();
        let unlisted = (0..starts.len()).filter(|unit| !listed[*unit]);
        Self {
            unlisted: unlisted.collect(),
            read: starts.iter().map(|_| OnceCell::new()).collect(),
            dwarf,
            starts,
            headers,
            split,
            ranges,
        }
    }

    /// Returns the number of units.
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Returns the units of which the addresses are not listed.
    pub(super) fn unlisted(&self) -> &[usize] {
        &self.unlisted
    }

    /// Returns the units that have an address of the file.
    pub(super) fn at(&self, address: u64) -> impl Iterator<Item = usize> {
        let after = self.ranges.partition_point(|range| range.0 <= address);
        let near = &self.ranges[after.saturating_sub(NEAR)..after];
        let holding = near.iter().filter(move |range| address < range.1);
        holding.map(|range| range.2)
    }

    /// Reads a unit, with its types; `None` if it is malformed.
    pub(super) fn unit(&self, unit: usize) -> Option<&Unit<Bytes<'p>>> {
        let read = self.read(unit)?;
        let rest = read.rest.as_ref();
        Some(rest.map_or(&read.own, |rest| &rest.unit))
    }

    fn read(&self, unit: usize) -> Option<&Read<'p>> {
        let read = || {
            let own = self.dwarf.unit(self.headers[unit]).ok()?;
            let rest = own.dwo_id.and_then(|_| self.split.rest(&self.dwarf, &own));
            Some(Read {
                own,
                rest: rest.map(Box::new),
            })
        };
        self.read.get(unit)?.get_or_init(read).as_ref()
    }

    /// Returns the sections with the types of a unit.
    fn sections(&self, unit: usize) -> &gimli::Dwarf<Bytes<'p>> {
        let rest = self.read(unit).and_then(|read| read.rest.as_ref());
        rest.map_or(&self.dwarf, |rest| &rest.dwarf)
    }

    /// Returns whether the rest of a unit is in a file that was not found (`split-debuginfo`).
    pub(super) fn is_split(&self, unit: usize) -> bool {
        self.read(unit).is_some_and(|read| {
            let name = read.own.dwo_name().ok().flatten();
            name.is_some() && read.rest.is_none()
        })
    }

    /// Returns the address that an attribute or an operation of a unit has, by its place in a list too.
    pub(super) fn address(&self, unit: usize, value: Value<'p>) -> Option<u64> {
        let sections = self.sections(unit);
        sections.attr_address(self.unit(unit)?, value).ok()?
    }

    /// Returns a text, such as a name; empty if it is missing.
    pub(super) fn text(&self, unit: usize, entry: &Entry<'p>, attribute: DwAt) -> String {
        let value = entry.attr_value(attribute);
        let text = value.and_then(|value| self.string(unit, value));
        text.unwrap_or_default()
    }

    /// Returns whether an entry has this name.
    pub(super) fn is_named(&self, unit: usize, entry: &Entry<'p>, name: &str) -> bool {
        let value = entry.attr_value(gimli::DW_AT_name).zip(self.unit(unit));
        let sections = self.sections(unit);
        let text = value.and_then(|(value, unit)| sections.attr_string(unit, value).ok());
        text.is_some_and(|text| text.slice() == name.as_bytes())
    }

    fn string(&self, unit: usize, value: Value<'p>) -> Option<String> {
        let sections = self.sections(unit);
        string(sections, self.unit(unit)?, value)
    }

    /// Returns the entry that an attribute of a unit refers to, as a type.
    pub(super) fn reference(&self, unit: usize, value: Option<Value<'p>>) -> Option<Type> {
        match value? {
            AttributeValue::UnitRef(at) => Some(Type { unit, at: at.0 }),
            // In another file, a place is counted from the beginning of that.
            AttributeValue::DebugInfoRef(at) if self.read(unit)?.rest.is_none() => {
                let after = self.starts.partition_point(|start| *start <= at.0);
                let unit = after.checked_sub(1)?;
                Some(Type {
                    unit,
                    at: at.0 - self.starts[unit],
                })
            }
            _ => None,
        }
    }

    /// Returns the place that two attributes of an entry tell.
    pub(super) fn place(&self, unit: usize, entry: &Entry<'p>, of: [DwAt; 2]) -> Option<Place> {
        let line = number(entry, of[1])?;
        let AttributeValue::FileIndex(index) = entry.attr_value(of[0])? else {
            return None;
        };
        self.file(unit, index, line)
    }

    fn file(&self, unit: usize, index: u64, line: u64) -> Option<Place> {
        // The names of files are with the lines, so in the program.
        let own = &self.read(unit)?.own;
        let header = own.line_program.as_ref()?.header();
        let file = header.file(index)?;
        let text = |value| string(&self.dwarf, own, value);
        let folder = file.directory(header).and_then(text);
        let name = text(file.path_name())?;
        let built = self.folder(unit);
        let parts = [&built, folder.as_deref().unwrap_or_default(), &name];
        let path = parts.iter().fold(String::new(), |path, part| {
            match part.starts_with('/') || path.is_empty() {
                true => (*part).to_owned(),
                false if part.is_empty() => path,
                false => format!("{path}/{part}"),
            }
        });
        Some(Place::of(&path, line, &built))
    }

    /// Returns the folder in which a unit was compiled.
    fn folder(&self, unit: usize) -> String {
        let folder = self.read(unit).and_then(|read| read.own.comp_dir);
        folder.map_or_else(String::new, |folder| folder.to_string_lossy().into_owned())
    }

    /// Returns the place of an instruction, by the table of lines of its unit.
    pub(super) fn line(&self, address: u64) -> Option<Place> {
        self.at(address).find_map(|unit| {
            let program = self.read(unit)?.own.line_program.clone()?;
            let mut rows = program.rows();
            let mut before: Option<(u64, u64)> = None;
            while let Some((_, row)) = rows.next_row().ok()? {
                if let Some((file, line)) = before
                    && row.address() > address
                {
                    return self.file(unit, file, line);
                }
                let is_before = row.address() <= address && !row.end_sequence();
                let line = row.line().map_or(0, std::num::NonZero::get);
                before = is_before.then_some((row.file_index(), line));
            }
            None
        })
    }
}

/// Returns the text of an attribute, which may be in one of several sections.
fn string<'p>(
    sections: &gimli::Dwarf<Bytes<'p>>,
    unit: &Unit<Bytes<'p>>,
    value: Value<'p>,
) -> Option<String> {
    let bytes = sections.attr_string(unit, value).ok()?;
    let is_text = bytes.len() <= TEXT;
    is_text.then(|| bytes.to_string_lossy().into_owned())
}

/// Returns a number, such as a size or a line.
pub(super) fn number(entry: &Entry<'_>, attribute: DwAt) -> Option<u64> {
    let value = entry.attr_value(attribute)?;
    let signed = || value.sdata_value().map(i64::cast_unsigned);
    value.udata_value().or_else(signed)
}
