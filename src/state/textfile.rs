//! The end of the last run as a file for node_exporter's textfile collector: its metrics stay when the process is gone.
//!
//! The collector reads the file at any moment, so it is replaced by a rename
//! (<https://github.com/prometheus/node_exporter#textfile-collector>).

use super::Exits;
use super::files;
use super::last::LastShutdown;
use super::run::State;
use crate::report::{Flush, FlushResult, Report};
use crate::shutdown::ending::Ending;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The file, and what goes into it.
#[derive(Debug)]
pub(crate) struct Textfile {
    path: PathBuf,
    service: String,
    version: String,
    state: Option<Arc<State>>,
}

// === impl Textfile ===

impl Textfile {
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

    /// Writes the end of the run before this one, so that one without a report is seen.
    ///
    /// Returns the warning when it cannot.
    pub(crate) fn begin(&self) -> Option<String> {
        let previous = self.state.as_ref()?.previous()?;
        let exits = self.state.as_ref().map(|state| state.exits());
        let error = self.write(&previous.shutdown, exits.as_ref()).err()?;
        let path = self.path.display();
        Some(format!("the textfile {path} cannot be written: {error}"))
    }

    fn write_report(&self, report: &Report) -> std::io::Result<()> {
        let last = LastShutdown::of(report, &self.version, SystemTime::now());
        let state = self.state.as_ref();
        let exits = state.map(|state| state.exits_with(last.outcome));
        self.write(&last, exits.as_ref())
    }

    fn write(&self, last: &LastShutdown, exits: Option<&Exits>) -> std::io::Result<()> {
        let text = render(&self.service, last, exits);
        // Its reader is another user.
        files::replace(&self.path, text.as_bytes(), 0o644).map(drop)
    }
}

impl Ending for Textfile {
    fn name(&self) -> &'static str {
        "textfile"
    }

    fn budget(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn end(&self, report: &Report, _until: Instant) -> Vec<Flush> {
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
        // It was written a moment before, or the report says that it cannot be.
        self.write_report(report).ok();
    }
}

/// The text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats>).
fn render(service: &str, last: &LastShutdown, exits: Option<&Exits>) -> String {
    let mut page = Page {
        service: escaped(service),
        text: String::new(),
    };
    let outcome = last.outcome.as_str();
    let info = format!(
        ",outcome=\"{outcome}\",reason=\"{}\",version=\"{}\"",
        escaped(&last.reason),
        escaped(&last.version)
    );
    page.family("last_shutdown_info", "gauge", "How the last run ended.");
    page.row("last_shutdown_info", &info, 1.0);
    let at = last.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let name = "last_shutdown_timestamp_seconds";
    page.family(name, "gauge", "When the last run ended.");
    page.row(name, "", at.as_secs_f64());
    let name = "last_shutdown_duration_seconds";
    page.family(name, "gauge", "How long the last shutdown took.");
    page.row(name, "", last.took.as_secs_f64());
    page.layers(last);
    let name = "last_shutdown_task_lingering";
    page.family(name, "gauge", "Tasks that outlived a layer.");
    for (layer, count) in &last.lingering_tasks {
        page.row(name, &format!(",layer=\"{layer}\""), *count as f64);
    }
    let name = "last_shutdown_thread_lingering";
    page.family(name, "gauge", "Threads that outlived the shutdown.");
    for (class, count) in &last.lingering_threads {
        page.row(name, &format!(",class=\"{class}\""), *count as f64);
    }
    let name = "last_shutdown_flush_info";
    page.family(name, "gauge", "What became of the report and telemetry.");
    for (signal, result) in &last.flush {
        let labels = format!(
            ",signal=\"{}\",result=\"{}\"",
            escaped(signal),
            escaped(result)
        );
        page.row(name, &labels, 1.0);
    }
    if let Some(exits) = exits {
        page.family("exits_total", "counter", "Ends of runs.");
        for (outcome, count) in exits {
            let labels = format!(",outcome=\"{}\"", escaped(outcome));
            page.row("exits_total", &labels, *count as f64);
        }
    }
    page.text
}

struct Page {
    service: String,
    text: String,
}

// === impl Page ===

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(
            self.text,
            "# HELP headcount_{name} {help}\n# TYPE headcount_{name} {kind}"
        )
        .expect("a String takes any text");
    }

    fn row(&mut self, name: &str, labels: &str, value: f64) {
        let service = &self.service;
        writeln!(
            self.text,
            "headcount_{name}{{service=\"{service}\"{labels}}} {value}"
        )
        .expect("a String takes any text");
    }

    fn layers(&mut self, last: &LastShutdown) {
        let name = "last_shutdown_layer_duration_seconds";
        self.family(name, "gauge", "How long a layer of the last shutdown took.");
        for layer in &last.layers {
            let labels = format!(",layer=\"{}\"", layer.layer);
            self.row(name, &labels, layer.took.as_secs_f64());
        }
        let name = "last_shutdown_layer_budget_seconds";
        let help = "How long a layer of the last shutdown might have taken.";
        self.family(name, "gauge", help);
        for layer in &last.layers {
            let labels = format!(",layer=\"{}\"", layer.layer);
            self.row(name, &labels, layer.budget.as_secs_f64());
        }
    }
}

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
    use crate::state::last::Ended;

    #[test]
    fn a_run_without_a_report_is_one_row_and_labels_are_escaped() {
        let at = UNIX_EPOCH + Duration::from_millis(1_764_000_000_500);
        let last = LastShutdown::without_report(Ended::Unclean, "oom", "1\"\\\n", at);
        let exits = [("clean".to_owned(), 4), ("unclean".to_owned(), 1)].into();
        let text = render("orders", &last, Some(&exits));
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
