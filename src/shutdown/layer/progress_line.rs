//! The status line that shows which tasks a layer is waiting for.
//!
//! On a terminal it is one line that is redrawn ten times a second, and erased when the layer ends.
//! Elsewhere it is a new line after 1 s, 2 s, 4 s and so on, so that a long wait does not fill a
//! log.
//!
//! It is drawn by the control thread from the registry and written by the printing thread, so a
//! terminal that is stopped (Ctrl+S) delays nothing: lines that do not fit into the queue are
//! dropped. It reads no input and moves the cursor only within its line.

use crate::control::output::{Output, Stream, is_terminal};
use crate::registry::root::Root;
use crate::report;
use crate::report::row::KindRow;
use crate::report::tally::Tally;
use crate::text::plain;
use std::time::{Duration, Instant};

/// The time before the line appears. A shorter layer prints nothing. Most shutdowns are over by
/// then.
const QUIET: Duration = Duration::from_millis(300);
/// The most kinds of task that are named. The rest are counted.
const NAMED: usize = 3;
/// Returns to the start of the line and erases it. The second is "erase in line" of ECMA-48
/// (console_codes(4)). It assumes that the line did not wrap.
const CLEAR: &str = "\r\x1b[2K";

/// The status line of one layer.
#[derive(Debug)]
pub(in crate::shutdown) struct ProgressLine {
    /// The first word of the line.
    layer: &'static str,
    /// The configured one, as in the report, even if the deadline leaves less.
    budget: Duration,
    begun: Instant,
    /// False if output is disabled or is JSON.
    wanted: bool,
    /// Read once a layer: a redirection cannot change while the process runs.
    terminal: bool,
    /// True while the line is on the terminal.
    drawn: bool,
    /// The time, since the beginning of the layer, when the next line is due if standard error is
    /// not a terminal. It doubles with each line, so a wait of an hour writes twelve lines.
    due: Duration,
}

// === impl ProgressLine ===

impl ProgressLine {
    /// Creates a line that shows nothing before [`QUIET`] has passed. `wanted` is false if the
    /// report is not printed as text.
    pub(in crate::shutdown) fn new(layer: &'static str, budget: Duration, wanted: bool) -> Self {
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

    /// Draws the line if it is due. Called at each tick of the pipeline. Costs a walk over the live
    /// tasks when it draws, else a look at the clock.
    pub(in crate::shutdown) fn draw(&mut self, output: &Output, root: &Root) {
        let passed = self.begun.elapsed();
        if !self.wanted || passed < QUIET {
            return;
        }
        if self.terminal {
            self.drawn = true;
            output.text(
                Stream::Stderr,
                format!("{CLEAR}{}", self.text(passed, root)),
            );
        } else if passed >= self.due {
            // 1 s, 2 s, 4 s, …
            self.due = self.due.saturating_mul(2);
            output.text(Stream::Stderr, format!("{}\n", self.text(passed, root)));
        }
    }

    /// Erases the line from the terminal. Called before anything else is printed, so that a report
    /// never shares its first line.
    pub(in crate::shutdown) fn clear(&mut self, output: &Output) {
        if self.drawn {
            self.drawn = false;
            output.text(Stream::Stderr, CLEAR.to_owned());
        }
    }

    /// Formats the line. It names the first kinds of task, each with the longest time since it was
    /// told to drain, or what it waits for. Daemons are left out, because no layer waits for them.
    /// The kinds with the oldest tasks come first.
    fn text(&self, passed: Duration, root: &Root) -> String {
        let tally = Tally::of(root.scope, |task| !task.kind.options.daemon);
        let names: Vec<String> = tally
            .rows()
            .iter()
            .take(NAMED)
            .map(|row| {
                let times = report::times(row.count);
                format!("{}{times} ({})", plain(&row.path()), since(row, root))
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

/// Returns the time since the tasks were told to drain. A task that runs a child process waits for
/// others first, and then its time counts from the signal that it sent.
fn since(row: &KindRow, root: &Root) -> String {
    let since = match root.processes.of_task(&row.path()) {
        Some(process) if process.told.is_none() && !process.waits_for.is_empty() => {
            return format!("stops after {}", process.waits_for.join(", "));
        }
        Some(process) => process.told.map(|(_, at)| at.elapsed()),
        None => row.draining,
    };
    since.map_or_else(|| "not draining yet".to_owned(), report::brief)
}
