//! What a command prints, line by line, into the log with the process's name.
//!
//! The lines are `tracing` events at INFO, target [`OUTPUT_TARGET`], with the fields `task` and `stream`: so they go wherever the service's
//! log goes (terminal, file, collector), and the terminal's format can show them as `name | line`, as foreman and process-compose do.
//! Reading is as quick as the log: a command that floods its output waits for the reader, and memory stays at a line.

use std::io;

use tokio::net::unix::pipe;

/// The target of forwarded lines.
pub(crate) const OUTPUT_TARGET: &str = "headcount::output";
/// A longer line is split.
const MAX_LINE: usize = 64 * 1024;
/// One read takes at most this much: small, so that a flood leaves the supervising task its turn.
const MAX_READ: usize = 8 * 1024;

/// One stream of one command.
#[derive(Debug)]
pub(super) struct Output {
    name: String,
    stream: &'static str,
    /// `None` once every writer closed it.
    pipe: Option<pipe::Receiver>,
    buffer: Box<[u8]>,
    lines: Lines,
}

/// Cuts bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
    /// The last line given out was the beginning of the one in `partial`.
    split: bool,
}

// === impl Output ===

impl Output {
    pub(super) fn new(name: &str, stream: &'static str, pipe: io::PipeReader) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            stream,
            pipe: Some(pipe::Receiver::from_owned_fd(pipe.into())?),
            buffer: vec![0; MAX_READ].into(),
            lines: Lines::default(),
        })
    }

    /// Forwards what can be read until a line holds `needle`; without a needle, or once the stream is closed, for ever.
    ///
    /// # Cancel safety
    /// Nothing read is lost: between reading and forwarding there is no await.
    pub(super) async fn forward(&mut self, needle: Option<&str>) {
        while !self.read(needle).await {}
        if self.pipe.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Forwards what is left, to the end of the stream and with a last line that has no end.
    ///
    /// Without an end of its own when somebody outside of the tree holds the stream open: call it with a budget, and [`Self::flush`] after.
    pub(super) async fn finish(&mut self) {
        while !self.read(None).await {}
    }

    /// Forwards a last line that has no end.
    pub(super) fn flush(&mut self) {
        let (name, stream) = (&self.name, self.stream);
        self.lines.finish(|line| print(name, stream, line));
    }

    /// Reads once; true when a line held `needle`, or at the end of the stream.
    async fn read(&mut self, needle: Option<&str>) -> bool {
        let Some(pipe) = &self.pipe else {
            return true;
        };
        // Being readable costs none of the task's budget: without this, who prints faster than it is logged would keep everything else of the
        // task from its turn, and the stop, too.
        tokio::task::yield_now().await;
        // An error here comes again from the read.
        pipe.readable().await.ok();
        match pipe.try_read(&mut self.buffer) {
            Ok(length @ 1..) => {
                let mut found = false;
                let (name, stream) = (&self.name, self.stream);
                self.lines.push(&self.buffer[..length], |line| {
                    print(name, stream, line);
                    found |= needle.is_some_and(|needle| line.contains(needle));
                });
                found
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => {
                self.pipe = None;
                true
            }
        }
    }
}

fn print(name: &str, stream: &str, line: &str) {
    tracing::info!(target: OUTPUT_TARGET, task = %name, stream = %stream, "{line}");
}

// === impl Lines ===

impl Lines {
    /// Takes bytes, and gives every line that they complete to `each`: without its end, and with U+FFFD for what is not UTF-8.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end], &mut each);
            let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
            if !(self.split && line.is_empty()) {
                each(&String::from_utf8_lossy(line));
            }
            self.partial.clear();
            self.split = false;
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, &mut each);
    }

    /// Gives the line that was begun and not ended, if there is one.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            each(&String::from_utf8_lossy(&self.partial));
            self.partial.clear();
        }
        self.split = false;
    }

    /// Adds a piece of a line, and gives out what is too long to hold.
    fn add(&mut self, mut piece: &[u8], mut each: impl FnMut(&str)) {
        while self.partial.len() + piece.len() > MAX_LINE {
            let (fits, rest) = piece.split_at(MAX_LINE - self.partial.len());
            self.partial.extend_from_slice(fits);
            piece = rest;
            let whole = whole_characters(&self.partial);
            each(&String::from_utf8_lossy(&self.partial[..whole]));
            self.partial.drain(..whole);
            self.split = true;
        }
        self.partial.extend_from_slice(piece);
    }
}

/// The length of `bytes` without a character that is cut off at their end.
fn whole_characters(bytes: &[u8]) -> usize {
    let is_first = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    let Some(last) = bytes.iter().rposition(is_first) else {
        return bytes.len();
    };
    match std::str::from_utf8(&bytes[last..]) {
        // More bytes could complete it.
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
            lines.push(piece, |line| found.push(line.to_owned()));
            assert!(lines.partial.capacity() <= 2 * MAX_LINE);
        }
        lines.finish(|line| found.push(line.to_owned()));
        found
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_the_bytes_came(
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
    fn a_line_of_any_length_is_split_between_characters_and_nothing_is_lost() {
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
}
