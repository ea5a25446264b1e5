//! Maps addresses to files, for stacks that were not symbolized.
//!
//! An address becomes `file+0x1a2b`, the offset that addr2line(1) takes. This needs one read of
//! `/proc/self/maps` and no debug information, so it takes no measurable time and no lock.
//!
//! A list is read once for all stacks of a report and then only searched, so that all addresses
//! refer to one moment. A library that is unloaded after the stacks were read is missing in it, and
//! its addresses stay bare numbers.

use super::frame::Frame;
use crate::audit::proc::maps::{self, Mapping};
use std::path::Path;

/// The files that are mapped into the process, in the order of their addresses.
///
/// A process has some hundred mappings; a look-up walks over them in order.
#[derive(Debug, Default)]
pub(crate) struct Places(Vec<Place>);

/// One mapping of a file.
#[derive(Debug)]
struct Place {
    /// The first address of the mapping.
    start: usize,
    /// The address after the last.
    end: usize,
    /// The address at which the file begins, from which offsets are counted.
    base: usize,
    /// The file name without its folders, or a name in brackets such as `[vdso]`. A file that was
    /// replaced on disk ends with ` (deleted)`, as the kernel writes it.
    file: String,
}

// === impl Places ===

impl Places {
    /// Reads the mappings of this moment; none outside Linux.
    ///
    /// Costs one read of a file that the kernel generates, under the lock of the address space, so
    /// that it may wait for a thread in `mmap`. A file that cannot be read yields an empty list,
    /// not an error.
    pub(crate) fn read() -> Self {
        Self::of(maps::read(Path::new("/proc/self")).unwrap_or_default())
    }

    /// Takes the mappings of files; anonymous memory is left out.
    ///
    /// A mapping from the beginning of a file starts a new copy of it. The symbolizer maps whole
    /// libraries to read them, often right below the library in use, whose mappings then follow.
    fn of(mappings: Vec<Mapping>) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for mapping in mappings {
            let address = |address| usize::try_from(address).unwrap_or(usize::MAX);
            let (start, end) = (address(mapping.start), address(mapping.end));
            let (offset, path) = (address(mapping.offset), &*mapping.path);
            if path.is_empty() {
                continue;
            }
            let file = path.rsplit('/').next().unwrap_or(path);
            // The other mappings of a file follow its first one. Their own offsets do not tell the
            // base, because a linker may leave gaps in memory that are not in the file.
            let base = match places.last() {
                Some(last) if last.file == file && offset > 0 => last.base,
                _ => start.saturating_sub(offset),
            };
            places.push(Place {
                start,
                end,
                base,
                file: file.to_owned(),
            });
        }
        Self(places)
    }

    /// Returns a frame with the address as its function, and `file+offset` as its file if it lies
    /// in a mapped file.
    pub(crate) fn frame(&self, address: usize) -> Frame {
        Frame {
            file: self.place(address),
            ..Frame::bare(format!("{address:#x}"))
        }
    }

    /// Returns whether the address is in the program itself, and not in a shared library.
    ///
    /// Libraries are told by their file name, as in `libc.so.6`.
    pub(crate) fn is_in_program(&self, address: usize) -> bool {
        let place = self.find(address);
        place.is_some_and(|place| !place.file.contains(".so") && !place.file.starts_with('['))
    }

    /// Returns the address at which the file with an address begins, if it has this name.
    #[cfg(all(feature = "stacks", target_os = "linux", target_pointer_width = "64"))]
    pub(super) fn begin_of(&self, address: usize, file: &str) -> Option<usize> {
        let place = self.find(address).filter(|place| place.file == file)?;
        Some(place.base)
    }

    /// Returns the mapping with the address.
    fn find(&self, address: usize) -> Option<&Place> {
        let mut places = self.0.iter();
        places.find(|place| (place.start..place.end).contains(&address))
    }

    /// Returns `file+offset`, if the address lies in a mapped file.
    ///
    /// The offset is from the beginning of the file in memory. That equals the address in the file
    /// for a library or a position-independent program.
    pub(super) fn place(&self, address: usize) -> Option<String> {
        let place = self.find(address)?;
        Some(format!("{}+{:#x}", place.file, address - place.base))
    }
}

#[cfg(test)]
mod tests {
    use super::{Places, maps};

    #[test]
    fn an_address_is_shown_with_its_file_and_offset() {
        let places = Places::of(maps::parse(
            "55d0c8a00000-55d0c8a21000 r--p 00000000 fe:00 1234                       /usr/bin/or ders\n\
             55d0c8a21000-55d0c8a41000 r-xp 00021000 fe:00 1234                       /usr/bin/or ders\n\
             7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
             7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]\n",
        ));
        for (address, shown) in [
            (0x55d0c8a21010, "0x55d0c8a21010 (or ders+0x21010)"),
            (0x7f0000000000, "0x7f0000000000"),
            (0x7ffd00000abc, "0x7ffd00000abc ([vdso]+0xabc)"),
            (0x10, "0x10"),
        ] {
            assert_eq!(places.frame(address).to_string(), shown);
        }
    }

    /// Symbolizing maps a library a second time, as one piece, below the one in use.
    #[test]
    fn an_address_of_a_library_that_is_mapped_twice_has_the_offset_of_its_own_copy() {
        let places = Places::of(maps::parse(
            "7f0001000000-7f00011c0000 r--p 00000000 fe:00 77          /usr/lib/libc.so.6\n\
             7f00011c0000-7f00011e6000 r--p 00000000 fe:00 77          /usr/lib/libc.so.6\n\
             7f00011e6000-7f000133c000 r-xp 00026000 fe:00 77          /usr/lib/libc.so.6\n\
             7f0002000000-7f0002100000 r-xp 00026000 fe:00 78          /usr/lib/libm.so.6\n",
        ));
        let place = |address| places.place(address).expect("it is mapped");
        assert_eq!(place(0x7f00011e6027), "libc.so.6+0x26027");
        assert_eq!(place(0x7f0001000010), "libc.so.6+0x10");
        assert_eq!(place(0x7f0002000010), "libm.so.6+0x26010");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn our_own_code_is_in_our_own_file() {
        let address = our_own_code_is_in_our_own_file as *const () as usize;
        let shown = Places::read().frame(address).to_string();
        let program = std::env::current_exe().expect("a test has a file");
        let name = program
            .file_name()
            .expect("it has a name")
            .to_string_lossy();
        assert!(shown.contains(&*format!("({name}+0x")), "{shown}");
    }
}
