//! What the role counts: one table of metrics (the names of the Go stack, `bre_`, and ours), cells a thread.

use crate::pipeline::RoundCounts;
use crate::pipeline::admit::Refusal;
use crate::pipeline::answer::BadRequest;
use crate::pipeline::limit::Level;
use crate::pipeline::store::Coverage;
use service::{Counter, Gauge, Ledger, Metric, Sum};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Every metric of the role.
pub fn metrics() -> impl Iterator<Item = &'static Metric> {
    // Some are counted by several threads: the first row of a name stands for it.
    let all = WorkerCells::TABLE
        .metrics()
        .chain(NackServerCells::TABLE.metrics())
        .chain(ControlCells::TABLE.metrics());
    let mut seen = HashSet::new();
    all.filter(move |metric| seen.insert(metric.name))
}

service::counters! {
    /// Cells of a worker.
    #[derive(Default)]
    pub(crate) struct WorkerCells {
        pub(crate) received: Counter => counter("bre_frames_received_total", ["worker"], "Datagrams received from the data groups.");
        pub(crate) received_bytes: Counter => counter("bre_bytes_received_total", ["worker"], "Bytes of those datagrams.");
        pub(crate) cached: Counter => counter("bre_frames_cached_total", ["worker"], "Frames kept.");
        => counter("bre_frames_dropped_total", ["worker", "reason"], "Datagrams not kept, by reason.") = |cells, series| cells.ledger.put(series);
        pub(crate) brought: Counter => counter("bre_frames_brought_total", ["worker"], "Frames that the shared tier or an upstream brought, kept or not.");
        pub(crate) kernel_drops: Gauge = "data" => counter("bre_kernel_drops_total", ["socket"], "Datagrams the kernel dropped because a socket's queue was full.");
        pub(crate) truncated: Gauge => counter("bre_truncated_total", ["worker"], "Datagrams cut by the receive buffer and dropped.");
        pub(crate) queued_errors: Gauge => counter("bre_socket_errors_total", ["worker"], "Errors that the kernel queued on data and repair sockets about earlier datagrams (ICMP).");
        pub(crate) gso_refused: Gauge => gauge("bre_gso_refused", ["worker"], "Interfaces that refused trains, so that repairs leave one by one.");
        pub(crate) injected: Gauge = "data" => counter("bre_injected_loss_total", ["socket"], "Datagrams dropped on purpose (--inject-loss).");
        pub(crate) hits: Counter => counter("bre_cache_hits_total", ["worker"], "Numbers asked for that were here.");
        pub(crate) misses: Counter => counter("bre_cache_misses_total", ["worker"], "Numbers asked for that were not here.");
        pub(crate) mismatches: Gauge => counter("bre_hash_mismatches_total", ["worker"], "Stored frames whose payload did not hash to their id.");
        pub(crate) log_bytes: Gauge => gauge("bre_store_log_bytes", ["worker"], "Bytes of frames in the log.");
        pub(crate) log_capacity: Gauge => gauge("bre_store_log_capacity_bytes", ["worker"], "Bytes the log may hold.");
        pub(crate) pages: Gauge => gauge("bre_store_index_pages", ["worker"], "Index pages in use.");
        pub(crate) pages_evicted: Gauge => counter("bre_store_index_evicted_total", ["worker"], "Index pages that left before their frames.");
        pub(crate) segments_left: Gauge => counter("bre_store_segments_left_total", ["worker"], "Segments that left to make room.");
        pub(crate) flows: Gauge => gauge("bre_store_flows", ["worker"], "Flows known.");
        pub(crate) flows_forgotten: Gauge = "forgotten", pub(crate) flows_unservable: Gauge = "unservable"
            => counter("bre_flows_unannounced_total", ["worker", "reason"], "Flows that could not be announced: forgotten for others (--cache-flows), or their last frames had left.");
        pub(crate) horizon_ms: Gauge => gauge("bre_store_horizon_seconds", ["worker"], "Age of the oldest segment.") = |cells| Duration::from_millis(cells.horizon_ms.get());
        pub(crate) forwarded: Counter => counter("bre_nack_forwarded_total", ["worker"], "Requests passed on to the next worker.");
        pub(crate) queue_dropped: Counter = "worker_out" => counter("bre_queue_dropped_total", ["queue"], "Messages refused by a full queue.");
        pub(crate) retransmits: Counter => counter("bre_retransmits_total", ["worker"], "Frames repaired by multicast.");
        pub(crate) retransmit_bytes: Counter => counter("bre_retransmit_bytes_total", ["worker"], "Bytes of those frames.");
        pub(crate) retransmit_failed: Counter => counter("bre_retransmit_failed_total", ["worker"], "Multicast repairs that an interface did not take.");
        pub(crate) dedup: Counter => counter("bre_retransmit_dedup_total", ["worker"], "Multicast repairs left out because they left a moment ago.");
        pub(crate) unproven: Counter => counter("bre_unicast_unproven_total", ["worker"], "Unicast repairs left out because the address has not proved itself.");
        pub(crate) limited: [Counter; Level::ALL] => counter("bre_rate_limit_drops_total", ["level"], "Requests and repairs refused by a limit.");
        pub(crate) shared_dropped: Counter => counter("bre_shared_dropped_total", ["worker"], "Frames not written to the shared tier because its queue was full.");
    } and {
        pub(crate) name: String,
        /// What was not kept.
        pub(crate) ledger: Arc<Ledger<Refusal>>,
        /// Snapshot for `/status`, renewed each second.
        pub(crate) coverage: Mutex<Vec<Coverage>>,
    }
}

service::counters! {
    /// Cells of the NACK server.
    #[derive(Default)]
    pub(crate) struct NackServerCells {
        pub(crate) requests: Counter => counter("bre_nack_requests_total", [], "Requests taken.");
        pub(crate) refused: [Counter; BadRequest::ALL] => counter("bre_nack_refused_total", ["reason"], "Datagrams on the request port that got no answer.");
        pub(crate) limited: [Counter; Level::ALL] => counter("bre_rate_limit_drops_total", ["level"], "Requests and repairs refused by a limit.");
        pub(crate) queue_dropped: Counter = "request" => counter("bre_queue_dropped_total", ["queue"], "Messages refused by a full queue.");
        pub(crate) unicast: Counter => counter("bre_unicast_retransmits_total", [], "Frames repaired by unicast.");
        pub(crate) acks: Counter = "ack", pub(crate) misses: Counter = "miss", pub(crate) throttled: Counter = "throttled"
            => counter("bre_responses_sent_total", ["type"], "Replies sent.");
        pub(crate) errors: Counter => counter("bre_response_send_errors_total", [], "Replies and unicast repairs the kernel refused.");
        pub(crate) kernel_drops: Gauge = "nack" => counter("bre_kernel_drops_total", ["socket"], "Datagrams the kernel dropped because a socket's queue was full.");
        pub(crate) injected: Gauge = "nack" => counter("bre_injected_loss_total", ["socket"], "Datagrams dropped on purpose (--inject-loss).");
    }
}

service::counters! {
    /// Cells of the control threads: beacon, upstream, shared tier.
    #[derive(Default)]
    pub(crate) struct ControlCells {
        pub(crate) adverts: Counter => counter("bre_beacon_adverts_sent_total", [], "ADVERTs sent.");
        pub(crate) announced: Counter => counter("bre_flows_announced_total", [], "Entries of digests sent about flows whose sender fell silent.");
        pub(crate) digest_entries: Counter => counter("bre_digest_entries_heard_total", [], "Entries of senders' own digests.");
        pub(crate) digests_dropped: Counter = "digest" => counter("bre_queue_dropped_total", ["queue"], "Messages refused by a full queue.");
        pub(crate) advert_errors: Counter => counter("bre_beacon_errors_total", [], "ADVERTs the kernel refused.");
        pub(crate) proxy_requests: Counter => counter("bre_proxy_requests_total", [], "Requests sent to upstreams.");
        pub(crate) proxy_recovered: Counter => counter("bre_proxy_recovered_total", [], "Frames that upstreams sent.");
        pub(crate) proxy_timeout: Counter = "timeout", pub(crate) proxy_miss: Counter = "miss"
            => counter("bre_proxy_failed_total", ["reason"], "Fetches that ended without a frame.");
        pub(crate) proxy_collapsed: Counter => counter("bre_proxy_inflight_dedup_total", [], "Wishes that joined a fetch under way.");
        pub(crate) proxy_dropped: Counter => counter("bre_proxy_queue_dropped_total", [], "Wishes refused because too much was being fetched.");
        pub(crate) shared_stored: Counter => counter("bre_shared_stored_total", [], "Frames written to the shared tier.");
        pub(crate) shared_errors: Counter => counter("bre_cache_errors_total", [], "Operations of the shared tier that failed.");
        pub(crate) shared_hits: Counter => counter("bre_shared_hits_total", [], "Numbers found in the shared tier.");
        pub(crate) shared_misses: Counter => counter("bre_shared_misses_total", [], "Numbers not found in the shared tier.");
    }
}

impl WorkerCells {
    /// What came to this worker, and what became of it.
    pub(crate) fn sum(&self) -> Sum {
        let (received, brought) = (self.received.get(), self.brought.get());
        let counts = RoundCounts { received, brought, cached: self.cached.get(), ..RoundCounts::default() };
        counts.sum(&self.ledger)
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
        self.duplicates += cells.ledger.count(Refusal::Duplicate);
        self.hits += cells.hits.get();
        self.misses += cells.misses.get();
        self.multicast_repairs += cells.retransmits.get();
        self.limited += cells.limited.iter().map(Counter::get).sum::<u64>();
        self.kernel_drops += cells.kernel_drops.get();
        self.injected_loss += cells.injected.get();
    }

    pub(crate) fn add_nack_server(&mut self, cells: &NackServerCells) {
        self.requests += cells.requests.get();
        self.unicast_repairs += cells.unicast.get();
        self.acks_sent += cells.acks.get();
        self.misses_sent += cells.misses.get();
        self.limited += cells.limited.iter().map(Counter::get).sum::<u64>();
        self.kernel_drops += cells.kernel_drops.get();
        self.injected_loss += cells.injected.get();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, types and labels as they have been shown since the counters were edited in three places each.
    #[test]
    fn no_series_of_the_page_is_lost() {
        let registry = service::Registry::default();
        registry.add_labelled("worker", "0".to_owned(), Arc::new(WorkerCells::default()));
        registry.add(Arc::new(NackServerCells::default()));
        registry.add(Arc::new(ControlCells::default()));
        let page = registry.render();
        service::exposition::parse(&page).unwrap();
        let shown = include_str!("../../../tests/data/metrics/retry.txt");
        assert_eq!(service::exposition::missing(&page, shown), <[&str; 0]>::default());
    }
}
