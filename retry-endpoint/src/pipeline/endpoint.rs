//! One worker of the endpoint: it keeps what arrives and decides what leaves. The pattern in which it is called is at the head
//! of `round`.
//!
//! It owns the store, the limits and the policy, the repairs that were planned, and the answers that wait for them.
//!
//! Promises: a repair goes from the store's segment to the kernel without a copy. No answer leaves before the kernel was given
//! its repairs, and none names a repair that was refused. Repairs of all requests of a round leave together, so that single
//! requests ride in trains.
//!
//! Limits: memory is that of the store and of the messages that the caller hands over in one round.
//!
//! Cost: `begin` is one copy a frame and allocates nothing. An answer allocates only for unicast repairs.

use super::admit::{Admitted, Refusal, admit};
use super::advertise::{ANNOUNCE_EVERY, DIGESTS_AT_ONCE, FLOWS_OF_A_DIGEST};
use super::answer::{Answer, AnswerPlan, Outcome, Policy, Repair, Request};
use super::counts::RoundCounts;
use super::emit::{Emission, EmitConfig};
use super::limit::RepairLimits;
use super::round::{Message, Next, QueueResult, RoundIo};
use super::store::{Coverage, Lifetimes, Put, Stats, Store, StoreLimits};
use super::upstream::FrameKey;
use crate::mutation::planted;
use frame::{GroupIndex, HashKey, SeqNum, ShardBits};
use multicast_io::Burst;
use service::ledger::{Ledger, Loss};
use std::sync::Arc;
use std::time::Instant;

/// What a worker of an endpoint is told at its start.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Workers of the endpoint. A request visits each of them once at most.
    pub workers: usize,
    /// Names the group of a frame that did not come from one.
    pub shard_bits: ShardBits,
    /// What the store may use.
    pub store: StoreLimits,
    /// How long each class is served.
    pub lifetimes: Lifetimes,
    /// Serve only frames whose payload hashes to their id.
    pub verify: bool,
    /// How requests are answered.
    pub policy: Policy,
    /// Where repairs go.
    pub emit: EmitConfig,
    /// Announce flows that fell silent.
    pub announces: bool,
}

/// See the module text.
pub struct Endpoint {
    workers: usize,
    shard_bits: ShardBits,
    policy: Policy,
    store: Store,
    limits: RepairLimits,
    messages: Vec<Message>,
    plan: AnswerPlan,
    round: Round,
    emission: Emission,
    /// When the next announcement may leave; `None`: none ever does.
    announce_at: Option<Instant>,
    counts: RoundCounts,
    /// What was not kept.
    ledger: Arc<Ledger<Refusal>>,
    #[cfg(feature = "mutants")]
    mutation: Option<crate::mutation::Mutation>,
}

/// What a round has planned and not finished.
#[derive(Default)]
struct Round {
    /// When it was planned; `None` between rounds.
    planned_at: Option<Instant>,
    /// Repairs that leave together.
    repairs: Vec<Repair>,
    /// Some of them left the store before they were sent.
    overtaken: bool,
    /// Answers that wait for them.
    answers: Vec<WaitingAnswer>,
}

/// An answer that waits for its multicast repairs.
struct WaitingAnswer {
    request: Request,
    outcome: Outcome,
    unicast: Vec<Repair>,
}

impl Round {
    /// Puts the repairs into the order in which they leave: by segment, so that trains read one piece of memory.
    fn arrange(&mut self, store: &Store) {
        let planned = self.repairs.len();
        // A frame kept meanwhile (fetched, looked up) may have pushed a segment out.
        self.repairs.retain(|repair| store.is_live(&repair.place));
        self.overtaken = self.repairs.len() < planned;
        self.repairs.sort_by_key(|repair| (repair.place.segment, repair.group));
    }
}

impl Endpoint {
    /// `limits` may come from an endpoint that ended (`into_limits`): its tables are dear to make. `seed` must be
    /// unpredictable outside of tests; `now` is the start of its time.
    pub fn new(config: EndpointConfig, limits: RepairLimits, seed: u64, now: Instant) -> Endpoint {
        Endpoint {
            workers: config.workers,
            shard_bits: config.shard_bits,
            policy: config.policy,
            store: Store::new(config.store, config.lifetimes, config.verify, seed, now),
            limits,
            messages: Vec::new(),
            plan: AnswerPlan::default(),
            round: Round::default(),
            emission: Emission::new(config.emit),
            announce_at: config.announces.then_some(now),
            counts: RoundCounts::default(),
            ledger: Arc::default(),
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Counts what is not kept in `ledger`.
    pub fn counting_in(self, ledger: Arc<Ledger<Refusal>>) -> Endpoint {
        Endpoint { ledger, ..self }
    }

    /// What was not kept.
    pub fn ledger(&self) -> &Ledger<Refusal> {
        &self.ledger
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: crate::mutation::Mutation) {
        self.mutation = Some(mutation);
        self.store.mutate(mutation);
    }

    /// Keeps every frame of `burst`. What is kept is copied, so the burst may be cleared at once.
    pub fn begin(&mut self, now: Instant, burst: &Burst, io: &mut impl RoundIo) {
        let mut bytes = 0;
        for arrival in burst.arrivals() {
            let datagram = burst.bytes(arrival.span);
            bytes += datagram.len() as u64;
            match arrival.destination.and_then(|group| self.emission.fabric().index_of(group)) {
                Some(group) => self.store_arrived(now, datagram, group, io),
                None => self.ledger.keep(Refusal::Foreign, 1),
            }
        }
        self.counts.received += burst.arrivals().len() as u64;
        self.counts.received_bytes += bytes;
    }

    /// Takes a message of another thread; the next commit handles it.
    pub fn message(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Handles what came: see the head of `round`. After `Next::Full` it goes on where it stopped.
    pub fn commit(&mut self, now: Instant, io: &mut impl RoundIo) -> Next {
        let planned_at = match self.round.planned_at {
            Some(planned_at) => planned_at,
            None => self.plan(now, io),
        };
        if let Some(full) = self.emission.send(now, &self.store, &self.round.repairs, io) {
            return full;
        }
        self.take_back(planned_at);
        self.answer(io);
        self.announce(now, io);
        self.round.planned_at = None;
        Next::Done
    }

    /// When a commit has something to do although nothing came.
    pub fn next_timeout(&self) -> Option<Instant> {
        Some(self.announce_at?.max(self.store.next_announcement()?))
    }

    /// Counts since they were last taken.
    pub fn counts(&self) -> &RoundCounts {
        &self.counts
    }

    /// Takes them.
    pub fn take_counts(&mut self) -> RoundCounts {
        std::mem::take(&mut self.counts)
    }

    /// Counts and sizes of the store.
    pub fn stats(&self, now: Instant) -> Stats {
        self.store.stats(now)
    }

    /// Flows with their numbers; stops at `most`.
    pub fn coverage(&self, most: usize) -> Vec<Coverage> {
        self.store.coverage(most)
    }

    /// The tables of the limits, for the next endpoint.
    pub fn into_limits(self) -> RepairLimits {
        self.limits
    }

    // --------------------------------------------------------------------------------------------- frames arrive --

    /// One datagram that arrived on `group`.
    fn store_arrived(&mut self, now: Instant, datagram: &[u8], group: GroupIndex, io: &mut impl RoundIo) {
        match admit(datagram) {
            Ok(frame) => {
                if self.put(now, &frame, group, io) {
                    io.stored(&frame);
                }
            }
            Err(refusal) => self.ledger.keep(refusal, 1),
        }
    }

    /// Keeps a frame that did not come from its group; `None` if it is no frame or was here already.
    fn store_brought(
        &mut self,
        now: Instant,
        datagram: &[u8],
        io: &mut impl RoundIo,
    ) -> Option<(HashKey, SeqNum, GroupIndex)> {
        let frame = admit(datagram).ok()?;
        self.counts.brought += 1;
        let group = frame.group(self.shard_bits);
        self.put(now, &frame, group, io).then_some((frame.hash_key, frame.seq, group))
    }

    /// True if the frame is new here.
    fn put(&mut self, now: Instant, frame: &Admitted<'_>, group: GroupIndex, io: &mut impl RoundIo) -> bool {
        let refusal = match self.store.put(frame, group, now) {
            Put::Stored { new_flow } => {
                if new_flow {
                    io.new_flow(frame.hash_key);
                }
                self.counts.cached += 1;
                return true;
            }
            Put::Replaced => {
                self.counts.cached += 1;
                return true;
            }
            Put::Duplicate => Refusal::Duplicate,
            Put::Conflict => Refusal::Conflict,
            Put::Oversize => {
                let lost = Loss::numbers(frame.hash_key.0, frame.seq.0, frame.seq.0);
                self.ledger.lose(Refusal::Oversize, lost.with_bytes(frame.bytes.len() as u64));
                return false;
            }
        };
        self.ledger.keep(refusal, 1);
        false
    }

    // -------------------------------------------------------------------------------------------- steps of a round --

    /// Plans all messages, in order.
    fn plan(&mut self, now: Instant, io: &mut impl RoundIo) -> Instant {
        let mut messages = std::mem::take(&mut self.messages);
        for message in messages.drain(..) {
            self.plan_message(now, message, io);
        }
        self.messages = messages;
        if planted!(self, AnsweredBeforeRepairs) {
            self.answer(io);
        }
        self.round.arrange(&self.store);
        self.emission.begin(self.round.repairs.len());
        *self.round.planned_at.insert(now)
    }

    fn plan_message(&mut self, now: Instant, message: Message, io: &mut impl RoundIo) {
        match message {
            Message::Request { request, visited } => self.plan_answer(now, request, visited, true, io),
            Message::LookupDone { request, frames } => {
                for frame in &frames {
                    self.store_brought(now, frame, io);
                }
                self.plan_answer(now, request, self.workers, false, io);
            }
            Message::FetchDone { frame } => self.replay(now, &frame, io),
            Message::DigestHeard { flows } => {
                for (hash_key, highest) in flows {
                    self.store.on_digest(hash_key, highest, now);
                }
            }
        }
    }

    fn plan_answer(
        &mut self,
        now: Instant,
        request: Request,
        visited: usize,
        may_look_up: bool,
        io: &mut impl RoundIo,
    ) {
        self.plan.make(&request, &mut self.store, &mut self.limits, &self.policy, now);
        if self.plan.found_nothing(&request) && visited + 1 < self.workers {
            self.counts.forwarded += 1;
            if self.is_queued(io.forward(&request, visited + 1)) {
                return;
            }
        }
        self.count_plan(&request);
        let missing = self.plan.outcome.missing;
        let waits = may_look_up && !missing.is_empty() && self.is_queued(io.look_up(&request, missing));
        self.plan.presume_multicast_sent(&mut self.store, now);
        self.round.repairs.extend_from_slice(&self.plan.multicast);
        if waits {
            // The answer to the look-up brings the request back; its reply covers both halves.
            return;
        }
        if !request.is_proxied() {
            for offset in missing.iter() {
                let wanted = FrameKey { hash_key: request.nack.hash_key, seq: request.seq(offset) };
                self.is_queued(io.fetch(wanted));
            }
        }
        let (outcome, unicast) = (self.plan.outcome, self.plan.unicast.clone());
        self.round.answers.push(WaitingAnswer { request, outcome, unicast });
    }

    /// A frame that an upstream sent: kept, and multicast for all who asked.
    fn replay(&mut self, now: Instant, datagram: &[u8], io: &mut impl RoundIo) {
        let Some((hash_key, seq, group)) = self.store_brought(now, datagram, io) else { return };
        if let Some(stored) = self.store.get(hash_key, seq, now) {
            self.store.note_repaired(&stored.place, now);
            self.round.repairs.push(Repair { offset: 0, place: stored.place, group });
        }
    }

    /// What the kernel refused is taken back, from the store and from every answer.
    fn take_back(&mut self, planned_at: Instant) {
        let Round { repairs, answers, overtaken, .. } = &mut self.round;
        let (sent, refused) = repairs.split_at(self.emission.sent());
        self.counts.retransmits += sent.len() as u64;
        self.counts.retransmit_bytes +=
            sent.iter().map(|repair| u64::from(repair.place.span.len)).sum::<u64>();
        self.counts.retransmit_failed += refused.len() as u64;
        for repair in refused {
            self.store.forget_repaired(&repair.place);
        }
        if *overtaken || !refused.is_empty() {
            for answer in answers {
                answer.outcome.recheck(&answer.request, &self.store, &self.policy, planned_at);
            }
        }
        repairs.clear();
    }

    /// Hands on what is true now.
    fn answer(&mut self, io: &mut impl RoundIo) {
        for WaitingAnswer { request, outcome, unicast } in self.round.answers.drain(..) {
            if io.answer(Answer::new(request, outcome, &unicast, &self.store)) == QueueResult::Full {
                self.counts.queue_dropped += 1;
            }
        }
    }

    /// Speaks for flows that fell silent, every `ANNOUNCE_EVERY` at most.
    fn announce(&mut self, now: Instant, io: &mut impl RoundIo) {
        if self.next_timeout().is_none_or(|at| at > now) {
            return;
        }
        self.announce_at = Some(now + ANNOUNCE_EVERY);
        let mut entries = Vec::new();
        self.store.announce(now, DIGESTS_AT_ONCE * FLOWS_OF_A_DIGEST, &mut entries);
        if !entries.is_empty() {
            self.is_queued(io.announce(entries));
        }
    }

    // ---------------------------------------------------------------------------------------------------- counts --

    fn is_queued(&mut self, result: QueueResult) -> bool {
        self.counts.queue_dropped += u64::from(result == QueueResult::Full);
        result == QueueResult::Queued
    }

    fn count_plan(&mut self, request: &Request) {
        let missing = self.plan.outcome.missing.len() as u64;
        self.counts.misses += missing;
        self.counts.hits += request.count().saturating_sub(missing);
        self.counts.dedup += self.plan.repeated;
        self.counts.unproven += self.plan.unproven;
        for (count, limited) in self.counts.limited.iter_mut().zip(self.plan.limited) {
            *count += limited;
        }
    }
}
