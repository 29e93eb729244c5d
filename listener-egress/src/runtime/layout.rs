//! What a listener joins: its groups and sources, out of its options.

use crate::config::Config;
use anyhow::Context;
use frame::{Fabric, GroupIndex, SourceMode};
use multicast_io::{Joined, Receiver, SocketOptions, wildcard};
use service::worker::Layout;
use std::net::{IpAddr, SocketAddr};

/// Receive buffer of sockets for control and replies.
const CONTROL_BUFFER: usize = 4 << 20;

/// Groups, workers and interfaces.
pub(super) fn layout(config: &Config) -> anyhow::Result<Layout> {
    let fabric = config.data_fabric()?;
    let bits = config.shard_bits()?;
    let interfaces = Layout::interfaces(&config.fabric.iface.0, "--iface")?;
    let wanted =
        |index| config.filters.shard_include.is_empty() || config.filters.shard_include.contains(index);
    let groups = Layout::data_groups(bits, wanted, config.receiving.subtree_data_enabled);
    Ok(Layout::new(fabric, groups, interfaces, config.receiving.workers))
}

/// The data sockets of one worker. `destinations`: they say where each datagram was sent to.
pub(super) fn open_data(
    layout: &Layout,
    config: &Config,
    worker: usize,
    destinations: bool,
) -> anyhow::Result<Vec<Joined>> {
    let own = |group| match group {
        GroupIndex::BLOCK_BROADCAST => &config.receiving.ssm_bootstrap_manifest,
        GroupIndex::SUBTREE_DATA => &config.receiving.ssm_bootstrap_subtree_announce,
        _ => &config.receiving.ssm_publishers_static,
    };
    let options = SocketOptions {
        receive_buffer: Some(config.receiving.recv_buf_bytes.as_usize()),
        packet_info: destinations,
        ..SocketOptions::new(SocketAddr::new(wildcard(layout.fabric.is_v4()), config.receiving.listen_port))
    };
    let sources = |group| sources(config, own(group));
    layout.open_data(worker, config.receiving.listen_port, options, sources).context("--listen-port")
}

/// Sockets that take nothing but one control group, one for each interface.
pub(super) fn open_control(
    layout: &Layout,
    config: &Config,
    fabric: Fabric,
    group: GroupIndex,
    port: u16,
    own: &[IpAddr],
) -> anyhow::Result<Vec<Joined>> {
    let group = fabric.address(group);
    let options = SocketOptions {
        receive_buffer: Some(CONTROL_BUFFER),
        ..SocketOptions::new(SocketAddr::new(group, port))
    };
    let joined = layout.open_control(group, port, options, &sources(config, own));
    joined.with_context(|| format!("control group {group} port {port}"))
}

/// The socket that requests leave from, for endpoints of one family.
pub(super) fn open_requests(v4: bool) -> anyhow::Result<Receiver> {
    let options = SocketOptions {
        receive_buffer: Some(CONTROL_BUFFER),
        ..SocketOptions::new(SocketAddr::new(wildcard(v4), 0))
    };
    Receiver::open(&options).context("request socket")
}

/// From whom a group is joined whose own list of sources is `own`; `None` is anybody.
fn sources(config: &Config, own: &[IpAddr]) -> Vec<Option<IpAddr>> {
    match config.source_mode() {
        SourceMode::Asm => vec![None],
        SourceMode::Ssm => config.receiving.sources(own).map(Some).collect(),
    }
}
