//! Which frames the consumer wants: sources, shards, subtrees.
//!
//! Filters of contents decide what is delivered and what is repaired. They never hide a frame from the tracker. The source
//! filter alone acts before it: an excluded source may not move a flow. Known endpoints pass it with repairs.
//!
//! Order (wire 1.10 and the Go stack): shard include; subtree exclude, then include, then announced groups (BRC-127).
//! Announcements are bounded; the oldest to expire makes room.

use super::counts::DropReason;
use frame::{GroupIndex, Id, ShardBits, SubtreeGroupAnnounce};
use hashbrown::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// Announced subtrees at once.
const MAX_ANNOUNCED: usize = 65_536;

/// An address prefix, `address/length` or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    bits: u128,
    length: u8,
    is_v4: bool,
}

impl Prefix {
    /// True if `address` lies in the prefix; mapped IPv4 addresses count as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, is_v4) = bits_of(address);
        let shift = u32::from(128 - self.length);
        is_v4 == self.is_v4 && (bits ^ self.bits).checked_shr(shift).unwrap_or(0) == 0
    }
}

fn bits_of(address: IpAddr) -> (u128, bool) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    }
}

/// Text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address prefix; accepted is an address or address/length, such as fd20::/16 or 10.0.0.0/8"
)]
pub struct BadPrefix(String);

impl FromStr for Prefix {
    type Err = BadPrefix;
    fn from_str(text: &str) -> Result<Prefix, BadPrefix> {
        let bad = || BadPrefix(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let (bits, is_v4) = bits_of(address.trim().parse().map_err(|_| bad())?);
        let longest = if is_v4 { 32 } else { 128 };
        let length = length.map_or(Ok(longest), |l| l.trim().parse().map_err(|_| bad()))?;
        if length > longest {
            return Err(bad());
        }
        Ok(Prefix { bits, length, is_v4 })
    }
}

/// What the filters are told at start.
#[derive(Clone, Debug, Default)]
pub struct FilterRules {
    /// Sources taken; empty = all.
    pub sender_include: Vec<Prefix>,
    /// Sources refused; looked at first.
    pub sender_exclude: Vec<Prefix>,
    /// Shards taken; empty = all.
    pub shard_include: Vec<RangeInclusive<u16>>,
    /// Subtrees taken; empty = all, unless groups are subscribed.
    pub subtree_include: Vec<Id>,
    /// Subtrees refused.
    pub subtree_exclude: Vec<Id>,
    /// BRC-127 groups subscribed.
    pub subtree_groups: Vec<[u8; 16]>,
    /// Lifetime of an announcement that names none.
    pub announce_ttl: Duration,
}

/// See the module text.
pub struct Filter {
    rules: FilterRules,
    bits: ShardBits,
    include: HashSet<Id>,
    exclude: HashSet<Id>,
    announced: HashMap<Id, Instant>,
}

impl Filter {
    /// A filter over a fabric of `bits` shard bits.
    pub fn new(rules: FilterRules, bits: ShardBits) -> Filter {
        Filter {
            include: rules.subtree_include.iter().copied().collect(),
            exclude: rules.subtree_exclude.iter().copied().collect(),
            announced: HashMap::new(),
            bits,
            rules,
        }
    }

    /// May datagrams of this source come in at all?
    pub fn admits_source(&self, source: IpAddr) -> bool {
        let listed = |list: &[Prefix]| list.iter().any(|prefix| prefix.contains(source));
        if self.rules.sender_exclude.is_empty() && self.rules.sender_include.is_empty() {
            return true;
        }
        !listed(&self.rules.sender_exclude)
            && (self.rules.sender_include.is_empty() || listed(&self.rules.sender_include))
    }

    /// Is this shard wanted?
    pub fn admits_shard(&self, group: GroupIndex) -> bool {
        self.rules.shard_include.is_empty() || self.rules.shard_include.iter().any(|r| r.contains(&group.0))
    }

    /// Is a transaction of this id and subtree wanted?
    pub fn admits_tx(&self, now: Instant, id: &Id, subtree: &Id) -> Result<(), DropReason> {
        if !self.rules.shard_include.is_empty() && !self.admits_shard(self.bits.group_of(id)) {
            return Err(DropReason::ShardFilter);
        }
        self.admits_subtree(now, subtree)
    }

    /// Are transactions of this subtree wanted?
    pub fn admits_subtree(&self, now: Instant, subtree: &Id) -> Result<(), DropReason> {
        if !self.exclude.is_empty() && self.exclude.contains(subtree) {
            return Err(DropReason::SubtreeExclude);
        }
        if self.include.is_empty() && self.rules.subtree_groups.is_empty() {
            return Ok(());
        }
        let live = self.announced.get(subtree).is_some_and(|expires| now < *expires);
        if live || self.include.contains(subtree) { Ok(()) } else { Err(DropReason::SubtreeIncludeMiss) }
    }

    /// Takes an announcement (its source passed the source filter); `false` if it concerns no subscribed group or
    /// finds no room.
    pub fn announce(&mut self, now: Instant, announce: &SubtreeGroupAnnounce) -> bool {
        if !self.rules.subtree_groups.contains(&announce.group_id) {
            return false;
        }
        if self.announced.len() >= MAX_ANNOUNCED && !self.announced.contains_key(&announce.subtree_id) {
            self.announced.retain(|_, expires| now < *expires);
            if self.announced.len() >= MAX_ANNOUNCED {
                return false;
            }
        }
        let ttl = match announce.ttl_secs {
            0 => self.rules.announce_ttl,
            secs => Duration::from_secs(u64::from(secs)),
        };
        self.announced.insert(announce.subtree_id, now + ttl);
        true
    }

    /// Forgets announcements that expired. Call about once a second.
    pub fn purge(&mut self, now: Instant) {
        self.announced.retain(|_, expires| now < *expires);
    }

    /// Shard of an id.
    pub fn shard_of(&self, id: &Id) -> GroupIndex {
        self.bits.group_of(id)
    }
}
