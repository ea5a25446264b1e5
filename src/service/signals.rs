//! The signals that have no meaning for headcount and its helper processes, and must not end them.

use signal_hook::consts::signal::{SIGALRM, SIGIO, SIGPROF, SIGUSR1, SIGUSR2, SIGVTALRM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The signals that end a process by default although they ask for something else. Real-time
/// signals are left alone, because headcount's reader of stacks takes free ones.
pub(super) const MEANINGLESS: [i32; 8] = [
    SIGALRM,
    SIGIO,
    SIGPROF,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    SIGUSR1,
    SIGUSR2,
    SIGVTALRM,
];

/// Catches these signals and does nothing about them.
///
/// They are caught rather than ignored, because a command would inherit `SIG_IGN` (execve(2)).
///
/// # Errors
///
/// Fails if a handler cannot be installed.
pub(super) fn disregard(signals: &[i32]) -> io::Result<()> {
    for signal in signals {
        signal_hook::flag::register(*signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}
