//! Where a frame goes, and which flow numbers it (docs/wire.md 2 and 3).

use frame::{GroupIndex, Id, Kind, ShardBits};

const NO_SUBTREE: &Id = &[0; 32];

/// Destination of a frame and the ingredients of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Group that carries the frame.
    pub destination: GroupIndex,
    /// Group ingredient of the HashKey; differs from the destination for anchors and coinbases.
    pub ingredient: GroupIndex,
    /// Subtree ingredient of the HashKey.
    pub subtree: &'a Id,
}

/// The table of docs/wire.md 3. `second_id` is what offset 56 holds; it counts for V2 alone.
pub fn route<'a>(kind: Kind, msg_type: u8, id: &'a Id, second_id: &'a Id, bits: ShardBits) -> Route<'a> {
    let control = |destination, ingredient| Route { destination, ingredient, subtree: NO_SUBTREE };
    match kind {
        Kind::Block if msg_type == 2 => control(GroupIndex::BLOCK_BROADCAST, GroupIndex::COINBASE_FLOW),
        Kind::Block => control(GroupIndex::BLOCK_BROADCAST, GroupIndex::BLOCK_BROADCAST),
        Kind::Anchor => control(GroupIndex::BLOCK_BROADCAST, GroupIndex::ANCHOR_FLOW),
        Kind::SubtreeGroupAnnounce => {
            control(GroupIndex::SUBTREE_GROUP_ANNOUNCE, GroupIndex::SUBTREE_GROUP_ANNOUNCE)
        }
        Kind::Subtree => {
            Route { destination: GroupIndex::SUBTREE_DATA, ingredient: GroupIndex::SUBTREE_DATA, subtree: id }
        }
        _ => {
            let shard = bits.group_of(id);
            Route { destination: shard, ingredient: shard, subtree: second_id }
        }
    }
}
