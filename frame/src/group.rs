//! Groups and addresses (wire 2).

use crate::Id;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Index of a group within a fabric: shard index or one of the control indices below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupIndex(pub u16);

impl GroupIndex {
    /// Hash-only ingredient of coinbase flows; never a destination.
    pub const COINBASE_FLOW: GroupIndex = GroupIndex(0xFFF8);
    /// Hash-only ingredient of anchor flows; never a destination.
    pub const ANCHOR_FLOW: GroupIndex = GroupIndex(0xFFF9);
    pub const BLOCK_HEADER: GroupIndex = GroupIndex(0xFFFA);
    pub const SUBTREE_DATA: GroupIndex = GroupIndex(0xFFFB);
    pub const SUBTREE_GROUP_ANNOUNCE: GroupIndex = GroupIndex(0xFFFC);
    pub const BEACON: GroupIndex = GroupIndex(0xFFFD);
    pub const BLOCK_BROADCAST: GroupIndex = GroupIndex(0xFFFE);
}

/// Number of leading TxID bits that choose the shard: 0..=15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardBits(u8);

impl ShardBits {
    pub fn new(_bits: u8) -> Option<ShardBits> {
        unimplemented!()
    }
    pub fn bits(self) -> u8 {
        self.0
    }
    /// Number of groups, 1 for 0 bits.
    pub fn groups(self) -> u32 {
        1 << self.0
    }
    /// Shard of a key: its top bits, big-endian; index 0 for 0 bits.
    pub fn group_of(self, _key: &Id) -> GroupIndex {
        unimplemented!()
    }
}

/// Multicast scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Link,
    Site,
    Organisation,
    Global,
}

/// Any-source or source-specific multicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceMode {
    Asm,
    Ssm,
}

/// Where groups live: address family, prefix and group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fabric {
    /// `prefix ∥ zero(10) ∥ group-id ∥ index`; the prefix follows from mode and scope (wire 2).
    V6 { mode: SourceMode, scope: Scope, group_id: u16 },
    /// Extension for hosts without IPv6: `239.<net>.<index high>.<index low>` (administratively scoped, RFC 2365).
    V4 { net: u8 },
}

impl Fabric {
    /// `None` for combinations that do not exist (SSM at link or organisation scope).
    pub fn v6(_mode: SourceMode, _scope: Scope, _group_id: u16) -> Option<Fabric> {
        unimplemented!()
    }
    pub fn address(&self, _group: GroupIndex) -> IpAddr {
        let _ = (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED);
        unimplemented!()
    }
    /// The inverse: the index of an address of this fabric, `None` if it is not one of ours.
    pub fn index_of(&self, _address: IpAddr) -> Option<GroupIndex> {
        unimplemented!()
    }
}
