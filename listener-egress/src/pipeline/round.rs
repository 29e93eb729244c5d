//! A round of a listener's worker: the order in which a batch passes, is decided, and leaves. It is written once; the
//! runtime, the simulator, the tests and the benchmarks call it.
//!
//! ```text
//! pipeline.begin(now, door, &batch);                  // judges the batch
//! loop {                                              // `Turn::More`: another batch follows at once
//!     match pipeline.commit(clock.now(), &batch, Turn::Last, &mut io) {
//!         Next::Asked => {}                           // the store was asked: the time is read again
//!         Next::Done => break,                        // the batch may be cleared
//!     }
//! }
//! ```
//!
//! A turn of a worker that took no datagram begins nothing; it commits an empty batch with `Turn::Last`. Each turn ends with
//! one commit of `Turn::Last`: it runs what is due and flushes.
//!
//! The order of `commit`, and why:
//!
//! 1. With `Turn::Last`, what is due: timeouts of requests and claims, sweeps, positions.
//! 2. The store is asked (`RoundIo::pump`), and the caller reads the time again ([`Next::Asked`]). A process may stop for long
//!    between claiming and delivering. After half a lease a sibling may have taken over its claims.
//! 3. What was decided joins what passed at once. Each frame is asked once more whether it may leave, is queued, and only
//!    then its kept copy is released. A frame that finds no room is deferred first, as deferring reads the copy.
//! 4. Block headers leave. The consumer's queue is flushed at the end of a turn, or once [`FLUSH_BYTES`] waits: a write wakes
//!    whoever reads, and trains are the longer the more there is to choose from.
//! 5. What became of frames settles their claims; the store is told.
//! 6. Marks and requests leave.
//!
//! Stop: [`Pipeline::decide_all`], rounds until all is idle, a last round whose `flush` gives up what the consumer did not
//! take ([`DropReason::ConsumerGone`]), then [`Pipeline::stop`].

use super::batch::{Batch, Door};
use super::counts::{Counts, DropReason};
use super::deliver::Handed;
use super::gate::{Delivery, FramePlace, Gate};
use super::headers::BlockHeaders;
use super::mark::Sighted;
use super::position::{PositionKeeper, Positions, Sources};
use super::reception::Reception;
use super::request::Request;
use super::settings::Settings;
use super::totals;
use frame::digest::Entry;
use frame::{Advert, GroupIndex, HashKey, SubtreeGroupAnnounce};
use gap_track::Lost;
use service::ledger;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{Claims, LocalSet};

/// Interval of upkeep.
const TICK: Duration = Duration::from_millis(100);
/// A worker that is later than this has not read its sockets for so long.
const LATE: Duration = Duration::from_millis(100);
/// Every so many ticks the slow tables are purged.
const SLOW_TICKS: u32 = 10;
/// Lines about numbers given up that wait for the log.
const GIVEN_UP: usize = 64;
/// Bytes for the consumer that are handed over although another batch follows.
pub const FLUSH_BYTES: usize = 256 << 10;

/// What stands around a round: the store, the consumer, the sockets.
pub trait RoundIo {
    /// Carries the requests of the claims to the store, and answers back.
    fn pump(&mut self, claims: &mut Claims, now: Instant);
    /// Takes a copy of a whole frame, of whose bytes the first `header_len` are the header. What becomes of it is said by a
    /// later `flush`.
    ///
    /// # Errors
    /// Why the frame was not taken.
    fn queue(&mut self, now: Instant, frame: &[u8], header_len: usize, handed: Handed)
    -> Result<(), Refused>;
    /// Hands over what the consumer takes now. Adds frames whose fate became known.
    fn flush(&mut self, now: Instant, fates: &mut Fates);
    /// Less than half of the queue is taken: frames that found no room may come again.
    fn has_room(&self) -> bool;
    /// Bytes that wait for the consumer.
    fn queued_bytes(&self) -> usize;
    /// Sends a request from the request socket.
    fn request(&mut self, request: &Request);
    /// Emits a block header (V7).
    fn header(&mut self, frame: &[u8]);
    /// Transactions that came at `came` and are to be marked where the proxies claim.
    fn sighted(&mut self, came: Instant, sighted: &[Sighted]);
}

/// Why a frame was not taken for the consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The queue is full.
    NoRoom,
    /// No datagram can be so long.
    TooLong,
}

/// Frames whose fate became known.
#[derive(Debug, Default)]
pub struct Fates {
    /// The consumer has them.
    pub delivered: Vec<Handed>,
    /// The consumer will not get them from us.
    pub refused: Vec<(Handed, DropReason)>,
}

/// Frames that a stop left behind.
#[derive(Debug, Default)]
pub struct LeftBehind {
    /// How many.
    pub frames: u64,
    /// Their bytes on the fabric.
    pub bytes: u64,
    /// Their flows.
    pub flows: HashSet<HashKey>,
}

/// Where a round stands in a turn of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Another batch follows at once.
    More,
    /// The worker sleeps afterwards, as far as it knows.
    Last,
}

/// What a caller of `commit` does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The store was asked: read the time and commit again.
    Asked,
    /// The round is over.
    Done,
}

/// How far a round is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Datagrams may come in.
    Open,
    /// The store was asked about what came.
    Asked,
}

/// Upkeep that is due ten times a second.
struct Upkeep {
    next: Instant,
    ticks: u32,
}

/// What is owed to the consumer.
#[derive(Default)]
struct AtConsumer {
    /// Frames without a claim that have not left yet.
    unclaimed: u64,
    /// Frames in its queue.
    queued: u64,
    left_behind: LeftBehind,
}

/// One worker's pipeline.
pub struct Pipeline {
    reception: Reception,
    gate: Gate,
    headers: BlockHeaders,
    keeper: PositionKeeper,
    counts: Counts,
    stage: Stage,
    /// When the batch of this round came.
    came: Instant,
    /// What passed and has not left yet.
    deliveries: Vec<Delivery>,
    fates: Fates,
    /// The consumer's queue holds what was not flushed yet.
    held_back: bool,
    consumer: AtConsumer,
    /// Numbers given up that the log has not taken.
    given_up: Vec<Lost>,
    upkeep: Upkeep,
    #[cfg(feature = "mutants")]
    mutation: Option<crate::mutation::Mutation>,
}

impl Pipeline {
    /// `local`: tier 1, shared by the workers; `None` = no gate. `seed`: random per worker and start.
    pub fn new(settings: Settings, local: Option<Arc<LocalSet>>, seed: u64, now: Instant) -> Pipeline {
        Pipeline {
            reception: Reception::new(&settings, seed, now),
            headers: BlockHeaders::new(settings.header_origin),
            keeper: PositionKeeper::new(settings.positions),
            gate: Gate::new(settings.claims, local, settings.waiting_bytes, seed ^ 0xC1A1),
            counts: Counts::default(),
            stage: Stage::Open,
            came: now,
            deliveries: Vec::new(),
            fates: Fates::default(),
            held_back: false,
            consumer: AtConsumer::default(),
            given_up: Vec::new(),
            upkeep: Upkeep { next: now + TICK, ticks: 0 },
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: crate::mutation::Mutation) {
        self.mutation = Some(mutation);
        self.gate.mutate(mutation);
        self.reception.mutate(mutation);
    }

    /// Goes on where the consumer's listeners were before this process; `mine`: groups that this worker receives. `None`:
    /// the store did not say; then their positions stand until endpoints hold nothing from before this process.
    pub fn resume(&mut self, now: Instant, positions: Option<&Positions>, mine: impl Fn(GroupIndex) -> bool) {
        let Some(positions) = positions else { return self.keeper.let_stand(now) };
        self.reception.requester.registry.remember(now, &positions.endpoints);
        let wanted = positions.flows.iter().filter(|left| mine(left.group));
        let wanted = wanted.filter(|left| self.reception.wants_group(left.group));
        let flows: Vec<_> = wanted.copied().collect();
        self.reception.tracker.resume(flows);
    }

    // The round.

    /// Judges one batch. It must stay as it is until `commit` is done with it.
    pub fn begin<B: Batch + ?Sized>(&mut self, now: Instant, door: Door, batch: &B) {
        debug_assert!(self.stage == Stage::Open && self.deliveries.is_empty(), "the last round is not over");
        self.came = now;
        let punctual = now < self.upkeep.next + LATE;
        self.reception.take(now, door, batch, punctual, &mut self.gate, &mut self.counts);
        let reception = &mut self.reception;
        self.gate.judge(
            now,
            |index| batch.bytes(index as usize),
            &mut self.deliveries,
            |novel| reception.novel(now, novel),
            &mut self.counts,
        );
        if self.headers.are_wanted() {
            for delivery in &self.deliveries {
                let frame = bytes_of(&self.gate, delivery.place, batch);
                self.counts.headers += u64::from(self.headers.of(frame));
            }
        }
        self.reception.request(now, &mut self.counts);
    }

    /// Takes a round one step further: see the module text. `batch` is the one that `begin` was given.
    pub fn commit<B: Batch + ?Sized>(
        &mut self,
        now: Instant,
        batch: &B,
        turn: Turn,
        io: &mut impl RoundIo,
    ) -> Next {
        if self.stage == Stage::Open {
            if turn == Turn::Last {
                self.on_timeout(now);
            }
            self.pump(now, io);
            self.stage = Stage::Asked;
            return Next::Asked;
        }
        self.stage = Stage::Open;
        self.gate.decided(now, &mut self.deliveries, &mut self.counts);
        let mut deliveries = std::mem::take(&mut self.deliveries);
        self.consumer.unclaimed +=
            deliveries.iter().filter(|delivery| delivery.ticket.is_none()).count() as u64;
        for delivery in deliveries.drain(..) {
            self.deliver(now, &delivery, batch, io);
        }
        self.deliveries = deliveries;
        self.headers.take().for_each(|header| io.header(&header));
        if turn == Turn::Last || io.queued_bytes() >= FLUSH_BYTES {
            self.flush(now, io);
        }
        self.settle(now);
        self.pump(now, io);
        if !self.gate.sighted().is_empty() {
            io.sighted(self.came, self.gate.sighted());
            self.gate.forget_sighted();
        }
        let sent = !planted!(self, RequestsNotSent);
        self.reception.requester.take_requests().filter(|_| sent).for_each(|request| io.request(&request));
        Next::Done
    }

    fn pump(&mut self, now: Instant, io: &mut impl RoundIo) {
        if let Some(claims) = self.gate.claims_mut() {
            io.pump(claims, now);
        }
    }

    /// One frame that passed the gate to the consumer's queue.
    fn deliver<B: Batch + ?Sized>(
        &mut self,
        now: Instant,
        delivery: &Delivery,
        batch: &B,
        io: &mut impl RoundIo,
    ) {
        // `false`: it waits again; a decision brings it back if it is still ours to deliver.
        let bytes = || match delivery.place {
            FramePlace::Batch(index) => whole(batch.bytes(index as usize), delivery),
            FramePlace::Kept(_) => &[],
        };
        if !planted!(self, LateFrameDelivered) && !self.gate.may_leave(now, delivery, bytes) {
            return;
        }
        let mut handed = Handed { ticket: delivery.ticket, wire_len: delivery.wire_len, flow: None };
        if planted!(self, SettledBeforeAcknowledged) {
            handed.ticket = None;
        }
        match self.queue(now, delivery, handed, batch, io) {
            Ok(()) if planted!(self, SettledBeforeAcknowledged) => {
                delivery.ticket.into_iter().for_each(|ticket| self.gate.sent(now, ticket));
            }
            Ok(()) => {}
            Err(Refused::TooLong) => self.undelivered(now, &handed, DropReason::TooLongForUdp),
            Err(Refused::NoRoom) => {
                if planted!(self, ReleasedBeforeDeferred) {
                    self.gate.release(delivery);
                }
                // Endpoints still hold it: it is asked for again when there is room.
                if !planted!(self, RefusedFrameForgotten) {
                    let frame = whole(bytes_of(&self.gate, delivery.place, batch), delivery);
                    self.reception.defer(now, frame, self.gate.parts_of(delivery));
                }
                let handed = Handed { ticket: delivery.ticket, ..handed };
                self.undelivered(now, &handed, DropReason::ConsumerQueueFull);
            }
        }
        self.gate.release(delivery);
    }

    /// Queues a frame. What was held back leaves before a queue counts as full.
    fn queue<B: Batch + ?Sized>(
        &mut self,
        now: Instant,
        delivery: &Delivery,
        handed: Handed,
        batch: &B,
        io: &mut impl RoundIo,
    ) -> Result<(), Refused> {
        let padded = bytes_of(&self.gate, delivery.place, batch);
        let frame = if planted!(self, PaddingDelivered) { padded } else { whole(padded, delivery) };
        let header_len = usize::from(delivery.header_len);
        let mut queued = io.queue(now, frame, header_len, handed);
        if queued == Err(Refused::NoRoom) && std::mem::take(&mut self.held_back) {
            io.flush(now, &mut self.fates);
            queued = io.queue(now, frame, header_len, handed);
        }
        self.held_back |= queued.is_ok();
        self.consumer.queued += u64::from(queued.is_ok());
        queued
    }

    fn flush(&mut self, now: Instant, io: &mut impl RoundIo) {
        self.held_back = false;
        io.flush(now, &mut self.fates);
        self.reception.requester.set_room(io.has_room());
    }

    /// What became of frames settles their claims.
    fn settle(&mut self, now: Instant) {
        let mut fates = std::mem::take(&mut self.fates);
        self.consumer.queued =
            self.consumer.queued.saturating_sub((fates.delivered.len() + fates.refused.len()) as u64);
        for handed in fates.delivered.drain(..) {
            self.counts.delivered += 1;
            self.counts.delivered_bytes += u64::from(handed.wire_len);
            match handed.ticket {
                Some(ticket) => self.gate.sent(now, ticket),
                None => self.consumer.unclaimed = self.consumer.unclaimed.saturating_sub(1),
            }
        }
        for (handed, reason) in fates.refused.drain(..) {
            self.undelivered(now, &handed, reason);
        }
        self.fates = fates;
    }

    /// The consumer will not get a frame from us: its claim is released.
    fn undelivered(&mut self, now: Instant, handed: &Handed, reason: DropReason) {
        let flow = handed.flow.map_or(0, |key| key.0);
        let bytes = u64::from(handed.wire_len);
        match reason.loses() {
            true => self
                .counts
                .dropped
                .lose(reason, ledger::Loss { frames: 1, bytes, flow, ..Default::default() }),
            false => self.counts.dropped.keep(reason, 1),
        }
        if reason == DropReason::ConsumerGone {
            self.consumer.left_behind.frames += 1;
            self.consumer.left_behind.bytes += bytes;
            self.consumer.left_behind.flows.extend(handed.flow);
        }
        match handed.ticket {
            Some(ticket) if planted!(self, UndeliveredSettles) => self.gate.sent(now, ticket),
            Some(ticket) => self.gate.failed(now, ticket),
            None => self.consumer.unclaimed = self.consumer.unclaimed.saturating_sub(1),
        }
    }

    /// Runs what is due.
    fn on_timeout(&mut self, now: Instant) {
        self.reception.request(now, &mut self.counts);
        if let Some(claims) = self.gate.claims_mut() {
            claims.on_timeout(now);
        }
        if now >= self.upkeep.next {
            self.upkeep.next = now + TICK;
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.reception.sweep(now);
        let sources = Sources {
            tracker: &self.reception.tracker,
            reassembler: &self.reception.reassembler,
            registry: &self.reception.requester.registry,
        };
        let claims = self.gate.claims_mut();
        self.keeper.keep(now, &sources, claims, self.consumer.unclaimed, &mut self.counts);
        self.upkeep.ticks = self.upkeep.ticks.wrapping_add(1);
        if self.upkeep.ticks.is_multiple_of(SLOW_TICKS) {
            self.reception.purge(now, &mut self.counts);
        }
    }

    // What comes by other ways.

    /// Takes an ADVERT.
    pub fn advert(&mut self, now: Instant, advert: &Advert) {
        self.reception.requester.advert(now, advert, &mut self.counts);
    }

    /// Takes a BRC-127 announcement.
    pub fn announce(&mut self, now: Instant, source: IpAddr, announce: &SubtreeGroupAnnounce) {
        self.reception.announce(now, source, announce, &mut self.counts);
    }

    /// Takes an entry of a flow digest whose group this worker owns.
    pub fn digest(&mut self, now: Instant, source: IpAddr, entry: &Entry) {
        self.reception.digest(now, source, entry, &mut self.counts);
    }

    /// When a commit with `Turn::Last` is due.
    pub fn next_timeout(&self) -> Instant {
        let claims = self.gate.claims().and_then(Claims::next_timeout);
        let requests = self.reception.requester.next_timeout();
        [requests, claims].into_iter().flatten().fold(self.upkeep.next, Instant::min)
    }

    /// The claim protocol, for its driver.
    pub fn claims_mut(&mut self) -> Option<&mut Claims> {
        self.gate.claims_mut()
    }

    // The end.

    /// From now on no frame waits for a claim.
    pub fn decide_all(&mut self, now: Instant) {
        if let Some(claims) = self.gate.claims_mut() {
            claims.drain(now);
        }
    }

    /// The end: open gaps are counted as lost.
    pub fn stop(&mut self) {
        self.reception.tracker.stop();
    }

    /// What the consumer had not taken when the worker stopped.
    pub fn left_behind(&self) -> &LeftBehind {
        &self.consumer.left_behind
    }

    // What others see.

    /// True while frames wait for a claim.
    pub fn is_waiting(&self) -> bool {
        self.gate.kept() > 0
    }

    /// Totals, with the gauges brought up to date.
    pub fn counts(&mut self) -> &Counts {
        self.enter_losses();
        let Reception { tracker, requester, reassembler, .. } = &self.reception;
        totals::follow(&mut self.counts, tracker.counts());
        self.counts.open_gaps = tracker.missing();
        self.counts.flows = tracker.flows() as u64;
        self.counts.flows_unheard = tracker.unheard() as u64;
        self.counts.endpoints = requester.registry.len() as u64;
        self.counts.reassembly_bytes = reassembler.bytes() as u64;
        self.counts.waiting_bytes = self.gate.bytes() as u64;
        self.counts.in_hand = self.gate.undecided() + self.consumer.queued;
        if let Some(claims) = self.gate.claims() {
            let stats = claims.stats();
            self.counts.claims_overdue = stats.overdue.value();
            self.counts.claims_unsettled_ms = stats.unsettled_age.value() / 1_000;
            self.counts.claims_unsettled = stats.unsettled_late.value();
            self.counts.claims_late = stats.late.value();
        }
        &self.counts
    }

    /// Numbers that were given up, for the log.
    pub fn take_losses(&mut self, out: &mut Vec<Lost>) {
        self.enter_losses();
        out.append(&mut self.given_up);
    }

    /// What the tracker gave up, into the ledger. What its bounded list leaves out is added by its totals.
    fn enter_losses(&mut self) {
        let before = self.given_up.len();
        self.reception.tracker.take_losses(&mut self.given_up);
        for lost in self.given_up.iter().skip(before) {
            let numbers = ledger::Loss::numbers(lost.key.0, lost.first, lost.last);
            self.counts.lost.lose(lost.why.into(), numbers);
        }
        self.given_up.truncate(GIVEN_UP);
    }

    /// Flows of which no endpoint said whether numbers from there on were sent, for the log.
    pub fn take_unconfirmed(&mut self, out: &mut Vec<(HashKey, u64)>) {
        self.reception.tracker.take_unconfirmed(out);
    }

    /// How long recovered numbers were missing.
    pub fn take_recoveries(&mut self, out: &mut Vec<Duration>) {
        self.reception.tracker.take_recoveries(out);
    }
}

/// The bytes of a frame, with its padding.
fn bytes_of<'a, B: Batch + ?Sized>(gate: &'a Gate, place: FramePlace, batch: &'a B) -> &'a [u8] {
    match place {
        FramePlace::Batch(index) => batch.bytes(index as usize),
        FramePlace::Kept(kept) => gate.bytes_of(kept),
    }
}

/// The frame without what lies behind its declared length.
fn whole<'a>(bytes: &'a [u8], delivery: &Delivery) -> &'a [u8] {
    bytes.get(..delivery.wire_len as usize).unwrap_or(bytes)
}

#[cfg(test)]
mod tests;
