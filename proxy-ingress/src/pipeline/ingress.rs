//! One worker's pipeline: all stages in the order in which a frame passes them.
//!
//! A round of the runtime is: receive into the burst; [`Ingress::receive`]; let the driver ask the store;
//! [`Ingress::load`]; [`Ingress::plan`]; [`Ingress::emit`]; [`Ingress::finish`]; clear the burst. Everything that waits
//! (for a decision, for room, for its next chunk) is kept here and goes on in a later round.

use super::admit::{self, Admitted, Policy, Shape, Via, admit, admit_hashed};
use super::claim::{Candidate, Cleared, Gate};
use super::digest::{self, Schedule};
use super::drops::DropReason;
use super::emit::{DebtRef, Emission, Ledger, Offer, Outlet, OutletLimits, Owner, Transmit};
use super::fragment::cut;
use super::group::route;
use super::hashes::Hashes;
use super::number::{FlowLimits, FlowRef, FlowTable, Identity, Stamp, stamp_of};
use super::slab::Held;
use super::train::{Car, Limits, Order, Plan};
use crate::mutation::Mutation;
use crate::tally::Tally;
use bytes::Bytes;
use frame::data::{HEADER, HeaderFields, encode_header};
use frame::datagram::stamp;
use frame::digest::Entry;
use frame::{Fabric, GroupIndex, HashKey, Kind, SeqNum, ShardBits, TxId};
use huge_pages::prefetch;
use multicast_io::{Burst, Span, Train};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{Claims, Ticket};

/// Bytes of a large frame that are cut in one round, so that a 64 MiB frame does not hold up small ones.
const CHUNK: usize = 256 << 10;
/// Frames judged in one round, beyond which streams wait for the next.
const BATCH: usize = 1024;
/// Frames of one emission, beyond which decided ones wait for the next.
const LOADS: usize = 4096;
/// Heap that must be free before another waiting frame is fetched: more than the largest whole frame and its header.
const HEAP_RESERVE: usize = 2 * (64 << 10);

/// Frames ahead whose headers are loaded before they are numbered, and the byte that is looked for.
const AHEAD: usize = 8;
const STAMPED: usize = 40;

/// What the pipeline of a worker needs to know.
#[derive(Clone, Debug)]
pub struct IngressConfig {
    /// What is admitted.
    pub policy: Policy,
    /// Address plan.
    pub fabric: Fabric,
    /// Shards.
    pub shard_bits: ShardBits,
    /// Port of the data groups.
    pub egress_port: u16,
    /// Port of flow digests.
    pub beacon_port: u16,
    /// Who numbers.
    pub identity: Identity,
    /// `--stamp-source`.
    pub stamp_source: bool,
    /// Bounds of the flow table.
    pub flows: FlowLimits,
    /// Whether flow digests are sent.
    pub digests: bool,
    /// Longest frame that may share a train (link MTU less IP and UDP headers).
    pub max_segment: u16,
    /// `--train-padding`.
    pub padding_percent: u32,
    /// `--train-order`.
    pub train_order: Order,
    /// Emit interfaces.
    pub outlets: usize,
    /// Bounds of each interface's backlog.
    pub outlet: OutletLimits,
    /// Whether ids are claimed at all.
    pub claims: bool,
    /// Bytes of frames that wait for the store; parked copies have room of their own.
    pub slab_bytes: usize,
    /// Frames that wait for the store.
    pub slab_entries: usize,
}

impl IngressConfig {
    /// What the options of the role are by default, for one interface of an Ethernet.
    pub fn new(fabric: Fabric, shard_bits: ShardBits, identity: Identity) -> IngressConfig {
        IngressConfig {
            policy: Policy::default(),
            fabric,
            shard_bits,
            egress_port: 9_001,
            beacon_port: 9_300,
            identity,
            stamp_source: true,
            flows: FlowLimits { flows: 65_536, idle: Duration::from_secs(300) },
            digests: true,
            max_segment: 1_452,
            padding_percent: 15,
            train_order: Order::Length,
            outlets: 1,
            outlet: OutletLimits { bytes: 16 << 20, deadline: Duration::from_secs(1) },
            claims: true,
            slab_bytes: 32 << 20,
            slab_entries: 1 << 17,
        }
    }
}

/// A frame of the next emission.
struct Load {
    span: Span,
    flow: Option<FlowRef>,
    stamp: Stamp,
    debt: DebtRef,
}

/// A large frame that is cut over several rounds.
struct Object {
    frame: Admitted,
    payload: Bytes,
    plan: frame::fragment::FragmentPlan,
    next: u32,
    flow: FlowRef,
    group: GroupIndex,
    debt: DebtRef,
}

/// See the module text.
pub struct Ingress {
    config: IngressConfig,
    hashes: Hashes,
    gate: Gate,
    flows: FlowTable,
    schedule: Schedule,
    ledger: Ledger,
    outlets: Vec<Outlet>,
    offers: Vec<Offer>,
    loads: Vec<Load>,
    cars: Vec<Car>,
    plan: Plan,
    emission: Emission,
    objects: VecDeque<Object>,
    /// Heap that cutting leaves free in this round.
    cut_floor: usize,
    stopped_for_room: bool,
    scratch: Vec<u8>,
    entries: Vec<Entry>,
    retired: Vec<(FlowRef, u64)>,
    tally: Arc<Tally>,
    mutation: Option<Mutation>,
}

impl Ingress {
    /// A pipeline in front of `claims`.
    pub fn new(now: Instant, config: IngressConfig, claims: Claims, tally: Arc<Tally>) -> Ingress {
        Ingress {
            hashes: Hashes::default(),
            gate: Gate::new(claims, config.claims, config.slab_entries, config.slab_bytes),
            flows: FlowTable::new(config.identity.clone(), config.flows),
            schedule: Schedule::new(),
            ledger: Ledger::default(),
            outlets: (0..config.outlets.max(1)).map(|_| Outlet::new(now, config.outlet)).collect(),
            offers: Vec::new(),
            loads: Vec::new(),
            cars: Vec::new(),
            plan: Plan::new(),
            emission: Emission::default(),
            objects: VecDeque::new(),
            cut_floor: 0,
            stopped_for_room: false,
            scratch: Vec::with_capacity(64 << 10),
            entries: Vec::with_capacity(digest::ENTRIES),
            retired: Vec::new(),
            tally,
            mutation: None,
            config,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        self.gate.mutation = Some(mutation);
    }

    /// The claim protocol, for the driver.
    pub fn claims(&mut self) -> &mut Claims {
        self.gate.claims()
    }

    /// Judges and claims the arrivals of `burst` from index `from` on.
    pub fn receive(&mut self, now: Instant, burst: &Burst, from: usize) {
        self.judge(now, burst, from);
        self.ask(now);
    }

    /// Judges the arrivals of `burst` from index `from` on. [`Ingress::ask`] follows the last of them.
    pub fn judge(&mut self, now: Instant, burst: &Burst, from: usize) {
        let arrivals = burst.arrivals().get(from..).unwrap_or_default();
        let mut bytes = 0;
        self.hashes.take_batch(&self.config.policy, burst, arrivals);
        for (at, arrival) in arrivals.iter().enumerate() {
            bytes += u64::from(arrival.span.len);
            let hash = self.hashes.of(at);
            self.receive_hashed(now, burst, arrival.span, arrival.source.ip(), hash);
        }
        self.tally.packets_received.add(arrivals.len() as u64);
        self.tally.bytes_received.add(bytes);
    }

    /// Judges one datagram that is in `burst`. [`Ingress::ask`] follows the last one.
    pub fn receive_datagram(&mut self, now: Instant, burst: &Burst, span: Span, sender: IpAddr) {
        self.receive_hashed(now, burst, span, sender, None);
    }

    fn receive_hashed(
        &mut self,
        now: Instant,
        burst: &Burst,
        span: Span,
        sender: IpAddr,
        hash: Option<TxId>,
    ) {
        let verdict = admit_hashed(&self.config.policy, burst.bytes(span), Via::Udp, hash);
        self.take(now, verdict, sender, |frame| Held::InBurst(Span { start: span.start, len: frame.len }));
    }

    /// Judges a message of a TCP stream: one frame or one bare transaction. `judged` is what was found elsewhere, for
    /// messages too large to be hashed here. [`Ingress::ask`] follows the last message.
    pub fn receive_stream(
        &mut self,
        now: Instant,
        message: Bytes,
        judged: Option<Result<Admitted, DropReason>>,
        sender: IpAddr,
    ) {
        self.tally.tcp_messages.add(1);
        let verdict = judged.unwrap_or_else(|| admit(&self.config.policy, &message, Via::Tcp));
        self.take(now, verdict, sender, |_| Held::Owned(message));
    }

    /// Claims what was judged.
    pub fn ask(&mut self, now: Instant) {
        self.gate.ask(now, &self.tally);
    }

    fn take(
        &mut self,
        now: Instant,
        verdict: Result<Admitted, DropReason>,
        sender: IpAddr,
        held: impl FnOnce(&Admitted) -> Held,
    ) {
        match verdict {
            Err(reason) => self.tally.dropped(reason).add(1),
            Ok(frame) => {
                self.tally.accepted(frame.kind).add(1);
                if frame.kind == Kind::Subtree && self.config.policy.verify_subtree_root {
                    self.tally.subtree_roots_ok.add(1);
                }
                let held = held(&frame);
                self.gate.offer(Candidate { frame, sender, since: now }, held);
            }
        }
    }

    /// Loads everything that may leave now: decided frames, and the next chunk of large ones. What finds no room is
    /// loaded in a later round ([`Ingress::is_busy`]).
    pub fn load(&mut self, now: Instant, burst: &mut Burst) {
        self.cut_floor = burst.heap_free().saturating_sub(CHUNK).max(HEAP_RESERVE);
        self.cut_objects(burst);
        let batch = self.gate.lend_batch();
        while let Some((at, ticket)) = self.gate.next_present() {
            if let Some((candidate, held)) = batch.get(at) {
                self.load_one(now, burst, candidate, held.clone(), ticket);
            }
        }
        self.gate.return_batch(batch);
        self.stopped_for_room = loop {
            if burst.heap_free() < HEAP_RESERVE || self.loads.len() >= LOADS {
                break true;
            }
            match self.gate.next(now, &self.tally) {
                Some(Cleared { candidate, held, ticket }) => {
                    self.load_one(now, burst, &candidate, held, ticket)
                }
                None => break false,
            }
        };
    }

    fn load_one(
        &mut self,
        now: Instant,
        burst: &mut Burst,
        candidate: &Candidate,
        held: Held,
        mut ticket: Option<Ticket>,
    ) {
        if self.mutation == Some(Mutation::SettledBeforeSend)
            && let Some(ticket) = ticket.take()
        {
            self.gate.claims().sent(now, ticket);
        }
        let frame = &candidate.frame;
        let route = route(frame.kind, frame.msg_type, &frame.id, &frame.second_id, self.config.shard_bits);
        let flow = frame.is_numbered().then(|| self.flows.flow(now, &route, candidate.sender));
        let group = route.destination;
        let loaded = match (frame.shape, flow) {
            (Shape::Cut(plan), Some(flow)) => self.load_large(burst, *frame, plan, held, flow, group, ticket),
            _ => self.load_whole(burst, frame, held, flow, group, ticket),
        };
        if !loaded {
            // Only a heap smaller than one receive batch can do this; the claim must not outlive the frame.
            self.tally.dropped(DropReason::BacklogFull).add(1);
            if let Some(ticket) = ticket {
                self.tally.released.add(1);
                self.gate.claims().failed(now, ticket);
            }
        }
    }

    fn load_whole(
        &mut self,
        burst: &mut Burst,
        frame: &Admitted,
        held: Held,
        flow: Option<FlowRef>,
        group: GroupIndex,
        ticket: Option<Ticket>,
    ) -> bool {
        let Some(span) = self.place(burst, frame, held) else { return false };
        let Ok(len) = u16::try_from(span.len) else { return false };
        let keep = self.config.policy.allow_stamped_ingress;
        let standard = matches!(self.config.identity, Identity::Standard(_));
        let stamp = stamp_of(standard, self.config.stamp_source, keep, frame.preset);
        let debt = self.open(ticket, 1);
        self.cars.push(Car::whole(group, len));
        self.loads.push(Load { span, flow, stamp, debt });
        true
    }

    /// Where the frame's bytes are in the burst, brought there if need be.
    fn place(&mut self, burst: &mut Burst, frame: &Admitted, held: Held) -> Option<Span> {
        match held {
            Held::InBurst(span) if !frame.bare => return Some(span),
            Held::Gone => return None,
            _ => {}
        }
        self.scratch.clear();
        if frame.bare {
            self.scratch.resize(HEADER, 0);
            encode_header(&header_of(frame), &mut self.scratch)?;
        }
        self.read(burst, &held, frame);
        burst.push(&self.scratch)
    }

    /// Appends the frame's bytes (the payload, for a bare one) to the scratch.
    fn read(&mut self, burst: &Burst, held: &Held, frame: &Admitted) {
        match held {
            Held::InBurst(span) => self.scratch.extend_from_slice(burst.bytes(*span)),
            Held::Copied { first, len } => self.gate.read(*first, *len, &mut self.scratch),
            Held::Owned(bytes) => {
                let len = (frame.len as usize).min(bytes.len());
                self.scratch.extend_from_slice(&bytes[..len]);
            }
            Held::Gone => {}
        }
    }

    /// A frame that leaves in fragments: kept aside and cut chunk by chunk.
    #[allow(clippy::too_many_arguments, reason = "one frame and what was decided about it")]
    fn load_large(
        &mut self,
        burst: &mut Burst,
        frame: Admitted,
        plan: frame::fragment::FragmentPlan,
        held: Held,
        flow: FlowRef,
        group: GroupIndex,
        ticket: Option<Ticket>,
    ) -> bool {
        let payload = match held {
            Held::Owned(bytes) => bytes.slice(usize::from(frame.payload_at).min(bytes.len())..),
            Held::Gone => return false,
            held => {
                self.scratch.clear();
                self.read(burst, &held, &frame);
                Bytes::copy_from_slice(self.scratch.get(usize::from(frame.payload_at)..).unwrap_or_default())
            }
        };
        self.tally.fragmented.add(1);
        let debt = self.open(ticket, u64::from(plan.total));
        self.objects.push_back(Object { frame, payload, plan, next: 0, flow, group, debt });
        self.cut_objects(burst);
        true
    }

    /// Cuts large frames, in order, while the round's chunk and the heap last.
    fn cut_objects(&mut self, burst: &mut Burst) {
        while let Some(mut object) = self.objects.pop_front() {
            if !self.cut_some(burst, &mut object) {
                self.objects.push_front(object);
                return;
            }
        }
    }

    /// `true`: the last fragment was cut.
    fn cut_some(&mut self, burst: &mut Burst, object: &mut Object) -> bool {
        let largest = u16::try_from(frame::fragment::HEADER).unwrap_or(0) + object.plan.data_len;
        while let Ok(index) = u16::try_from(object.next)
            && index < object.plan.total
        {
            if burst.heap_free() < self.cut_floor + usize::from(largest) {
                return false;
            }
            let data = object.payload.get(object.plan.range(index)).unwrap_or_default();
            let Some(span) = cut(burst, &object.frame, &object.plan, index, data, &mut self.scratch) else {
                return false;
            };
            let len = u16::try_from(span.len).unwrap_or(u16::MAX);
            self.cars.push(Car { group: object.group, len, sort_len: largest.max(len) });
            let (flow, debt) = (Some(object.flow), object.debt);
            self.loads.push(Load { span, flow, stamp: Stamp::Number, debt });
            self.tally.fragments.add(1);
            object.next += 1;
        }
        true
    }

    fn open(&mut self, ticket: Option<Ticket>, datagrams: u64) -> DebtRef {
        match ticket {
            Some(ticket) => self.ledger.open(ticket, datagrams * self.outlets.len() as u64),
            None => DebtRef::NONE,
        }
    }

    /// Plans what was loaded and numbers it in the order in which it will leave. `false`: nothing to send.
    pub fn plan(&mut self, now: Instant, burst: &mut Burst, max_train: usize) -> bool {
        if self.loads.is_empty() {
            return false;
        }
        let limits = Limits {
            max_frames: max_train,
            max_bytes: admit::MAX_DATAGRAM,
            max_segment: self.config.max_segment,
            padding_percent: self.config.padding_percent,
            order: self.config.train_order,
        };
        self.plan.make(&limits, &self.cars);
        self.emission.clear();
        let moment = self.tally.recent.moment(now);
        for at in 0..self.plan.order.len() {
            // The order is that of lengths: headers lie anywhere in the burst.
            if let Some(&ahead) = self.plan.order.get(at + AHEAD)
                && let Some(stamped) = burst.bytes(self.loads[ahead as usize].span).get(STAMPED)
            {
                prefetch(stamped);
            }
            let load = &self.loads[self.plan.order[at] as usize];
            let flow = number(&mut self.flows, burst, load);
            if let Some((id, key, seq)) = frame::datagram::stamped(burst.bytes(load.span)) {
                self.tally.recent.note(moment, id, key.0, seq.0);
            }
            self.emission.frames.push(load.span);
            self.emission.owners.push(Owner { flow, debt: load.debt });
        }
        self.schedule.wake(now, &mut self.flows);
        self.couple();
        self.offers.clear();
        self.offers.resize(self.outlets.len(), Offer::Blocked(0));
        self.loads.clear();
        self.cars.clear();
        true
    }

    fn couple(&mut self) {
        let mut bytes = 0;
        for cars in &self.plan.trains {
            let members = &self.emission.frames[cars.first as usize..][..cars.count as usize];
            let train_bytes = members.iter().map(|span| u64::from(span.len)).sum::<u64>();
            let group = self.tally.group(cars.group);
            group.packets.add(u64::from(cars.count));
            group.bytes.add(train_bytes);
            self.tally.train(cars.count);
            bytes += train_bytes;
            self.emission.trains.push(Train {
                destination: SocketAddr::new(self.config.fabric.address(cars.group), self.config.egress_port),
                first: cars.first,
                count: cars.count,
                segment: cars.segment,
            });
        }
        self.tally.emitted.add(self.emission.frames.len() as u64);
        self.tally.emitted_bytes.add(bytes);
        self.tally.padding.add(self.plan.padding);
    }

    /// Offers the planned batch to every interface; `sockets` are those of the configuration, in order. `true`: at
    /// least one is full; wait until it is writable and call again, or give up waiting with [`Ingress::defer`].
    pub fn emit(&mut self, now: Instant, memory: &[u8], sockets: &mut [impl Transmit]) -> bool {
        let mut blocked = false;
        for ((outlet, offer), socket) in self.outlets.iter_mut().zip(&mut self.offers).zip(sockets) {
            if let Offer::Blocked(taken) = *offer {
                *offer = outlet.offer(now, &self.emission, memory, taken, socket, &mut self.ledger);
            }
            blocked |= *offer != Offer::Done;
        }
        if blocked {
            self.tally.send_blocked.add(1);
        }
        self.settle(now);
        blocked
    }

    /// Which interfaces are full.
    pub fn is_full(&self, outlet: usize) -> bool {
        self.offers.get(outlet).is_some_and(|offer| *offer != Offer::Done)
    }

    /// Copies what full interfaces did not take to their backlogs.
    pub fn defer(&mut self, now: Instant, memory: &[u8]) {
        for (outlet, offer) in self.outlets.iter_mut().zip(&mut self.offers) {
            if let Offer::Blocked(taken) = *offer {
                outlet.defer(now, &self.emission, memory, taken, &mut self.ledger);
                *offer = Offer::Done;
            }
        }
        self.settle(now);
    }

    /// Ends a round: copies undecided frames out of the burst. `true`: some found no room and were loaded to be sent
    /// undecided; plan and emit once more before the burst is cleared.
    pub fn finish(&mut self, now: Instant, burst: &mut Burst) -> bool {
        self.emission.clear();
        self.offers.clear();
        let mut overflow = Vec::new();
        self.gate.keep(burst, &self.tally, |cleared| overflow.push(cleared));
        let any = !overflow.is_empty();
        for cleared in overflow {
            self.load_one(now, burst, &cleared.candidate, cleared.held, cleared.ticket);
        }
        any
    }

    /// Time has passed: tries backlogs again, sends due digests.
    pub fn tick(&mut self, now: Instant, sockets: &mut [impl Transmit]) {
        for (outlet, socket) in self.outlets.iter_mut().zip(sockets.iter_mut()) {
            if self.mutation == Some(Mutation::RefusedTrainRenumbered) {
                outlet.number_again(&mut self.flows);
            }
            outlet.retry(now, socket, &mut self.ledger);
        }
        self.settle(now);
        self.tally.recent.set_owner(self.gate.claims().owner());
        if self.config.digests && self.schedule.next_timeout().is_some_and(|at| at <= now) {
            self.announce(now, sockets);
        }
        self.report();
    }

    fn announce(&mut self, now: Instant, sockets: &mut [impl Transmit]) {
        let group = self.config.fabric.address(GroupIndex::BEACON);
        let destination = SocketAddr::new(group, self.config.beacon_port);
        let mut datagram = [0; digest::MAX_DATAGRAM];
        for _ in 0..digest::MAX_PER_TICK {
            self.schedule.next_digest(now, &mut self.flows, &mut self.entries);
            if self.entries.is_empty() {
                break;
            }
            let (length, written) = frame::digest::encode(&self.entries, &mut datagram);
            let (Ok(len), Ok(segment)) = (u32::try_from(length), u16::try_from(length)) else { break };
            let train = Train { destination, first: 0, count: 1, segment };
            for (outlet, socket) in self.outlets.iter().zip(sockets.iter_mut()) {
                // A digest must not overtake the frames it announces; the flow's next one will follow them.
                if !outlet.is_blocked() || self.mutation == Some(Mutation::DigestOvertakes) {
                    socket.transmit(&datagram, &[train], &[Span { start: 0, len }]);
                }
            }
            self.tally.digests.add(1);
            self.tally.digest_entries.add(written as u64);
        }
    }

    /// Answers claims and retires flows, as the ledger says.
    fn settle(&mut self, now: Instant) {
        let ledger = &mut self.ledger;
        self.tally.handed_over.add(std::mem::take(&mut ledger.handed_over));
        for ticket in ledger.sent.drain(..) {
            self.gate.claims().sent(now, ticket);
        }
        if ledger.lost.is_empty() {
            return;
        }
        let uncounted = self.mutation == Some(Mutation::DropNotCounted);
        for (reason, frames) in ledger.lost.drain(..).filter(|_| !uncounted) {
            self.tally.dropped(reason).add(frames);
        }
        for ticket in ledger.failed.drain(..) {
            self.tally.released.add(1);
            if self.mutation == Some(Mutation::ClaimKeptAfterRefusal) {
                self.gate.claims().sent(now, ticket);
            } else {
                self.gate.claims().failed(now, ticket);
            }
        }
        if self.mutation == Some(Mutation::FlowKeptAfterHole) {
            return;
        }
        self.retired.clear();
        self.retired.append(&mut ledger.holed);
        self.retired.sort_unstable();
        self.retired.dedup_by(|next, flow| {
            let same = next.0 == flow.0;
            flow.1 += if same { next.1 } else { 0 };
            same
        });
        for (flow, lost) in self.retired.drain(..) {
            let before = self.flows.announced(flow);
            self.flows.retire(flow);
            // What left under the old key may be lost on the way like anything else, and no later frame would show it.
            match (before, self.flows.announced(flow)) {
                (Some(before), None) => self.schedule.last_word(now, flow, &before, lost),
                (None, _) => self.schedule.take_back(flow, lost),
                _ => {}
            }
        }
    }

    /// When [`Ingress::tick`] wants to be called.
    pub fn next_timeout(&self) -> Option<Instant> {
        let digests = self.schedule.next_timeout().filter(|_| self.config.digests);
        self.outlets.iter().filter_map(Outlet::next_timeout).chain(digests).min()
    }

    /// Every interface has a backlog: receiving more would only overflow it.
    pub fn is_blocked(&self) -> bool {
        self.outlets.iter().all(Outlet::is_blocked)
    }

    /// TCP stops being read first: when an interface has a backlog, half of the slab is taken, frames wait long for their
    /// place in a request to the store, or large frames wait.
    pub fn may_read_streams(&self) -> bool {
        let (bytes, _) = self.gate.load();
        !self.outlets.iter().any(Outlet::is_blocked)
            && bytes <= self.config.slab_bytes / 2
            && !self.gate.is_behind()
            && self.objects.len() < 64
    }

    /// As many frames are judged as one emission should hold.
    pub fn is_batch_full(&self) -> bool {
        self.gate.pending() >= BATCH
    }

    /// Something is under way that a later round must finish.
    pub fn is_busy(&self) -> bool {
        !self.objects.is_empty() || self.gate.has_cleared() || !self.loads.is_empty() || self.stopped_for_room
    }

    /// Frames that wait for the store, or for room after it.
    pub fn waiting_frames(&self) -> usize {
        self.gate.load().1
    }

    /// Nothing waits: no frame, no backlog, no open claim, and the store knows what was settled.
    pub fn is_drained(&mut self) -> bool {
        let (_, frames) = self.gate.load();
        !self.is_busy()
            && frames == 0
            && self.gate.claims().is_idle()
            && self.ledger.outstanding() == 0
            && !self.outlets.iter().any(Outlet::is_blocked)
    }

    /// Announces every flow that took a number since its last announcement, so that receivers find the loss of its last
    /// frames although this worker stops.
    pub fn farewell(&mut self, now: Instant, sockets: &mut [impl Transmit]) {
        if self.config.digests {
            self.schedule.hasten(now);
            while self.schedule.next_timeout().is_some_and(|at| at <= now) {
                self.announce(now, sockets);
            }
        }
    }

    /// End of the time for an orderly stop: what still waits is given up, counted and released.
    pub fn abandon(&mut self, now: Instant) {
        for outlet in &mut self.outlets {
            outlet.abandon(&mut self.ledger);
        }
        for object in self.objects.drain(..) {
            let left = u64::from(object.plan.total).saturating_sub(u64::from(object.next));
            self.ledger.settle(object.debt, left * self.outlets.len() as u64, true);
            self.ledger.lost.push((DropReason::SendRefused, 1));
        }
        // Their claims never settle: a sibling that has a copy takes over.
        self.ledger.lost.push((DropReason::SendRefused, self.waiting_frames() as u64));
        self.settle(now);
    }

    /// Copies levels to their gauges.
    fn report(&self) {
        let (bytes, frames) = self.gate.load();
        let tally = &self.tally;
        tally.slab_bytes.set(bytes as u64);
        tally.slab_frames.set(frames as u64);
        tally.backlog_bytes.set(self.outlets.iter().map(|outlet| outlet.backlog_bytes() as u64).sum());
        tally.flows.set(self.flows.len() as u64);
        let totals = self.flows.totals();
        tally.flows_evicted.set(totals.evicted);
        tally.flows_expired.set(totals.expired);
        tally.flows_retired.set(totals.retired);
        tally.flows_unannounced.set(self.schedule.unsaid());
        tally.flow_holes.set(totals.holes);
    }

    /// How long the runtime may sleep at most, so that gauges do not go stale.
    pub const REPORT_EVERY: Duration = Duration::from_secs(1);
}

/// Stamps one frame; returns the flow under the key it has now.
fn number(flows: &mut FlowTable, burst: &mut Burst, load: &Load) -> Option<FlowRef> {
    let flow = load.flow?;
    match load.stamp {
        Stamp::Number => {
            let numbered = flows.next(flow)?;
            stamp(burst.bytes_mut(load.span), numbered.hash_key, numbered.seq_num);
            Some(numbered.flow)
        }
        Stamp::KeyOnly => {
            let bytes = burst.bytes_mut(load.span);
            let preset =
                bytes.get(48..56).and_then(|slice| slice.first_chunk()).map_or(0, |b| u64::from_be_bytes(*b));
            stamp(bytes, flows.key(flow)?, SeqNum(preset));
            None
        }
        Stamp::Keep => None,
    }
}

fn header_of(frame: &Admitted) -> HeaderFields<'_> {
    HeaderFields {
        kind: Kind::Tx,
        msg_type: 0,
        id: &frame.id,
        hash_key: HashKey(0),
        seq_num: SeqNum(0),
        second_id: &frame.second_id,
        payload_len: frame.len,
    }
}
