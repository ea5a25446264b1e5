//! Mapping the file of a black box.

#![expect(unsafe_code, reason = "a mapping is raw memory")]

use super::{BYTES, SLOTS, SLOTS_AT};
use crate::recorder::sheet::Sheet;
use crate::registry::slots::slot::Slot;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};
use std::fs::File;
use std::{io, ptr, slice};

/// Maps a file of [`BYTES`] zeros, all of which are allocated, for the life of the process.
///
/// Its pages are made present, so that no worker pays for the first touch of one.
///
/// A child of fork(2) does not get them, since it would share the slots and the wakers in them with
/// this process. Until it calls execve(2), it must not use headcount: a task that it touched would end
/// it by SIGSEGV. fork(2) allows a child of a process with threads only async-signal-safe functions.
pub(super) fn map(file: &File) -> io::Result<(&'static Sheet, &'static [Slot])> {
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::SHARED | MapFlags::POPULATE;
    // SAFETY: a new mapping at an address that the kernel chooses aliases no memory of Rust's.
    let start = unsafe { mmap(ptr::null_mut(), BYTES, protection, flags, file, 0) }?;
    // SAFETY: the range is that mapping. The advice changes no byte of it in this process, and no
    // reference to it exists yet.
    let kept = unsafe { madvise(start, BYTES, Advice::LinuxDontFork) };
    if let Err(error) = kept {
        // SAFETY: as above; the mapping is given up with the only pointer to it.
        unsafe { munmap(start, BYTES) }.ok();
        return Err(error.into());
    }
    let start = start.cast::<u8>();
    // SAFETY: the slots are within the mapping, which nothing else refers to yet. It starts at a page,
    // and so do they, so they are aligned. Each is written before the slice is made.
    let slots = unsafe {
        let first = start.add(SLOTS_AT).cast::<Slot>();
        for at in 0..SLOTS {
            first.add(at).write(Slot::new());
        }
        slice::from_raw_parts(first, SLOTS)
    };
    // SAFETY: the sheet is at the start of the mapping, ends before the slots, and is aligned to a page.
    // It consists of atomics, for which any bytes are valid. The mapping is never unmapped. Another
    // process could write to the file only as this user, like to any memory of this process.
    let sheet = unsafe { &*start.cast::<Sheet>() };
    Ok((sheet, slots))
}
