//! What one scrape gathers: families of samples in the data model of `prometheus`, by the names of this crate.

use super::names::{Kind, Name};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// Families, filled one after the other.
#[derive(Debug, Default)]
pub(crate) struct Families(Vec<MetricFamily>);

/// A histogram's samples: cumulative counts by upper bound, ascending; all; and their sum.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Buckets {
    pub(crate) up_to: Vec<(f64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

// === impl Families ===

impl Families {
    /// Adds a sample of a counter or a gauge.
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

    fn push(&mut self, name: &Name, labels: &[&str], mut metric: Metric) {
        debug_assert_eq!(name.labels.len(), labels.len(), "{}", name.name);
        let pair = |(name, value): (&&str, &&str)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        };
        metric.set_label(name.labels.iter().zip(labels).map(pair).collect());
        // Most samples are of the family that was begun last.
        let known = self.0.iter_mut().rev();
        match known.into_iter().find(|family| family.name() == name.name) {
            Some(family) => family.mut_metric().push(metric),
            None => {
                let mut family = MetricFamily::default();
                family.set_name(name.name.to_owned());
                family.set_help(name.help.to_owned());
                family.set_field_type(match name.kind {
                    Kind::Counter => MetricType::COUNTER,
                    Kind::Gauge => MetricType::GAUGE,
                    Kind::Histogram => MetricType::HISTOGRAM,
                });
                family.mut_metric().push(metric);
                self.0.push(family);
            }
        }
    }

    pub(crate) fn into_families(self) -> Vec<MetricFamily> {
        self.0
    }
}
