//! The program of a process: its file, symbols, and debug information.
//!
//! Everything is read from the file, when it is needed: a count of tasks costs no debug information,
//! the type of a task only the symbols, and an await chain only the units with its types. Debug information
//! in files of its own (`split-debuginfo`) is read from those.
//! Addresses are those of the file, unless a function says otherwise; see [`Program::in_file`].

mod code;
mod dwarf;
mod elf;
#[cfg(test)]
mod fuzz;
mod index;
mod kind_names;
mod names;
mod place;
mod shape;
mod split;
mod symbols;
mod units;
mod version;

pub(crate) use dwarf::{Functions, Limits, Types};
pub(crate) use kind_names::of_kinds;
pub(crate) use names::{Certainty, Name};
pub(crate) use place::Place;
pub(crate) use shape::{Member, Shape};
pub(crate) use split::Split;
pub(crate) use symbols::Symbols;
pub(crate) use units::Type;

use elf::Elf;
use gimli::{EndianSlice, LittleEndian};
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;

/// The number of functions in the table of a task (tokio's `Vtable`).
pub(crate) const FUNCTIONS: usize = 7;

/// The sections of debug information that are read: neither locations nor macros.
const SECTIONS: [gimli::SectionId; 8] = [
    gimli::SectionId::DebugAbbrev,
    gimli::SectionId::DebugAddr,
    gimli::SectionId::DebugAranges,
    gimli::SectionId::DebugInfo,
    gimli::SectionId::DebugLine,
    gimli::SectionId::DebugLineStr,
    gimli::SectionId::DebugStr,
    gimli::SectionId::DebugStrOffsets,
];

/// A program that runs.
#[derive(Debug)]
pub(crate) struct Program {
    elf: Elf,
    /// The difference between an address in memory and in the file.
    bias: u64,
    symbols: OnceCell<Symbols>,
    sections: OnceCell<gimli::DwarfSections<Vec<u8>>>,
    split: Split,
}

// === impl Program ===

impl Program {
    /// Reads the file of a program. Its first mapping begins at this address. An error is a reason
    /// that follows "cannot read the program: ".
    pub(crate) fn of(file: File, begin: u64, split: Split) -> Result<Self, String> {
        let elf = Elf::read(file)?;
        if !elf.has_code() {
            return Err("it has no code".to_owned());
        }
        Ok(Self {
            bias: begin.wrapping_sub(elf.lowest()),
            elf,
            symbols: OnceCell::new(),
            sections: OnceCell::new(),
            split,
        })
    }

    /// Returns the address in the file of an address in memory.
    pub(crate) fn in_file(&self, address: u64) -> u64 {
        address.wrapping_sub(self.bias)
    }

    /// Returns the addresses of the program's code, in memory.
    pub(crate) fn code(&self) -> Range<u64> {
        let code = self.elf.code();
        self.bias.wrapping_add(code.start)..self.bias.wrapping_add(code.end)
    }

    /// Returns the versions of tokio in the program, as far as the paths of its panics tell.
    pub(crate) fn tokio_versions(&self) -> BTreeSet<String> {
        let mut versions = BTreeSet::new();
        for constants in self.elf.constants() {
            version::find(&constants, &mut versions);
        }
        versions
    }

    /// Returns the symbols; none in a stripped program.
    pub(crate) fn symbols(&self) -> &Symbols {
        let read = || Symbols::of(self.elf.functions());
        self.symbols.get_or_init(read)
    }

    /// Returns the number by which dropping a reference to a task changes its state, if the machine
    /// code shows it; see [`code::reference`]. `function` drops the handle by which a task is aborted.
    pub(crate) fn reference(&self, function: u64) -> Option<u64> {
        let body = self.body(function);
        code::reference(&body).or_else(|| {
            let dropping = self.symbols().dropping()?;
            code::argument(&self.body(dropping))
        })
    }

    /// Returns the machine code of a function. Without symbols, it is as long as a short function.
    fn body(&self, function: u64) -> Vec<u8> {
        const SHORT: usize = 96;
        const LONGEST: usize = 1 << 20;
        let length = self.symbols().size(function).unwrap_or(SHORT);
        let length = length.min(LONGEST);
        self.elf.at(function, length)
    }

    /// Returns the functions that a function calls directly.
    fn calls(&self, function: u64) -> Vec<u64> {
        let body = self.body(function);
        let calls = code::calls(&body, function);
        calls.filter(|to| self.symbols().is_function(*to)).collect()
    }

    /// Explains why there are no types of futures in the debug information, with the remedy.
    pub(crate) fn without_types(&self, types: &Types<'_>) -> &'static str {
        let (has_info, is_elsewhere) = (
            self.elf.has_section(".debug_info"),
            self.elf.has_section(".gnu_debuglink"),
        );
        // Before there was a flag for it, the name told a compressed section.
        let is_old = self.elf.has_section(".zdebug_info");
        without_types(has_info, is_old, is_elsewhere, types.is_split())
    }

    /// Returns the types of the program; those of which the functions of tasks are given are looked
    /// for first. There are none if the debug information has more bytes than the limits allow.
    pub(crate) fn types(&self, functions: Functions, limits: Limits) -> Types<'_> {
        let sections = self.sections.get_or_init(|| {
            let sizes = SECTIONS.iter().map(|id| self.elf.size(id.name()));
            let size = sizes.fold(0, u64::saturating_add);
            let is_read = |id| size <= limits.bytes && SECTIONS.contains(&id);
            let load = |id: gimli::SectionId| match is_read(id) {
                true => Ok::<_, ()>(self.elf.section(id.name())),
                false => Ok(Vec::new()),
            };
            gimli::DwarfSections::load(load).unwrap_or_default()
        });
        let dwarf = sections.borrow(|section| EndianSlice::new(section, LittleEndian));
        self.split.limit(limits.bytes);
        Types::of(dwarf, &self.split, functions, limits)
    }

    /// Returns the name of the future of the task with these functions, from symbols alone; `None` if
    /// they do not tell.
    pub(crate) fn future(&self, functions: &[u64; FUNCTIONS]) -> Option<Name> {
        let calls = |function| self.calls(function);
        names::of_future(self.symbols(), functions, &calls)
    }
}

fn without_types(
    has_info: bool,
    is_compressed: bool,
    is_elsewhere: bool,
    is_split: bool,
) -> &'static str {
    match (has_info, is_compressed, is_elsewhere) {
        (_, true, _) => {
            "the debug information of the program is compressed in an old way, which is not read: to see what tasks \
             wait for, build it with `--compress-debug-sections=zlib`"
        }
        (true, ..) if is_split => {
            "the debug information of the program is in files of its own, which are not where they were built, or of \
             another build: to see what tasks wait for, put its `.dwp` next to the program, or build it with \
             `split-debuginfo = \"off\"` in its Cargo profile"
        }
        (true, ..) => {
            "the debug information of the program has no types: to see what tasks wait for, build it with `debug = 2` \
             in its Cargo profile"
        }
        (false, _, true) => {
            "the debug information of the program was moved to another file, which is not read: to see what tasks wait \
             for, leave it in the program"
        }
        (false, ..) => {
            "the program has no debug information: to see what tasks wait for, build it with `debug = 2` in its Cargo \
             profile"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::without_types;

    #[test]
    fn missing_types_are_explained_by_their_cause() {
        for (has_info, is_compressed, is_elsewhere, is_split, word) in [
            (false, false, false, false, "no debug information"),
            (true, false, false, false, "has no types"),
            (false, true, false, false, "is compressed"),
            (true, false, true, true, "files of its own"),
            (false, false, true, false, "another file"),
        ] {
            let text = without_types(has_info, is_compressed, is_elsewhere, is_split);
            assert!(text.contains(word), "{text}");
        }
    }
}
