//! What one worker counts. Plain cells with one writer; folded when somebody asks.

use crate::drops::DropReason;
use frame::{GroupIndex, Kind, ShardBits};
use service::metrics::{Counter, Gauge, Histogram};
use std::sync::Arc;
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

/// Cells of one worker.
#[derive(Debug)]
pub struct Tally {
    /// Frames sent lately.
    pub recent: Arc<service::Recent>,
    /// Datagrams.
    pub packets_received: Counter,
    /// Their bytes.
    pub bytes_received: Counter,
    /// Messages cut out of TCP streams.
    pub tcp_messages: Counter,
    /// Frames that passed every check, by kind.
    accepted: [Counter; KINDS.len()],
    /// Frames suppressed, by kind.
    deduped: [Counter; KINDS.len()],
    dropped: [Counter; DropReason::ALL.len()],
    /// Tier 1 said "seen".
    pub seen_locally: Counter,
    /// Tier 1 said "new".
    pub new_locally: Counter,
    /// Frames sent without waiting because the slab was full.
    pub slab_overflow: Counter,
    /// Frames taken by the kernel, counted once for each interface.
    pub handed_over: Counter,
    /// Frames planned to leave (fragments counted one by one).
    pub emitted: Counter,
    /// Their bytes, without padding.
    pub emitted_bytes: Counter,
    /// Bytes of padding.
    pub padding: Counter,
    /// Trains.
    pub trains: Counter,
    train_lengths: [Counter; TRAIN_BUCKETS.len()],
    /// Frames that were cut.
    pub fragmented: Counter,
    /// Fragments made.
    pub fragments: Counter,
    /// Claims released because their frame could not be sent.
    pub released: Counter,
    /// Times that an interface had to wait for room in its socket.
    pub send_blocked: Counter,
    /// Subtree roots that were checked and right; wrong ones are drops.
    pub subtree_roots_ok: Counter,
    /// Digest datagrams sent.
    pub digests: Counter,
    /// Flows announced in them.
    pub digest_entries: Counter,
    /// Bytes that wait in backlogs.
    pub backlog_bytes: Gauge,
    /// Bytes in the slab.
    pub slab_bytes: Gauge,
    /// Frames in the slab.
    pub slab_frames: Gauge,
    /// Flows held.
    pub flows: Gauge,
    /// Flows evicted to make room.
    pub flows_evicted: Gauge,
    /// Flows expired.
    pub flows_expired: Gauge,
    /// Flows retired after a refusal.
    pub flows_retired: Gauge,
    /// Keys whose last word found no place.
    pub flows_unannounced: Gauge,
    /// Flows with a hole (`standard` identity).
    pub flow_holes: Gauge,
    /// Datagrams the kernel dropped because the receive queue was full.
    pub kernel_drops: Gauge,
    /// Datagrams cut because they did not fit.
    pub truncated: Gauge,
    /// Errors that the kernel queued about earlier datagrams.
    pub queued_errors: Gauge,
    /// Interfaces that refused trains.
    pub gso_refused: Gauge,
    /// From the end of a receive to the end of the emit that followed.
    pub burst_time: Histogram,
    wait_time: [Histogram; Why::ALL.len()],
    groups: Vec<GroupTally>,
    control: GroupTally,
    bits: ShardBits,
}

impl Tally {
    /// All zero.
    pub fn new(bits: ShardBits) -> Tally {
        Tally::noting(bits, Arc::new(service::Recent::new("sent")))
    }

    /// All zero; frames are noted in `recent`.
    pub fn noting(bits: ShardBits, recent: Arc<service::Recent>) -> Tally {
        Tally {
            packets_received: Counter::default(),
            bytes_received: Counter::default(),
            tcp_messages: Counter::default(),
            accepted: Default::default(),
            deduped: Default::default(),
            dropped: Default::default(),
            seen_locally: Counter::default(),
            new_locally: Counter::default(),
            slab_overflow: Counter::default(),
            handed_over: Counter::default(),
            emitted: Counter::default(),
            emitted_bytes: Counter::default(),
            padding: Counter::default(),
            trains: Counter::default(),
            train_lengths: Default::default(),
            fragmented: Counter::default(),
            fragments: Counter::default(),
            recent,
            released: Counter::default(),
            send_blocked: Counter::default(),
            subtree_roots_ok: Counter::default(),
            digests: Counter::default(),
            digest_entries: Counter::default(),
            backlog_bytes: Gauge::default(),
            slab_bytes: Gauge::default(),
            slab_frames: Gauge::default(),
            flows: Gauge::default(),
            flows_evicted: Gauge::default(),
            flows_expired: Gauge::default(),
            flows_retired: Gauge::default(),
            flows_unannounced: Gauge::default(),
            flow_holes: Gauge::default(),
            kernel_drops: Gauge::default(),
            truncated: Gauge::default(),
            queued_errors: Gauge::default(),
            gso_refused: Gauge::default(),
            burst_time: Histogram::default(),
            wait_time: Default::default(),
            groups: (0..bits.groups()).map(|_| GroupTally::default()).collect(),
            control: GroupTally::default(),
            bits,
        }
    }

    /// From the claim to the decision of frames that waited.
    pub fn wait_time(&self, why: Why) -> &Histogram {
        &self.wait_time[why.index()]
    }

    /// Cell of a drop reason.
    pub fn dropped(&self, reason: DropReason) -> &Counter {
        &self.dropped[reason.index()]
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
