//! Histograms of durations in buckets of powers of two, with one writer each.
//!
//! A duration costs a count of leading zeros and two additions to counters of the same shard.
//! Powers of two need no table, and the metrics show them as bounds in seconds. Sums over shards
//! are taken counter by counter, so a total read while tasks end may lack some of them.

use super::counter;
use std::sync::atomic::{AtomicU64, Ordering};

/// The number of buckets. Bucket `i` counts durations below 2^i × 1,024 ns that no lower bucket
/// counts; the last one counts all longer ones too. The first one ends at about a microsecond, the
/// last bound is 2³⁰ × 1,024 ns, about 18 minutes.
pub(crate) const BUCKETS: usize = 32;

/// A histogram of durations. Only the thread that holds its shard writes it.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// The number of durations in each bucket.
    buckets: [AtomicU64; BUCKETS],
    /// The sum of all durations, in nanoseconds.
    ///
    /// It wraps around after 584 years of summed durations.
    nanos: AtomicU64,
}

/// A sum of histograms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// The number of durations in each bucket.
    pub(crate) buckets: [u64; BUCKETS],
    /// The sum of all durations, in nanoseconds.
    pub(crate) nanos: u64,
}

// === impl Histogram ===

impl Histogram {
    /// Records a duration. Only the thread that holds the shard may call this. A reader may see the
    /// bucket counted before the sum, and the other way round.
    #[inline]
    pub(crate) fn record(&self, nanos: u64) {
        let bucket = (u64::BITS - (nanos >> 10).leading_zeros()) as usize;
        counter::bump(&self.buckets[bucket.min(BUCKETS - 1)]);
        counter::add(&self.nanos, nanos);
    }
}

// === impl Totals ===

impl<'a> FromIterator<&'a Histogram> for Totals {
    /// The loads are relaxed: a histogram has no relation to other data that a reader could rely
    /// on.
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
