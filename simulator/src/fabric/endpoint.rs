//! The retry endpoints: their real stores, plans, replies and announcements; rounds and sockets are left out, they answer at
//! once. The first lives for ever; the second, where there is one, may die and come back with nothing.

use super::mutation::Mutation;
use super::world::{Event, FABRIC, World};
use crate::MS;
use crate::timeline::ANY;
use frame::digest::{Digest, ENTRY, HEADER, RELAYED, encode_flagged};
use frame::{Advert, GroupIndex, Nack, Response};
use listener_egress::pipeline::Door;
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::advertise::{ANNOUNCE_EVERY, DIGESTS_AT_ONCE, FLOWS_OF_A_DIGEST, Schedule};
use retry_endpoint::pipeline::answer::{Plan, Policy, Request, Ways};
use retry_endpoint::pipeline::limit::{Rate, RepairLimits, RepairRates, Trusted};
use retry_endpoint::pipeline::store::{Lifetimes, Limits, Store};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
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
fn address_of(number: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0xe, u16::try_from(number).unwrap_or(0))
}

pub(super) struct Endpoint {
    pub(super) alive: bool,
    address: SocketAddr,
    store: Store,
    limits: Option<RepairLimits>,
    plan: Plan,
    schedule: Schedule,
    /// Flows that were announced.
    pub(super) announced: u64,
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
            alive: true,
            address: SocketAddr::new(IpAddr::V6(address_of(number)), PORT),
            store,
            limits: Some(limits),
            plan: Plan::default(),
            schedule: Schedule::new(Duration::from_secs(60), now),
            announced: 0,
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        LIMITS.with_borrow_mut(|pool| pool.extend(self.limits.take()));
    }
}

impl World {
    /// An endpoint hears a frame of a group.
    pub(super) fn keep(&mut self, number: usize, group: GroupIndex, bytes: &[u8]) {
        let now = self.instant();
        let endpoint = &mut self.endpoints[number];
        if let Ok(frame) = admit(bytes)
            && endpoint.alive
        {
            endpoint.store.put(&frame, group, now);
        }
    }

    /// An endpoint hears a digest.
    pub(super) fn overhear(&mut self, number: usize, bytes: &[u8]) {
        let now = self.instant();
        let endpoint = &mut self.endpoints[number];
        if let Ok(digest) = Digest::decode(bytes)
            && endpoint.alive
            && !digest.is_relayed()
        {
            for entry in digest.entries() {
                endpoint.store.heard_of(entry.hash_key, entry.highest, now);
            }
        }
    }

    /// Data first, then the reply.
    pub(super) fn answer(&mut self, number: usize, listener: usize, nack: &[u8; Nack::LEN]) {
        let now = self.instant();
        let policy = Policy {
            ways: Ways { multicast: true, unicast: false },
            dedup_window: Duration::from_millis(10),
        };
        let source = self.listeners[listener].address;
        let Ok(request) = Request::read(nack, source, None, 256) else { return };
        let endpoint = &mut self.endpoints[number];
        let Some(mut limits) = endpoint.limits.take_if(|_| endpoint.alive) else { return };
        endpoint.plan.make(&request, &mut endpoint.store, &mut limits, &policy, now);
        endpoint.limits = Some(limits);
        let bytes_of = |store: &Store, place| store.bytes(place).into();
        let repairs: Vec<(GroupIndex, Rc<[u8]>)> = endpoint
            .plan
            .multicast
            .iter()
            .map(|repair| (repair.group, bytes_of(&endpoint.store, &repair.place)))
            .collect();
        endpoint.plan.multicast_sent(usize::MAX, &mut endpoint.store, now);
        let reply = endpoint.plan.done.reply(&request, true);
        let from = endpoint.address;
        self.trace(|| {
            let Nack { hash_key, start, end, .. } = request.nack;
            let (first, last) = (start.0, end.0);
            format!("endpoint {number} repairs {} of {:016x}:{first} to {last}", repairs.len(), hash_key.0)
        });
        for (group, bytes) in &repairs {
            self.reach_endpoints(*group, bytes);
            self.multicast(from, bytes);
        }
        if let Some(reply) = reply {
            let mut bytes = [0; Response::MAX_LEN];
            let len = reply.encode(&mut bytes);
            self.unicast(listener, Door::Replies, from, &bytes[..len].into());
        }
    }

    /// Says where it is, and of which flows nobody else speaks.
    pub(super) fn beacon(&mut self, number: usize) {
        let now = self.instant();
        let endpoint = &mut self.endpoints[number];
        if endpoint.alive {
            if endpoint.schedule.due(now) {
                let advert = advert_of(number);
                for listener in 0..self.listeners.len() {
                    self.announce(listener, Event::Advert(advert));
                }
            }
            if self.terms.announces {
                self.announce_silent(number);
            }
        }
        let endpoint = &self.endpoints[number];
        let mut next = self.micros(endpoint.schedule.next()).max(self.now + MS);
        if let Some(at) = endpoint.store.next_announcement().filter(|_| self.terms.announces) {
            let pause = u64::try_from(ANNOUNCE_EVERY.as_micros()).unwrap_or(0);
            next = next.min(self.micros(at).max(self.now + pause));
        }
        if self.beacons[number] != Some(next) {
            self.beacons[number] = Some(next);
            self.timeline.push(next, number, ANY, Event::Beacon { at: next });
        }
    }

    /// An endpoint has news: when does it speak next?
    pub(super) fn beacon_again(&mut self, number: usize) {
        let Some(at) = self.endpoints[number].store.next_announcement() else { return };
        let at = self.micros(at).max(self.now + MS);
        if self.terms.announces && self.beacons[number].is_none_or(|next| next > at) {
            self.beacons[number] = Some(at);
            self.timeline.push(at, number, ANY, Event::Beacon { at });
        }
    }

    fn announce_silent(&mut self, number: usize) {
        let now = self.instant();
        let endpoint = &mut self.endpoints[number];
        let mut entries = Vec::new();
        endpoint.store.announce(now, DIGESTS_AT_ONCE * FLOWS_OF_A_DIGEST, &mut entries);
        if entries.is_empty() {
            return;
        }
        endpoint.announced += entries.len() as u64;
        let from = endpoint.address;
        for entries in entries.chunks(FLOWS_OF_A_DIGEST) {
            let mut datagram = [0; HEADER + FLOWS_OF_A_DIGEST * ENTRY];
            let (length, _) = encode_flagged(RELAYED, entries, &mut datagram);
            self.trace(|| format!("endpoint {number} announces {entries:?}"));
            self.send_digest(from, &datagram[..length].into());
        }
    }

    /// The second endpoint dies; what it held is gone.
    pub(super) fn endpoint_dies(&mut self, number: usize, restart: Option<u64>) {
        self.trace(|| format!("endpoint {number} dies"));
        self.endpoints[number].alive = false;
        if let Some(after) = restart {
            self.timeline.push(self.now + after, number, ANY, Event::EndpointReturns);
        }
    }

    pub(super) fn endpoint_returns(&mut self, number: usize) {
        self.trace(|| format!("endpoint {number} is back"));
        let announced = self.endpoints[number].announced;
        let (seed, mutation) = (self.random.next(), self.options.mutation);
        self.endpoints[number] = Endpoint::new(number, seed, mutation, self.instant());
        self.endpoints[number].announced = announced;
        self.beacon(number);
    }

    /// The endpoint of an address.
    pub(super) fn endpoint_at(&self, address: SocketAddr) -> Option<usize> {
        self.endpoints.iter().position(|endpoint| endpoint.address == address)
    }
}

/// What it says.
fn advert_of(number: usize) -> Advert {
    Advert {
        scope: 5,
        nack_addr: address_of(number),
        nack_port: PORT,
        tier: 0,
        preference: 128,
        interval_secs: 60,
        flags: Advert::MULTICAST | Advert::RANGES,
        instance_id: 7 + u32::try_from(number).unwrap_or(0),
        max_range: 256,
    }
}

/// The group of an address.
pub(super) fn group_of(destination: SocketAddr) -> Option<GroupIndex> {
    FABRIC.index_of(destination.ip())
}
