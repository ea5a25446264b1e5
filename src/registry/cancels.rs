//! Whether anybody was asked to end lately: one word that all tasks read, and only cancellers and pulses write.
//!
//! A task's slot is a cache line that its polls would not touch otherwise. With this word, which stays in every
//! processor's cache while nobody cancels, a poll looks into the slot only when there may be something to see.

#[cfg(not(all(test, headcount_loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(all(test, headcount_loom))]
use loom::sync::atomic::{AtomicU64, Ordering};

/// The number of walks that are over, and of pulses, above the number of those under way.
#[cfg(not(all(test, headcount_loom)))]
static WALKS: AtomicU64 = AtomicU64::new(0);

#[cfg(all(test, headcount_loom))]
loom::lazy_static! {
    static ref WALKS: AtomicU64 = AtomicU64::new(0);
}

const UNDER_WAY: u64 = (1 << 16) - 1;
const OVER: u64 = 1 << 16;

/// The bits that are 0 in a word while no walk is under way.
pub(crate) const SPARE: u64 = UNDER_WAY;
/// What [`now`] never returns, without the spare bits.
pub(crate) const NEVER: u64 = !SPARE;

/// While it lives tasks are being asked to end.
#[derive(Debug)]
pub(crate) struct Walk;

/// The word. A task that found it unchanged since it looked into its slot was not asked for anything since.
///
/// A task that was asked is woken, and the poll that follows sees the walk: under way, or over.
#[inline]
pub(crate) fn now() -> u64 {
    WALKS.load(Ordering::Acquire)
}

/// Has every task look into its slot once, at its next poll.
pub(crate) fn have_all_look() {
    WALKS.fetch_add(OVER, Ordering::SeqCst);
}

/// Whether a walk may still ask this task after it has looked.
pub(crate) const fn is_under_way(word: u64) -> bool {
    word & UNDER_WAY != 0
}

// === impl Walk ===

impl Walk {
    pub(crate) fn begin() -> Self {
        WALKS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // In one step, so that nobody sees a word without the walk.
        WALKS.fetch_add(OVER - 1, Ordering::SeqCst);
    }
}
