//! Which worker owns which group, and the sockets that take them.
//!
//! Worker `i` of `n` owns the groups with index ≡ `i` mod `n`: a multicast datagram goes to every socket that joined its
//! group, so workers cannot share one. A flow belongs to one group, so all state of a flow lives in one worker.

use anyhow::Context;
use frame::{Fabric, GroupIndex, ShardBits};
use multicast_io::{Interface, Joined, Membership, SocketError, SocketOptions, wildcard};
use std::net::{IpAddr, SocketAddr};

/// The groups of a role, its workers, and the interfaces that the groups are joined on.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Address plan of the data groups.
    pub fabric: Fabric,
    /// All groups that are received.
    pub groups: Vec<GroupIndex>,
    /// Workers, at least one, at most one a group.
    pub workers: usize,
    /// Each group is joined on each of them.
    pub interfaces: Vec<Interface>,
}

/// The worker of `workers` that owns a group. Hash-only ingredients (wire 2) arrive on the block group.
pub fn owner(group: GroupIndex, workers: usize) -> usize {
    let group = match group {
        GroupIndex::COINBASE_FLOW | GroupIndex::ANCHOR_FLOW => GroupIndex::BLOCK_BROADCAST,
        group => group,
    };
    usize::from(group.0) % workers.max(1)
}

impl Layout {
    /// `option`: `--workers`, where 0 is one for each core. Workers without a group are not started.
    pub fn new(fabric: Fabric, groups: Vec<GroupIndex>, interfaces: Vec<Interface>, option: usize) -> Layout {
        let workers = super::worker_count(option).clamp(1, groups.len().max(1));
        Layout { fabric, groups, workers, interfaces }
    }

    /// The data groups of a fabric: the shards that `wanted` admits, blocks, and subtree data where they are received.
    pub fn data_groups(bits: ShardBits, wanted: impl Fn(u16) -> bool, subtree_data: bool) -> Vec<GroupIndex> {
        let shards = (0..bits.groups()).filter_map(|index| u16::try_from(index).ok());
        let mut groups: Vec<_> = shards.filter(|index| wanted(*index)).map(GroupIndex).collect();
        groups.push(GroupIndex::BLOCK_BROADCAST);
        groups.extend(subtree_data.then_some(GroupIndex::SUBTREE_DATA));
        groups
    }

    /// Interfaces by name; `option` is where the names come from.
    ///
    /// # Errors
    /// Names the option and the interface that is not there.
    pub fn interfaces(names: &[String], option: &str) -> anyhow::Result<Vec<Interface>> {
        let look =
            |name: &String| Interface::by_name(name.trim()).with_context(|| format!("{option} {name}"));
        names.iter().map(look).collect()
    }

    /// Sockets that together take the groups of one worker. `options`: everything but the address; `sources`: of a group,
    /// `None` is any (wire 2).
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open_data(
        &self,
        worker: usize,
        port: u16,
        options: SocketOptions,
        sources: impl Fn(GroupIndex) -> Vec<Option<IpAddr>>,
    ) -> Result<Vec<Joined>, SocketError> {
        let mine = self.groups.iter().filter(|group| owner(**group, self.workers) == worker);
        let joins: Vec<_> =
            mine.flat_map(|group| memberships(self.fabric.address(*group), &sources(*group))).collect();
        let bind = SocketAddr::new(wildcard(self.fabric.is_v4()), port);
        Joined::open(&SocketOptions { bind, ..options }, &self.interfaces, &joins)
    }

    /// Sockets that take nothing but one control group, one for each interface. They are bound to the group's address, so
    /// that they never take unicast meant for another socket on the same port. `options`: as in [`Layout::open_data`].
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn open_control(
        &self,
        group: IpAddr,
        port: u16,
        options: SocketOptions,
        sources: &[Option<IpAddr>],
    ) -> Result<Vec<Joined>, SocketError> {
        let options = SocketOptions { bind: SocketAddr::new(group, port), ..options };
        Joined::open(&options, &self.interfaces, &memberships(group, sources))
    }
}

fn memberships(group: IpAddr, sources: &[Option<IpAddr>]) -> Vec<Membership> {
    sources.iter().map(|source| Membership { group, source: *source }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_one_owner_and_every_worker_a_group() {
        let groups = Layout::data_groups(ShardBits::new(2).unwrap(), |index| index != 1, true);
        assert_eq!(groups.len(), 5, "three shards, blocks, subtree data");
        let layout = Layout::new(Fabric::V4 { net: 9 }, groups, Vec::new(), 64);
        assert_eq!(layout.workers, 5);
        assert!(layout.groups.iter().all(|group| owner(*group, layout.workers) < layout.workers));
    }

    #[test]
    fn ingredients_of_blocks_belong_to_the_owner_of_the_block_group() {
        for workers in 1..9 {
            let blocks = owner(GroupIndex::BLOCK_BROADCAST, workers);
            assert_eq!(owner(GroupIndex::COINBASE_FLOW, workers), blocks);
            assert_eq!(owner(GroupIndex::ANCHOR_FLOW, workers), blocks);
        }
    }
}
