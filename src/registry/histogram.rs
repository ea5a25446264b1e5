//! Durations in buckets of powers of two, with one writer.

use super::shard;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bucket `i` holds durations below 2^i microseconds that no lower bucket holds; the last one holds the rest.
pub(crate) const BUCKETS: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

/// A sum of histograms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) buckets: [u64; BUCKETS],
    pub(crate) nanos: u64,
}

// === impl Histogram ===

impl Histogram {
    /// Only for the thread that owns the shard.
    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        let bucket = (u64::BITS - (nanos >> 10).leading_zeros()) as usize;
        shard::bump(&self.buckets[bucket.min(BUCKETS - 1)]);
        shard::add(&self.nanos, nanos);
    }
}

// === impl Totals ===

impl Totals {
    pub(crate) fn add(&mut self, histogram: &Histogram) {
        for (total, bucket) in self.buckets.iter_mut().zip(&histogram.buckets) {
            *total += bucket.load(Ordering::Relaxed);
        }
        self.nanos += histogram.nanos.load(Ordering::Relaxed);
    }
}
