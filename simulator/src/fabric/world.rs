//! Time, events, and calls to the store, for every role.

use super::check;
use super::consumer::Consumer;
use super::endpoint::Endpoint;
use super::frames::frames;
use super::listener::{Arrived, Listener};
use super::network::Network;
use super::node::Node;
use super::proxy::Proxy;
use super::trail::{Reach, Trail};
use super::{Options, Summary};
use crate::MS;
use crate::fault::Fault;
use crate::owners::Owners;
use crate::random::Random;
use crate::store::{Change, Store};
use crate::timeline::{ANY, Scheduled, Timeline};
use crate::way::{Calls, DEADLINE, PATIENCE, Sent, show};
use cache_backend::OpErrorKind;
use frame::{Advert, Fabric, GroupIndex, Nack};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use txidset::{Answer, Ask, Claims, Request, Trust};

/// Address plan of all worlds.
pub(super) const FABRIC: Fabric = Fabric::V4 { net: 9 };
/// How often somebody looks whether all is done.
const LOOK: u64 = 50 * MS;
/// What is not done so long after the last arrival and fault is never done: repairs that get lost again and again are asked
/// for every two seconds, for 60.
const NEVER: u64 = 55_000 * MS;
/// What nobody can have heard of is not waited for longer than probes are sent.
const PROBES: u64 = 9_000 * MS;
/// More events than any world has.
const EVENTS: u64 = 300_000;

/// See [`super`]. Workers are numbered: those of proxies, then the listeners.
pub(super) struct World {
    pub(super) options: Options,
    pub(super) random: Random,
    base: Instant,
    pub(super) now: u64,
    pub(super) timeline: Timeline<Event>,
    pub(super) store: Store,
    pub(super) store_down_until: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) listeners: Vec<Listener>,
    pub(super) endpoints: Vec<Endpoint>,
    /// When each endpoint speaks next.
    pub(super) beacons: Vec<Option<u64>>,
    pub(super) consumers: Vec<Consumer>,
    pub(super) network: Network,
    pub(super) faults: Vec<Fault>,
    /// By way (the fabric, then each consumer) and id.
    pub(super) trails: Vec<Vec<Trail>>,
    /// What proxies told the store.
    pub(super) owners: Owners,
    pub(super) reach: Reach,
    /// Number of the first frame.
    pub(super) first: usize,
    pub(super) sent: check::Sent,
    pub(super) terms: super::plan::Terms,
    /// Nothing is planned after it.
    pub(super) planned_until: u64,
    pub(super) over: bool,
    /// Answers of the store that came while their worker was in the middle of a round.
    answers: Vec<Scheduled<Event>>,
    pub(super) summary: Summary,
    pub(super) broken: Option<String>,
}

pub(super) enum Event {
    /// A wallet's frame comes to a worker.
    Arrive(usize),
    /// A datagram comes to a listener.
    Datagram(Arrived),
    Digest {
        from: SocketAddr,
        bytes: Rc<[u8]>,
    },
    Advert(Advert),
    /// A worker looks at what it has.
    Turn,
    /// The second half of a round.
    Resume,
    Timer {
        at: u64,
    },
    Execute {
        connection: u32,
        number: u64,
        ask: Box<Ask>,
    },
    Reply {
        connection: u32,
        number: u64,
        answer: Box<Answer>,
    },
    Deadline {
        number: u64,
        kind: OpErrorKind,
    },
    /// An endpoint hears a frame.
    Keep {
        group: GroupIndex,
        bytes: Rc<[u8]>,
    },
    /// An endpoint hears a digest.
    Overhear(Rc<[u8]>),
    /// An endpoint hears a request of a listener.
    Request {
        endpoint: usize,
        nack: Box<[u8; Nack::LEN]>,
    },
    Beacon {
        at: u64,
    },
    EndpointDies {
        restart: Option<u64>,
    },
    EndpointReturns,
    /// Bytes come to a listener's consumer.
    Consume,
    Acknowledged {
        number: u32,
        read: u64,
    },
    Fault(usize),
    Restart,
    /// A draining process decides what still waits.
    Decide,
    Exit,
    Look,
}

impl World {
    pub(super) fn run(mut self) -> Result<Summary, String> {
        self.timeline.push(self.planned_until, 0, ANY, Event::Look);
        for endpoint in 0..self.endpoints.len() {
            self.beacon(endpoint);
        }
        while let Some(next) = self.timeline.pop() {
            self.now = next.at;
            self.summary.events += 1;
            self.handle(next);
            if self.summary.events > EVENTS {
                self.broken("the world does not come to rest");
            }
            if let Some(what) = self.broken.take() {
                return Err(what);
            }
            if self.over {
                break;
            }
        }
        self.conclude()
    }

    fn handle(&mut self, next: Scheduled<Event>) {
        // What needs no process of ours, or not in a certain state.
        match next.event {
            Event::Fault(index) => return self.strike(self.faults[index]),
            Event::Restart => return self.restart(next.who),
            Event::Decide => return self.decide(next.who, next.incarnation),
            Event::Exit => return self.exit(next.who, next.incarnation),
            Event::Execute { connection, number, ask } => {
                return self.execute(next.who, next.incarnation, connection, number, &ask);
            }
            Event::Keep { group, bytes } => {
                self.keep(next.who, group, &bytes);
                // It may have something to say earlier than it thought.
                return self.beacon_again(next.who);
            }
            Event::Overhear(bytes) => return self.overhear(next.who, &bytes),
            Event::Request { endpoint, nack } => return self.answer(endpoint, next.who, &nack),
            Event::Beacon { at } if self.beacons[next.who] == Some(at) => return self.beacon(next.who),
            Event::Beacon { .. } => return,
            Event::EndpointDies { restart } => return self.endpoint_dies(next.who, restart),
            Event::EndpointReturns => return self.endpoint_returns(next.who),
            Event::Consume => return self.consume(next.who),
            Event::Acknowledged { number, read } => return self.acknowledged(next.who, number, read),
            Event::Look => return self.look(),
            _ => {}
        }
        let node = &self.nodes[self.node_of(next.who)];
        if next.incarnation != ANY && next.incarnation != node.incarnation || !node.alive {
            return;
        }
        let busy = self.busy_until(next.who).filter(|_| !matches!(next.event, Event::Resume));
        if let (Some(_), Event::Reply { .. }) = (busy, &next.event) {
            return self.answers.push(next);
        }
        if node.paused_until > self.now || busy.is_some() {
            // The kernel keeps it for the process.
            let later = busy.unwrap_or(0).max(node.paused_until).max(self.now);
            return self.timeline.push(later, next.who, next.incarnation, next.event);
        }
        self.happen(next.who, next.event);
    }

    /// Something comes to a worker that can take it.
    fn happen(&mut self, who: usize, event: Event) {
        match event {
            Event::Arrive(id) => self.arrive(who, id),
            Event::Datagram(arrived) => self.hear(who, arrived),
            Event::Digest { from, bytes } => self.hear_digest(who, from, &bytes),
            Event::Advert(advert) => {
                let now = self.instant();
                self.listeners[who - self.proxies.len()].pipeline.advert(now, &advert);
            }
            Event::Turn => self.turn(who),
            Event::Resume => self.resume(who),
            Event::Timer { at } if *self.timer(who) == Some(at) => {
                *self.timer(who) = None;
                self.turn(who);
            }
            Event::Reply { connection, number, answer } => self.reply(who, connection, number, *answer),
            Event::Deadline { number, kind } => self.expire(who, number, kind),
            _ => {}
        }
    }

    // Workers of both roles.

    pub(super) fn turn(&mut self, who: usize) {
        match who.checked_sub(self.proxies.len()) {
            None => self.round(who),
            Some(listener) => self.listen(listener),
        }
    }

    fn resume(&mut self, who: usize) {
        *self.busy(who) = None;
        match who.checked_sub(self.proxies.len()) {
            None => self.end_round(who),
            Some(listener) => self.end_turn(listener),
        }
        // Answers that came meanwhile go before everything else.
        while let Some(at) = self.answers.iter().position(|answer| answer.who == who) {
            let answer = self.answers.remove(at);
            self.timeline.push_first(self.now, answer);
        }
    }

    /// Goes on with the second half of a round: mostly at once, now and then after a while.
    pub(super) fn go_on(&mut self, who: usize) {
        let step = match self.random.below(100) {
            0..=2 => self.random.between(0, 15 * MS),
            3..=20 => self.random.between(10, MS),
            _ => return self.resume(who),
        };
        *self.busy(who) = Some(self.now + step);
        self.schedule(self.now + step, who, Event::Resume);
    }

    pub(super) fn node_of(&self, who: usize) -> usize {
        match who.checked_sub(self.proxies.len()) {
            None => self.proxies[who].node,
            Some(listener) => self.listeners[listener].node,
        }
    }

    pub(super) fn busy_until(&self, who: usize) -> Option<u64> {
        match who.checked_sub(self.proxies.len()) {
            None => self.proxies[who].busy_until,
            Some(listener) => self.listeners[listener].busy_until,
        }
    }

    fn busy(&mut self, who: usize) -> &mut Option<u64> {
        match who.checked_sub(self.proxies.len()) {
            None => &mut self.proxies[who].busy_until,
            Some(listener) => &mut self.listeners[listener].busy_until,
        }
    }

    fn timer(&mut self, who: usize) -> &mut Option<u64> {
        match who.checked_sub(self.proxies.len()) {
            None => &mut self.proxies[who].timer,
            Some(listener) => &mut self.listeners[listener].timer,
        }
    }

    pub(super) fn calls(&mut self, who: usize) -> &mut Calls {
        match who.checked_sub(self.proxies.len()) {
            None => &mut self.proxies[who].calls,
            Some(listener) => &mut self.listeners[listener].calls,
        }
    }

    fn claims(&mut self, who: usize) -> Option<&mut Claims> {
        match who.checked_sub(self.proxies.len()) {
            None => Some(self.proxies[who].ingress.claims()),
            Some(listener) => self.listeners[listener].pipeline.claims_mut(),
        }
    }

    /// For a worker, as it lives now.
    pub(super) fn schedule(&mut self, at: u64, who: usize, event: Event) {
        let incarnation = self.nodes[self.node_of(who)].incarnation;
        self.timeline.push(at, who, incarnation, event);
    }

    pub(super) fn wake_at(&mut self, who: usize, at: Instant) {
        // Timers are late, a little.
        let at = self.micros(at).max(self.now) + self.random.between(10, 2 * MS);
        if self.timer(who).is_none_or(|timer| timer > at) {
            *self.timer(who) = Some(at);
            self.schedule(at, who, Event::Timer { at });
        }
    }

    // Calls to the store.

    /// Carries forward what the worker's claims want.
    pub(super) fn pump(&mut self, who: usize) {
        let now = self.instant();
        let Some(claims) = self.claims(who) else { return };
        claims.on_timeout(now);
        while let Some(request) = self.claims(who).and_then(|claims| claims.poll_request(now)) {
            self.call(who, request);
        }
    }

    fn call(&mut self, who: usize, request: Request) {
        let Request { id, ask, until } = request;
        let now = self.now;
        let number = self.calls(who).begin(now, id, &ask);
        self.trace(|| format!("worker {who} asks #{number} {}", show(&ask)));
        self.note_claims(who, &ask);
        let claims = matches!(ask, Ask::Claim { .. });
        let trouble = self.nodes[self.node_of(who)].trouble;
        match trouble.request(now, &mut self.random) {
            Sent::Refused => {
                let kind = OpErrorKind::BreakerOpen;
                return self.schedule(now, who, Event::Deadline { number, kind });
            }
            Sent::Lost => {}
            Sent::Lands(after) => {
                let connection = self.calls(who).connection;
                let ask = Box::new(ask);
                self.schedule(now + after, who, Event::Execute { connection, number, ask });
            }
        }
        // Nobody waits longer than that.
        let longest = if claims { PATIENCE } else { DEADLINE };
        let until = until.map_or(u64::MAX, |until| self.micros(until)).min(now + longest);
        self.schedule(until, who, Event::Deadline { number, kind: OpErrorKind::Timeout });
    }

    fn note_claims(&mut self, who: usize, ask: &Ask) {
        let (node, way, now) = (self.node_of(who), self.way_of(who), self.now);
        for id in crate::store::claimed_ids(ask) {
            if let Some(id) = self.id_at(id) {
                self.trails[way][id].touch(node, now);
            }
        }
    }

    /// The way that a worker's claims are about.
    pub(super) fn way_of(&self, who: usize) -> usize {
        who.checked_sub(self.proxies.len()).map_or(0, |listener| 1 + self.listeners[listener].consumer)
    }

    fn execute(&mut self, who: usize, incarnation: u32, connection: u32, number: u64, ask: &Ask) {
        if self.store_down_until > self.now {
            return;
        }
        let way = self.way_of(who);
        let (trails, first) = (&self.trails[way], self.first);
        let id_of = move |id| frames().number(id).and_then(|number| number.checked_sub(first)).unwrap_or(0);
        let passed = |id: usize| trails.get(id).is_none_or(|trail| !trail.passages.is_empty());
        let owners = if way == 0 { &mut self.owners } else { &mut self.consumers[way - 1].owners };
        let (mut lie, mut won) = (None, Vec::new());
        let answer = self.store.execute(self.now, ask, |change| {
            let lied = match change {
                Change::Claimed { owner, epoch, id } => {
                    won.push(id);
                    owners.claimed(owner, epoch, id_of(id), passed)
                }
                Change::Recorded(record) => owners.recorded(record, passed),
            };
            lie = lie.or(lied);
        });
        for id in won {
            let built = self.calls(who).claimed_at(id);
            self.sent.won(who, id_of(id), built.unwrap_or(0));
        }
        if let Some(id) = lie {
            self.broken(&format!("a record says that {id} is settled on way {way}, but it has not passed"));
        }
        self.trace(|| format!("store carries out #{number} of worker {who}: {answer:?}"));
        let trouble = self.nodes[self.node_of(who)].trouble;
        if let Some(after) = trouble.reply(self.now, &mut self.random) {
            let answer = Box::new(answer);
            let at = self.now + after;
            self.timeline.push(at, who, incarnation, Event::Reply { connection, number, answer });
        }
    }

    fn reply(&mut self, who: usize, connection: u32, number: u64, answer: Answer) {
        let now = self.instant();
        let calls = self.calls(who);
        if calls.connection != connection {
            return;
        }
        let Some(answer) = calls.slip(answer) else {
            self.drop_connection(who);
            return self.turn(who);
        };
        let Some(request) = calls.take_open(number) else { return };
        let trust = self.claims(who).map(|claims| claims.on_answer(now, request, answer));
        if trust == Some(Trust::Lost) {
            self.trace(|| format!("worker {who} drops its connection"));
            self.drop_connection(who);
        }
        self.turn(who);
    }

    fn drop_connection(&mut self, who: usize) {
        let now = self.instant();
        for request in self.calls(who).drop_connection() {
            if let Some(claims) = self.claims(who) {
                claims.on_failure(now, request, OpErrorKind::Garbled);
            }
        }
    }

    fn expire(&mut self, who: usize, number: u64, kind: OpErrorKind) {
        let now = self.instant();
        let Some(request) = self.calls(who).take_open(number) else { return };
        if let Some(claims) = self.claims(who) {
            claims.on_failure(now, request, kind);
        }
        self.turn(who);
    }

    // Rest.

    fn look(&mut self) {
        let late = self.now > self.planned_until + PROBES;
        if self.is_done(late) || self.now > self.planned_until + NEVER {
            self.over = true;
        } else {
            self.timeline.push(self.now + LOOK, 0, ANY, Event::Look);
        }
    }

    // Small things.

    /// The id of a frame in this world.
    pub(super) fn id_of(&self, number: usize) -> Option<usize> {
        number.checked_sub(self.first).filter(|id| *id < self.trails[0].len())
    }

    /// The id in this world whose first bytes are these.
    pub(super) fn id_at(&self, first: [u8; 8]) -> Option<usize> {
        frames().number(first).and_then(|number| self.id_of(number))
    }

    pub(super) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    /// Virtual time of an instant, rounded up: nothing comes before it is due.
    pub(super) fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
    }

    pub(super) fn broken(&mut self, what: &str) {
        self.broken.get_or_insert_with(|| format!("{what} (at {:.3} ms)", self.now as f64 / 1000.0));
    }

    pub(super) fn trace(&self, what: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>9.3} ms  {}", self.now as f64 / 1000.0, what());
        }
    }

    /// Everything, before the first event.
    #[allow(clippy::too_many_arguments, reason = "the parts of a world")]
    pub(super) fn of_parts(
        seed: u64,
        options: Options,
        random: Random,
        base: Instant,
        terms: super::plan::Terms,
        network: Network,
        faults: Vec<Fault>,
        trails: Vec<Vec<Trail>>,
        first: usize,
    ) -> World {
        World {
            options,
            base,
            now: 0,
            timeline: Timeline::new(),
            store: Store::default(),
            store_down_until: 0,
            nodes: Vec::new(),
            proxies: Vec::new(),
            listeners: Vec::new(),
            endpoints: (0..terms.endpoints)
                .map(|number| Endpoint::new(number, seed, options.mutation, base))
                .collect(),
            beacons: vec![None; terms.endpoints],
            consumers: Vec::new(),
            network,
            faults,
            owners: Owners::default(),
            reach: Reach::of_lease(terms.lease),
            first,
            sent: check::Sent::new(trails[0].len(), trails.len()),
            trails,
            terms,
            planned_until: 0,
            over: false,
            answers: Vec::new(),
            summary: Summary::default(),
            broken: None,
            random,
        }
    }
}
