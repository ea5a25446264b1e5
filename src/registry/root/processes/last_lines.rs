//! The last lines that child processes have printed.
//!
//! The code that reads the output of a child adds its lines here, bounded by number and bytes; the
//! oldest are dropped. The lines of all children of a root are numbered in one sequence, so that a
//! reader of several children follows them with a single cursor.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;
use tokio::sync::Notify;

/// The most lines of one child.
const LINES: usize = 1000;
/// The most bytes of one child.
const BYTES: usize = 64 * 1024;
/// The most bytes of one line; the rest is cut off.
const LONGEST: usize = 4 * 1024;

/// The numbers of the lines of all children of a root.
#[derive(Debug, Default)]
pub(crate) struct LineNumbers {
    /// The number of the last line; the first one is 1.
    last: AtomicU64,
    /// Notified when a line is added.
    added: Notify,
}

/// The last lines of one child.
#[derive(Debug)]
pub(crate) struct LastLines {
    numbers: Arc<LineNumbers>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<OutputLine>,
    bytes: usize,
    /// The number of the last line that was dropped; 0 if none was.
    dropped: u64,
}

/// A line of the output of a child.
#[derive(Debug, Clone)]
pub(crate) struct OutputLine {
    /// Its number among the lines of all children of the root.
    pub(crate) number: u64,
    pub(crate) at: SystemTime,
    /// `stdout` or `stderr`.
    pub(crate) stream: &'static str,
    /// The text without the line feed, as it was printed. It may contain control characters.
    pub(crate) text: String,
}

// === impl LineNumbers ===

impl LineNumbers {
    /// Returns the number of the last line of all children.
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::SeqCst)
    }

    /// Waits until the last line has a greater number than `after`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub(crate) async fn beyond(&self, after: u64) {
        loop {
            // Created before the look, so that a line in between is not missed.
            let added = self.added.notified();
            if self.last() > after {
                return;
            }
            added.await;
        }
    }
}

// === impl LastLines ===

impl LastLines {
    pub(crate) fn new(numbers: &Arc<LineNumbers>) -> Self {
        Self {
            numbers: Arc::clone(numbers),
            kept: Mutex::default(),
        }
    }

    /// Adds a line, and drops the oldest ones beyond the bounds.
    pub(crate) fn add(&self, stream: &'static str, text: &str) {
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut kept = self.lock();
        // Numbered under the lock: a reader that has seen the number then finds the line.
        let number = self.numbers.last.fetch_add(1, Ordering::SeqCst) + 1;
        kept.bytes += end;
        kept.lines.push_back(OutputLine {
            number,
            at: SystemTime::now(),
            stream,
            text: text[..end].to_owned(),
        });
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(oldest) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= oldest.text.len();
            kept.dropped = oldest.number;
        }
        drop(kept);
        self.numbers.added.notify_waiters();
    }

    /// Returns the last lines with numbers in `after + 1..=until`, at most `most`, the oldest first.
    pub(crate) fn read(&self, after: u64, until: u64, most: usize) -> Vec<OutputLine> {
        let kept = self.lock();
        let wanted = kept.lines.iter().rev();
        let wanted = wanted.skip_while(|line| line.number > until);
        let wanted = wanted.take_while(|line| line.number > after);
        let mut lines: Vec<_> = wanted.take(most).cloned().collect();
        lines.reverse();
        lines
    }

    /// Returns true if lines with a greater number than `after` were dropped.
    pub(crate) fn has_dropped(&self, after: u64) -> bool {
        self.lock().dropped > after
    }

    /// A poisoned lock is used as it is: the lines are whole between the operations on them.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(lines: &LastLines, after: u64) -> Vec<String> {
        let read = lines.read(after, u64::MAX, usize::MAX);
        read.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn the_oldest_lines_are_dropped_and_a_reader_learns_that_it_missed_some() {
        let lines = LastLines::new(&Arc::default());
        for number in 1..=LINES + 2 {
            lines.add("stdout", &number.to_string());
        }
        let kept = texts(&lines, 0);
        assert_eq!(kept.len(), LINES);
        assert_eq!(kept[0], "3");
        assert!(lines.has_dropped(1));
        assert!(!lines.has_dropped(2));
        let last = lines.read(0, LINES as u64, 2);
        let last: Vec<_> = last.iter().map(|line| line.number).collect();
        assert_eq!(last, [LINES as u64 - 1, LINES as u64]);
    }

    #[test]
    fn long_lines_are_cut_between_characters_and_bounded_together() {
        let lines = LastLines::new(&Arc::default());
        for _ in 0..100 {
            lines.add("stdout", &format!("x{}", "ä".repeat(LONGEST)));
        }
        let kept = texts(&lines, 0);
        assert_eq!(kept[0].len(), LONGEST - 1);
        let bytes: usize = kept.iter().map(String::len).sum();
        assert!(bytes <= BYTES && bytes > BYTES - LONGEST, "{bytes}");
    }

    #[tokio::test]
    async fn the_lines_of_two_children_have_one_sequence_that_can_be_waited_for() {
        let numbers = Arc::new(LineNumbers::default());
        let [one, two] = [(); 2].map(|()| LastLines::new(&numbers));
        let (_, ()) = tokio::join!(numbers.beyond(1), async {
            one.add("stdout", "first");
            tokio::task::yield_now().await;
            two.add("stderr", "second");
        });
        assert_eq!(two.read(1, numbers.last(), 10)[0].text, "second");
        assert!(one.read(1, numbers.last(), 10).is_empty());
    }
}
