//! Nodes, workers, connections and time: what happens, in order, and to whom.

use super::evidence::{Emission, Evidence};
use super::node::{Copied, FRAME_BYTES, LEASE, Node, TTL, Worker, first_bytes, id_of, key, name_of, names};
use super::{Mutation, Options, Summary};
use crate::MS;
use crate::context::Context;
use crate::fault::{Fault, Kind};
use crate::random::Random;
use crate::store::Store;
use crate::store_calls::{DEADLINE, RequestFate, show};
use crate::timeline::{ANY, Scheduled};
use cache_backend::OpErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{Answer, Ask, CourtesyMark, Decision, LocalSet, Request, Ticket, Trust, Verdict, Why};

/// More events than any world has.
const EVENTS: u64 = 1_000_000;

pub(super) struct World {
    seed: u64,
    options: Options,
    context: Context<Event>,
    store: Store,
    nodes: Vec<Node>,
    workers: Vec<Worker>,
    faults: Vec<Fault>,
    evidence: Evidence,
    horizon: Duration,
    park_bytes: usize,
    summary: Summary,
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
        let mut world = World {
            seed,
            options,
            store: Store::default(),
            nodes: (0..nodes).map(|_| Node::new(0)).collect(),
            workers: Vec::new(),
            faults,
            evidence: Evidence::default(),
            horizon: if random.percent(30) { Duration::from_millis(300) } else { Duration::from_secs(60) },
            park_bytes: if random.percent(20) { 4 * FRAME_BYTES as usize } else { 1 << 20 },
            summary: Summary::default(),
            context: Context::new(random, options.trace),
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
        while let Some(next) = self.context.advance() {
            self.summary.events += 1;
            self.handle(next);
            self.context.verdict()?;
            if self.summary.events > EVENTS {
                return Err("the world does not come to rest".to_owned());
            }
        }
        for node in 0..self.nodes.len() {
            if self.nodes[node].alive {
                self.check_at_rest(node);
            }
        }
        self.context.verdict()?;
        self.evidence.conclude(&self.faults, &mut self.summary)?;
        Ok(self.summary)
    }

    /// Arrivals, faults, and what others did.
    fn plan(&mut self, span: u64) {
        let count = self.options.ids + self.context.random.below(20);
        self.evidence = Evidence::of_ids(count);
        for id in 0..count {
            let first = self.context.random.between(0, span);
            // A Go node's value names no id: a slip could not be seen.
            let slips = self.faults.iter().any(|fault| fault.kind == Kind::Slip);
            if self.context.random.percent(4) && (self.marks() || !slips) {
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
            for at in self.context.random.copies(first) {
                self.arrive(at, worker, id);
            }
        }
    }

    fn arrive(&mut self, at: u64, worker: usize, id: usize) {
        // Whatever process serves that address then.
        self.schedule(at, worker, ANY, Event::Arrive { worker, id });
    }

    fn schedule(&mut self, at: u64, who: usize, incarnation: u32, event: Event) {
        self.context.timeline.push(at, who, incarnation, event);
    }

    /// For a worker, as it lives now.
    fn schedule_for(&mut self, at: u64, worker: usize, event: Event) {
        let incarnation = self.nodes[self.workers[worker].node].incarnation;
        self.schedule(at, worker, incarnation, event);
    }

    fn handle(&mut self, next: Scheduled<Event>) {
        match next.event {
            Event::Fault(index) => return self.inject(self.faults[index]),
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
        if node.paused_until > self.context.now {
            // The kernel keeps it for the process.
            let at = node.paused_until;
            return self.schedule(at, next.who, next.incarnation, next.event);
        }
        match next.event {
            Event::Arrive { worker, id } => self.receive(worker, id),
            Event::Timer { at } => self.wake(next.who, at),
            Event::Reply { connection, number, answer } => {
                self.reply(next.who, connection, number, *answer);
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
        let token = self.workers[worker].next_token();
        let mut verdicts = Vec::with_capacity(1);
        self.workers[worker].claims.claim(now, &[(key(id), token, FRAME_BYTES)], &mut verdicts);
        self.context.trace(|| format!("worker {worker} (node {node}) receives {id}: {verdicts:?}"));
        let copy = self.evidence.received(node, id, matches!(verdicts.first(), Some(Verdict::Seen)));
        self.workers[worker].keep(Copied { id, copy });
        match verdicts.first() {
            Some(&Verdict::Won(ticket)) => self.send_later(worker, token, ticket, Some(Why::Bypassed)),
            Some(Verdict::Wait) => {
                // The batch is built when the burst is over.
                let at = self.context.now + self.context.random.between(0, MS);
                self.wake_at(worker, at);
            }
            _ => {}
        }
        self.collect(worker);
    }

    fn send_later(&mut self, worker: usize, token: u64, ticket: Ticket, why: Option<Why>) {
        let random = &mut self.context.random;
        let delay = if random.percent(5) { random.between(0, 60 * MS) } else { random.between(50, 3 * MS) };
        self.schedule_for(self.context.now + delay, worker, Event::Emit { token, ticket, why });
    }

    fn emit(&mut self, worker: usize, token: u64, ticket: Ticket, why: Option<Why>) {
        let node = self.workers[worker].node;
        let now = self.instant(node);
        if !self.workers[worker].claims.may_send(now, ticket, || token) {
            self.context.trace(|| format!("worker {worker} is late with token {token} and asks again"));
            return self.pump(worker);
        }
        let Copied { id, copy } = self.workers[worker].copied(token);
        if self.nodes[node].refusing_until > self.context.now {
            self.context.trace(|| format!("worker {worker} cannot send {id}"));
            self.evidence.refused(id, copy);
            self.workers[worker].claims.failed(now, ticket);
            let random = &mut self.context.random;
            if random.percent(50) {
                let (to, after) = (random.below(self.workers.len()), random.between(MS, 200 * MS));
                self.arrive(self.context.now + after, to, id);
            }
        } else {
            self.context.trace(|| format!("worker {worker} emits {id} ({why:?})"));
            self.check_late(worker, id, why);
            self.evidence.emitted(id, copy, Emission { node, at: self.context.now, why });
            self.workers[worker].claims.sent(now, ticket);
            if self.marks() {
                let random = &mut self.context.random;
                let late = if random.percent(10) { 400 * MS } else { MS };
                let at = self.context.now + random.between(50, late);
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
        let late = self.context.now - built;
        let too_late = late > u64::try_from(LEASE.as_micros()).unwrap_or(0) / 2 + MS;
        if too_late && self.evidence.was_emitted_after(id, built) {
            let late = late / MS;
            self.context.violation(&format!(
                "id {id}: emitted {late} ms after its claim, although a sibling had taken over"
            ));
        }
    }

    // What others do.

    fn forward_elsewhere(&mut self, id: usize) {
        let at = self.context.now;
        if self.marks() {
            self.mark(id);
        } else {
            self.store.put_plain(at, &name_of(id), TTL);
        }
        self.evidence.emitted_elsewhere(id, at);
    }

    /// Whether a listener here marks what it sees: in one of eight worlds.
    fn marks(&self) -> bool {
        self.seed % 8 == 5
    }

    fn mark(&mut self, id: usize) {
        let now = self.context.now;
        if self.store.is_down(now) {
            return;
        }
        let mark = CourtesyMark { flow: 1, seconds: 1, number: 1, id: first_bytes(id) };
        self.store.put_mark(now, &name_of(id), &mark, TTL);
        self.context.trace(|| format!("a listener has seen {id}"));
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
            self.context.violation(&format!("worker {worker} parks more than {} bytes", self.park_bytes));
        }
    }

    /// Decisions, and the next timer.
    fn collect(&mut self, worker: usize) {
        while let Some(decision) = self.workers[worker].claims.next_decision() {
            match decision {
                Decision::Send { token, ticket, why } => self.send_later(worker, token, ticket, Some(why)),
                Decision::Suppress { token, why } => {
                    let Copied { id, copy } = self.workers[worker].copied(token);
                    self.context.trace(|| format!("worker {worker} lets {id} go ({why:?})"));
                    if !self.evidence.let_go(id, copy) {
                        self.context
                            .violation(&format!("id {id} is let go ({why:?}), but nobody has sent it"));
                    }
                }
            }
        }
        if let Some(next) = self.workers[worker].claims.next_timeout() {
            let step = self.nodes[self.workers[worker].node].clock_step;
            let next = next.saturating_duration_since(self.context.base());
            let next = u64::try_from(next.as_micros()).unwrap_or(u64::MAX);
            let late = self.context.random.between(10, 2 * MS);
            self.wake_at(worker, next.saturating_sub(step).max(self.context.now) + late);
        }
    }

    // Calls to the store.

    fn call(&mut self, worker: usize, request: Request) {
        let Request { id, ask, until } = request;
        let now = self.context.now;
        let number = self.workers[worker].calls.begin(now, id, &ask);
        self.context.trace(|| format!("worker {worker} asks #{number} {}", show(&ask)));
        let link = self.nodes[self.workers[worker].node].link;
        match link.request(now, &mut self.context.random) {
            RequestFate::Refused => {
                let kind = OpErrorKind::BreakerOpen;
                return self.schedule_for(now, worker, Event::Deadline { number, kind });
            }
            RequestFate::Lost => {}
            RequestFate::Lands(after) => {
                let connection = self.workers[worker].calls.connection;
                let ask = Box::new(ask);
                self.schedule_for(now + after, worker, Event::Execute { connection, number, ask });
            }
        }
        // Nobody waits longer than that.
        let wait = until.map_or(Duration::MAX, |until| {
            until.saturating_duration_since(self.instant(self.workers[worker].node))
        });
        let until = now + u64::try_from(wait.as_micros()).unwrap_or(u64::MAX).min(DEADLINE);
        self.schedule_for(until, worker, Event::Deadline { number, kind: OpErrorKind::Timeout });
    }

    fn execute(&mut self, worker: usize, incarnation: u32, connection: u32, number: u64, ask: &Ask) {
        let now = self.context.now;
        if self.store.is_down(now) {
            return;
        }
        let (evidence, mut lie) = (&mut self.evidence, None);
        let answer = self.store.execute(now, ask, |change| lie = lie.or(evidence.stored(change, id_of)));
        if let Some(id) = lie {
            self.context.violation(&format!("a record says that {id} is settled, but nobody has sent it"));
        }
        self.context.trace(|| format!("store carries out #{number} of worker {worker}: {answer:?}"));
        let link = self.nodes[self.workers[worker].node].link;
        if let Some(after) = link.reply(now, &mut self.context.random) {
            let answer = Box::new(answer);
            self.schedule(now + after, worker, incarnation, Event::Reply { connection, number, answer });
        }
    }

    fn reply(&mut self, worker: usize, connection: u32, number: u64, answer: Answer) {
        let calls = &mut self.workers[worker].calls;
        if calls.connection != connection {
            return;
        }
        let Some(answer) = calls.slip(answer) else { return self.drop_connection(worker) };
        let Some(request) = calls.find(number) else { return };
        let now = self.instant(self.workers[worker].node);
        let trust = self.workers[worker].claims.on_answer(now, request, answer);
        if trust == Trust::Lost {
            self.context.trace(|| format!("worker {worker} drops its connection"));
            self.drop_connection(worker);
        }
        self.pump(worker);
    }

    fn drop_connection(&mut self, worker: usize) {
        let now = self.instant(self.workers[worker].node);
        let Worker { calls, claims, .. } = &mut self.workers[worker];
        for request in calls.drop_connection() {
            claims.on_failure(now, request, OpErrorKind::Garbled);
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

    fn inject(&mut self, fault: Fault) {
        self.context.trace(|| format!("fault: {fault:?}"));
        let node = &mut self.nodes[fault.node];
        match fault.kind {
            Kind::Crash { restart } => self.crash(fault.node, restart),
            Kind::Pause => node.paused_until = node.paused_until.max(fault.end),
            Kind::Drain => self.drain(fault.node),
            Kind::RefusedSends => node.refusing_until = fault.end,
            Kind::Partition { .. } | Kind::LateReplies { .. } | Kind::LateLanding { .. } | Kind::Breaker => {
                node.link.inject(&fault);
            }
            Kind::ClockStep if self.options.mutation == Some(Mutation::LeaseByWallClock) => {
                node.clock_step += 700 * MS;
            }
            Kind::ClockStep => {}
            // Faults of links and nodes that this world does not have.
            Kind::Shaped { .. } | Kind::LinkLost { .. } => {}
            Kind::Deaf | Kind::Loss { .. } | Kind::ConsumerBreaks | Kind::ConsumerStalls => {}
            Kind::Slip => {
                let slipping = |worker: &&mut Worker| worker.node == fault.node;
                self.workers.iter_mut().filter(slipping).for_each(|worker| worker.calls.slipping = true);
            }
            Kind::Evict => self.store.evict(&mut self.context.random),
            Kind::Failover => {
                let Context { now, random, .. } = &mut self.context;
                for (_, id) in self.store.fail_over(*now, fault.end, random) {
                    self.evidence.unreleased(id_of(id));
                }
            }
        }
    }

    fn crash(&mut self, node: usize, restart: Option<u64>) {
        if !self.nodes[node].alive {
            return;
        }
        self.nodes[node].leave();
        self.evidence.died(node);
        if let Some(after) = restart {
            self.schedule(self.context.now + after, node, ANY, Event::Restart);
        }
    }

    fn restart(&mut self, node: usize) {
        if self.nodes[node].alive {
            return;
        }
        self.context.trace(|| format!("node {node} is back"));
        self.nodes[node] = Node::new(self.nodes[node].incarnation);
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
        names().end_notice(owner, &mut name);
        self.store.put_ended(self.context.now, &name, owner, TTL);
        self.context.trace(|| format!("the process of {owner:016x} has ended"));
    }

    /// An orderly stop: nothing new is accepted, what waits is sent, the process ends a little later.
    fn drain(&mut self, node: usize) {
        if !self.nodes[node].alive || self.nodes[node].paused_until > self.context.now {
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
        self.schedule(self.context.now + 1_000 * MS, node, incarnation, Event::Exit);
    }

    fn exit(&mut self, node: usize, incarnation: u32) {
        if self.nodes[node].incarnation != incarnation {
            return;
        }
        if self.nodes[node].paused_until > self.context.now {
            return self.schedule(self.context.now + 1_000 * MS, node, incarnation, Event::Exit);
        }
        self.check_at_rest(node);
        self.nodes[node].leave();
    }

    fn check_at_rest(&mut self, node: usize) {
        for (number, worker) in self.workers.iter().enumerate() {
            if worker.node == node && worker.claims.waiting() > 0 {
                let waiting = worker.claims.waiting();
                self.context.violation(&format!("{waiting} frames wait for ever at worker {number}"));
            }
        }
    }

    // Making things.

    fn local(&mut self) -> Arc<LocalSet> {
        let base = self.context.base();
        Arc::new(LocalSet::starting_at(64, self.horizon, self.context.random.next(), base))
    }

    fn worker(&mut self, node: usize, local: &Arc<LocalSet>, seed: Option<u64>) -> Worker {
        let random = &mut self.context.random;
        Worker::new(node, local, self.park_bytes, seed, self.options.mutation, random)
    }

    fn instant(&self, node: usize) -> Instant {
        self.context.instant() + Duration::from_micros(self.nodes[node].clock_step)
    }
}
