//! The path of a frame through a listener's worker, as pure decisions: time, bytes and seeds come in as arguments;
//! requests and deliveries come out as lists. No socket, no clock, no task.
//!
//! ```text
//!  datagram ─ door (source, kind, length) ─┬─ fragment ── track ── reassemble ─┐
//!                                          └─ filter ─ verify ─ track ─────────┴─ gate ─ deliver
//!                                                                 │ gaps
//!  ADVERT, digest, response ─────────────────────────────────── request ── NACK
//! ```
//!
//! A frame is verified before the tracker takes its number: one that fails leaves no trace but a counter, and its
//! number stays missing. A frame that the filters refuse is not verified; it moves its flow without opening gaps that
//! nobody wants. A repaired frame closes its gap before the gate can swallow it.

pub mod counts;
mod deliver;
mod filter;
mod gate;
pub mod mark;
pub mod position;
mod reassemble;
mod registry;
mod request;
mod slots;
#[cfg(test)]
mod tests;
pub mod track;
mod verify;

pub use counts::{Counts, DropReason, Loss};
pub use deliver::{Datagram, DatagramQueue, Full, Handed, LONGEST_DATAGRAM, Run, StreamQueue};
pub use filter::{BadPrefix, Filter, FilterRules, Prefix};
pub use gate::{Delivery, Gate, Kept, Place, claim_key};
pub use mark::{Sighted, Withheld};
pub use position::Positions;
pub use reassemble::{Parts, Reassembler, ReassemblyLimits, Rebuilt};
pub use registry::{Change, MAX_ENDPOINTS, Registry};
pub use request::{Request, Requester};
pub use track::{Filled, FlowClass, InFlight, Lost, Position, Seen, Sighting, TrackLimits, Tracker};
pub use verify::{VerifyRules, verify};

use crate::mutation::Mutation;
use frame::data::HEADER;
use frame::flow::{Origin, hash_key};
use frame::{
    Advert, DataFrame, Fabric, Fragment, GroupIndex, Id, Kind, Response, SeqNum, ShardBits,
    SubtreeGroupAnnounce,
};
use mark::{Arrived, Markable};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{Claims, ClaimsConfig, LocalSet, Ticket};
use verify::{BLOCK_ANNOUNCE, Hashes};

/// Datagrams of one burst.
pub trait Batch {
    /// How many.
    fn len(&self) -> usize;
    /// None.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where one came from.
    fn source(&self, index: usize) -> SocketAddr;
    /// Its bytes.
    fn bytes(&self, index: usize) -> &[u8];
    /// The same, and perhaps what lies behind it: hashing is faster where it may load whole blocks.
    fn bytes_on(&self, index: usize) -> &[u8] {
        self.bytes(index)
    }
    /// Where it was sent to, as far as the socket told.
    fn destination(&self, _index: usize) -> Option<IpAddr> {
        None
    }
}

impl Batch for [(SocketAddr, Vec<u8>)] {
    fn len(&self) -> usize {
        <[_]>::len(self)
    }
    fn source(&self, index: usize) -> SocketAddr {
        self[index].0
    }
    fn bytes(&self, index: usize) -> &[u8] {
        &self[index].1
    }
}

/// Which socket a batch came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Data groups.
    Groups,
    /// The socket that requests leave from: responses and unicast repairs.
    Replies,
}

/// What a pipeline is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shard bits of the fabric.
    pub shard_bits: ShardBits,
    /// Subtree data (0xFFFB) is received.
    pub subtree_data: bool,
    /// Filters.
    pub filter: FilterRules,
    /// Verification.
    pub verify: VerifyRules,
    /// Flows and gaps.
    pub track: TrackLimits,
    /// Fragments.
    pub reassembly: ReassemblyLimits,
    /// The gate's protocol.
    pub claims: ClaimsConfig,
    /// Bytes of frames that wait for a claim.
    pub waiting_bytes: usize,
    /// Given endpoints.
    pub endpoints: Vec<SocketAddr>,
    /// Requests per second to an endpoint that serves single numbers only.
    pub single_rate: f64,
    /// Emitter of V7 headers; `None` = none are emitted.
    pub header_origin: Option<Origin>,
    /// Index of this worker among those whose positions are kept in the shared store; `None` = none are.
    pub positions: Option<u16>,
    /// Where the groups are, if courtesy marks are wanted; `None` = none are.
    pub marks: Option<Fabric>,
}

/// How a datagram came.
#[derive(Clone, Copy)]
struct Came {
    door: Door,
    index: usize,
    source: SocketAddr,
    to: Option<IpAddr>,
}

/// Length of a V7 frame (wire 1.7).
pub const BLOCK_HEADER_FRAME: usize = HEADER + frame::block::HEADER;

/// Interval of upkeep.
const TICK: Duration = Duration::from_millis(100);
/// A worker that is later than this has not read its sockets for so long.
const LATE: Duration = Duration::from_millis(100);
/// Every so many ticks the slow tables are purged.
const SLOW_TICKS: u32 = 10;

/// One worker's pipeline.
pub struct Pipeline {
    settings: Settings,
    filter: Filter,
    tracker: Tracker,
    requester: Requester,
    reassembler: Reassembler,
    hashes: Hashes,
    gate: Gate,
    counts: Counts,
    deliveries: Vec<Delivery>,
    headers: Vec<[u8; BLOCK_HEADER_FRAME]>,
    header_seq: u64,
    keeper: position::Keeper,
    /// Frames without a claim that the consumer's queue holds.
    unclaimed: u64,
    next_tick: Instant,
    ticks: u32,
    mutation: Option<Mutation>,
}

impl Pipeline {
    /// `local`: tier 1, shared by the workers; `None` = no gate. `seed`: random per worker and start.
    pub fn new(settings: Settings, local: Option<Arc<LocalSet>>, seed: u64, now: Instant) -> Pipeline {
        let registry = Registry::new(&settings.endpoints, settings.single_rate);
        Pipeline {
            filter: Filter::new(settings.filter.clone(), settings.shard_bits),
            tracker: Tracker::new(settings.track.clone(), seed, now),
            requester: Requester::new(registry, seed ^ 0x5EED),
            reassembler: Reassembler::new(settings.reassembly),
            gate: Gate::new(settings.claims.clone(), local, settings.waiting_bytes, seed ^ 0xC1A1),
            hashes: Hashes::default(),
            counts: Counts::default(),
            deliveries: Vec::new(),
            headers: Vec::new(),
            header_seq: 0,
            keeper: position::Keeper::default(),
            unclaimed: 0,
            next_tick: now + TICK,
            ticks: 0,
            mutation: None,
            settings,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        self.gate.mutation = Some(mutation);
        self.tracker.mutation = Some(mutation);
    }

    /// Takes one batch. Afterwards: `take_deliveries`, `take_requests`, `next_timeout`.
    pub fn take<B: Batch + ?Sized>(&mut self, now: Instant, door: Door, batch: &B) {
        self.hash(now, door, batch);
        for index in 0..batch.len() {
            let came = Came { door, index, source: batch.source(index), to: batch.destination(index) };
            let taken = self.datagram(now, came, batch.bytes(index));
            if let Err(reason) = taken {
                self.counts.drop(reason);
            }
        }
        let tracker = &mut self.tracker;
        let registry = &self.requester.registry;
        let before = self.deliveries.len();
        self.gate.judge(
            now,
            |index| batch.bytes(index as usize),
            &mut self.deliveries,
            |novel, counts| {
                if !registry.knows_host(novel.source) {
                    tracker.novel_behind(now, novel.key, novel.seq, counts);
                }
            },
            &mut self.counts,
        );
        self.emit_headers(before, batch);
        self.requester.settle(&mut self.tracker);
        self.requester.on_timeout(now, &mut self.tracker, &mut self.counts);
    }

    /// Hashes the transactions that will be verified, all at once.
    fn hash<B: Batch + ?Sized>(&mut self, now: Instant, door: Door, batch: &B) {
        self.hashes.begin(batch.len());
        // What comes to the other door must have been asked for before it costs anything.
        if door != Door::Groups {
            return;
        }
        for index in 0..batch.len() {
            let Ok(frame) = DataFrame::decode_tx(batch.bytes(index)) else { continue };
            let (_, _, wanted) = self.classify(now, frame.kind, frame.id, frame.second_id);
            if wanted.is_ok() && self.filter.admits_source(batch.source(index).ip()) {
                self.hashes.want(index, &frame, &self.settings.verify);
            }
        }
        self.hashes.compute(|index| batch.bytes_on(index));
    }

    fn datagram(&mut self, now: Instant, came: Came, bytes: &[u8]) -> Result<(), DropReason> {
        let Came { door, source, .. } = came;
        let kind = Kind::of(bytes);
        self.counts.arrived(kind.ok());
        let kind = kind.map_err(|_| DropReason::DecodeError)?;
        if door == Door::Replies && !self.requester.registry.knows(source) {
            return Err(DropReason::UnknownRepairSource);
        }
        match kind {
            Kind::Fragment => self.fragment(now, door, source.ip(), bytes),
            Kind::LegacyTx | Kind::Tx | Kind::Block | Kind::Subtree | Kind::Anchor => {
                self.whole(now, came, bytes)
            }
            Kind::BlockHeader => Err(DropReason::BlockHeader),
            Kind::Bundle => Err(DropReason::Bundle),
            Kind::Object => Err(DropReason::Object),
            Kind::Manifest => Err(DropReason::Manifest),
            Kind::Ack | Kind::Miss | Kind::Throttled if door == Door::Replies => {
                let response = Response::decode(bytes).map_err(|_| DropReason::DecodeError)?;
                let counts = &mut self.counts;
                self.requester.response(now, source, &response, &mut self.tracker, counts);
                Ok(())
            }
            Kind::Advert if door == Door::Groups => {
                let advert = Advert::decode(bytes).map_err(|_| DropReason::DecodeError)?;
                self.advert(now, &advert);
                Ok(())
            }
            Kind::SubtreeGroupAnnounce if door == Door::Groups => {
                let announce = SubtreeGroupAnnounce::decode(bytes).map_err(|_| DropReason::DecodeError)?;
                self.announce(now, source.ip(), &announce);
                Ok(())
            }
            _ => Err(DropReason::UnexpectedControl),
        }
    }

    /// May a numbered datagram come in? Sources that the filter refuses, and unicast, only with a number that is
    /// missing, from the host of an endpoint.
    fn admit(&self, door: Door, source: IpAddr, s: &Sighting<'_>) -> Result<(), DropReason> {
        if door == Door::Replies {
            return if self.tracker.is_missing(s.key, s.seq) {
                Ok(())
            } else {
                Err(DropReason::UnsolicitedRepair)
            };
        }
        if self.filter.admits_source(source) {
            return Ok(());
        }
        let repairs = self.requester.registry.knows_host(source) && self.tracker.is_missing(s.key, s.seq);
        if repairs { Ok(()) } else { Err(DropReason::SenderFilter) }
    }

    fn whole(&mut self, now: Instant, came: Came, bytes: &[u8]) -> Result<(), DropReason> {
        let Came { door, index, .. } = came;
        let source = came.source.ip();
        let frame = DataFrame::decode(bytes).map_err(|_| DropReason::DecodeError)?;
        let (class, subtree, wanted) = self.classify(now, frame.kind, frame.id, frame.second_id);
        let (key, seq) = (frame.hash_key, frame.seq_num);
        let (group, wanted_here) = (self.group_of(class, frame.id), wanted.is_ok());
        let mut s = Sighting { key, seq, group, subtree, class, source, wanted: wanted_here, trusted: false };
        self.admit(door, source, &s)?;
        if self.mutation == Some(Mutation::RepairSwallowed) && self.requester.registry.knows_host(source) {
            return Err(DropReason::Deduplicated);
        }
        if wanted.is_ok() {
            if self.mutation != Some(Mutation::NothingVerified) {
                verify(&frame, &self.settings.verify, self.hashes.of(index))?;
            }
            s.trusted = true;
        }
        let seen = self.observe(now, &s);
        if self.mutation == Some(Mutation::DuplicateClosesGap) && seen == Seen::Known {
            self.observe(now, &Sighting { seq: SeqNum(seq.0.saturating_add(1)), ..s });
        }
        wanted?;
        let claim = claim_key(&frame).ok_or(DropReason::UnexpectedControl)?;
        self.gate.ask(gate::Candidate {
            key: claim,
            place: Place::Batch(u32::try_from(index).unwrap_or(u32::MAX)),
            wire_len: u32::try_from(frame.wire_len()).unwrap_or(u32::MAX),
            header_len: u16::try_from(frame.header_len()).unwrap_or(u16::MAX),
            behind: (seen == Seen::Known).then_some(gate::Novel { key, seq, source }),
            mark: self.markable(now, &frame, came, seen),
        });
        Ok(())
    }

    /// Whether a frame that passed everything before the gate is to be marked.
    fn markable(&self, now: Instant, frame: &DataFrame<'_>, came: Came, seen: Seen) -> Markable {
        let Some(fabric) = &self.settings.marks else { return Markable::No };
        if !matches!(frame.kind, Kind::LegacyTx | Kind::Tx) {
            return Markable::No;
        }
        let arrived = Arrived {
            to: came.to.filter(|_| came.door == Door::Groups),
            group: self.settings.shard_bits.group_of(frame.id),
            seen: (frame.seq_num.0 > 0).then_some(seen),
            from_endpoint: self.requester.registry.knows_host(came.source.ip()),
            punctual: now < self.next_tick + LATE,
        };
        arrived.judge(fabric)
    }

    fn fragment(&mut self, now: Instant, door: Door, source: IpAddr, bytes: &[u8]) -> Result<(), DropReason> {
        let fragment = Fragment::decode(bytes).map_err(|_| DropReason::FragmentDecodeError)?;
        let kind = fragment.original_kind();
        let (class, subtree, wanted) = self.classify(now, kind, fragment.id, fragment.second_id);
        let (key, seq) = (fragment.hash_key, fragment.seq_num);
        // A fragment is verified with its object; if that fails, its number is missing again.
        let (group, wanted_here) = (self.group_of(class, fragment.id), wanted.is_ok());
        let s =
            Sighting { key, seq, group, subtree, class, source, wanted: wanted_here, trusted: wanted_here };
        self.admit(door, source, &s)?;
        self.observe(now, &s);
        wanted?;
        let horizon = self.settings.track.gap_ttl.unwrap_or(class.horizon());
        let Some(rebuilt) = self.reassembler.take(now, &fragment, horizon, &mut self.counts)? else {
            return Ok(());
        };
        self.rebuilt(now, rebuilt)
    }

    fn rebuilt(&mut self, now: Instant, rebuilt: Rebuilt) -> Result<(), DropReason> {
        let frame = DataFrame::decode(&rebuilt.frame).map_err(|_| DropReason::FragmentGrid)?;
        if let Err(reason) = verify(&frame, &self.settings.verify, None) {
            if self.reassembler.failed(&rebuilt.parts, &mut self.counts) {
                for seq in &rebuilt.parts.numbers {
                    self.tracker.reopen(now, rebuilt.parts.hash_key, *seq, &mut self.counts);
                }
            } else {
                self.counts.lose(Loss::Reassembly, rebuilt.parts.numbers.len() as u64);
            }
            return Err(reason);
        }
        let key = claim_key(&frame).ok_or(DropReason::UnexpectedControl)?;
        let wire_len = u32::try_from(frame.wire_len()).unwrap_or(u32::MAX);
        let header_len = u16::try_from(frame.header_len()).unwrap_or(u16::MAX);
        self.reassembler.verified(&rebuilt.parts, &mut self.counts);
        let marks = self.settings.marks.is_some() && frame.kind == Kind::Tx;
        let mark = if marks { Markable::Withheld(Withheld::Fragments) } else { Markable::No };
        let place = self.gate.keep(rebuilt, wire_len, header_len);
        self.gate.ask(gate::Candidate { key, place, wire_len, header_len, behind: None, mark });
        Ok(())
    }

    /// Class, subtree label and admission of a frame's flow.
    fn classify<'a>(
        &self,
        now: Instant,
        kind: Kind,
        id: &'a Id,
        second_id: &'a Id,
    ) -> (FlowClass, &'a Id, Result<(), DropReason>) {
        match kind {
            Kind::Block => (FlowClass::Block, &frame::id::NO_ID, Ok(())),
            Kind::Anchor => (FlowClass::Anchor, &frame::id::NO_ID, Ok(())),
            Kind::Subtree => (FlowClass::Subtree, id, Ok(())),
            Kind::LegacyTx => {
                (FlowClass::Tx, &frame::id::NO_ID, self.filter.admits_tx(now, id, &frame::id::NO_ID))
            }
            _ => (FlowClass::Tx, second_id, self.filter.admits_tx(now, id, second_id)),
        }
    }

    /// Group that carries frames of a class; that of transactions follows from their id.
    fn group_of(&self, class: FlowClass, id: &Id) -> GroupIndex {
        match class {
            FlowClass::Tx => self.filter.shard_of(id),
            FlowClass::Block | FlowClass::Anchor => GroupIndex::BLOCK_BROADCAST,
            FlowClass::Subtree => GroupIndex::SUBTREE_DATA,
        }
    }

    fn observe(&mut self, now: Instant, s: &Sighting<'_>) -> Seen {
        let seen = self.tracker.observe(now, s, &mut self.counts);
        if let Seen::Filled(filled) = &seen {
            self.requester.filled(now, filled);
        }
        seen
    }

    /// V7 for each block announcement that passed the gate (wire 1.7).
    fn emit_headers<B: Batch + ?Sized>(&mut self, from: usize, batch: &B) {
        let Some(origin) = self.settings.header_origin else { return };
        for delivery in self.deliveries.get(from..).unwrap_or(&[]) {
            let bytes = match delivery.place {
                Place::Batch(index) => batch.bytes(index as usize),
                Place::Kept(kept) => self.gate.bytes_of(kept),
            };
            let Ok(frame) = DataFrame::decode(bytes) else { continue };
            let Some(header) = frame.payload.first_chunk::<{ frame::block::HEADER }>() else { continue };
            if frame.kind != Kind::Block || frame.msg_type != BLOCK_ANNOUNCE {
                continue;
            }
            self.header_seq += 1;
            let fields = frame::data::HeaderFields {
                kind: Kind::BlockHeader,
                msg_type: 0,
                id: frame.id,
                hash_key: hash_key(origin, GroupIndex::BLOCK_HEADER, &frame::id::NO_ID),
                seq_num: SeqNum(self.header_seq),
                second_id: &frame::id::NO_ID,
                payload_len: 80,
            };
            let mut out = [0; BLOCK_HEADER_FRAME];
            if frame::data::encode_header(&fields, &mut out).is_some() {
                out[HEADER..].copy_from_slice(header);
                self.headers.push(out);
                self.counts.headers += 1;
            }
        }
    }

    /// Takes an ADVERT.
    pub fn advert(&mut self, now: Instant, advert: &Advert) {
        self.requester.advert(now, advert, &mut self.counts);
    }

    /// Takes a BRC-127 announcement.
    pub fn announce(&mut self, now: Instant, source: IpAddr, announce: &SubtreeGroupAnnounce) {
        if self.filter.admits_source(source) && self.filter.announce(now, announce) {
            self.counts.announces += 1;
        } else {
            self.counts.announces_rejected += 1;
        }
    }

    /// Takes an entry of a flow digest whose group this worker owns. Retry endpoints speak for flows whose sender fell
    /// silent: where the source filter does not admit them, about flows that it admitted.
    pub fn digest(&mut self, now: Instant, source: IpAddr, entry: &frame::digest::Entry) {
        if self.mutation == Some(Mutation::DigestIgnored) {
            return;
        }
        let key = entry.hash_key;
        let admitted = self.filter.admits_source(source)
            || self.requester.registry.knows_host(source) && self.tracker.knows(key);
        if !admitted {
            return self.counts.drop(DropReason::SenderFilter);
        }
        // What verified frames said of their flow counts more than a digest: a forged one cannot have gaps passed over.
        let (group, subtree) = self.tracker.label(key).unwrap_or((entry.group, entry.subtree_id));
        let wanted = self.wants_group(group)
            && (FlowClass::of_group(group) != FlowClass::Tx
                || self.filter.admits_subtree(now, &subtree).is_ok());
        let counts = &mut self.counts;
        self.tracker.digest(now, key, entry.highest, group, &subtree, source, wanted, counts);
        self.requester.settle(&mut self.tracker);
    }

    /// Are flows of this group received and not filtered?
    fn wants_group(&self, group: GroupIndex) -> bool {
        match FlowClass::of_group(group) {
            FlowClass::Tx => {
                u32::from(group.0) < self.settings.shard_bits.groups() && self.filter.admits_shard(group)
            }
            FlowClass::Subtree => self.settings.subtree_data,
            FlowClass::Block | FlowClass::Anchor => true,
        }
    }

    /// Runs what is due.
    pub fn on_timeout(&mut self, now: Instant) {
        self.requester.settle(&mut self.tracker);
        self.requester.on_timeout(now, &mut self.tracker, &mut self.counts);
        if let Some(claims) = self.gate.claims_mut() {
            claims.on_timeout(now);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.tick(now);
        }
    }

    fn tick(&mut self, now: Instant) {
        const SWEEP: usize = 64;
        let flows = SWEEP.max(self.tracker.flows() / 50);
        let requester = &mut self.requester;
        let silent = self.mutation == Some(Mutation::ResumedNotProbed);
        let ask = |question: &track::Question| {
            if silent && question.resumed { track::Asked::Not } else { requester.probe(now, question) }
        };
        self.tracker.sweep(now, flows, ask, &mut self.counts);
        self.keep_positions(now);
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks.is_multiple_of(SLOW_TICKS) {
            self.reassembler.purge(now, &mut self.counts);
            self.filter.purge(now);
        }
    }

    /// Frames whose claims were decided since they came. After the driver was pumped.
    pub fn decide(&mut self, now: Instant) {
        self.gate.decided(now, &mut self.deliveries, &mut self.counts);
    }

    /// When `on_timeout` wants to be called next.
    pub fn next_timeout(&self) -> Instant {
        let claims = self.gate.claims().and_then(Claims::next_timeout);
        [self.requester.next_timeout(), claims].into_iter().flatten().fold(self.next_tick, Instant::min)
    }

    /// Frames to hand to the consumer, in order. Each must be answered with `delivered` or `undelivered`.
    pub fn take_deliveries(&mut self, out: &mut Vec<Delivery>) {
        self.unclaimed += self.deliveries.iter().filter(|delivery| delivery.ticket.is_none()).count() as u64;
        out.append(&mut self.deliveries);
    }

    /// Bytes of a delivery: the whole frame, without padding. `batch` is the one it was taken from.
    pub fn bytes<'a, B: Batch + ?Sized>(&'a self, delivery: &Delivery, batch: &'a B) -> &'a [u8] {
        let bytes = match delivery.place {
            Place::Batch(index) => batch.bytes(index as usize),
            Place::Kept(kept) => self.gate.bytes_of(kept),
        };
        if self.mutation == Some(Mutation::PaddingDelivered) {
            return bytes;
        }
        bytes.get(..delivery.wire_len as usize).unwrap_or(bytes)
    }

    /// May the frame still leave under its claim? Asked just before it is queued. `false`: it waits again, `decide` will
    /// bring it back if it is still ours to deliver.
    pub fn may_leave<B: Batch + ?Sized>(&mut self, now: Instant, delivery: &Delivery, batch: &B) -> bool {
        let bytes = || {
            let bytes = match delivery.place {
                Place::Batch(index) => batch.bytes(index as usize),
                Place::Kept(_) => &[],
            };
            bytes.get(..delivery.wire_len as usize).unwrap_or(bytes)
        };
        self.gate.may_leave(now, delivery, bytes)
    }

    /// The consumer's queue has a copy of the frame (or refused it): a kept one may go.
    pub fn release(&mut self, delivery: &Delivery) {
        self.gate.release(delivery);
    }

    /// The consumer has it.
    pub fn delivered(&mut self, now: Instant, handed: Handed) {
        self.counts.delivered += 1;
        self.counts.delivered_bytes += u64::from(handed.wire_len);
        match handed.ticket {
            Some(ticket) => self.gate.sent(now, ticket),
            None => self.unclaimed = self.unclaimed.saturating_sub(1),
        }
    }

    /// The consumer's queue is full: the frame is dropped and its claim released, but endpoints still hold it, so it is
    /// asked for again when there is room. Before `release`.
    pub fn no_room<B: Batch + ?Sized>(&mut self, now: Instant, delivery: &Delivery, batch: &B) {
        if self.mutation == Some(Mutation::RefusedFrameForgotten) {
            return self.undelivered(now, delivery.ticket, DropReason::ConsumerQueueFull);
        }
        if let Some(parts) = self.gate.parts_of(delivery) {
            self.reassembler.forget(parts);
            for seq in &parts.numbers {
                self.tracker.defer(now, parts.hash_key, *seq, &mut self.counts);
            }
        } else if let Ok(frame) = DataFrame::decode(self.bytes(delivery, batch)) {
            let (key, seq) = (frame.hash_key, frame.seq_num);
            self.tracker.defer(now, key, seq, &mut self.counts);
        }
        self.undelivered(now, delivery.ticket, DropReason::ConsumerQueueFull);
    }

    /// Is there room at the consumer for frames that found none?
    pub fn set_room(&mut self, room: bool) {
        self.requester.set_room(room);
    }

    /// The consumer will not get it from us: its claim is released.
    pub fn undelivered(&mut self, now: Instant, ticket: Option<Ticket>, reason: DropReason) {
        self.counts.drop(reason);
        match ticket {
            Some(ticket) if self.mutation == Some(Mutation::UndeliveredSettles) => {
                self.gate.sent(now, ticket)
            }
            Some(ticket) => self.gate.failed(now, ticket),
            None => self.unclaimed = self.unclaimed.saturating_sub(1),
        }
    }

    /// Transactions to be marked where the proxies claim: those of the last batch.
    pub fn sighted(&mut self) -> std::vec::Drain<'_, Sighted> {
        self.gate.sighted.drain(..)
    }

    /// Requests to send from the reply socket.
    pub fn take_requests(&mut self, out: &mut Vec<Request>) {
        self.requester.take_requests(out);
    }

    /// V7 frames to emit.
    pub fn take_headers(&mut self, out: &mut Vec<[u8; BLOCK_HEADER_FRAME]>) {
        out.append(&mut self.headers);
    }

    /// Numbers that were given up, for the log.
    pub fn take_losses(&mut self, out: &mut Vec<Lost>) {
        self.tracker.take_losses(out);
    }

    /// Flows of which no endpoint said whether numbers from there on were sent, for the log.
    pub fn take_unconfirmed(&mut self, out: &mut Vec<(frame::HashKey, u64)>) {
        self.tracker.take_unconfirmed(out);
    }

    /// How long recovered numbers were missing.
    pub fn take_recoveries(&mut self, out: &mut Vec<Duration>) {
        self.tracker.take_recoveries(out);
    }

    /// The claim protocol, for its driver.
    pub fn claims_mut(&mut self) -> Option<&mut Claims> {
        self.gate.claims_mut()
    }

    /// From now on no frame waits for a claim.
    pub fn drain(&mut self, now: Instant) {
        if let Some(claims) = self.gate.claims_mut() {
            claims.drain(now);
        }
    }

    /// The end: open gaps are counted as lost.
    pub fn stop(&mut self) {
        self.tracker.stop(&mut self.counts);
    }

    /// True while frames wait for a claim.
    pub fn is_waiting(&self) -> bool {
        self.gate.waiting() > 0
    }

    /// Totals, with the gauges brought up to date.
    pub fn counts(&mut self) -> &Counts {
        self.counts.open_gaps = self.tracker.missing();
        self.counts.flows = self.tracker.flows() as u64;
        self.counts.flows_unheard = self.tracker.unheard() as u64;
        self.counts.endpoints = self.requester.registry.len() as u64;
        self.counts.reassembly_bytes = self.reassembler.bytes() as u64;
        self.counts.waiting_bytes = self.gate.bytes() as u64;
        if let Some(claims) = self.gate.claims() {
            let stats = claims.stats();
            self.counts.claims_overdue = stats.overdue.value();
            self.counts.claims_late = stats.late.value();
        }
        &self.counts
    }
}
