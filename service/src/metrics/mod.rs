//! Metrics: plain cells on the packet path, folded into one page when somebody asks.
//!
//! [`counters!`](crate::counters) declares what a worker counts and how it is shown: one row for a field, its name, its
//! labels and its help. The worker owns its cells and writes them with a load and a store. A [`Source`] hands their values
//! to a [`Sink`] at scrape; values under the same metric and labels are summed. [`Registry`] holds the sources of a role and
//! makes `/metrics` and the numbers of `/status`.
//!
//! Cold code that has no cells (log suppression, programs that embed a role) counts through the macros of the `metrics`
//! crate. One recorder ([`process_recorder`]) keeps those numbers, and the same encoder shows them behind the tables.
//!
//! Limit: one writer for each cell. Two writers lose counts, they do not corrupt.
//!
//! Order of the modules: [`cells`] hold numbers, [`metric`] says what a number is, [`sink`] folds, [`table`] joins the
//! three; `recorder` serves the facade, `text` writes, [`registry`] is what the rest of the program sees.

pub mod cells;
pub mod metric;
mod recorder;
pub mod registry;
pub mod sink;
pub mod table;
mod text;

pub use cells::{Buckets, Counter, Gauge, Histogram};
pub use metric::{Kind, Metric, markdown};
pub use recorder::{METRICS, process_recorder};
pub use registry::Registry;
pub use sink::{Sink, Source, Value};
pub use table::{Row, Series, Table};

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;

    crate::counters! {
        #[derive(Default)]
        struct Worker {
            depth: Gauge => gauge("t_depth_bytes", [], "Bytes queued. A \\ and a \"quote\".");
            stage: Histogram => histogram("t_stage_seconds", ["stage"], "Time in a stage.")
                = |worker, series| series.put(&["claim"], &worker.stage);
            sent: Counter => counter("t_sent_total", ["worker", "reason"], "Frames sent.")
                = |worker, series| series.put(&["0", worker.reason], &worker.sent);
        } and {
            reason: &'static str,
        }
    }

    fn two_workers() -> (Registry, Arc<Worker>, Arc<Worker>) {
        let (a, b) = (Arc::new(Worker::default()), Arc::new(Worker::default()));
        let registry = Registry::default();
        registry.add(a.clone());
        registry.add(b.clone());
        (registry, a, b)
    }

    fn parse(page: &str) -> crate::exposition::Page {
        crate::exposition::parse(page).unwrap()
    }

    #[test]
    fn series_of_several_sources_are_summed_and_the_page_is_valid() {
        let (registry, a, b) = two_workers();
        a.sent.add(3);
        b.sent.add(4);
        a.depth.set(10);
        b.depth.set(5);
        a.stage.observe(Duration::from_micros(3));
        b.stage.observe(Duration::from_millis(3));
        let series = parse(&registry.render());
        assert_eq!(series["t_sent_total{worker=\"0\",reason=\"\"}"], 7.0);
        assert_eq!(series["t_depth_bytes"], 15.0);
        assert_eq!(series["t_stage_seconds_count{stage=\"claim\"}"], 2.0);
        assert_eq!(series["t_stage_seconds_bucket{stage=\"claim\",le=\"+Inf\"}"], 2.0);
        assert_eq!(series["t_stage_seconds_bucket{stage=\"claim\",le=\"0.000004096\"}"], 1.0);
        assert_eq!(series["t_stage_seconds_bucket{stage=\"claim\",le=\"0.000002048\"}"], 0.0);
        assert!((series["t_stage_seconds_sum{stage=\"claim\"}"] - 0.003003).abs() < 1e-12);
    }

    #[test]
    fn hostile_label_values_are_escaped() {
        let registry = Registry::default();
        registry.add(Arc::new(Worker { reason: "a\"b\\c\nd,e=\"f", ..Worker::default() }));
        let page = registry.render();
        parse(&page);
        assert!(page.contains(r#"reason="a\"b\\c\nd,e=\"f""#), "{page}");
        assert!(page.contains(r#"# HELP t_depth_bytes Bytes queued. A \\ and a "quote"."#), "{page}");
    }

    #[test]
    fn status_tells_the_same_as_json() {
        let (registry, a, _) = two_workers();
        a.sent.add(2);
        a.depth.set(9);
        a.stage.observe(Duration::from_micros(1));
        registry.add_detail("flows", || json!([1, 2]));
        let status = registry.status();
        assert_eq!(status["t_sent_total"][0]["labels"]["worker"], "0");
        assert_eq!(status["t_sent_total"][0]["value"], 2);
        assert_eq!(status["t_depth_bytes"], 9.0);
        assert_eq!(status["t_stage_seconds"][0]["value"]["count"], 1);
        assert_eq!(registry.details()["flows"], json!([1, 2]));
    }

    #[test]
    fn cold_paths_use_the_macros_and_cannot_double_a_table() {
        process_recorder();
        ::metrics::describe_counter!("t_cold_total", "Cold.");
        ::metrics::counter!("t_cold_total", "site" => "x").increment(2);
        ::metrics::gauge!("t_cold_depth").set(-1.5);
        ::metrics::histogram!("t_cold_seconds").record(0.5);
        ::metrics::counter!("t_sent_total", "worker" => "9").increment(1);
        let (registry, ..) = two_workers();
        let page = registry.render();
        let series = parse(&page);
        assert!(page.contains("# HELP t_cold_total Cold.\n# TYPE t_cold_total counter\n"), "{page}");
        assert_eq!(series["t_cold_total{site=\"x\"}"], 2.0);
        assert_eq!(series["t_cold_depth"], -1.5);
        assert_eq!(series["t_cold_seconds_count"], 1.0);
        assert_eq!(series["t_cold_seconds_sum"], 0.5);
        assert!(!series.contains_key("t_sent_total{worker=\"9\"}"));
    }
}
