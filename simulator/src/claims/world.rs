//! Nodes, workers, connections and time.

use super::check::{Emission, Fate, History};
use super::{Mutation, Options, Summary};
use crate::MS;
use crate::fault::{Fault, Kind};
use crate::owners::Owners;
use crate::random::Random;
use crate::store::{Change, Store};
use crate::timeline::{ANY, Scheduled, Timeline};
use crate::way::{Calls, DEADLINE, Sent, Trouble, show};
use cache_backend::OpErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{
    Answer, Ask, ClaimKey, Claims, ClaimsConfig, Class, CourtesyMark, Decision, KeyStyle, LocalSet, Names,
    Request, Ticket, Trust, Verdict, Why,
};

const LEASE: Duration = Duration::from_millis(250);
/// Longer than any world lasts.
const TTL: Duration = Duration::from_secs(5);
const FRAME_BYTES: u32 = 100;
const PREFIX: &[u8] = b"t:";

pub(super) struct World {
    seed: u64,
    options: Options,
    random: Random,
    base: Instant,
    now: u64,
    timeline: Timeline<Event>,
    store: Store,
    store_down_until: u64,
    nodes: Vec<Node>,
    workers: Vec<Worker>,
    faults: Vec<Fault>,
    ids: Vec<History>,
    owners: Owners,
    horizon: Duration,
    park_bytes: usize,
    summary: Summary,
    broken: Option<String>,
}

/// A process.
struct Node {
    alive: bool,
    accepting: bool,
    incarnation: u32,
    paused_until: u64,
    refusing_until: u64,
    trouble: Trouble,
    /// Added to what its clock shows; means something only where the lease is measured with it.
    clock_step: u64,
}

/// A worker of a process, with its connection to the store.
struct Worker {
    node: usize,
    claims: Claims,
    frames: Vec<Frame>,
    calls: Calls,
    timer: Option<u64>,
    seed: u64,
}

/// A copy of an id, in the node's hands.
struct Frame {
    id: usize,
    /// Index in `History::copies`.
    copy: usize,
}

enum Event {
    Arrive {
        worker: usize,
        id: usize,
    },
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
    Emit {
        token: u64,
        ticket: Ticket,
        why: Option<Why>,
    },
    Fault(usize),
    Restart,
    Exit,
    /// A node that does not speak the protocol forwards the id, and the store says so: a Go node by its claim, a proxy of
    /// another site by the mark of a listener here.
    Elsewhere {
        id: usize,
    },
    /// A listener marks what it has seen.
    Mark {
        id: usize,
    },
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> World {
        let mut random = Random::new(seed);
        let nodes = 2 + random.below(3);
        let per_node = if random.percent(25) { 2 } else { 1 };
        let span = random.between(600, 1800) * MS;
        let count = if seed.is_multiple_of(16) { 0 } else { options.faults };
        let faults = Fault::draw(&mut random, count, nodes, span, |random, _| Kind::of_proxy(random));
        let base = Instant::now();
        let mut world = World {
            seed,
            options,
            base,
            now: 0,
            timeline: Timeline::new(),
            store: Store::default(),
            store_down_until: 0,
            nodes: (0..nodes).map(|_| Node::new()).collect(),
            workers: Vec::new(),
            faults,
            ids: Vec::new(),
            owners: Owners::default(),
            horizon: if random.percent(30) { Duration::from_millis(300) } else { Duration::from_secs(60) },
            park_bytes: if random.percent(20) { 4 * FRAME_BYTES as usize } else { 1 << 20 },
            summary: Summary::default(),
            broken: None,
            random,
        };
        for node in 0..nodes {
            let local = world.local();
            for _ in 0..per_node {
                let worker = world.worker(node, &local, None);
                world.workers.push(worker);
            }
        }
        if options.mutation == Some(Mutation::EndedWhileAlive) {
            let owners: Vec<u64> = world.workers.iter().map(|worker| worker.claims.owner()).collect();
            owners.into_iter().for_each(|owner| world.say_ended(owner));
        }
        world.plan(span);
        world
    }

    pub(super) fn run(mut self) -> Result<Summary, String> {
        while let Some(next) = self.timeline.pop() {
            self.now = next.at;
            self.summary.events += 1;
            self.handle(next);
            if let Some(what) = self.broken.take() {
                return Err(what);
            }
            if self.summary.events > 1_000_000 {
                return Err("the world does not come to rest".to_owned());
            }
        }
        self.conclude()
    }

    /// Arrivals, faults, and what others did.
    fn plan(&mut self, span: u64) {
        let count = self.options.ids + self.random.below(20);
        for id in 0..count {
            self.ids.push(History::default());
            let first = self.random.between(0, span);
            // A Go node's value names no id: a slip could not be seen.
            let slips = self.faults.iter().any(|fault| fault.kind == Kind::Slip);
            if self.random.percent(4) && (self.marks() || !slips) {
                self.schedule(first, 0, ANY, Event::Elsewhere { id });
            }
            self.plan_copies(first, id);
        }
        let counts = self.nodes.len() >= 2 && count >= 50 && self.faults.len() >= 3;
        self.summary.counted = u64::from(counts);
        for index in 0..self.faults.len() {
            let Fault { start, node, .. } = self.faults[index];
            self.schedule(start, node, ANY, Event::Fault(index));
        }
    }

    fn plan_copies(&mut self, first: u64, id: usize) {
        for worker in 0..self.workers.len() {
            for at in self.random.copies(first) {
                self.arrive(at, worker, id);
            }
        }
    }

    fn forward_elsewhere(&mut self, id: usize) {
        let at = self.now;
        if self.marks() {
            self.mark(id);
        } else {
            self.store.put_plain(at, &name_of(id), TTL);
        }
        let emission = Emission { node: usize::MAX, at, why: None };
        self.ids[id].emissions.push(emission);
    }

    /// Whether a listener here marks what it sees: in one of eight worlds.
    fn marks(&self) -> bool {
        self.seed % 8 == 5
    }

    fn mark(&mut self, id: usize) {
        if self.store_down_until > self.now {
            return;
        }
        let mark = CourtesyMark { flow: 1, seconds: 1, number: 1, id: first_bytes(id) };
        self.store.put_mark(self.now, &name_of(id), &mark, TTL);
        self.trace(|| format!("a listener has seen {id}"));
    }

    fn arrive(&mut self, at: u64, worker: usize, id: usize) {
        // Whatever process serves that address then.
        self.schedule(at, worker, ANY, Event::Arrive { worker, id });
    }

    fn schedule(&mut self, at: u64, who: usize, incarnation: u32, event: Event) {
        self.timeline.push(at, who, incarnation, event);
    }

    /// For a worker, as it lives now.
    fn schedule_for(&mut self, at: u64, worker: usize, event: Event) {
        let incarnation = self.nodes[self.workers[worker].node].incarnation;
        self.schedule(at, worker, incarnation, event);
    }

    fn handle(&mut self, next: Scheduled<Event>) {
        match next.event {
            Event::Fault(index) => return self.strike(self.faults[index]),
            Event::Restart => return self.restart(next.who),
            Event::Elsewhere { id } => return self.forward_elsewhere(id),
            Event::Mark { id } => return self.mark(id),
            Event::Exit => return self.exit(next.who, next.incarnation),
            Event::Execute { connection, number, ask } => {
                // On its way to the store: needs no node any more.
                return self.execute(next.who, next.incarnation, connection, number, &ask);
            }
            _ => {}
        }
        let node = &self.nodes[self.workers[next.who].node];
        if next.incarnation != ANY && next.incarnation != node.incarnation || !node.alive {
            return;
        }
        if node.paused_until > self.now {
            // The kernel keeps it for the process.
            let at = node.paused_until;
            return self.schedule(at, next.who, next.incarnation, next.event);
        }
        match next.event {
            Event::Arrive { worker, id } => self.receive(worker, id),
            Event::Timer { at } => self.wake(next.who, at),
            Event::Reply { connection, number, answer } => {
                self.deliver(next.who, connection, number, *answer);
            }
            Event::Deadline { number, kind } => self.expire(next.who, number, kind),
            Event::Emit { token, ticket, why } => self.emit(next.who, token, ticket, why),
            _ => {}
        }
    }

    // The path of a frame.

    fn receive(&mut self, worker: usize, id: usize) {
        let node = self.workers[worker].node;
        if !self.nodes[node].accepting {
            return;
        }
        let now = self.instant(node);
        let token = self.workers[worker].frames.len() as u64;
        let copy = self.ids[id].copies.len();
        self.workers[worker].frames.push(Frame { id, copy });
        let mut verdicts = Vec::with_capacity(1);
        self.workers[worker].claims.claim(now, &[(key(id), token, FRAME_BYTES)], &mut verdicts);
        let before = self.ids[id].copies.iter().rev().find(|(at, fate)| *at == node && *fate != Fate::Seen);
        let failed = before.is_some_and(|(_, fate)| *fate == Fate::Failed);
        let fate = match verdicts.first() {
            Some(Verdict::Seen) if failed => Fate::SeenAfterFailure,
            Some(Verdict::Seen) => Fate::Seen,
            _ => Fate::Pending,
        };
        self.trace(|| format!("worker {worker} (node {node}) receives {id}: {verdicts:?}"));
        self.ids[id].copies.push((node, fate));
        match verdicts.first() {
            Some(&Verdict::Won(ticket)) => self.send_later(worker, token, ticket, Some(Why::Bypassed)),
            Some(Verdict::Wait) => {
                // The batch is built when the burst is over.
                let at = self.now + self.random.between(0, MS);
                self.wake_at(worker, at);
            }
            _ => {}
        }
        self.collect(worker);
    }

    fn send_later(&mut self, worker: usize, token: u64, ticket: Ticket, why: Option<Why>) {
        let delay = if self.random.percent(5) {
            self.random.between(0, 60 * MS)
        } else {
            self.random.between(50, 3 * MS)
        };
        self.schedule_for(self.now + delay, worker, Event::Emit { token, ticket, why });
    }

    fn emit(&mut self, worker: usize, token: u64, ticket: Ticket, why: Option<Why>) {
        let node = self.workers[worker].node;
        let now = self.instant(node);
        if !self.workers[worker].claims.may_send(now, ticket, || token) {
            self.trace(|| format!("worker {worker} is late with token {token} and asks again"));
            return self.pump(worker);
        }
        let Frame { id, copy } = self.workers[worker].frames[index(token)];
        if self.nodes[node].refusing_until > self.now {
            self.trace(|| format!("worker {worker} cannot send {id}"));
            self.ids[id].copies[copy].1 = Fate::Failed;
            self.workers[worker].claims.failed(now, ticket);
            if self.random.percent(50) {
                let (to, after) = (self.random.below(self.workers.len()), self.random.between(MS, 200 * MS));
                self.arrive(self.now + after, to, id);
            }
        } else {
            self.trace(|| format!("worker {worker} emits {id} ({why:?})"));
            self.check_late(worker, id, why);
            self.ids[id].copies[copy].1 = Fate::Emitted;
            self.ids[id].emissions.push(Emission { node, at: self.now, why });
            self.workers[worker].claims.sent(now, ticket);
            if self.marks() {
                let late = if self.random.percent(10) { 400 * MS } else { MS };
                let at = self.now + self.random.between(50, late);
                self.schedule(at, 0, ANY, Event::Mark { id });
            }
        }
        self.pump(worker);
    }

    /// Nobody emits late what a sibling has emitted since the claim.
    fn check_late(&mut self, worker: usize, id: usize, why: Option<Why>) {
        if !matches!(why, Some(Why::Won | Why::TakenOver)) {
            return;
        }
        let Some(built) = self.workers[worker].calls.claimed_at(first_bytes(id)) else { return };
        let late = self.now - built > u64::try_from(LEASE.as_micros()).unwrap_or(0) / 2 + MS;
        let taken = self.ids[id].emissions.iter().any(|emission| emission.at > built);
        if late && taken {
            self.broken = Some(format!(
                "id {id}: emitted {} ms after its claim, although a sibling had taken over",
                (self.now - built) / MS
            ));
        }
    }

    // What the worker does when something has happened.

    fn wake(&mut self, worker: usize, at: u64) {
        if self.workers[worker].timer == Some(at) {
            self.workers[worker].timer = None;
            self.pump(worker);
        }
    }

    fn wake_at(&mut self, worker: usize, at: u64) {
        if self.workers[worker].timer.is_none_or(|timer| timer > at) {
            self.workers[worker].timer = Some(at);
            self.schedule_for(at, worker, Event::Timer { at });
        }
    }

    fn pump(&mut self, worker: usize) {
        let now = self.instant(self.workers[worker].node);
        self.workers[worker].claims.on_timeout(now);
        while let Some(request) = self.workers[worker].claims.poll_request(now) {
            self.call(worker, request);
        }
        self.collect(worker);
        if self.workers[worker].claims.stats().parked_bytes.value() > self.park_bytes as u64 {
            self.broken = Some(format!("worker {worker} parks more than {} bytes", self.park_bytes));
        }
    }

    /// Decisions, and the next timer.
    fn collect(&mut self, worker: usize) {
        while let Some(decision) = self.workers[worker].claims.next_decision() {
            match decision {
                Decision::Send { token, ticket, why } => self.send_later(worker, token, ticket, Some(why)),
                Decision::Suppress { token, why } => {
                    let Frame { id, copy } = self.workers[worker].frames[index(token)];
                    self.trace(|| format!("worker {worker} lets {id} go ({why:?})"));
                    self.ids[id].copies[copy].1 = Fate::Suppressed;
                    if self.ids[id].emissions.is_empty() && !self.ids[id].unreleased {
                        self.broken = Some(format!("id {id} is let go ({why:?}), but nobody has sent it"));
                    }
                }
            }
        }
        if let Some(next) = self.workers[worker].claims.next_timeout() {
            let step = self.nodes[self.workers[worker].node].clock_step;
            let next =
                u64::try_from(next.saturating_duration_since(self.base).as_micros()).unwrap_or(u64::MAX);
            let at = next.saturating_sub(step).max(self.now) + self.random.between(10, 2 * MS);
            self.wake_at(worker, at);
        }
    }

    // Calls to the store.

    fn call(&mut self, worker: usize, request: Request) {
        let Request { id, ask, until } = request;
        let number = self.workers[worker].calls.begin(self.now, id, &ask);
        self.trace(|| format!("worker {worker} asks #{number} {}", show(&ask)));
        let kind = match self.nodes[self.workers[worker].node].trouble.request(self.now, &mut self.random) {
            Sent::Refused => {
                let kind = OpErrorKind::BreakerOpen;
                return self.schedule_for(self.now, worker, Event::Deadline { number, kind });
            }
            Sent::Lost => OpErrorKind::Timeout,
            Sent::Lands(after) => {
                let connection = self.workers[worker].calls.connection;
                let ask = Box::new(ask);
                self.schedule_for(self.now + after, worker, Event::Execute { connection, number, ask });
                OpErrorKind::Timeout
            }
        };
        // Nobody waits longer than that.
        let wait = until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(self.instant(self.workers[worker].node))
        });
        let until = self.now + u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).min(DEADLINE);
        self.schedule_for(until, worker, Event::Deadline { number, kind });
    }

    fn execute(&mut self, worker: usize, incarnation: u32, connection: u32, number: u64, ask: &Ask) {
        if self.store_down_until > self.now {
            return;
        }
        let (ids, owners) = (&self.ids, &mut self.owners);
        let emitted = |id: usize| !ids[id].emissions.is_empty();
        let mut lie = None;
        let answer = self.store.execute(self.now, ask, |change| {
            let lied = match change {
                Change::Claimed { owner, epoch, id } => owners.claimed(owner, epoch, id_of(id), emitted),
                Change::Recorded(record) => owners.recorded(record, emitted),
            };
            lie = lie.or(lied);
        });
        if let Some(id) = lie {
            self.broken = Some(format!("a record says that {id} is settled, but nobody has sent it"));
        }
        self.trace(|| format!("store carries out #{number} of worker {worker}: {answer:?}"));
        let trouble = self.nodes[self.workers[worker].node].trouble;
        if let Some(after) = trouble.reply(self.now, &mut self.random) {
            let answer = Box::new(answer);
            let at = self.now + after;
            self.schedule(at, worker, incarnation, Event::Reply { connection, number, answer });
        }
    }

    fn deliver(&mut self, worker: usize, connection: u32, number: u64, answer: Answer) {
        let calls = &mut self.workers[worker].calls;
        if calls.connection != connection {
            return;
        }
        let Some(answer) = calls.slip(answer) else { return self.drop_connection(worker) };
        let Some(request) = calls.find(number) else { return };
        let now = self.instant(self.workers[worker].node);
        let trust = self.workers[worker].claims.on_answer(now, request, answer);
        if trust == Trust::Lost {
            self.trace(|| format!("worker {worker} drops its connection"));
            self.drop_connection(worker);
        }
        self.pump(worker);
    }

    fn drop_connection(&mut self, worker: usize) {
        let now = self.instant(self.workers[worker].node);
        let worker_of = &mut self.workers[worker];
        for request in worker_of.calls.drop_connection() {
            worker_of.claims.on_failure(now, request, OpErrorKind::Garbled);
        }
        self.pump(worker);
    }

    fn expire(&mut self, worker: usize, number: u64, kind: OpErrorKind) {
        let Some(request) = self.workers[worker].calls.find(number) else { return };
        let now = self.instant(self.workers[worker].node);
        self.workers[worker].claims.on_failure(now, request, kind);
        self.pump(worker);
    }

    // Faults.

    fn strike(&mut self, fault: Fault) {
        self.trace(|| format!("fault: {fault:?}"));
        let now = self.now;
        let node = &mut self.nodes[fault.node];
        match fault.kind {
            Kind::Crash { restart } => self.crash(fault.node, restart),
            Kind::Pause => node.paused_until = node.paused_until.max(fault.end),
            Kind::Drain => self.drain(fault.node),
            Kind::RefusedSends => node.refusing_until = fault.end,
            Kind::Partition { .. } | Kind::LateReplies { .. } | Kind::LateLanding { .. } | Kind::Breaker => {
                node.trouble.strike(&fault);
            }
            Kind::ClockStep if self.options.mutation == Some(Mutation::LeaseByWallClock) => {
                node.clock_step += 700 * MS;
            }
            Kind::ClockStep => {}
            // Faults of nodes that this world does not have.
            Kind::Deaf | Kind::Loss { .. } | Kind::ConsumerBreaks | Kind::ConsumerStalls => {}
            Kind::Slip => {
                let slipping = |worker: &&mut Worker| worker.node == fault.node;
                self.workers.iter_mut().filter(slipping).for_each(|worker| worker.calls.slipping = true);
            }
            Kind::Evict => self.store.evict(&mut self.random),
            Kind::Failover => {
                self.store_down_until = fault.end;
                for (_, id) in self.store.fail_over(now, &mut self.random) {
                    self.ids[id_of(id)].unreleased = true;
                }
            }
        }
    }

    fn crash(&mut self, node: usize, restart: Option<u64>) {
        if !self.nodes[node].alive {
            return;
        }
        self.leave(node);
        for history in &mut self.ids {
            for (at, fate) in &mut history.copies {
                let in_hand = matches!(fate, Fate::Pending | Fate::Suppressed | Fate::SeenAfterFailure);
                if *at == node && in_hand {
                    *fate = Fate::Died;
                }
            }
        }
        if let Some(after) = restart {
            self.schedule(self.now + after, node, ANY, Event::Restart);
        }
    }

    fn leave(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.alive = false;
        node.incarnation += 1;
        node.paused_until = 0;
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].alive {
            return;
        }
        self.trace(|| format!("node {node} is back"));
        let fresh = Node { incarnation: self.nodes[node].incarnation, ..Node::new() };
        self.nodes[node] = fresh;
        let local = self.local();
        let kept = self.options.mutation == Some(Mutation::OwnerKeptAcrossRestart);
        // A process that cannot know whose place it takes leaves the others to their lease.
        let knows = self.seed & 2 == 0 && !kept;
        for worker in 0..self.workers.len() {
            if self.workers[worker].node == node {
                let seed = kept.then_some(self.workers[worker].seed);
                let before = self.workers[worker].claims.owner();
                self.workers[worker] = self.worker(node, &local, seed);
                if knows {
                    let now = self.instant(node);
                    self.workers[worker].claims.has_ended(now, before);
                    self.say_ended(before);
                }
            }
        }
    }

    fn say_ended(&mut self, owner: u64) {
        let mut name = Vec::new();
        Names::new(PREFIX, KeyStyle::Compact).end_notice(owner, &mut name);
        self.store.put_ended(self.now, &name, owner, TTL);
        self.trace(|| format!("the process of {owner:016x} has ended"));
    }

    /// An orderly stop: nothing new is accepted, what waits is sent, the process ends a little later.
    fn drain(&mut self, node: usize) {
        if !self.nodes[node].alive || self.nodes[node].paused_until > self.now {
            return;
        }
        self.nodes[node].accepting = false;
        let now = self.instant(node);
        for worker in 0..self.workers.len() {
            if self.workers[worker].node == node {
                self.workers[worker].claims.drain(now);
                self.pump(worker);
            }
        }
        let incarnation = self.nodes[node].incarnation;
        self.schedule(self.now + 1_000 * MS, node, incarnation, Event::Exit);
    }

    fn exit(&mut self, node: usize, incarnation: u32) {
        if self.nodes[node].incarnation != incarnation {
            return;
        }
        if self.nodes[node].paused_until > self.now {
            return self.schedule(self.now + 1_000 * MS, node, incarnation, Event::Exit);
        }
        self.check_at_rest(node);
        self.leave(node);
    }

    // The end.

    fn check_at_rest(&mut self, node: usize) {
        for (number, worker) in self.workers.iter().enumerate() {
            if worker.node == node && worker.claims.waiting() > 0 {
                let waiting = worker.claims.waiting();
                self.broken = Some(format!("{waiting} frames wait for ever at worker {number}"));
            }
        }
    }

    fn conclude(mut self) -> Result<Summary, String> {
        for node in 0..self.nodes.len() {
            if self.nodes[node].alive {
                self.check_at_rest(node);
            }
        }
        if let Some(what) = self.broken {
            return Err(what);
        }
        for (id, history) in self.ids.iter().enumerate() {
            if history.is_lost() {
                return Err(format!("id {id} is lost: copies {:?}", history.copies));
            }
            if history.emissions.len() > 1 && !history.is_explained(&self.faults) {
                return Err(format!("id {id} was sent twice without reason: {:?}", history.emissions));
            }
            self.summary.emitted += u64::from(!history.emissions.is_empty());
            self.summary.duplicates += history.emissions.len().saturating_sub(1) as u64;
            let taken_over = |emission: &&Emission| emission.why == Some(Why::TakenOver);
            self.summary.taken_over += history.emissions.iter().filter(taken_over).count() as u64;
        }
        Ok(self.summary)
    }

    // Making things.

    fn local(&mut self) -> Arc<LocalSet> {
        Arc::new(LocalSet::starting_at(64, self.horizon, self.random.next(), self.base))
    }

    fn worker(&mut self, node: usize, local: &Arc<LocalSet>, seed: Option<u64>) -> Worker {
        let seed = seed.unwrap_or_else(|| self.random.next());
        let config = ClaimsConfig {
            ttl: TTL,
            lease: LEASE,
            park_bytes: self.park_bytes,
            max_batch: if self.random.percent(20) { 3 } else { 64 },
            prefix: PREFIX.to_vec(),
            keys: KeyStyle::Compact,
            tier2: true,
            ..ClaimsConfig::default()
        };
        let mut claims = Claims::new(config, Arc::clone(local), seed).limit_waiting(30, 1 << 20);
        if let Some(mutation) = self.options.mutation {
            claims.mutate(mutation);
        }
        Worker { node, claims, frames: Vec::new(), calls: Calls::default(), timer: None, seed }
    }

    fn instant(&self, node: usize) -> Instant {
        self.base + Duration::from_micros(self.now + self.nodes[node].clock_step)
    }

    fn trace(&self, what: impl FnOnce() -> String) {
        if self.options.trace {
            println!("{:>9.3} ms  {}", self.now as f64 / 1000.0, what());
        }
    }
}

impl Node {
    fn new() -> Node {
        Node {
            alive: true,
            accepting: true,
            incarnation: 0,
            paused_until: 0,
            refusing_until: 0,
            trouble: Trouble::default(),
            clock_step: 0,
        }
    }
}

/// A transaction whose first eight bytes are its number.
fn key(id: usize) -> ClaimKey {
    let mut bytes = [0xA5; 32];
    bytes[..8].copy_from_slice(&first_bytes(id));
    ClaimKey { class: Class::Tx, id: bytes }
}

/// The name of its claim in the store.
fn name_of(id: usize) -> Vec<u8> {
    let mut name = Vec::new();
    Names::new(PREFIX, KeyStyle::Compact).claim(&key(id), &[], &mut name);
    name
}

fn first_bytes(id: usize) -> [u8; 8] {
    (id as u64).to_le_bytes()
}

#[allow(clippy::cast_possible_truncation, reason = "ids are numbered from zero")]
fn id_of(first: [u8; 8]) -> usize {
    u64::from_le_bytes(first) as usize
}

#[allow(clippy::cast_possible_truncation, reason = "tokens number the frames of a worker")]
fn index(token: u64) -> usize {
    token as usize
}
