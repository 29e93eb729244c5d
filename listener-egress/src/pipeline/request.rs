//! Requests for missing numbers: what is asked of whom, and when again.
//!
//! A gap is asked for after the reorder delay. It is asked for again when its timeout passes: the endpoint's measured round
//! trip, doubled with each round in vain, jittered. An endpoint that says MISS, or stays silent twice, is left for the next
//! of the order. After the last the round ends; the gap rests and begins again at the nearest. One that answers nobody is
//! left out, ever longer, until it speaks of itself. This goes on until the repair horizon, not for a number of attempts.
//! An ACK never closes a gap: it re-arms the timer once. Answers count only from the address that was asked, for a flow
//! and numbers that were asked.
//!
//! Ranges go to endpoints that serve them (ADVERT flag, or an extended reply). Others get single numbers, below the
//! published limit of the Go stack (100/s and 10 at once for an address).
//!
//! How far the repair of a gap is travels with the gap ([`Repair`]); the tracker keeps it and does not read it.
//!
//! Limits: numbers under way per endpoint are bounded (`path`); the rest queues at the endpoint. All queues hold gaps of the
//! tracker's bounded table.
//!
//! Cost: a request costs O(log gaps) for its deadline. Nothing is scanned per tick.

use super::counts::{Counts, DropReason};
use super::path::{Bucket, RTO_CAP};
use super::registry::{Change, Registry};
use frame::control::Extended;
use frame::{Ack, Advert, Nack, Response, SeqNum};
use gap_track::{Asked, Filled, Gap, GapEvent, GapId, Question};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Endpoints answer for a multicast repair, but do not repeat it, for about 10 ms after it was sent.
const REPEAT_AFTER: Duration = Duration::from_millis(12);
/// Time that an endpoint may take for each number of a range.
const PER_NUMBER: Duration = Duration::from_micros(8);
/// Rest after a round in which every endpoint said MISS.
const REST_FIRST: Duration = Duration::from_millis(20);
/// Look again for an endpoint, or for a gap that waits its turn.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Silent requests before the next endpoint is asked.
const TRIES: u8 = 2;
/// Probes for the tail of a flow, per second.
const PROBES_PER_SECOND: f64 = 50.0;
/// The same of flows that only positions name, after a start: all of them within a few seconds.
const RESUMED_PER_SECOND: f64 = 1_000.0;

/// The tracker of a listener.
pub(super) type Tracker = gap_track::Tracker<Repair>;

/// A datagram to send from the request socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Endpoint.
    pub to: SocketAddr,
    /// An encoded NACK.
    pub bytes: [u8; Nack::LEN],
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    /// Who was asked.
    endpoint: u32,
    /// When.
    sent: Instant,
    /// First request for these numbers, and no time was taken from it yet: its answer times the endpoint (Karn).
    times: bool,
    /// An answer re-armed the timer already; a second one does not.
    answered: bool,
}

/// What a gap waits for.
#[derive(Clone, Copy, Debug, Default)]
enum Phase {
    /// Until `Repair::wake`.
    #[default]
    Waiting,
    /// In the queue of an endpoint; `Repair::wake` is the next look.
    Queued(u32),
    /// Asked for; `Repair::wake` is the timeout.
    InFlight(InFlight),
}

/// How far the repair of a gap is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Repair {
    phase: Phase,
    /// The one deadline that is valid; `None`: the gap is new, it is due when the tracker says so.
    wake: Option<Instant>,
    /// Times all endpoints were asked in vain.
    round: u8,
    /// Which endpoint of the order is being asked.
    hop: u8,
    /// Times it was asked.
    tries: u8,
}

impl Repair {
    /// Nobody is being asked, and it is in no queue.
    pub(super) fn waits(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    /// Factor on timeouts: doubles with every request in vain.
    fn backoff(&self) -> u32 {
        1 << u32::from(self.round.saturating_mul(2).saturating_add(self.tries)).min(9)
    }
}

/// See the module text.
pub(super) struct Requester {
    /// Who can be asked.
    pub(super) registry: Registry,
    deadlines: BinaryHeap<Reverse<(Instant, GapId)>>,
    requests: Vec<Request>,
    probes: Bucket,
    resumed_probes: Bucket,
    resume: Option<Instant>,
    room: bool,
    rng: SmallRng,
}

impl Requester {
    /// `seed` jitters.
    pub(super) fn new(registry: Registry, seed: u64) -> Requester {
        Requester {
            registry,
            deadlines: BinaryHeap::new(),
            requests: Vec::new(),
            probes: Bucket::new(PROBES_PER_SECOND, PROBES_PER_SECOND),
            resumed_probes: Bucket::new(RESUMED_PER_SECOND, RESUMED_PER_SECOND / 10.0),
            resume: None,
            room: true,
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Takes an ADVERT.
    pub(super) fn advert(&mut self, now: Instant, advert: &Advert, counts: &mut Counts) {
        match self.registry.advert(now, advert) {
            Change::Ignored => counts.adverts_rejected += 1,
            _ => counts.adverts += 1,
        }
    }

    /// Is there room at the consumer? Deferred numbers are asked for only then.
    pub(super) fn set_room(&mut self, room: bool) {
        self.room = room;
    }

    /// A missing number arrived.
    pub(super) fn filled(&mut self, now: Instant, filled: &Filled<Repair>, tracker: &mut Tracker) {
        let Phase::InFlight(request) = filled.repair.phase else { return };
        // The rest of the range is answered by what comes later: it times nobody.
        for rest in filled.rest.into_iter().flatten() {
            if let Some(Repair { phase: Phase::InFlight(request), .. }) = tracker.repair_mut(rest) {
                request.times = false;
            }
        }
        let Some(endpoint) = self.registry.by_id(request.endpoint) else { return };
        endpoint.path.landed(1, true);
        endpoint.path.alive(now);
        if request.times {
            endpoint.path.timed(now.saturating_duration_since(request.sent));
        }
    }

    /// A response arrived on the request socket.
    ///
    /// # Errors
    /// Nobody asked `from`, or not for this.
    pub(super) fn response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        response: &Response,
        tracker: &mut Tracker,
        counts: &mut Counts,
    ) -> Result<(), DropReason> {
        let endpoint = self.registry.by_address(from).ok_or(DropReason::UnknownRepairSource)?;
        let id = endpoint.id;
        endpoint.path.alive(now);
        match response.verdict {
            Ack::Ack { .. } => counts.acks += 1,
            Ack::Miss => counts.misses += 1,
            Ack::Throttled { .. } => counts.throttled += 1,
        }
        if let Some(extended) = response.extended {
            // Whoever answers in extended form serves ranges.
            endpoint.max_range.get_or_insert(u16::try_from(Extended::MAX_RANGE).unwrap_or(u16::MAX));
            self.extended(now, id, response.verdict, &extended, tracker);
            if !matches!(response.verdict, Ack::Throttled { .. }) {
                tracker.probed(now, &extended, self.registry.candidates(now));
            }
            return Ok(());
        }
        let answered = endpoint.path.answered_single(response.verdict, response.seq_num);
        let (seq, key) = answered.ok_or(DropReason::StrayResponse)?;
        if let Some(name) = tracker.next_gap(key, seq.0, seq.0) {
            self.judge(now, id, name, response.verdict, tracker);
        }
        Ok(())
    }

    fn extended(&mut self, now: Instant, id: u32, verdict: Ack, e: &Extended, tracker: &mut Tracker) {
        let last = e.end.0.min(e.start.0.saturating_add(Extended::MAX_RANGE - 1));
        let mut at = e.start.0;
        while at <= last {
            let Some(name) = tracker.next_gap(e.hash_key, at, last) else { return };
            let Some(gap) = tracker.gap(name) else { return };
            let (first, end) = (gap.first.max(at), gap.last.min(last));
            // A run of numbers with one fate becomes a gap of its own.
            let missing = e.is_missing(SeqNum(first));
            let run = (first..=end).take_while(|n| e.is_missing(SeqNum(*n)) == missing).count() as u64;
            let name = if first > gap.first { self.cut(name, first, tracker) } else { Some(name) };
            let Some(name) = name else { return };
            self.cut(name, first + run, tracker);
            let fate = match verdict {
                Ack::Throttled { .. } => verdict,
                _ if missing => Ack::Miss,
                // A reply that found nothing marks everything; what it does not mark was sent.
                _ => Ack::Ack { multicast: true, unicast: false },
            };
            self.judge(now, id, name, fate, tracker);
            at = first + run;
        }
    }

    fn cut(&mut self, name: GapId, at: u64, tracker: &mut Tracker) -> Option<GapId> {
        let rest = tracker.split(name, at)?;
        self.adopt(rest, tracker);
        Some(rest)
    }

    /// What one answer means for one gap that was asked of that endpoint.
    fn judge(&mut self, now: Instant, id: u32, name: GapId, verdict: Ack, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap(name) else { return };
        let Phase::InFlight(request) = gap.repair.phase else { return };
        let Some(endpoint) = self.registry.by_id(id).filter(|e| e.id == request.endpoint) else { return };
        let path = &mut endpoint.path;
        if request.times {
            path.timed(now.saturating_duration_since(request.sent));
        }
        match verdict {
            Ack::Ack { .. } if request.answered => return,
            Ack::Ack { .. } => {
                let again = Phase::InFlight(InFlight { times: false, answered: true, ..request });
                // The frame was sent before the answer: if it does not come, it was lost. The backoff stays: a repair that
                // cannot reach us must not be asked for at the pace of the round trip.
                let rto = path.rto().max(REPEAT_AFTER);
                let wake = now + (rto * gap.repair.backoff()).min(RTO_CAP);
                return self.set(name, &gap, again, wake, tracker);
            }
            Ack::Miss => {}
            Ack::Throttled { bucket } => path.hold(now + Duration::from_millis(125 << bucket.min(4))),
        }
        path.returned(gap.numbers());
        if let Some(repair) = tracker.repair_mut(name) {
            repair.tries = 0;
        }
        self.next_hop(now, name, tracker);
    }

    /// Gives a gap a phase and its deadline, at the latest the horizon.
    fn set(&mut self, name: GapId, gap: &Gap<Repair>, phase: Phase, wake: Instant, tracker: &mut Tracker) {
        let wake = wake.min(gap.expires);
        if let Some(repair) = tracker.repair_mut(name) {
            repair.phase = phase;
            repair.wake = Some(wake);
        }
        self.deadlines.push(Reverse((wake, name)));
    }

    /// Moves a gap to the next endpoint; behind the last one it rests, then begins again at the nearest.
    fn next_hop(&mut self, now: Instant, name: GapId, tracker: &mut Tracker) {
        let Some(repair) = tracker.repair_mut(name) else { return };
        repair.hop = repair.hop.saturating_add(1);
        if usize::from(repair.hop) < self.registry.candidates(now) {
            return self.enqueue(now, name, tracker);
        }
        repair.hop = 0;
        repair.round = repair.round.saturating_add(1);
        let rest = (REST_FIRST * (1 << repair.round.min(7))).min(RTO_CAP);
        let wake = now + rest.mul_f64(self.rng.random_range(0.5..1.0));
        if let Some(gap) = tracker.gap(name) {
            self.set(name, &gap, Phase::Waiting, wake, tracker);
        }
    }

    /// Puts a gap into the queue of the endpoint whose turn it is.
    fn enqueue(&mut self, now: Instant, name: GapId, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap(name) else { return };
        let Some((key, _)) = tracker.flow_of(name) else { return };
        let mut phase = Phase::Waiting;
        if let Some(id) = self.registry.choose(now, key, gap.repair.hop)
            && let Some(endpoint) = self.registry.by_id(id)
        {
            phase = Phase::Queued(id);
            endpoint.path.enqueue(name);
        }
        self.set(name, &gap, phase, now + LOOK_AGAIN, tracker);
    }

    /// Takes in what happened to gaps in the tracker. Call after each batch, before `on_timeout`.
    pub(super) fn settle(&mut self, tracker: &mut Tracker) {
        while let Some(event) = tracker.next_event() {
            match event {
                GapEvent::Due(name) => self.due(name, tracker),
                GapEvent::CutOff(name) => self.adopt(name, tracker),
                GapEvent::GivenUp(Repair { phase: Phase::InFlight(request), .. }, numbers) => {
                    if let Some(endpoint) = self.registry.by_id(request.endpoint) {
                        endpoint.path.landed(numbers, false);
                    }
                }
                GapEvent::GivenUp(..) => {}
            }
        }
    }

    /// A gap is new, or later frames hastened it.
    fn due(&mut self, name: GapId, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap(name) else { return };
        let earlier = gap.repair.wake.is_none_or(|wake| gap.due < wake);
        if earlier && gap.repair.waits() && !gap.requested {
            self.set(name, &gap, Phase::Waiting, gap.due, tracker);
        }
    }

    /// A gap was cut off from another and is in the same state.
    fn adopt(&mut self, name: GapId, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap(name) else { return };
        let mut phase = gap.repair.phase;
        if let Phase::Queued(id) = phase {
            match self.registry.by_id(id) {
                Some(endpoint) => endpoint.path.enqueue(name),
                None => phase = Phase::Waiting,
            }
        }
        self.set(name, &gap, phase, gap.repair.wake.unwrap_or(gap.due), tracker);
    }

    /// Runs everything that is due and fills the windows.
    pub(super) fn on_timeout(&mut self, now: Instant, tracker: &mut Tracker, counts: &mut Counts) {
        self.registry.expire(now);
        while let Some(&Reverse((due, name))) = self.deadlines.peek() {
            if due > now {
                break;
            }
            self.deadlines.pop();
            if let Some(gap) = tracker.gap(name).filter(|gap| gap.repair.wake == Some(due)) {
                self.wake(now, name, &gap, tracker, counts);
            }
        }
        self.settle(tracker);
        self.dispatch(now, tracker, counts);
    }

    fn wake(
        &mut self,
        now: Instant,
        name: GapId,
        gap: &Gap<Repair>,
        tracker: &mut Tracker,
        counts: &mut Counts,
    ) {
        if now >= gap.expires {
            return tracker.give_up(name);
        }
        match gap.repair.phase {
            Phase::Waiting if gap.deferred && !self.room => {
                self.set(name, gap, Phase::Waiting, now + LOOK_AGAIN, tracker);
            }
            Phase::Queued(id) if self.registry.by_id(id).is_some() => {
                self.set(name, gap, Phase::Queued(id), now + LOOK_AGAIN, tracker);
            }
            Phase::Waiting | Phase::Queued(_) => self.enqueue(now, name, tracker),
            Phase::InFlight(request) => {
                counts.nack_timeouts += 1;
                let known = self.registry.candidates(now);
                if let Some(endpoint) = self.registry.by_id(request.endpoint) {
                    endpoint.path.landed(gap.numbers(), false);
                    if !endpoint.path.heard_since(request.sent) {
                        endpoint.path.unanswered(now);
                    }
                }
                if let Some(repair) = tracker.repair_mut(name) {
                    repair.tries += 1;
                    if repair.tries >= TRIES {
                        repair.tries = 0;
                        repair.hop = repair.hop.saturating_add(1);
                        if usize::from(repair.hop) >= known {
                            repair.hop = 0;
                            repair.round = repair.round.saturating_add(1);
                        }
                    }
                }
                self.enqueue(now, name, tracker);
            }
        }
    }

    /// Sends what the windows, the paces and the holds allow.
    fn dispatch(&mut self, now: Instant, tracker: &mut Tracker, counts: &mut Counts) {
        self.resume = None;
        for place in 0..self.registry.len() {
            while self.ask(now, place, tracker, counts) {}
        }
    }

    /// Sends one request to the endpoint at `place`; `false` when it can take none now.
    fn ask(&mut self, now: Instant, place: usize, tracker: &mut Tracker, counts: &mut Counts) -> bool {
        let Some(endpoint) = self.registry.at(place) else { return false };
        let path = &mut endpoint.path;
        let Some(name) = path.first() else { return false };
        let queued = |gap: &Gap<Repair>| matches!(gap.repair.phase, Phase::Queued(id) if id == endpoint.id);
        let Some(gap) = tracker.gap(name).filter(queued) else {
            path.leave_first();
            return true;
        };
        let room = path.room();
        let later = match path.held_until(now) {
            None if room == 0 => return false,
            None if endpoint.max_range.is_none() => path.take_single(now).err(),
            held => held,
        };
        if let Some(later) = later {
            self.resume = Some(self.resume.map_or(later, |resume| resume.min(later)));
            return false;
        }
        path.leave_first();
        let longest = endpoint.max_range.map_or(1, |max| u64::from(max).clamp(1, Extended::MAX_RANGE));
        let take = gap.numbers().min(longest).min(room);
        if take < gap.numbers()
            && let Some(rest) = tracker.split(name, gap.first + take)
        {
            path.enqueue_first(rest);
            self.deadlines.extend(gap.repair.wake.map(|wake| Reverse((wake, rest))));
        }
        path.sent(take);
        let Some((key, subtree_id)) = tracker.flow_of(name) else { return true };
        if endpoint.max_range.is_none() {
            path.asked_single(SeqNum(gap.first), key);
        }
        let rto = path.rto() + PER_NUMBER * u32::try_from(take).unwrap_or(0);
        let rto = (rto * gap.repair.backoff()).min(RTO_CAP);
        let wake = now + rto.mul_f64(self.rng.random_range(1.0..1.25));
        let (start, end) = (SeqNum(gap.first), SeqNum(gap.first + take - 1));
        let nack = Nack { flags: Nack::EXTENDED, hash_key: key, start, end, subtree_id };
        self.requests.push(Request { to: endpoint.address, bytes: nack.encode() });
        let request = InFlight { endpoint: endpoint.id, sent: now, times: !gap.requested, answered: false };
        self.set(name, &gap, Phase::InFlight(request), wake, tracker);
        tracker.set_requested(name);
        counts.nacks += 1;
        counts.nack_numbers += take;
        true
    }

    /// Puts a question about what follows a flow's last number.
    pub(super) fn probe(&mut self, now: Instant, question: &Question) -> Asked {
        let Question { key, subtree, first, width, hop, unanswered, resumed } = *question;
        let candidates = u8::try_from(self.registry.candidates(now)).unwrap_or(u8::MAX);
        let Some(id) = self.registry.choose(now, key, hop % candidates.max(1)) else { return Asked::Not };
        let Some(endpoint) = self.registry.by_id(id) else { return Asked::Not };
        let bucket = if resumed { &mut self.resumed_probes } else { &mut self.probes };
        let held = endpoint.path.held_until(now).is_some();
        if held
            || !bucket.take(now)
            || endpoint.max_range.is_none() && endpoint.path.take_single(now).is_err()
        {
            return Asked::Not;
        }
        let most = endpoint.max_range.map_or(1, |most| most.clamp(1, width));
        let (start, end) = (SeqNum(first), SeqNum(first.saturating_add(u64::from(most) - 1)));
        let nack = Nack { flags: Nack::EXTENDED, hash_key: key, start, end, subtree_id: subtree };
        self.requests.push(Request { to: endpoint.address, bytes: nack.encode() });
        let asked = if endpoint.max_range.is_some() { Asked::Range(id) } else { Asked::Single };
        if let Some(silent) = unanswered.and_then(|id| self.registry.by_id(id)) {
            silent.path.unanswered(now);
        }
        asked
    }

    /// Takes the requests to send.
    pub(super) fn take_requests(&mut self) -> std::vec::Drain<'_, Request> {
        self.requests.drain(..)
    }

    /// When `on_timeout` wants to be called next.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let due = self.deadlines.peek().map(|Reverse((due, _))| *due);
        [due, self.resume, self.registry.next_expiry()].into_iter().flatten().min()
    }
}
