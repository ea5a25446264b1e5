//! headcount's log, line by line, for tests that run alone in their process.

use crate::scenario::GUARD;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

/// The lines that are logged from its creation on.
pub(crate) struct Heard {
    lines: Receiver<String>,
    target: &'static str,
}

struct Lines(Mutex<Sender<String>>);

struct Line(Sender<String>);

impl Heard {
    /// Records the log of one target and the targets below it.
    pub(crate) fn of(target: &'static str) -> Self {
        let (tell, lines) = channel();
        tracing_subscriber::fmt()
            .without_time()
            .with_ansi(false)
            .with_writer(Lines(Mutex::new(tell)))
            .init();
        Self { lines, target }
    }

    /// Returns the next line without values that vary, and the description of the thread.
    #[track_caller]
    pub(crate) fn next(&self) -> (String, String) {
        loop {
            let line = self.lines.recv_timeout(GUARD).expect("it is said");
            if line.contains(self.target) {
                return split(&line);
            }
        }
    }

    /// Returns the lines that were logged but not read.
    pub(crate) fn rest(&self) -> Vec<String> {
        let lines = self.lines.try_iter();
        lines.filter(|line| line.contains(self.target)).collect()
    }
}

/// Splits a line in two: the description of a thread depends on the features, and comes last.
fn split(line: &str) -> (String, String) {
    let line = line.trim();
    let (told, seen) = line.split_once(" waits=").unwrap_or((line, ""));
    (steady(told), seen.to_owned())
}

/// Replaces numbers with `N`, except those of workers.
fn steady(line: &str) -> String {
    let mut steady = String::new();
    for word in line.split_inclusive(' ') {
        let is_count = word.starts_with("workers") || word.starts_with("unsaid=");
        let is_bare = word.trim_end().parse::<u32>().is_ok();
        if is_count || is_bare || !word.contains(|c: char| c.is_ascii_digit()) {
            steady += word;
            continue;
        }
        let mut in_number = false;
        for c in word.chars() {
            let is_of_number = c.is_ascii_digit() || in_number && c == '.';
            if !is_of_number {
                steady.push(c);
            } else if !in_number {
                steady.push('N');
            }
            in_number = is_of_number;
        }
    }
    steady
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Lines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        let tell = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Line(tell.clone())
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The test may be over.
        drop(self.0.send(String::from_utf8_lossy(line).into_owned()));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
