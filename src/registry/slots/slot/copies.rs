//! Reading a slot from copies of its memory, which may have been made while its process ran.

use super::{CANCEL, DROPPING, Entry, FLAGS, LIVE, Reading, Slot};
use std::mem::offset_of;

/// Reads a slot from three copies of it that were made one after the other. Returns `None` if it was
/// free, or if it changed hands meanwhile.
///
/// A copy is not of one moment, and its words may have been copied in any order. But all of the
/// second copy lies between the state in the first one and the state in the third one. If these two
/// have the same generation, the slot belonged to one task all the time, so the second copy is that
/// task's. For a process that is stopped or dead, the three are equal.
///
/// Returns `None` for a copy of another length than a slot's.
pub(crate) fn of_copies(copies: [&[u8]; 3]) -> Option<Reading> {
    if copies.iter().any(|copy| copy.len() != size_of::<Slot>()) {
        return None;
    }
    let [first, second, third] = copies;
    let word = |copy: &[u8], at: usize| -> Option<u64> {
        Some(u64::from_ne_bytes(copy.get(at..at + 8)?.try_into().ok()?))
    };
    let half = |copy: &[u8], at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(copy.get(at..at + 4)?.try_into().ok()?))
    };
    let at = offset_of!(Slot, state);
    let (before, state, after) = (word(first, at)?, word(second, at)?, word(third, at)?);
    let is_one = before & !FLAGS == after & !FLAGS && before & !FLAGS == state & !FLAGS;
    if !is_one || before & after & state & LIVE == 0 {
        return None;
    }
    Some(Reading {
        entry: Entry {
            id: word(second, offset_of!(Slot, id))?,
            started: word(second, offset_of!(Slot, started))?,
            kind: half(second, offset_of!(Slot, kind))?,
            scope: half(second, offset_of!(Slot, scope))?,
        },
        polled: word(second, offset_of!(Slot, polled))?,
        cancelling: state & CANCEL != 0,
        dropping: state & DROPPING != 0,
        generation: state & !FLAGS,
    })
}

/// The number of words from the waker of a slot to its end.
pub(crate) const WAKER_WORDS: usize = (size_of::<Slot>() - offset_of!(Slot, waker)) / 8;
/// No memory is mapped below this address (`vm.mmap_min_addr`, proc_sys_vm(5)).
const LOWEST: u64 = 0x1_0000;

/// Returns the words of the waker in a copy of a slot. If the slot has a waker, one of them is the
/// address of its task; which one is up to the compiler.
pub(crate) fn waker_words(copy: &[u8]) -> [u64; WAKER_WORDS] {
    let mut words = [0; WAKER_WORDS];
    let bytes = copy.get(offset_of!(Slot, waker)..).unwrap_or_default();
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    // A waker is two pointers. A slot without one keeps the data of an earlier waker in one word.
    if words.iter().filter(|word| **word >= LOWEST).count() < 2 {
        return [0; WAKER_WORDS];
    }
    words
}

#[cfg(all(test, not(headcount_loom)))]
mod tests {
    use super::of_copies;
    use crate::registry::slots::slot::{Entry, Free, Slot};
    use std::mem::offset_of;
    use std::sync::atomic::Ordering::Relaxed;

    fn entry(id: u64) -> Entry {
        let kind = u32::try_from(id).expect("few");
        Entry {
            id,
            started: id,
            kind,
            scope: kind,
        }
    }

    /// Returns the bytes of the slot's words, without its waker.
    fn copy(slot: &Slot) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Slot>()];
        let mut put = |at: usize, word: &[u8]| bytes[at..at + word.len()].copy_from_slice(word);
        let words = [
            (offset_of!(Slot, state), &slot.state),
            (offset_of!(Slot, id), &slot.id),
            (offset_of!(Slot, started), &slot.started),
            (offset_of!(Slot, polled), &slot.polled),
        ];
        for (at, word) in words {
            put(at, &word.load(Relaxed).to_ne_bytes());
        }
        put(
            offset_of!(Slot, kind),
            &slot.kind.load(Relaxed).to_ne_bytes(),
        );
        put(
            offset_of!(Slot, scope),
            &slot.scope.load(Relaxed).to_ne_bytes(),
        );
        bytes
    }

    #[test]
    fn a_task_that_stays_is_read() {
        let slot = Slot::new();
        slot.occupy(Free::NEW, entry(7));
        let bytes = copy(&slot);
        let reading = of_copies([&bytes, &bytes, &bytes]).expect("it lives");
        let entry = reading.entry;
        assert_eq!(
            (entry.id, entry.started, entry.kind, entry.scope),
            (7, 7, 7, 7)
        );
        assert!(!reading.cancelling);
    }

    #[test]
    fn a_slot_that_is_free_or_changes_hands_is_not_read() {
        let slot = Slot::new();
        let free = copy(&slot);
        slot.occupy(Free::NEW, entry(1));
        let first = copy(&slot);
        let next = slot.vacate(false);
        let freed = copy(&slot);
        slot.occupy(next, entry(2));
        let second = copy(&slot);
        let all = [&free, &first, &freed, &second];
        for (before, a) in all.iter().enumerate() {
            for b in &all[before..] {
                // The second copy may be of any moment between the two, or a mixture of them.
                for between in &all {
                    let reading = of_copies([a, between, b]);
                    let is_one = a == b && a == between;
                    let is_live = *a == &first || *a == &second;
                    assert_eq!(reading.is_some(), is_one && is_live);
                }
            }
        }
        assert!(of_copies([&first, &first, &first[..8]]).is_none());
    }
}
