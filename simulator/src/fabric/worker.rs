//! A worker of either role, as far as both are alike: its place, its timer, the middle of a round, and its calls to the
//! store from the asking to the answer.

use super::environment::Environment;
use super::event::Event;
use super::node::Node;
use crate::MS;
use crate::context::Context;
use crate::store_calls::{ANSWER_TIMEOUT, Calls, DEADLINE, RequestFate, show};
use crate::timeline::Scheduled;
use cache_backend::OpErrorKind;
use std::time::Instant;
use txidset::{Answer, Ask, ClaimStats, Claims, Request, Trust, Why};

/// Counted reasons to let a frame through undecided: a bound was reached, or the process is stopping.
const BOUNDS: [Why; 3] = [Why::ParkingFull, Why::Bypassed, Why::Draining];

/// See the module text.
pub(super) struct Worker {
    /// Its number: those of proxies come first.
    pub(super) who: usize,
    pub(super) node: usize,
    /// Where its claims are about.
    pub(super) gate: usize,
    pub(super) calls: Calls,
    timer: Option<u64>,
    /// In the middle of a round, until then.
    pub(super) busy_until: Option<u64>,
    /// Answers of the store that came meanwhile.
    answers: Vec<Scheduled<Event>>,
}

impl Worker {
    pub(super) fn new(who: usize, node: usize, gate: usize) -> Worker {
        Worker {
            who,
            node,
            gate,
            calls: Calls::default(),
            timer: None,
            busy_until: None,
            answers: Vec::new(),
        }
    }

    /// The same place in the next life of its process.
    pub(super) fn reborn(&mut self) -> Worker {
        let answers = std::mem::take(&mut self.answers);
        Worker { answers, ..Worker::new(self.who, self.node, self.gate) }
    }

    /// For this worker, as it lives now.
    pub(super) fn schedule(&self, context: &mut Context<Event>, node: &Node, at: u64, event: Event) {
        context.timeline.push(at, self.who, node.incarnation, event);
    }

    pub(super) fn wake_at(&mut self, context: &mut Context<Event>, node: &Node, at: Instant) {
        // Timers are late, a little.
        let at = context.micros(at).max(context.now) + context.random.between(10, 2 * MS);
        if self.timer.is_none_or(|timer| timer > at) {
            self.timer = Some(at);
            self.schedule(context, node, at, Event::Timer { at });
        }
    }

    /// Whether a timer that rings is the one that was set last.
    pub(super) fn take_timer(&mut self, at: u64) -> bool {
        let current = self.timer == Some(at);
        if current {
            self.timer = None;
        }
        current
    }

    // The middle of a round.

    /// Whether a round that asked the store goes on at once, as it mostly does; else that is scheduled.
    pub(super) fn goes_on(&mut self, context: &mut Context<Event>, node: &Node) -> bool {
        let step = match context.random.below(100) {
            0..=5 => context.random.between(0, 15 * MS),
            6..=20 => context.random.between(10, MS),
            _ => return true,
        };
        let at = context.now + step;
        self.busy_until = Some(at);
        self.schedule(context, node, at, Event::Resume);
        false
    }

    /// A round whose socket is full goes on when there is room, until then at the latest.
    pub(super) fn goes_on_by(&mut self, context: &mut Context<Event>, node: &Node, until: Instant) {
        let most = context.micros(until).max(context.now + 2);
        let at = context.random.between(context.now + 1, most + 1);
        self.busy_until = Some(at);
        self.schedule(context, node, at, Event::Resume);
    }

    /// Keeps an answer for the end of the round.
    pub(super) fn keep_answer(&mut self, answer: Scheduled<Event>) {
        self.answers.push(answer);
    }

    /// Answers that came meanwhile go before everything else.
    pub(super) fn take_answers(&mut self, context: &mut Context<Event>) {
        for answer in self.answers.drain(..) {
            context.timeline.push_first(context.now, answer);
        }
    }

    // Calls to the store.

    /// Carries forward what the worker's claims want.
    pub(super) fn pump(&mut self, environment: &mut Environment, node: &Node, claims: &mut Claims) {
        let now = environment.context.instant();
        claims.on_timeout(now);
        while let Some(request) = claims.poll_request(now) {
            self.call(environment, node, request);
        }
    }

    fn call(&mut self, environment: &mut Environment, node: &Node, request: Request) {
        let Environment { context, evidence, .. } = environment;
        let Request { id, ask, until } = request;
        let (who, now) = (self.who, context.now);
        let number = self.calls.begin(now, id, &ask);
        context.trace(|| format!("worker {who} asks #{number} {}", show(&ask)));
        evidence.asked(self.gate, self.node, now, &crate::store::claimed_ids(&ask));
        // Nobody waits longer than that.
        let longest = if matches!(ask, Ask::Claim { .. }) { ANSWER_TIMEOUT } else { DEADLINE };
        let until = until.map_or(u64::MAX, |until| context.micros(until)).min(now + longest);
        match node.link.request(now, &mut context.random) {
            RequestFate::Refused => {
                let kind = OpErrorKind::BreakerOpen;
                return self.schedule(context, node, now, Event::Deadline { number, kind });
            }
            RequestFate::Lost => {}
            RequestFate::Lands(after) => {
                let (connection, ask) = (self.calls.connection, Box::new(ask));
                self.schedule(context, node, now + after, Event::Execute { connection, number, ask });
            }
        }
        self.schedule(context, node, until, Event::Deadline { number, kind: OpErrorKind::Timeout });
    }

    /// A request has come to the store, from the life of the process that is named.
    pub(super) fn execute(
        &self,
        environment: &mut Environment,
        node: &Node,
        incarnation: u32,
        (connection, number): (u32, u64),
        ask: &Ask,
    ) {
        let Environment { context, store, evidence, .. } = environment;
        if store.is_down(context.now) {
            return;
        }
        let (who, gate) = (self.who, self.gate);
        let mut lie = None;
        let answer = store.execute(context.now, ask, |change| {
            lie = lie.or(evidence.stored(who, gate, &self.calls, change));
        });
        if let Some(id) = lie {
            context.violation(&format!(
                "a record says that {id} is settled at gate {gate}, but it has not passed"
            ));
        }
        context.trace(|| format!("store carries out #{number} of worker {who}: {answer:?}"));
        if let Some(after) = node.link.reply(context.now, &mut context.random) {
            let answer = Box::new(answer);
            let event = Event::Reply { connection, number, answer };
            context.timeline.push(context.now + after, who, incarnation, event);
        }
    }

    /// An answer has come; `false`: to a question that nobody asks any more.
    pub(super) fn reply(
        &mut self,
        context: &mut Context<Event>,
        claims: Option<&mut Claims>,
        (connection, number): (u32, u64),
        answer: Answer,
    ) -> bool {
        if self.calls.connection != connection {
            return false;
        }
        let now = context.instant();
        let Some(answer) = self.calls.slip(answer) else {
            self.drop_connection(now, claims);
            return true;
        };
        let Some(request) = self.calls.take_open(number) else { return false };
        let Some(claims) = claims else { return true };
        if claims.on_answer(now, request, answer) == Trust::Lost {
            context.trace(|| format!("worker {} drops its connection", self.who));
            self.drop_connection(now, Some(claims));
        }
        true
    }

    fn drop_connection(&mut self, now: Instant, claims: Option<&mut Claims>) {
        let failed = self.calls.drop_connection();
        if let Some(claims) = claims {
            failed.into_iter().for_each(|request| claims.on_failure(now, request, OpErrorKind::Garbled));
        }
    }

    /// The time of a call is over; `false`: it was answered.
    pub(super) fn expire(
        &mut self,
        context: &mut Context<Event>,
        claims: Option<&mut Claims>,
        number: u64,
        kind: OpErrorKind,
    ) -> bool {
        let now = context.instant();
        let Some(request) = self.calls.take_open(number) else { return false };
        if let Some(claims) = claims {
            claims.on_failure(now, request, kind);
        }
        true
    }
}

/// Frames that were let through undecided.
pub(super) fn undecided(stats: &ClaimStats) -> u64 {
    BOUNDS.iter().map(|&why| stats.by(why).value()).sum()
}
