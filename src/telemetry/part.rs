//! The telemetry of a runtime as one of its parts: the exporter, and the metrics.
//!
//! They belong together because each uses the other: the metrics count exports and refer to traces,
//! and the exporter pushes an unclean end of the previous run.
//!
//! The exporter begins in `open`, before the work runtime exists, so that the first task has a
//! span. The metrics are made in `start`, once there is a runtime to read and the state folder is
//! open.

use super::metrics::{LastRun, Metrics, Source};
#[cfg(feature = "otel")]
use super::otel::Telemetry;
#[cfg(feature = "otel")]
use crate::control::builder::Builder;
#[cfg(feature = "otel")]
use crate::control::exit_hook::ExitHook;
#[cfg(feature = "otel")]
use crate::control::part::Opening;
use crate::control::part::{Earlier, Part, Starting};
use crate::state::StatePart;
use std::io;
#[cfg(feature = "otel")]
use std::sync::Arc;
#[cfg(feature = "otel")]
use std::time::Duration;

/// The exporter of a runtime, if it has one, and its metrics.
#[derive(Debug, Default)]
pub(crate) struct TelemetryPart {
    /// The given one; after `open` the one in use.
    #[cfg(feature = "otel")]
    exporter: Option<Telemetry>,
    /// Known once the runtime has started.
    metrics: Option<Metrics>,
}

// === impl Builder ===

#[cfg(feature = "otel")]
impl Builder {
    /// Exports spans of the tasks, log events and the report to a collector through this telemetry.
    ///
    /// Default: the telemetry that [`telemetry::layer`](crate::telemetry::layer) made, if it was
    /// called. Otherwise nothing is exported.
    ///
    /// # Examples
    ///
    /// ```
    /// # use headcount::telemetry::Telemetry;
    /// // No collector listens here, and the report says so.
    /// let telemetry = Telemetry::builder().endpoint("http://127.0.0.1:1").build()?;
    /// let runtime = headcount::Runtime::builder().telemetry(&telemetry).print(false).build()?;
    /// let report = runtime.run(async |tasks| {
    ///     tasks.spawn("hello", async {}).await.ok();
    /// });
    /// let traces = report.flush.iter().find(|step| step.signal == "traces");
    /// assert!(traces.is_some_and(|step| !step.is_delivered()), "{report}");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn telemetry(mut self, telemetry: &Telemetry) -> Self {
        self.parts.get_mut::<TelemetryPart>().exporter = Some(telemetry.clone());
        self
    }
}

// === impl TelemetryPart ===

impl TelemetryPart {
    /// Returns the metrics of a runtime that has started.
    pub(crate) fn metrics(&self) -> &Metrics {
        let metrics = self.metrics.as_ref();
        metrics.expect("they are read after the start of the runtime")
    }

    /// Creates the metrics. If there is an exporter, they also count exports and refer to traces by
    /// exemplars, and an unclean end of the previous run is pushed to the collector.
    ///
    /// The lookup of exemplars keeps the exporter alive as long as the metrics.
    #[cfg(feature = "otel")]
    fn measure(&self, mut source: Source) -> Metrics {
        let Some(exporter) = self.exporter.clone() else {
            return Metrics::new(source);
        };
        source.exports = Arc::clone(exporter.exports());
        if let Some(previous) = source.previous().filter(|previous| previous.is_unclean()) {
            // The previous run could not report its own end, and this run may end before it is ever
            // scraped.
            exporter.push_last(&previous.shutdown);
        }
        let metrics = Metrics::new(source);
        metrics.set_exemplars(move |family, label, bound| exporter.exemplar(family, label, bound));
        metrics
    }

    /// Creates the metrics.
    #[cfg(not(feature = "otel"))]
    fn measure(&self, source: Source) -> Metrics {
        Metrics::new(source)
    }
}

impl Part for TelemetryPart {
    #[cfg(feature = "otel")]
    fn exit_budget(&self) -> Duration {
        let exporter = self.exporter.clone().or_else(Telemetry::of_process);
        exporter.map_or(Duration::ZERO, |exporter| exporter.flush_budget())
    }

    /// Starts the exporter: the given one, or that of the process, which
    /// [`telemetry::layer`](crate::telemetry::layer) made.
    ///
    /// Its exit hook goes into the list, from which the shutdown runs it. If a later part fails,
    /// dropping the hook detaches the runtime again.
    #[cfg(feature = "otel")]
    fn open(
        &mut self,
        start: &Opening<'_>,
        exit_hooks: &mut Vec<Arc<dyn ExitHook>>,
    ) -> io::Result<()> {
        self.exporter = self.exporter.take().or_else(Telemetry::of_process);
        if let Some(exporter) = &self.exporter {
            let service = (&*start.plan.service, &*start.plan.version);
            exit_hooks.push(exporter.begin(start.root, service)?);
        }
        Ok(())
    }

    /// Creates the metrics. The part of the state folder must have started earlier, since the last
    /// run is read from it. Never fails.
    fn start(&mut self, start: &Starting<'_>, earlier: Earlier<'_>) -> io::Result<()> {
        let plan = start.plan;
        let mut source = Source::new(
            &plan.service,
            start.root,
            start.progress,
            (start.work.clone(), start.owns_runtime),
            [plan.drain, plan.cancel, plan.close],
        );
        source.last_run = LastRun {
            state: earlier.get::<StatePart>().state().cloned(),
            version: plan.version.clone(),
        };
        self.metrics = Some(self.measure(source));
        Ok(())
    }
}
