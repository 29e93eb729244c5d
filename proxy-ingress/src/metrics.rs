//! Every metric of the proxy: the names of the Go stack (`bsp_`), and what it lacks.

use crate::drops::DropReason;
use crate::stream_tally::{CloseReason, StreamTally};
use crate::tally::{GroupTally, KINDS, TRAIN_BUCKETS, Tally};
use frame::GroupIndex;
use service::metrics::{Sink, Source};
use std::sync::Arc;
use txidset::stats::ClaimStats;
use txidset::{LocalSet, Why};

service::metric_table! {
    /// Every metric of the proxy.
    pub static METRICS;

    PACKETS_RECEIVED = counter("bsp_packets_received_total", ["worker"], "Datagrams taken from the UDP port.");
    BYTES_RECEIVED = counter("bsp_bytes_received_total", ["worker"], "Bytes of those datagrams.");
    TCP_MESSAGES = counter("bsp_tcp_messages_total", ["worker"], "Messages cut out of TCP streams.");
    TCP_BYTES = counter("bsp_tcp_bytes_received_total", ["worker"], "Bytes taken from TCP streams.");
    TCP_CONNECTIONS = counter("bsp_tcp_connections_total", ["worker"], "TCP connections accepted.");
    TCP_OPEN = gauge("bsp_tcp_connections_open", ["worker"], "TCP connections open now.");
    TCP_CLOSED = counter("bsp_tcp_closed_total", ["worker", "reason"], "TCP connections closed by the proxy, and why.");
    ACCEPTED = counter("bsp_frames_accepted_total", ["worker", "frame_type"], "Frames that passed every check.");
    DROPPED = counter("bsp_packets_dropped_total", ["worker", "reason"], "Frames dropped, and why. Losses while sending count once for each interface.");
    DEDUPED = counter("bsp_ingress_deduped_total", ["worker", "frame_type"], "Frames suppressed: their id was forwarded before.");
    CLAIM_LOCAL_HIT = counter("bsp_txid_claim_local_hit_total", ["prefix"], "Frames suppressed because this process had seen their id.");
    CLAIM_WON = counter("bsp_txid_claim_won_total", ["prefix"], "Frames let through because their id was free, or taken over.");
    CLAIM_LOST = counter("bsp_txid_claim_lost_total", ["prefix"], "Frames suppressed because another node had claimed their id.");
    CLAIM_ERRORS = counter("bsp_txid_claim_errors_total", ["prefix"], "Frames let through undecided: no answer in time, breaker open, or too many waiting.");
    CLAIM_LOCAL = counter("bsp_txid_claim_local_total", ["worker", "result"], "What this process alone knew about an id: seen or new.");
    CLAIM_DECIDED = counter("bsp_txid_claim_decisions_total", ["worker", "why"], "Decisions about frames whose id this process had not seen.");
    CLAIM_RELEASED = counter("bsp_txid_claim_released_total", ["worker"], "Claims released because their frame could not be sent.");
    CLAIM_REQUESTS = counter("bsp_txid_claim_requests_total", ["worker", "what"], "Requests to the shared store: claims (keys), claim_requests, records_read, records_written, released (keys).");
    CLAIM_FENCED = counter("bsp_txid_claim_fenced_total", ["worker"], "Own claims found late, and claimed again before the frame was sent.");
    CLAIM_SLIPPED = counter("bsp_txid_claim_slipped_total", ["worker"], "Answers that belonged to another question.");
    CLAIM_PARKED = gauge("bsp_txid_claim_parked", ["worker"], "Copies that wait for another proxy to settle its claim.");
    CLAIM_PARKED_BYTES = gauge("bsp_txid_claim_parked_bytes", ["worker"], "Their bytes.");
    CLAIM_PARKED_TIME = histogram("bsp_txid_claim_parked_seconds", ["outcome"], "How long copies were parked: let_go (their owner sent its own), or went_on (taken over, asked about again, or sent for want of room or of an answer).");
    CLAIM_WAIT = histogram("bsp_txid_claim_wait_seconds", ["why"], "Time from claim to decision of frames that waited, parking included, by what was decided.");
    CLAIM_LONGEST = gauge("bsp_txid_claim_longest_wait_seconds", ["worker"], "The longest that a frame has waited for an answer about its claim, parking not included.");
    CLAIM_OVERDUE = counter("bsp_txid_claim_overdue_total", ["worker"], "Frames that waited for the store longer than --cache-op-timeout although the worker had a turn in time: always 0, or a fault.");
    CLAIM_LATE = counter("bsp_txid_claim_late_total", ["worker"], "Frames that waited for the store longer than --cache-op-timeout because the worker's turn came late: a busy machine, or a process that was stopped.");
    TIER1_ENTRIES = gauge("bsp_txid_local_entries", [], "Ids remembered in this process.");
    TIER1_CAPACITY = gauge("bsp_txid_local_capacity", [], "Ids that this process can remember.");
    TIER1_EVICTED = counter("bsp_txid_local_evicted_early_total", [], "Ids forgotten before their time because room was needed.");
    TIER1_HORIZON = gauge("bsp_txid_local_horizon_seconds", [], "How far back ids are remembered at the recent rate.");
    FORWARDED = counter("bsp_packets_forwarded_total", ["worker"], "Frames planned to leave; fragments count one by one.");
    FORWARDED_BYTES = counter("bsp_bytes_forwarded_total", ["worker"], "Bytes of those frames, without padding.");
    HANDED_OVER = counter("bsp_packets_handed_over_total", ["worker"], "Frames taken by the kernel, once for each interface.");
    PADDING = counter("bsp_train_padding_bytes_total", ["worker"], "Bytes added so that frames could share trains.");
    TRAINS = counter("bsp_trains_total", ["worker", "frames"], "Trains by number of frames (upper bound).");
    FLOW_PACKETS = counter("bsp_flow_packets_total", ["group"], "Frames by destination group.");
    FLOW_BYTES = counter("bsp_flow_bytes_total", ["group"], "Bytes by destination group.");
    ACTIVE_GROUPS = gauge("bsp_active_groups", [], "Data groups that carried a frame.");
    CONTROL_FRAMES = counter("bsp_control_frames_forwarded_total", [], "Frames to control groups.");
    FRAGMENTED = counter("bsp_frames_fragmented_total", ["worker"], "Frames that were cut into fragments.");
    FRAGMENTS = counter("bsp_fragments_emitted_total", ["worker"], "Fragments made.");
    SUBTREE_ROOTS = counter("bsp_subtree_root_checks_total", ["result"], "Subtree roots checked.");
    POW_REJECTED = counter("bsp_block_pow_rejected_total", [], "Blocks whose header does not meet its target.");
    EGRESS_ERRORS = counter("bsp_egress_errors_total", [], "Frames that the kernel did not take in time.");
    SEND_BLOCKED = counter("bsp_send_blocked_total", ["worker"], "Times a send had to wait for room in a socket.");
    BACKLOG_BYTES = gauge("bsp_send_backlog_bytes", ["worker"], "Bytes that wait because the kernel refused them.");
    SLAB_BYTES = gauge("bsp_slab_bytes", ["worker"], "Bytes of frames that wait for the shared store.");
    SLAB_FRAMES = gauge("bsp_slab_frames", ["worker"], "Frames that wait for the shared store.");
    SLAB_OVERFLOW = counter("bsp_slab_overflow_total", ["worker"], "Frames sent undecided because the slab was full.");
    FLOWS = gauge("bsp_flows", ["worker"], "Flows held.");
    FLOWS_ENDED = counter("bsp_flows_ended_total", ["worker", "how"], "Flows that ended: evicted, expired, retired after a refusal, or left with a hole.");
    DIGESTS = counter("bsp_flow_digests_total", ["worker"], "Flow digests sent.");
    WORDS_DROPPED = counter("bsp_flow_last_words_dropped_total", ["worker"], "Retired and evicted flows whose last number was not announced to the end, because there were too many.");
    DIGEST_ENTRIES = counter("bsp_flow_digest_entries_total", ["worker"], "Flows announced in digests.");
    KERNEL_DROPS = counter("bsp_kernel_receive_drops_total", ["worker"], "Datagrams that the kernel dropped because the receive queue was full.");
    TRUNCATED = counter("bsp_truncated_total", ["worker"], "Datagrams of the UDP port cut because they did not fit, and dropped.");
    QUEUED_ERRORS = counter("bsp_socket_errors_total", ["worker"], "Errors that the kernel queued on sockets about earlier datagrams (ICMP).");
    GSO_REFUSED = gauge("bsp_gso_refused", ["worker"], "Interfaces that refused trains, so that frames leave one by one.");
    BURST_TIME = histogram("bsp_burst_seconds", [], "Time from the end of a receive to the end of the emit that followed.");
    WORKERS = gauge("bsp_workers_active", [], "Workers.");
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
        for (index, worker) in self.workers.iter().enumerate() {
            let label = index.to_string();
            receiving(sink, &label, worker);
            claiming(sink, &label, &worker.tally);
            protocol(sink, &label, &worker.claims);
            as_the_go_stack_counts(sink, &self.prefix, &worker.claims);
            sending(sink, &label, &worker.tally);
            ended(sink, &label, &worker.tally);
        }
        self.groups(sink);
        self.tier1(sink);
        sink.gauge(&WORKERS, &[], self.workers.len() as f64);
    }
}

fn receiving(sink: &mut Sink<'_>, worker: &str, cells: &WorkerCells) {
    let (tally, streams) = (&cells.tally, &cells.streams);
    sink.counter(&PACKETS_RECEIVED, &[worker], tally.packets_received.get());
    sink.counter(&BYTES_RECEIVED, &[worker], tally.bytes_received.get());
    sink.counter(&KERNEL_DROPS, &[worker], tally.kernel_drops.get());
    sink.counter(&TRUNCATED, &[worker], tally.truncated.get());
    sink.counter(&QUEUED_ERRORS, &[worker], tally.queued_errors.get());
    sink.gauge(&GSO_REFUSED, &[worker], tally.gso_refused.get() as f64);
    sink.counter(&TCP_MESSAGES, &[worker], tally.tcp_messages.get());
    sink.counter(&TCP_BYTES, &[worker], streams.bytes.get());
    sink.counter(&TCP_CONNECTIONS, &[worker], streams.accepted.get());
    sink.gauge(&TCP_OPEN, &[worker], streams.open.get() as f64);
    for reason in CloseReason::ALL {
        sink.counter(&TCP_CLOSED, &[worker, reason.name()], streams.closed(reason).get());
    }
    for kind in KINDS {
        sink.counter(&ACCEPTED, &[worker, kind.name()], tally.accepted(kind).get());
        sink.counter(&DEDUPED, &[worker, kind.name()], tally.deduped(kind).get());
    }
    for reason in DropReason::ALL {
        sink.counter(&DROPPED, &[worker, reason.name()], tally.dropped(reason).get());
    }
    sink.counter(&SUBTREE_ROOTS, &["ok"], tally.subtree_roots_ok.get());
    sink.counter(&SUBTREE_ROOTS, &["mismatch"], tally.dropped(DropReason::SubtreeRoot).get());
    sink.counter(&POW_REJECTED, &[], tally.dropped(DropReason::BlockPow).get());
}

fn claiming(sink: &mut Sink<'_>, worker: &str, tally: &Tally) {
    sink.counter(&CLAIM_LOCAL, &[worker, "seen"], tally.seen_locally.get());
    sink.counter(&CLAIM_LOCAL, &[worker, "new"], tally.new_locally.get());
    sink.counter(&CLAIM_RELEASED, &[worker], tally.released.get());
    for why in Why::ALL {
        sink.histogram(&CLAIM_WAIT, &[why.label()], tally.wait_time(why));
    }
    sink.gauge(&SLAB_BYTES, &[worker], tally.slab_bytes.get() as f64);
    sink.gauge(&SLAB_FRAMES, &[worker], tally.slab_frames.get() as f64);
    sink.counter(&SLAB_OVERFLOW, &[worker], tally.slab_overflow.get());
}

fn protocol(sink: &mut Sink<'_>, worker: &str, stats: &ClaimStats) {
    for (what, count) in stats.requests() {
        sink.counter(&CLAIM_REQUESTS, &[worker, what], count.value());
    }
    for why in Why::ALL {
        sink.counter(&CLAIM_DECIDED, &[worker, why.label()], stats.by(why).value());
    }
    sink.gauge(&CLAIM_LONGEST, &[worker], stats.longest_wait.value() as f64 / 1e6);
    sink.counter(&CLAIM_OVERDUE, &[worker], stats.overdue.value());
    sink.counter(&CLAIM_LATE, &[worker], stats.late.value());
    sink.counter(&CLAIM_FENCED, &[worker], stats.fenced.value());
    sink.counter(&CLAIM_SLIPPED, &[worker], stats.slipped.value());
    sink.gauge(&CLAIM_PARKED, &[worker], stats.parked.value() as f64);
    sink.gauge(&CLAIM_PARKED_BYTES, &[worker], stats.parked_bytes.value() as f64);
    sink.buckets(&CLAIM_PARKED_TIME, &["let_go"], (&stats.parked_let_go).into());
    sink.buckets(&CLAIM_PARKED_TIME, &["went_on"], (&stats.parked_went_on).into());
}

fn as_the_go_stack_counts(sink: &mut Sink<'_>, prefix: &str, stats: &ClaimStats) {
    let won = [Why::Won, Why::TakenOver].iter().map(|why| stats.by(*why).value()).sum();
    sink.counter(&CLAIM_LOCAL_HIT, &[prefix], stats.seen.value());
    sink.counter(&CLAIM_WON, &[prefix], won);
    sink.counter(&CLAIM_LOST, &[prefix], stats.suppressed());
    sink.counter(&CLAIM_ERRORS, &[prefix], stats.won() - won);
}

fn sending(sink: &mut Sink<'_>, worker: &str, tally: &Tally) {
    sink.counter(&FORWARDED, &[worker], tally.emitted.get());
    sink.counter(&FORWARDED_BYTES, &[worker], tally.emitted_bytes.get());
    sink.counter(&HANDED_OVER, &[worker], tally.handed_over.get());
    sink.counter(&PADDING, &[worker], tally.padding.get());
    for ((_, count), bound) in tally.train_lengths().zip(TRAIN_BUCKETS) {
        sink.counter(&TRAINS, &[worker, &bound.to_string()], count);
    }
    sink.counter(&FRAGMENTED, &[worker], tally.fragmented.get());
    sink.counter(&FRAGMENTS, &[worker], tally.fragments.get());
    let lost = [DropReason::SendRefused, DropReason::BacklogFull, DropReason::WriteError];
    sink.counter(&EGRESS_ERRORS, &[], lost.iter().map(|reason| tally.dropped(*reason).get()).sum());
    sink.counter(&SEND_BLOCKED, &[worker], tally.send_blocked.get());
    sink.gauge(&BACKLOG_BYTES, &[worker], tally.backlog_bytes.get() as f64);
    sink.histogram(&BURST_TIME, &[], &tally.burst_time);
}

fn ended(sink: &mut Sink<'_>, worker: &str, tally: &Tally) {
    sink.gauge(&FLOWS, &[worker], tally.flows.get() as f64);
    sink.counter(&FLOWS_ENDED, &[worker, "evicted"], tally.flows_evicted.get());
    sink.counter(&FLOWS_ENDED, &[worker, "expired"], tally.flows_expired.get());
    sink.counter(&FLOWS_ENDED, &[worker, "retired"], tally.flows_retired.get());
    sink.counter(&FLOWS_ENDED, &[worker, "hole"], tally.flow_holes.get());
    sink.counter(&DIGESTS, &[worker], tally.digests.get());
    sink.counter(&DIGEST_ENTRIES, &[worker], tally.digest_entries.get());
    sink.counter(&WORDS_DROPPED, &[worker], tally.flows_unannounced.get());
}

impl Proxy {
    /// Groups that never carried a frame have no series.
    fn groups(&self, sink: &mut Sink<'_>) {
        let Some(groups) = self.workers.first().map(|worker| worker.tally.groups().0.len()) else { return };
        let mut active = 0;
        for group in 0..groups {
            let of = |cell: fn(&GroupTally) -> u64| -> u64 {
                self.workers.iter().filter_map(|worker| worker.tally.groups().0.get(group)).map(cell).sum()
            };
            let (packets, bytes) = (of(|tally| tally.packets.get()), of(|tally| tally.bytes.get()));
            if packets > 0 {
                active += 1;
                let label = format!("{group:04x}");
                sink.counter(&FLOW_PACKETS, &[&label], packets);
                sink.counter(&FLOW_BYTES, &[&label], bytes);
            }
        }
        sink.gauge(&ACTIVE_GROUPS, &[], f64::from(active));
        let control =
            self.workers.iter().map(|worker| worker.tally.group(GroupIndex::BEACON).packets.get()).sum();
        sink.counter(&CONTROL_FRAMES, &[], control);
    }

    fn tier1(&self, sink: &mut Sink<'_>) {
        let Some(local) = &self.local else { return };
        sink.gauge(&TIER1_ENTRIES, &[], local.len() as f64);
        sink.gauge(&TIER1_CAPACITY, &[], local.capacity() as f64);
        sink.counter(&TIER1_EVICTED, &[], local.evicted_early());
        let horizon = local.effective_horizon(std::time::Instant::now());
        sink.gauge(&TIER1_HORIZON, &[], horizon.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::METRICS;

    #[test]
    fn every_metric_has_a_name_of_its_own_that_prometheus_takes() {
        let faults: Vec<String> = METRICS.iter().filter_map(|metric| metric.fault()).collect();
        assert!(faults.is_empty(), "{faults:?}");
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
