//! Requests for missing numbers: what is asked of whom, and when again.
//!
//! A gap is asked for after the reorder delay, then again when its timeout passes: the endpoint's measured round trip
//! (RFC 6298's estimator, between 5 ms and 2 s), doubled with each round in vain, jittered. An endpoint that says MISS,
//! or stays silent twice, is left for the next of the order; after the last the round ends, the gap rests and begins
//! again at the nearest. One that answers nobody is left out, ever longer, until it speaks of itself. This goes on until
//! the repair horizon, not for a number of attempts. An ACK never closes a gap: it re-arms the timer once. Answers count only from the address that was asked, for a flow and numbers that were asked.
//!
//! Ranges go to endpoints that serve them (ADVERT flag, or an extended reply); to others single numbers, below the
//! published limit of the Go stack (100/s and 10 at once for an address).
//!
//! Limits: numbers under way per endpoint are held in a window that grows while repairs arrive and shrinks when more
//! than half of them do not (a full receive queue, a dead link); the rest queues at the endpoint. All queues hold gaps
//! of the tracker's bounded table.
//!
//! Cost: a request costs O(log gaps) for its deadline. Nothing is scanned per tick.

use super::counts::{Counts, DropReason};
use super::registry::{Change, Registry};
use super::slots::Slot;
use super::track::{Asked, Filled, InFlight, Phase, Question, Tracker};
use frame::control::Extended;
use frame::{Ack, Advert, HashKey, Nack, Response, SeqNum};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const RTO_FIRST: Duration = Duration::from_millis(50);
const RTO_FLOOR: Duration = Duration::from_millis(5);
const RTO_CAP: Duration = Duration::from_secs(2);
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
/// Numbers under way to one endpoint.
const WINDOW_FIRST: u64 = 512;
const WINDOW_FLOOR: u64 = 64;
const WINDOW_CAP: u64 = 8192;
/// Timeouts in a row after which an endpoint is left out for a while, then for twice as long, as long as others answer.
const SILENT_AFTER: u32 = 4;
const SILENT_RETRY: Duration = Duration::from_secs(1);
const SILENT_MOST: Duration = Duration::from_secs(16);
/// Probes for the tail of a flow, per second.
const PROBES_PER_SECOND: f64 = 50.0;
/// The same of flows that only positions name, after a start: all of them within a few seconds.
const RESUMED_PER_SECOND: f64 = 1_000.0;

/// A datagram to send from the request socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Endpoint.
    pub to: SocketAddr,
    /// An encoded NACK.
    pub bytes: [u8; Nack::LEN],
}

/// What is known of the way to an endpoint.
pub(crate) struct Path {
    srtt: Option<Duration>,
    rttvar: Duration,
    /// Numbers under way.
    in_flight: u64,
    window: u64,
    arrived: u64,
    timed_out: u64,
    /// Last sign of life.
    heard: Option<Instant>,
    silent: u32,
    silent_until: Option<Instant>,
    held_until: Option<Instant>,
    ready: VecDeque<Slot>,
    singles: Bucket,
    /// Single requests under way, oldest first: plain answers name no flow.
    asked: VecDeque<(SeqNum, HashKey)>,
}

impl Path {
    pub(crate) fn new(single_rate: f64) -> Path {
        Path {
            srtt: None,
            rttvar: Duration::ZERO,
            in_flight: 0,
            window: WINDOW_FIRST,
            arrived: 0,
            timed_out: 0,
            heard: None,
            silent: 0,
            silent_until: None,
            held_until: None,
            ready: VecDeque::new(),
            singles: Bucket::new(single_rate, (single_rate / 10.0).max(1.0)),
            asked: VecDeque::new(),
        }
    }

    /// Too many requests in a row went unanswered: others are asked.
    pub(crate) fn is_silent(&self, now: Instant) -> bool {
        self.silent >= SILENT_AFTER && self.silent_until.is_some_and(|until| now < until)
    }

    fn rto(&self) -> Duration {
        let Some(srtt) = self.srtt else { return RTO_FIRST };
        (srtt + (self.rttvar * 4).max(Duration::from_millis(1))).clamp(RTO_FLOOR, RTO_CAP)
    }

    fn timed(&mut self, rtt: Duration) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    /// It spoke of itself: it may be asked again. That it answers is not known yet.
    pub(crate) fn spoke(&mut self) {
        self.silent_until = None;
    }

    fn unanswered(&mut self, now: Instant) {
        self.silent = self.silent.saturating_add(1);
        if let Some(times) = self.silent.checked_sub(SILENT_AFTER) {
            self.silent_until = Some(now + (SILENT_RETRY * (1 << times.min(8))).min(SILENT_MOST));
        }
    }

    fn alive(&mut self, now: Instant) {
        self.silent = 0;
        self.silent_until = None;
        self.heard = Some(now);
    }

    /// `n` numbers are no longer under way.
    fn landed(&mut self, n: u64, arrived: bool) {
        self.in_flight = self.in_flight.saturating_sub(n);
        if arrived {
            self.arrived += n;
        } else {
            self.timed_out += n;
        }
        let total = self.arrived + self.timed_out;
        if total >= self.window.min(256) {
            // Half of the numbers may be lost to a bad link without saying anything about queues.
            self.window = if self.timed_out * 2 > total {
                (self.window / 10 * 7).max(WINDOW_FLOOR)
            } else {
                (self.window + self.window / 4).min(WINDOW_CAP)
            };
            (self.arrived, self.timed_out) = (0, 0);
        }
    }
}

/// A token bucket.
struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn new(rate: f64, burst: f64) -> Bucket {
        Bucket { rate, burst, tokens: burst, filled: None }
    }
    fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled.unwrap_or(now));
        self.filled = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() * self.rate).min(self.burst);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
    /// When the next token will be there.
    fn next(&self, now: Instant) -> Instant {
        let short = (1.0 - self.tokens).max(0.0) / self.rate.max(0.01);
        // Rounded up: a token that is a rounding error short would be waited for in steps of nothing.
        self.filled.unwrap_or(now) + Duration::from_secs_f64(short) + Duration::from_micros(100)
    }
}

/// See the module text.
pub struct Requester {
    /// Who can be asked.
    pub registry: Registry,
    deadlines: BinaryHeap<Reverse<(Instant, Slot)>>,
    requests: Vec<Request>,
    probes: Bucket,
    resumed_probes: Bucket,
    resume: Option<Instant>,
    room: bool,
    rng: SmallRng,
}

impl Requester {
    /// `seed` jitters.
    pub fn new(registry: Registry, seed: u64) -> Requester {
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
    pub fn advert(&mut self, now: Instant, advert: &Advert, counts: &mut Counts) {
        match self.registry.advert(now, advert) {
            Change::Ignored => counts.adverts_rejected += 1,
            _ => counts.adverts += 1,
        }
    }

    /// Is there room at the consumer? Deferred numbers are asked for only then.
    pub fn set_room(&mut self, room: bool) {
        self.room = room;
    }

    /// A missing number arrived.
    pub fn filled(&mut self, now: Instant, filled: &Filled) {
        let Some(request) = filled.in_flight else { return };
        let Some(endpoint) = self.registry.by_id(request.endpoint) else { return };
        endpoint.path.landed(1, true);
        endpoint.path.alive(now);
        if request.times {
            endpoint.path.timed(now.saturating_duration_since(request.sent));
        }
    }

    /// A response arrived on the request socket. `false`: nobody asked `from`.
    pub fn response(
        &mut self,
        now: Instant,
        from: SocketAddr,
        response: &Response,
        tracker: &mut Tracker,
        counts: &mut Counts,
    ) -> bool {
        let Some(endpoint) = self.registry.by_address(from) else {
            counts.drop(DropReason::UnknownRepairSource);
            return false;
        };
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
                tracker.probed(now, &extended, self.registry.candidates(now), counts);
            }
            return true;
        }
        let asked = &mut endpoint.path.asked;
        let place = match response.verdict {
            // MISS carries no number: the oldest request is the best guess, and a wrong one costs a detour only.
            Ack::Miss => (!asked.is_empty()).then_some(0),
            _ => asked.iter().position(|(seq, _)| *seq == response.seq_num),
        };
        let Some((seq, key)) = place.and_then(|place| asked.remove(place)) else {
            counts.drop(DropReason::StrayResponse);
            return false;
        };
        if let Some(name) = tracker.next_gap(key, seq.0, seq.0) {
            self.judge(now, id, name, response.verdict, tracker);
        }
        true
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

    fn cut(&mut self, name: Slot, at: u64, tracker: &mut Tracker) -> Option<Slot> {
        let rest = tracker.split(name, at)?;
        self.adopt(rest, tracker);
        Some(rest)
    }

    /// What one answer means for one gap that was asked of that endpoint.
    fn judge(&mut self, now: Instant, id: u32, name: Slot, verdict: Ack, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap_mut(name) else { return };
        let Phase::InFlight(request) = gap.phase else { return };
        let Some(endpoint) = self.registry.by_id(id).filter(|e| e.id == request.endpoint) else { return };
        if request.times {
            endpoint.path.timed(now.saturating_duration_since(request.sent));
        }
        let again = InFlight { times: false, answered: true, ..request };
        match verdict {
            Ack::Ack { .. } if request.answered => {}
            Ack::Ack { .. } => {
                gap.phase = Phase::InFlight(again);
                // The frame was sent before the answer: if it does not come, it was lost. The backoff stays: a repair that
                // cannot reach us must not be asked for at the pace of the round trip.
                let rto = endpoint.path.rto().max(REPEAT_AFTER);
                gap.wake = (now + (rto * gap.backoff()).min(RTO_CAP)).min(gap.expires);
                self.deadlines.push(Reverse((gap.wake, name)));
            }
            Ack::Miss => {
                endpoint.path.in_flight = endpoint.path.in_flight.saturating_sub(gap.numbers());
                gap.tries = 0;
                self.next_hop(now, name, tracker);
            }
            Ack::Throttled { bucket } => {
                let hold = Duration::from_millis(125 << bucket.min(4));
                endpoint.path.held_until = Some(now + hold);
                endpoint.path.in_flight = endpoint.path.in_flight.saturating_sub(gap.numbers());
                gap.tries = 0;
                self.next_hop(now, name, tracker);
            }
        }
    }

    /// Moves a gap to the next endpoint; behind the last one it rests, then begins again at the nearest.
    fn next_hop(&mut self, now: Instant, name: Slot, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap_mut(name) else { return };
        gap.hop = gap.hop.saturating_add(1);
        let known = self.registry.candidates(now);
        if usize::from(gap.hop) < known {
            return self.enqueue(now, name, tracker);
        }
        gap.hop = 0;
        gap.round = gap.round.saturating_add(1);
        let rest = (REST_FIRST * (1 << gap.round.min(7))).min(RTO_CAP);
        gap.phase = Phase::Waiting;
        gap.wake = (now + rest.mul_f64(self.rng.random_range(0.5..1.0))).min(gap.expires);
        self.deadlines.push(Reverse((gap.wake, name)));
    }

    /// Puts a gap into the queue of the endpoint whose turn it is.
    fn enqueue(&mut self, now: Instant, name: Slot, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap(name) else { return };
        let Some(key) = tracker.flow(gap.flow).map(|flow| flow.key) else { return };
        let chosen = self.registry.choose(now, key, gap.hop);
        let Some(gap) = tracker.gap_mut(name) else { return };
        gap.wake = (now + LOOK_AGAIN).min(gap.expires);
        gap.phase = Phase::Waiting;
        if let Some(id) = chosen
            && let Some(endpoint) = self.registry.by_id(id)
        {
            gap.phase = Phase::Queued(id);
            endpoint.path.ready.push_back(name);
        }
        self.deadlines.push(Reverse((gap.wake, name)));
    }

    /// Takes in gaps that the tracker opened or split. Call after each batch, before `on_timeout`.
    pub fn settle(&mut self, tracker: &mut Tracker) {
        while let Some((id, numbers)) = tracker.take_released() {
            if let Some(endpoint) = self.registry.by_id(id) {
                endpoint.path.landed(numbers, false);
            }
        }
        while let Some(name) = tracker.take_fresh() {
            self.adopt(name, tracker);
        }
    }

    fn adopt(&mut self, name: Slot, tracker: &mut Tracker) {
        let Some(gap) = tracker.gap_mut(name) else { return };
        if let Phase::Queued(id) = gap.phase {
            match self.registry.by_id(id) {
                Some(endpoint) => endpoint.path.ready.push_back(name),
                None => gap.phase = Phase::Waiting,
            }
        }
        self.deadlines.push(Reverse((gap.wake, name)));
    }

    /// Runs everything that is due and fills the windows.
    pub fn on_timeout(&mut self, now: Instant, tracker: &mut Tracker, counts: &mut Counts) {
        self.registry.expire(now);
        while let Some(&Reverse((due, name))) = self.deadlines.peek() {
            if due > now {
                break;
            }
            self.deadlines.pop();
            if tracker.gap(name).is_some_and(|gap| gap.wake == due) {
                self.wake(now, name, tracker, counts);
            }
        }
        self.settle(tracker);
        self.dispatch(now, tracker, counts);
    }

    fn wake(&mut self, now: Instant, name: Slot, tracker: &mut Tracker, counts: &mut Counts) {
        let Some(gap) = tracker.gap_mut(name) else { return };
        if now >= gap.expires {
            return tracker.give_up(name, counts);
        }
        match gap.phase {
            Phase::Waiting if gap.deferred && !self.room => {
                gap.wake = (now + LOOK_AGAIN).min(gap.expires);
                self.deadlines.push(Reverse((gap.wake, name)));
            }
            Phase::Waiting => self.enqueue(now, name, tracker),
            Phase::Queued(id) if self.registry.by_id(id).is_some() => {
                gap.wake = (now + LOOK_AGAIN).min(gap.expires);
                self.deadlines.push(Reverse((gap.wake, name)));
            }
            Phase::Queued(_) => self.enqueue(now, name, tracker),
            Phase::InFlight(request) => {
                counts.nack_timeouts += 1;
                gap.tries += 1;
                let numbers = gap.numbers();
                let exhausted = gap.tries >= TRIES;
                let known = self.registry.candidates(now);
                if let Some(endpoint) = self.registry.by_id(request.endpoint) {
                    let path = &mut endpoint.path;
                    path.landed(numbers, false);
                    if path.heard.is_none_or(|heard| heard < request.sent) {
                        path.unanswered(now);
                    }
                }
                if exhausted {
                    gap.tries = 0;
                    gap.hop = gap.hop.saturating_add(1);
                    if usize::from(gap.hop) >= known {
                        gap.hop = 0;
                        gap.round = gap.round.saturating_add(1);
                    }
                }
                self.enqueue(now, name, tracker);
            }
        }
    }

    /// Sends what the windows, the paces and the holds allow.
    fn dispatch(&mut self, now: Instant, tracker: &mut Tracker, counts: &mut Counts) {
        self.resume = None;
        for index in 0..self.registry.endpoints.len() {
            while self.ask(now, index, tracker, counts) {}
        }
    }

    /// Sends one request to the endpoint at `index`; `false` when it can take none now.
    fn ask(&mut self, now: Instant, index: usize, tracker: &mut Tracker, counts: &mut Counts) -> bool {
        let Some(endpoint) = self.registry.endpoints.get_mut(index) else { return false };
        let path = &mut endpoint.path;
        let Some(&name) = path.ready.front() else { return false };
        let queued = Phase::Queued(endpoint.id);
        let Some(&gap) = tracker.gap(name).filter(|gap| gap.phase == queued) else {
            path.ready.pop_front();
            return true;
        };
        if let Some(until) = path.held_until.filter(|until| now < *until) {
            self.resume = Some(self.resume.map_or(until, |resume| resume.min(until)));
            return false;
        }
        let room = path.window.saturating_sub(path.in_flight);
        if room == 0 {
            return false;
        }
        if endpoint.max_range.is_none() && !path.singles.take(now) {
            let next = path.singles.next(now);
            self.resume = Some(self.resume.map_or(next, |resume| resume.min(next)));
            return false;
        }
        path.ready.pop_front();
        let longest = endpoint.max_range.map_or(1, |max| u64::from(max).clamp(1, Extended::MAX_RANGE));
        let take = gap.numbers().min(longest).min(room);
        if take < gap.numbers()
            && let Some(rest) = tracker.split(name, gap.first + take)
        {
            path.ready.push_front(rest);
            self.deadlines.push(Reverse((gap.wake, rest)));
        }
        path.in_flight += take;
        let flow = tracker.flow(gap.flow).map(|flow| (flow.key, flow.subtree));
        let Some((key, subtree_id)) = flow else { return true };
        if endpoint.max_range.is_none() {
            path.asked.push_back((SeqNum(gap.first), key));
            if path.asked.len() > 256 {
                path.asked.pop_front();
            }
        }
        let rto = path.rto() + PER_NUMBER * u32::try_from(take).unwrap_or(0);
        let rto = (rto * gap.backoff()).min(RTO_CAP);
        let wake = now + rto.mul_f64(self.rng.random_range(1.0..1.25));
        if let Some(gap) = tracker.gap_mut(name) {
            gap.phase = Phase::InFlight(InFlight {
                endpoint: endpoint.id,
                sent: now,
                times: !gap.requested,
                answered: false,
            });
            gap.requested = true;
            gap.wake = wake.min(gap.expires);
            self.deadlines.push(Reverse((gap.wake, name)));
        }
        counts.nacks += 1;
        counts.nack_numbers += take;
        let (start, end) = (SeqNum(gap.first), SeqNum(gap.first + take - 1));
        let nack = Nack { flags: Nack::EXTENDED, hash_key: key, start, end, subtree_id };
        self.requests.push(Request { to: endpoint.address, bytes: nack.encode() });
        true
    }

    /// Puts a question about what follows a flow's last number.
    pub(crate) fn probe(&mut self, now: Instant, question: &Question) -> Asked {
        let Question { key, subtree, first, width, hop, unanswered, resumed } = *question;
        let candidates = u8::try_from(self.registry.candidates(now)).unwrap_or(u8::MAX);
        let Some(id) = self.registry.choose(now, key, hop % candidates.max(1)) else { return Asked::Not };
        let Some(endpoint) = self.registry.by_id(id) else { return Asked::Not };
        let bucket = if resumed { &mut self.resumed_probes } else { &mut self.probes };
        let held = endpoint.path.held_until.is_some_and(|until| now < until);
        if held || !bucket.take(now) || endpoint.max_range.is_none() && !endpoint.path.singles.take(now) {
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
    pub fn take_requests(&mut self, out: &mut Vec<Request>) {
        out.append(&mut self.requests);
    }

    /// When `on_timeout` wants to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due = self.deadlines.peek().map(|Reverse((due, _))| *due);
        [due, self.resume, self.registry.next_expiry()].into_iter().flatten().min()
    }
}
