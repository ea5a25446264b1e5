//! The memory of this process or of another one, copied by the kernel.
//!
//! A read costs a system call, and tasks that are neighbours in a list are often neighbours in
//! memory. Blocks can therefore be kept while a list is walked: one million tasks take seconds
//! instead of half a minute. What is kept is a copy of one moment, and has to be forgotten before a
//! word is looked at again.

use crate::audit::proc::maps::{self, Mapping};
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The bytes that are read at once while blocks are kept.
const BLOCK: u64 = 16 << 10;

/// A reader of the memory of one process.
#[derive(Debug)]
pub(crate) struct Memory {
    /// The folder of the process, such as `/proc/self`.
    process: PathBuf,
    file: File,
    /// In the order of their addresses.
    mappings: RefCell<Vec<Mapping>>,
    blocks: RefCell<Blocks>,
    /// `None` while reads are not noted.
    noted: RefCell<Option<Noted>>,
}

/// Places that were read, with their bytes.
#[derive(Debug, Default)]
pub(crate) struct Noted {
    /// Addresses and lengths.
    places: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

/// Copies of blocks, each at the place that its address gives.
#[derive(Debug)]
struct Blocks {
    is_on: bool,
    /// The number of times that all copies were forgotten.
    generation: u64,
    kept: Vec<Block>,
}

/// A copy of a block, up to the end of the mapped memory.
#[derive(Debug, Clone, Default)]
struct Block {
    /// The first address; `None` for a place without a block.
    start: Option<u64>,
    /// The generation of the copy. One of an earlier generation is forgotten.
    generation: u64,
    bytes: Vec<u8>,
}

// === impl Memory ===

impl Memory {
    /// Opens the memory of the process that the folder describes, such as `/proc/self` or
    /// `/proc/17`. It keeps at most `kept` bytes of copies, which are allocated when they are needed.
    ///
    /// # Errors
    ///
    /// Fails if the process has ended, or if the kernel allows no access: to a process of another
    /// user, to one that is not dumpable, or by Yama (ptrace(2), "Ptrace access mode checking").
    pub(crate) fn open(process: &Path, kept: u64) -> io::Result<Self> {
        // A power of two, so that a place is found by a mask.
        let blocks = usize::try_from(kept / BLOCK).map_or(1, |blocks| 1 << blocks.max(1).ilog2());
        Ok(Self {
            mappings: RefCell::new(maps::read(process)?),
            file: File::open(process.join("mem"))?,
            process: process.to_owned(),
            blocks: RefCell::new(Blocks {
                is_on: false,
                generation: 0,
                kept: vec![Block::default(); blocks],
            }),
            noted: RefCell::default(),
        })
    }

    /// Reads the list of mappings again: a library may have been loaded, or a stack mapped. The last
    /// list stays in use if that fails.
    pub(crate) fn refresh(&self) {
        if let Ok(mappings) = maps::read(&self.process) {
            *self.mappings.borrow_mut() = mappings;
        }
    }

    /// Returns the mapping with an address.
    pub(crate) fn mapping(&self, address: u64) -> Option<Mapping> {
        let mappings = self.mappings.borrow();
        let after = mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = mappings.get(after.checked_sub(1)?)?;
        mapping.contains(address).then(|| mapping.clone())
    }

    /// Returns all mappings, in the order of their addresses.
    pub(crate) fn mappings(&self) -> Vec<Mapping> {
        self.mappings.borrow().clone()
    }

    /// Returns whether the address is in code.
    pub(crate) fn is_code(&self, address: u64) -> bool {
        self.is(address, Mapping::is_code)
    }

    /// Returns whether the address is in memory that can be written.
    pub(crate) fn is_writable(&self, address: u64) -> bool {
        self.is(address, Mapping::is_writable)
    }

    /// Returns whether the address may be that of a constant of a module. Without RELRO, as in a
    /// static musl program, constants with addresses in them can be written.
    pub(crate) fn is_constant(&self, address: u64) -> bool {
        self.is(address, |mapping| {
            !mapping.is_writable() || mapping.inode != 0
        })
    }

    fn is(&self, address: u64, what: impl Fn(&Mapping) -> bool) -> bool {
        let mappings = self.mappings.borrow();
        let after = mappings.partition_point(|mapping| mapping.start <= address);
        let mapping = after.checked_sub(1).and_then(|at| mappings.get(at));
        mapping.is_some_and(|mapping| mapping.contains(address) && what(mapping))
    }

    /// Keeps blocks from now on, or no longer. Either way, all that were kept are forgotten.
    pub(crate) fn keep(&self, keep: bool) {
        let mut blocks = self.blocks.borrow_mut();
        blocks.is_on = keep;
        blocks.generation += 1;
    }

    /// Forgets the kept copies of the 16 bytes at an address.
    pub(crate) fn forget(&self, address: u64) {
        let mut blocks = self.blocks.borrow_mut();
        for address in [address, address.saturating_add(8)] {
            let block = blocks.place(address);
            if block.start == Some(address / BLOCK * BLOCK) {
                block.start = None;
            }
        }
    }

    /// Notes what is read from now on. What was noted before is forgotten.
    pub(crate) fn note(&self) {
        *self.noted.borrow_mut() = Some(Noted::default());
    }

    /// Returns what was read since [`note`](Self::note), and notes nothing more.
    pub(crate) fn noted(&self) -> Noted {
        self.noted.borrow_mut().take().unwrap_or_default()
    }

    /// Runs a closure without noting its reads.
    pub(crate) fn aside<T>(&self, read: impl FnOnce() -> T) -> T {
        let noted = self.noted.borrow_mut().take();
        let result = read();
        *self.noted.borrow_mut() = noted;
        result
    }

    /// Returns whether the noted places have the bytes that they had.
    pub(crate) fn is_unchanged(&self, noted: &Noted) -> bool {
        let (mut before, mut now) = (&*noted.bytes, Vec::new());
        noted.places.iter().all(|(address, length)| {
            let was;
            (was, before) = before.split_at(*length);
            now.resize(*length, 0);
            self.copy(*address, &mut now) == *length && *was == *now
        })
    }

    /// Reads memory into `into`. Returns the number of bytes, which is smaller if the mapped memory
    /// ends before, and 0 if the address is not mapped.
    pub(crate) fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let read = self.copy(address, into);
        if let Some(noted) = &mut *self.noted.borrow_mut() {
            noted.places.push((address, read));
            noted.bytes.extend_from_slice(&into[..read]);
        }
        read
    }

    fn copy(&self, address: u64, into: &mut [u8]) -> usize {
        let mut blocks = self.blocks.borrow_mut();
        let start = address / BLOCK * BLOCK;
        let from = usize::try_from(address - start).unwrap_or(usize::MAX);
        if blocks.is_on && (from + into.len()) as u64 <= BLOCK {
            let block = blocks.place(address);
            if block.start != Some(start) {
                block.fill(&self.file, start);
            }
            if let Some(bytes) = block.bytes.get(from..from + into.len()) {
                into.copy_from_slice(bytes);
                return into.len();
            }
        }
        self.file.read_at(into, address).unwrap_or(0)
    }

    /// Reads `N` words; `None` if not all of them can be read.
    pub(crate) fn words<const N: usize>(&self, address: u64) -> Option<[u64; N]> {
        let mut bytes = [[0; 8]; N];
        let read = self.read(address, bytes.as_flattened_mut());
        (read == N * 8).then(|| bytes.map(u64::from_le_bytes))
    }

    /// Reads a word.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        self.words::<1>(address).map(|[word]| word)
    }

    /// Reads as many words as there are at an address, at most `most`.
    pub(crate) fn some_words(&self, address: u64, most: usize) -> Vec<u64> {
        let mut bytes = vec![0; most * 8];
        let read = self.read(address, &mut bytes);
        let (words, _) = bytes[..read].as_chunks();
        words.iter().copied().map(u64::from_le_bytes).collect()
    }
}

// === impl Noted ===

impl Noted {
    /// Returns the number of bytes that it takes.
    pub(crate) fn size(&self) -> usize {
        self.places.len() * size_of::<(u64, usize)>() + self.bytes.len()
    }
}

// === impl Blocks ===

impl Blocks {
    /// Returns the place of the block with an address.
    fn place(&mut self, address: u64) -> &mut Block {
        let mask = self.kept.len() as u64 - 1;
        let place = usize::try_from((address / BLOCK) & mask).unwrap_or(0);
        let block = &mut self.kept[place];
        if block.generation != self.generation {
            block.generation = self.generation;
            block.start = None;
        }
        block
    }
}

// === impl Block ===

impl Block {
    /// Reads the block at `start`.
    fn fill(&mut self, file: &File, start: u64) {
        self.bytes.resize(BLOCK as usize, 0);
        // Memory that is not mapped is read word by word, and fails there.
        let read = file.read_at(&mut self.bytes, start).unwrap_or(0);
        self.bytes.truncate(read);
        self.start = Some(start);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn own() -> Memory {
        Memory::open(Path::new("/proc/self"), 1 << 20).expect("a process may read its own memory")
    }

    fn address<T>(of: &T) -> u64 {
        (&raw const *of).addr() as u64
    }

    #[test]
    fn words_are_read_up_to_the_end_of_the_mapped_memory() {
        let memory = own();
        let words = [1_u64, 2, 3];
        assert_eq!(memory.words(address(&words)), Some(words));
        assert_eq!(memory.some_words(address(&words), 3), words);
        assert_eq!(memory.word(8), None);
        assert!(memory.some_words(8, 3).is_empty());
        memory.keep(true);
        assert_eq!(memory.word(8), None);
    }

    #[test]
    fn a_kept_word_is_that_of_the_first_read_until_it_is_forgotten() {
        let memory = own();
        let word = std::sync::atomic::AtomicU64::new(1);
        let at = address(&word);
        let set = |value| word.store(value, std::sync::atomic::Ordering::SeqCst);
        memory.keep(true);
        assert_eq!(memory.word(at), Some(1));
        set(2);
        assert_eq!(memory.word(at), Some(1));
        memory.forget(at);
        assert_eq!(memory.word(at), Some(2));
        set(3);
        memory.keep(false);
        assert_eq!(memory.word(at), Some(3));
    }

    #[test]
    fn a_noted_place_that_changed_is_noticed_and_one_read_aside_is_not() {
        let memory = own();
        let words = [1, 2].map(std::sync::atomic::AtomicU64::new);
        let set = |at: usize| words[at].fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        memory.word(address(&words[1]));
        memory.note();
        memory.word(address(&words[0]));
        memory.aside(|| memory.word(address(&words[1])));
        let noted = memory.noted();
        assert!(memory.is_unchanged(&noted));
        set(1);
        assert!(memory.is_unchanged(&noted));
        set(0);
        assert!(!memory.is_unchanged(&noted));
        memory.word(address(&words[1]));
        assert_eq!(noted.size(), 16 + 8);
        assert_eq!(memory.noted().size(), 0, "it was not noted");
    }

    #[test]
    fn addresses_are_told_apart_by_their_mappings() {
        static CONSTANT: u64 = 7;
        let memory = own();
        let code = own as *const () as u64;
        assert!(memory.is_code(code) && !memory.is_writable(code));
        let heap = Box::new(1_u64);
        assert!(memory.is_writable(address(&*heap)) && !memory.is_constant(address(&*heap)));
        assert!(memory.is_constant(address(&CONSTANT)));
        let mapping = memory.mapping(code).expect("it is mapped");
        assert!(mapping.contains(code));
        assert_eq!(memory.mapping(8), None);
        assert!(!memory.is_code(8));
    }
}
