//! Families as text: in the format of Prometheus, by the encoder of the `prometheus` crate, and as
//! OpenMetrics, for which the crate has no encoder:
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>.
//!
//! The encoder for OpenMetrics writes counters, gauges and histograms, the only types that headcount
//! uses.
//!
//! Both formats have the same samples in the same order. The differences of OpenMetrics: a
//! counter's family has no `_total`, there are units and exemplars, bounds are canonical floats,
//! and the last line is `# EOF`. Samples have no timestamps in either.
//!
//! The whole text is built in memory before it is sent. Its size is bounded because every label is.

use prometheus::TextEncoder;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::fmt::Write;

/// The exemplar of a histogram bucket: an observation, and the span in which it was made.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    /// The trace id as 32 hexadecimal digits.
    pub(crate) trace_id: String,
    /// The span id as 16 hexadecimal digits.
    pub(crate) span_id: String,
    /// The observed value.
    pub(crate) value: f64,
    /// The time of the observation, in Unix time, in seconds.
    pub(crate) seconds: f64,
}

/// A function that finds the exemplar of a bucket.
///
/// Its arguments are the name of the family, the value of its first label, and the upper bound of
/// the bucket, which is infinite for the last one.
pub(crate) type Exemplars = dyn Fn(&str, &str, f64) -> Option<Exemplar> + Send + Sync;

/// Returns all families in the text format of Prometheus.
///
/// The encoder fails only for a family without a name or a sample, and no family is made without a
/// sample.
pub(super) fn prometheus(families: &[MetricFamily]) -> String {
    let text = TextEncoder::new().encode_to_string(families);
    text.expect("each family has a name and a sample")
}

/// Returns all families as OpenMetrics text, closed by the `# EOF` line that the format requires.
///
/// Reserves 64 KiB at once, which is more than most services need.
pub(super) fn open_metrics(families: &[MetricFamily], exemplars: Option<&Exemplars>) -> String {
    let mut text = String::with_capacity(64 * 1024);
    for family in families {
        write_family(&mut text, family, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

/// Writes the descriptor lines of a family, and its samples. The unit is taken from the end of the
/// name, as the format requires a unit to be its suffix.
fn write_family(text: &mut String, family: &MetricFamily, exemplars: Option<&Exemplars>) {
    let kind = family.get_field_type();
    let (name, word) = match kind {
        // OpenMetrics names the family of a counter without the `_total` of its samples.
        MetricType::COUNTER => (family.name().trim_end_matches("_total"), "counter"),
        MetricType::HISTOGRAM => (family.name(), "histogram"),
        _ => (family.name(), "gauge"),
    };
    let help = escape(family.help());
    line(text, format_args!("# TYPE {name} {word}"));
    if let Some(unit) = ["seconds", "bytes"]
        .iter()
        .find(|unit| name.ends_with(&format!("_{unit}")))
    {
        line(text, format_args!("# UNIT {name} {unit}"));
    }
    line(text, format_args!("# HELP {name} {help}"));
    for metric in family.get_metric() {
        match kind {
            MetricType::COUNTER => {
                let value = metric.get_counter().get_value();
                sample(text, name, "_total", metric, value);
            }
            MetricType::HISTOGRAM => write_histogram(text, name, metric, exemplars),
            _ => sample(text, name, "", metric, metric.get_gauge().get_value()),
        }
    }
}

/// Writes the buckets of one label set, then count and sum. Exemplars are looked up by the first
/// label alone, which is the group in the one family that has them.
fn write_histogram(text: &mut String, name: &str, metric: &Metric, exemplars: Option<&Exemplars>) {
    let histogram = metric.get_histogram();
    let first = metric.get_label().first().map_or("", LabelPair::value);
    let finite = histogram
        .get_bucket()
        .iter()
        .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    let all = (f64::INFINITY, histogram.get_sample_count());
    for (bound, count) in finite.chain([all]) {
        let le = if bound.is_finite() {
            // A canonical float has a decimal point. `1` and `1.0` would be different series.
            format!("{bound:?}")
        } else {
            "+Inf".to_owned()
        };
        let labels = labels(metric.get_label(), Some(&le));
        let exemplar = exemplars.and_then(|find| find(name, first, bound));
        let exemplar = exemplar.map_or_else(String::new, |found| found.to_string());
        line(
            text,
            format_args!("{name}_bucket{labels} {count}{exemplar}"),
        );
    }
    let labels = labels(metric.get_label(), None);
    let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
    line(text, format_args!("{name}_count{labels} {count}"));
    line(text, format_args!("{name}_sum{labels} {sum}"));
}

/// Writes one sample. Rust writes a whole number without a decimal point and infinity as `inf`,
/// both of which the format allows for values.
fn sample(text: &mut String, name: &str, suffix: &str, metric: &Metric, value: f64) {
    let labels = labels(metric.get_label(), None);
    line(text, format_args!("{name}{suffix}{labels} {value}"));
}

/// Returns the label set in braces; empty if there are no labels.
///
/// `le` is the bound of a bucket, which is written last.
fn labels(pairs: &[LabelPair], le: Option<&str>) -> String {
    let own = pairs.iter().map(|pair| (pair.name(), pair.value()));
    let all: Vec<String> = own
        .chain(le.map(|le| ("le", le)))
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    if all.is_empty() {
        return String::new();
    }
    format!("{{{}}}", all.join(","))
}

/// Escapes a help text or a label value: backslash, quote and line feed.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Appends a line and its line feed.
fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

// === impl Exemplar ===

impl std::fmt::Display for Exemplar {
    /// Writes what follows a bucket's value, with a leading space. The label set has at most 128
    /// characters by the specification; these two ids take 63.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            trace_id,
            span_id,
            value,
            seconds,
        } = self;
        write!(
            f,
            " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {value} {seconds:.3}"
        )
    }
}
