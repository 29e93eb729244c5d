//! What the role counts: one table of metrics (the names of the Go stack, `bre_`, and ours), cells a thread.

use crate::pipeline::admit::Refusal;
use crate::pipeline::answer::BadRequest;
use crate::pipeline::limit::Level;
use crate::pipeline::store::Coverage;
use service::{Counter, Gauge, Sink, Source};
use std::sync::Mutex;

service::metric_table! {
    /// Every metric of the role.
    pub static METRICS;

    RECEIVED = counter("bre_frames_received_total", ["worker"], "Datagrams received from the data groups.");
    RECEIVED_BYTES = counter("bre_bytes_received_total", ["worker"], "Bytes of those datagrams.");
    CACHED = counter("bre_frames_cached_total", ["worker"], "Frames kept.");
    DROPPED = counter("bre_frames_dropped_total", ["worker", "reason"], "Datagrams not kept, by reason.");
    KERNEL_DROPS = counter("bre_kernel_drops_total", ["socket"], "Datagrams the kernel dropped because a socket's queue was full.");
    TRUNCATED = counter("bre_truncated_total", ["worker"], "Datagrams cut by the receive buffer and dropped.");
    QUEUED_ERRORS = counter("bre_socket_errors_total", ["worker"], "Errors that the kernel queued on data and repair sockets about earlier datagrams (ICMP).");
    GSO_REFUSED = gauge("bre_gso_refused", ["worker"], "Interfaces that refused trains, so that repairs leave one by one.");
    INJECTED = counter("bre_injected_loss_total", ["socket"], "Datagrams dropped on purpose (--inject-loss).");
    HITS = counter("bre_cache_hits_total", ["worker"], "Numbers asked for that were here.");
    MISSES = counter("bre_cache_misses_total", ["worker"], "Numbers asked for that were not here.");
    MISMATCHES = counter("bre_hash_mismatches_total", ["worker"], "Stored frames whose payload did not hash to their id.");
    LOG_BYTES = gauge("bre_store_log_bytes", ["worker"], "Bytes of frames in the log.");
    LOG_CAPACITY = gauge("bre_store_log_capacity_bytes", ["worker"], "Bytes the log may hold.");
    PAGES = gauge("bre_store_index_pages", ["worker"], "Index pages in use.");
    PAGES_EVICTED = counter("bre_store_index_evicted_total", ["worker"], "Index pages that left before their frames.");
    SEGMENTS_LEFT = counter("bre_store_segments_left_total", ["worker"], "Segments that left to make room.");
    FLOWS = gauge("bre_store_flows", ["worker"], "Flows known.");
    ANNOUNCED = counter("bre_flows_announced_total", [], "Entries of digests sent about flows whose sender fell silent.");
    UNANNOUNCED = counter("bre_flows_unannounced_total", ["worker", "reason"], "Flows that could not be announced: forgotten for others (--cache-flows), or their last frames had left.");
    HEARD = counter("bre_digest_entries_heard_total", [], "Entries of senders' own digests.");
    HORIZON = gauge("bre_store_horizon_seconds", ["worker"], "Age of the oldest segment.");
    REQUESTS = counter("bre_nack_requests_total", [], "Requests taken.");
    REFUSED = counter("bre_nack_refused_total", ["reason"], "Datagrams on the request port that got no answer.");
    LIMITED = counter("bre_rate_limit_drops_total", ["level"], "Requests and repairs refused by a limit.");
    FORWARDED = counter("bre_nack_forwarded_total", ["worker"], "Requests passed on to the next worker.");
    QUEUE_DROPPED = counter("bre_queue_dropped_total", ["queue"], "Messages refused by a full queue.");
    RETRANSMITS = counter("bre_retransmits_total", ["worker"], "Frames repaired by multicast.");
    RETRANSMIT_BYTES = counter("bre_retransmit_bytes_total", ["worker"], "Bytes of those frames.");
    RETRANSMIT_FAILED = counter("bre_retransmit_failed_total", ["worker"], "Multicast repairs that an interface did not take.");
    DEDUP = counter("bre_retransmit_dedup_total", ["worker"], "Multicast repairs left out because they left a moment ago.");
    UNPROVEN = counter("bre_unicast_unproven_total", ["worker"], "Unicast repairs left out because the address has not proved itself.");
    UNICAST = counter("bre_unicast_retransmits_total", [], "Frames repaired by unicast.");
    RESPONSES = counter("bre_responses_sent_total", ["type"], "Replies sent.");
    RESPONSE_ERRORS = counter("bre_response_send_errors_total", [], "Replies and unicast repairs the kernel refused.");
    ADVERTS = counter("bre_beacon_adverts_sent_total", [], "ADVERTs sent.");
    ADVERT_ERRORS = counter("bre_beacon_errors_total", [], "ADVERTs the kernel refused.");
    PROXY_REQUESTS = counter("bre_proxy_requests_total", [], "Requests sent to upstreams.");
    PROXY_RECOVERED = counter("bre_proxy_recovered_total", [], "Frames that upstreams sent.");
    PROXY_FAILED = counter("bre_proxy_failed_total", ["reason"], "Fetches that ended without a frame.");
    PROXY_COLLAPSED = counter("bre_proxy_inflight_dedup_total", [], "Wishes that joined a fetch under way.");
    PROXY_DROPPED = counter("bre_proxy_queue_dropped_total", [], "Wishes refused because too much was being fetched.");
    SHARED_STORED = counter("bre_shared_stored_total", [], "Frames written to the shared tier.");
    SHARED_ERRORS = counter("bre_cache_errors_total", [], "Operations of the shared tier that failed.");
    SHARED_DROPPED = counter("bre_shared_dropped_total", ["worker"], "Frames not written to the shared tier because its queue was full.");
    SHARED_HITS = counter("bre_shared_hits_total", [], "Numbers found in the shared tier.");
    SHARED_MISSES = counter("bre_shared_misses_total", [], "Numbers not found in the shared tier.");
}

/// Cells of a worker.
#[derive(Default)]
pub(crate) struct WorkerCells {
    pub(crate) name: String,
    pub(crate) received: Counter,
    pub(crate) received_bytes: Counter,
    pub(crate) cached: Counter,
    pub(crate) refused: [Counter; Refusal::ALL.len()],
    pub(crate) duplicate: Counter,
    pub(crate) conflict: Counter,
    pub(crate) oversize: Counter,
    pub(crate) foreign: Counter,
    pub(crate) kernel_drops: Gauge,
    pub(crate) truncated: Gauge,
    pub(crate) queued_errors: Gauge,
    pub(crate) gso_refused: Gauge,
    pub(crate) injected: Gauge,
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) forwarded: Counter,
    pub(crate) queue_dropped: Counter,
    pub(crate) retransmits: Counter,
    pub(crate) retransmit_bytes: Counter,
    pub(crate) retransmit_failed: Counter,
    pub(crate) dedup: Counter,
    pub(crate) limited: [Counter; Level::ALL.len()],
    pub(crate) unproven: Counter,
    pub(crate) shared_dropped: Counter,
    pub(crate) log_bytes: Gauge,
    pub(crate) log_capacity: Gauge,
    pub(crate) pages: Gauge,
    pub(crate) pages_evicted: Gauge,
    pub(crate) segments_left: Gauge,
    pub(crate) mismatches: Gauge,
    pub(crate) flows: Gauge,
    pub(crate) flows_forgotten: Gauge,
    pub(crate) flows_unservable: Gauge,
    pub(crate) horizon_ms: Gauge,
    /// Snapshot for `/status`, renewed each second.
    pub(crate) coverage: Mutex<Vec<Coverage>>,
}

#[allow(clippy::cast_precision_loss, reason = "gauges are f64 for Prometheus")]
fn real(value: u64) -> f64 {
    value as f64
}

impl Source for WorkerCells {
    fn collect(&self, sink: &mut Sink<'_>) {
        let worker = self.name.as_str();
        sink.counter(&RECEIVED, &[worker], self.received.get());
        sink.counter(&RECEIVED_BYTES, &[worker], self.received_bytes.get());
        sink.counter(&CACHED, &[worker], self.cached.get());
        for (reason, count) in Refusal::ALL.iter().zip(&self.refused) {
            sink.counter(&DROPPED, &[worker, reason.name()], count.get());
        }
        let puts = [
            ("duplicate", &self.duplicate),
            ("conflict", &self.conflict),
            ("oversize", &self.oversize),
            ("foreign_group", &self.foreign),
        ];
        for (reason, count) in puts {
            sink.counter(&DROPPED, &[worker, reason], count.get());
        }
        sink.counter(&KERNEL_DROPS, &["data"], self.kernel_drops.get());
        sink.counter(&TRUNCATED, &[worker], self.truncated.get());
        sink.counter(&QUEUED_ERRORS, &[worker], self.queued_errors.get());
        sink.gauge(&GSO_REFUSED, &[worker], real(self.gso_refused.get()));
        sink.counter(&INJECTED, &["data"], self.injected.get());
        sink.counter(&HITS, &[worker], self.hits.get());
        sink.counter(&MISSES, &[worker], self.misses.get());
        sink.counter(&MISMATCHES, &[worker], self.mismatches.get());
        sink.gauge(&LOG_BYTES, &[worker], real(self.log_bytes.get()));
        sink.gauge(&LOG_CAPACITY, &[worker], real(self.log_capacity.get()));
        sink.gauge(&PAGES, &[worker], real(self.pages.get()));
        sink.counter(&PAGES_EVICTED, &[worker], self.pages_evicted.get());
        sink.counter(&SEGMENTS_LEFT, &[worker], self.segments_left.get());
        sink.gauge(&FLOWS, &[worker], real(self.flows.get()));
        sink.counter(&UNANNOUNCED, &[worker, "forgotten"], self.flows_forgotten.get());
        sink.counter(&UNANNOUNCED, &[worker, "unservable"], self.flows_unservable.get());
        sink.gauge(&HORIZON, &[worker], real(self.horizon_ms.get()) / 1e3);
        sink.counter(&FORWARDED, &[worker], self.forwarded.get());
        sink.counter(&QUEUE_DROPPED, &["worker_out"], self.queue_dropped.get());
        sink.counter(&RETRANSMITS, &[worker], self.retransmits.get());
        sink.counter(&RETRANSMIT_BYTES, &[worker], self.retransmit_bytes.get());
        sink.counter(&RETRANSMIT_FAILED, &[worker], self.retransmit_failed.get());
        sink.counter(&DEDUP, &[worker], self.dedup.get());
        sink.counter(&UNPROVEN, &[worker], self.unproven.get());
        for (level, count) in Level::ALL.iter().zip(&self.limited) {
            sink.counter(&LIMITED, &[level.name()], count.get());
        }
        sink.counter(&SHARED_DROPPED, &[worker], self.shared_dropped.get());
    }
}

/// Cells of the door.
#[derive(Default)]
pub(crate) struct DoorCells {
    pub(crate) requests: Counter,
    pub(crate) refused: [Counter; BadRequest::ALL.len()],
    pub(crate) limited: [Counter; Level::ALL.len()],
    pub(crate) queue_dropped: Counter,
    pub(crate) unicast: Counter,
    pub(crate) acks: Counter,
    pub(crate) misses: Counter,
    pub(crate) throttled: Counter,
    pub(crate) errors: Counter,
    pub(crate) kernel_drops: Gauge,
    pub(crate) injected: Gauge,
}

impl Source for DoorCells {
    fn collect(&self, sink: &mut Sink<'_>) {
        sink.counter(&REQUESTS, &[], self.requests.get());
        for (reason, count) in BadRequest::ALL.iter().zip(&self.refused) {
            sink.counter(&REFUSED, &[reason.name()], count.get());
        }
        for (level, count) in Level::ALL.iter().zip(&self.limited) {
            sink.counter(&LIMITED, &[level.name()], count.get());
        }
        sink.counter(&QUEUE_DROPPED, &["request"], self.queue_dropped.get());
        sink.counter(&UNICAST, &[], self.unicast.get());
        sink.counter(&RESPONSES, &["ack"], self.acks.get());
        sink.counter(&RESPONSES, &["miss"], self.misses.get());
        sink.counter(&RESPONSES, &["throttled"], self.throttled.get());
        sink.counter(&RESPONSE_ERRORS, &[], self.errors.get());
        sink.counter(&KERNEL_DROPS, &["nack"], self.kernel_drops.get());
        sink.counter(&INJECTED, &["nack"], self.injected.get());
    }
}

/// Cells of the control threads: beacon, upstream, shared tier.
#[derive(Default)]
pub(crate) struct ControlCells {
    pub(crate) adverts: Counter,
    pub(crate) announced: Counter,
    pub(crate) digest_entries: Counter,
    pub(crate) digests_dropped: Counter,
    pub(crate) advert_errors: Counter,
    pub(crate) proxy_requests: Counter,
    pub(crate) proxy_recovered: Counter,
    pub(crate) proxy_timeout: Counter,
    pub(crate) proxy_miss: Counter,
    pub(crate) proxy_collapsed: Counter,
    pub(crate) proxy_dropped: Counter,
    pub(crate) shared_stored: Counter,
    pub(crate) shared_errors: Counter,
    pub(crate) shared_hits: Counter,
    pub(crate) shared_misses: Counter,
}

impl Source for ControlCells {
    fn collect(&self, sink: &mut Sink<'_>) {
        sink.counter(&ADVERTS, &[], self.adverts.get());
        sink.counter(&ANNOUNCED, &[], self.announced.get());
        sink.counter(&HEARD, &[], self.digest_entries.get());
        sink.counter(&QUEUE_DROPPED, &["digest"], self.digests_dropped.get());
        sink.counter(&ADVERT_ERRORS, &[], self.advert_errors.get());
        sink.counter(&PROXY_REQUESTS, &[], self.proxy_requests.get());
        sink.counter(&PROXY_RECOVERED, &[], self.proxy_recovered.get());
        sink.counter(&PROXY_FAILED, &["timeout"], self.proxy_timeout.get());
        sink.counter(&PROXY_FAILED, &["miss"], self.proxy_miss.get());
        sink.counter(&PROXY_COLLAPSED, &[], self.proxy_collapsed.get());
        sink.counter(&PROXY_DROPPED, &[], self.proxy_dropped.get());
        sink.counter(&SHARED_STORED, &[], self.shared_stored.get());
        sink.counter(&SHARED_ERRORS, &[], self.shared_errors.get());
        sink.counter(&SHARED_HITS, &[], self.shared_hits.get());
        sink.counter(&SHARED_MISSES, &[], self.shared_misses.get());
    }
}

/// Totals of one endpoint, for whoever embeds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams received from the data groups.
    pub frames_received: u64,
    /// Frames kept.
    pub frames_stored: u64,
    /// Datagrams not kept because they were here already (repairs of siblings, loops).
    pub duplicates: u64,
    /// Requests taken.
    pub requests: u64,
    /// Numbers asked for that were here.
    pub hits: u64,
    /// Numbers asked for that were not here.
    pub misses: u64,
    /// Frames repaired by multicast.
    pub multicast_repairs: u64,
    /// Frames repaired by unicast.
    pub unicast_repairs: u64,
    /// ACKs sent.
    pub acks_sent: u64,
    /// MISSes sent.
    pub misses_sent: u64,
    /// Refusals by limits.
    pub limited: u64,
    /// Datagrams dropped by the kernel for want of room in a socket's queue.
    pub kernel_drops: u64,
    /// Datagrams dropped on purpose.
    pub injected_loss: u64,
    /// ADVERTs sent.
    pub adverts_sent: u64,
    /// Entries of senders' own digests.
    pub digest_entries_heard: u64,
}

impl Counters {
    pub(crate) fn add_worker(&mut self, cells: &WorkerCells) {
        self.frames_received += cells.received.get();
        self.frames_stored += cells.cached.get();
        self.duplicates += cells.duplicate.get();
        self.hits += cells.hits.get();
        self.misses += cells.misses.get();
        self.multicast_repairs += cells.retransmits.get();
        self.limited += cells.limited.iter().map(Counter::get).sum::<u64>();
        self.kernel_drops += cells.kernel_drops.get();
        self.injected_loss += cells.injected.get();
    }

    pub(crate) fn add_door(&mut self, cells: &DoorCells) {
        self.requests += cells.requests.get();
        self.unicast_repairs += cells.unicast.get();
        self.acks_sent += cells.acks.get();
        self.misses_sent += cells.misses.get();
        self.limited += cells.limited.iter().map(Counter::get).sum::<u64>();
        self.kernel_drops += cells.kernel_drops.get();
        self.injected_loss += cells.injected.get();
    }
}
