//! The memory of this process or of another one, read through the kernel: an address that is not
//! mapped is an error, and no fault.
//!
//! Reading another thread's stack through a pointer would be undefined behaviour, and a fault if
//! the thread ended and its stack was unmapped meanwhile. The kernel copies instead, and reports
//! what it cannot copy. Access to the memory of the own process needs no privilege: within a thread
//! group it is always allowed (ptrace(2), "Ptrace access mode checking").

#![expect(unsafe_code, reason = "process_vm_readv has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

/// A reader of a process's memory: `/proc/PID/mem` if it can be opened, process_vm_readv(2) otherwise.
#[derive(Debug)]
pub(super) struct Memory {
    /// That of this process is compared with the present pid before each read of stacks, to notice a
    /// fork.
    pid: u32,
    /// `None` if the kernel does not allow it: a program with file capabilities is not "dumpable"
    /// (prctl(2)), and what is below `/proc/self` then belongs to root.
    file: Option<Opened>,
}

/// An open `/proc/PID/mem`.
#[derive(Debug)]
enum Opened {
    /// That of this process, for good.
    Own(&'static File),
    Other(File),
}

/// The file, and the process that opened it: after a fork it shows the parent's memory. It is never
/// closed, because a handler may be using it.
///
/// One descriptor for the life of the process, opened at the first read of a stack.
static FILE: OnceLock<(u32, Option<File>)> = OnceLock::new();

// === impl Memory ===

impl Memory {
    /// Opens the memory of this process. After a fork the file of the parent is not used.
    ///
    /// Never fails: without the file each read falls back to the system call.
    pub(super) fn open() -> Self {
        let pid = std::process::id();
        let (opener, file) = opened();
        let file = file.as_ref().filter(|_| *opener == pid);
        let file = file.map(Opened::Own);
        Self { pid, file }
    }

    /// Opens the memory of another process.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not allow it.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{pid}/mem"))?;
        Ok(Self {
            pid,
            file: Some(Opened::Other(file)),
        })
    }

    /// Returns the folder of the process.
    pub(super) fn process(&self) -> PathBuf {
        match &self.file {
            Some(Opened::Other(_)) => PathBuf::from(format!("/proc/{}", self.pid)),
            // Its pid is another one there if `/proc` is of another namespace.
            _ => PathBuf::from("/proc/self"),
        }
    }

    fn file(&self) -> Option<&File> {
        match self.file.as_ref()? {
            Opened::Own(file) => Some(file),
            Opened::Other(file) => Some(file),
        }
    }

    /// Returns whether it was opened before a fork, by the parent.
    pub(super) fn is_of_another_process(&self) -> bool {
        self.pid != std::process::id()
    }

    /// Returns the descriptor, for signal handlers, which cannot open it; -1 if there is none.
    ///
    /// The descriptor stays valid for the life of the process, which a handler that runs late
    /// depends on.
    pub(super) fn descriptor(&self) -> i32 {
        self.file().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Checks that memory can be read at all, with a byte of the stack.
    ///
    /// Costs one system call. It tells a process without permission from a thread with an
    /// unreadable stack, so that a report does not blame each thread.
    pub(super) fn check(&self) -> Result<(), String> {
        let mut byte = [0];
        let here = (&raw const byte).addr() as u64;
        if self.read(here, &mut byte) == 1 {
            return Ok(());
        }
        let error = io::Error::last_os_error().kind();
        Err(format!(
            "the process is not allowed to read its own memory: {error}"
        ))
    }

    /// Reads memory into `into`. Returns the number of bytes, which is smaller if the mapped memory
    /// ends before.
    ///
    /// One system call if the file can be read, and a second one for an address that is not mapped.
    /// 0 bytes stand for every error: the callers only need to know how far the memory goes.
    pub(super) fn read(&self, address: u64, into: &mut [u8]) -> usize {
        if let Some(file) = self.file()
            && let Ok(read) = file.read_at(into, address)
        {
            return read;
        }
        // SAFETY: the slice is borrowed mutably, so it is ours alone.
        let read = unsafe { read_by_call(self.pid, address, into.as_mut_ptr(), into.len()) };
        usize::try_from(read).unwrap_or(0)
    }

    /// Reads exactly `length` bytes; `None` if not all of them can be read.
    ///
    /// Allocates `length` bytes first, so the caller bounds the length.
    pub(super) fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        (self.read(address, &mut bytes) == length).then_some(bytes)
    }
}

/// Opens the file at the first call.
///
/// Must not be called in a signal handler: it may open a file and take the lock of the cell.
fn opened() -> &'static (u32, Option<File>) {
    FILE.get_or_init(|| (std::process::id(), File::open("/proc/self/mem").ok()))
}

/// Copies memory of the process `pid`, which is this one, with process_vm_readv(2). Returns the
/// number of bytes, or -1. It may be called in a signal handler. `address` may be any.
///
/// # Safety
///
/// `into` must be the caller's alone for `length` bytes.
///
/// It allocates nothing, takes no lock, and changes `errno` only on failure, which the handler
/// restores. An `address` that does not fit a pointer reads at 0 and fails.
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
    // SAFETY: one `iovec` of each kind is given, and both live through the call. The kernel checks
    // `remote`, writes to `into`, which is the caller's, and keeps nothing.
    unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) }
}
