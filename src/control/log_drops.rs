//! The counters of log lines that were not written, of the whole process.
//!
//! A process has one log, whatever the number of runtimes, so the counters are global.

use std::sync::atomic::{AtomicU64, Ordering};

/// The reason why a line was not written.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "otel"),
    expect(
        dead_code,
        reason = "a log of the application's has its own queue and limit"
    )
)]
pub(crate) enum Reason {
    /// The queue had no room for it, because the log is not read.
    QueueFull,
    /// The stream refused it.
    Failed,
    /// Its call site has logged too often.
    Limit,
}

/// The words for the reasons, in the order of [`Reason`].
const REASONS: [&str; 3] = ["queue_full", "failed", "limit"];

static DROPPED: [AtomicU64; REASONS.len()] = [const { AtomicU64::new(0) }; REASONS.len()];

/// Counts a line that was not written.
pub(crate) fn count(reason: Reason) {
    DROPPED[reason as usize].fetch_add(1, Ordering::Relaxed);
}

/// Returns the number of lines for each reason, by its word.
#[cfg(feature = "admin")]
pub(crate) fn counts() -> impl Iterator<Item = (&'static str, u64)> {
    let counts = DROPPED.iter().map(|count| count.load(Ordering::Relaxed));
    REASONS.into_iter().zip(counts)
}
