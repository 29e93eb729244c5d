//! The retry endpoint: its real store, plans and replies; rounds and sockets are left out, it answers at once.

use super::world::{Event, FABRIC, World};
use crate::MS;
use crate::timeline::ANY;
use frame::{Advert, GroupIndex, Nack, Response};
use listener_egress::pipeline::Door;
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::advertise::Schedule;
use retry_endpoint::pipeline::answer::{Plan, Policy, Request, Ways};
use retry_endpoint::pipeline::limit::{Rate, RepairLimits, RepairRates, Trusted};
use retry_endpoint::pipeline::store::{Lifetimes, Limits, Store};
use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xe);
const PORT: u16 = 9300;

/// Where it answers from.
pub(super) const ENDPOINT: SocketAddr = SocketAddr::new(IpAddr::V6(ADDRESS), PORT);

/// More than any world asks for, so that what one world took from a bucket means nothing to the next.
const PLENTY: Rate = Rate { rate: 1e12, burst: 1e15 };

thread_local! {
    /// Tables of fixed size that are dear to make: one world hands them to the next.
    static LIMITS: RefCell<Option<RepairLimits>> = const { RefCell::new(None) };
}

pub(super) struct Endpoint {
    store: Store,
    limits: Option<RepairLimits>,
    plan: Plan,
    schedule: Schedule,
}

impl Endpoint {
    pub(super) fn new(seed: u64, now: Instant) -> Endpoint {
        let rates = RepairRates { group: PLENTY, bytes: PLENTY };
        let limits =
            LIMITS.take().unwrap_or_else(|| RepairLimits::new(rates, Trusted::new(Vec::new()), 1, now));
        let store = Limits { bytes: Limits::LEAST, flows: 64 };
        Endpoint {
            store: Store::new(store, Lifetimes::default(), true, seed, now),
            limits: Some(limits),
            plan: Plan::default(),
            schedule: Schedule::new(Duration::from_secs(60), now),
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        LIMITS.set(self.limits.take());
    }
}

impl World {
    /// A frame that arrived on its group.
    pub(super) fn keep(&mut self, group: GroupIndex, bytes: &[u8]) {
        let now = self.instant();
        if let Ok(frame) = admit(bytes) {
            self.endpoint.store.put(&frame, group, now);
        }
    }

    /// Data first, then the reply.
    pub(super) fn answer(&mut self, listener: usize, nack: &[u8; Nack::LEN]) {
        let now = self.instant();
        let policy = Policy {
            ways: Ways { multicast: true, unicast: false },
            dedup_window: Duration::from_millis(10),
        };
        let source = self.listeners[listener].address;
        let Ok(request) = Request::read(nack, source, None, 256) else { return };
        let Some(mut limits) = self.endpoint.limits.take() else { return };
        let endpoint = &mut self.endpoint;
        endpoint.plan.make(&request, &mut endpoint.store, &mut limits, &policy, now);
        endpoint.limits = Some(limits);
        let repairs: Vec<Rc<[u8]>> =
            endpoint.plan.multicast.iter().map(|repair| endpoint.store.bytes(&repair.place).into()).collect();
        endpoint.plan.multicast_sent(usize::MAX, &mut endpoint.store, now);
        let reply = endpoint.plan.done.reply(&request, true);
        self.trace(|| {
            let Nack { hash_key, start, end, .. } = request.nack;
            format!("endpoint repairs {} of {:016x}:{} to {}", repairs.len(), hash_key.0, start.0, end.0)
        });
        for bytes in &repairs {
            self.multicast(ENDPOINT, bytes);
        }
        if let Some(reply) = reply {
            let mut bytes = [0; Response::MAX_LEN];
            let len = reply.encode(&mut bytes);
            self.unicast(listener, Door::Replies, ENDPOINT, &bytes[..len].into());
        }
    }

    /// Says where it is, and when it says so again.
    pub(super) fn beacon(&mut self) {
        let now = self.instant();
        if self.endpoint.schedule.due(now) {
            for listener in 0..self.listeners.len() {
                self.announce(listener, Event::Advert);
            }
        }
        let next = self.micros(self.endpoint.schedule.next()).max(self.now + MS);
        self.timeline.push(next, 0, ANY, Event::Beacon);
    }
}

/// What it says.
pub(super) fn advert() -> Advert {
    Advert {
        scope: 5,
        nack_addr: ADDRESS,
        nack_port: PORT,
        tier: 0,
        preference: 128,
        interval_secs: 60,
        flags: Advert::MULTICAST | Advert::RANGES,
        instance_id: 7,
        max_range: 256,
    }
}

/// The group of an address.
pub(super) fn group_of(destination: SocketAddr) -> Option<GroupIndex> {
    FABRIC.index_of(destination.ip())
}
