//! A file for node_exporter's textfile collector, so that the metrics of a run's end outlive the
//! process.
//!
//! The collector may read the file at any moment, so it is replaced by a rename
//! (<https://github.com/prometheus/node_exporter#textfile-collector>). It has the metrics of the
//! last shutdown only, not those of the running service.
//!
//! It is written at two times. At a start, with the end of the previous run, so that a kill becomes
//! visible at the next collection. At the end of a shutdown, first by [`ExitHook::run`] and once
//! more by [`ExitHook::seal`], with the results of the other hooks. Between the two it does not
//! change, so its modification time is that of the last end or start.

use super::Exits;
use super::files;
use super::last::LastShutdown;
use super::names::{self, Name};
use super::run::State;
use crate::control::exit_hook::ExitHook;
use crate::report::{Flush, FlushResult, Report, Timing};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The age at which an unfinished file is taken to be left behind. The folder has no lock, and another
/// run may be writing.
const ABANDONED: Duration = Duration::from_secs(60);

/// The textfile of a service.
#[derive(Debug)]
pub(crate) struct Textfile {
    /// The folder must exist; it is not created.
    path: PathBuf,
    /// The value of the label `service`, as it was set.
    service: String,
    /// The version of this run.
    version: String,
    /// The state folder, for the previous run and the numbers of exits. Without it only the end of
    /// this run is written.
    state: Option<Arc<State>>,
}

// === impl Textfile ===

impl Textfile {
    /// Writes nothing.
    pub(crate) fn new(
        path: PathBuf,
        service: &str,
        version: &str,
        state: Option<Arc<State>>,
    ) -> Self {
        Self {
            path,
            service: service.to_owned(),
            version: version.to_owned(),
            state,
        }
    }

    /// Writes the end of the previous run, which could not do so itself if it ended without a
    /// report. Removes what earlier runs left beside the file when they were killed.
    ///
    /// Writes nothing without a state folder or a previous run. Returns a warning if the file cannot
    /// be written.
    pub(crate) fn begin(&self) -> Option<String> {
        files::remove_abandoned(&self.path, ABANDONED);
        let previous = self.state.as_ref()?.previous()?;
        let exits = self.state.as_ref().map(|state| state.exits());
        let error = self.write(&previous.shutdown, exits.as_ref()).err()?;
        let path = self.path.display();
        Some(format!("the textfile {path} cannot be written: {error}"))
    }

    /// Writes the end of this run.
    ///
    /// Called on the thread of the exit hook. Blocks as long as the disk does.
    fn write_report(&self, report: &Report) -> std::io::Result<()> {
        let last = LastShutdown::of(report, &self.version, SystemTime::now());
        let state = self.state.as_ref();
        let exits = state.map(|state| state.exits_with(last.outcome));
        self.write(&last, exits.as_ref())
    }

    /// Renders the whole file in memory, a few kilobytes.
    fn write(&self, last: &LastShutdown, exits: Option<&Exits>) -> std::io::Result<()> {
        let text = render(&self.service, last, exits);
        // node_exporter runs as another user.
        files::replace(&self.path, text.as_bytes(), 0o644).map(drop)
    }
}

impl ExitHook for Textfile {
    /// See [`ExitHook::name`].
    fn name(&self) -> &'static str {
        "textfile"
    }

    fn budget(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn run(&self, report: &Report, _until: Instant) -> Vec<Flush> {
        let begun = Instant::now();
        let (result, text) = match self.write_report(report) {
            Ok(()) => (FlushResult::Delivered, "textfile written".to_owned()),
            Err(error) => {
                let path = self.path.display();
                (
                    FlushResult::Failed,
                    format!("textfile not written: {path}: {error}"),
                )
            }
        };
        vec![Flush::new("textfile", result, text, begun.elapsed())]
    }

    fn seal(&self, report: &Report) {
        // Adds the results of the other hooks. If this fails, the file that `run` wrote stays, or
        // the report already says that it could not be written.
        self.write_report(report).ok();
    }
}

/// Renders the metrics in the text format of Prometheus
/// (<https://prometheus.io/docs/instrumenting/exposition_formats>).
///
/// The order of the families is fixed. A family without samples still has its header.
fn render(service: &str, last: &LastShutdown, exits: Option<&Exits>) -> String {
    let mut page = Page {
        service: escaped(service),
        text: String::new(),
    };
    let info = [last.outcome.as_str(), &last.reason, &last.version];
    page.family(&names::LAST_INFO, [(info, 1.0)]);
    let at = last.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.family(&names::LAST_TIMESTAMP, [([], at.as_secs_f64())]);
    page.family(&names::LAST_DURATION, [([], last.took.as_secs_f64())]);
    let took = |layer: &Timing| layer.took.as_secs_f64();
    page.family(&names::LAST_LAYER_DURATION, of_layers(last, took));
    let budget = |layer: &Timing| layer.budget.as_secs_f64();
    page.family(&names::LAST_LAYER_BUDGET, of_layers(last, budget));
    page.family(&names::LAST_TASK_LINGERING, counts(&last.lingering_tasks));
    page.family(
        &names::LAST_THREAD_LINGERING,
        counts(&last.lingering_threads),
    );
    let flush = last.flush.iter();
    let flush = flush.map(|(signal, result)| ([signal.as_str(), result.as_str()], 1.0));
    page.family(&names::LAST_FLUSH, flush);
    if let Some(exits) = exits {
        page.family(&names::EXITS, counts(exits));
    }
    page.text
}

/// Returns the samples of a metric by layer.
fn of_layers(
    last: &LastShutdown,
    value: impl Fn(&Timing) -> f64,
) -> impl Iterator<Item = ([&str; 1], f64)> {
    let layers = last.layers.iter();
    layers.map(move |(name, layer)| ([name.as_str()], value(layer)))
}

/// Returns the samples of a metric with one label.
fn counts(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = ([&str; 1], f64)> {
    let counts = counts.iter();
    counts.map(|(label, count)| ([label.as_str()], *count as f64))
}

/// A page of metrics that is being written. Every sample has the label `service`.
struct Page {
    /// The escaped value of the label.
    service: String,
    /// The lines so far.
    text: String,
}

// === impl Page ===

impl Page {
    /// Writes a metric: its header, and its samples with the values of its labels.
    ///
    /// The number of labels is checked in debug builds, since a missing one would shift the others.
    fn family<'a, const LABELS: usize>(
        &mut self,
        name: &Name,
        samples: impl IntoIterator<Item = ([&'a str; LABELS], f64)>,
    ) {
        debug_assert_eq!(name.labels.len(), LABELS, "{}", name.name);
        let (metric, kind, help) = (name.name, name.kind.as_str(), name.help);
        self.line(format_args!("# HELP {metric} {help}"));
        self.line(format_args!("# TYPE {metric} {kind}"));
        for (values, value) in samples {
            let mut labels = format!("service=\"{}\"", self.service);
            for (label, value) in name.labels.iter().zip(values) {
                labels += &format!(",{label}=\"{}\"", escaped(value));
            }
            self.line(format_args!("{metric}{{{labels}}} {value}"));
        }
    }

    /// Ends the line with a newline, which the format requires of the last one too.
    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String cannot fail");
    }
}

/// Escapes a label value.
///
/// Backslash, quotation mark and newline are the three characters that the format escapes in label
/// values.
fn escaped(label: &str) -> String {
    let mut escaped = String::with_capacity(label.len());
    for c in label.chars() {
        match c {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Outcome;

    #[test]
    fn a_run_without_a_report_is_one_row_and_labels_are_escaped() {
        let at = UNIX_EPOCH + Duration::from_millis(1_764_000_000_500);
        let last = LastShutdown::without_report(Outcome::Unclean, "oom", "1\"\\\n", at);
        let exits = [("clean".to_owned(), 4), ("unclean".to_owned(), 1)].into();
        let text = render("orders", &last, Some(&exits));
        let head = "# HELP headcount_exits_total Runs of the service on this machine that ended, by outcome.\n# TYPE headcount_exits_total counter\n";
        assert!(text.contains(head), "{text}");
        let rows: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        insta::assert_snapshot!(rows.join("\n"), @r#"
        headcount_last_shutdown_info{service="orders",outcome="unclean",reason="oom",version="1\"\\\n"} 1
        headcount_last_shutdown_timestamp_seconds{service="orders"} 1764000000.5
        headcount_last_shutdown_duration_seconds{service="orders"} 0
        headcount_exits_total{service="orders",outcome="clean"} 4
        headcount_exits_total{service="orders",outcome="unclean"} 1
        "#);
    }
}
