//! What a row knows of itself, in one word.

use crate::registry::cancels;

#[cfg(all(test, headcount_loom))]
mod loom;

/// The word of `cancels` when the slot was last looked into; in its spare bits, what is true of the row. One word: every
/// eight bytes that a task is larger cost its spawn two to five nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Notes(u64);

pub(super) const LIVE: u64 = 1;
/// It was not polled yet.
pub(super) const FRESH: u64 = 1 << 1;
/// The slot has the waker.
pub(super) const PUBLISHED: u64 = 1 << 2;
/// The root has an observer.
#[cfg(feature = "otel")]
pub(super) const OBSERVED: u64 = 1 << 3;
/// It is polled within the poll of another task: by a `LocalSet`, or a runtime that a task drives.
const NESTED: u64 = 1 << 4;
/// Its first poll is to be timed.
pub(super) const TIMED: u64 = 1 << 5;
/// It started when its group was being cancelled: it ends at its first poll.
pub(super) const REFUSED: u64 = 1 << 6;

// === impl Notes ===

impl Notes {
    /// Of one that starts, with the word of the moment before.
    #[inline]
    pub(super) fn new(word: u64) -> Self {
        let seen = if cancels::is_under_way(word) {
            cancels::NEVER
        } else {
            word
        };
        Self(seen | LIVE | FRESH)
    }

    /// Whether one of these bits is set.
    #[inline]
    pub(super) fn has(&self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    #[inline]
    pub(super) fn add(&mut self, bit: u64) {
        self.0 |= bit;
    }

    #[inline]
    pub(super) fn remove(&mut self, bit: u64) {
        self.0 &= !bit;
    }

    /// The word that was seen last.
    pub(super) fn word(&self) -> u64 {
        self.0 & !cancels::SPARE
    }

    /// Whether there is nothing to look for: the word is the same, and the row was polled and is not nested.
    #[inline]
    pub(super) fn is_calm(&self, word: u64) -> bool {
        self.0 & !(cancels::SPARE & !(NESTED | FRESH)) == word
    }

    /// A word is seen only when no walk is under way: else it is to be looked for again.
    pub(super) fn looked(&mut self, word: u64, is_nested: bool) {
        let seen = if cancels::is_under_way(word) {
            self.word()
        } else {
            word
        };
        let nested = if is_nested { NESTED } else { 0 };
        self.0 = seen | (self.0 & cancels::SPARE & !(NESTED | FRESH | TIMED | REFUSED)) | nested;
    }
}
