//! What a tracker is told of a datagram, and what it makes of it.

use crate::gaps::GapId;
use frame::{GroupIndex, HashKey, Id, SeqNum};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What a flow carries: decides how long endpoints hold it (wire 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowClass {
    /// V2 and its fragments.
    Tx,
    /// V4 and its fragments.
    Block,
    /// V5 and its fragments.
    Subtree,
    /// V6.
    Anchor,
}

impl FlowClass {
    /// How long endpoints hold frames of this class.
    pub fn horizon(self) -> Duration {
        Duration::from_secs(match self {
            FlowClass::Tx => 60,
            FlowClass::Block => 600,
            FlowClass::Subtree => 300,
            FlowClass::Anchor => 120,
        })
    }
    /// What flows of a group carry, as far as the group says.
    pub fn of_group(group: GroupIndex) -> FlowClass {
        match group {
            GroupIndex::BLOCK_BROADCAST | GroupIndex::COINBASE_FLOW => FlowClass::Block,
            GroupIndex::ANCHOR_FLOW => FlowClass::Anchor,
            GroupIndex::SUBTREE_DATA => FlowClass::Subtree,
            _ => FlowClass::Tx,
        }
    }
}

/// One datagram with a number.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// Flow.
    pub key: HashKey,
    /// Number.
    pub seq: SeqNum,
    /// Group that carries the flow.
    pub group: GroupIndex,
    /// Subtree label of the flow: what a request names.
    pub subtree: &'a Id,
    /// What the flow carries.
    pub class: FlowClass,
    /// Where the datagram came from.
    pub source: IpAddr,
    /// The filters admit frames of this flow: gaps before this number are wanted.
    pub wanted: bool,
    /// The content was verified (or is a fragment, which is verified with its object).
    pub trusted: bool,
}

/// What `Tracker::observe` made of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen<R> {
    /// No number, no room, or a contradiction: not tracked.
    Untracked,
    /// The highest number so far.
    Advanced,
    /// A missing number.
    Filled(Filled<R>),
    /// A number that is not missing.
    Known,
    /// A jump that waits for confirmation.
    Held,
}

impl<R> Seen<R> {
    /// The frame came when it was due: it is the highest of its flow, or was reordered on its way.
    pub fn is_due(&self) -> bool {
        match self {
            Seen::Advanced => true,
            Seen::Filled(filled) => !filled.requested,
            Seen::Known | Seen::Held | Seen::Untracked => false,
        }
    }
}

/// A missing number that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled<R> {
    /// It had been asked for.
    pub requested: bool,
    /// Since when it was missing.
    pub opened: Instant,
    /// What the owner had kept with its gap.
    pub repair: R,
    /// What is left of the gap.
    pub rest: [Option<GapId>; 2],
}
