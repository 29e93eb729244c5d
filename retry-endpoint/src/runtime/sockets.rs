//! Options turned into groups, interfaces, addresses and open sockets.

use super::upstream_client::UpstreamConfig;
use crate::config::Config;
use crate::needs::request_port;
use crate::pipeline::advertise::AdvertContent;
use crate::pipeline::emit::{EmitConfig, EmitInterface};
use anyhow::{Context, ensure};
use frame::{Advert, Fabric, GroupIndex, ShardBits, SourceMode};
use link_watch::{Family, Links, Need};
use multicast_io::{Interface, Joined, PortUse, Receiver, SocketOptions, wildcard};
use service::host::ports::Port;
use service::links::{Demand, Demands, EmitSocket};
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

/// `--nack-addr`: the endpoint chooses.
const AUTO: &str = "auto";

/// What the endpoint needs of its interfaces: to hear on some, to send by others, and the address that it takes requests on.
pub(super) fn demands(config: &Config) -> anyhow::Result<Demands> {
    let v4 = config.data_fabric()?.is_v4();
    let (ingress, egress) = (&config.fabric.iface.0, config.egress_interfaces());
    let auto = config.requests.nack_addr == AUTO;
    let sends = Need::address_of(Family::of(v4)).from_source(config.fabric.bind_source);
    let demand =
        |option, names: &[String], need, waits| Demand { option, names: names.to_vec(), need, waits };
    let demands = if ingress == egress {
        vec![demand("--iface", ingress, sends, auto)]
    } else {
        let hears = Need::none_of(Family::of(v4));
        vec![demand("--iface", ingress, hears, false), demand("--egress-iface", egress, sends, auto)]
    };
    let demands = Demands::new(demands).receive_v4(v4);
    Ok(match config.requests.nack_addr.parse::<IpAddr>() {
        Ok(ip) if !ip.is_unspecified() => demands.address("--nack-addr", ip),
        _ => demands,
    })
}

impl Sockets {
    /// The directory has a byte for the worker.
    const MOST_WORKERS: usize = 254;

    pub(super) fn new(config: Arc<Config>, links: &Links) -> anyhow::Result<Sockets> {
        let fabric = config.data_fabric()?;
        let shard_bits = config.shard_bits()?;
        let ingress = Layout::interfaces(&config.fabric.iface.0, "--iface")?;
        let egress = Layout::interfaces(config.egress_interfaces(), "--egress-iface")?;
        let groups = Layout::data_groups(shard_bits, |_| true, config.store.subtree_data_enabled);
        let mut layout = Layout::new(fabric, groups, ingress, config.store.workers);
        layout.workers = layout.workers.min(Sockets::MOST_WORKERS);
        let nack_addr = nack_addr(&config, &fabric, &egress, links)?;
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

    /// The socket that requests come in by.
    pub(super) fn open_request_socket(&self) -> anyhow::Result<Receiver> {
        let port = request_port(&self.config, self.nack_addr);
        open_request_socket(port, self.config.host.take_over, &self.egress_names())
    }

    /// Opens it again when its address changes.
    pub(super) fn request_address(&self, bound: SocketAddr) -> RequestAddress {
        RequestAddress {
            auto: self.config.requests.nack_addr == AUTO,
            v4: self.layout.fabric.is_v4(),
            egress: self.egress_names(),
            port: request_port(&self.config, bound.ip()),
            take_over: self.config.host.take_over,
            bound,
            index: self.egress.iter().find(|on| has(on, bound.ip())).map(|on| on.index),
        }
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
    pub(super) fn open_links(&self) -> anyhow::Result<Vec<EmitSocket>> {
        let fabric = &self.config.fabric;
        let bind = fabric.bind_source.unwrap_or_else(|| wildcard(self.layout.fabric.is_v4()));
        let open = |interface: &Interface| {
            let options = SocketOptions {
                hop_limit: fabric.egress_hoplimit,
                loopback: fabric.egress_loop,
                ..SocketOptions::new(SocketAddr::new(bind, 0))
            };
            EmitSocket::open("--egress-iface", interface, options)
        };
        self.egress.iter().map(open).collect()
    }

    /// Where repairs go; its interfaces are in the order of `open_links`.
    pub(super) fn emit(&self) -> EmitConfig {
        let overhead = if self.layout.fabric.is_v4() { 28 } else { 48 };
        let interface =
            |interface: &Interface| EmitInterface { frame_bytes: interface.mtu.saturating_sub(overhead) };
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

fn has(interface: &Interface, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => interface.v4.contains(&v4),
        IpAddr::V6(v6) => interface.v6.contains(&v6),
    }
}

fn open_request_socket(port: Port, take_over: bool, egress: &[String]) -> anyhow::Result<Receiver> {
    let bind = port.address;
    // A link-local address means nothing without its interface.
    let of_link = matches!(bind.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    let on = egress.iter().filter(|_| of_link).filter_map(|name| Interface::by_name(name).ok());
    let options = SocketOptions {
        interface: on.into_iter().find(|on| has(on, bind.ip())),
        packet_info: true,
        port_use: PortUse::of(0, take_over),
        dual_stack: bind.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        receive_buffer: Some(REQUEST_BUFFER),
        send_buffer: Some(REQUEST_BUFFER),
        ..SocketOptions::new(bind)
    };
    Receiver::open(&options).map_err(|error| {
        let what = format!("--nack-addr {}, --nack-port {}", bind.ip(), bind.port());
        port.refused_socket(error, take_over).context(what)
    })
}

/// `--nack-addr`, or the first usable address of the first egress interface in the fabric's family.
fn nack_addr(
    config: &Config,
    fabric: &Fabric,
    egress: &[Interface],
    links: &Links,
) -> anyhow::Result<IpAddr> {
    if config.requests.nack_addr != AUTO {
        let parsed = config.requests.nack_addr.parse();
        return parsed.with_context(|| {
            format!("--nack-addr {}: expected auto or an address", config.requests.nack_addr)
        });
    }
    let first = egress.first().context("--egress-iface: at least one interface is needed")?;
    let address = links.by_name(&first.name).and_then(|link| link.usable(fabric.is_v4()).next());
    address.with_context(|| format!("--nack-addr auto: {} has no address of the fabric's family", first.name))
}

/// The address that requests are taken on, while addresses come and go.
pub(super) struct RequestAddress {
    auto: bool,
    v4: bool,
    egress: Vec<String>,
    port: Port,
    take_over: bool,
    /// What the socket is bound to.
    bound: SocketAddr,
    /// The interface that had the address when it was bound.
    index: Option<u32>,
}

/// What to do about the request socket.
pub(super) enum Rebind {
    /// It is as it should be.
    Stay,
    /// Its address is not there: nobody can ask.
    Gone,
    /// This one takes its place, bound to this address.
    Opened(Box<Receiver>, SocketAddr),
}

impl RequestAddress {
    /// Looks at the address. The one that is bound is kept while it is there; where the endpoint chooses, the next valid one
    /// is taken.
    pub(super) fn follow(&mut self, links: &Links) -> anyhow::Result<Rebind> {
        let ip = self.bound.ip();
        if ip.is_unspecified() {
            return Ok(Rebind::Stay);
        }
        let Some((wanted, index)) = self.choose(links) else { return Ok(Rebind::Gone) };
        // Only a socket with a link-local address is bound to an interface too.
        let of_link = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        if wanted == ip && (!of_link || self.index == Some(index)) {
            return Ok(Rebind::Stay);
        }
        let bind = SocketAddr::new(wanted, self.bound.port());
        let port = Port { address: bind, ..self.port };
        let socket = open_request_socket(port, self.take_over, &self.egress)?;
        (self.bound, self.index) = (bind, Some(index));
        Ok(Rebind::Opened(Box::new(socket), bind))
    }

    /// What the socket is bound to.
    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// The address to take requests on, and the number of its interface.
    fn choose(&self, links: &Links) -> Option<(IpAddr, u32)> {
        let ip = self.bound.ip();
        let kept = links.with_address(ip).filter(|link| link.address(ip).is_some_and(|a| a.is_usable()));
        let kept = kept.map(|link| (ip, link.index));
        let next = || {
            let link = self.egress.first().and_then(|name| links.by_name(name))?;
            Some((link.usable(self.v4).next()?, link.index))
        };
        kept.or_else(|| if self.auto { next() } else { None })
    }
}
