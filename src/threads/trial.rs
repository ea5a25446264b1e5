//! A trial start of threads, to find out if the system allows as many as a runtime needs.
//!
//! Tokio panics if a worker cannot be started, and the unwinding waits for the workers that were.
//! A trial returns an error instead, and leaves nothing behind.

use super::{LOOK, START, ThreadHandle, own_tid, start_own};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Starts this number of threads side by side, and ends them again.
///
/// Returns once the system no longer counts them, or after a second. The answer is about this
/// moment: another process may take the threads before the caller does.
///
/// # Errors
///
/// Returns the system's error for the first thread that it refuses.
#[track_caller]
pub(crate) fn try_start(root: u64, threads: usize) -> io::Result<()> {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let mut started: Vec<ThreadHandle<u32>> = Vec::new();
    let mut outcome = Ok(());
    while started.len() < threads && outcome.is_ok() {
        let gate = Arc::clone(&gate);
        let waits = move || {
            drop(gate.lock());
            own_tid()
        };
        outcome = start_own(root, "headcount-trial", waits).map(|thread| started.push(thread));
    }
    drop(closed);
    started.into_iter().for_each(await_end);
    outcome
}

/// Waits until a thread that returns its id has ended, and the system no longer counts it.
///
/// A joined thread still counts against the limits for a moment, until it has left `/proc`.
pub(crate) fn await_end(thread: ThreadHandle<u32>) {
    let Ok(tid) = thread.join() else {
        return;
    };
    let place = format!("/proc/self/task/{tid}");
    let begun = Instant::now();
    while Path::new(&place).exists() && begun.elapsed() < START {
        std::thread::sleep(LOOK);
    }
}
