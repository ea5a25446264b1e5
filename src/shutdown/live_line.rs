//! Who is still awaited, while a layer waits: a line that redraws itself on a terminal, a line now and then elsewhere.

use super::voice::{Stream, Voice, is_terminal};
use crate::registry::Tally;
use crate::registry::scope::Scope;
use crate::report;
use std::time::{Duration, Instant};

/// A layer that ends before this says nothing.
const QUIET: Duration = Duration::from_millis(300);
/// How many tasks are named.
const NAMED: usize = 3;
const CLEAR: &str = "\r\x1b[2K";

#[derive(Debug)]
pub(super) struct LiveLine {
    layer: &'static str,
    budget: Duration,
    begun: Instant,
    wanted: bool,
    terminal: bool,
    drawn: bool,
    /// When the next line is due where lines stay.
    due: Duration,
}

// === impl LiveLine ===

impl LiveLine {
    pub(super) fn new(layer: &'static str, budget: Duration, wanted: bool) -> Self {
        Self {
            layer,
            budget,
            begun: Instant::now(),
            wanted,
            terminal: is_terminal(Stream::Stderr),
            drawn: false,
            due: Duration::from_secs(1),
        }
    }

    pub(super) fn draw(&mut self, voice: &Voice, scope: &'static Scope) {
        let passed = self.begun.elapsed();
        if !self.wanted || passed < QUIET {
            return;
        }
        if self.terminal {
            self.drawn = true;
            voice.text(
                Stream::Stderr,
                format!("{CLEAR}{}", self.text(passed, scope)),
            );
        } else if passed >= self.due {
            // 1 s, 2 s, 4 s, …: a long wait does not fill a log.
            self.due = self.due.saturating_mul(2);
            voice.text(Stream::Stderr, format!("{}\n", self.text(passed, scope)));
        }
    }

    pub(super) fn clear(&mut self, voice: &Voice) {
        if self.drawn {
            self.drawn = false;
            voice.text(Stream::Stderr, CLEAR.to_owned());
        }
    }

    fn text(&self, passed: Duration, scope: &'static Scope) -> String {
        let tally = Tally::of(scope, |task| !task.kind.options.daemon);
        let names: Vec<String> = tally
            .rows()
            .iter()
            .take(NAMED)
            .map(|row| {
                let times = report::times(row.count);
                let since = row
                    .drained
                    .map_or_else(|| "not told yet".to_owned(), report::brief);
                format!("{}{times} ({since})", super::pipeline::path(row.kind))
            })
            .collect();
        let more = match tally.rows().len().saturating_sub(NAMED) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let (layer, passed) = (self.layer, report::brief(passed));
        let budget = report::brief(self.budget);
        match names.as_slice() {
            [] => format!("{layer} {passed} of {budget}"),
            names => format!(
                "{layer} {passed} of {budget}: waiting for {}{more}",
                names.join(", ")
            ),
        }
    }
}
