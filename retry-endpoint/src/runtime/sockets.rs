//! Options turned into groups, interfaces, addresses and open sockets.

use super::upstream_client::UpstreamConfig;
use crate::config::Config;
use crate::pipeline::advertise::AdvertContent;
use crate::pipeline::emit::{EmitConfig, EmitInterface};
use anyhow::{Context, ensure};
use frame::{Advert, Fabric, GroupIndex, ShardBits, SourceMode};
use multicast_io::{Interface, Joined, PortUse, Receiver, Sender, SocketOptions, wildcard};
use service::worker::Layout;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Receive and send buffer of the request port.
const REQUEST_BUFFER: usize = 4 << 20;
/// Longest wait for an interface that is full of repairs.
const FULL_TIMEOUT: Duration = Duration::from_millis(5);

/// What is opened, and where.
pub(super) struct Sockets {
    config: Arc<Config>,
    layout: Layout,
    shard_bits: ShardBits,
    egress: Vec<Interface>,
    nack_addr: IpAddr,
}

/// One sending socket and the interface behind it.
pub(super) struct EgressLink {
    pub(super) sender: Sender,
    pub(super) interface: Interface,
}

impl Sockets {
    /// The directory has a byte for the worker.
    const MOST_WORKERS: usize = 254;

    pub(super) fn new(config: Arc<Config>) -> anyhow::Result<Sockets> {
        let fabric = config.data_fabric()?;
        let shard_bits = config.shard_bits()?;
        let ingress = Layout::interfaces(&config.fabric.iface.0, "--iface")?;
        let egress = Layout::interfaces(config.egress_interfaces(), "--egress-iface")?;
        let groups = Layout::data_groups(shard_bits, |_| true, config.store.subtree_data_enabled);
        let mut layout = Layout::new(fabric, groups, ingress, config.store.workers);
        layout.workers = layout.workers.min(Sockets::MOST_WORKERS);
        let nack_addr = nack_addr(&config, &fabric, &egress)?;
        Ok(Sockets { config, layout, shard_bits, egress, nack_addr })
    }

    pub(super) fn workers(&self) -> usize {
        self.layout.workers
    }

    pub(super) fn groups(&self) -> usize {
        self.layout.groups.len()
    }

    pub(super) fn shard_bits(&self) -> ShardBits {
        self.shard_bits
    }

    /// Names of the interfaces that repairs leave by.
    pub(super) fn egress_names(&self) -> Vec<String> {
        self.egress.iter().map(|interface| interface.name.clone()).collect()
    }

    pub(super) fn open_request_socket(&self) -> anyhow::Result<Receiver> {
        let port = self.config.request_port(self.nack_addr);
        let bind = port.address;
        let take_over = self.config.host.take_over;
        let options = SocketOptions {
            packet_info: true,
            port_use: PortUse::of(0, take_over),
            dual_stack: self.nack_addr == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            receive_buffer: Some(REQUEST_BUFFER),
            send_buffer: Some(REQUEST_BUFFER),
            ..SocketOptions::new(bind)
        };
        Receiver::open(&options).map_err(|error| {
            port.refused_socket(error, take_over).context(format!(
                "--nack-addr {}, --nack-port {}",
                bind.ip(),
                bind.port()
            ))
        })
    }

    /// The sockets of one worker, joined to its groups.
    pub(super) fn open_data_sockets(&self, worker: usize) -> anyhow::Result<Vec<Joined>> {
        let options = SocketOptions {
            packet_info: true,
            receive_buffer: Some(self.config.store.recv_buf_bytes.as_usize()),
            ..SocketOptions::new(SocketAddr::new(wildcard(self.layout.fabric.is_v4()), 0))
        };
        let sources = self.sources();
        let open = self.layout.open_data(worker, self.config.store.listen_port, options, |_| sources.clone());
        open.context("--listen-port")
    }

    /// Sockets that take nothing but the beacon group, one for each interface that frames come from.
    pub(super) fn open_beacon_sockets(&self) -> anyhow::Result<Vec<Joined>> {
        let group = self.layout.fabric.address(GroupIndex::BEACON);
        let options = SocketOptions::new(SocketAddr::new(group, 0));
        let open = self.layout.open_control(group, self.config.beacon.beacon_port, options, &self.sources());
        open.context("--beacon-port")
    }

    /// Sources of every join; `None` is any.
    fn sources(&self) -> Vec<Option<IpAddr>> {
        match self.config.source_mode() {
            SourceMode::Asm => vec![None],
            SourceMode::Ssm => self.config.store.ssm_sources.iter().copied().map(Some).collect(),
        }
    }

    /// Sockets that multicast leaves by, one an interface.
    pub(super) fn open_links(&self) -> anyhow::Result<Vec<EgressLink>> {
        let fabric = &self.config.fabric;
        let bind = fabric.bind_source.unwrap_or_else(|| wildcard(self.layout.fabric.is_v4()));
        let open = |interface: &Interface| {
            let options = SocketOptions {
                interface: Some(interface.clone()),
                hop_limit: fabric.egress_hoplimit,
                loopback: fabric.egress_loop,
                ..SocketOptions::new(SocketAddr::new(bind, 0))
            };
            let sender =
                Sender::open(&options).with_context(|| format!("--egress-iface {}", interface.name))?;
            Ok(EgressLink { sender, interface: interface.clone() })
        };
        self.egress.iter().map(open).collect()
    }

    /// Where repairs go; its interfaces are in the order of `open_links`.
    pub(super) fn emit(&self) -> EmitConfig {
        let overhead = if self.layout.fabric.is_v4() { 28 } else { 48 };
        let interface = |interface: &Interface| EmitInterface {
            index: interface.index,
            frame_bytes: interface.mtu.saturating_sub(overhead),
        };
        EmitConfig {
            fabric: self.layout.fabric,
            port: self.config.repairs.egress_port,
            padding: self.config.repairs.train_padding,
            full_timeout: FULL_TIMEOUT,
            interfaces: self.egress.iter().map(interface).collect(),
        }
    }

    /// The socket for all upstreams, and what their client is told; `None` without an upstream.
    pub(super) fn open_upstream(&self) -> anyhow::Result<Option<(Receiver, UpstreamConfig)>> {
        let endpoints = self.config.upstreams.addresses()?;
        if endpoints.is_empty() {
            return Ok(None);
        }
        let bind = SocketAddr::new(wildcard(endpoints.iter().all(SocketAddr::is_ipv4)), 0);
        let socket = Receiver::open(&SocketOptions::new(bind)).context("--upstream")?;
        let config = UpstreamConfig {
            endpoints,
            shard_bits: self.shard_bits,
            most: self.config.upstreams.most(),
            timeout: self.config.upstreams.proxy_timeout,
        };
        Ok(Some((socket, config)))
    }

    /// What ADVERTs say. `nack`: where requests are taken.
    pub(super) fn advert(&self, nack: SocketAddr) -> anyhow::Result<AdvertContent> {
        let config = &self.config;
        let nack_addr = match nack.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        ensure!(
            !nack.ip().is_unspecified(),
            "--nack-addr {}: an ADVERT needs an address that listeners can reach",
            config.requests.nack_addr
        );
        let mut flags = Advert::RANGES;
        for (set, flag) in [
            (config.beacon.beacon_flags_multicast, Advert::MULTICAST),
            (config.beacon.beacon_flags_unicast, Advert::UNICAST),
            (config.upstreams.upstream.is_some(), Advert::HAS_PARENT),
        ] {
            if set {
                flags |= flag;
            }
        }
        let advert = Advert {
            scope: config.beacon.beacon_scope.code(),
            nack_addr,
            nack_port: nack.port(),
            tier: config.beacon.beacon_tier,
            preference: config.beacon.beacon_preference,
            interval_secs: u16::try_from(config.beacon.beacon_interval.as_secs()).unwrap_or(u16::MAX),
            flags,
            instance_id: Advert::instance_id_of(&config.common.instance()),
            max_range: config.requests.nack_max_range,
        };
        Ok(AdvertContent { advert })
    }
}

/// `--nack-addr`, or the first address of the first egress interface in the fabric's family.
fn nack_addr(config: &Config, fabric: &Fabric, egress: &[Interface]) -> anyhow::Result<IpAddr> {
    if config.requests.nack_addr != "auto" {
        let parsed = config.requests.nack_addr.parse();
        return parsed.with_context(|| {
            format!("--nack-addr {}: expected auto or an address", config.requests.nack_addr)
        });
    }
    let first = egress.first().context("--egress-iface: at least one interface is needed")?;
    let address = match fabric {
        Fabric::V4 { .. } => first.v4.first().copied().map(IpAddr::V4),
        Fabric::V6 { .. } => first.preferred_v6().map(IpAddr::V6),
    };
    address.with_context(|| format!("--nack-addr auto: {} has no address of the fabric's family", first.name))
}
