//! The programs and libraries in our memory, and how their functions are unwound.
//!
//! The kernel lists them, and not the loader, whose lock a stuck thread may hold. What is needed of them is copied: they
//! may be unloaded at any time.

use super::arch;
use super::memory::Memory;
use framehop::{
    ExplicitModuleSectionInfo, MayAllocateDuringUnwind, Module, Unwinder, UnwinderNative,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Unwinding information of a larger module is not copied.
const LARGEST: u64 = 256 << 20;
const ELF: [u8; 4] = *b"\x7fELF";
/// Program headers (elf(5)).
const LOAD: u32 = 1;
const EH_FRAME: u32 = 0x6474_e550;
const EXECUTABLE: u32 = 1;
/// Pointers relative to where they are, of 4 bytes; a table relative to its section, of 4 bytes; a count of 4 bytes
/// (Linux Standard Base, `.eh_frame_hdr`).
const ENCODING: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// So many calls are kept.
const CALLS: usize = 1 << 16;

type Bytes = Arc<[u8]>;
/// Whether there is a call, and if the instruction tells, of which function.
type Call = Option<Option<u64>>;

/// What is loaded.
#[derive(Default)]
pub(super) struct Modules {
    /// The lines of `/proc/self/maps` that hold code, by which a change is seen.
    lines: Vec<String>,
    loaded: Vec<Loaded>,
    /// What was found before addresses of code. Threads have most of them in common.
    calls: RefCell<HashMap<u64, Call>>,
    pub(super) unwinder: UnwinderNative<Bytes, MayAllocateDuringUnwind>,
}

#[derive(Clone)]
struct Loaded {
    code: Range<u64>,
    /// The table of functions, which stands at this address.
    header: Option<(u64, Bytes)>,
}

/// A program header.
struct Segment {
    kind: u32,
    flags: u32,
    address: u64,
    length: u64,
}

// === impl Modules ===

impl Modules {
    /// Takes notice of what was loaded or unloaded, and says whether anything was. It takes no lock, a millisecond after a
    /// change, and less without.
    pub(super) fn refresh(&mut self, memory: &Memory) -> bool {
        let Ok(maps) = std::fs::read("/proc/self/maps") else {
            return false;
        };
        let maps = String::from_utf8_lossy(&maps);
        let code = maps.lines().filter(|line| is_code(line));
        if code.clone().eq(self.lines.iter().map(String::as_str)) {
            return false;
        }
        self.lines = code.map(str::to_owned).collect();
        self.loaded.clear();
        self.calls.borrow_mut().clear();
        self.unwinder = UnwinderNative::default();
        for (base, path) in maps.lines().filter_map(begins) {
            if let Some((loaded, module)) = load(memory, base, path) {
                self.loaded.push(loaded);
                self.unwinder.add_module(module);
            }
        }
        self.loaded.sort_by_key(|loaded| loaded.code.start);
        true
    }

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

    /// Where the function begins that the address is in, as far as its module tells.
    pub(super) fn function(&self, address: u64) -> Option<u64> {
        let (at, header) = self.at(address)?.header.as_ref()?;
        let word = |offset: usize| header.get(offset..offset + 4)?.try_into().ok();
        let entries = u32::from_le_bytes(word(8)?);
        let start = |entry: usize| {
            let offset = word(12 + entry * 8).map_or(0, i32::from_le_bytes);
            at.wrapping_add_signed(i64::from(offset))
        };
        // The table is sorted.
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

    /// The call that returns to that address, if that is what is before it.
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

    fn at(&self, address: u64) -> Option<&Loaded> {
        let after = self
            .loaded
            .partition_point(|loaded| loaded.code.start <= address);
        let loaded = self.loaded.get(after.checked_sub(1)?)?;
        loaded.code.contains(&address).then_some(loaded)
    }
}

/// Whether a line of `maps` (proc_pid_maps(5)) is of memory that can be executed, and comes from a file or the kernel.
fn is_code(line: &str) -> bool {
    let mut fields = line.split_ascii_whitespace();
    let access = fields.nth(1).unwrap_or("");
    access.as_bytes().get(2) == Some(&b'x') && fields.nth(3).is_some()
}

/// Where a file is mapped from its beginning, if the line is of such a mapping.
fn begins(line: &str) -> Option<(u64, &str)> {
    let mut fields = line.splitn(6, ' ');
    let (range, access, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let path = fields.nth(2)?.trim_start();
    let (start, _) = range.split_once('-')?;
    let is_file = path.starts_with('/') || path == "[vdso]";
    let may_be_module =
        is_file && access.starts_with('r') && offset.bytes().all(|digit| digit == b'0');
    let start = may_be_module.then(|| u64::from_str_radix(start, 16))?;
    Some((start.ok()?, path))
}

/// The module that begins there, if one does.
fn load(memory: &Memory, base: u64, path: &str) -> Option<(Loaded, Module<Bytes>)> {
    let segments = segments(memory, base)?;
    let first = segments.iter().find(|segment| segment.kind == LOAD)?;
    // Where address 0 of the file is. Pages are of 4 KiB at least, and a first segment begins in the first one.
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

/// The program headers of the ELF image at `base`.
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

/// `.eh_frame_hdr` and `.eh_frame`, with their addresses in the file.
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
    // Its length stands nowhere: it ends with an entry of length 0, or with the segment.
    let most = (segment.address + segment.length - frames).min(LARGEST);
    let mut bytes = memory.bytes(bias.wrapping_add(frames), usize::try_from(most).ok()?)?;
    bytes.truncate(entries_end(&bytes));
    Some(((header.address, table.into()), (frames, bytes.into())))
}

/// Where the entries of an `.eh_frame` end.
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

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
