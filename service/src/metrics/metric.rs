//! What a metric is: name, type, labels, help. Docs and dashboards are made from this and checked against it.

use std::fmt::Write;

/// A metric, without its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Prometheus name; counters end in `_total`, histograms in `_seconds`.
    pub name: &'static str,
    /// Prometheus type.
    pub kind: Kind,
    /// Names of the labels, in the order in which they are shown.
    pub labels: &'static [&'static str],
    /// One sentence for people, units included.
    pub help: &'static str,
}

/// Prometheus type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from zero at start.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution of durations, in seconds.
    Histogram,
}

impl Kind {
    /// The word of the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

impl Metric {
    /// A metric that only grows.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind: Kind::Counter, labels, help }
    }

    /// A metric that goes up and down.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
        Metric { name, kind: Kind::Gauge, labels, help }
    }

    /// A distribution of durations; values are in seconds.
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Metric {
        Metric { name, kind: Kind::Histogram, labels, help }
    }

    /// What is wrong with the metric under Prometheus' rules for names; `None` when it is fine. For tests over tables.
    pub fn fault(&self) -> Option<String> {
        let name_ok = |name: &str, colon: bool| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':'))
        };
        let fault = |what: &str| Some(format!("{}: {what}", self.name));
        if !name_ok(self.name, true) {
            return fault("not a metric name");
        }
        if (self.kind == Kind::Counter) != self.name.ends_with("_total") {
            return fault("counters, and only counters, end in _total");
        }
        if self.kind == Kind::Histogram && !self.name.ends_with("_seconds") {
            return fault("histograms are in seconds and end in _seconds");
        }
        if self.help.is_empty() || self.help.contains('\n') {
            return fault("help must be one line");
        }
        let label_ok = |l: &&str| name_ok(l, false) && !l.starts_with("__") && *l != "le" && *l != "quantile";
        if !self.labels.iter().all(label_ok) {
            return fault("not a label name");
        }
        None
    }
}

/// Metrics as a Markdown table, for `docs/`.
pub fn markdown<'m>(metrics: impl IntoIterator<Item = &'m Metric>) -> String {
    let mut text = String::from("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n");
    for metric in metrics {
        let Metric { name, kind, labels, help } = *metric;
        let _ = writeln!(text, "| `{name}` | {} | {} | {help} |", kind.as_str(), labels.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_that_breaks_the_naming_rules_is_found() {
        let sent = Metric::counter("t_sent_total", &["worker", "reason"], "Frames sent.");
        let depth = Metric::gauge("t_depth_bytes", &[], "Bytes queued.");
        let stage = Metric::histogram("t_stage_seconds", &["stage"], "Time in a stage.");
        for fine in [&sent, &depth, &stage] {
            assert_eq!(fine.fault(), None);
        }
        assert!(Metric::counter("t_sent", &[], "x").fault().is_some());
        assert!(Metric::gauge("t-depth", &[], "x").fault().is_some());
        assert!(Metric::histogram("t_seconds", &["le"], "x").fault().is_some());
        assert!(markdown([&sent]).contains("| `t_sent_total` | counter | worker, reason | Frames sent. |"));
    }
}
