//! The threads of another process: their names, and where their stacks begin.
//!
//! The kernel shows the stack pointer of a thread that waits, or is stopped. A thread on a processor
//! shows none.

use crate::audit::proc::syscall::WaitPoint;
use std::fs;
use std::path::Path;

/// The most threads that are looked at.
const THREADS: usize = 1 << 14;

/// A thread of another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) tid: u32,
    pub(crate) name: String,
    /// The stack pointer and the program counter; `None` for a thread on a processor.
    pub(crate) registers: Option<(u64, u64)>,
}

/// Lists the threads of the process that the folder describes.
pub(crate) fn list(process: &Path) -> Vec<Thread> {
    let folders = fs::read_dir(process.join("task")).into_iter().flatten();
    let threads = folders.flatten().take(THREADS).filter_map(|folder| {
        let tid = folder.file_name().to_str()?.parse().ok()?;
        let text = |name| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        Some(Thread {
            tid,
            name: text("comm").trim_end().to_owned(),
            registers: WaitPoint::parse(text("syscall").trim_end())
                .map(|point| (point.sp, point.pc)),
        })
    });
    let mut threads: Vec<Thread> = threads.collect();
    threads.sort_by_key(|thread| thread.tid);
    threads
}
