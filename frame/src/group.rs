//! Groups and addresses (wire 2): which group an id belongs to, and which address that group has.
//!
//! ```
//! use frame::{Fabric, GroupIndex, Scope, ShardBits, SourceMode};
//!
//! let bits = ShardBits::new(2).expect("at most 15");
//! let mut id = [0; 32];
//! id[0] = 0b1100_0000;
//! assert_eq!(bits.group_of(&id), GroupIndex(3));
//! let fabric = Fabric::V6 { mode: SourceMode::Asm, scope: Scope::Site, group_id: Fabric::DEFAULT_GROUP_ID };
//! assert_eq!(fabric.address(GroupIndex(3)).to_string(), "ff05::b:3");
//! ```

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
    /// Block headers (V7), from listeners to consumers.
    pub const BLOCK_HEADER: GroupIndex = GroupIndex(0xFFFA);
    /// Subtree data (V5) and its fragments.
    pub const SUBTREE_DATA: GroupIndex = GroupIndex(0xFFFB);
    /// BRC-127 announces.
    pub const SUBTREE_GROUP_ANNOUNCE: GroupIndex = GroupIndex(0xFFFC);
    /// ADVERT, manifest and flow digest.
    pub const BEACON: GroupIndex = GroupIndex(0xFFFD);
    /// Blocks (V4), their fragments, and anchors (V6).
    pub const BLOCK_BROADCAST: GroupIndex = GroupIndex(0xFFFE);
}

/// Plane of objects (BRC-148 domain 1): groups from 0x1000.
pub const OBJECT_DOMAIN: u8 = 1;
/// Domains end here, so that they never reach the control groups.
pub const PLANES_END: u32 = 0xF800;

/// Group of `key` in the plane of `domain` (BRC-148): `domain << 12` plus the key's shard. `None` for domain 15 and for
/// planes that would pass [`PLANES_END`].
pub fn plane(domain: u8, bits: ShardBits, key: &Id) -> Option<GroupIndex> {
    if domain > 14 {
        return None;
    }
    let base = u16::from(domain) << 12;
    if u32::from(base) + bits.groups() > PLANES_END {
        return None;
    }
    Some(GroupIndex(base + bits.group_of(key).0))
}

/// Number of leading TxID bits that choose the shard: 0..=15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardBits(u8);

impl ShardBits {
    /// The most bits that any generation uses.
    pub const MAX: u8 = 15;

    /// `None` above 15. Above 12 the groups collide with the object planes (wire 2): allowed, as in generation A.
    pub const fn new(bits: u8) -> Option<ShardBits> {
        if bits <= ShardBits::MAX { Some(ShardBits(bits)) } else { None }
    }

    /// The number of bits.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Number of groups, 1 for 0 bits.
    pub const fn groups(self) -> u32 {
        1 << self.0
    }

    /// Shard of a key: its top bits, big-endian; index 0 for 0 bits.
    pub const fn group_of(self, key: &Id) -> GroupIndex {
        // At most 15 bits are asked for, so the first two bytes decide; 32 bits keep the shift by 16 defined.
        let top = u16::from_be_bytes([key[0], key[1]]) as u32;
        #[allow(clippy::cast_possible_truncation, reason = "a 16-bit value shifted right")]
        GroupIndex((top >> (16 - self.0)) as u16)
    }
}

/// Multicast scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// FF02.
    Link,
    /// FF05, FF35.
    Site,
    /// FF08.
    Organisation,
    /// FF0E, FF3E.
    Global,
}

impl Scope {
    /// The scope nibble of RFC 4291.
    const fn nibble(self) -> u16 {
        match self {
            Scope::Link => 0x2,
            Scope::Site => 0x5,
            Scope::Organisation => 0x8,
            Scope::Global => 0xE,
        }
    }
}

/// Any-source or source-specific multicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceMode {
    /// Any source: join (*, G).
    Asm,
    /// Source-specific: join (S, G).
    Ssm,
}

/// Where groups live: address family, prefix and group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fabric {
    /// `prefix ∥ zero(10) ∥ group-id ∥ index`; the prefix follows from mode and scope (wire 2).
    V6 {
        /// ASM or SSM.
        mode: SourceMode,
        /// How far it reaches.
        scope: Scope,
        /// Default 0x000B.
        group_id: u16,
    },
    /// Extension for hosts without IPv6: `239.<net>.<index high>.<index low>` (administratively scoped, RFC 2365).
    V4 {
        /// Second byte of the address.
        net: u8,
    },
}

impl Fabric {
    /// Group id of the field.
    pub const DEFAULT_GROUP_ID: u16 = 0x000B;

    /// `None` for combinations that do not exist (SSM at link or organisation scope).
    pub const fn v6(mode: SourceMode, scope: Scope, group_id: u16) -> Option<Fabric> {
        match (mode, scope) {
            (SourceMode::Ssm, Scope::Link | Scope::Organisation) => None,
            _ => Some(Fabric::V6 { mode, scope, group_id }),
        }
    }

    /// Whether its groups are IPv4.
    pub const fn is_v4(&self) -> bool {
        matches!(self, Fabric::V4 { .. })
    }

    /// Destination address of a group.
    pub const fn address(&self, group: GroupIndex) -> IpAddr {
        match *self {
            Fabric::V6 { mode, scope, group_id } => {
                let prefix = prefix(mode, scope);
                IpAddr::V6(Ipv6Addr::new(prefix, 0, 0, 0, 0, 0, group_id, group.0))
            }
            Fabric::V4 { net } => {
                let [high, low] = group.0.to_be_bytes();
                IpAddr::V4(Ipv4Addr::new(239, net, high, low))
            }
        }
    }

    /// The inverse: the index of an address of this fabric, `None` if it is not one of ours.
    pub fn index_of(&self, address: IpAddr) -> Option<GroupIndex> {
        let index = match address {
            IpAddr::V6(address) => address.segments()[7],
            IpAddr::V4(address) => {
                let [_, _, high, low] = address.octets();
                u16::from_be_bytes([high, low])
            }
        };
        (self.address(GroupIndex(index)) == address).then_some(GroupIndex(index))
    }
}

/// First two bytes of an IPv6 group address: flags 3 for SSM (RFC 4607), 0 for ASM.
const fn prefix(mode: SourceMode, scope: Scope) -> u16 {
    let flags = match mode {
        SourceMode::Asm => 0x00,
        SourceMode::Ssm => 0x30,
    };
    0xFF00 | flags | scope.nibble()
}
