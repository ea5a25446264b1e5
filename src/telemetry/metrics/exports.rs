//! Counters of pushed telemetry: exports, dropped records and queue lengths, by signal.
//!
//! The exporter increments them, and a scrape reads them as `telemetry_*`. All accesses are
//! relaxed: each counter stands alone.
//!
//! It has no dependency on the exporter, so it exists without the feature `otel` too, where no
//! signal is enabled and no series is shown. The counters are those of one exporter: runtimes that
//! share it show the same ones.

use super::family::Families;
use super::names;
#[cfg(feature = "otel")]
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A kind of telemetry that is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "otel")),
    expect(dead_code, reason = "exporters name their signal, when there are any")
)]
pub(crate) enum Signal {
    /// Spans of tasks, of `tracing` and of the shutdown.
    Traces,
    /// Events of `tracing`.
    Logs,
    /// The figures `last_shutdown_*`, which a scrape may miss.
    Metrics,
}

/// The reason why a record was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "otel")),
    expect(dead_code, reason = "exporters say it, when there are any")
)]
pub(crate) enum Drop {
    /// The queue had no room for it.
    QueueFull,
    /// The collector refused it, or every attempt to send it failed.
    Refused,
    /// The export failed while the telemetry was being flushed at a shutdown.
    Shutdown,
}

/// The words for the signals, in the order of [`Signal`].
pub(crate) const SIGNALS: [&str; 3] = ["traces", "logs", "metrics"];
/// The words for the reasons, in the order of [`Drop`].
const REASONS: [&str; 3] = ["queue_full", "refused", "shutdown"];

/// The numbers of records that were not delivered, indexed by [`Signal`] and [`Drop`].
#[cfg(feature = "otel")]
pub(crate) type Lost = [[u64; REASONS.len()]; SIGNALS.len()];

/// The counters of all signals, indexed by [`Signal`].
#[derive(Debug, Default)]
pub(crate) struct Exports([Export; SIGNALS.len()]);

/// The counters of one signal.
#[derive(Debug, Default)]
struct Export {
    /// True if the signal is exported. Only then does it have series.
    enabled: AtomicBool,
    /// Requests that the collector accepted.
    delivered: AtomicU64,
    /// Attempts that failed; a request may be attempted several times.
    failed: AtomicU64,
    /// Records that were not delivered, indexed by [`Drop`].
    dropped: [AtomicU64; REASONS.len()],
    /// The queue length after the last export.
    queued: AtomicU64,
    /// The Unix time of the last delivered request, in seconds; 0 before the first.
    last_success: AtomicU64,
}

// === impl Signal ===

#[cfg(feature = "otel")]
impl Signal {
    /// In the order of their numbers.
    pub(crate) const ALL: [Self; SIGNALS.len()] = [Self::Traces, Self::Logs, Self::Metrics];
}

// === impl Exports ===

#[cfg_attr(
    not(any(test, feature = "otel")),
    expect(dead_code, reason = "exporters call these, when there are any")
)]
impl Exports {
    /// Marks a signal as exported, which gives it series. There is no way back. Called while the
    /// exporter is built, before anything counts.
    pub(crate) fn enable(&self, signal: Signal) {
        self.0[signal as usize]
            .enabled
            .store(true, Ordering::Relaxed);
    }

    /// Counts one delivered request. The two stores are not atomic together: a scrape may see the
    /// count without its time.
    pub(crate) fn delivered(&self, signal: Signal, unix_seconds: u64) {
        let export = &self.0[signal as usize];
        export.delivered.fetch_add(1, Ordering::Relaxed);
        export.last_success.store(unix_seconds, Ordering::Relaxed);
    }

    /// Counts one failed attempt.
    ///
    /// Called on the exporting thread, also for an attempt that is retried.
    pub(crate) fn failed(&self, signal: Signal) {
        self.0[signal as usize]
            .failed
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Counts records that were not delivered.
    ///
    /// Called by any thread that pushes into a full queue, and by the exporting thread.
    pub(crate) fn dropped(&self, signal: Signal, why: Drop, records: u64) {
        self.0[signal as usize].dropped[why as usize].fetch_add(records, Ordering::Relaxed);
    }

    /// Sets the queue length.
    ///
    /// Called on the exporting thread after each round, so it is as old as the last one.
    pub(crate) fn set_queued(&self, signal: Signal, records: u64) {
        self.0[signal as usize]
            .queued
            .store(records, Ordering::Relaxed);
    }
}

#[cfg(feature = "otel")]
impl Exports {
    /// Returns the numbers of records that were not delivered, by signal and reason.
    pub(crate) fn lost(&self) -> Lost {
        let of = |export: &Export| {
            let dropped = export.dropped.each_ref();
            dropped.map(|dropped| dropped.load(Ordering::Relaxed))
        };
        self.0.each_ref().map(of)
    }

    /// Returns the numbers since an earlier look, by the words for signals and reasons. Those that
    /// are zero are left out.
    pub(crate) fn lost_since(&self, before: &Lost) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut signals = BTreeMap::new();
        for ((signal, now), before) in SIGNALS.iter().zip(self.lost()).zip(before) {
            let since = now.iter().zip(before);
            let since = since.map(|(now, before)| now.saturating_sub(*before));
            let reasons = REASONS.iter().zip(since).filter(|(_, lost)| *lost > 0);
            let reasons: BTreeMap<_, _> = reasons
                .map(|(reason, lost)| ((*reason).to_owned(), lost))
                .collect();
            if !reasons.is_empty() {
                signals.insert((*signal).to_owned(), reasons);
            }
        }
        signals
    }
}

/// Adds `telemetry_*` for the signals that are exported.
pub(super) fn read(exports: &Exports, families: &mut Families) {
    for (signal, export) in SIGNALS.iter().zip(&exports.0) {
        if !export.enabled.load(Ordering::Relaxed) {
            continue;
        }
        let of = |value: &AtomicU64| value.load(Ordering::Relaxed) as f64;
        let mut add = |name, labels: &[&str], value| families.add(name, labels, of(value));
        add(&names::EXPORTS_TOTAL, &[signal, "ok"], &export.delivered);
        add(&names::EXPORTS_TOTAL, &[signal, "failed"], &export.failed);
        for (reason, dropped) in REASONS.iter().zip(&export.dropped) {
            add(&names::DROPPED, &[signal, reason], dropped);
        }
        add(&names::QUEUE, &[signal], &export.queued);
        add(&names::LAST_SUCCESS, &[signal], &export.last_success);
    }
}
