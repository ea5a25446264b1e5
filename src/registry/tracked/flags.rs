//! Flags of a task, packed into the attention word that it saw last.

use crate::registry::slots::attention;

#[cfg(all(test, headcount_loom))]
mod loom;

/// The [`attention`] word at the last look into the slot, with the task's flags in its spare bits.
///
/// While the task drains, each poll looks into the slot, so the word is of no use. Its bits then
/// hold the number of polls since the task was told.
///
/// It is one word, because every eight bytes that a task is larger make its spawn two to five
/// nanoseconds slower. Only the thread that polls, drops or ends the task reads or writes it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Flags(u64);

/// The task has not ended.
pub(super) const LIVE: u64 = 1;
/// The task was not polled yet.
pub(super) const FRESH: u64 = 1 << 1;
/// The slot holds the task's waker.
pub(super) const PUBLISHED: u64 = 1 << 2;
/// The root has an observer.
#[cfg(feature = "otel")]
pub(super) const OBSERVED: u64 = 1 << 3;
/// The task is polled within the poll of another task: by a `LocalSet`, or by a runtime that a task
/// drives.
const NESTED: u64 = 1 << 4;
/// The first poll is to be timed.
pub(super) const TIMED: u64 = 1 << 5;
/// The task started while its group was being cancelled: it ends at its first poll.
pub(super) const REFUSED: u64 = 1 << 6;
/// The task's group drains, and its polls are counted: the other bits hold the number of polls
/// instead of the word.
const COUNTS: u64 = 1 << 7;

const _: () = assert!(COUNTS <= attention::SPARE);

// === impl Flags ===

impl Flags {
    /// Returns the flags of a task that starts. `word` must be loaded before the slot becomes
    /// visible to walks. A word with a walk under way counts as never seen, so that the first poll
    /// looks into the slot.
    #[inline]
    pub(super) fn new(word: u64) -> Self {
        let seen = if attention::is_under_way(word) {
            attention::NEVER
        } else {
            word
        };
        Self(seen | LIVE | FRESH)
    }

    /// Returns whether one of these bits is set.
    #[inline]
    pub(super) fn has(&self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Sets a bit.
    #[inline]
    pub(super) fn add(&mut self, bit: u64) {
        self.0 |= bit;
    }

    /// Clears a bit.
    #[inline]
    pub(super) fn remove(&mut self, bit: u64) {
        self.0 &= !bit;
    }

    /// Returns the word that was seen last; [`NEVER`](attention::NEVER) while polls are counted.
    pub(super) fn seen(&self) -> u64 {
        if self.has(COUNTS) {
            attention::NEVER
        } else {
            self.0 & !attention::SPARE
        }
    }

    /// Returns the number of polls that were counted.
    pub(super) fn polls(&self) -> u64 {
        if self.has(COUNTS) {
            self.0 / attention::WALK
        } else {
            0
        }
    }

    /// Sets the number of polls since the task was told to drain, and makes each further poll look
    /// into the slot until [`Flags::looked`] is called without this.
    pub(super) fn count(&mut self, polls: u64) {
        self.0 = polls.wrapping_mul(attention::WALK) | (self.0 & attention::SPARE) | COUNTS;
    }

    /// Returns whether there is nothing to look for: the word is the one seen last, and the task
    /// was polled before, is not nested, and its polls are not counted.
    ///
    /// One comparison covers all four: the flags are in bits that are 0 in every word, so a set
    /// flag differs from every word.
    #[inline]
    pub(super) fn is_calm(&self, word: u64) -> bool {
        self.0 & !(attention::SPARE & !(NESTED | FRESH | COUNTS)) == word
    }

    /// Notes a look into the slot, made after `word` was loaded. A word with a walk under way does
    /// not count as seen, because the walk may ask the task after this look: the task looks again
    /// at its next poll. Clears the flags that concern the first poll alone, and the count.
    pub(super) fn looked(&mut self, word: u64, is_nested: bool) {
        let seen = if attention::is_under_way(word) {
            self.seen()
        } else {
            word
        };
        let nested = if is_nested { NESTED } else { 0 };
        let once = NESTED | FRESH | TIMED | REFUSED | COUNTS;
        self.0 = seen | (self.0 & attention::SPARE & !once) | nested;
    }
}

#[cfg(all(test, not(headcount_loom)))]
mod tests {
    use super::*;

    /// Every number of walks under way at which a bit of the number could be taken for a flag.
    const WALKS: std::ops::RangeInclusive<u64> = 1..=1 << 17;

    #[test]
    fn a_task_that_was_never_polled_is_not_calm_whatever_number_of_walks_is_under_way() {
        for word in [0, 7 * attention::OVER] {
            let flags = Flags::new(word);
            assert!(!flags.is_calm(word));
            for walks in WALKS {
                let during = word + walks * attention::WALK;
                assert!(!flags.is_calm(during), "{walks} walks");
                assert!(!Flags::new(during).is_calm(during), "{walks} walks");
            }
        }
    }

    #[test]
    fn a_nested_task_is_not_calm_whatever_number_of_walks_is_under_way() {
        for word in [0, 7 * attention::OVER] {
            let mut flags = Flags::new(word);
            flags.looked(word, true);
            assert!(!flags.is_calm(word));
            for walks in WALKS {
                let during = word + walks * attention::WALK;
                assert!(!flags.is_calm(during), "{walks} walks");
            }
        }
    }

    #[test]
    fn a_task_whose_polls_are_counted_is_not_calm_whatever_their_number_is() {
        for word in [0, 7 * attention::OVER] {
            let mut flags = Flags::new(word);
            flags.add(PUBLISHED);
            flags.looked(word, false);
            for polls in [1, 2, 7 << 24, 1 << 40] {
                flags.count(polls);
                assert_eq!(flags.polls(), polls);
                assert!(!flags.is_calm(word) && !flags.is_calm(polls * attention::WALK));
                assert!(flags.seen() != word && flags.has(PUBLISHED));
            }
            flags.looked(word, false);
            assert!(flags.is_calm(word), "it was told no more");
            assert_eq!(flags.polls(), 0);
        }
    }

    #[test]
    fn only_a_polled_task_that_saw_the_word_is_calm() {
        let word = 7 * attention::OVER;
        let mut flags = Flags::new(word);
        flags.looked(word, false);
        assert!(flags.is_calm(word));
        for walks in WALKS {
            let during = word + walks * attention::WALK;
            assert!(!flags.is_calm(during), "{walks} walks");
            let mut looked = flags;
            looked.looked(during, false);
            assert!(!looked.is_calm(during), "{walks} walks");
        }
        assert!(!flags.is_calm(word + attention::OVER));
    }
}
