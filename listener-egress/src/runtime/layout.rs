//! Options turned into interfaces, groups and sockets, and groups into workers.
//!
//! Worker `i` of `n` owns the groups with index ≡ `i` mod `n`.

use crate::config::Config;
use anyhow::Context;
use frame::{Fabric, GroupIndex, SourceMode};
use multicast_io::{Interface, Joined, Membership, Receiver, SocketOptions, wildcard};
use std::net::{IpAddr, SocketAddr};

/// Receive buffer of sockets for control and replies.
const CONTROL_BUFFER: usize = 4 << 20;

/// See the module text.
pub(super) struct Layout {
    pub(super) fabric: Fabric,
    pub(super) groups: Vec<GroupIndex>,
    pub(super) workers: usize,
    pub(super) interfaces: Vec<Interface>,
}

/// The worker that owns a group. Hash-only ingredients (wire 2) arrive on the block group.
pub(super) fn owner(group: GroupIndex, workers: usize) -> usize {
    let group = match group {
        GroupIndex::COINBASE_FLOW | GroupIndex::ANCHOR_FLOW => GroupIndex::BLOCK_BROADCAST,
        group => group,
    };
    usize::from(group.0) % workers.max(1)
}

impl Layout {
    pub(super) fn new(config: &Config) -> anyhow::Result<Layout> {
        let fabric = config.data_fabric()?;
        let shard_bits = config.shard_bits()?;
        let names = config.fabric.iface.0.iter();
        let interfaces = names
            .map(|name| Interface::by_name(name.trim()).with_context(|| format!("--iface {name}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let last = u16::try_from(shard_bits.groups() - 1).unwrap_or(u16::MAX);
        let wanted = |index: &u16| config.shard_include.is_empty() || config.shard_include.contains(*index);
        let mut groups: Vec<_> = (0..=last).filter(wanted).map(GroupIndex).collect();
        groups.push(GroupIndex::BLOCK_BROADCAST);
        if config.subtree_data_enabled {
            groups.push(GroupIndex::SUBTREE_DATA);
        }
        let workers = service::worker_count(config.workers).clamp(1, groups.len());
        Ok(Layout { fabric, workers, groups, interfaces })
    }

    /// The data sockets of one worker. `destinations`: they say where each datagram was sent to.
    pub(super) fn open_data(
        &self,
        config: &Config,
        worker: usize,
        destinations: bool,
    ) -> anyhow::Result<Vec<Joined>> {
        let mine = self.groups.iter().filter(|group| owner(**group, self.workers) == worker);
        let joins: Vec<_> = mine
            .flat_map(|group| {
                let own = match *group {
                    GroupIndex::BLOCK_BROADCAST => &config.ssm_bootstrap_manifest,
                    GroupIndex::SUBTREE_DATA => &config.ssm_bootstrap_subtree_announce,
                    _ => &config.ssm_publishers_static,
                };
                memberships(config, self.fabric.address(*group), own)
            })
            .collect();
        let options = SocketOptions {
            receive_buffer: Some(config.recv_buf_bytes.as_usize()),
            packet_info: destinations,
            ..SocketOptions::new(SocketAddr::new(wildcard(self.fabric.is_v4()), config.listen_port))
        };
        Joined::open(&options, &self.interfaces, &joins).context("--listen-port")
    }

    /// Sockets that take nothing but one control group, one for each interface.
    pub(super) fn open_control(
        &self,
        config: &Config,
        fabric: Fabric,
        group: GroupIndex,
        port: u16,
        sources: &[IpAddr],
    ) -> anyhow::Result<Vec<Joined>> {
        let group = fabric.address(group);
        let options = SocketOptions {
            receive_buffer: Some(CONTROL_BUFFER),
            ..SocketOptions::new(SocketAddr::new(group, port))
        };
        Joined::open(&options, &self.interfaces, &memberships(config, group, sources))
            .with_context(|| format!("control group {group} port {port}"))
    }

    /// The socket that requests leave from, for endpoints of one family.
    pub(super) fn open_requests(&self, v4: bool) -> anyhow::Result<Receiver> {
        let options = SocketOptions {
            receive_buffer: Some(CONTROL_BUFFER),
            ..SocketOptions::new(SocketAddr::new(wildcard(v4), 0))
        };
        Receiver::open(&options).context("request socket")
    }
}

/// What to join for a group, whose own list of sources is `own`.
fn memberships(config: &Config, group: IpAddr, own: &[IpAddr]) -> Vec<Membership> {
    match config.source_mode() {
        SourceMode::Asm => vec![Membership { group, source: None }],
        SourceMode::Ssm => {
            config.sources(own).map(|source| Membership { group, source: Some(source) }).collect()
        }
    }
}
