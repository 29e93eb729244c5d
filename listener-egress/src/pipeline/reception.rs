//! From a datagram to the gate: what it is, whether it is wanted and true, and what its number says.
//!
//! A frame is verified before the tracker takes its number: one that fails leaves no trace but a counter, and its number
//! stays missing. A frame that the filters refuse is not verified; it moves its flow without opening gaps that nobody
//! wants. What passes asks at the gate; a missing number is closed before the gate can swallow its frame.

use super::batch::{Batch, Door};
use super::counts::{Counts, DropReason, Loss};
use super::filter::Filter;
use super::gate::{Candidate, FramePlace, Gate, Novel, claim_key, variant_key};
use super::mark::{Arrived, Markable, Withheld};
use super::reassemble::{Parts, Reassembler, Rebuilt};
use super::registry::Registry;
use super::request::{Repair, Requester, Tracker};
use super::settings::Settings;
use super::verify::{Hashes, VerifyRules, verify};
use frame::digest::Entry;
use frame::id::NO_ID;
use frame::{
    Advert, DataFrame, Fabric, Fragment, GroupIndex, Id, Kind, Label, Response, SeqNum, ShardBits,
    SubtreeGroupAnnounce, Variant,
};
use gap_track::{Asked, FlowClass, FlowDigest, Seen, Sighting};
use service::ledger;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use txidset::ClaimKey;

/// How a datagram came.
#[derive(Clone, Copy)]
struct Came {
    door: Door,
    index: usize,
    source: SocketAddr,
    to: Option<IpAddr>,
    /// The worker had its turns in time.
    punctual: bool,
}

/// What is received, and how it is checked.
struct Rules {
    shard_bits: ShardBits,
    subtree_data: bool,
    verify: VerifyRules,
    gap_ttl: Option<Duration>,
    /// Bytes that an id does not prove are claimed too.
    variants: bool,
    /// Where the groups are, if courtesy marks are wanted.
    marks: Option<Fabric>,
}

/// See the module text.
pub(super) struct Reception {
    rules: Rules,
    filter: Filter,
    pub(super) tracker: Tracker,
    pub(super) requester: Requester,
    pub(super) reassembler: Reassembler,
    hashes: Hashes,
    #[cfg(feature = "mutants")]
    mutation: Option<crate::mutation::Mutation>,
}

impl Reception {
    pub(super) fn new(settings: &Settings, seed: u64, now: Instant) -> Reception {
        let registry = Registry::new(&settings.endpoints, settings.single_rate);
        Reception {
            rules: Rules {
                shard_bits: settings.shard_bits,
                subtree_data: settings.subtree_data,
                verify: settings.verify,
                gap_ttl: settings.track.gap_ttl,
                variants: settings.variants,
                marks: settings.marks,
            },
            filter: Filter::new(settings.filter.clone(), settings.shard_bits),
            tracker: Tracker::new(settings.track.clone(), seed, now),
            requester: Requester::new(registry, seed ^ 0x5EED),
            reassembler: Reassembler::new(settings.reassembly),
            hashes: Hashes::default(),
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    pub(super) fn mutate(&mut self, mutation: crate::mutation::Mutation) {
        self.mutation = Some(mutation);
        if let Some(mutation) = mutation.of_gaps() {
            self.tracker.mutate(mutation);
        }
    }

    /// Takes a batch; what passes asks at the gate.
    pub(super) fn take<B: Batch + ?Sized>(
        &mut self,
        now: Instant,
        door: Door,
        batch: &B,
        punctual: bool,
        gate: &mut Gate,
        counts: &mut Counts,
    ) {
        self.hash(now, door, batch);
        for index in 0..batch.len() {
            let came =
                Came { door, index, source: batch.source(index), to: batch.destination(index), punctual };
            if let Err(reason) = self.datagram(now, came, batch.bytes(index), gate, counts) {
                counts.drop(reason, batch.bytes(index));
            }
        }
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
                self.hashes.want(index, &frame, &self.rules.verify);
            }
        }
        self.hashes.compute(|index| batch.bytes_on(index));
    }

    fn datagram(
        &mut self,
        now: Instant,
        came: Came,
        bytes: &[u8],
        gate: &mut Gate,
        counts: &mut Counts,
    ) -> Result<(), DropReason> {
        let Came { door, source, .. } = came;
        let kind = Kind::of(bytes);
        counts.arrived(kind.ok());
        let kind = kind.map_err(|_| DropReason::DecodeError)?;
        if door == Door::Replies && !self.requester.registry.knows(source) {
            return Err(DropReason::UnknownRepairSource);
        }
        match kind {
            Kind::Fragment => self.fragment(now, door, source.ip(), bytes, gate, counts),
            Kind::LegacyTx | Kind::Tx | Kind::Block | Kind::Subtree | Kind::Anchor => {
                self.whole(now, came, bytes, gate)
            }
            Kind::BlockHeader => Err(DropReason::BlockHeader),
            Kind::Bundle => Err(DropReason::Bundle),
            Kind::Object => Err(DropReason::Object),
            Kind::Manifest => Err(DropReason::Manifest),
            Kind::Ack | Kind::Miss | Kind::Throttled if door == Door::Replies => {
                let response = Response::decode(bytes).map_err(|_| DropReason::DecodeError)?;
                self.requester.response(now, source, &response, &mut self.tracker, counts)?;
                counts.control += 1;
                Ok(())
            }
            Kind::Advert if door == Door::Groups => {
                let advert = Advert::decode(bytes).map_err(|_| DropReason::DecodeError)?;
                self.requester.advert(now, &advert, counts);
                counts.control += 1;
                Ok(())
            }
            Kind::SubtreeGroupAnnounce if door == Door::Groups => {
                let announce = SubtreeGroupAnnounce::decode(bytes).map_err(|_| DropReason::DecodeError)?;
                self.announce(now, source.ip(), &announce, counts);
                counts.control += 1;
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

    fn whole(&mut self, now: Instant, came: Came, bytes: &[u8], gate: &mut Gate) -> Result<(), DropReason> {
        let Came { door, index, .. } = came;
        let source = came.source.ip();
        let frame = DataFrame::decode(bytes).map_err(|_| DropReason::DecodeError)?;
        let (class, subtree, wanted) = self.classify(now, frame.kind, frame.id, frame.second_id);
        let (key, seq) = (frame.hash_key, frame.seq_num);
        let (group, wanted_here) = (self.group_of(class, frame.id), wanted.is_ok());
        let mut s = Sighting { key, seq, group, subtree, class, source, wanted: wanted_here, trusted: false };
        self.admit(door, source, &s)?;
        if planted!(self, RepairSwallowed) && self.requester.registry.knows_host(source) {
            return Err(DropReason::Deduplicated);
        }
        if wanted.is_ok() {
            if !planted!(self, NothingVerified) {
                verify(&frame, &self.rules.verify, self.hashes.of(index))?;
            }
            s.trusted = true;
        }
        let seen = self.observe(now, &s);
        wanted?;
        let claim = claim_key(&frame).ok_or(DropReason::UnexpectedControl)?;
        let mark = self.markable(&frame, came, &seen);
        let mark_variant = match mark {
            Markable::Yes => Variant::of(&frame, Label::Counts).map(|variant| variant.id),
            _ => None,
        };
        gate.ask(Candidate {
            key: claim,
            variant: self.variant(&frame, &claim, gate),
            place: FramePlace::Batch(u32::try_from(index).unwrap_or(u32::MAX)),
            wire_len: u32::try_from(frame.wire_len()).unwrap_or(u32::MAX),
            header_len: u16::try_from(frame.header_len()).unwrap_or(u16::MAX),
            behind: matches!(seen, Seen::Known).then_some(Novel { key, seq, source }),
            mark,
            mark_variant,
        });
        Ok(())
    }

    /// What is claimed beside its id: the bytes that the id does not prove.
    fn variant(&self, frame: &DataFrame<'_>, key: &ClaimKey, gate: &Gate) -> Option<ClaimKey> {
        let wanted = self.rules.variants;
        if wanted { variant_key(frame, key).or_else(|| gate.standard_key(key)) } else { None }
    }

    /// Whether a frame that passed everything before the gate is to be marked.
    fn markable(&self, frame: &DataFrame<'_>, came: Came, seen: &Seen<Repair>) -> Markable {
        let Some(fabric) = &self.rules.marks else { return Markable::No };
        if !matches!(frame.kind, Kind::LegacyTx | Kind::Tx) {
            return Markable::No;
        }
        let arrived = Arrived {
            to: came.to.filter(|_| came.door == Door::Groups),
            group: self.rules.shard_bits.group_of(frame.id),
            due: (frame.seq_num.0 > 0).then_some(seen.is_due()),
            from_endpoint: self.requester.registry.knows_host(came.source.ip()),
            punctual: came.punctual,
        };
        arrived.judge(fabric)
    }

    fn fragment(
        &mut self,
        now: Instant,
        door: Door,
        source: IpAddr,
        bytes: &[u8],
        gate: &mut Gate,
        counts: &mut Counts,
    ) -> Result<(), DropReason> {
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
        let horizon = self.rules.gap_ttl.unwrap_or(class.horizon());
        let rebuilt = self.reassembler.take(now, &fragment, horizon, counts)?;
        counts.parts += 1;
        let Some(rebuilt) = rebuilt else { return Ok(()) };
        counts.rebuilt += 1;
        self.rebuilt(now, rebuilt, gate, counts)
    }

    fn rebuilt(
        &mut self,
        now: Instant,
        rebuilt: Rebuilt,
        gate: &mut Gate,
        counts: &mut Counts,
    ) -> Result<(), DropReason> {
        let frame = DataFrame::decode(&rebuilt.frame).map_err(|_| DropReason::FragmentGrid)?;
        if let Err(reason) = verify(&frame, &self.rules.verify, None) {
            if self.reassembler.failed(&rebuilt.parts, counts) {
                for seq in &rebuilt.parts.numbers {
                    self.tracker.reopen(now, rebuilt.parts.hash_key, *seq);
                }
            } else {
                let (numbers, key) = (&rebuilt.parts.numbers, rebuilt.parts.hash_key);
                let (first, last) = (numbers.iter().min(), numbers.iter().max());
                let range = first.zip(last).map_or((0, 0), |(first, last)| (first.0, last.0));
                let lost = ledger::Loss::numbers(key.0, range.0, range.1);
                counts.lost.lose(Loss::Reassembly, ledger::Loss { frames: numbers.len() as u64, ..lost });
            }
            return Err(reason);
        }
        let key = claim_key(&frame).ok_or(DropReason::UnexpectedControl)?;
        let variant = self.variant(&frame, &key, gate);
        let wire_len = u32::try_from(frame.wire_len()).unwrap_or(u32::MAX);
        let header_len = u16::try_from(frame.header_len()).unwrap_or(u16::MAX);
        self.reassembler.verified(&rebuilt.parts, counts);
        let marks = self.rules.marks.is_some() && frame.kind == Kind::Tx;
        let mark = if marks { Markable::Withheld(Withheld::Fragments) } else { Markable::No };
        let place = gate.keep(rebuilt, wire_len, header_len);
        gate.ask(Candidate {
            key,
            variant,
            place,
            wire_len,
            header_len,
            behind: None,
            mark,
            mark_variant: None,
        });
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
            Kind::Block => (FlowClass::Block, &NO_ID, Ok(())),
            Kind::Anchor => (FlowClass::Anchor, &NO_ID, Ok(())),
            Kind::Subtree => (FlowClass::Subtree, id, Ok(())),
            Kind::LegacyTx => (FlowClass::Tx, &NO_ID, self.filter.admits_tx(now, id, &NO_ID)),
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

    fn observe(&mut self, now: Instant, s: &Sighting<'_>) -> Seen<Repair> {
        let seen = self.tracker.observe(now, s);
        if let Seen::Filled(filled) = &seen {
            self.requester.filled(now, filled, &mut self.tracker);
        }
        seen
    }

    /// Takes a BRC-127 announcement.
    pub(super) fn announce(
        &mut self,
        now: Instant,
        source: IpAddr,
        announce: &SubtreeGroupAnnounce,
        counts: &mut Counts,
    ) {
        if self.filter.admits_source(source) && self.filter.announce(now, announce) {
            counts.announces += 1;
        } else {
            counts.announces_rejected += 1;
        }
    }

    /// Takes an entry of a flow digest. Retry endpoints speak for flows whose sender fell silent: where the source filter
    /// does not admit them, about flows that it admitted.
    pub(super) fn digest(&mut self, now: Instant, source: IpAddr, entry: &Entry, counts: &mut Counts) {
        let key = entry.hash_key;
        let admitted = self.filter.admits_source(source)
            || self.requester.registry.knows_host(source) && self.tracker.knows(key);
        if !admitted {
            counts.entries_dropped += 1;
            return counts.drop(DropReason::SenderFilter, &[]);
        }
        // What verified frames said of their flow counts more than a digest: a forged one cannot have gaps passed over.
        let (group, subtree) = self.tracker.label(key).unwrap_or((entry.group, entry.subtree_id));
        let wanted = self.wants_group(group)
            && (FlowClass::of_group(group) != FlowClass::Tx
                || self.filter.admits_subtree(now, &subtree).is_ok());
        let highest = entry.highest;
        self.tracker.digest(now, &FlowDigest { key, highest, group, subtree: &subtree, source, wanted });
        self.requester.settle(&mut self.tracker);
    }

    /// Are flows of this group received and not filtered?
    pub(super) fn wants_group(&self, group: GroupIndex) -> bool {
        match FlowClass::of_group(group) {
            FlowClass::Tx => {
                u32::from(group.0) < self.rules.shard_bits.groups() && self.filter.admits_shard(group)
            }
            FlowClass::Subtree => self.rules.subtree_data,
            FlowClass::Block | FlowClass::Anchor => true,
        }
    }

    /// A frame whose number was not missing was new at the gate. From an endpoint it may be anybody's repair.
    pub(super) fn novel(&mut self, now: Instant, novel: Novel) {
        if !self.requester.registry.knows_host(novel.source) {
            self.tracker.novel_behind(now, novel.key, novel.seq);
        }
    }

    /// A frame that arrived found no room at the consumer: its numbers are missing again.
    pub(super) fn defer(&mut self, now: Instant, frame: &[u8], parts: Option<&Parts>) {
        let mut defer = |key, seq: SeqNum| self.tracker.defer(now, key, seq, Repair::waits);
        if let Some(parts) = parts {
            self.reassembler.forget(parts);
            parts.numbers.iter().for_each(|seq| defer(parts.hash_key, *seq));
        } else if let Ok(frame) = DataFrame::decode(frame) {
            defer(frame.hash_key, frame.seq_num);
        }
    }

    /// Takes in what happened to gaps, and asks for what is due.
    pub(super) fn request(&mut self, now: Instant, counts: &mut Counts) {
        self.requester.settle(&mut self.tracker);
        self.requester.on_timeout(now, &mut self.tracker, counts);
    }

    /// Looks at some flows: those that are silent are asked about.
    pub(super) fn sweep(&mut self, now: Instant) {
        const FLOWS: usize = 64;
        let flows = FLOWS.max(self.tracker.flows() / 50);
        let requester = &mut self.requester;
        self.tracker.sweep(now, flows, |question| -> Asked { requester.probe(now, question) });
    }

    /// Forgets what is over in the slow tables. Call about once a second.
    pub(super) fn purge(&mut self, now: Instant, counts: &mut Counts) {
        self.reassembler.purge(now, counts);
        self.filter.purge(now);
    }
}
