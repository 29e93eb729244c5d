//! What is shown of a worker: totals copied out of its pipeline a few times a second, and the metrics made of them.

use crate::pipeline::{Counts, DropReason, Loss, Withheld};
use service::metrics::Kind;
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

/// A copy of the worker's numbers.
#[derive(Clone, Default)]
pub(super) struct Shown {
    pub(super) counts: Counts,
    pub(super) dropped_on_purpose: u64,
    pub(super) kernel_drops: u64,
    pub(super) truncated: u64,
    pub(super) queued_errors: u64,
    pub(super) queue_bytes: u64,
    pub(super) reconnects: u64,
    pub(super) inbox_dropped: u64,
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
        self.suppressed += counts.dropped_for(DropReason::Deduplicated)
            + counts.dropped_for(DropReason::DeduplicatedElsewhere);
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

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, labels: &["worker"], help }
}

const W: &[&str] = &["worker"];

static RECEIVED: Metric =
    counter("bsl_frames_received_total", &["worker", "version"], "Datagrams received, by byte 6");
static DROPPED: Metric =
    counter("bsl_frames_dropped_total", &["worker", "reason"], "Datagrams and frames that went no further");
static LOST: Metric =
    counter("bsl_gaps_unrecovered_total", &["worker", "reason"], "Numbers given up, by reason");
static RECOVERY: Metric = Metric {
    name: "bsl_recovery_seconds",
    kind: Kind::Histogram,
    labels: W,
    help: "From the detection of a missing number to its arrival, requested ones",
};
static CLAIM_DECIDED: Metric = counter(
    "bsl_egress_claim_decisions_total",
    &["worker", "why"],
    "Decisions about frames whose id this process had not seen",
);
static CLAIM_REQUESTS: Metric = counter(
    "bsl_egress_claim_requests_total",
    &["worker", "what"],
    "Requests to the shared store: claims (keys), claim_requests, records_read, records_written, released (keys)",
);
static MARK_WITHHELD: Metric = counter(
    "bsl_ingress_mark_withheld_total",
    &["worker", "reason"],
    "Transactions new at the gate of which no courtesy mark is written: unicast (or in another group than its own), \
     unnumbered (V1), repair (or an old number), fragments, late (the worker was)",
);
static CLAIM_PARKED_TIME: Metric = Metric {
    name: "bsl_egress_claim_parked_seconds",
    kind: Kind::Histogram,
    labels: &["worker", "outcome"],
    help: "How long copies were parked: let_go (another listener handed its own over), or went_on (taken over, asked \
           about again, or handed over for want of room or of an answer)",
};
static CLAIM_PARKED: Metric =
    gauge("bsl_egress_claim_parked", "Copies that wait for another listener to settle its claim");

type Read = fn(&Shown) -> u64;

/// Counters with no label but the worker.
static COUNTERS: [(Metric, Read); 49] = [
    (counter("bsl_inbox_dropped_total", W, "Control messages that found the worker's inbox full"), |s| {
        s.inbox_dropped
    }),
    (counter("bsl_frames_forwarded_total", W, "Frames handed to the consumer"), |s| s.counts.delivered),
    (counter("bsl_bytes_forwarded_total", W, "Their bytes on the fabric"), |s| s.counts.delivered_bytes),
    (counter("bsl_frames_invalid_payload_total", W, "Frames whose payload is not that of their id"), |s| {
        s.counts.dropped_for(DropReason::PayloadHash)
    }),
    (counter("bsl_frames_tx_deduped_total", W, "Frames whose id was delivered before"), |s| {
        s.counts.dropped_for(DropReason::Deduplicated)
            + s.counts.dropped_for(DropReason::DeduplicatedElsewhere)
    }),
    (counter("bsl_frames_duplicate_total", W, "Frames under a number that was seen before"), |s| {
        s.counts.duplicates
    }),
    (counter("bsl_sequence_collisions_total", W, "Frames with a new id under a number seen before"), |s| {
        s.counts.collisions
    }),
    (counter("bsl_seq_rebaselines_total", W, "Flows that began anew under their old key"), |s| {
        s.counts.restarts
    }),
    (counter("bsl_jumps_held_total", W, "Jumps held until a second frame confirms them"), |s| {
        s.counts.jumps_held
    }),
    (counter("bsl_flow_mismatch_total", W, "Refused frames that contradict their flow"), |s| {
        s.counts.flow_mismatch
    }),
    (counter("bsl_nack_flows_refused_total", W, "Flows that found the table full"), |s| {
        s.counts.flows_refused
    }),
    (counter("bsl_nack_flows_evicted_total", W, "Flows that left the table"), |s| s.counts.flows_evicted),
    (counter("bsl_gaps_detected_total", W, "Numbers found missing"), |s| s.counts.gaps_detected),
    (counter("bsl_gaps_recovered_total", W, "Requested numbers that came"), |s| s.counts.recovered),
    (counter("bsl_gaps_suppressed_total", W, "Missing numbers that came before they were requested"), |s| {
        s.counts.reordered
    }),
    (counter("bsl_nacks_dispatched_total", W, "Requests sent"), |s| s.counts.nacks),
    (counter("bsl_nack_numbers_total", W, "Numbers named by requests"), |s| s.counts.nack_numbers),
    (counter("bsl_nack_timeouts_total", W, "Requests that timed out"), |s| s.counts.nack_timeouts),
    (counter("bsl_nack_acks_total", W, "ACKs received"), |s| s.counts.acks),
    (counter("bsl_nack_misses_total", W, "MISSes received"), |s| s.counts.misses),
    (counter("bsl_nacks_throttled_total", W, "THROTTLED received"), |s| s.counts.throttled),
    (
        counter(
            "bsl_flows_resumed_total",
            W,
            "Flows that go on where this consumer's listeners were before the start",
        ),
        |s| s.counts.flows_resumed,
    ),
    (
        counter(
            "bsl_flows_without_position_total",
            W,
            "Flows older than the process whose position the store did not have: --catch-up frames are asked for",
        ),
        |s| s.counts.flows_without_position,
    ),
    (counter("bsl_catch_up_numbers_total", W, "Numbers from before the start that were owed"), |s| {
        s.counts.catch_up
    }),
    (counter("bsl_positions_kept_total", W, "Positions written to the shared store"), |s| {
        s.counts.positions_kept
    }),
    (counter("bsl_tail_probes_sent_total", W, "Probes for a flow's next numbers"), |s| s.counts.tail_probes),
    (
        counter(
            "bsl_flows_unconfirmed_total",
            W,
            "Silent flows of which no retry endpoint said whether more was sent",
        ),
        |s| s.counts.flows_unconfirmed,
    ),
    (counter("bsl_digest_entries_total", W, "Entries of flow digests taken"), |s| s.counts.digest_entries),
    (counter("bsl_beacon_adverts_received_total", W, "ADVERTs taken"), |s| s.counts.adverts),
    (counter("bsl_beacon_adverts_rejected_total", W, "ADVERTs refused"), |s| s.counts.adverts_rejected),
    (counter("bsl_reassembly_started_total", W, "Objects whose first fragment came"), |s| {
        s.counts.reassembly_started
    }),
    (counter("bsl_reassembly_completed_total", W, "Objects rebuilt"), |s| s.counts.reassembly_completed),
    (counter("bsl_reassembly_abandoned_total", W, "Objects given up"), |s| s.counts.reassembly_abandoned),
    (counter("bsl_reassembly_hash_mismatch_total", W, "Objects rebuilt to another hash"), |s| {
        s.counts.reassembly_hash_mismatch
    }),
    (counter("bsl_late_fragments_total", W, "Fragments of finished objects"), |s| {
        s.counts.dropped_for(DropReason::LateFragment)
    }),
    (counter("bsl_egress_claim_won_total", W, "Frames that the gate let through"), |s| s.counts.claims_won),
    (counter("bsl_egress_claim_waited_total", W, "Frames that waited for the shared store"), |s| {
        s.counts.claims_waited
    }),
    (counter("bsl_egress_claim_open_total", W, "Frames let through undecided"), |s| s.counts.claims_open),
    (
        counter(
            "bsl_egress_claim_overdue_total",
            W,
            "Frames that waited for the store longer than --cache-op-timeout although the worker had a turn in time: \
             always 0, or a fault",
        ),
        |s| s.counts.claims_overdue,
    ),
    (
        counter(
            "bsl_egress_claim_late_total",
            W,
            "Frames that waited for the store longer than --cache-op-timeout because the worker's turn came late",
        ),
        |s| s.counts.claims_late,
    ),
    (counter("bsl_egress_claim_local_hit_total", W, "Frames whose id this process had seen"), |s| {
        s.counts.dropped_for(DropReason::Deduplicated)
    }),
    (counter("bsl_header_forwarded_total", W, "Block headers emitted"), |s| s.counts.headers),
    (counter("bsl_subtree_group_announces_received_total", W, "Announcements taken"), |s| s.counts.announces),
    (counter("bsl_subtree_group_announces_rejected_total", W, "Announcements refused"), |s| {
        s.counts.announces_rejected
    }),
    (counter("bsl_kernel_drops_total", W, "Datagrams dropped at a full receive queue"), |s| s.kernel_drops),
    (counter("bsl_truncated_total", W, "Datagrams cut because they did not fit"), |s| s.truncated),
    (
        counter(
            "bsl_socket_errors_total",
            W,
            "Errors that the kernel queued on sockets about earlier datagrams (ICMP)",
        ),
        |s| s.queued_errors,
    ),
    (counter("bsl_dropped_on_purpose_total", W, "Datagrams dropped by --inject-loss"), |s| {
        s.dropped_on_purpose
    }),
    (counter("bsl_egress_reconnects_total", W, "Connections to the consumer that were made anew"), |s| {
        s.reconnects
    }),
];

/// Gauges.
static GAUGES: [(Metric, Read); 8] = [
    (gauge("bsl_gaps_open", "Numbers missing now"), |s| s.counts.open_gaps),
    (gauge("bsl_positions_left_out", "Flows that found no place in the positions last written"), |s| {
        s.counts.positions_left_out
    }),
    (gauge("bsl_flows", "Flows tracked now"), |s| s.counts.flows),
    (
        gauge(
            "bsl_flows_unheard",
            "Flows from before the start that still wait for a frame or an endpoint's word",
        ),
        |s| s.counts.flows_unheard,
    ),
    (gauge("bsl_beacon_registry_endpoints", "Endpoints known now"), |s| s.counts.endpoints),
    (gauge("bsl_reassembly_bytes", "Bytes held for incomplete objects"), |s| s.counts.reassembly_bytes),
    (gauge("bsl_claim_waiting_bytes", "Bytes of frames that wait for a claim"), |s| s.counts.waiting_bytes),
    (gauge("bsl_egress_queue_bytes", "Bytes that wait for the consumer"), |s| s.queue_bytes),
];

/// The metrics of the role, for the documentation and its check.
pub(super) fn metrics() -> impl Iterator<Item = &'static Metric> {
    let plain = COUNTERS.iter().chain(&GAUGES).map(|(metric, _)| metric);
    let claims = [&CLAIM_DECIDED, &CLAIM_REQUESTS, &CLAIM_PARKED, &CLAIM_PARKED_TIME, &MARK_WITHHELD];
    let other = [&RECEIVED, &DROPPED, &LOST, &RECOVERY].into_iter().chain(claims);
    other.chain(plain)
}

const VERSIONS: [&str; 10] = ["other", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"];

impl Source for Cells {
    fn collect(&self, sink: &mut Sink<'_>) {
        let shown = self.shown();
        let worker = self.name.as_str();
        for (version, n) in VERSIONS.iter().zip(shown.counts.received_by_version) {
            sink.counter(&RECEIVED, &[worker, version], n);
        }
        for reason in DropReason::ALL {
            sink.counter(&DROPPED, &[worker, reason.name()], shown.counts.dropped_for(reason));
        }
        for reason in Loss::ALL {
            sink.counter(&LOST, &[worker, reason.name()], shown.counts.lost[reason.index()]);
        }
        for reason in Withheld::ALL {
            let count = shown.counts.marks_withheld[reason.index()];
            sink.counter(&MARK_WITHHELD, &[worker, reason.name()], count);
        }
        for (metric, read) in &COUNTERS {
            sink.counter(metric, &[worker], read(&shown));
        }
        for (metric, read) in &GAUGES {
            #[allow(clippy::cast_precision_loss, reason = "a gauge is shown as a float")]
            sink.gauge(metric, &[worker], read(&shown) as f64);
        }
        sink.histogram(&RECOVERY, &[worker], &self.recovery);
        if let Some(claims) = self.claims.get() {
            protocol(sink, worker, claims);
        }
    }
}

fn protocol(sink: &mut Sink<'_>, worker: &str, stats: &ClaimStats) {
    for why in Why::ALL {
        sink.counter(&CLAIM_DECIDED, &[worker, why.label()], stats.by(why).value());
    }
    for (what, count) in stats.requests() {
        sink.counter(&CLAIM_REQUESTS, &[worker, what], count.value());
    }
    #[allow(clippy::cast_precision_loss, reason = "a gauge is shown as a float")]
    sink.gauge(&CLAIM_PARKED, &[worker], stats.parked.value() as f64);
    sink.buckets(&CLAIM_PARKED_TIME, &[worker, "let_go"], (&stats.parked_let_go).into());
    sink.buckets(&CLAIM_PARKED_TIME, &[worker, "went_on"], (&stats.parked_went_on).into());
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_metric_table_is_sound() {
        for metric in super::super::metrics() {
            assert_eq!(metric.fault(), None);
            assert!(metric.name.starts_with("bsl_"));
        }
    }
}
