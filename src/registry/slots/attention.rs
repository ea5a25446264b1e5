//! The attention word: one word that tells all tasks that some task was asked for something.
//!
//! A task's slot is a cache line that its polls would not touch otherwise. This word stays in every
//! processor's cache while it does not change, so a poll loads the word, and looks into its slot
//! only when the word differs from the one that it saw last.
//!
//! | bits | |
//! |---|---|
//! | 0 to 7 | always 0: a task keeps its flags there in its copy of the word |
//! | 8 to 31 | the number of walks that are under way |
//! | 32 to 63 | the number of walks that are over, and of pulses |
//!
//! A flag therefore never looks like a number of walks. The number of walks cannot overflow: a walk
//! holds its thread from begin to end, and Linux has at most 4,194,304 threads (`PID_MAX_LIMIT` in
//! `include/linux/threads.h`). The highest number wraps around, which only a task notices that is
//! not polled while it counts exactly 2³².
//!
//! A canceller changes the word first (`begin`), then sets its bit in the slot, then wakes the
//! task. The program that would break in another order: the task is woken and polled before the
//! word changes, finds the word unchanged, does not look into its slot, and parks. Its waker was
//! taken, so nothing wakes it again. For the same reason a task must not remember a word with a
//! walk under way as seen: the walk may ask the task after it has looked, and the word would still
//! be the same when the task is woken.
//!
//! A task is not woken while its waker is not in its slot. After its next poll it publishes the
//! waker and then looks at its slot itself ([`Slot::publish`](super::slot::Slot::publish)). A task
//! that is just being spawned loads the word before its slot becomes visible, so a walk that finds
//! the slot has changed the word since, or was under way.

#[cfg(not(all(test, headcount_loom)))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(all(test, headcount_loom))]
use loom::sync::atomic::{AtomicU64, Ordering};

/// The word. Only walks and pulses write it; every poll reads it.
#[cfg(not(all(test, headcount_loom)))]
static WALKS: AtomicU64 = AtomicU64::new(0);

#[cfg(all(test, headcount_loom))]
loom::lazy_static! {
    /// The word, reset by loom for each execution of a model.
    static ref WALKS: AtomicU64 = AtomicU64::new(0);
}

/// The bits that are 0 in every word. A task may use them for flags in its copy of the word.
///
/// Bits 0 to 7.
pub(crate) const SPARE: u64 = WALK - 1;
/// One walk under way.
pub(crate) const WALK: u64 = 1 << 8;
/// One walk that is over, or one pulse.
pub(crate) const OVER: u64 = 1 << 32;
/// The bits that count the walks under way.
///
/// Bits 8 to 31.
const UNDER_WAY: u64 = OVER - WALK;
/// A value that [`now`] never returns, whatever its spare bits are: a task that keeps it looks at
/// its next poll. More walks would be under way than there can be threads.
pub(crate) const NEVER: u64 = !SPARE;

/// A walk over the tasks, some of which are asked to end or what they await. It is under way until
/// it is dropped.
#[derive(Debug)]
pub(crate) struct Walk;

/// Returns the word.
///
/// A task that finds the word unchanged since it last looked into its slot was not asked for
/// anything by a walk that happened before this load. A task that is asked later is woken, and the
/// poll that follows sees the walk: under way, or over. The load acquires what was written before
/// the word was changed: the current pulse.
#[inline]
pub(crate) fn now() -> u64 {
    WALKS.load(Ordering::Acquire)
}

/// Makes every task look into its slot once, at its next poll.
pub(crate) fn have_all_look() {
    WALKS.fetch_add(OVER, Ordering::SeqCst);
}

/// Returns whether a walk was under way, which may still ask a task after the task has looked.
pub(crate) const fn is_under_way(word: u64) -> bool {
    word & UNDER_WAY != 0
}

// === impl Walk ===

impl Walk {
    /// Begins a walk. Must come before any bit is set in a slot.
    pub(crate) fn begin() -> Self {
        WALKS.fetch_add(WALK, Ordering::SeqCst);
        Self
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        // In one step: if the walk were taken off first, a task could see the word as it was before
        // the walk.
        WALKS.fetch_add(OVER - WALK, Ordering::SeqCst);
    }
}
