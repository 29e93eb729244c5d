//! What one worker counts, and how it is shown. Plain cells with one writer; folded when somebody asks.

use crate::drops::DropReason;
use crate::variants::Limited;
use frame::{GroupIndex, Id, Kind, ShardBits};
use service::ledger::{LossRow, LossSource};
use service::metrics::{Counter, Gauge, Histogram};
use service::{Ledger, Sum};
use std::sync::Arc;
use std::time::Instant;
use txidset::Why;

/// Kinds that ingress accepts, in the order of their counters.
pub const KINDS: [Kind; 6] =
    [Kind::LegacyTx, Kind::Tx, Kind::Block, Kind::Subtree, Kind::Anchor, Kind::SubtreeGroupAnnounce];

fn kind_index(kind: Kind) -> usize {
    KINDS.iter().position(|known| *known == kind).unwrap_or(1)
}

/// Upper bounds of the train length buckets.
pub const TRAIN_BUCKETS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Frames and bytes of one group.
#[derive(Debug, Default)]
pub struct GroupTally {
    /// Frames handed to the planner.
    pub packets: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

service::counters! {
    /// Cells of one worker.
    #[derive(Debug)]
    pub struct Tally {
        pub packets_received: Counter => counter("bsp_packets_received_total", ["worker"], "Datagrams taken from the UDP port.");
        pub bytes_received: Counter => counter("bsp_bytes_received_total", ["worker"], "Bytes of those datagrams.");
        pub tcp_messages: Counter => counter("bsp_tcp_messages_total", ["worker"], "Messages cut out of TCP streams.");
        accepted: [Counter; KINDS, name] => counter("bsp_frames_accepted_total", ["worker", "frame_type"], "Frames that passed every check.");
        => counter("bsp_packets_dropped_total", ["worker", "reason"], "Frames dropped, and why. Losses while sending count once for each interface.") = |tally, series| tally.ledger.put(series);
        deduped: [Counter; KINDS, name] => counter("bsp_ingress_deduped_total", ["worker", "frame_type"], "Frames suppressed: their id was forwarded before.");
        limited: [Counter; Limited::ALL, name] => counter("bsp_variants_limited_total", ["worker", "reason"], "Frames beyond --variants of their id: cut (a transaction, left in standard form) or refused (claimed by its id alone), for their source or their id.");
        pub seen_locally: Counter = "seen", pub new_locally: Counter = "new" => counter("bsp_txid_claim_local_total", ["worker", "result"], "What this process alone knew about an id: seen or new.");
        pub released: Counter => counter("bsp_txid_claim_released_total", ["worker"], "Claims released because their frame could not be sent.");
        wait_time: [Histogram; Why::ALL, label] => histogram("bsp_txid_claim_wait_seconds", ["why"], "Time from claim to decision of frames that waited, parking included, by what was decided.");
        pub emitted: Counter => counter("bsp_packets_planned_total", ["worker"], "Frames planned to leave; fragments count one by one.");
        pub parts: Counter => counter("bsp_frame_parts_total", ["worker"], "Datagrams that frames become beyond one for each: fragments, and one more for each further interface.");
        => counter("bsp_packets_forwarded_total", ["worker"], "Frames taken by the kernel; fragments count one by one. With several interfaces: the mean of them.") = |tally| tally.forwarded(&tally.handed_over);
        => counter("bsp_bytes_forwarded_total", ["worker"], "Bytes of those frames, without padding.") = |tally| tally.forwarded(&tally.handed_over_bytes);
        pub handed_over: Counter => counter("bsp_packets_handed_over_total", ["worker"], "Frames taken by the kernel, once for each interface.");
        pub left_out: Counter => counter("bsp_packets_left_out_total", ["worker"], "Frames not offered to an interface that had no carrier, while another took them.");
        pub held_bytes: Gauge => gauge("bsp_held_bytes", ["worker"], "Bytes of frames that are not claimed, because no interface can emit.");
        pub handed_over_bytes: Counter => counter("bsp_bytes_handed_over_total", ["worker"], "Their bytes, without padding, once for each interface.");
        pub padding: Counter => counter("bsp_train_padding_bytes_total", ["worker"], "Bytes added so that frames could share trains.");
        train_lengths: [Counter; TRAIN_BUCKETS] => counter("bsp_trains_total", ["worker", "frames"], "Trains by number of frames (upper bound).")
            = |tally, series| for (bound, count) in tally.train_lengths() {
                series.put(&[&bound.to_string()], count);
            };
        => counter("bsp_control_frames_forwarded_total", [], "Frames to control groups.") = |tally| &tally.control.packets;
        pub fragmented: Counter => counter("bsp_frames_fragmented_total", ["worker"], "Frames that were cut into fragments.");
        pub fragments: Counter => counter("bsp_fragments_emitted_total", ["worker"], "Fragments made.");
        pub subtree_roots_ok: Counter => counter("bsp_subtree_root_checks_total", ["result"], "Subtree roots checked.")
            = |tally, series| {
                series.put(&["ok"], &tally.subtree_roots_ok);
                series.put(&["mismatch"], tally.dropped(DropReason::SubtreeRoot));
            };
        => counter("bsp_block_pow_rejected_total", [], "Blocks whose header does not meet its target.") = |tally| tally.dropped(DropReason::BlockPow);
        => counter("bsp_egress_errors_total", [], "Frames that the kernel did not take in time.") = |tally| tally.ledger.lost();
        pub send_blocked: Counter => counter("bsp_send_blocked_total", ["worker"], "Times a send had to wait for room in a socket.");
        pub cut_short: Counter => counter("bsp_frames_cut_short_total", ["worker"], "Large frames given up before their last fragment was made: another one was lost, or the worker stopped. Each is a drop, too.");
        pub backlog_groups: Gauge => gauge("bsp_send_backlog_groups", ["worker"], "Groups with frames that wait because the kernel refused them, counted for each interface.");
        pub oldest_hand_over: Gauge => gauge("bsp_oldest_hand_over_seconds", ["worker"], "Age of the oldest claimed frame that is not handed over on every interface and not given up; 0 for none.") = |tally| tally.oldest_hand_over.get() as f64 / 1e3;
        pub backlog_bytes: Gauge => gauge("bsp_send_backlog_bytes", ["worker"], "Bytes that wait because the kernel refused them.");
        pub slab_bytes: Gauge => gauge("bsp_slab_bytes", ["worker"], "Bytes of frames that wait for the shared store.");
        pub slab_frames: Gauge => gauge("bsp_slab_frames", ["worker"], "Frames that wait for the shared store.");
        pub slab_overflow: Counter => counter("bsp_slab_overflow_total", ["worker"], "Frames sent undecided because the slab was full.");
        pub flows: Gauge => gauge("bsp_flows", ["worker"], "Flows held.");
        pub flows_evicted: Gauge = "evicted", pub flows_expired: Gauge = "expired", pub flows_retired: Gauge = "retired", pub flow_holes: Gauge = "hole"
            => counter("bsp_flows_ended_total", ["worker", "how"], "Flows that ended: evicted, expired, retired after a refusal, or left with a hole.");
        pub digests: Counter => counter("bsp_flow_digests_total", ["worker"], "Flow digests sent.");
        pub flows_unannounced: Gauge => counter("bsp_flow_last_words_dropped_total", ["worker"], "Retired and evicted flows whose last number was not announced to the end, because there were too many.");
        pub digest_entries: Counter => counter("bsp_flow_digest_entries_total", ["worker"], "Flows announced in digests.");
        pub kernel_drops: Gauge => counter("bsp_kernel_receive_drops_total", ["worker"], "Datagrams that the kernel dropped because the receive queue was full.");
        pub truncated: Gauge => counter("bsp_truncated_total", ["worker"], "Datagrams of the UDP port cut because they did not fit, and dropped.");
        pub queued_errors: Gauge => counter("bsp_socket_errors_total", ["worker"], "Errors that the kernel queued on sockets about earlier datagrams (ICMP).");
        pub gso_refused: Gauge => gauge("bsp_gso_refused", ["worker"], "Interfaces that refused trains, so that frames leave one by one.");
        pub burst_time: Histogram => histogram("bsp_burst_seconds", [], "Time from the end of a receive to the end of the emit that followed.");
    } and {
        /// What was dropped, and what was lost.
        pub ledger: Ledger<DropReason>,
        /// Emit interfaces.
        pub interfaces: Gauge,
        /// Frames sent lately.
        pub recent: Arc<service::Recent>,
        /// Trains of any length.
        pub trains: Counter,
        groups: Vec<GroupTally>,
        control: GroupTally,
        bits: ShardBits,
    }
}

impl LossSource for Tally {
    fn losses(&self, rows: &mut Vec<LossRow>) {
        self.ledger.losses(rows);
    }
}

impl Tally {
    /// All zero.
    pub fn new(bits: ShardBits) -> Tally {
        Tally::noting(bits, Arc::new(service::Recent::new("sent").and(&Limited::DID)))
    }

    /// All zero; frames are noted in `recent`.
    pub fn noting(bits: ShardBits, recent: Arc<service::Recent>) -> Tally {
        let groups = (0..bits.groups()).map(|_| GroupTally::default()).collect();
        Tally::zero(
            Ledger::default(),
            Gauge::default(),
            recent,
            Counter::default(),
            groups,
            GroupTally::default(),
            bits,
        )
    }

    /// From the claim to the decision of frames that waited.
    pub fn wait_time(&self, why: Why) -> &Histogram {
        &self.wait_time[why.index()]
    }

    /// How often something was dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.ledger.count(reason)
    }

    /// Of what was counted once for each interface, the mean of them.
    fn forwarded(&self, handed_over: &Counter) -> u64 {
        handed_over.get() / self.interfaces.get().max(1)
    }

    /// What this worker accepted, and what became of it, when nothing is in hand. A frame counts as the datagrams that it
    /// becomes.
    pub fn sum(&self) -> Sum {
        let all = |cells: &[Counter]| cells.iter().map(Counter::get).sum();
        Sum::new(
            [("accepted", all(&self.accepted)), ("parts", self.parts.get())],
            [
                ("handed over", self.handed_over.get()),
                ("left out", self.left_out.get()),
                ("suppressed", all(&self.deduped)),
                ("lost", self.ledger.lost()),
            ],
        )
    }

    /// Counts a frame beyond the bound of its id's variants, and notes it for `/where`.
    pub(crate) fn limit(&self, now: Instant, limited: Limited, id: &Id) {
        self.limited[limited.index()].add(1);
        let id = id.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        self.recent.note_other(self.recent.moment(now), limited.index(), id);
    }

    /// Cell of frames beyond the bound of their id's variants.
    pub fn limited(&self, limited: Limited) -> &Counter {
        &self.limited[limited.index()]
    }

    /// Cell of accepted frames of a kind.
    pub fn accepted(&self, kind: Kind) -> &Counter {
        &self.accepted[kind_index(kind)]
    }

    /// Cell of suppressed frames of a kind.
    pub fn deduped(&self, kind: Kind) -> &Counter {
        &self.deduped[kind_index(kind)]
    }

    /// Cells of a destination group; all control groups share one.
    pub fn group(&self, group: GroupIndex) -> &GroupTally {
        self.groups.get(usize::from(group.0)).unwrap_or(&self.control)
    }

    /// Cells of the data groups, by index, then those of the control groups.
    pub fn groups(&self) -> (&[GroupTally], &GroupTally) {
        (&self.groups, &self.control)
    }

    /// Shard bits of the data groups.
    pub fn shard_bits(&self) -> ShardBits {
        self.bits
    }

    /// Counts a train.
    pub fn train(&self, frames: u32) {
        self.trains.add(1);
        let bucket = TRAIN_BUCKETS.iter().position(|bound| frames <= *bound);
        self.train_lengths[bucket.unwrap_or(TRAIN_BUCKETS.len() - 1)].add(1);
    }

    /// Trains by length: (upper bound, count).
    pub fn train_lengths(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        TRAIN_BUCKETS.iter().zip(&self.train_lengths).map(|(bound, cell)| (*bound, cell.get()))
    }
}
