//! What one worker counted, and how it is shown. Plain numbers: the runtime copies them into shared cells after each burst.
//!
//! Every datagram that does not reach a consumer is counted under exactly one reason here.

use super::mark::Withheld;
use frame::Kind;
use service::Sum;
use service::ledger::{self, Ledger, LossRow, LossSource};

service::reasons! {
    /// Why a datagram, or a frame, went no further.
    pub enum DropReason {
        /// No decoder took it.
        keeps DecodeError = "decode_error",
        /// A V3 datagram that is no valid fragment.
        keeps FragmentDecodeError = "frag_decode_error",
        /// Its source is excluded or not included.
        keeps SenderFilter = "sender_filter",
        /// Its shard is not included.
        keeps ShardFilter = "shard_filter",
        /// Its subtree is excluded.
        keeps SubtreeExclude = "subtree_exclude",
        /// Its subtree is in no include list and no live announcement.
        keeps SubtreeIncludeMiss = "subtree_include_miss",
        /// V7: emitted by listeners, not received.
        keeps BlockHeader = "block_header",
        /// V8 is not handled yet.
        keeps Bundle = "bundle",
        /// V9 is not handled yet.
        keeps Object = "object",
        /// 0x40 is not handled yet.
        keeps Manifest = "manifest",
        /// A control datagram on a port where it has no meaning.
        keeps UnexpectedControl = "unexpected_control",
        /// The payload does not hash to the id that the header names.
        keeps PayloadHash = "payload_hash",
        /// The block's header does not meet its target.
        keeps BlockPow = "block_pow",
        /// A unicast datagram on the request socket from an address that is no known endpoint.
        keeps UnknownRepairSource = "unknown_repair_source",
        /// A unicast frame that no open gap asked for.
        keeps UnsolicitedRepair = "unsolicited_repair",
        /// A response that matches no request.
        keeps StrayResponse = "stray_response",
        /// A fragment of an object that is complete already.
        keeps LateFragment = "late_fragment",
        /// A fragment whose place is filled already.
        keeps DuplicateFragment = "duplicate_fragment",
        /// A fragment whose length does not fit the grid of its object.
        keeps FragmentGrid = "fragment_grid",
        /// An original of a version that is not rebuilt.
        keeps FragmentVersion = "fragment_version",
        /// An object longer than the limit.
        loses FragmentTooLong = "fragment_too_long",
        /// The gate saw the id before.
        keeps Deduplicated = "deduplicated",
        /// Another listener of the deployment has it.
        keeps DeduplicatedElsewhere = "deduplicated_elsewhere",
        /// The consumer's queue is full: the newest frame is dropped, its claim released.
        keeps ConsumerQueueFull = "consumer_queue_full",
        /// Longer than a UDP datagram can be; use TCP.
        loses TooLongForUdp = "too_long_for_udp",
        /// The consumer's socket refused it.
        loses EgressError = "egress_error",
        /// The process stopped before the consumer took it; its claim is released.
        loses ConsumerGone = "consumer_gone",
    }
}

service::reasons! {
    /// Why numbers were given up.
    pub enum Loss {
        /// The repair horizon passed.
        loses Horizon = "horizon",
        /// A jump longer than any endpoint could fill.
        loses Jump = "jump",
        /// The sender began anew under the same flow key.
        loses Restart = "restart",
        /// The gap table is full.
        loses TableFull = "table_full",
        /// The flow left the table with open gaps.
        loses FlowEvicted = "flow_evicted",
        /// An object that could not be rebuilt.
        loses Reassembly = "reassembly",
        /// The process stopped.
        loses Stop = "stop",
        /// Asked for to catch up after the start, and not held any more (`TrackLimits::catch_up`).
        loses BeforeStart = "before_start",
    }
}

service::reasons! {
    /// Byte 6 of a datagram.
    pub(crate) enum Version {
        /// No data frame.
        keeps Other = "other",
        /// A frame without a number.
        keeps V1 = "v1",
        /// A transaction.
        keeps V2 = "v2",
        /// A fragment.
        keeps V3 = "v3",
        /// A block.
        keeps V4 = "v4",
        /// A subtree.
        keeps V5 = "v5",
        /// An anchor.
        keeps V6 = "v6",
        /// A block header.
        keeps V7 = "v7",
        /// A bundle.
        keeps V8 = "v8",
        /// An object.
        keeps V9 = "v9",
    }
}

service::counters! {
    /// Totals of one worker since its start.
    #[derive(Clone, Debug, Default)]
    pub struct Counts {
        pub received_by_version: [u64; Version::ALL] => counter("bsl_frames_received_total", ["worker", "version"], "Datagrams received, by byte 6");
        => counter("bsl_frames_dropped_total", ["worker", "reason"], "Datagrams and frames that went no further") = |counts, series| counts.dropped.put(series);
        pub delivered: u64 => counter("bsl_frames_forwarded_total", ["worker"], "Frames handed to the consumer");
        pub delivered_bytes: u64 => counter("bsl_bytes_forwarded_total", ["worker"], "Their bytes on the fabric");
        => counter("bsl_frames_invalid_payload_total", ["worker"], "Frames whose payload is not that of their id") = |counts| counts.dropped_for(DropReason::PayloadHash);
        => counter("bsl_frames_tx_deduped_total", ["worker"], "Frames whose id was delivered before") = |counts| counts.suppressed();
        pub duplicates: u64 => counter("bsl_frames_duplicate_total", ["worker"], "Frames under a number that was seen before");
        pub collisions: u64 => counter("bsl_sequence_collisions_total", ["worker"], "Frames with a new id under a number seen before");
        pub restarts: u64 => counter("bsl_seq_rebaselines_total", ["worker"], "Flows that began anew under their old key");
        pub jumps_held: u64 => counter("bsl_jumps_held_total", ["worker"], "Jumps held until a second frame confirms them");
        pub flow_mismatch: u64 => counter("bsl_flow_mismatch_total", ["worker"], "Refused frames that contradict their flow");
        pub flows_refused: u64 => counter("bsl_nack_flows_refused_total", ["worker"], "Flows that found the table full");
        pub flows_evicted: u64 => counter("bsl_nack_flows_evicted_total", ["worker"], "Flows that left the table");
        pub gaps_detected: u64 => counter("bsl_gaps_detected_total", ["worker"], "Numbers found missing");
        pub recovered: u64 => counter("bsl_gaps_recovered_total", ["worker"], "Requested numbers that came");
        pub reordered: u64 => counter("bsl_gaps_suppressed_total", ["worker"], "Missing numbers that came before they were requested");
        => counter("bsl_gaps_unrecovered_total", ["worker", "reason"], "Numbers given up, by reason") = |counts, series| counts.lost.put(series);
        pub open_gaps: u64 => gauge("bsl_gaps_open", ["worker"], "Numbers missing now");
        pub nacks: u64 => counter("bsl_nacks_dispatched_total", ["worker"], "Requests sent");
        pub nack_numbers: u64 => counter("bsl_nack_numbers_total", ["worker"], "Numbers named by requests");
        pub nack_timeouts: u64 => counter("bsl_nack_timeouts_total", ["worker"], "Requests that timed out");
        pub acks: u64 => counter("bsl_nack_acks_total", ["worker"], "ACKs received");
        pub misses: u64 => counter("bsl_nack_misses_total", ["worker"], "MISSes received");
        pub throttled: u64 => counter("bsl_nacks_throttled_total", ["worker"], "THROTTLED received");
        pub flows_resumed: u64 => counter("bsl_flows_resumed_total", ["worker"], "Flows that go on where this consumer's listeners were before the start");
        pub flows_without_position: u64 => counter("bsl_flows_without_position_total", ["worker"], "Flows older than the process whose position the store did not have: --catch-up frames are asked for");
        pub catch_up: u64 => counter("bsl_catch_up_numbers_total", ["worker"], "Numbers from before the start that were owed");
        pub positions_kept: u64 => counter("bsl_positions_kept_total", ["worker"], "Positions written to the shared store");
        pub positions_left_out: u64 => gauge("bsl_positions_left_out", ["worker"], "Flows that found no place in the positions last written");
        pub flows: u64 => gauge("bsl_flows", ["worker"], "Flows tracked now");
        pub flows_unheard: u64 => gauge("bsl_flows_unheard", ["worker"], "Flows from before the start that still wait for a frame or an endpoint's word");
        pub tail_probes: u64 => counter("bsl_tail_probes_sent_total", ["worker"], "Probes for a flow's next numbers");
        pub flows_unconfirmed: u64 => counter("bsl_flows_unconfirmed_total", ["worker"], "Silent flows of which no retry endpoint said whether more was sent");
        pub digest_entries: u64 => counter("bsl_digest_entries_total", ["worker"], "Entries of flow digests taken");
        pub adverts: u64 => counter("bsl_beacon_adverts_received_total", ["worker"], "ADVERTs taken");
        pub adverts_rejected: u64 => counter("bsl_beacon_adverts_rejected_total", ["worker"], "ADVERTs refused");
        pub endpoints: u64 => gauge("bsl_beacon_registry_endpoints", ["worker"], "Endpoints known now");
        pub reassembly_started: u64 => counter("bsl_reassembly_started_total", ["worker"], "Objects whose first fragment came");
        pub reassembly_completed: u64 => counter("bsl_reassembly_completed_total", ["worker"], "Objects rebuilt");
        pub reassembly_abandoned: u64 => counter("bsl_reassembly_abandoned_total", ["worker"], "Objects given up");
        pub reassembly_hash_mismatch: u64 => counter("bsl_reassembly_hash_mismatch_total", ["worker"], "Objects rebuilt to another hash");
        pub reassembly_bytes: u64 => gauge("bsl_reassembly_bytes", ["worker"], "Bytes held for incomplete objects");
        => counter("bsl_late_fragments_total", ["worker"], "Fragments of finished objects") = |counts| counts.dropped_for(DropReason::LateFragment);
        pub claims_won: u64 => counter("bsl_egress_claim_won_total", ["worker"], "Frames that the gate let through");
        pub claims_waited: u64 => counter("bsl_egress_claim_waited_total", ["worker"], "Frames that waited for the shared store");
        pub claims_open: u64 => counter("bsl_egress_claim_open_total", ["worker"], "Frames let through undecided");
        pub claims_overdue: u64 => counter("bsl_egress_claim_overdue_total", ["worker"], "Frames that waited for the store longer than --cache-op-timeout although the worker had a turn in time: always 0, or a fault");
        pub claims_late: u64 => counter("bsl_egress_claim_late_total", ["worker"], "Frames that waited for the store longer than --cache-op-timeout because the worker's turn came late");
        pub claims_unsettled_ms: u64 => gauge("bsl_egress_claim_unsettled_seconds", ["worker"], "Age of the oldest epoch of claims that is not settled: about as long as frames wait for the consumer") = |counts| counts.claims_unsettled_ms as f64 / 1e3;
        pub claims_unsettled: u64 => counter("bsl_egress_claim_unsettled_total", ["worker"], "Epochs of claims that were not settled for 2 s: siblings took over what they cover");
        => counter("bsl_egress_claim_local_hit_total", ["worker"], "Frames whose id this process had seen") = |counts| counts.dropped_for(DropReason::Deduplicated);
        pub waiting_bytes: u64 => gauge("bsl_claim_waiting_bytes", ["worker"], "Bytes of frames that wait for a claim");
        pub marks_withheld: [u64; Withheld::ALL] => counter(
            "bsl_ingress_mark_withheld_total",
            ["worker", "reason"],
            "Transactions new at the gate of which no courtesy mark is written: unicast (or in another group than its own), unnumbered (V1), repair (or an old number), fragments, late (the worker was)",
        );
        pub headers: u64 => counter("bsl_header_forwarded_total", ["worker"], "Block headers emitted");
        pub announces: u64 => counter("bsl_subtree_group_announces_received_total", ["worker"], "Announcements taken");
        pub announces_rejected: u64 => counter("bsl_subtree_group_announces_rejected_total", ["worker"], "Announcements refused");
    } and {
        /// Datagrams taken from sockets, after injected loss.
        pub received: u64,
        /// Datagrams and frames that went no further.
        pub dropped: Ledger<DropReason>,
        /// Numbers given up.
        pub lost: Ledger<Loss>,
        /// Datagrams that were control messages, and taken.
        pub control: u64,
        /// Fragments taken into an object.
        pub parts: u64,
        /// Objects put together, right or wrong.
        pub rebuilt: u64,
        /// Entries of digests that the source filter dropped.
        pub entries_dropped: u64,
        /// Frames that passed the checks and whose fate is open: they wait for a claim, or for the consumer.
        pub in_hand: u64,
    }
}

impl Counts {
    /// A datagram or a frame, of which `bytes` are known, goes no further.
    pub fn drop(&mut self, reason: DropReason, bytes: &[u8]) {
        if !reason.loses() {
            return self.dropped.keep(reason, 1);
        }
        let (flow, seq) = frame::datagram::stamped(bytes).map_or((0, 0), |(_, key, seq)| (key.0, seq.0));
        self.dropped.lose(reason, ledger::Loss::numbers(flow, seq, seq).with_bytes(bytes.len() as u64));
    }
    /// Numbers given up for whatever reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.lost()
    }
    /// What came to this worker, and what became of it.
    pub fn sum(&self) -> Sum {
        let dropped = self.dropped.kept() - self.suppressed();
        Sum::new(
            [
                ("received", self.received),
                ("rebuilt", self.rebuilt),
                ("digest entries dropped", self.entries_dropped),
            ],
            [
                ("delivered", self.delivered),
                ("removed copies", self.suppressed()),
                ("filtered or refused", dropped),
                ("lost", self.dropped.lost()),
                ("control", self.control),
                ("fragments", self.parts),
                ("in hand", self.in_hand),
            ],
        )
    }
    /// Frames whose id the gate had seen, here or elsewhere.
    pub fn suppressed(&self) -> u64 {
        self.dropped_for(DropReason::Deduplicated) + self.dropped_for(DropReason::DeduplicatedElsewhere)
    }
    /// How often `reason` was counted.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped.count(reason)
    }
    /// Rows of what was lost here.
    pub fn losses(&self, rows: &mut Vec<LossRow>) {
        self.dropped.losses(rows);
        self.lost.losses(rows);
    }
    pub(crate) fn arrived(&mut self, kind: Option<Kind>) {
        self.received += 1;
        let version = match kind {
            Some(kind) if (kind as usize) < self.received_by_version.len() => kind as usize,
            _ => 0,
        };
        self.received_by_version[version] += 1;
    }
}
