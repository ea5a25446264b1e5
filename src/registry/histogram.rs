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

impl<'a> FromIterator<&'a Histogram> for Totals {
    fn from_iter<I: IntoIterator<Item = &'a Histogram>>(histograms: I) -> Self {
        let mut totals = Self::default();
        for histogram in histograms {
            for (total, bucket) in totals.buckets.iter_mut().zip(&histogram.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
            totals.nanos += histogram.nanos.load(Ordering::Relaxed);
        }
        totals
    }
}
