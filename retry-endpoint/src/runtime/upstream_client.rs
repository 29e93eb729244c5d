//! Fetches misses from upstream endpoints: one request for all who ask. The frame goes to its worker, which keeps and replays
//! it.
//!
//! One socket for all upstreams. Data is taken from the address of any upstream, whatever its port, because Go endpoints send
//! data from another port. Requests name single numbers: nothing says whether an upstream serves ranges.

use super::counters::ControlCells;
use super::mailboxes::WorkerMailboxes;
use crate::pipeline::admit::admit;
use crate::pipeline::round::Message;
use crate::pipeline::upstream::{FetchStart, Fetches, FrameKey, UpstreamRequest};
use bytes::Bytes;
use frame::control::{Ack, Nack, Response};
use frame::{Kind, ShardBits};
use multicast_io::{Burst, Receiver};
use service::worker::{Inlet, Intake, IntakeRules, Mailbox, owner};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Datagrams of one receive call.
const BATCH: usize = 16;
/// How often overdue fetches are looked for.
const SWEEP: Duration = Duration::from_millis(20);

/// What the client is told at its start.
pub(super) struct UpstreamConfig {
    pub(super) endpoints: Vec<SocketAddr>,
    pub(super) shard_bits: ShardBits,
    /// Fetches at a time.
    pub(super) most: usize,
    /// Time for each upstream.
    pub(super) timeout: Duration,
}

pub(super) struct UpstreamClient {
    endpoints: Vec<SocketAddr>,
    shard_bits: ShardBits,
    fetches: Fetches,
    /// Requests that are to be sent.
    requests: Vec<UpstreamRequest>,
    intake: Intake<()>,
    workers: WorkerMailboxes,
    cells: Arc<ControlCells>,
}

impl UpstreamClient {
    /// Must be called on the runtime of its thread.
    pub(super) fn new(
        socket: Receiver,
        config: UpstreamConfig,
        workers: WorkerMailboxes,
        cells: Arc<ControlCells>,
    ) -> io::Result<UpstreamClient> {
        let inlet = Inlet { tag: (), name: "--upstream", receiver: socket, memberships: None };
        let rules = IntakeRules { messages: BATCH, ..IntakeRules::default() };
        Ok(UpstreamClient {
            fetches: Fetches::new(config.most, config.endpoints.len(), config.timeout),
            endpoints: config.endpoints,
            shard_bits: config.shard_bits,
            requests: Vec::new(),
            intake: Intake::new(rules, vec![inlet])?,
            workers,
            cells,
        })
    }

    /// Runs until `stop` completes.
    pub(super) async fn run(mut self, mut wanted: Mailbox<FrameKey>, stop: impl Future<Output = ()>) {
        let mut burst = Burst::new(BATCH, 0);
        let mut sweep = tokio::time::interval(SWEEP);
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                key = wanted.next() => {
                    let Some(key) = key else { return };
                    self.start(key);
                }
                () = self.intake.ready() => {
                    while let Some(()) = self.intake.next(&mut burst) {
                        for arrival in burst.arrivals() {
                            self.take(burst.bytes(arrival.span), arrival.source);
                        }
                    }
                }
                _ = sweep.tick() => {
                    let ended = self.fetches.overdue(Instant::now(), &mut self.requests);
                    self.cells.proxy_timeout.add(ended as u64);
                }
                () = &mut stop => return,
            }
            self.send_requests();
        }
    }

    fn start(&mut self, wanted: FrameKey) {
        match self.fetches.start(wanted, Instant::now()) {
            FetchStart::Ask(request) => self.requests.push(request),
            FetchStart::Collapsed => self.cells.proxy_collapsed.add(1),
            FetchStart::Full => self.cells.proxy_dropped.add(1),
        }
    }

    /// A refused request is a lost one: the timeout moves on.
    fn send_requests(&mut self) {
        let Some((_, socket)) = self.intake.sockets().next() else { return };
        for UpstreamRequest { wanted: FrameKey { hash_key, seq }, endpoint } in self.requests.drain(..) {
            let flags = Nack::PROXIED | Nack::EXTENDED;
            let nack = Nack { flags, hash_key, start: seq, end: seq, subtree_id: [0; 32] };
            let Some(&endpoint) = self.endpoints.get(endpoint) else { continue };
            match socket.send_to(&nack.encode(), endpoint, None) {
                Ok(()) => self.cells.proxy_requests.add(1),
                Err(error) => service::limited!(warn, 1, "request to upstream {endpoint}: {error}"),
            }
        }
    }

    fn take(&mut self, datagram: &[u8], source: SocketAddr) {
        if !self.endpoints.iter().any(|endpoint| endpoint.ip().to_canonical() == source.ip().to_canonical()) {
            return;
        }
        match Kind::of(datagram) {
            Ok(Kind::Ack | Kind::Miss | Kind::Throttled) => self.take_reply(datagram, source),
            Ok(_) => self.take_frame(datagram),
            Err(_) => {}
        }
    }

    fn take_frame(&mut self, datagram: &[u8]) {
        let Ok(frame) = admit(datagram) else { return };
        if self.fetches.arrived(FrameKey { hash_key: frame.hash_key, seq: frame.seq }) {
            self.cells.proxy_recovered.add(1);
            let worker = owner(frame.group(self.shard_bits), self.workers.workers());
            // A full mailbox loses the frame as the network may: the listener asks again.
            let _ =
                self.workers.send(worker, Message::FetchDone { frame: Bytes::copy_from_slice(frame.bytes) });
        }
    }

    /// Only an extended MISS says which number it is about.
    fn take_reply(&mut self, datagram: &[u8], source: SocketAddr) {
        let Ok(Response { verdict: Ack::Miss, extended: Some(about), .. }) = Response::decode(datagram)
        else {
            return;
        };
        let Some(endpoint) = self.endpoints.iter().position(|endpoint| *endpoint == source) else { return };
        let wanted = FrameKey { hash_key: about.hash_key, seq: about.start };
        let pending = self.fetches.pending();
        if let Some(request) = self.fetches.missed(wanted, endpoint, Instant::now()) {
            self.requests.push(request);
        } else if self.fetches.pending() < pending {
            self.cells.proxy_miss.add(1);
        }
    }
}
