//! The file of a program, or one with its debug information: its sections, segments and symbols.
//!
//! The table of contents is read once, and a section only when it is asked for.

use object::elf::{PF_X, PT_LOAD};
use object::read::CompressedFileRange;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{
    CompressedData, CompressionFormat, Endianness, Object, ObjectSection, ObjectSymbol, ReadCache,
    SectionKind, SymbolKind,
};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The most bytes of a section that are read.
const LARGEST: u64 = 1 << 30;
/// The most bytes that one compressed byte stands for (zlib's limit is 1032). Debug information has about 4.
const EXPANSION: u64 = 1032;
/// The most symbols that are read. A program with hundreds of megabytes has about a million.
const SYMBOLS: usize = 1 << 23;

/// The longest name of a symbol that is read, in bytes.
const NAME: usize = 1 << 16;

/// The file of a program, with its table of contents.
#[derive(Debug)]
pub(super) struct Elf {
    file: File,
    sections: Vec<Section>,
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Section {
    name: String,
    kind: SectionKind,
    /// The bytes in the file; empty for one that has none.
    place: Range<u64>,
    format: CompressionFormat,
    /// The number of bytes without compression.
    size: u64,
}

/// A segment that is loaded.
#[derive(Debug)]
struct Segment {
    /// Its first address in the file.
    address: u64,
    /// The bytes in the file.
    place: Range<u64>,
    is_code: bool,
}

/// The symbol of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Symbol {
    /// Its address in the file.
    pub(super) address: u64,
    pub(super) size: u64,
    /// As the compiler wrote it.
    pub(super) name: Box<str>,
}

// === impl Elf ===

impl Elf {
    /// Reads the table of contents. An error is a reason that follows "cannot read the program: ".
    pub(super) fn read(file: File) -> Result<Self, String> {
        let cache = ReadCache::new(&file);
        let elf = parse(&cache)?;
        let sections = elf.sections().filter_map(|section| {
            let CompressedFileRange {
                format,
                offset,
                compressed_size,
                uncompressed_size: size,
            } = section.compressed_file_range().ok()?;
            Some(Section {
                name: section.name().ok()?.to_owned(),
                kind: section.kind(),
                place: offset..offset.checked_add(compressed_size)?,
                format,
                size,
            })
        });
        let sections = sections.collect();
        let order = elf.endian();
        let headers = elf.elf_program_headers().iter();
        let segments = headers.filter(|header| header.p_type(order) == PT_LOAD);
        let segments = segments.filter_map(|header| {
            let (start, size) = header.file_range(order);
            Some(Segment {
                address: header.p_vaddr(order),
                place: start..start.checked_add(size)?,
                is_code: header.p_flags(order).0 & PF_X.0 != 0,
            })
        });
        Ok(Self {
            sections,
            segments: segments.collect(),
            file,
        })
    }

    /// Returns whether it has code: a file with debug information alone has none.
    pub(super) fn has_code(&self) -> bool {
        self.segments.iter().any(|segment| segment.is_code)
    }

    /// Returns the lowest address in the file, at the beginning of a page: the first mapping of the
    /// program begins with it.
    pub(super) fn lowest(&self) -> u64 {
        let first = self.segments.iter().map(|segment| segment.address).min();
        first.unwrap_or(0) & !0xfff
    }

    /// Returns the addresses of all code, in the file.
    pub(super) fn code(&self) -> Range<u64> {
        let code = self.segments.iter().filter(|segment| segment.is_code);
        let start = code.clone().map(|segment| segment.address).min();
        let length = |segment: &Segment| segment.place.end - segment.place.start;
        let end = code.map(|segment| segment.address.saturating_add(length(segment)));
        start.unwrap_or(0)..end.max().unwrap_or(0)
    }

    /// Returns the bytes of a section without its compression; empty if there is none, or it is too large or
    /// malformed.
    pub(super) fn section(&self, name: &str) -> Vec<u8> {
        let found = self.sections.iter().find(|section| section.name == name);
        let Some(section) = found.filter(|section| section.size <= LARGEST) else {
            return Vec::new();
        };
        let bytes = self.bytes(&section.place);
        if section.format == CompressionFormat::None {
            return bytes;
        }
        // The size is a word of the file, and so much is allocated.
        let most = (bytes.len() as u64).saturating_mul(EXPANSION);
        if section.size > most {
            return Vec::new();
        }
        let compressed = CompressedData {
            format: section.format,
            data: &bytes,
            uncompressed_size: section.size,
        };
        let bytes = compressed.decompress();
        bytes.map_or_else(|_| Vec::new(), |bytes| bytes.into_owned())
    }

    /// Returns the number of bytes that a section of this name has without its compression.
    pub(super) fn size(&self, name: &str) -> u64 {
        let found = self.sections.iter().find(|section| section.name == name);
        found.map_or(0, |section| section.size)
    }

    /// Returns whether there is a section of this name that can be read.
    pub(super) fn has_section(&self, name: &str) -> bool {
        let mut named = self.sections.iter().filter(|section| section.name == name);
        named.any(|section| !section.place.is_empty())
    }

    /// Returns the bytes of each section of constants.
    pub(super) fn constants(&self) -> impl Iterator<Item = Vec<u8>> {
        let is_constant = |kind| {
            matches!(
                kind,
                SectionKind::ReadOnlyData | SectionKind::ReadOnlyString
            )
        };
        let sections = self.sections.iter();
        let constants = sections.filter(move |section| is_constant(section.kind));
        constants.map(|section| self.bytes(&section.place))
    }

    /// Returns up to `length` bytes at an address of the file; fewer if the segment ends before.
    pub(super) fn at(&self, address: u64, length: usize) -> Vec<u8> {
        let holds = |segment: &&Segment| {
            let size = segment.place.end - segment.place.start;
            (segment.address..segment.address.saturating_add(size)).contains(&address)
        };
        let Some(segment) = self.segments.iter().find(holds) else {
            return Vec::new();
        };
        let start = segment.place.start + (address - segment.address);
        let end = start.saturating_add(length as u64).min(segment.place.end);
        self.bytes(&(start..end))
    }

    /// Returns the functions of the symbol table, in the order of their addresses; none in a stripped
    /// program.
    pub(super) fn functions(&self) -> Vec<Symbol> {
        let cache = ReadCache::new(&self.file);
        let Ok(elf) = parse(&cache) else {
            return Vec::new();
        };
        let is_function = |symbol: &object::read::elf::ElfSymbol64<'_, '_, Endianness, _>| {
            symbol.kind() == SymbolKind::Text && symbol.address() != 0
        };
        let symbols = elf.symbols().take(SYMBOLS).filter(is_function);
        let functions = symbols.filter_map(|symbol| {
            Some(Symbol {
                address: symbol.address(),
                size: symbol.size(),
                name: symbol.name().ok().filter(|name| name.len() <= NAME)?.into(),
            })
        });
        let mut functions: Vec<Symbol> = functions.collect();
        functions.sort_by_key(|symbol| symbol.address);
        functions
    }

    /// Returns bytes of the file; none if they are too many or not there.
    fn bytes(&self, place: &Range<u64>) -> Vec<u8> {
        let size = place.end.saturating_sub(place.start);
        let length = self.file.metadata().map_or(0, |file| file.len());
        if size > LARGEST || place.end > length {
            return Vec::new();
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        match self.file.read_exact_at(&mut bytes, place.start) {
            Ok(()) => bytes,
            Err(_) => Vec::new(),
        }
    }
}

type Cached<'a> = ElfFile64<'a, Endianness, &'a ReadCache<&'a File>>;

fn parse<'a>(cache: &'a ReadCache<&'a File>) -> Result<Cached<'a>, String> {
    ElfFile64::parse(cache).map_err(|error| format!("it is not an ELF file of 64 bits: {error}"))
}
