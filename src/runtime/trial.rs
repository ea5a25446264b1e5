//! A trial start of threads, to find out if the system allows as many as a runtime needs.
//!
//! Tokio panics if a worker cannot be started, and the unwinding waits for the workers that were.
//! A trial returns an error instead, and leaves nothing behind.

#[cfg(target_os = "linux")]
use crate::audit::room;
use crate::threads::{self, ThreadHandle};
use std::io;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest wait for a thread to run.
const STARTED: Duration = Duration::from_secs(1);
/// The longest wait until the system no longer counts a thread, and the pause between two looks.
const GONE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_micros(20);

/// The usual stack of a thread (<https://doc.rust-lang.org/std/thread/index.html#stack-size>).
#[cfg(target_os = "linux")]
const STACK: usize = 2 << 20;
/// The memory that a thread maps beside its stack when it starts: the stack of its signal handlers, and
/// a heap of its own, for which glibc takes 64 MiB of address space.
#[cfg(target_os = "linux")]
const BESIDES: usize = 65 << 20;

/// Starts this number of threads, which then live side by side, and ends them again.
///
/// Returns once the system no longer counts them, or after a second. The answer is about this
/// moment: another process may take the threads before the caller does.
///
/// They start one after another. A thread that finds room for its stack, and none for what it maps
/// beside it, would end the process, so there must be room for both.
///
/// # Errors
///
/// Returns the system's error for the first thread that it refuses.
#[track_caller]
pub(super) fn try_start(root: u64, threads: usize) -> io::Result<()> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let mut started: Vec<ThreadHandle<u32>> = Vec::new();
    let mut outcome = Ok(());
    while started.len() < threads && outcome.is_ok() {
        let (tell, told) = sync_channel(1);
        let gate = Arc::clone(&gate);
        let waits = move || {
            tell.send(()).ok();
            drop(gate.lock());
            threads::own_tid()
        };
        outcome = try_memory()
            .and_then(|()| threads::start_own(root, "headcount-trial", waits))
            .map(|thread| started.push(thread));
        // An error at once if no thread was started.
        told.recv_timeout(STARTED).ok();
    }
    drop(closed);
    started.into_iter().for_each(await_end);
    outcome
}

/// Maps as much memory as a thread does that starts, and gives it back.
#[cfg(target_os = "linux")]
fn try_memory() -> io::Result<()> {
    let told = std::env::var("RUST_MIN_STACK").ok();
    let stack: usize = told.and_then(|bytes| bytes.parse().ok()).unwrap_or(STACK);
    room::try_map(stack.saturating_add(BESIDES), false)?;
    // Of the heap only what is used becomes writable.
    room::try_map(stack, true)
}

/// Does nothing: only the memory of Linux is tried.
#[cfg(not(target_os = "linux"))]
fn try_memory() -> io::Result<()> {
    Ok(())
}

/// Waits until a thread that returns its id has ended, and the system no longer counts it.
///
/// A joined thread still counts against the limits for a moment, until it has left `/proc`.
pub(super) fn await_end(thread: ThreadHandle<u32>) {
    let Ok(tid) = thread.join() else {
        return;
    };
    let place = format!("/proc/self/task/{tid}");
    let begun = Instant::now();
    while Path::new(&place).exists() && begun.elapsed() < GONE {
        std::thread::sleep(LOOK);
    }
}
