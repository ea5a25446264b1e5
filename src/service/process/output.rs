//! The output of a command, forwarded to the log line by line.
//!
//! Each line is a `tracing` event at INFO with the target [`OUTPUT_TARGET`] and the fields `task`
//! and `stream`. So the lines go wherever the service's log goes (terminal, file, collector), and a
//! terminal format can show them as `name | line`, as foreman and process-compose do. The last lines
//! are also kept in memory, by [`telemetry::Child::printed`].
//!
//! A command that prints faster than the log accepts lines blocks on its full pipe: nothing more is
//! read from it until the log has room for its lines. Each stream holds at most one read and one
//! line, [`MAX_READ`] and [`MAX_LINE`] bytes.

use std::{io, sync::Arc};

use tokio::net::unix::pipe;

use crate::telemetry::{self, LogSource};
use crate::text::plain;

/// The target of forwarded lines.
pub(crate) const OUTPUT_TARGET: &str = "headcount::output";
/// The longest line that is forwarded whole, in bytes. A longer line is split between characters.
const MAX_LINE: usize = 64 * 1024;
/// The largest read, in bytes. It is small so that a flood of output does not keep the supervising
/// task from its other work.
const MAX_READ: usize = 8 * 1024;

/// The places to which the output of a process goes, in all its runs.
#[derive(Debug)]
pub(super) struct Sink {
    name: String,
    /// The share of the log. A process that restarts while the log is not read thus waits, too.
    source: LogSource,
    /// Keeps the last lines.
    child: Arc<telemetry::Child>,
}

/// The standard output or standard error of one command.
#[derive(Debug)]
pub(super) struct Output {
    sink: Arc<Sink>,
    stream: &'static str,
    /// The reading end; `None` after the end of the stream or a read error.
    pipe: Option<pipe::Receiver>,
    buffer: Box<[u8]>,
    lines: Lines,
}

/// A splitter of bytes into lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of the current line, at most [`MAX_LINE`] bytes.
    partial: Vec<u8>,
    /// True if a part of the current line has been forwarded already, because the line is too long.
    split: bool,
}

// === impl Sink ===

impl Sink {
    pub(super) fn new(name: &str, child: &Arc<telemetry::Child>) -> Self {
        Self {
            name: name.to_owned(),
            source: LogSource::default(),
            child: Arc::clone(child),
        }
    }

    /// Keeps and logs one line, the latter without what could change a terminal.
    fn take(&self, stream: &'static str, line: &str) {
        self.child.printed(stream, line);
        let (name, line) = (&self.name, plain(line));
        self.source.log(
            || tracing::info!(target: OUTPUT_TARGET, task = %name, stream = %stream, "{line}"),
        );
    }
}

// === impl Output ===

impl Output {
    /// Prepares to forward `pipe`, which is the stream `stream`: `stdout` or `stderr`.
    pub(super) fn new(
        sink: &Arc<Sink>,
        stream: &'static str,
        pipe: io::PipeReader,
    ) -> io::Result<Self> {
        Ok(Self {
            sink: Arc::clone(sink),
            stream,
            pipe: Some(pipe::Receiver::from_owned_fd(pipe.into())?),
            buffer: vec![0; MAX_READ].into(),
            lines: Lines::default(),
        })
    }

    /// Forwards output until a line contains `needle`. Never returns if `needle` is `None` or the
    /// stream has ended.
    ///
    /// # Cancel safety
    /// No output is lost: there is no await between a read and its forwarding.
    pub(super) async fn forward(&mut self, needle: Option<&str>) {
        loop {
            self.sink.source.room().await;
            if self.read(needle).await {
                break;
            }
        }
        if self.pipe.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Forwards the rest of the stream, up to its end. Lines for which the log has no room are
    /// dropped and counted.
    ///
    /// It may never return, because a process outside of the tree can hold the stream open. Call it
    /// with a timeout, and call [`Self::flush`] afterwards for an unterminated last line.
    pub(super) async fn finish(&mut self) {
        while !self.read(None).await {}
    }

    /// Forwards the last line if it is unterminated.
    pub(super) fn flush(&mut self) {
        let (sink, stream) = (&self.sink, self.stream);
        self.lines.finish(|line| sink.take(stream, line));
    }

    /// Reads once and forwards the lines that are complete. Returns true if a line contained
    /// `needle`, or at the end of the stream.
    async fn read(&mut self, needle: Option<&str>) -> bool {
        let Some(pipe) = &self.pipe else {
            return true;
        };
        // A ready pipe uses up none of tokio's cooperative budget. Without this yield, a command
        // that prints faster than it is logged would starve the rest of the task, including the
        // stop.
        tokio::task::yield_now().await;
        // `try_read` returns the same error again.
        pipe.readable().await.ok();
        match pipe.try_read(&mut self.buffer) {
            Ok(length @ 1..) => {
                let mut found = false;
                let (sink, stream) = (&self.sink, self.stream);
                self.lines.push(&self.buffer[..length], |line| {
                    sink.take(stream, line);
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

// === impl Lines ===

impl Lines {
    /// Adds bytes, and calls `each` with every line that they complete.
    ///
    /// Lines are passed without their line feed or CRLF. Invalid UTF-8 is replaced with U+FFFD.
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

    /// Calls `each` with the unterminated line, if there is one.
    pub(super) fn finish(&mut self, mut each: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            each(&String::from_utf8_lossy(&self.partial));
            self.partial.clear();
        }
        self.split = false;
    }

    /// Adds a piece of a line, and calls `each` with parts of a line that is too long to hold.
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
            lines.push(piece, |line| found.push(line.to_owned()));
            assert!(lines.partial.capacity() <= 2 * MAX_LINE);
        }
        lines.finish(|line| found.push(line.to_owned()));
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
}
