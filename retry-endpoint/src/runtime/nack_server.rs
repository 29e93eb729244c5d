//! The NACK server: one thread that owns the request port.
//!
//! It takes requests in batches, refuses what is malformed or too much, hands the rest to the worker of the flow, and sends
//! what the workers answer. Replies and unicast repairs leave from this socket and from the address that the request hit,
//! because that is the endpoint the requester knows (firewalls insist on it).
//!
//! Promise: an ACK is built after the last unicast repair of its answer was taken. Limit: a full socket is waited for
//! [`FULL_TIMEOUT`] at most; what is not sent then is asked for again.

use super::counters::NackServerCells;
use super::mailboxes::WorkerMailboxes;
use super::sockets::{Rebind, RequestAddress};
use crate::config::Config;
use crate::pipeline::answer::{Answer, Request};
use crate::pipeline::limit::{RequestLimits, Trusted};
use crate::pipeline::numbers::Numbers;
use crate::pipeline::round::Message;
use frame::control::{Ack, Response};
use multicast_io::{Burst, Receiver};
use service::links::Feed;
use service::worker::{Inlet, Intake, IntakeRules, Mailbox, end_process};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Datagrams that a receive call takes, and calls before the replies get their turn.
const BATCH: usize = 64;
const CALLS: usize = 4;
/// Longest wait for a full socket.
const FULL_TIMEOUT: Duration = Duration::from_millis(5);
/// How often a full socket is tried.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Where requests are taken, while addresses come and go.
pub(super) struct Requests {
    pub(super) address: RequestAddress,
    pub(super) links: Feed,
    /// To the beacon; `None` while the address is gone.
    pub(super) told: watch::Sender<Option<SocketAddr>>,
}

pub(super) struct NackServer {
    intake: Intake<()>,
    requests: Requests,
    burst: Burst,
    limits: RequestLimits,
    trusted: Trusted,
    workers: WorkerMailboxes,
    cells: Arc<NackServerCells>,
    rules: ReplyRules,
    max_range: u64,
}

/// Which replies are sent.
struct ReplyRules {
    ack: bool,
    miss: bool,
    throttled: bool,
}

impl NackServer {
    /// Must be called on the runtime of its thread.
    pub(super) fn new(
        socket: Receiver,
        requests: Requests,
        config: &Config,
        workers: WorkerMailboxes,
        cells: Arc<NackServerCells>,
        seed: u64,
    ) -> io::Result<NackServer> {
        let inlet = Inlet { tag: (), name: "--nack-port", receiver: socket, memberships: None };
        let rules = IntakeRules { messages: BATCH, calls: CALLS, ..IntakeRules::default() };
        let mut intake = Intake::new(rules, vec![inlet])?;
        if let Some(loss) = config.inject.loss(|seed| seed ^ 0xD00A) {
            intake = intake.with_loss(loss);
        }
        Ok(NackServer {
            intake,
            requests,
            burst: Burst::new(BATCH, 0),
            limits: RequestLimits::new(config.limits.request_rates(), seed, Instant::now()),
            trusted: Trusted::new(config.requests.trusted_listeners.clone()),
            workers,
            cells,
            rules: ReplyRules {
                ack: !config.requests.suppress_ack,
                miss: !config.requests.suppress_miss,
                throttled: config.limits.rl_throttle_response,
            },
            max_range: u64::from(config.requests.nack_max_range),
        })
    }

    /// Runs until `stop` completes.
    pub(super) async fn run(mut self, mut answers: Mailbox<Answer>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = self.intake.ready() => self.take_arrivals().await,
                answer = answers.next() => {
                    let Some(answer) = answer else { return };
                    self.send(answer).await;
                    for _ in 0..BATCH {
                        let Some(answer) = answers.ready() else { break };
                        self.send(answer).await;
                    }
                }
                () = self.requests.links.changed() => self.rebind(),
                () = &mut stop => return,
            }
        }
    }

    /// The links changed: the address may be gone, back, or another one.
    fn rebind(&mut self) {
        let Requests { address, links, told } = &mut self.requests;
        let bound = match address.follow(&links.seen()) {
            Ok(Rebind::Stay) => Some(address.bound()),
            Ok(Rebind::Gone) => {
                service::limited!(warn, 1, "requests cannot be taken: {} is gone", address.bound().ip());
                None
            }
            Ok(Rebind::Opened(socket, bound)) => match self.intake.replace(*socket) {
                Ok(()) => {
                    tracing::warn!("requests are taken on {bound} now");
                    Some(bound)
                }
                Err(error) => end_process("--nack-port", &format!("its socket cannot be watched: {error}")),
            },
            // Another program has the port there, or the address is gone already: the next news decides.
            Err(error) => {
                service::limited!(error, 1, "requests cannot be taken: {error:#}");
                None
            }
        };
        told.send_if_modified(|told| std::mem::replace(told, bound) != bound);
    }

    async fn take_arrivals(&mut self) {
        while let Some(()) = self.intake.next(&mut self.burst) {
            let now = self.intake.last_input();
            for at in 0..self.burst.arrivals().len() {
                if let Some((request, reply)) = self.take(at, now) {
                    self.reply(&request, &reply).await;
                }
            }
        }
        self.cells.injected.set(self.intake.dropped_on_purpose());
        self.cells.kernel_drops.set(self.intake.counts().kernel_drops);
    }

    /// One datagram of the request port; a reply, where a limit refuses it and may say so.
    fn take(&mut self, at: usize, now: Instant) -> Option<(Request, Response)> {
        let arrival = self.burst.arrivals()[at];
        let bytes = self.burst.bytes(arrival.span);
        let request = match Request::read(bytes, arrival.source, arrival.destination, self.max_range) {
            Ok(request) => request,
            Err(bad) => {
                self.cells.refused[bad.index()].add(1);
                return None;
            }
        };
        self.cells.requests.add(1);
        if let Err(level) = self.limits.check(request.source.ip(), &request.nack, now) {
            self.cells.limited[level.index()].add(1);
            return self.says_throttled(&request).then(|| (request, request.throttled(level)));
        }
        let home = self.workers.home(request.nack.hash_key.0);
        if !self.workers.send(home, Message::Request { request, visited: 0 }) {
            self.cells.queue_dropped.add(1);
        }
        None
    }

    fn says_throttled(&self, request: &Request) -> bool {
        self.rules.throttled && self.trusted.contains(request.source.ip())
    }

    /// Unicast repairs first, then the reply that says what was sent.
    async fn send(&mut self, mut answer: Answer) {
        let mut sent = Numbers::NONE;
        for (offset, bytes) in answer.repairs() {
            if self.hand_over(&answer.request, bytes).await {
                sent.insert(offset);
                self.cells.unicast.add(1);
            }
        }
        answer.unicast_sent(sent);
        if let Some(response) = answer.reply(self.says_throttled(&answer.request)) {
            self.reply(&answer.request, &response).await;
        }
    }

    async fn reply(&self, request: &Request, response: &Response) {
        let count = match response.verdict {
            Ack::Ack { .. } if !self.rules.ack => return,
            Ack::Miss if !self.rules.miss => return,
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

    /// True once the kernel took the datagram.
    async fn hand_over(&self, request: &Request, bytes: &[u8]) -> bool {
        let Some((_, socket)) = self.intake.sockets().next() else { return false };
        let deadline = Instant::now() + FULL_TIMEOUT;
        loop {
            match socket.send_to(bytes, request.source, request.local) {
                Ok(()) => return true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                Err(error) => {
                    self.cells.errors.add(1);
                    service::limited!(warn, 1, "reply to {}: {error}", request.source);
                    return false;
                }
            }
        }
    }
}
