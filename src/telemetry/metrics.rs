//! Metrics: the state of the registry, the threads, the shutdown and the runtime at the moment of a
//! scrape.
//!
//! Nothing is written for them by the work side beyond the counters of the registry. Each file reads
//! one part into [`family`]'s data model; [`text`] writes it.
//!
//! The steps of a scrape, all on the thread that asks for it:
//!
//! 1. The lock of the task counters is taken, so that concurrent scrapes wait.
//! 2. Each file adds its families, in the order of `Metrics::families`. No two of them read at the
//!    same moment, so figures of different families may disagree by what happened in between.
//! 3. The lock is released, and the families are sorted and written as text.
//!
//! No reading is cached: two scrapers see two readings. No reading waits for a worker of the
//! runtime.

mod children_and_endpoints;
pub(crate) mod exports;
pub(crate) mod family;
mod gauges;
mod heartbeat;
pub(crate) mod last_run;
pub(crate) mod names;
mod process;
mod source;
pub(crate) mod tasks;
pub(crate) mod text;

pub(crate) use gauges::{PHASES, blocking_threads};
pub(crate) use last_run::{LAYERS, LastRun, unix};
pub(crate) use process::build;
pub(crate) use source::Source;

use family::Families;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tasks::Tasks;
use text::{Exemplar, Exemplars};

/// The metrics of one runtime, to serve from an HTTP server of your own.
///
/// A clone is a cheap handle to the same metrics.
///
/// A read takes about a millisecond, however many tasks are alive, and does not stop any task or
/// thread. It works from any thread, even when every worker is blocked and after the shutdown.
/// Concurrent reads wait for each other.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::Format;
///
/// let runtime = headcount::Runtime::builder().print(false).build()?;
/// let metrics = runtime.metrics();
/// let report = runtime.run(async move |tasks| {
///     tasks.spawn("hello", async {}).await.ok();
///     let text = metrics.read(Format::Text);
///     assert!(text.contains("headcount_task_started_total{group=\"/\",task=\"hello\"}"));
/// });
/// # assert_eq!(report.exit_code(), 0, "{report}");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

/// The state that all clones of a [`Metrics`] share.
struct Shared {
    /// The runtime that is read. It outlives the runtime's threads, so the metrics can be read
    /// after the shutdown.
    source: Source,
    /// Locked during a read. It has the only state that a scrape changes: the survey, and the names
    /// that have series.
    tasks: Mutex<Tasks>,
    /// Looks up exemplars; unset until [`Metrics::set_exemplars`] is called.
    exemplars: OnceLock<Box<Exemplars>>,
}

/// The text format of metrics.
///
/// # Examples
///
/// ```
/// use headcount::telemetry::Format;
///
/// let format = Format::accepted("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
/// assert_eq!(format, Format::OpenMetrics);
/// assert!(format.content_type().starts_with("application/openmetrics-text"));
/// assert_eq!(Format::accepted("*/*"), Format::Text);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// The text format of Prometheus:
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>. It has no exemplars.
    Text,
    /// OpenMetrics 1.0: <https://prometheus.io/docs/specs/om/open_metrics_spec/>. It has exemplars
    /// where a trace is known.
    OpenMetrics,
}

// === impl Metrics ===

impl Metrics {
    /// Called at the start of the runtime: the counters of this moment are subtracted from all
    /// later ones.
    pub(crate) fn new(source: Source) -> Self {
        Self(Arc::new(Shared {
            source,
            tasks: Mutex::new(Tasks::new()),
            exemplars: OnceLock::new(),
        }))
    }

    /// Reads all metrics and returns them as text.
    ///
    /// Every label set that can be known in advance is present with 0. A metric that cannot be
    /// observed is absent.
    #[must_use]
    pub fn read(&self, format: Format) -> String {
        let families = self.families().sorted();
        match format {
            Format::Text => text::prometheus(&families),
            Format::OpenMetrics => {
                let exemplars = self.0.exemplars.get().map(|find| &**find);
                text::open_metrics(&families, exemplars)
            }
        }
    }

    /// Reads all parts.
    ///
    /// A poisoned lock is used as it is: a panic in a scrape must not end all later ones.
    fn families(&self) -> Families {
        let Shared { source, tasks, .. } = &*self.0;
        let mut families = Families::default();
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.read(source, &mut families);
        gauges::threads(source, &mut families);
        gauges::shutdown(source, &mut families);
        gauges::runtime(source, &mut families);
        source.children_with_usage();
        children_and_endpoints::read(source.root.number, &mut families);
        last_run::read(&source.last_run, &source.progress, &mut families);
        exports::read(&source.exports, &mut families);
        process::read(&source.process(), &mut families);
        families
    }

    /// Returns the runtime that these metrics describe.
    pub(crate) fn source(&self) -> &Source {
        &self.0.source
    }

    /// Sets the lookup of exemplars, which are shown where the scraper asks for OpenMetrics.
    ///
    /// Only the first call has an effect.
    #[cfg_attr(
        not(any(test, feature = "otel")),
        expect(dead_code, reason = "traces know it, when there are any")
    )]
    pub(crate) fn set_exemplars(
        &self,
        find: impl Fn(&str, &str, f64) -> Option<Exemplar> + Send + Sync + 'static,
    ) {
        self.0.exemplars.set(Box::new(find)).ok();
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("service", &self.0.source.service)
            .finish_non_exhaustive()
    }
}

// === impl Format ===

impl Format {
    /// Returns the value of the `Content-Type` header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Returns the format that the value of an `Accept` header asks for.
    ///
    /// This is [`OpenMetrics`](Self::OpenMetrics) if the header names it with a quality above 0
    /// that is at least that of `text/plain`. Otherwise it is [`Text`](Self::Text), also for an
    /// empty or invalid value.
    #[must_use]
    pub fn accepted(accept: &str) -> Self {
        let quality = |media: &str| -> f64 {
            let all = accept.split(',').map(str::trim);
            let asked = all.filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let known = parts.next()?.eq_ignore_ascii_case(media);
                let quality = parts.find_map(|part| part.strip_prefix("q="));
                known.then(|| quality.map_or(1.0, |q| q.parse().unwrap_or(0.0)))
            });
            asked.fold(0.0, f64::max)
        };
        let open = quality("application/openmetrics-text");
        // `*/*` alone selects the text format, which every tool can read.
        if open > 0.0 && open >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}
