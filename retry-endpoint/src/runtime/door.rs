//! The request port: one thread that receives NACKs in batches, refuses what is malformed or too much, hands the rest to
//! the worker of the flow, and sends what the workers answer.
//!
//! Replies and unicast repairs leave from this socket and from the address that the request hit, because that is the
//! endpoint the requester knows (firewalls insist on it). An ACK is built after the last repair of its answer was taken.

use super::counters::DoorCells;
use super::post::{Inlet, Post, ToDoor, ToWorker};
use crate::config::Config;
use crate::pipeline::answer::Request;
use crate::pipeline::limit::{RequestLimits, Trusted};
use frame::control::{Ack, Response};
use multicast_io::{Burst, Ready, Receiver, loss::Loss};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Datagrams a receive call takes, and calls before the replies get their turn.
const BATCH: usize = 64;
const TURNS: usize = 4;
/// Longest wait for a full socket buffer.
const PATIENCE: Duration = Duration::from_millis(5);

pub(crate) struct Door {
    socket: Ready<Receiver>,
    burst: Burst,
    limits: RequestLimits,
    trusted: Trusted,
    post: Post,
    cells: Arc<DoorCells>,
    loss: Option<Loss>,
    max_range: u64,
    suppress_ack: bool,
    suppress_miss: bool,
    throttle: bool,
}

impl Door {
    /// Must be called on the door's runtime.
    pub(crate) fn new(
        socket: Receiver,
        config: &Config,
        post: Post,
        cells: Arc<DoorCells>,
        seed: u64,
    ) -> io::Result<Door> {
        let percent = config.inject_loss.percent();
        let loss = (percent > 0.0).then(|| Loss::new(percent, config.inject_seed ^ 0xD00A));
        Ok(Door {
            socket: Ready::new(socket)?,
            burst: Burst::new(BATCH, 0),
            limits: RequestLimits::new(config.request_rates(), seed, Instant::now()),
            trusted: Trusted::new(config.trusted_listeners.clone()),
            post,
            cells,
            loss,
            max_range: u64::from(config.nack_max_range),
            suppress_ack: config.suppress_ack,
            suppress_miss: config.suppress_miss,
            throttle: config.rl_throttle_response,
        })
    }

    /// Runs until `stop` completes.
    pub(crate) async fn run(mut self, mut answers: Inlet<ToDoor>, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        loop {
            tokio::select! {
                ready = poll_fn(|context| self.socket.poll_readable(context)) => {
                    if let Err(error) = ready {
                        service::limited!(error, 1, "request socket: {error}");
                        return;
                    }
                    self.receive().await;
                }
                answer = answers.next() => {
                    let Some(answer) = answer else { return };
                    self.send(answer).await;
                    for _ in 0..BATCH {
                        let Some(answer) = answers.ready() else { break };
                        self.send(answer).await;
                    }
                }
                () = &mut stop => return,
            }
        }
    }

    async fn receive(&mut self) {
        for _ in 0..TURNS {
            self.burst.clear();
            let burst = &mut self.burst;
            let received = self.socket.try_read(|socket| socket.receive(burst, BATCH));
            match received {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    service::limited!(error, 1, "request socket: receive: {error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    break;
                }
            }
            if let Some(loss) = &mut self.loss {
                loss.apply(&mut self.burst, 0);
                self.cells.injected.set(loss.dropped());
            }
            let now = Instant::now();
            for at in 0..self.burst.arrivals().len() {
                self.take(at, now).await;
            }
        }
        self.cells.kernel_drops.set(self.socket.get_ref().kernel_drops());
    }

    /// One datagram on the request port.
    async fn take(&mut self, at: usize, now: Instant) {
        let arrival = self.burst.arrivals()[at];
        let bytes = self.burst.bytes(arrival.span);
        let request = match Request::read(bytes, arrival.source, arrival.destination, self.max_range) {
            Ok(request) => request,
            Err(bad) => return self.cells.refused[bad.index()].add(1),
        };
        self.cells.requests.add(1);
        if let Err(level) = self.limits.check(request.source.ip(), &request.nack, now) {
            self.cells.limited[level.index()].add(1);
            if self.throttle && self.trusted.contains(request.source.ip()) {
                self.reply(&request, &request.throttled(level)).await;
            }
            return;
        }
        let home = self.post.home(request.nack.hash_key.0);
        if !self.post.send(home, ToWorker::Ask { request, visited: 0 }) {
            self.cells.queue_dropped.add(1);
        }
    }

    /// Unicast repairs first, then the reply that says what was sent.
    async fn send(&mut self, answer: ToDoor) {
        let ToDoor { request, mut done, frames, memory } = answer;
        let mut start = 0;
        for (offset, end) in frames {
            if let Some(bytes) = memory.get(start..end)
                && self.hand_over(&request, bytes).await
            {
                done.unicast.insert(offset);
                self.cells.unicast.add(1);
            }
            start = end;
        }
        let say_throttled = self.throttle && self.trusted.contains(request.source.ip());
        if let Some(response) = done.reply(&request, say_throttled) {
            self.reply(&request, &response).await;
        }
    }

    async fn reply(&mut self, request: &Request, response: &Response) {
        let count = match response.verdict {
            Ack::Ack { .. } if self.suppress_ack => return,
            Ack::Miss if self.suppress_miss => return,
            Ack::Ack { .. } => &self.cells.acks,
            Ack::Miss => &self.cells.misses,
            Ack::Throttled { .. } => &self.cells.throttled,
        };
        let mut out = [0; Response::MAX_LEN];
        let len = response.encode(&mut out);
        if self.hand_over(request, &out[..len]).await {
            count.add(1);
        }
    }

    async fn hand_over(&self, request: &Request, bytes: &[u8]) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let to: SocketAddr = request.source;
        loop {
            match self.socket.get_ref().send_to(bytes, to, request.local) {
                Ok(()) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(error) => {
                    self.cells.errors.add(1);
                    service::limited!(warn, 1, "reply to {to}: {error}");
                    return false;
                }
            }
        }
    }
}
