//! A trial of how much memory the process may still map.

#![expect(unsafe_code, reason = "a mapping is raw memory")]

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::{io, ptr};

/// Maps this number of bytes, and gives them back.
///
/// No page is touched, so only limits of address space count. All mappings count for `ulimit -v`.
/// Those that are `writable`, as a stack is, also count for `ulimit -d` and strict overcommit
/// (`vm.overcommit_memory = 2`).
///
/// # Errors
///
/// Returns the system's error if it refuses them.
pub(crate) fn try_map(bytes: usize, writable: bool) -> io::Result<()> {
    let protection = match writable {
        true => ProtFlags::READ | ProtFlags::WRITE,
        false => ProtFlags::empty(),
    };
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: a new mapping at an address that the system chooses aliases no memory of Rust's. It is
    // given back without ever being read or written.
    unsafe {
        let start = mmap_anonymous(ptr::null_mut(), bytes, protection, flags)?;
        munmap(start, bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_given_back_and_what_does_not_is_an_error() {
        // Twice as often as would fit if it were kept.
        for _ in 0..200_000 {
            try_map(1 << 30, false).expect("a part of the address space is free");
        }
        let error = try_map(1 << 60, true).expect_err("more than the address space");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }
}
