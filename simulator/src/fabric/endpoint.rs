//! The retry endpoints: their real stores, plans, replies and announcements; rounds and sockets are left out, they answer at
//! once. The first lives for ever; the second, where there is one, may die and come back with nothing.

use super::environment::Environment;
use super::event::Event;
use super::mutation::Mutation;
use crate::MS;
use crate::context::Context;
use crate::timeline::ANY;
use frame::digest::{Digest, ENTRY, HEADER, RELAYED, encode_flagged};
use frame::{Advert, GroupIndex, Nack, Response};
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::advertise::{ANNOUNCE_EVERY, DIGESTS_AT_ONCE, FLOWS_OF_A_DIGEST, Schedule};
use retry_endpoint::pipeline::answer::{Plan, Policy, Request, Ways};
use retry_endpoint::pipeline::limit::{Rate, RepairLimits, RepairRates, Trusted};
use retry_endpoint::pipeline::store::{Lifetimes, Limits, Store};
use std::cell::RefCell;
use std::net::{Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

const PORT: u16 = 9300;

/// More than any world asks for, so that what one world took from a bucket means nothing to the next.
const PLENTY: Rate = Rate { rate: 1e12, burst: 1e15 };

thread_local! {
    /// Tables of fixed size that are dear to make: one world hands them to the next.
    static LIMITS: RefCell<Vec<RepairLimits>> = const { RefCell::new(Vec::new()) };
}

/// Where an endpoint answers from.
pub(super) fn address_of(number: usize) -> SocketAddr {
    SocketAddr::new(ip_of(number).into(), PORT)
}

fn ip_of(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xe, u16::try_from(number).unwrap_or(0))
}

pub(super) struct Endpoint {
    number: usize,
    alive: bool,
    store: Store,
    limits: Option<RepairLimits>,
    plan: Plan,
    schedule: Schedule,
    /// Flows that were announced.
    pub(super) announced: u64,
    /// When it speaks next.
    beacon: Option<u64>,
}

impl Endpoint {
    pub(super) fn new(number: usize, seed: u64, mutation: Option<Mutation>, now: Instant) -> Endpoint {
        let rates = RepairRates { group: PLENTY, bytes: PLENTY };
        let limits = LIMITS.with_borrow_mut(Vec::pop);
        let limits = limits.unwrap_or_else(|| RepairLimits::new(rates, Trusted::new(Vec::new()), 1, now));
        let store = Limits { bytes: Limits::LEAST, flows: 1_024 };
        let mut store = Store::new(store, Lifetimes::default(), true, seed, now);
        if let Some(Mutation::Endpoint(mutation)) = mutation {
            store.mutate(mutation);
        }
        Endpoint {
            number,
            alive: true,
            store,
            limits: Some(limits),
            plan: Plan::default(),
            schedule: Schedule::new(Duration::from_secs(60), now),
            announced: 0,
            beacon: None,
        }
    }

    /// It hears a frame of a group.
    pub(super) fn receive(&mut self, environment: &mut Environment, group: GroupIndex, bytes: &[u8]) {
        if let Ok(frame) = admit(bytes)
            && self.alive
        {
            self.store.put(&frame, group, environment.context.instant());
        }
        // It may have something to say earlier than it thought.
        let Environment { context, config, .. } = environment;
        let Some(at) = self.store.next_announcement() else { return };
        let at = context.micros(at).max(context.now + MS);
        if config.announces && self.beacon.is_none_or(|next| next > at) {
            self.speak_at(context, at);
        }
    }

    /// It hears a digest.
    pub(super) fn receive_digest(&mut self, now: Instant, bytes: &[u8]) {
        if let Ok(digest) = Digest::decode(bytes)
            && self.alive
            && !digest.is_relayed()
        {
            for entry in digest.entries() {
                self.store.heard_of(entry.hash_key, entry.highest, now);
            }
        }
    }

    /// Data first, then the reply.
    pub(super) fn answer(
        &mut self,
        environment: &mut Environment,
        (listener, source): (usize, SocketAddr),
        nack: &[u8; Nack::LEN],
    ) {
        let Environment { context, network, .. } = environment;
        let now = context.instant();
        let policy = Policy {
            ways: Ways { multicast: true, unicast: false },
            dedup_window: Duration::from_millis(10),
        };
        let Ok(request) = Request::read(nack, source, None, 256) else { return };
        let Some(mut limits) = self.limits.take_if(|_| self.alive) else { return };
        self.plan.make(&request, &mut self.store, &mut limits, &policy, now);
        self.limits = Some(limits);
        let repairs: Vec<(GroupIndex, Rc<[u8]>)> = self
            .plan
            .multicast
            .iter()
            .map(|repair| (repair.group, self.store.bytes(&repair.place).into()))
            .collect();
        self.plan.multicast_sent(usize::MAX, &mut self.store, now);
        let reply = self.plan.done.reply(&request, true);
        let (number, from) = (self.number, address_of(self.number));
        context.trace(|| {
            let Nack { hash_key, start, end, .. } = request.nack;
            let (first, last) = (start.0, end.0);
            format!("endpoint {number} repairs {} of {:016x}:{first} to {last}", repairs.len(), hash_key.0)
        });
        for (group, bytes) in &repairs {
            network.multicast(context, from, *group, bytes);
        }
        if let Some(reply) = reply {
            let mut bytes = [0; Response::MAX_LEN];
            let len = reply.encode(&mut bytes);
            network.reply(context, listener, from, &bytes[..len].into());
        }
    }

    /// A beacon is due, if it is the one that was planned last.
    pub(super) fn beacon_due(&mut self, environment: &mut Environment, at: u64) {
        if self.beacon == Some(at) {
            self.speak(environment);
        }
    }

    /// Says where it is, and of which flows nobody else speaks.
    pub(super) fn speak(&mut self, environment: &mut Environment) {
        let now = environment.context.instant();
        let announces = environment.config.announces;
        if self.alive {
            if self.schedule.due(now) {
                let advert = advert_of(self.number);
                environment.network.announce(&mut environment.context, || Event::Advert(advert));
            }
            if announces {
                self.announce_silent(environment);
            }
        }
        let context = &mut environment.context;
        let mut next = context.micros(self.schedule.next()).max(context.now + MS);
        if let Some(at) = self.store.next_announcement().filter(|_| announces) {
            let pause = u64::try_from(ANNOUNCE_EVERY.as_micros()).unwrap_or(0);
            next = next.min(context.micros(at).max(context.now + pause));
        }
        if self.beacon != Some(next) {
            self.speak_at(context, next);
        }
    }

    fn speak_at(&mut self, context: &mut Context<Event>, at: u64) {
        self.beacon = Some(at);
        context.timeline.push(at, self.number, ANY, Event::Beacon { at });
    }

    fn announce_silent(&mut self, environment: &mut Environment) {
        let Environment { context, network, evidence, .. } = environment;
        let mut entries = Vec::new();
        self.store.announce(context.instant(), DIGESTS_AT_ONCE * FLOWS_OF_A_DIGEST, &mut entries);
        self.announced += entries.len() as u64;
        for entries in entries.chunks(FLOWS_OF_A_DIGEST) {
            let mut datagram = [0; HEADER + FLOWS_OF_A_DIGEST * ENTRY];
            let (length, _) = encode_flagged(RELAYED, entries, &mut datagram);
            context.trace(|| format!("endpoint {} announces {entries:?}", self.number));
            let bytes = &datagram[..length];
            evidence.check_digest(context, bytes);
            network.digest(context, address_of(self.number), &bytes.into());
        }
    }

    /// It dies; what it held is gone.
    pub(super) fn die(&mut self, context: &mut Context<Event>, restart: Option<u64>) {
        context.trace(|| format!("endpoint {} dies", self.number));
        self.alive = false;
        if let Some(after) = restart {
            context.timeline.push(context.now + after, self.number, ANY, Event::EndpointReturns);
        }
    }

    /// It is back, with nothing.
    pub(super) fn restart(&mut self, environment: &mut Environment) {
        let Environment { context, mutation, .. } = environment;
        context.trace(|| format!("endpoint {} is back", self.number));
        let (seed, now) = (context.random.next(), context.instant());
        let next = Endpoint::new(self.number, seed, *mutation, now);
        let before = std::mem::replace(self, next);
        (self.announced, self.beacon) = (before.announced, before.beacon);
        self.speak(environment);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        LIMITS.with_borrow_mut(|pool| pool.extend(self.limits.take()));
    }
}

/// What it says.
fn advert_of(number: usize) -> Advert {
    Advert {
        scope: 5,
        nack_addr: ip_of(number),
        nack_port: PORT,
        tier: 0,
        preference: 128,
        interval_secs: 60,
        flags: Advert::MULTICAST | Advert::RANGES,
        instance_id: 7 + u32::try_from(number).unwrap_or(0),
        max_range: 256,
    }
}
