//! A world: its parts, and what happens to them in order of time.

use super::Options;
use super::endpoint::{self, Endpoint};
use super::environment::Environment;
use super::event::Event;
use super::evidence::Evidence;
use super::fleet::Fleet;
use super::kernel::Refusal;
use super::listener;
use super::network::Network;
use super::plan::WorldPlan;
use super::summary::Summary;
use super::verdict;
use crate::MS;
use crate::context::Context;
use crate::fault::{Fault, Kind};
use crate::random::Random;
use crate::store::Store;
use crate::timeline::{ANY, Scheduled};

/// How often somebody looks whether all is done.
const LOOK: u64 = 50 * MS;
/// What is not done so long after the last arrival and fault is never done: repairs that get lost again and again are asked
/// for every two seconds, for 60.
const NEVER: u64 = 55_000 * MS;
/// What nobody can have heard of is not waited for longer than probes are sent.
const PROBES: u64 = 9_000 * MS;
/// More events than any world has.
const EVENTS: u64 = 300_000;

/// See [`super`].
pub(super) struct World {
    environment: Environment,
    fleet: Fleet,
    endpoints: Vec<Endpoint>,
    /// Nothing is planned after it.
    planned_until: u64,
    over: bool,
    summary: Summary,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> World {
        let mut random = Random::new(seed);
        let plan = WorldPlan::draw(seed, &options, &mut random);
        let context = Context::new(random, options.trace);
        let config = plan.config;
        let endpoints: Vec<Endpoint> = (0..config.endpoints.count)
            .map(|number| Endpoint::new(number, &config, seed, options.mutation, context.base()))
            .collect();
        let network = Network::new(
            plan.rates,
            plan.proxies * plan.workers,
            (plan.proxies..plan.nodes()).map(listener::address_of).collect(),
            (0..config.endpoints.count).map(endpoint::address_of).collect(),
        );
        let mut leases = vec![config.listener.lease; 1 + plan.consumers()];
        leases[0] = config.proxy.lease;
        let mut environment = Environment {
            context,
            network,
            store: Store::default(),
            config,
            evidence: Evidence::new(plan.first, plan.ids, &leases, plan.faults.clone()),
            mutation: options.mutation,
        };
        let fleet = Fleet::start(&mut environment, &plan);
        let planned_until = plan.schedule(&mut environment.context);
        let summary = Summary { counted: u64::from(plan.counts()), ..Summary::default() };
        World { environment, fleet, endpoints, planned_until, over: false, summary }
    }

    pub(super) fn run(mut self) -> Result<Summary, String> {
        self.environment.context.timeline.push(self.planned_until, 0, ANY, Event::DueCheck);
        for endpoint in &mut self.endpoints {
            endpoint.advertise(&mut self.environment);
        }
        while let Some(next) = self.environment.context.advance() {
            self.summary.events += 1;
            self.handle(next);
            if self.summary.events > EVENTS {
                self.environment.context.violation("the world does not come to rest");
            }
            self.environment.context.verdict()?;
            if self.over {
                break;
            }
        }
        verdict::conclude(&mut self.fleet, &mut self.environment, &mut self.summary);
        self.environment.context.verdict()?;
        self.summary.announced = self.endpoints.iter().map(|endpoint| endpoint.announced).sum();
        Ok(self.summary)
    }

    /// What needs no process, or one in any state, happens here; all else to the fleet.
    fn handle(&mut self, next: Scheduled<Event>) {
        let World { environment, fleet, endpoints, .. } = self;
        let who = next.who;
        match next.event {
            Event::Fault(index) => self.inject(self.environment.evidence.faults[index]),
            Event::Restart => fleet.restart(environment, who),
            Event::Decide => fleet.decide(environment, who, next.incarnation),
            Event::Exit => fleet.exit(environment, who, next.incarnation),
            Event::Execute { .. } => fleet.execute(environment, &next),
            Event::EndpointFrame { group, bytes } => {
                endpoints[who].receive(&mut environment.context, group, bytes);
            }

            Event::EndpointDigest(bytes) => endpoints[who].receive_digest(&mut environment.context, &bytes),
            Event::Request { from, nack } => {
                endpoints[who].receive_request(&mut environment.context, from, &nack);
            }
            Event::EndpointRound { at } => endpoints[who].round(environment, at),
            Event::Advertise { at } => endpoints[who].advertise_at(environment, at),
            Event::EndpointDies { restart } => endpoints[who].die(&mut environment.context, restart),
            Event::EndpointReturns => endpoints[who].restart(environment),
            Event::Consume => self.consume(who),
            Event::Acknowledged { number, read } => fleet.listeners[who].stream.acknowledged(number, read),
            Event::DueCheck => self.look(),
            _ => fleet.happen(environment, next),
        }
    }

    /// Bytes come to the consumer of a listener.
    fn consume(&mut self, listener: usize) {
        let World { environment, fleet, .. } = self;
        let context = &mut environment.context;
        let stalled_until = fleet.consumers[fleet.listeners[listener].consumer].stalled_until;
        if stalled_until > context.now {
            return context.timeline.push(stalled_until, listener, ANY, Event::Consume);
        }
        fleet.listeners[listener].consume(environment);
    }

    /// Somebody looks whether all is done.
    fn look(&mut self) {
        let World { environment, fleet, planned_until, .. } = self;
        let now = environment.context.now;
        fleet.check_open_claims(&mut environment.context);
        let late = now > *planned_until + PROBES;
        if verdict::is_done(fleet, environment, late) || now > *planned_until + NEVER {
            self.over = true;
        } else {
            environment.context.timeline.push(now + LOOK, 0, ANY, Event::DueCheck);
        }
    }

    /// A fault strikes a node, or what is around it.
    fn inject(&mut self, fault: Fault) {
        let World { environment, fleet, .. } = self;
        let context = &mut environment.context;
        context.trace(|| format!("fault: {fault:?}"));
        let refusal = Refusal::ALL[context.random.below(Refusal::ALL.len())];
        let listener = fleet.listener_at(fault.node);
        let node = &mut fleet.nodes[fault.node];
        match (fault.kind, listener) {
            (Kind::Crash { restart }, _) => fleet.crash(environment, fault.node, restart),
            (Kind::Pause, _) => node.paused_until = node.paused_until.max(fault.end),
            (Kind::Drain, _) => fleet.drain(environment, fault.node),
            (Kind::RefusedSends, _) => node.refusing = (fault.end, refusal),
            (Kind::Shaped { frames }, _) => node.shaped = (fault.end, frames),
            (Kind::Partition { .. } | Kind::LateReplies { .. }, _) => node.link.inject(&fault),
            (Kind::LateLanding { .. } | Kind::Breaker, _) => node.link.inject(&fault),
            (Kind::Slip, _) => fleet.slip(fault.node),
            (Kind::Evict, _) => environment.store.evict(&mut context.random),
            (Kind::Failover, _) => {
                let undone = environment.store.fail_over(context.now, fault.end, &mut context.random);
                environment.evidence.unreleased(undone);
            }
            (Kind::Deaf, Some(listener)) => environment.network.deafen(listener, fault.end),
            (Kind::Loss { percent }, Some(listener)) => {
                environment.network.lose(listener, fault.end, percent);
            }
            (Kind::ConsumerBreaks, Some(listener)) if node.alive => {
                fleet.listeners[listener].break_connection(environment, node);
            }
            (Kind::ConsumerStalls, Some(listener)) => {
                let consumer = &mut fleet.consumers[fleet.listeners[listener].consumer];
                consumer.stalled_until = fault.end.max(consumer.stalled_until);
            }
            // No clock on the wall here; and faults of listeners strike no proxy.
            _ => {}
        }
    }
}
