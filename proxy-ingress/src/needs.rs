//! What a proxy needs of its host.

use crate::config::{Config, ReceiveArgs, TcpPort};
use crate::runtime::tier1_entries;
use service::config::Invalid;
use service::host::memory::{Size, Use};
use service::host::ports::{Port, Protocol};
use service::host::{Link, Needs};
use std::net::SocketAddr;
use txidset::LocalSet;

impl Config {
    /// What the options need of the host.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn needs(&self) -> Result<Needs, Invalid> {
        self.check()?;
        let v4 = self.fabric()?.is_v4();
        let least_mtu = (self.sending.frag_mtu != 0).then(|| ("--frag-mtu", self.sending.frag_mtu.into()));
        let link = |name: &String| Link { option: "--iface", name: name.clone(), least_mtu, v4 };
        let tcp = self.receiving.tcp_port();
        let listen = self.receiving.listen;
        let mut needs = Needs {
            links: self.fabric.iface.0.iter().map(link).collect(),
            addresses: self.fabric.bind_source.map(|source| ("--bind-source", source)).into_iter().collect(),
            ports: [Some(self.receiving.udp_port()), tcp].into_iter().flatten().collect(),
            sizes: self.sizes(),
            connections: tcp.map_or(0, |_| self.streams.tcp_max_connections),
            ..Needs::default()
        };
        needs.addresses.push(("--listen", listen));
        let state = self.flows.state_dir.iter().map(|path| path.display().to_string());
        needs.files.extend(state.map(|path| ("--state-dir".to_owned(), path)));
        if self.claims.enabled() {
            needs.store("--cache-backend", self.backend_settings()?);
        }
        Ok(needs)
    }

    /// Every bound of memory.
    fn sizes(&self) -> Vec<Size> {
        let workers = service::worker_count(self.receiving.workers);
        let outlets = workers * self.fabric.iface.0.len();
        let mut sizes = vec![
            Size::heap("--send-backlog-bytes", self.sending.send_backlog_bytes.bytes(), outlets),
            Size {
                option: "--recv-buf-bytes",
                each: self.receiving.receive_buffer() as u64,
                times: workers as u64,
                what: Use::ReceiveBuffer,
            },
            Size {
                option: "--send-buf-bytes",
                each: self.sending.send_buf_bytes.bytes(),
                times: outlets as u64,
                what: Use::SendBuffer,
            },
        ];
        if self.claims.enabled() {
            let tier1 = match self.claims.dedup_memory {
                Some(bytes) => Size::heap("--dedup-memory", bytes.bytes(), 1),
                None => {
                    Size::heap("--txid-dedup-local-cap", LocalSet::bytes_of(tier1_entries(self)) as u64, 1)
                }
            };
            sizes.extend([
                tier1,
                Size::heap("--slab-bytes", self.claims.slab_bytes.bytes(), workers),
                Size::heap("--claim-park-bytes", self.claims.claim_park_bytes.bytes(), workers),
            ]);
        }
        if self.receiving.tcp_listen_port != TcpPort::Off {
            sizes.push(Size::heap("--tcp-buffer-bytes", self.streams.tcp_buffer_bytes.bytes(), 1));
        }
        sizes
    }
}

/// Receive buffer of a UDP socket where none is given.
const RECEIVE_BUFFER: usize = 4 << 20;

impl ReceiveArgs {
    /// Receive buffer of each UDP socket.
    pub(crate) fn receive_buffer(&self) -> usize {
        match self.recv_buf_bytes.as_usize() {
            0 => RECEIVE_BUFFER,
            bytes => bytes,
        }
    }

    /// Where datagrams are taken.
    pub(crate) fn udp_port(&self) -> Port {
        Port {
            option: "--udp-listen-port",
            protocol: Protocol::Udp,
            address: SocketAddr::new(self.listen, self.udp_listen_port),
        }
    }

    /// Where connections are taken.
    pub(crate) fn tcp_port(&self) -> Option<Port> {
        let port = match self.tcp_listen_port {
            TcpPort::Off => return None,
            TcpPort::Auto => 0,
            TcpPort::Fixed(port) => port,
        };
        let address = SocketAddr::new(self.listen, port);
        Some(Port { option: "--tcp-listen-port", protocol: Protocol::Tcp, address })
    }
}
