//! Every socket of the proxy, opened before a worker starts, so that what is wrong with one is an error at start.

use crate::config::{Config, TcpPort};
use crate::pipeline::admit::{IP_UDP, MAX_DATAGRAM};
use anyhow::{Context, bail};
use multicast_io::{Interface, Receiver, SocketOptions, wildcard};
use service::links::EmitSocket;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{SocketAddr, TcpListener};

const RECEIVE_BUFFER: usize = 4 << 20;
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
    /// Longest frame that no interface must cut.
    pub(super) max_segment: u16,
}

pub(super) fn open(config: &Config, workers: usize) -> anyhow::Result<Opened> {
    let interfaces = interfaces(config)?;
    let mut udp = SocketAddr::new(config.receiving.listen, config.receiving.udp_listen_port);
    let mut tcp = tcp_port(config).map(|port| SocketAddr::new(config.receiving.listen, port));
    let mut opened = Vec::new();
    for _ in 0..workers {
        let receiver = receiver(config, udp)?;
        udp = receiver.local_addr().context("reading the UDP port")?;
        let listener = tcp.map(listener).transpose()?;
        if let Some(listener) = &listener {
            tcp = Some(listener.local_addr().context("reading the TCP port")?);
        }
        let senders = interfaces.iter().map(|on| sender(config, on)).collect::<Result<_, _>>()?;
        opened.push(Sockets { receiver, listener, senders });
    }
    warn(&opened);
    let mtu = interfaces.iter().map(|on| on.mtu).min().unwrap_or(1500);
    let link = u16::try_from(mtu).unwrap_or(u16::MAX);
    let mtu = if config.sending.frag_mtu == 0 { link } else { link.min(config.sending.frag_mtu) };
    let most = u16::try_from(MAX_DATAGRAM).unwrap_or(u16::MAX);
    Ok(Opened { workers: opened, udp, tcp, max_segment: mtu.saturating_sub(IP_UDP).min(most) })
}

/// What TCP port to bind.
fn tcp_port(config: &Config) -> Option<u16> {
    match config.receiving.tcp_listen_port {
        TcpPort::Off => None,
        TcpPort::Auto => Some(0),
        TcpPort::Fixed(port) => Some(port),
    }
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

fn receiver(config: &Config, bind: SocketAddr) -> anyhow::Result<Receiver> {
    let mut options = SocketOptions::new(bind);
    options.reuse_port = true;
    options.gro = config.receiving.gro;
    options.dual_stack = bind.is_ipv6();
    options.receive_buffer = Some(match config.receiving.recv_buf_bytes.as_usize() {
        0 => RECEIVE_BUFFER,
        bytes => bytes,
    });
    Receiver::open(&options).context("--udp-listen-port")
}

fn sender(config: &Config, on: &Interface) -> anyhow::Result<EmitSocket> {
    let any = wildcard(config.fabric()?.is_v4());
    let mut options = SocketOptions::new(SocketAddr::new(config.fabric.bind_source.unwrap_or(any), 0));
    options.send_buffer = Some(config.sending.send_buf_bytes.as_usize());
    options.hop_limit = config.fabric.egress_hoplimit;
    options.loopback = config.fabric.egress_loop || config.common.debug;
    options.gso = config.sending.gso;
    EmitSocket::open("--iface", on, options)
}

fn listener(bind: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if bind.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.bind(&bind.into())?;
        socket.listen(TCP_QUEUE)?;
        Ok(socket.into())
    };
    open().with_context(|| format!("--tcp-listen-port: listening on {bind}"))
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
