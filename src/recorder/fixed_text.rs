//! Text of a bounded length in atomics.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A text of at most `8 * WORDS` bytes. A longer one is cut.
///
/// A reader that comes during a change sees a mixture of both texts, and reads it as UTF-8 with
/// replacements.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct FixedText<const WORDS: usize> {
    /// The length in bytes.
    pub(crate) len: AtomicU32,
    /// Unused, for the alignment.
    rest: AtomicU32,
    /// The bytes, in the order of memory.
    pub(crate) words: [AtomicU64; WORDS],
}

// === impl FixedText ===

impl<const WORDS: usize> FixedText<WORDS> {
    /// Replaces the text.
    pub(crate) fn set(&self, text: &str) {
        let text = start_of(text, 8 * WORDS);
        for (word, bytes) in self.words.iter().zip(text.as_bytes().chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        }
        let len = u32::try_from(text.len()).expect("it was cut");
        self.len.store(len, Ordering::Release);
    }
}

/// Returns the beginning of a text, cut at a character.
fn start_of(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns the end of a text, cut at a character: of a path, the end says more.
pub(crate) fn end_of(text: &str, most: usize) -> &str {
    let mut start = text.len().saturating_sub(most);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}
