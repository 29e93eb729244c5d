//! Flows (wire 3): the HashKey of a flow, the group and the flow of a frame, and what a relay does with a frame that carries
//! a stamp already.
//!
//! HashKey = XXH64(seed 0, sender ‖ group u32 ‖ subtree).
//!
//! ```
//! use frame::flow::{Origin, hash_key};
//! use frame::{GroupIndex, NO_ID};
//!
//! let of = |group| hash_key(Origin([7; 16]), GroupIndex(group), &NO_ID);
//! assert_eq!(of(1), of(1));
//! assert_ne!(of(1), of(2));
//! ```

use crate::{DataFrame, Fragment, GroupIndex, HashKey, Id, Kind, NO_ID, SeqNum, ShardBits, group};
use core::net::IpAddr;
use xxhash_rust::xxh64::xxh64;

/// 16 bytes that name the origin of a flow: a sender address (`standard`), or random bytes (`instance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub [u8; 16]);

impl From<IpAddr> for Origin {
    /// IPv4 becomes `::ffff:a.b.c.d`.
    fn from(address: IpAddr) -> Origin {
        Origin(match address {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        })
    }
}

/// HashKey of the flow (origin, group ingredient, subtree ingredient); [`Route`] has the ingredients of a frame.
pub fn hash_key(origin: Origin, group: GroupIndex, subtree: &Id) -> HashKey {
    HashKey(xxh64(&hash_input(origin, group, subtree), 0))
}

/// The 52 bytes that are hashed. The group takes four of them although an index has only two.
pub fn hash_input(origin: Origin, group: GroupIndex, subtree: &Id) -> [u8; 52] {
    let mut input = [0; 52];
    input[..16].copy_from_slice(&origin.0);
    input[16..20].copy_from_slice(&u32::from(group.0).to_be_bytes());
    input[20..].copy_from_slice(subtree);
    input
}

/// MsgType of a V4 that carries a coinbase transaction (BRC-133).
pub const COINBASE: u8 = 2;

/// Where a frame goes and to which flow it belongs (the tables of wire 2 and 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Destination group.
    pub destination: GroupIndex,
    /// Group ingredient of the HashKey; equal to the destination except for coinbases and anchors.
    pub flow_group: GroupIndex,
    /// Subtree ingredient of the HashKey.
    pub flow_subtree: &'a Id,
}

impl<'a> Route<'a> {
    /// Route of a data frame. `shards` are the bits of the transaction plane, `objects` those of the object plane (V9).
    /// V1 has a destination; its flow is meaningless, because it cannot be stamped. `None`: no data frame.
    pub fn of(frame: &DataFrame<'a>, shards: ShardBits, objects: ShardBits) -> Option<Route<'a>> {
        let ids = Ids { id: frame.id, subtree: frame.second_id, topic: frame.second_id };
        Route::build(frame.kind, frame.msg_type, ids, shards, objects)
    }

    /// Route of a fragment: that of the frame it was cut from. (The SubtreeID of a V5 stands at offset 8 only.)
    pub fn of_fragment(fragment: &Fragment<'a>, shards: ShardBits, objects: ShardBits) -> Option<Route<'a>> {
        let ids = Ids { id: fragment.id, subtree: fragment.second_id, topic: fragment.second_id };
        Route::build(fragment.original_kind(), fragment.msg_type, ids, shards, objects)
    }

    fn build(
        kind: Kind,
        msg_type: u8,
        ids: Ids<'a>,
        shards: ShardBits,
        objects: ShardBits,
    ) -> Option<Route<'a>> {
        let (destination, flow_group, flow_subtree) = match kind {
            Kind::LegacyTx | Kind::Tx => {
                let shard = shards.group_of(ids.id);
                (shard, shard, ids.subtree)
            }
            Kind::Block if msg_type == COINBASE => {
                (GroupIndex::BLOCK_BROADCAST, GroupIndex::COINBASE_FLOW, &NO_ID)
            }
            Kind::Block => (GroupIndex::BLOCK_BROADCAST, GroupIndex::BLOCK_BROADCAST, &NO_ID),
            Kind::Subtree => (GroupIndex::SUBTREE_DATA, GroupIndex::SUBTREE_DATA, ids.id),
            Kind::Anchor => (GroupIndex::BLOCK_BROADCAST, GroupIndex::ANCHOR_FLOW, &NO_ID),
            Kind::BlockHeader => (GroupIndex::BLOCK_HEADER, GroupIndex::BLOCK_HEADER, &NO_ID),
            Kind::Object => {
                let plane = group::plane(group::OBJECT_DOMAIN, objects, ids.topic)?;
                (plane, plane, &NO_ID)
            }
            _ => return None,
        };
        Some(Route { destination, flow_group, flow_subtree })
    }

    /// HashKey of the route's flow for this origin.
    pub fn hash_key(&self, origin: Origin) -> HashKey {
        hash_key(origin, self.flow_group, self.flow_subtree)
    }
}

/// Offsets 8 and 56 by what they may mean.
#[derive(Clone, Copy)]
struct Ids<'a> {
    id: &'a Id,
    subtree: &'a Id,
    topic: &'a Id,
}

/// What a proxy does with a frame that arrives with HashKey or SeqNum set (wire 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StampPolicy {
    /// Generation A, and B with `-stamp-source=false -allow-stamped-ingress`: fill in what is missing.
    Fill,
    /// B with `-stamp-source -allow-stamped-ingress`: as `Fill`, but the HashKey is always ours.
    OwnKey,
    /// B by default: a V2 with a number is refused, anything else as `OwnKey`.
    RefuseStamped,
    /// Every frame is numbered anew whatever it carries: the flows of `instance` identity.
    Renumber,
}

/// What is to be written into bytes 40-55.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamping {
    /// HashKey and the flow's next number: the counter advances.
    Number,
    /// HashKey only; the number it came with stays and the counter does not move.
    KeyOnly,
    /// Nothing.
    Keep,
    /// The frame is dropped and counted.
    Refuse,
}

impl StampPolicy {
    /// Decides by bytes 40-55 as they arrived. Not for V1 (never stamped) nor for payloads that will be cut (each
    /// fragment takes a new number).
    pub fn decide(self, kind: Kind, hash_key: HashKey, seq_num: SeqNum) -> Stamping {
        match self {
            _ if seq_num.0 == 0 => Stamping::Number,
            StampPolicy::Renumber => Stamping::Number,
            StampPolicy::RefuseStamped if kind == Kind::Tx => Stamping::Refuse,
            StampPolicy::OwnKey | StampPolicy::RefuseStamped => Stamping::KeyOnly,
            StampPolicy::Fill if hash_key.0 == 0 => Stamping::KeyOnly,
            StampPolicy::Fill => Stamping::Keep,
        }
    }
}
