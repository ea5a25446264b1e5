//! The program and the libraries in memory, and their unwinding information.
//!
//! They are listed by the kernel, in `/proc/self/maps`, and not by the loader: a stuck thread may
//! hold the loader's lock. The unwinding information is copied, because a library may be unloaded
//! at any time. A change of the executable mappings is noticed at the next [`Modules::refresh`].
//!
//! Only `.eh_frame`, with its table in `.eh_frame_hdr`, is used; other unwinding information is not
//! read.
//!
//! The parts of an image that are read, all little-endian:
//!
//! | structure | offset | field |
//! |---|---|---|
//! | ELF header | 32 | offset of the program headers |
//! | | 56 | their number |
//! | program header (56 bytes) | 0, 4 | type, flags |
//! | | 16, 40 | address, length in memory |
//! | `.eh_frame_hdr` | 0 | version and three encodings |
//! | | 4 | pointer to `.eh_frame` |
//! | | 8 | number of entries |
//! | | 12 | entries of 8 bytes: start of a function, its rule |
//!
//! Images are read from memory and not from their files: a file may have been replaced by an update
//! while the process runs, and the memory is what the addresses refer to.

use super::arch;
use super::memory::Memory;
use crate::audit::proc::maps::{self, Mapping};
use framehop::{
    ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, Unwinder, UnwinderNative,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// The most bytes of unwinding information that are copied of one module.
///
/// A larger section is cut, and the functions behind the cut cannot be unwound.
const LARGEST: u64 = 256 << 20;
/// The first bytes of an ELF image (elf(5)).
///
/// A mapping that does not begin with them, such as a data file, is no module.
const ELF: [u8; 4] = *b"\x7fELF";
/// Types and flags of program headers (elf(5)).
///
/// `PT_LOAD`: a segment that is mapped.
const LOAD: u32 = 1;
/// `PT_GNU_EH_FRAME`: the segment that is `.eh_frame_hdr`.
const EH_FRAME: u32 = 0x6474_e550;
/// `PF_X`: a flag of a segment with code.
const EXECUTABLE: u32 = 1;
/// The supported encoding of `.eh_frame_hdr`, after its version: pointers relative to their own
/// address, of 4 bytes; a count of 4 bytes; a table relative to the section, of 4 bytes (Linux
/// Standard Base, `.eh_frame_hdr`).
///
/// The usual linkers write it. A module with another one is listed without unwinding information,
/// so a walk ends at its functions.
const ENCODING: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// The most results that [`Modules::call_before`] keeps. At the bound all are dropped, as in the
/// cache of names: an entry is cheap to find again, with one or two reads of memory.
const CALLS: usize = 1 << 16;

/// A copied section.
type Bytes = Arc<[u8]>;
/// `None` if there is no call before an address; `Some(None)` if the instruction does not name the
/// function it calls.
type Call = Option<Option<u64>>;

/// The loaded modules.
#[derive(Default)]
pub(super) struct Modules {
    /// The mappings that hold code, to detect a change. Data mappings are left out, since they change
    /// with every allocation of a large block.
    code: Vec<Mapping>,
    /// Sorted by address. Modules do not overlap, so a binary search by start finds the one at an
    /// address.
    loaded: Vec<Loaded>,
    /// The results of [`Modules::call_before`], by return address. Threads have most of them in
    /// common.
    ///
    /// A `RefCell`, so that a search can fill it while the list is borrowed; the reader's lock
    /// makes it one thread's.
    calls: RefCell<HashMap<u64, Call>>,
    /// It holds copies of the sections, and so never touches memory that may be unmapped.
    pub(super) unwinder: UnwinderNative<Bytes, MayAllocateDuringUnwind>,
}

/// One module in memory.
#[derive(Clone)]
struct Loaded {
    /// The addresses of its executable segments. From the first to the last of them; a gap between
    /// two counts as code.
    code: Range<u64>,
    /// The table of functions (`.eh_frame_hdr`), and its address. `None` for a module without the
    /// section, in which function starts are unknown.
    header: Option<(u64, Bytes)>,
}

/// The needed fields of a program header.
struct Segment {
    /// See the types above.
    kind: u32,
    /// A set of permissions, of which only [`EXECUTABLE`] is looked at.
    flags: u32,
    /// The address in the file's own numbering, to which the module's bias is added.
    address: u64,
    /// The length in memory, which may exceed that in the file.
    length: u64,
}

// === impl Modules ===

impl Modules {
    /// Updates the list, and returns whether modules were loaded or unloaded. It takes no lock. It
    /// takes about a millisecond after a change, and less without one.
    ///
    /// All modules are loaded again after a change, with a new unwinder. If the list cannot be
    /// read, the last one stays in use.
    pub(super) fn refresh(&mut self, memory: &Memory) -> bool {
        let Ok(mappings) = maps::read(&memory.process()) else {
            return false;
        };
        let code = mappings.iter().filter(|mapping| is_code(mapping));
        if code.clone().eq(&self.code) {
            return false;
        }
        self.code = code.cloned().collect();
        self.loaded.clear();
        self.calls.borrow_mut().clear();
        self.unwinder = UnwinderNative::default();
        for (base, path) in mappings.iter().filter_map(begins) {
            if let Some((loaded, module)) = load(memory, base, path) {
                self.loaded.push(loaded);
                self.unwinder.add_module(module);
            }
        }
        self.loaded.sort_by_key(|loaded| loaded.code.start);
        true
    }

    /// Returns whether the address is in the code of a module.
    pub(super) fn has_code(&self, address: u64) -> bool {
        self.at(address).is_some()
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> Vec<Range<u64>> {
        self.loaded
            .iter()
            .map(|loaded| loaded.code.clone())
            .collect()
    }

    /// Returns the start of the function that contains the address, according to its module's
    /// table. A function without unwinding information is not in the table: the one before it is
    /// returned.
    ///
    /// Costs a binary search over the copied table, about 20 steps for a large program. `None` if
    /// the address is in no module, or in one without a table.
    pub(super) fn function(&self, address: u64) -> Option<u64> {
        let (at, header) = self.at(address)?.header.as_ref()?;
        let word = |offset: usize| header.get(offset..offset + 4)?.try_into().ok();
        let entries = u32::from_le_bytes(word(8)?);
        let start = |entry: usize| {
            let offset = word(12 + entry * 8).map_or(0, i32::from_le_bytes);
            at.wrapping_add_signed(i64::from(offset))
        };
        // The table is sorted, so a binary search finds the last start that is not after the
        // address.
        let (mut low, mut high) = (0, usize::try_from(entries).ok()?);
        while low < high {
            let middle = usize::midpoint(low, high);
            if start(middle) <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low.checked_sub(1).map(start)
    }

    /// Returns the call instruction before `returns`, if there is one.
    ///
    /// Reads memory at most three times for an address that is not cached. Code does not change
    /// while its module is loaded, so a result stays right until the next refresh.
    pub(super) fn call_before(&self, returns: u64, memory: &Memory) -> Call {
        if !self.has_code(returns) {
            return None;
        }
        let mut calls = self.calls.borrow_mut();
        if calls.len() >= CALLS {
            calls.clear();
        }
        let read = |address, into: &mut [u8]| memory.read(address, into) == into.len();
        let find = || arch::is_call(read, returns).then(|| arch::called(read, returns));
        *calls.entry(returns).or_insert_with(find)
    }

    /// Returns the module with code at the address.
    ///
    /// The one lookup on which all others rest; it allocates nothing.
    fn at(&self, address: u64) -> Option<&Loaded> {
        let after = self
            .loaded
            .partition_point(|loaded| loaded.code.start <= address);
        let loaded = self.loaded.get(after.checked_sub(1)?)?;
        loaded.code.contains(&address).then_some(loaded)
    }
}

/// Returns whether a mapping is code of a file or of the kernel.
///
/// Code that a JIT compiler makes in anonymous memory has no path, so its coming and going does not
/// refresh the modules, and a walk ends at it.
fn is_code(mapping: &Mapping) -> bool {
    mapping.is_code() && !mapping.path.is_empty()
}

/// Returns address and path of a mapping that starts at the beginning of a file or of the vDSO;
/// `None` for others.
///
/// The offset must be 0, since only the first page holds the ELF header. Anonymous memory and other
/// pseudo-files are left out.
fn begins(mapping: &Mapping) -> Option<(u64, &str)> {
    let is_file = mapping.path.starts_with('/') || mapping.path == "[vdso]";
    let may_be_module = is_file && mapping.is_readable() && mapping.offset == 0;
    may_be_module.then_some((mapping.start, &*mapping.path))
}

/// Loads the module that begins at `base`; `None` if it is not an ELF image with code.
///
/// Reads the headers and copies the sections through the kernel. A library that is unloaded
/// meanwhile yields `None`, as does a file that only looks like an image.
fn load(memory: &Memory, base: u64, path: &str) -> Option<(Loaded, Module<Bytes>)> {
    let segments = segments(memory, base)?;
    let first = segments.iter().find(|segment| segment.kind == LOAD)?;
    // The address of the file's address 0. A page has at least 4 KiB, and the first segment begins
    // in the first page.
    let bias = base.wrapping_sub(first.address & !0xfff);
    let code = segments
        .iter()
        .filter(|segment| segment.kind == LOAD && segment.flags & EXECUTABLE != 0);
    let start = code.clone().map(|segment| segment.address).min()?;
    let end = code.map(|segment| segment.address + segment.length).max()?;
    let code = bias.wrapping_add(start)..bias.wrapping_add(end);
    let mut info = ExplicitModuleSectionInfo {
        base_svma: 0,
        text_svma: Some(start..end),
        ..Default::default()
    };
    let header = unwinding(memory, bias, &segments);
    let mut table = None;
    if let Some((header, frames)) = header {
        table = Some((bias.wrapping_add(header.0), Arc::clone(&header.1)));
        info.eh_frame_hdr_svma = Some(header.0..header.0 + header.1.len() as u64);
        info.eh_frame_hdr = Some(header.1);
        info.eh_frame_svma = Some(frames.0..frames.0 + frames.1.len() as u64);
        info.eh_frame = Some(frames.1);
    }
    let loaded = Loaded {
        code: code.clone(),
        header: table,
    };
    Some((loaded, Module::new(path.to_owned(), code, bias, info)))
}

/// Reads the program headers of the ELF image at `base`.
///
/// The count has 16 bits, so at most 3.5 MiB are read for a damaged header.
fn segments(memory: &Memory, base: u64) -> Option<Vec<Segment>> {
    let image = memory.bytes(base, 64)?;
    if image[..4] != ELF {
        return None;
    }
    let (offset, count) = (long(&image, 32)?, short(&image, 56)?);
    let size = 56;
    let headers = memory.bytes(base.wrapping_add(offset), size * usize::from(count))?;
    let segment = |header: &[u8]| {
        Some(Segment {
            kind: int(header, 0)?,
            flags: int(header, 4)?,
            address: long(header, 16)?,
            length: long(header, 40)?,
        })
    };
    headers.chunks_exact(size).map(segment).collect()
}

/// Copies `.eh_frame_hdr` and `.eh_frame`, each with its address in the file; `None` if the module
/// has none, or uses another encoding.
///
/// The table is sorted by address, which is what makes [`Modules::function`] a binary search.
fn unwinding(
    memory: &Memory,
    bias: u64,
    segments: &[Segment],
) -> Option<((u64, Bytes), (u64, Bytes))> {
    let header = segments.iter().find(|segment| segment.kind == EH_FRAME)?;
    let around = |address: u64| {
        let of = |segment: &&Segment| {
            (segment.address..segment.address + segment.length).contains(&address)
        };
        segments
            .iter()
            .filter(|segment| segment.kind == LOAD)
            .find(of)
    };
    let length = usize::try_from(header.length).ok()?;
    let table = memory.bytes(bias.wrapping_add(header.address), length)?;
    if table.get(..4)? != ENCODING {
        return None;
    }
    let offset = int(&table, 4)?.cast_signed();
    let frames = (header.address + 4).wrapping_add_signed(i64::from(offset));
    let segment = around(frames)?;
    // The length of `.eh_frame` is stored nowhere: it ends with an entry of length 0, or with its
    // segment.
    let most = (segment.address + segment.length - frames).min(LARGEST);
    let mut bytes = memory.bytes(bias.wrapping_add(frames), usize::try_from(most).ok()?)?;
    bytes.truncate(entries_end(&bytes));
    Some(((header.address, table.into()), (frames, bytes.into())))
}

/// Returns the end of the entries of an `.eh_frame`.
///
/// Each entry begins with its length: 4 bytes, or `u32::MAX` and then 8 bytes. The end is that of
/// the last whole entry, so that the unwinder never parses the data that follows the section in its
/// segment.
fn entries_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = int(bytes, at) {
        let entry = match length {
            0 => return at + 4,
            u32::MAX => {
                long(bytes, at + 4).and_then(|length| usize::try_from(length).ok()?.checked_add(12))
            }
            _ => usize::try_from(length)
                .ok()
                .and_then(|length| length.checked_add(4)),
        };
        match entry.and_then(|entry| at.checked_add(entry)) {
            Some(next) if next <= bytes.len() => at = next,
            _ => return at,
        }
    }
    at
}

/// Reads two bytes, little-endian as on both architectures.
///
/// `None` beyond the end; a damaged image is no reason to panic.
fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Reads four bytes, little-endian.
fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Reads eight bytes, little-endian.
fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
