//! Metric families of one scrape, in the data model of the `prometheus` crate.
//!
//! The other modules add samples under the names of `names.rs`; the types and help texts come from
//! there.
//!
//! There is no registry of the `prometheus` crate and no metric object that lives between scrapes.
//! The families of a scrape are built, written and dropped.

use super::names::{Kind, Name};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use std::collections::BTreeMap;

/// Families of samples, by name. A family exists from its first sample on, so a metric that is not
/// observed has no empty family.
#[derive(Debug, Default)]
pub(crate) struct Families(BTreeMap<&'static str, MetricFamily>);

/// The samples of one histogram.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Buckets {
    /// Cumulative counts by upper bound, ascending, without `+Inf`. Cumulative means that a count
    /// includes those of all lower bounds.
    pub(crate) up_to: Vec<(f64, u64)>,
    /// The count of all observations; the bucket `+Inf`.
    pub(crate) count: u64,
    /// The sum of all observations, in the base unit. That is seconds in all histograms of
    /// headcount.
    pub(crate) sum: f64,
}

// === impl Families ===

impl Families {
    /// Adds a sample of a counter or a gauge.
    ///
    /// `labels` are the values of `name.labels`, in the same order.
    ///
    /// A value of `u64` loses precision above 2⁵³, as every value in these formats does. Two
    /// samples with the same labels would both be written, which the formats forbid; the caller
    /// sums before.
    pub(crate) fn add(&mut self, name: &Name, labels: &[&str], value: f64) {
        let mut metric = Metric::default();
        if name.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.push(name, labels, metric);
    }

    /// Adds a histogram. `labels` are the values of `name.labels`, in the same order.
    pub(crate) fn add_histogram(&mut self, name: &Name, labels: &[&str], buckets: &Buckets) {
        let bucket = |(bound, count): &(f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(*count);
            bucket
        };
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.up_to.iter().map(bucket).collect());
        histogram.set_sample_count(buckets.count);
        histogram.set_sample_sum(buckets.sum);
        let mut metric = Metric::default();
        metric.set_histogram(histogram);
        self.push(name, labels, metric);
    }

    /// Adds a sample to its family, which the first sample creates. A wrong number of labels panics
    /// in debug builds; in release builds the surplus is cut.
    fn push(&mut self, name: &Name, labels: &[&str], mut metric: Metric) {
        debug_assert_eq!(name.labels.len(), labels.len(), "{}", name.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        metric.set_label(name.labels.iter().zip(labels).map(pair).collect());
        let family = self.0.entry(name.name).or_insert_with(|| {
            let mut family = MetricFamily::default();
            family.set_name(name.name.to_owned());
            family.set_help(name.help.to_owned());
            family.set_field_type(match name.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family
        });
        family.mut_metric().push(metric);
    }

    /// Returns the families by name, each with its samples in the order in which they were added.
    pub(crate) fn into_families(self) -> impl Iterator<Item = MetricFamily> {
        self.0.into_values()
    }

    /// Returns the families by name, each with its samples by the values of their labels, so that
    /// two scrapes list them in the same order.
    ///
    /// The order of equal samples is kept. The key is allocated once for each sample.
    pub(super) fn sorted(self) -> Vec<MetricFamily> {
        let mut families: Vec<MetricFamily> = self.into_families().collect();
        let values = |metric: &Metric| -> Vec<String> {
            let labels = metric.get_label().iter();
            labels.map(|label| label.value().to_owned()).collect()
        };
        for family in &mut families {
            family.mut_metric().sort_by_cached_key(values);
        }
        families
    }
}
