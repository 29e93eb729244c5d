//! What is shown of a worker: totals copied out of its pipeline a few times a second, and the metrics made of them.

use crate::pipeline::{Counts, DropReason};
use service::ledger::{LossRow, LossSource};
use service::{Histogram, Metric, Sink, Source};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use txidset::Why;
use txidset::stats::ClaimStats;

/// Totals of one worker, for others to read.
pub(super) struct Cells {
    pub(super) name: String,
    shown: Mutex<Shown>,
    pub(super) recovery: Histogram,
    /// Frames given to the consumer's connection lately.
    pub(super) recent: Arc<service::Recent>,
    /// The protocol of the gate, once the worker has one.
    pub(super) claims: OnceLock<Arc<ClaimStats>>,
}

service::counters! {
    /// A copy of the worker's numbers: those of its sockets, and beside them those of its pipeline.
    #[derive(Clone, Default)]
    pub(super) struct Shown {
        pub(super) inbox_dropped: u64 => counter("bsl_inbox_dropped_total", ["worker"], "Control messages that found the worker's inbox full");
        pub(super) kernel_drops: u64 => counter("bsl_kernel_drops_total", ["worker"], "Datagrams dropped at a full receive queue");
        pub(super) truncated: u64 => counter("bsl_truncated_total", ["worker"], "Datagrams cut because they did not fit");
        pub(super) queued_errors: u64 => counter("bsl_socket_errors_total", ["worker"], "Errors that the kernel queued on sockets about earlier datagrams (ICMP)");
        pub(super) dropped_on_purpose: u64 => counter("bsl_dropped_on_purpose_total", ["worker"], "Datagrams dropped by --inject-loss");
        pub(super) reconnects: u64 => counter("bsl_egress_reconnects_total", ["worker"], "Connections to the consumer that were made anew");
        pub(super) queue_bytes: u64 => gauge("bsl_egress_queue_bytes", ["worker"], "Bytes that wait for the consumer");
    } and {
        pub(super) counts: Counts,
    }
}

impl Cells {
    pub(super) fn new(name: String) -> Arc<Cells> {
        Arc::new(Cells {
            recent: Arc::new(service::Recent::new("delivered")),
            name,
            shown: Mutex::default(),
            recovery: Histogram::default(),
            claims: OnceLock::new(),
        })
    }
    /// Shows new numbers. One uncontended lock, a few times a second.
    pub(super) fn show(&self, change: impl FnOnce(&mut Shown)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }
    pub(super) fn shown(&self) -> Shown {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Totals over all workers since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received, after injected loss.
    pub received: u64,
    /// Datagrams dropped by `--inject-loss`.
    pub dropped_on_purpose: u64,
    /// Datagrams that the kernel dropped at a full queue.
    pub kernel_drops: u64,
    /// Frames under a number that was seen before.
    pub duplicates: u64,
    /// Frames whose id the gate had seen.
    pub suppressed: u64,
    /// Numbers found missing.
    pub gaps_detected: u64,
    /// Requested numbers that came.
    pub recovered: u64,
    /// Missing numbers that came unasked.
    pub reordered: u64,
    /// Numbers given up.
    pub lost: u64,
    /// Numbers missing now.
    pub open_gaps: u64,
    /// Requests sent.
    pub nacks: u64,
    /// Frames handed to the consumer.
    pub delivered: u64,
    /// Frames that the consumer's full queue refused.
    pub consumer_queue_full: u64,
    /// Endpoints known (to the worker that knows most).
    pub endpoints: u64,
    /// Bytes that wait for the consumer.
    pub queue_bytes: u64,
}

impl Counters {
    pub(super) fn add(&mut self, shown: &Shown) {
        let counts = &shown.counts;
        self.received += counts.received;
        self.dropped_on_purpose += shown.dropped_on_purpose;
        self.kernel_drops += shown.kernel_drops;
        self.duplicates += counts.duplicates;
        self.suppressed += counts.suppressed();
        self.gaps_detected = self.gaps_detected.saturating_add(counts.gaps_detected);
        self.recovered += counts.recovered;
        self.reordered += counts.reordered;
        self.lost = self.lost.saturating_add(counts.lost_total());
        self.open_gaps += counts.open_gaps;
        self.nacks += counts.nacks;
        self.delivered += counts.delivered;
        self.consumer_queue_full += counts.dropped_for(DropReason::ConsumerQueueFull);
        self.endpoints = self.endpoints.max(counts.endpoints);
        self.queue_bytes += shown.queue_bytes;
    }
}

service::counters! {
    /// The time that a repair takes.
    static RECOVERY: Table of Histogram {
        => histogram("bsl_recovery_seconds", ["worker"], "From the detection of a missing number to its arrival, requested ones") = |recovery| recovery;
    }
}

service::counters! {
    /// The claim protocol of the gate.
    static CLAIMS: Table of ClaimStats {
        => counter("bsl_egress_claim_decisions_total", ["worker", "why"], "Decisions about frames whose id this process had not seen")
            = |stats, series| for why in Why::ALL {
                series.put(&[why.label()], stats.by(why).value());
            };
        => counter("bsl_egress_claim_requests_total", ["worker", "what"], "Requests to the shared store: claims (keys), claim_requests, records_read, records_written, released (keys)")
            = |stats, series| for (what, count) in stats.requests() {
                series.put(&[what], count.value());
            };
        => gauge("bsl_egress_claim_parked", ["worker"], "Copies that wait for another listener to settle its claim") = |stats| stats.parked.value();
        => histogram("bsl_egress_claim_parked_seconds", ["worker", "outcome"], "How long copies were parked: let_go (another listener handed its own over), or went_on (taken over, asked about again, or handed over for want of room or of an answer)")
            = |stats, series| {
                series.put(&["let_go"], &stats.parked_let_go);
                series.put(&["went_on"], &stats.parked_went_on);
            };
    }
}

impl LossSource for Cells {
    fn losses(&self, rows: &mut Vec<LossRow>) {
        self.shown().counts.losses(rows);
    }
}

/// The metrics of a worker, for the documentation and its check.
pub(super) fn metrics() -> impl Iterator<Item = &'static Metric> {
    let counted = Counts::TABLE.metrics().chain(Shown::TABLE.metrics());
    counted.chain(RECOVERY.metrics()).chain(CLAIMS.metrics())
}

impl Source for Cells {
    fn collect(&self, sink: &mut Sink<'_>) {
        let shown = self.shown();
        let worker = [("worker", self.name.as_str())];
        let sink = &mut sink.with(&worker);
        shown.counts.collect(sink);
        shown.collect(sink);
        RECOVERY.collect(&self.recovery, sink);
        if let Some(claims) = self.claims.get() {
            CLAIMS.collect(claims, sink);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, types and labels as they have been shown since the counters were edited in three places each.
    #[test]
    fn no_series_of_the_page_is_lost() {
        let cells = Cells::new("0".to_owned());
        assert!(cells.claims.set(Arc::default()).is_ok());
        let registry = service::Registry::default();
        registry.add(cells);
        registry.add(Arc::new(super::super::control::ControlCells::default()));
        let page = registry.render();
        service::exposition::parse(&page).unwrap();
        let shown = include_str!("../../../tests/data/metrics/listener.txt");
        assert_eq!(service::exposition::missing(&page, shown), <[&str; 0]>::default());
    }

    #[test]
    fn the_metric_table_is_sound() {
        for metric in super::super::metrics() {
            assert_eq!(metric.fault(), None);
            assert!(metric.name.starts_with("bsl_"));
        }
    }
}
