//! From folded values to Prometheus text 0.0.4. The text itself is written by the encoder of the `prometheus` crate.
//!
//! Limit: Prometheus and the encoder keep every value as a double, so a count above 2^53 is rounded. `/status` shows it whole.

use super::metric::Kind;
use super::sink::{Family, Value};
use prometheus::TextEncoder;
use prometheus::proto::{self, Bucket, LabelPair, MetricFamily, MetricType};

/// The page.
pub(super) fn render(families: impl Iterator<Item = MetricFamily>) -> String {
    let mut families: Vec<_> = families.collect();
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut page = String::with_capacity(4096);
    if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut page) {
        // Only a family without a name or without a series is refused, and there is none.
        debug_assert!(false, "{error}");
        crate::limited!(error, 1, "the metrics page is incomplete: {error}");
    }
    page
}

/// A family of a table.
pub(super) fn family(family: &Family) -> MetricFamily {
    let metric = family.metric;
    let series = family.series.iter().map(|(labels, value)| {
        let names = metric.labels.iter().copied();
        series(names.zip(labels.iter().map(String::as_str)), metric.kind, value)
    });
    named(metric.name, metric.kind, metric.help, series.collect())
}

/// A family of these series; they must be of this kind.
pub(super) fn named(name: &str, kind: Kind, help: &str, series: Vec<proto::Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(match kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(series);
    family
}

/// One series: labels and value.
pub(super) fn series<'l>(
    labels: impl Iterator<Item = (&'l str, &'l str)>,
    kind: Kind,
    value: &Value,
) -> proto::Metric {
    let mut series = proto::Metric::from_label(labels.map(label).collect());
    match (kind, value) {
        (_, Value::Histogram(buckets)) => series.set_histogram(histogram(buckets)),
        (Kind::Counter, value) => {
            let mut counter = proto::Counter::default();
            counter.set_value(real(value));
            series.set_counter(counter);
        }
        (_, value) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(real(value));
            series.set_gauge(gauge);
        }
    }
    series
}

fn label((name, value): (&str, &str)) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(name.to_owned());
    label.set_value(value.to_owned());
    label
}

fn real(value: &Value) -> f64 {
    match value {
        Value::Whole(n) => *n as f64,
        Value::Time(time) => time.as_secs_f64(),
        Value::Real(value) => *value,
        Value::Histogram(buckets) => buckets.count() as f64,
    }
}

fn histogram(buckets: &super::cells::Buckets) -> proto::Histogram {
    let bucket = |(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.cumulative().map(bucket).collect());
    histogram.set_sample_count(buckets.count());
    histogram.set_sample_sum(buckets.sum().as_secs_f64());
    histogram
}
