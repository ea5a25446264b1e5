//! The splitting of bytes into lines, and of the last, unterminated line into pieces.

use std::borrow::Cow;

/// The longest line that is passed on whole, in bytes. A longer line is split between characters.
const MAX_LINE: usize = 64 * 1024;

/// A splitter of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of the current line, at most [`MAX_LINE`] bytes.
    partial: Vec<u8>,
    /// The bytes of it that were taken as pieces.
    taken: usize,
    /// True if a part of the current line has been passed on already, because the line is too long.
    split: bool,
}

/// A line, without its line feed or CRLF. Invalid UTF-8 is replaced with U+FFFD.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'a> {
    pub(super) whole: Cow<'a, str>,
    /// The rest of the line, if its beginning was taken as pieces.
    pub(super) rest: Option<Cow<'a, str>>,
}

// === impl Lines ===

impl Lines {
    /// Adds bytes, and calls `each` with every line that they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end], &mut each);
            let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
            if !(self.split && line.is_empty()) {
                each(Line::of(line, self.taken));
            }
            self.clear();
            self.split = false;
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, &mut each);
    }

    /// Calls `each` with the unterminated line, if there is one.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.partial.is_empty() {
            each(Line::of(&self.partial, self.taken));
            self.clear();
        }
        self.split = false;
    }

    /// Returns true if a part of the unterminated line was not taken as a piece.
    pub(super) fn has_piece(&self) -> bool {
        whole_characters(&self.partial) > self.taken
    }

    /// Takes the part of the unterminated line that was not taken before, up to a whole character.
    pub(super) fn take_piece(&mut self) -> String {
        let end = whole_characters(&self.partial);
        let piece = String::from_utf8_lossy(&self.partial[self.taken..end]).into_owned();
        self.taken = end;
        piece
    }

    /// Returns the unterminated line.
    pub(super) fn unterminated(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.partial)
    }

    /// Adds a piece of a line, and calls `each` with parts of a line that is too long to hold.
    fn add(&mut self, mut piece: &[u8], mut each: impl FnMut(Line<'_>)) {
        while self.partial.len() + piece.len() > MAX_LINE {
            let (fits, rest) = piece.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(fits);
            piece = rest;
            let whole = whole_characters(&self.partial);
            each(Line::of(&self.partial[..whole], self.taken));
            self.partial.drain(..whole);
            self.taken = 0;
            self.split = true;
        }
        self.partial.extend_from_slice(piece);
    }

    fn clear(&mut self) {
        self.partial.clear();
        self.taken = 0;
    }
}

// === impl Line ===

impl<'a> Line<'a> {
    /// Returns the line, of which `taken` bytes were taken as pieces.
    fn of(bytes: &'a [u8], taken: usize) -> Self {
        let rest = bytes.get(taken..).unwrap_or_default();
        Self {
            whole: String::from_utf8_lossy(bytes),
            rest: (taken > 0).then(|| String::from_utf8_lossy(rest)),
        }
    }
}

/// Returns the length of `bytes` without an incomplete UTF-8 character at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let is_first = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    let Some(last) = bytes.iter().rposition(is_first) else {
        return bytes.len();
    };
    match std::str::from_utf8(&bytes[last..]) {
        // The error is the end of the input: more bytes could complete the character.
        Err(error) if error.error_len().is_none() && last > 0 => last,
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            lines.push(piece, |line| found.push(line.whole.into_owned()));
            assert!(lines.partial.capacity() <= 2 * MAX_LINE);
        }
        lines.finish(|line| found.push(line.whole.into_owned()));
        found
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_are_chunked(
            text in "[a-zä\u{1f980}\r\n]{0,200}",
            size in 1_usize..20,
        ) {
            let expected: Vec<_> = text.split_inclusive('\n').map(|line| {
                let Some(line) = line.strip_suffix('\n') else {
                    return line.to_owned();
                };
                line.strip_suffix('\r').unwrap_or(line).to_owned()
            }).collect();
            prop_assert_eq!(lines(text.as_bytes().chunks(size)), expected);
        }
    }

    #[test]
    fn a_long_line_is_split_between_characters_and_nothing_is_lost() {
        for (character, size) in [("x", 4096), ("ä", 4095), ("\u{1f980}", 4094)] {
            for extra in 0..5 {
                let line = format!("{}{}", "y".repeat(extra), character.repeat(3 * MAX_LINE));
                let bytes = format!("{line}\nnext\n");
                let found = lines(bytes.as_bytes().chunks(size));
                let (next, parts) = found.split_last().expect("there are two lines");
                assert_eq!(next, "next");
                assert!(
                    parts
                        .iter()
                        .all(|part| (1..=MAX_LINE).contains(&part.len()))
                );
                assert!(parts.concat() == line, "{character} {extra}");
            }
        }
    }

    #[test]
    fn a_prompt_is_taken_before_its_line_ends_and_then_only_its_rest() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        let mut push = |lines: &mut Lines, bytes: &[u8]| {
            lines.push(bytes, |line| {
                found.push((line.whole.into_owned(), line.rest.map(Cow::into_owned)));
            });
        };
        push(&mut lines, "pass\u{e4}".as_bytes().split_at(5).0);
        assert!(lines.has_piece());
        assert_eq!(lines.take_piece(), "pass");
        // Half of a character waits for the other half.
        assert!(!lines.has_piece());
        push(&mut lines, b"\xa4: ");
        assert_eq!(lines.take_piece(), "\u{e4}: ");
        push(&mut lines, b"ok\r\nnext\n");
        let rest = Some("ok".to_owned());
        assert_eq!(
            found,
            [
                ("pass\u{e4}: ok".to_owned(), rest),
                ("next".to_owned(), None)
            ]
        );
    }
}
