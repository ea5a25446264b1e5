//! What became of telemetry that is pushed: counted by whoever exports.

use super::family::Families;
use super::names;
use super::watched::Watched;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "otel")),
    expect(dead_code, reason = "exporters name their signal, when there are any")
)]
pub(crate) enum Signal {
    Traces,
    Logs,
    Metrics,
}

/// Why a record was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(any(test, feature = "otel")),
    expect(dead_code, reason = "exporters say it, when there are any")
)]
pub(crate) enum Drop {
    QueueFull,
    Refused,
    Shutdown,
}

pub(crate) const SIGNALS: [&str; 3] = ["traces", "logs", "metrics"];
const REASONS: [&str; 3] = ["queue_full", "refused", "shutdown"];

/// What became of each signal.
#[derive(Debug, Default)]
pub(crate) struct Exports([Export; SIGNALS.len()]);

#[derive(Debug, Default)]
struct Export {
    enabled: AtomicBool,
    delivered: AtomicU64,
    failed: AtomicU64,
    dropped: [AtomicU64; REASONS.len()],
    queued: AtomicU64,
    /// In Unix time; 0 before the first.
    last_success: AtomicU64,
}

// === impl Signal ===

#[cfg(feature = "otel")]
impl Signal {
    pub(crate) const ALL: [Self; SIGNALS.len()] = [Self::Traces, Self::Logs, Self::Metrics];
}

// === impl Exports ===

#[cfg_attr(
    not(any(test, feature = "otel")),
    expect(dead_code, reason = "exporters call these, when there are any")
)]
impl Exports {
    /// The signal is exported: from here on it has series.
    pub(crate) fn enable(&self, signal: Signal) {
        self.0[signal as usize]
            .enabled
            .store(true, Ordering::Relaxed);
    }

    pub(crate) fn delivered(&self, signal: Signal, unix_seconds: u64) {
        let export = &self.0[signal as usize];
        export.delivered.fetch_add(1, Ordering::Relaxed);
        export.last_success.store(unix_seconds, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, signal: Signal) {
        self.0[signal as usize]
            .failed
            .fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self, signal: Signal, why: Drop, records: u64) {
        self.0[signal as usize].dropped[why as usize].fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn set_queued(&self, signal: Signal, records: u64) {
        self.0[signal as usize]
            .queued
            .store(records, Ordering::Relaxed);
    }
}

pub(crate) fn read(watched: &Watched, families: &mut Families) {
    for (signal, export) in SIGNALS.iter().zip(&watched.exports.0) {
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
