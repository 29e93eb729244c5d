//! Options turned into interfaces, groups and sockets, and groups into workers.
//!
//! Worker `i` of `n` owns the groups with index ≡ `i` mod `n`. A socket joins no more groups than the kernel's default
//! limits allow; a worker with more has several sockets.

use crate::config::Config;
use anyhow::Context;
use frame::{Fabric, GroupIndex, SourceMode};
use multicast_io::{Interface, Receiver, SocketOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Joins of one socket: under 2,340 for IPv6 (`net.core.optmem_max`), 20 for IPv4 (`net.ipv4.igmp_max_memberships`).
const JOINS_V6: usize = 2_000;
const JOINS_V4: usize = 20;
/// Receive buffer of sockets for control and replies.
const CONTROL_BUFFER: usize = 4 << 20;

/// The address that means any.
pub(super) fn wildcard(v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) }
}

/// One join that a socket holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Membership {
    pub(super) group: IpAddr,
    pub(super) source: Option<IpAddr>,
    /// Index into `Layout::interfaces`.
    pub(super) interface: usize,
}

/// A receiver and what it joined.
pub(super) struct Joined {
    pub(super) receiver: Receiver,
    pub(super) memberships: Vec<Membership>,
}

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

    pub(super) fn is_v4(&self) -> bool {
        matches!(self.fabric, Fabric::V4 { .. })
    }

    /// The data sockets of one worker.
    pub(super) fn open_data(&self, config: &Config, worker: usize) -> anyhow::Result<Vec<Joined>> {
        let mine = self.groups.iter().filter(|group| owner(**group, self.workers) == worker);
        let memberships: Vec<_> = mine
            .flat_map(|group| {
                let own = match *group {
                    GroupIndex::BLOCK_BROADCAST => &config.ssm_bootstrap_manifest,
                    GroupIndex::SUBTREE_DATA => &config.ssm_bootstrap_subtree_announce,
                    _ => &config.ssm_publishers_static,
                };
                self.memberships(config, self.fabric.address(*group), own)
            })
            .collect();
        let most = if self.is_v4() { JOINS_V4 } else { JOINS_V6 };
        let bind = SocketAddr::new(wildcard(self.is_v4()), config.listen_port);
        self.by_interface(&memberships)
            .iter()
            .flat_map(|mine| mine.chunks(most))
            .map(|some| self.join(bind, some, config.recv_buf_bytes.as_usize()).context("--listen-port"))
            .collect()
    }

    /// What each interface has to join: a socket stays on one interface.
    fn by_interface(&self, memberships: &[Membership]) -> Vec<Vec<Membership>> {
        let on = |interface| memberships.iter().filter(move |one| one.interface == interface).copied();
        (0..self.interfaces.len()).map(|interface| on(interface).collect()).collect()
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
        let memberships: Vec<_> = self.memberships(config, group, sources).collect();
        let join = |mine: &Vec<Membership>| self.join(SocketAddr::new(group, port), mine, CONTROL_BUFFER);
        let joined: anyhow::Result<_> = self.by_interface(&memberships).iter().map(join).collect();
        joined.with_context(|| format!("control group {group} port {port}"))
    }

    /// The socket that requests leave from, for endpoints of one family.
    pub(super) fn open_requests(&self, v4: bool) -> anyhow::Result<Receiver> {
        let options = SocketOptions {
            receive_buffer: Some(CONTROL_BUFFER),
            ..SocketOptions::new(SocketAddr::new(wildcard(v4), 0))
        };
        Receiver::open(&options).context("request socket")
    }

    fn memberships<'a>(
        &'a self,
        config: &'a Config,
        group: IpAddr,
        own: &'a [IpAddr],
    ) -> impl Iterator<Item = Membership> + 'a {
        let sources: Vec<Option<IpAddr>> = match config.source_mode() {
            SourceMode::Asm => vec![None],
            SourceMode::Ssm => config.sources(own).map(Some).collect(),
        };
        let interfaces = 0..self.interfaces.len();
        interfaces.flat_map(move |interface| {
            let sources = sources.clone();
            sources.into_iter().map(move |source| Membership { group, source, interface })
        })
    }

    /// A socket with memberships of one interface.
    fn join(&self, bind: SocketAddr, memberships: &[Membership], buffer: usize) -> anyhow::Result<Joined> {
        let interface = memberships.first().and_then(|first| self.interfaces.get(first.interface));
        let receiver = Receiver::open(&SocketOptions {
            interface: interface.cloned(),
            only_interface: true,
            reuse_address: true,
            receive_buffer: Some(buffer),
            ..SocketOptions::new(bind)
        })?;
        assert_joins(&receiver, memberships, &self.interfaces)?;
        Ok(Joined { receiver, memberships: memberships.to_vec() })
    }
}

/// Joins everything of a list, or joins it again: memberships were found to lapse after changes of routes and
/// interfaces. What is joined already stays.
pub(super) fn assert_joins(
    receiver: &Receiver,
    memberships: &[Membership],
    interfaces: &[Interface],
) -> anyhow::Result<()> {
    for membership in memberships {
        let Some(on) = interfaces.get(membership.interface) else { continue };
        match membership.source {
            None => receiver.join(membership.group, on)?,
            Some(source) => receiver.join_source(membership.group, source, on)?,
        }
    }
    Ok(())
}
