//! What a proxy needs of its host.

use crate::config::{Config, ReceiveArgs, TcpPort};
use cache_backend::Settings;
use service::config::Invalid;
use service::host::memory::{Size, Use};
use service::host::ports::{Port, Protocol};
use service::host::{Link, Needs};
use std::net::SocketAddr;
use txidset::LocalSet;

/// What a claim takes in the memory store: key, value, its index.
const MEMORY_RECORD: usize = 128;

/// What the options need of the host.
///
/// # Errors
/// As [`Config::check`](crate::config::Config::check).
pub fn needs(config: &Config) -> Result<Needs, Invalid> {
    config.check()?;
    let v4 = config.fabric()?.is_v4();
    let least_mtu = (config.sending.frag_mtu != 0).then(|| ("--frag-mtu", config.sending.frag_mtu.into()));
    let link = |name: &String| Link { option: "--iface", name: name.clone(), least_mtu, v4 };
    let tcp = tcp_port(&config.receiving);
    let listen = config.receiving.listen;
    let mut needs = Needs {
        links: config.fabric.iface.0.iter().map(link).collect(),
        addresses: config.fabric.bind_source.map(|source| ("--bind-source", source)).into_iter().collect(),
        ports: [Some(udp_port(&config.receiving)), tcp].into_iter().flatten().collect(),
        sizes: sizes(config),
        connections: tcp.map_or(0, |_| config.streams.tcp_max_connections),
        ..Needs::default()
    };
    needs.addresses.push(("--listen", listen));
    let state = config.flows.state_dir.iter().map(|path| path.display().to_string());
    needs.files.extend(state.map(|path| ("--state-dir".to_owned(), path)));
    if config.claims.enabled() {
        needs.store("--cache-backend", config.backend_settings()?);
    }
    Ok(needs)
}

/// Every bound of memory.
fn sizes(config: &Config) -> Vec<Size> {
    let workers = service::worker_count(config.receiving.workers);
    let outlets = workers * config.fabric.iface.0.len();
    let mut sizes = vec![
        Size::heap("--send-backlog-bytes", config.sending.send_backlog_bytes.bytes(), outlets),
        Size {
            option: "--recv-buf-bytes",
            each: receive_buffer(&config.receiving) as u64,
            times: workers as u64,
            what: Use::ReceiveBuffer,
        },
        Size {
            option: "--send-buf-bytes",
            each: config.sending.send_buf_bytes.bytes(),
            times: outlets as u64,
            what: Use::SendBuffer,
        },
    ];
    if config.claims.enabled() {
        let tier1 = match config.claims.dedup_memory {
            Some(bytes) => Size::heap("--dedup-memory", bytes.bytes(), 1),
            None => Size::heap("--txid-dedup-local-cap", LocalSet::bytes_of(tier1_entries(config)) as u64, 1),
        };
        sizes.extend([
            tier1,
            Size::heap("--slab-bytes", config.claims.slab_bytes.bytes(), workers),
            Size::heap("--claim-park-bytes", config.claims.claim_park_bytes.bytes(), workers),
        ]);
    }
    if config.receiving.tcp_listen_port != TcpPort::Off {
        sizes.push(Size::heap("--tcp-buffer-bytes", config.streams.tcp_buffer_bytes.bytes(), 1));
    }
    sizes
}

/// Receive buffer of a UDP socket where none is given.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Receive buffer of each UDP socket.
pub(crate) fn receive_buffer(args: &ReceiveArgs) -> usize {
    match args.recv_buf_bytes.as_usize() {
        0 => RECEIVE_BUFFER,
        bytes => bytes,
    }
}

/// Where datagrams are taken.
pub(crate) fn udp_port(args: &ReceiveArgs) -> Port {
    Port {
        option: "--udp-listen-port",
        protocol: Protocol::Udp,
        address: SocketAddr::new(args.listen, args.udp_listen_port),
    }
}

/// Where connections are taken.
pub(crate) fn tcp_port(args: &ReceiveArgs) -> Option<Port> {
    let port = match args.tcp_listen_port {
        TcpPort::Off => return None,
        TcpPort::Auto => 0,
        TcpPort::Fixed(port) => port,
    };
    let address = SocketAddr::new(args.listen, port);
    Some(Port { option: "--tcp-listen-port", protocol: Protocol::Tcp, address })
}

/// Ids that tier 1 holds.
pub(crate) fn tier1_entries(config: &Config) -> usize {
    let store = match config.backend_settings() {
        Ok(Settings::Memory { bytes }) => bytes / MEMORY_RECORD,
        _ => 0,
    };
    match config.claims.dedup_memory {
        Some(bytes) => LocalSet::entries_in(bytes.as_usize()),
        None => config.claims.txid_dedup_local_cap.max(store),
    }
}
