//! Metrics: what the registry, the threads, the shutdown and the runtime are at the moment of a scrape.
//!
//! Nothing is written for them by the work side beyond what the registry counts anyway. No label is unbounded: what has
//! too many names is `_other`. The names are in one file, `docs/metrics.md` lists them.

#[cfg(feature = "console")]
mod console;
mod exports;
mod family;
mod gauges;
mod heartbeat;
#[cfg(feature = "otel")]
mod logs;
mod names;
#[cfg(feature = "otel")]
pub(crate) mod otel;
mod parts;
mod past;
mod process;
mod tasks;
#[cfg(test)]
mod tests;
mod text;
mod watched;

#[cfg(feature = "console")]
pub use console::Console;
#[cfg(feature = "console")]
pub(crate) use console::Serving;
pub(crate) use gauges::{PHASES, blocking_threads};
#[cfg(feature = "otel")]
pub use logs::{LogFilter, LogLimit};
#[cfg(feature = "otel")]
pub use otel::{Telemetry, TelemetryBuilder, TelemetryError, layer};
pub use parts::{Child, Endpoint};
pub(crate) use past::{LAYERS, Past, unix};
pub(crate) use process::build;
pub(crate) use tasks::short;
pub(crate) use watched::Watched;

use crate::registry::root::Root;
use crate::shutdown::Standing;
use family::Families;
use names::Name;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tasks::Tasks;
use text::{Exemplar, Exemplars};
use tokio::runtime::Handle;

/// The metrics of one runtime, for a service that has a server of its own. Clones read the same.
///
/// A reading takes about a millisecond, however many tasks live, and stops nobody. It works from any thread, also when
/// every worker is stuck and after the shutdown.
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
/// # assert!(report.is_clean(), "{report}");
/// # Ok::<(), headcount::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Metrics(Arc<Source>);

struct Source {
    watched: Arc<Watched>,
    registry: Registry,
    exemplars: OnceLock<Box<Exemplars>>,
}

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>
    Text,
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>
    OpenMetrics,
}

/// What one part of the metrics is read by.
type Read = dyn Fn(&Watched, &mut Families) + Send + Sync;

/// A part of the metrics, as `prometheus` wants it.
struct Part {
    watched: Arc<Watched>,
    descriptions: Vec<Desc>,
    read: Box<Read>,
}

// === impl Metrics ===

impl Metrics {
    pub(crate) fn new(watched: Watched) -> Self {
        let watched = Arc::new(watched);
        let tasks = Mutex::new(Tasks::new());
        let parts: Vec<(&str, Box<Read>)> = vec![
            (
                "headcount_task_",
                Box::new(move |watched, families| {
                    let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
                    tasks.read(watched, families);
                }),
            ),
            ("", Box::new(read_the_rest)),
        ];
        let registry = Registry::new();
        let mut described: Vec<&str> = Vec::new();
        for (prefix, read) in parts {
            let mine =
                |name: &&&Name| name.name.starts_with(prefix) && !described.contains(&name.name);
            let names: Vec<&Name> = names::ALL.iter().filter(mine).copied().collect();
            described.extend(names.iter().map(|name| name.name));
            let part = Part {
                watched: Arc::clone(&watched),
                descriptions: names.into_iter().map(describe).collect(),
                read,
            };
            let registered = registry.register(Box::new(part));
            registered.expect("each name is described once, by one part");
        }
        Self(Arc::new(Source {
            watched,
            registry,
            exemplars: OnceLock::new(),
        }))
    }

    /// All metrics at this moment.
    #[must_use]
    pub fn read(&self, format: Format) -> String {
        let families = self.0.registry.gather();
        match format {
            Format::Text => TextEncoder::new()
                .encode_to_string(&families)
                // It fails for a family without samples or name, and the registry gives none.
                .unwrap_or_default(),
            Format::OpenMetrics => {
                let exemplars = self.0.exemplars.get().map(|find| &**find);
                text::open_metrics(&families, exemplars)
            }
        }
    }

    pub(crate) fn watched(&self) -> &Arc<Watched> {
        &self.0.watched
    }

    /// Who knows in which trace an observation was made: shown where the scraper asks for OpenMetrics.
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
            .field("service", &self.0.watched.service)
            .finish_non_exhaustive()
    }
}

fn read_the_rest(watched: &Watched, families: &mut Families) {
    gauges::threads(watched, families);
    gauges::shutdown(watched, families);
    gauges::runtime(watched, families);
    parts::read(watched, families);
    past::read(watched, families);
    exports::read(watched, families);
    process::read(watched, families);
}

fn describe(name: &Name) -> Desc {
    let labels = name.labels.iter().map(|label| (*label).to_owned());
    let (text, help) = (name.name.to_owned(), name.help.to_owned());
    Desc::new(text, help, labels.collect(), HashMap::new()).expect("the names are valid")
}

// === impl Format ===

impl Format {
    /// The value of `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The form that the value of an `Accept` header asks for.
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
        // Whoever only takes anything gets what every tool reads.
        if open > 0.0 && open >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

// === impl Part ===

impl Collector for Part {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        (self.read)(&self.watched, &mut families);
        families.into_families()
    }
}

// === impl Watched ===

impl Watched {
    pub(crate) fn new(
        service: &str,
        root: &Arc<Root>,
        standing: &Arc<Standing>,
        (work, owns_runtime): (Handle, bool),
        budgets: [Duration; 3],
    ) -> Self {
        Self {
            service: service.to_owned(),
            root: Arc::clone(root),
            standing: Arc::clone(standing),
            work,
            owns_runtime,
            budgets,
            begun: Instant::now(),
            heartbeat: heartbeat::Heartbeat::default(),
            past: Past::default(),
            exports: Arc::default(),
            process: process::Process::new(),
        }
    }
}
