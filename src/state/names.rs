//! The names, types, labels and help texts of the metrics of how runs ended, which the textfile and
//! `/metrics` share.
//!
//! They are here and not in `telemetry`, because the textfile is written without the feature
//! `admin` too. A name is part of the interface: dashboards and alerts in `dashboards/` refer to
//! it.

/// A metric family.
#[derive(Debug)]
pub(crate) struct Name {
    /// The full name, with the unit as its suffix; a counter ends with `_total`.
    pub(crate) name: &'static str,
    /// It decides the `TYPE` line.
    pub(crate) kind: Kind,
    /// The names of the labels, in the order of their values.
    pub(crate) labels: &'static [&'static str],
    /// The help text: below 140 characters, with a full stop.
    pub(crate) help: &'static str,
}

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It never falls, apart from a new state folder.
    Counter,
    /// A value of one moment, or a constant 1 with its data in labels.
    Gauge,
    /// Buckets, a sum and a count.
    #[cfg_attr(
        not(feature = "admin"),
        expect(dead_code, reason = "no run's end has a histogram")
    )]
    Histogram,
}

/// Absent before the first end of a run is known.
pub(crate) const LAST_INFO: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_info",
    &["outcome", "reason", "version"],
    "Outcome, reason and version of the last run that ended; always 1.",
);
/// An alert compares it with the present, to tell a fresh end from an old one.
pub(crate) const LAST_TIMESTAMP: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_timestamp_seconds",
    &[],
    "Unix time at which that run ended; without a report, at which it was last seen alive.",
);
/// Zero for a run without a report.
pub(crate) const LAST_DURATION: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_duration_seconds",
    &[],
    "Duration of the last shutdown, from its start to the end of its last layer.",
);
/// No sample for a run without a report.
pub(crate) const LAST_LAYER_DURATION: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_layer_duration_seconds",
    &["layer"],
    "Time that the layer took in the last shutdown.",
);
/// To be compared with the duration of the same layer.
pub(crate) const LAST_LAYER_BUDGET: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_layer_budget_seconds",
    &["layer"],
    "Time budget of the layer in the last shutdown.",
);
/// Only classes with at least one such thread have a sample.
pub(crate) const LAST_THREAD_LINGERING: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_thread_lingering",
    &["class"],
    "Threads still alive at the end of the last shutdown that should have ended, by class.",
);
/// Samples for `drain` and `cancel`, if the run left a report.
pub(crate) const LAST_TASK_LINGERING: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_task_lingering",
    &["layer"],
    "Tasks still alive at the end of a layer of the last shutdown, without those that had no turn or ended late; for cancel, untracked ones too.",
);
/// One sample for each row of the report.
pub(crate) const LAST_FLUSH: Name = Name::new(
    Kind::Gauge,
    "headcount_last_shutdown_flush_info",
    &["signal", "result"],
    "Result of delivering the report and the telemetry of the last shutdown, by signal; always 1.",
);
/// It survives restarts, as the state folder does; outcomes that never occurred have no sample in
/// the textfile.
pub(crate) const EXITS: Name = Name::new(
    Kind::Counter,
    "headcount_exits_total",
    &["outcome"],
    "Runs of the service on this machine that ended, by outcome.",
);

// === impl Name ===

impl Name {
    /// A `const fn`, so that all names are static.
    const fn new(
        kind: Kind,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            labels,
            help,
        }
    }
}

// === impl Kind ===

impl Kind {
    /// Returns the word for the type in the text formats and in the documentation.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}
