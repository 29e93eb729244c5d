//! What one worker counted. Plain numbers: the runtime copies them into shared cells after each burst.
//!
//! Every datagram that does not reach a consumer is counted under exactly one reason here.

use super::mark::Withheld;
use frame::Kind;

service::reasons! {
    /// Why a datagram, or a frame, went no further.
    pub enum DropReason {
        /// No decoder took it.
        DecodeError = "decode_error",
        /// A V3 datagram that is no valid fragment.
        FragmentDecodeError = "frag_decode_error",
        /// Its source is excluded or not included.
        SenderFilter = "sender_filter",
        /// Its shard is not included.
        ShardFilter = "shard_filter",
        /// Its subtree is excluded.
        SubtreeExclude = "subtree_exclude",
        /// Its subtree is in no include list and no live announcement.
        SubtreeIncludeMiss = "subtree_include_miss",
        /// V7: emitted by listeners, not received.
        BlockHeader = "block_header",
        /// V8 is not handled yet.
        Bundle = "bundle",
        /// V9 is not handled yet.
        Object = "object",
        /// 0x40 is not handled yet.
        Manifest = "manifest",
        /// A control datagram on a port where it has no meaning.
        UnexpectedControl = "unexpected_control",
        /// The payload does not hash to the id that the header names.
        PayloadHash = "payload_hash",
        /// The block's header does not meet its target.
        BlockPow = "block_pow",
        /// A unicast datagram on the request socket from an address that is no known endpoint.
        UnknownRepairSource = "unknown_repair_source",
        /// A unicast frame that no open gap asked for.
        UnsolicitedRepair = "unsolicited_repair",
        /// A response that matches no request.
        StrayResponse = "stray_response",
        /// A fragment of an object that is complete already.
        LateFragment = "late_fragment",
        /// A fragment whose place is filled already.
        DuplicateFragment = "duplicate_fragment",
        /// A fragment whose length does not fit the grid of its object.
        FragmentGrid = "fragment_grid",
        /// An original of a version that is not rebuilt.
        FragmentVersion = "fragment_version",
        /// An object longer than the limit.
        FragmentTooLong = "fragment_too_long",
        /// The gate saw the id before.
        Deduplicated = "deduplicated",
        /// Another listener of the deployment has it.
        DeduplicatedElsewhere = "deduplicated_elsewhere",
        /// The consumer's queue is full: the newest frame is dropped, its claim released.
        ConsumerQueueFull = "consumer_queue_full",
        /// Longer than a UDP datagram can be; use TCP.
        TooLongForUdp = "too_long_for_udp",
        /// The consumer's socket refused it.
        EgressError = "egress_error",
        /// The process stopped before the consumer took it; its claim is released.
        ConsumerGone = "consumer_gone",
    }
}

service::reasons! {
    /// Why numbers were given up.
    pub enum Loss {
        /// The repair horizon passed.
        Horizon = "horizon",
        /// A jump longer than any endpoint could fill.
        Jump = "jump",
        /// The sender began anew under the same flow key.
        Restart = "restart",
        /// The gap table is full.
        TableFull = "table_full",
        /// The flow left the table with open gaps.
        FlowEvicted = "flow_evicted",
        /// An object that could not be rebuilt.
        Reassembly = "reassembly",
        /// The process stopped.
        Stop = "stop",
        /// Asked for to catch up after the start, and not held any more (`TrackLimits::catch_up`).
        BeforeStart = "before_start",
    }
}

/// Totals of one worker since its start.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Datagrams taken from sockets, after injected loss.
    pub received: u64,
    /// Of those, by byte 6 for data frames (index = version 1..=9, 0 = other).
    pub received_by_version: [u64; 10],
    /// By `DropReason`.
    pub dropped: [u64; DropReason::ALL.len()],
    /// Numbers lost for good, by `Loss`.
    pub lost: [u64; Loss::ALL.len()],
    /// Numbers found missing.
    pub gaps_detected: u64,
    /// Missing numbers that came after they were requested.
    pub recovered: u64,
    /// Missing numbers that came before anyone asked: reordering.
    pub reordered: u64,
    /// Frames under a number that was seen before.
    pub duplicates: u64,
    /// Frames under a number that was seen before, with an id that was not.
    pub collisions: u64,
    /// Flows that began anew under their old key.
    pub restarts: u64,
    /// Jumps held back until a second frame or digest confirms them.
    pub jumps_held: u64,
    /// Untrusted frames whose subtree contradicts their flow.
    pub flow_mismatch: u64,
    /// Flows that found no room in the table.
    pub flows_refused: u64,
    /// Flows that left for others or for their age.
    pub flows_evicted: u64,
    /// Requests sent, and the numbers they named.
    pub nacks: u64,
    /// Numbers named by requests.
    pub nack_numbers: u64,
    /// Requests that got no answer and no frame in time.
    pub nack_timeouts: u64,
    /// Responses taken, by kind.
    pub acks: u64,
    /// See `acks`.
    pub misses: u64,
    /// See `acks`.
    pub throttled: u64,
    /// Probes for a flow's next numbers.
    pub tail_probes: u64,
    /// Flows of which no endpoint said whether more was sent.
    pub flows_unconfirmed: u64,
    /// Digest entries taken.
    pub digest_entries: u64,
    /// ADVERTs taken.
    pub adverts: u64,
    /// ADVERTs refused: table full or undecodable.
    pub adverts_rejected: u64,
    /// Objects begun, finished, given up, and finished with a wrong hash.
    pub reassembly_started: u64,
    /// See `reassembly_started`.
    pub reassembly_completed: u64,
    /// See `reassembly_started`.
    pub reassembly_abandoned: u64,
    /// See `reassembly_started`.
    pub reassembly_hash_mismatch: u64,
    /// Frames that the gate let through.
    pub claims_won: u64,
    /// Frames that wait for tier 2.
    pub claims_waited: u64,
    /// Frames let through without a decision.
    pub claims_open: u64,
    /// Frames handed to the consumer (UDP: taken by the kernel; TCP: acknowledged).
    pub delivered: u64,
    /// Their bytes, header included.
    pub delivered_bytes: u64,
    /// V7 headers emitted.
    pub headers: u64,
    /// Announcements taken and refused.
    pub announces: u64,
    /// See `announces`.
    pub announces_rejected: u64,
    /// Flows that go on where the consumer's listeners were before this process.
    pub flows_resumed: u64,
    /// Flows older than this process whose position nobody kept: a fixed number of frames is asked for.
    pub flows_without_position: u64,
    /// Numbers from before this process that are owed.
    pub catch_up: u64,
    /// Positions written to the shared store.
    pub positions_kept: u64,
    /// Flows that found no place in the positions last written.
    pub positions_left_out: u64,
    /// Open gaps now, in numbers.
    pub open_gaps: u64,
    /// Flows now.
    pub flows: u64,
    /// Flows that only a position names, and that are still being asked about.
    pub flows_unheard: u64,
    /// Endpoints now.
    pub endpoints: u64,
    /// Bytes held for reassembly now.
    pub reassembly_bytes: u64,
    /// Bytes of frames that wait for a claim now.
    pub waiting_bytes: u64,
    /// Frames that waited for the store longer than they may although the worker had a turn in time: none.
    pub claims_overdue: u64,
    /// The same because the worker's turn came late.
    pub claims_late: u64,
    /// Transactions that were new at the gate and are not marked, by `Withheld`.
    pub marks_withheld: [u64; Withheld::ALL.len()],
}

impl Counts {
    /// Counts one drop.
    pub fn drop(&mut self, reason: DropReason) {
        self.dropped[reason.index()] += 1;
    }
    /// Counts numbers that are given up.
    pub fn lose(&mut self, reason: Loss, numbers: u64) {
        let cell = &mut self.lost[reason.index()];
        *cell = cell.saturating_add(numbers);
    }
    /// Numbers given up for whatever reason.
    pub fn lost_total(&self) -> u64 {
        self.lost.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
    /// How often `reason` was counted.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason.index()]
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
