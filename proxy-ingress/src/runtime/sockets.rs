//! Every socket of the proxy, opened before a worker starts, so that what is wrong with one is an error at start.

use crate::config::Config;
use crate::needs;
use crate::pipeline::admit::{IP_UDP, MAX_DATAGRAM};
use anyhow::{Context, bail};
use multicast_io::{Interface, PortUse, Receiver, SocketOptions, wildcard};
use service::host::ports::{self, Owner, Port, Sign};
use service::links::EmitSocket;
use std::net::{SocketAddr, TcpListener};

const TCP_QUEUE: i32 = 1024;

/// Sockets of one worker.
pub(super) struct Sockets {
    /// The shared UDP port.
    pub(super) receiver: Receiver,
    /// The shared TCP port.
    pub(super) listener: Option<TcpListener>,
    /// One for each emit interface.
    pub(super) senders: Vec<EmitSocket>,
}

/// Sockets of all workers.
pub(super) struct Opened {
    pub(super) workers: Vec<Sockets>,
    pub(super) udp: SocketAddr,
    pub(super) tcp: Option<SocketAddr>,
    /// Who has the ports.
    pub(super) signs: Vec<Sign>,
    /// Longest frame that no interface must cut.
    pub(super) max_segment: u16,
}

pub(super) fn open(config: &Config, workers: usize) -> anyhow::Result<Opened> {
    let interfaces = interfaces(config)?;
    let mut udp = needs::udp_port(&config.receiving);
    let mut tcp = needs::tcp_port(&config.receiving);
    let mut opened = Vec::new();
    for index in 0..workers {
        let port_use = PortUse::of(index, config.host.take_over);
        let receiver = receiver(config, udp, port_use)?;
        udp.address = receiver.local_addr().context("reading the UDP port")?;
        let listener = tcp.map(|port| listener(config, port, port_use)).transpose()?;
        if let (Some(listener), Some(tcp)) = (&listener, &mut tcp) {
            tcp.address = listener.local_addr().context("reading the TCP port")?;
        }
        let senders = interfaces.iter().map(|on| sender(config, on)).collect::<Result<_, _>>()?;
        opened.push(Sockets { receiver, listener, senders });
    }
    warn(&opened);
    let mtu = interfaces.iter().map(|on| on.mtu).min().unwrap_or(1500);
    let link = u16::try_from(mtu).unwrap_or(u16::MAX);
    let mtu = if config.sending.frag_mtu == 0 { link } else { link.min(config.sending.frag_mtu) };
    let most = u16::try_from(MAX_DATAGRAM).unwrap_or(u16::MAX);
    let owner = Owner::new("proxy", &config.common.instance());
    let signs = [Some(udp), tcp].into_iter().flatten().map(|port| Sign::put(&port, &owner)).collect();
    Ok(Opened {
        workers: opened,
        udp: udp.address,
        tcp: tcp.map(|port| port.address),
        signs,
        max_segment: mtu.saturating_sub(IP_UDP).min(most),
    })
}

fn interfaces(config: &Config) -> anyhow::Result<Vec<Interface>> {
    let mut found = Vec::new();
    for name in &config.fabric.iface.0 {
        let interface = Interface::by_name(name).context("--iface")?;
        if config.sending.frag_mtu != 0 && interface.mtu < u32::from(config.sending.frag_mtu) {
            bail!(
                "--frag-mtu {}: interface {name} carries packets of at most {} bytes; use --frag-mtu={} or less",
                config.sending.frag_mtu,
                interface.mtu,
                interface.mtu
            );
        }
        found.push(interface);
    }
    Ok(found)
}

fn receiver(config: &Config, port: Port, port_use: PortUse) -> anyhow::Result<Receiver> {
    let mut options = SocketOptions::new(port.address);
    options.port_use = port_use;
    options.gro = config.receiving.gro;
    options.dual_stack = port.address.is_ipv6();
    options.receive_buffer = Some(needs::receive_buffer(&config.receiving));
    Receiver::open(&options).map_err(|error| port.refused_socket(error, config.host.take_over))
}

fn sender(config: &Config, on: &Interface) -> anyhow::Result<EmitSocket> {
    let any = wildcard(config.fabric()?.is_v4());
    let mut options = SocketOptions::new(SocketAddr::new(config.fabric.bind_source.unwrap_or(any), 0));
    options.send_buffer = Some(config.sending.send_buf_bytes.as_usize());
    options.hop_limit = config.fabric.egress_hoplimit;
    options.loopback = config.fabric.egress_loop;
    options.gso = config.sending.gso;
    EmitSocket::open("--iface", on, options)
}

fn listener(config: &Config, port: Port, port_use: PortUse) -> anyhow::Result<TcpListener> {
    let opened = ports::listen(&port, port_use, TCP_QUEUE);
    opened.map_err(|error| port.refused(error, config.host.take_over))
}

/// Says once what holds for the sockets of every worker.
fn warn(opened: &[Sockets]) {
    let Some(first) = opened.first() else { return };
    for warning in first
        .receiver
        .warnings()
        .iter()
        .chain(first.senders.iter().flat_map(|socket| socket.sender().warnings()))
    {
        tracing::warn!("{warning}");
    }
}
