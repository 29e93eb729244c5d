//! Fetches misses from upstream endpoints: one request for all who ask, the frame goes to its worker, which keeps and
//! replays it.
//!
//! One socket; data is taken from the address of any upstream whatever its port (Go endpoints send data from another one).
//! Requests name single numbers: nothing says whether an upstream serves ranges.

use super::counters::ControlCells;
use super::post::{Inlet, Post, ToWorker};
use crate::pipeline::admit::admit;
use crate::pipeline::upstream::{Ask, Fetches, Wanted, Wish};
use bytes::Bytes;
use frame::control::{Ack, Nack, Response};
use frame::{Kind, ShardBits};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;

pub(crate) struct Upstream {
    pub(crate) endpoints: Vec<SocketAddr>,
    pub(crate) fetches: Fetches,
    pub(crate) shard_bits: ShardBits,
    pub(crate) post: Post,
    pub(crate) cells: Arc<ControlCells>,
}

impl Upstream {
    /// Runs until `stop` completes.
    pub(crate) async fn run(
        mut self,
        socket: std::net::UdpSocket,
        mut wishes: Inlet<Wanted>,
        stop: impl Future<Output = ()>,
    ) {
        let socket = match UdpSocket::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => return tracing::error!("upstream socket: {error}"),
        };
        let mut buffer = vec![0; 65_536];
        let mut sweep = tokio::time::interval(Duration::from_millis(20));
        let mut asks = Vec::new();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                wanted = wishes.next() => {
                    let Some(wanted) = wanted else { return };
                    match self.fetches.wish(wanted, Instant::now()) {
                        Wish::Ask(ask) => asks.push(ask),
                        Wish::Collapsed => self.cells.proxy_collapsed.add(1),
                        Wish::Full => self.cells.proxy_dropped.add(1),
                    }
                }
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((len, source)) => self.take(&buffer[..len], source, &mut asks),
                    // ICMP of an upstream that is down; the timeout moves on.
                    Err(error) => service::limited!(debug, 1, "upstream: {error}"),
                },
                _ = sweep.tick() => {
                    let ended = self.fetches.overdue(Instant::now(), &mut asks);
                    self.cells.proxy_timeout.add(ended as u64);
                }
                () = &mut stop => return,
            }
            for ask in asks.drain(..) {
                self.request(&socket, ask).await;
            }
        }
    }

    async fn request(&self, socket: &UdpSocket, ask: Ask) {
        let (hash_key, seq) = ask.wanted;
        let flags = Nack::PROXIED | Nack::EXTENDED;
        let nack = Nack { flags, hash_key, start: seq, end: seq, subtree_id: [0; 32] };
        let Some(&endpoint) = self.endpoints.get(ask.endpoint) else { return };
        // A refused request is a lost one: the timeout moves on.
        match socket.send_to(&nack.encode(), endpoint).await {
            Ok(_) => self.cells.proxy_requests.add(1),
            Err(error) => service::limited!(warn, 1, "request to upstream {endpoint}: {error}"),
        }
    }

    fn take(&mut self, datagram: &[u8], source: SocketAddr, asks: &mut Vec<Ask>) {
        if !self.endpoints.iter().any(|endpoint| endpoint.ip().to_canonical() == source.ip().to_canonical()) {
            return;
        }
        match Kind::of(datagram) {
            Ok(Kind::Ack | Kind::Miss | Kind::Throttled) => self.take_reply(datagram, source, asks),
            Ok(_) => {
                let Ok(frame) = admit(datagram) else { return };
                if self.fetches.arrived((frame.hash_key, frame.seq)) {
                    self.cells.proxy_recovered.add(1);
                    let worker = usize::from(super::worker::group_of(&frame, self.shard_bits).0);
                    self.post.send(worker, ToWorker::Fetched { frame: Bytes::copy_from_slice(frame.bytes) });
                }
            }
            Err(_) => {}
        }
    }

    /// Only an extended MISS says which number it is about.
    fn take_reply(&mut self, datagram: &[u8], source: SocketAddr, asks: &mut Vec<Ask>) {
        let Ok(Response { verdict: Ack::Miss, extended: Some(about), .. }) = Response::decode(datagram)
        else {
            return;
        };
        let Some(endpoint) = self.endpoints.iter().position(|endpoint| *endpoint == source) else { return };
        let wanted = (about.hash_key, about.start);
        let pending = self.fetches.pending();
        if let Some(ask) = self.fetches.missed(wanted, endpoint, Instant::now()) {
            asks.push(ask);
        } else if self.fetches.pending() < pending {
            self.cells.proxy_miss.add(1);
        }
    }
}
