//! OpenMetrics text, which `prometheus` does not write: <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::fmt::Write;

/// The trace that an observation was made in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) trace_id: String,
    pub(crate) span_id: String,
    pub(crate) value: f64,
    /// Unix time.
    pub(crate) seconds: f64,
}

/// Finds the exemplar of a bucket: by the family's name, the value of its first label, and the bucket's upper bound.
pub(crate) type Exemplars = dyn Fn(&str, &str, f64) -> Option<Exemplar> + Send + Sync;

/// Writes all families, and the end.
pub(crate) fn open_metrics(families: &[MetricFamily], exemplars: Option<&Exemplars>) -> String {
    let mut text = String::with_capacity(64 * 1024);
    for family in families {
        write_family(&mut text, family, exemplars);
    }
    text.push_str("# EOF\n");
    text
}

fn write_family(text: &mut String, family: &MetricFamily, exemplars: Option<&Exemplars>) {
    let kind = family.get_field_type();
    let (name, word) = match kind {
        // A counter's family is named without what its sample ends with.
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
            // A canonical float has a point: `1` and `1.0` would be two series.
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

fn sample(text: &mut String, name: &str, suffix: &str, metric: &Metric, value: f64) {
    let labels = labels(metric.get_label(), None);
    line(text, format_args!("{name}{suffix}{labels} {value}"));
}

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

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

// === impl Exemplar ===

impl std::fmt::Display for Exemplar {
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
