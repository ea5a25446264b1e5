//! Our own memory, read through the kernel: an address that is not there is an error, and no fault.

#![expect(unsafe_code, reason = "nobody has a safe call for process_vm_readv")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// The process's memory.
#[derive(Debug)]
pub(super) struct Memory {
    pid: u32,
    /// `None` where the kernel does not give it to us: a program with file capabilities is not "dumpable" (prctl(2)),
    /// and what is below `/proc/self` then belongs to root.
    file: Option<&'static File>,
}

/// With the process that opened it: after a fork it shows the parent's memory. It is never closed: a handler may use it.
static FILE: OnceLock<(u32, Option<File>)> = OnceLock::new();

// === impl Memory ===

impl Memory {
    pub(super) fn open() -> Self {
        let pid = std::process::id();
        let (opener, file) = opened();
        let file = file.as_ref().filter(|_| *opener == pid);
        Self { pid, file }
    }

    pub(super) fn is_of_another_process(&self) -> bool {
        self.pid != std::process::id()
    }

    /// For handlers, which cannot open it; -1 where there is none.
    pub(super) fn descriptor(&self) -> i32 {
        self.file.map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether it can be read at all.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut byte = [0];
        let here = (&raw const byte).addr() as u64;
        if self.read(here, &mut byte) == 1 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error().kind();
        Err(format!("the process may not read its own memory: {error}"))
    }

    /// How many bytes could be read; they end where the memory does.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> usize {
        if let Some(file) = self.file
            && let Ok(read) = file.read_at(into, address)
        {
            return read;
        }
        // SAFETY: the slice is ours alone.
        let read = unsafe { read_by_call(self.pid, address, into.as_mut_ptr(), into.len()) };
        usize::try_from(read).unwrap_or(0)
    }

    /// All of it, or nothing.
    pub(super) fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        (self.read(address, &mut bytes) == length).then_some(bytes)
    }
}

fn opened() -> &'static (u32, Option<File>) {
    FILE.get_or_init(|| (std::process::id(), File::open("/proc/self/mem").ok()))
}

/// Copies memory of the process `pid`, which is this one, as process_vm_readv(2) does: how many bytes, or -1. It may be
/// called in a signal's handler. `address` may be any.
///
/// # Safety
///
/// `into` must be the caller's alone for `length` bytes.
pub(super) unsafe fn read_by_call(pid: u32, address: u64, into: *mut u8, length: usize) -> isize {
    let local = libc::iovec {
        iov_base: into.cast(),
        iov_len: length,
    };
    let remote = libc::iovec {
        iov_base: std::ptr::with_exposed_provenance_mut(usize::try_from(address).unwrap_or(0)),
        iov_len: length,
    };
    let pid = pid.cast_signed();
    // SAFETY: one descriptor of each is given, and they live. The kernel reads `remote` with checks, writes to `into`,
    // which is the caller's, and keeps nothing.
    unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) }
}
