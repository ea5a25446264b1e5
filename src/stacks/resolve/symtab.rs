//! The full names of functions, from the symbol table of the program.
//!
//! With `debug = "line-tables-only"` the debug information names a function without its module, as
//! in `{async_fn#0}`. The symbol table (`.symtab` in elf(5)) still has the whole name of each
//! function that was not inlined. It is read from the file of the program, without the rest of the
//! file, and kept until the debug information is freed. A stripped program has none.

use crate::stacks::frame::Frame;
use crate::stacks::places::Places;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// The sizes of the entries in the file, for 64 bits: header, segment, section, symbol.
const SIZES: [usize; 4] = [64, 56, 64, 24];
/// The type of a loadable segment, and of the section of symbols.
const LOAD: u32 = 1;
const SYMBOLS: u32 = 2;
/// The type of a symbol that is a function.
const FUNCTION: u8 = 2;
/// The most bytes of a table. A program with hundreds of megabytes has 20 MB of symbols.
const LARGEST: u64 = 1 << 28;
/// The most bytes of a name.
const NAME: usize = 4096;

/// `None` before the first look-up; the inner `None` if the program has no usable table.
static TABLE: Mutex<Option<Option<Symtab>>> = Mutex::new(None);

/// The functions of the program.
#[derive(Debug)]
struct Symtab {
    /// The file of the program, from which names are read.
    file: File,
    /// The position of the names in it.
    names: u64,
    /// The difference between an address in memory and in the file.
    bias: u64,
    /// In the order of their addresses.
    functions: Vec<Function>,
}

/// One function.
#[derive(Debug)]
struct Function {
    /// Its address in the file.
    address: u64,
    /// Its length in bytes.
    size: u64,
    /// The position of its name among the names.
    name: u32,
}

/// Names the outermost of the frames at an instruction with its path, if the debug information has
/// none. It is the function itself, into which the others were inlined.
pub(super) fn add_path(frames: &mut [Frame], address: usize) {
    if let Some(own) = frames.last_mut().filter(|own| !has_path(&own.function))
        && let Some(symbol) = function_at(address)
    {
        let symbol = format!("{:#}", backtrace::SymbolName::new(&symbol));
        own.function = with_path(&own.function, &symbol);
    }
}

/// Returns the mangled name of the function that contains an instruction, if it is a function of the
/// program. The first call reads the table.
fn function_at(address: usize) -> Option<Vec<u8>> {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let table = table.get_or_insert_with(Symtab::read).as_ref()?;
    table.name_at(u64::try_from(address).ok()?)
}

/// Returns whether the name of a function has a path, type parameters apart.
fn has_path(function: &str) -> bool {
    function.starts_with('<') || own_name(function).contains("::")
}

/// Returns the name without its type parameters.
fn own_name(function: &str) -> &str {
    function.split_once('<').map_or(function, |(name, _)| name)
}

/// Returns the name of a function from the debug information with the path that its symbol has. A
/// symbol without a path, such as `main`, is no better. Type parameters are kept, which only one of
/// the two may have.
fn with_path(function: &str, symbol: &str) -> String {
    if !has_path(symbol) {
        return function.to_owned();
    }
    match symbol.strip_suffix(own_name(function)) {
        Some(path) if path.ends_with("::") => format!("{path}{function}"),
        _ => symbol.to_owned(),
    }
}

/// Frees the memory of the table. The next look-up reads it again.
pub(super) fn give_back() {
    *TABLE.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

// === impl Symtab ===

impl Symtab {
    /// Reads the table of this program.
    fn read() -> Option<Self> {
        let program = std::fs::read_link("/proc/self/exe").ok()?;
        let here = function_at as fn(usize) -> Option<Vec<u8>> as usize;
        // Code of a shared library is in another file.
        let begin = Places::read().begin_of(here, program.file_name()?.to_str()?)?;
        Self::of(
            File::open("/proc/self/exe").ok()?,
            u64::try_from(begin).ok()?,
        )
    }

    /// Reads the table of a file that is mapped from `begin` on.
    fn of(file: File, begin: u64) -> Option<Self> {
        let [header_size, segment_size, section_size, symbol_size] = SIZES;
        let mut header = vec![0; header_size];
        file.read_exact_at(&mut header, 0).ok()?;
        let is_elf64 = header.starts_with(b"\x7fELF\x02");
        if !is_elf64 {
            return None;
        }
        let [segments, sections] =
            [(0x20, 0x36, segment_size), (0x28, 0x3a, section_size)].map(|(place, sizes, size)| {
                let (entry, count) = (
                    number::<2>(&header, sizes)?,
                    number::<2>(&header, sizes + 2)?,
                );
                let is_known = entry == size as u64;
                let at = number::<8>(&header, place)?;
                is_known.then(|| table(&file, at, count * entry)).flatten()
            });
        let (segments, sections) = (segments?, sections?);
        let mut loaded = segments.chunks_exact(segment_size);
        let first = loaded.find(|segment| number::<4>(segment, 0) == Some(LOAD.into()))?;
        let (offset, address) = (number::<8>(first, 0x08)?, number::<8>(first, 0x10)?);
        let mut all = sections.chunks_exact(section_size);
        let symbols = all.find(|section| number::<4>(section, 4) == Some(SYMBOLS.into()))?;
        let strings = usize::try_from(number::<4>(symbols, 0x28)?).ok()?;
        let strings = sections.chunks_exact(section_size).nth(strings)?;
        let place =
            |section: &[u8]| Some((number::<8>(section, 0x18)?, number::<8>(section, 0x20)?));
        let (at, size) = place(symbols)?;
        let symbols = table(&file, at, size)?;
        let functions = symbols.chunks_exact(symbol_size).filter_map(Function::of);
        let mut functions: Vec<Function> = functions.collect();
        functions.sort_unstable_by_key(|function| function.address);
        Some(Self {
            names: place(strings)?.0,
            bias: begin.wrapping_sub(address.wrapping_sub(offset)),
            functions,
            file,
        })
    }

    fn name_at(&self, address: u64) -> Option<Vec<u8>> {
        let address = address.wrapping_sub(self.bias);
        let after = self
            .functions
            .partition_point(|function| function.address <= address);
        let function = &self.functions[after.checked_sub(1)?];
        if address - function.address >= function.size {
            return None;
        }
        let mut name = vec![0; NAME];
        let at = self.names + u64::from(function.name);
        let read = self.file.read_at(&mut name, at).ok()?;
        name.truncate(read);
        let end = name.iter().position(|byte| *byte == 0)?;
        name.truncate(end);
        Some(name)
    }
}

// === impl Function ===

impl Function {
    /// Reads an entry of the table; `None` if it is not a function of this file.
    fn of(symbol: &[u8]) -> Option<Self> {
        let function = Self {
            address: number::<8>(symbol, 8)?,
            size: number::<8>(symbol, 16)?,
            name: u32::try_from(number::<4>(symbol, 0)?).ok()?,
        };
        let is_function = symbol[4] & 0xf == FUNCTION && number::<2>(symbol, 6) != Some(0);
        (is_function && function.size > 0).then_some(function)
    }
}

/// Reads a part of the file; `None` if it is too large or not there.
fn table(file: &File, at: u64, size: u64) -> Option<Vec<u8>> {
    let size = usize::try_from(size.min(LARGEST + 1)).ok()?;
    if size as u64 > LARGEST {
        return None;
    }
    let mut table = vec![0; size];
    file.read_exact_at(&mut table, at).ok()?;
    Some(table)
}

/// Reads a number of `BYTES` bytes, in the byte order of this machine, which is that of the program.
fn number<const BYTES: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + BYTES)?;
    let mut wide = [0; 8];
    match cfg!(target_endian = "big") {
        true => wide[8 - BYTES..].copy_from_slice(bytes),
        false => wide[..BYTES].copy_from_slice(bytes),
    }
    Some(u64::from_ne_bytes(wide))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Symtab, function_at, give_back, with_path};
    use std::fs::File;

    #[test]
    fn a_name_gets_the_path_of_its_symbol_and_keeps_its_parameters() {
        for (function, symbol, named) in [
            ("load", "orders::db::load", "orders::db::load"),
            (
                "{async_fn#0}",
                "orders::db::load::{closure#0}",
                "orders::db::load::{closure#0}",
            ),
            (
                "begin<a::{closure_env#0}>",
                "std::begin",
                "std::begin<a::{closure_env#0}>",
            ),
            ("begin<a::B>", "std::begin::<a::B>", "std::begin::<a::B>"),
            (
                "poll",
                "<a::B as core::Future>::poll",
                "<a::B as core::Future>::poll",
            ),
            ("load", "my_load", "load"),
            ("main", "main", "main"),
        ] {
            assert_eq!(with_path(function, symbol), named);
        }
    }

    #[inline(never)]
    extern "C" fn headcount_symbol_of_a_test() {}

    #[test]
    fn a_function_of_the_program_is_found_by_each_of_its_addresses() {
        let begin = headcount_symbol_of_a_test as extern "C" fn() as usize;
        for _ in 0..2 {
            let name = function_at(begin).expect("the program is not stripped");
            let name = String::from_utf8(name).expect("names are ASCII");
            assert!(name.contains("headcount_symbol_of_a_test"), "{name}");
            assert_ne!(function_at(begin - 1), Some(name.into_bytes()));
            give_back();
        }
        assert_eq!(function_at(16), None, "nothing is there");
        let local = 0;
        assert_eq!(
            function_at(std::ptr::from_ref(&local).addr()),
            None,
            "it is no code"
        );
    }

    #[test]
    fn a_file_without_symbols_has_no_names() {
        let own = File::open("src/lib.rs").expect("tests run in the package");
        assert!(Symtab::of(own, 0).is_none());
        let empty = File::open("/dev/null").expect("Linux has it");
        assert!(Symtab::of(empty, 0).is_none());
    }
}
