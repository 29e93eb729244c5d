//! Every metric of the proxy: the names of the Go stack (`bsp_`), and what it lacks.
//!
//! What the packet path counts stands beside its cells, in [`crate::tally`]; here are the numbers of the claim protocol, of
//! tier 1 and of the role as a whole.

use crate::stream_tally::StreamTally;
use crate::tally::{GroupTally, Tally};
use service::metrics::{Metric, Sink, Source};
use std::sync::Arc;
use std::time::Instant;
use txidset::stats::ClaimStats;
use txidset::{LocalSet, Why};

/// Every metric of the proxy.
pub fn metrics() -> impl Iterator<Item = &'static Metric> {
    let worker = Tally::TABLE.metrics().chain(StreamTally::TABLE.metrics()).chain(CLAIMS.metrics());
    worker.chain(TIER1.metrics()).chain(ROLE.metrics())
}

service::counters! {
    /// The claim protocol of a worker. The first four count as the Go stack does, over all workers.
    static CLAIMS: Table of ClaimStats {
        => counter("bsp_txid_claim_local_hit_total", ["prefix"], "Frames suppressed because this process had seen their id.") = |stats| stats.seen.value();
        => counter("bsp_txid_claim_won_total", ["prefix"], "Frames let through because their id, or their variant of it, was free, or taken over.") = |stats| granted(stats);
        => counter("bsp_txid_claim_lost_total", ["prefix"], "Frames suppressed because another node had claimed their id.") = |stats| stats.suppressed();
        => counter("bsp_txid_claim_errors_total", ["prefix"], "Frames let through undecided: no answer in time, breaker open, or too many waiting.") = |stats| undecided(stats);
        => counter("bsp_txid_claim_decisions_total", ["worker", "why"], "Decisions about frames whose id this process had not seen.")
            = |stats, series| for why in Why::ALL {
                series.put(&[why.label()], stats.by(why).value());
            };
        => counter("bsp_txid_claim_requests_total", ["worker", "what"], "Requests to the shared store: claims (keys), claim_requests, records_read, records_written, released (keys).")
            = |stats, series| for (what, count) in stats.requests() {
                series.put(&[what], count.value());
            };
        => counter("bsp_txid_claim_fenced_total", ["worker"], "Own claims found late, and claimed again before the frame was sent.") = |stats| stats.fenced.value();
        => counter("bsp_txid_claim_slipped_total", ["worker"], "Answers that belonged to another question.") = |stats| stats.slipped.value();
        => gauge("bsp_txid_claim_parked", ["worker"], "Copies that wait for another proxy to settle its claim.") = |stats| stats.parked.value();
        => gauge("bsp_txid_claim_parked_bytes", ["worker"], "Their bytes.") = |stats| stats.parked_bytes.value();
        => histogram("bsp_txid_claim_parked_seconds", ["outcome"], "How long copies were parked: let_go (their owner sent its own), or went_on (taken over, asked about again, or sent for want of room or of an answer).")
            = |stats, series| {
                series.put(&["let_go"], &stats.parked_let_go);
                series.put(&["went_on"], &stats.parked_went_on);
            };
        => gauge("bsp_txid_claim_longest_wait_seconds", ["worker"], "The longest that a frame has waited for an answer about its claim, parking not included.") = |stats| stats.longest_wait.value() as f64 / 1e6;
        => gauge("bsp_txid_claim_unsettled_seconds", ["worker"], "Age of the oldest epoch of claims that is not settled: below a tenth of a second while frames leave at once.") = |stats| stats.unsettled_age.value() as f64 / 1e6;
        => counter("bsp_txid_claim_unsettled_total", ["worker"], "Epochs of claims that were not settled for 2 s: siblings sent what they cover, and what was claimed after them, once more.") = |stats| stats.unsettled_late.value();
        => counter("bsp_txid_claim_overdue_total", ["worker"], "Frames that waited for the store longer than --cache-op-timeout although the worker had a turn in time: always 0, or a fault.") = |stats| stats.overdue.value();
        => counter("bsp_txid_claim_late_total", ["worker"], "Frames that waited for the store longer than --cache-op-timeout because the worker's turn came late: a busy machine, or a process that was stopped.") = |stats| stats.late.value();
    }
}

/// Frames whose claim the store granted.
fn granted(stats: &ClaimStats) -> u64 {
    Why::ALL.into_iter().filter(|why| why.grants()).map(|why| stats.by(why).value()).sum()
}

/// Frames let through without its word. A sum of its own: the worker goes on counting between two reads, so a difference
/// of two sums could fall below zero.
fn undecided(stats: &ClaimStats) -> u64 {
    let sent = Why::ALL.into_iter().filter(|why| why.sends() && !why.grants());
    sent.map(|why| stats.by(why).value()).sum()
}

service::counters! {
    /// Tier 1, which the workers share.
    static TIER1: Table of LocalSet {
        => gauge("bsp_txid_local_entries", [], "Ids remembered in this process.") = |local| local.len();
        => gauge("bsp_txid_local_capacity", [], "Ids that this process can remember.") = |local| local.capacity();
        => counter("bsp_txid_local_evicted_early_total", [], "Ids forgotten before their time because room was needed.") = |local| local.evicted_early();
        => gauge("bsp_txid_local_horizon_seconds", [], "How far back ids are remembered at the recent rate.") = |local| local.effective_horizon(Instant::now());
    }
}

service::counters! {
    /// Over all workers.
    static ROLE: Table of Proxy {
        => counter("bsp_flow_packets_total", ["group"], "Frames by destination group.")
            = |proxy, series| for (group, packets, _) in proxy.active_groups() {
                series.put(&[&group], packets);
            };
        => counter("bsp_flow_bytes_total", ["group"], "Bytes by destination group.")
            = |proxy, series| for (group, _, bytes) in proxy.active_groups() {
                series.put(&[&group], bytes);
            };
        => gauge("bsp_active_groups", [], "Data groups that carried a frame.") = |proxy| proxy.active_groups().count();
        => gauge("bsp_workers_active", [], "Workers.") = |proxy| proxy.workers.len();
    }
}

/// Cells of one worker.
#[derive(Clone, Debug)]
pub struct WorkerCells {
    /// Packet path.
    pub tally: Arc<Tally>,
    /// TCP.
    pub streams: Arc<StreamTally>,
    /// The claim protocol.
    pub claims: Arc<ClaimStats>,
}

/// Folds the cells of all workers.
pub struct Proxy {
    /// By worker.
    pub workers: Vec<WorkerCells>,
    /// Tier 1; `None` where nothing is claimed.
    pub local: Option<Arc<LocalSet>>,
    /// `--txid-dedup-prefix`.
    pub prefix: String,
}

impl Source for Proxy {
    fn collect(&self, sink: &mut Sink<'_>) {
        for (index, WorkerCells { tally, streams, claims }) in self.workers.iter().enumerate() {
            let worker = index.to_string();
            let labels = [("worker", worker.as_str()), ("prefix", self.prefix.as_str())];
            let sink = &mut sink.with(&labels);
            tally.collect(sink);
            streams.collect(sink);
            CLAIMS.collect(claims, sink);
        }
        if let Some(local) = &self.local {
            TIER1.collect(local, sink);
        }
        ROLE.collect(self, sink);
    }
}

impl Proxy {
    /// Index, frames and bytes of each data group that ever carried a frame: the others have no series.
    fn active_groups(&self) -> impl Iterator<Item = (String, u64, u64)> {
        let groups = self.workers.first().map_or(0, |worker| worker.tally.groups().0.len());
        let carried = |group: usize, cell: fn(&GroupTally) -> u64| -> u64 {
            self.workers.iter().filter_map(|worker| worker.tally.groups().0.get(group)).map(cell).sum()
        };
        let all = (0..groups).map(move |group| {
            let (packets, bytes) =
                (carried(group, |of| of.packets.get()), carried(group, |of| of.bytes.get()));
            (format!("{group:04x}"), packets, bytes)
        });
        all.filter(|(_, packets, _)| *packets > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, types and labels as they have been shown since the counters were edited in three places each.
    #[test]
    fn no_series_of_the_page_is_lost() {
        let bits = frame::ShardBits::new(2).unwrap();
        let worker = WorkerCells {
            tally: Arc::new(Tally::new(bits)),
            streams: Arc::default(),
            claims: Arc::default(),
        };
        worker.tally.group(frame::GroupIndex(0)).packets.add(1);
        let local = Some(Arc::new(LocalSet::new(1 << 10, std::time::Duration::from_secs(60), 1)));
        let registry = service::Registry::default();
        registry.add(Arc::new(Proxy { workers: vec![worker], local, prefix: "bsp:tx:".to_owned() }));
        let page = registry.render();
        service::exposition::parse(&page).unwrap();
        let shown = include_str!("../../tests/data/metrics/proxy.txt");
        assert_eq!(service::exposition::missing(&page, shown), <[&str; 0]>::default());
    }

    #[test]
    fn every_metric_has_a_name_of_its_own_that_prometheus_takes() {
        let faults: Vec<String> = metrics().filter_map(|metric| metric.fault()).collect();
        assert!(faults.is_empty(), "{faults:?}");
        let mut names: Vec<_> = metrics().map(|metric| metric.name).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
