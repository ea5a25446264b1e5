//! The mappings of a process, as `/proc/PID/maps` lists them (proc_pid_maps(5)).
//!
//! The kernel makes the list under the lock of the address space, so a read of it may wait for a
//! thread that is in `mmap`. It is of one moment: a library that is unloaded later is still in it.

use std::fs;
use std::io;
use std::path::Path;

/// One mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    /// The first address.
    pub(crate) start: u64,
    /// The address after the last one.
    pub(crate) end: u64,
    /// The permissions as the kernel writes them, such as `r-xp`.
    access: [u8; 4],
    /// The offset in the file at which the mapping begins; 0 for anonymous memory.
    pub(crate) offset: u64,
    /// The inode of the file; 0 for anonymous memory.
    pub(crate) inode: u64,
    /// The path of the file, or a name in brackets such as `[vdso]`; empty for anonymous memory. A
    /// file that was replaced on disk ends with ` (deleted)`.
    pub(crate) path: String,
}

/// Reads the mappings of the process that the folder describes, such as `/proc/self`, in the order
/// of their addresses. Lines that cannot be parsed are left out.
///
/// # Errors
///
/// Fails if the file cannot be read: the process has ended, belongs to another user, or is not
/// dumpable. For a zombie the list is empty.
pub(crate) fn read(process: &Path) -> io::Result<Vec<Mapping>> {
    let text = fs::read(process.join("maps"))?;
    Ok(parse(&String::from_utf8_lossy(&text)))
}

/// Parses the lines of `maps`.
pub(crate) fn parse(text: &str) -> Vec<Mapping> {
    text.lines().filter_map(Mapping::parse).collect()
}

// === impl Mapping ===

impl Mapping {
    /// Parses a line such as `55d0c8a00000-55d0c8a21000 r-xp 00021000 fe:00 1234   /usr/bin/orders`.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let access = fields.next()?.as_bytes().try_into().ok()?;
        let offset = fields.next()?;
        let inode = fields.nth(1)?.parse().ok()?;
        let path = fields.next().unwrap_or_default().trim_start();
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some(Self {
            start: number(start)?,
            end: number(end)?,
            access,
            offset: number(offset)?,
            inode,
            path: path.to_owned(),
        })
    }

    /// Returns whether the address lies in the mapping.
    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Returns whether it can be read.
    #[cfg_attr(
        not(any(feature = "stacks", test)),
        expect(dead_code, reason = "programs are read with the feature `stacks`")
    )]
    pub(crate) fn is_readable(&self) -> bool {
        self.access[0] == b'r'
    }

    /// Returns whether it can be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.access[1] == b'w'
    }

    /// Returns whether it holds code.
    pub(crate) fn is_code(&self) -> bool {
        self.access[2] == b'x'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed() {
        let text = "55d0c8a00000-55d0c8a21000 r-xp 00021000 fe:00 1234                       /usr/bin/or ders (deleted)\n\
             7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n\
             no mapping\n";
        let [program, heap] = &parse(text)[..] else {
            panic!("two mappings")
        };
        assert!(program.is_readable() && program.is_code() && !program.is_writable());
        assert_eq!((program.offset, program.inode), (0x21000, 1234));
        assert_eq!(program.path, "/usr/bin/or ders (deleted)");
        assert!(program.contains(0x55d0_c8a0_0000) && !program.contains(0x55d0_c8a2_1000));
        assert!(heap.is_writable() && !heap.is_code());
        assert_eq!((&*heap.path, heap.inode), ("", 0));
    }
}
