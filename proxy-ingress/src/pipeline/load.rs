//! Frames that may leave are loaded: brought into the burst where they are not, given to their flow, and listed for the
//! planner.
//!
//! Limits: [`LOADS`] frames an emission, and a reserve of heap. What finds no room waits for a later round.
//!
//! Cost: nothing is copied that lies in the burst already, but bare transactions, which get a header.

use super::admit::{Admitted, Shape};
use super::claim::{Candidate, Cleared, Gate};
use super::group::route;
use super::hand_over::{HandOverRef, HandOvers};
use super::large::{Cutting, LargeFrame, LargeFrames};
use super::loaded::{Loaded, LoadedFrame};
use super::number::{FlowHandle, FlowTable, Identity, stamp_of};
use super::outlets::Outlets;
use super::settings::IngressConfig;
use super::slab::HeldFrame;
use super::train::TrainFrame;
use crate::drops::DropReason;
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::tally::Tally;
use bytes::Bytes;
use frame::data::{HEADER, HeaderFields, encode_header};
use frame::fragment::FragmentPlan;
use frame::tx::{self, Part};
use frame::{GroupIndex, ShardBits};
use multicast_io::{Burst, Span};
use service::ledger::Loss;
use std::time::Instant;
use txidset::Ticket;

/// Frames of one emission, beyond which decided ones wait for the next.
const LOADS: usize = 4096;
/// Heap that must be free before another waiting frame is fetched: more than the largest whole frame and its header.
const HEAP_RESERVE: usize = 2 * (64 << 10);

/// The parts of the pipeline that a frame meets while it is loaded.
pub(super) struct Stages<'a> {
    pub(super) gate: &'a mut Gate,
    pub(super) flows: &'a mut FlowTable,
    pub(super) hand_overs: &'a mut HandOvers,
    pub(super) outlets: &'a Outlets,
    pub(super) tally: &'a Tally,
}

/// A frame that may leave.
struct Departing<'a> {
    candidate: &'a Candidate,
    held: HeldFrame,
    ticket: Option<Ticket>,
}

/// Where a frame goes and under which numbers.
#[derive(Clone, Copy)]
struct Destination {
    flow: Option<FlowHandle>,
    group: GroupIndex,
}

/// What a loader must know.
struct Settings {
    shard_bits: ShardBits,
    standard: bool,
    stamp_source: bool,
    keep_stamps: bool,
    outlets: u64,
}

/// See the module text.
pub(super) struct Loader {
    settings: Settings,
    loaded: Loaded,
    large: LargeFrames,
    scratch: Vec<u8>,
    stopped_for_room: bool,
    #[cfg(feature = "mutants")]
    pub(super) mutation: Option<Mutation>,
}

impl Loader {
    pub(super) fn new(config: &IngressConfig) -> Loader {
        Loader {
            settings: Settings {
                shard_bits: config.shard_bits,
                standard: matches!(config.identity, Identity::Standard(_)),
                stamp_source: config.stamp_source,
                keep_stamps: config.policy.allow_stamped_ingress,
                outlets: config.outlets.max(1) as u64,
            },
            loaded: Loaded::default(),
            large: LargeFrames::new(config.shard_bits, config.chunk, HEAP_RESERVE),
            scratch: Vec::with_capacity(64 << 10),
            stopped_for_room: false,
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Loads everything that may leave now: the next chunk of large frames, then frames that were decided. `room`: bytes of
    /// frames that can wait elsewhere. What finds no room is loaded in a later round ([`Loader::is_busy`]).
    pub(super) fn load(&mut self, now: Instant, burst: &mut Burst, room: usize, mut stages: Stages<'_>) {
        self.large.begin(room > 0, self.settings.outlets, stages.hand_overs, stages.tally);
        self.cut(now, burst, 0, &mut stages);
        let batch = stages.gate.take_batch();
        while let Some((at, ticket)) = stages.gate.next_present() {
            if let Some((candidate, held)) = batch.get(at) {
                let frame = Departing { candidate, held: held.clone(), ticket };
                self.load_one(now, burst, frame, &mut stages);
            }
        }
        stages.gate.give_batch_back(batch);
        let mut bytes = 0;
        self.stopped_for_room = loop {
            if burst.heap_free() < HEAP_RESERVE || self.loaded.len() >= LOADS || bytes >= room {
                break true;
            }
            match stages.gate.next(now, stages.tally) {
                Some(cleared) => {
                    bytes += cleared.candidate.frame.len as usize;
                    self.load_cleared(now, burst, cleared, &mut stages);
                }
                None => break false,
            }
        };
    }

    /// Loads one frame that is in no batch.
    pub(super) fn load_cleared(
        &mut self,
        now: Instant,
        burst: &mut Burst,
        cleared: Cleared,
        stages: &mut Stages<'_>,
    ) {
        let Cleared { candidate, held, ticket } = cleared;
        self.load_one(now, burst, Departing { candidate: &candidate, held, ticket }, stages);
    }

    /// What the planner takes.
    pub(super) fn loaded(&mut self) -> &mut Loaded {
        &mut self.loaded
    }

    /// Gives up the large frames that are not cut to their end.
    pub(super) fn abandon(&mut self, hand_overs: &mut HandOvers, tally: &Tally) {
        self.large.abandon(self.settings.outlets, hand_overs, tally);
    }

    /// Bytes of large frames that nothing bounds but the worker, which stops reading.
    pub(super) fn copied_bytes(&self) -> usize {
        self.large.copied_bytes()
    }

    /// How many large frames wait.
    pub(super) fn large_waiting(&self) -> usize {
        self.large.len()
    }

    /// A later round must load more, and can.
    pub(super) fn is_busy(&self, outlets: &Outlets) -> bool {
        self.stopped_for_room || !self.loaded.is_empty() || self.large.may_go_on(outlets)
    }

    /// Nothing waits here.
    pub(super) fn is_idle(&self) -> bool {
        self.large.len() == 0 && self.loaded.is_empty() && !self.stopped_for_room
    }

    fn load_one(
        &mut self,
        now: Instant,
        burst: &mut Burst,
        departing: Departing<'_>,
        stages: &mut Stages<'_>,
    ) {
        let Departing { candidate, held, ticket } = departing;
        #[cfg(feature = "mutants")]
        let ticket = self.settled_before_send(now, ticket, stages);
        let frame = &candidate.frame;
        let route = route(frame.kind, frame.msg_type, &frame.id, &frame.second_id, self.settings.shard_bits);
        let flow = frame.is_numbered().then(|| stages.flows.flow(now, &route, candidate.sender));
        let to = Destination { flow, group: route.destination };
        let loaded = match (frame.shape, flow) {
            // Its flow is looked for again whenever it is cut.
            (Shape::Cut(plan), Some(_)) => {
                self.load_large((now, burst), candidate, held, (plan, to.group), ticket, stages)
            }
            _ => self.load_whole(burst, frame, held, to, ticket, stages),
        };
        if !loaded {
            // Only a heap smaller than one receive batch can do this; the claim must not outlive the frame.
            let lost = Loss::frames(1).with_bytes(u64::from(frame.len));
            stages.tally.ledger.lose(DropReason::BacklogFull, lost);
            if let Some(ticket) = ticket {
                stages.tally.released.add(1);
                stages.gate.claims().failed(now, ticket);
            }
        }
    }

    fn load_whole(
        &mut self,
        burst: &mut Burst,
        frame: &Admitted,
        held: HeldFrame,
        to: Destination,
        ticket: Option<Ticket>,
        stages: &mut Stages<'_>,
    ) -> bool {
        let Some(span) = self.bring(burst, frame, held, stages.gate) else { return false };
        let Ok(len) = u16::try_from(span.len) else { return false };
        let Settings { standard, stamp_source, keep_stamps, .. } = self.settings;
        let stamp = stamp_of(standard, stamp_source, keep_stamps, frame.preset);
        stages.tally.parts.add(self.settings.outlets - 1);
        let hand_over = self.open(ticket, 1, stages.hand_overs);
        self.loaded
            .push(LoadedFrame { span, flow: to.flow, stamp, hand_over }, TrainFrame::whole(to.group, len));
        true
    }

    /// Where the frame's bytes are in the burst; they are brought there if need be.
    fn bring(&mut self, burst: &mut Burst, frame: &Admitted, held: HeldFrame, gate: &Gate) -> Option<Span> {
        match held {
            HeldFrame::InBurst(span) if !frame.bare && frame.standard.is_none() => return Some(span),
            HeldFrame::Gone => return None,
            _ => {}
        }
        self.scratch.clear();
        if frame.bare || frame.standard.is_some() {
            self.scratch.resize(HEADER, 0);
            encode_header(&header_of(frame), &mut self.scratch)?;
        }
        let from = self.scratch.len();
        self.read(burst, &held, frame, gate);
        if frame.standard.is_some() {
            self.reduce(from + usize::from(frame.payload_at), from);
        }
        burst.push(&self.scratch)
    }

    /// The payload at `from` in the scratch, to its end, is put at `to` in standard form.
    fn reduce(&mut self, from: usize, to: usize) {
        let payload = self.scratch.split_off(from.min(self.scratch.len()));
        self.scratch.truncate(to);
        if !tx::is_extended(&payload) {
            return self.scratch.extend_from_slice(&payload);
        }
        // It was walked to its end when its variant was named.
        let _ = tx::split_extended(&payload, |piece, part| {
            if part == Part::Standard {
                self.scratch.extend_from_slice(piece);
            }
        });
    }

    /// Appends the frame's bytes (the payload, for a bare one) to the scratch.
    fn read(&mut self, burst: &Burst, held: &HeldFrame, frame: &Admitted, gate: &Gate) {
        match held {
            HeldFrame::InBurst(span) => self.scratch.extend_from_slice(burst.bytes(*span)),
            HeldFrame::Copied { first, len } => gate.read(*first, *len, &mut self.scratch),
            HeldFrame::Owned(bytes) => {
                let len = (frame.len as usize).min(bytes.len());
                self.scratch.extend_from_slice(&bytes[..len]);
            }
            HeldFrame::Gone => {}
        }
    }

    /// A frame that leaves in fragments: kept aside and cut chunk by chunk.
    fn load_large(
        &mut self,
        (now, burst): (Instant, &mut Burst),
        candidate: &Candidate,
        held: HeldFrame,
        (plan, group): (FragmentPlan, GroupIndex),
        ticket: Option<Ticket>,
        stages: &mut Stages<'_>,
    ) -> bool {
        let frame = &candidate.frame;
        let copied = !matches!(held, HeldFrame::Owned(_)) || frame.standard.is_some();
        let payload = match held {
            HeldFrame::Owned(bytes) if !copied => {
                bytes.slice(usize::from(frame.payload_at).min(bytes.len())..)
            }
            HeldFrame::Gone => return false,
            held => {
                self.scratch.clear();
                self.read(burst, &held, frame, stages.gate);
                let mut payload_at = usize::from(frame.payload_at);
                if frame.standard.is_some() {
                    self.reduce(payload_at, 0);
                    payload_at = 0;
                }
                Bytes::copy_from_slice(self.scratch.get(payload_at..).unwrap_or_default())
            }
        };
        stages.tally.fragmented.add(1);
        stages.tally.parts.add(u64::from(plan.total) * self.settings.outlets - 1);
        let hand_over = self.open(ticket, u64::from(plan.total), stages.hand_overs);
        let sender = candidate.sender;
        self.large.push(LargeFrame {
            frame: *frame,
            sender,
            payload,
            copied,
            plan,
            group,
            hand_over,
            next: 0,
        });
        self.cut(now, burst, self.large.len() - 1, stages);
        true
    }

    fn cut(&mut self, now: Instant, burst: &mut Burst, from: usize, stages: &mut Stages<'_>) {
        let with = &mut Cutting {
            now,
            burst,
            loaded: &mut self.loaded,
            scratch: &mut self.scratch,
            flows: stages.flows,
            outlets: stages.outlets,
            tally: stages.tally,
        };
        self.large.cut(from, with);
    }

    fn open(&self, ticket: Option<Ticket>, datagrams: u64, hand_overs: &mut HandOvers) -> HandOverRef {
        match ticket {
            Some(ticket) => hand_overs.open(ticket, datagrams * self.settings.outlets),
            None => HandOverRef::NONE,
        }
    }

    #[cfg(feature = "mutants")]
    fn settled_before_send(
        &self,
        now: Instant,
        ticket: Option<Ticket>,
        stages: &mut Stages<'_>,
    ) -> Option<Ticket> {
        if planted!(self, SettledBeforeSend) {
            ticket.into_iter().for_each(|ticket| stages.gate.claims().sent(now, ticket));
            return None;
        }
        ticket
    }
}

fn header_of(frame: &Admitted) -> HeaderFields<'_> {
    HeaderFields {
        kind: frame.kind,
        msg_type: frame.msg_type,
        id: &frame.id,
        hash_key: frame.preset.0,
        seq_num: frame.preset.1,
        second_id: &frame.second_id,
        payload_len: frame.standard.unwrap_or(frame.len),
    }
}
