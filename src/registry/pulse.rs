//! The time as tasks know it: a reading of the clock that the control side leaves several times a second.
//!
//! A task that has noticed a pulse notes it in its slot at its next poll. So when a task was polled last is known to
//! a pulse, and costs a poll nothing: the word that tells of it is the one that tells of cancels.

use super::{cancels, clock};
use std::sync::atomic::{AtomicU64, Ordering};

/// Before the first one.
static LAST: AtomicU64 = AtomicU64::new(1);

/// The clock's reading at the last pulse; never 0.
#[inline]
pub(crate) fn last() -> u64 {
    LAST.load(Ordering::Relaxed)
}

/// From here on each poll that begins notes this moment.
pub(crate) fn beat() {
    LAST.store(clock::raw().max(1), Ordering::Relaxed);
    // After the store: who sees the word changed sees this pulse, or a later one.
    cancels::have_all_look();
}
