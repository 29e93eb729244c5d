//! The multicast network: every listener and endpoint hears what is sent to a group, each in its own time; a listener may
//! lose it, hear it twice, or hear a forgery first. Endpoints lose nothing.

use super::event::{Arrived, Event};
use crate::MS;
use crate::context::Context;
use crate::random::Random;
use crate::timeline::ANY;
use frame::data::HEADER;
use frame::{GroupIndex, Kind, Nack};
use listener_egress::pipeline::Door;
use std::net::SocketAddr;
use std::rc::Rc;

/// What the network does to all that it carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Percent lost on the way to a listener.
    loss: u64,
    /// Percent heard twice.
    repeats: u64,
    /// Percent of frames that a forged copy runs ahead of.
    forged: u64,
    /// Longest detour; longer than the pause between two frames, it reorders them.
    detour: u64,
}

impl Rates {
    pub(super) fn draw(random: &mut Random) -> Rates {
        Rates {
            loss: [0, 0, 2, 10, 20][random.below(5)],
            repeats: [0, 3][random.below(2)],
            forged: [0, 0, 0, 2][random.below(4)],
            detour: [MS / 5, 2 * MS, 10 * MS][random.below(3)],
        }
    }

    fn delay(self, random: &mut Random) -> u64 {
        let base = random.between(60, 200);
        if random.percent(20) { base + random.between(0, self.detour) } else { base }
    }
}

/// What is wrong on the way to one listener.
#[derive(Clone, Copy, Default)]
struct Link {
    /// It hears nothing of the fabric.
    deaf_until: u64,
    /// Until when how many percent are lost.
    losing: (u64, u64),
}

/// See the module text.
pub(super) struct Network {
    rates: Rates,
    /// By listener.
    links: Vec<Link>,
    /// Where each listener asks from.
    listeners: Vec<SocketAddr>,
    /// Number of the first listener's worker.
    first_listener: usize,
    /// Where each endpoint answers from.
    endpoints: Vec<SocketAddr>,
}

impl Network {
    pub(super) fn new(
        rates: Rates,
        first_listener: usize,
        listeners: Vec<SocketAddr>,
        endpoints: Vec<SocketAddr>,
    ) -> Network {
        let links = vec![Link::default(); listeners.len()];
        Network { rates, links, listeners, first_listener, endpoints }
    }

    /// A listener hears nothing until then.
    pub(super) fn deafen(&mut self, listener: usize, until: u64) {
        self.links[listener].deaf_until = until;
    }

    /// Until then so many percent are lost on the way to a listener.
    pub(super) fn lose(&mut self, listener: usize, until: u64, percent: u64) {
        self.links[listener].losing = (until, percent);
    }

    /// A frame to a data group: the endpoints hear it, and the listeners.
    pub(super) fn multicast(
        &self,
        context: &mut Context<Event>,
        from: SocketAddr,
        group: GroupIndex,
        bytes: &Rc<[u8]>,
    ) {
        for endpoint in 0..self.endpoints.len() {
            self.to_endpoint(context, endpoint, Event::EndpointFrame { group, bytes: Rc::clone(bytes) });
        }
        for listener in 0..self.links.len() {
            if self.rates.forged > 0
                && context.random.percent(self.rates.forged)
                && let Some(forgery) = forge(bytes)
            {
                self.carry(context, listener, Door::Groups, from, &forgery, true);
            }
            self.carry(context, listener, Door::Groups, from, bytes, false);
        }
    }

    /// A digest to the beacon group.
    pub(super) fn digest(&self, context: &mut Context<Event>, from: SocketAddr, bytes: &Rc<[u8]>) {
        self.announce(context, || Event::Digest { from, bytes: Rc::clone(bytes) });
        for endpoint in 0..self.endpoints.len() {
            self.to_endpoint(context, endpoint, Event::EndpointDigest(Rc::clone(bytes)));
        }
    }

    /// A digest or an ADVERT to all listeners.
    pub(super) fn announce(&self, context: &mut Context<Event>, message: impl Fn() -> Event) {
        for listener in 0..self.links.len() {
            if self.arrives(context, listener) {
                let at = context.now + self.rates.delay(&mut context.random);
                context.timeline.push(at, self.first_listener + listener, ANY, message());
            }
        }
    }

    /// A reply to one listener.
    pub(super) fn reply(
        &self,
        context: &mut Context<Event>,
        to: SocketAddr,
        from: SocketAddr,
        bytes: &Rc<[u8]>,
    ) {
        if let Some(listener) = self.listeners.iter().position(|address| *address == to) {
            self.carry(context, listener, Door::Replies, from, bytes, false);
        }
    }

    /// A request on its way from a listener; it may get lost like anything else.
    pub(super) fn request(
        &self,
        context: &mut Context<Event>,
        listener: usize,
        to: SocketAddr,
        nack: [u8; Nack::LEN],
    ) {
        if let Some(endpoint) = self.endpoints.iter().position(|address| *address == to)
            && self.arrives(context, listener)
        {
            let at = context.now + self.rates.delay(&mut context.random);
            let from = self.listeners[listener];
            context.timeline.push(at, endpoint, ANY, Event::Request { from, nack: Box::new(nack) });
        }
    }

    fn to_endpoint(&self, context: &mut Context<Event>, endpoint: usize, event: Event) {
        let at = context.now + self.rates.delay(&mut context.random);
        context.timeline.push(at, endpoint, ANY, event);
    }

    fn carry(
        &self,
        context: &mut Context<Event>,
        listener: usize,
        door: Door,
        from: SocketAddr,
        bytes: &Rc<[u8]>,
        forged: bool,
    ) {
        let copies = if context.random.percent(self.rates.repeats) { 2 } else { 1 };
        for _ in 0..copies {
            if self.arrives(context, listener) {
                let at = context.now + self.rates.delay(&mut context.random);
                let arrived = Arrived { door, from, bytes: Rc::clone(bytes), forged };
                context.timeline.push(at, self.first_listener + listener, ANY, Event::Datagram(arrived));
            }
        }
    }

    fn arrives(&self, context: &mut Context<Event>, listener: usize) -> bool {
        let Link { deaf_until, losing } = self.links[listener];
        let extra = if losing.0 > context.now { losing.1 } else { 0 };
        let loss = self.rates.loss.max(extra);
        deaf_until <= context.now && !context.random.percent(loss)
    }
}

/// The same header, another payload. Not of fragments: an object is rebuilt anew once, then counted as lost, and a world
/// could not tell how often its network may forge.
fn forge(bytes: &[u8]) -> Option<Rc<[u8]>> {
    if Kind::of(bytes) != Ok(Kind::Tx) {
        return None;
    }
    let mut forgery = bytes.to_vec();
    *forgery.get_mut(HEADER + 20)? ^= 0x55;
    Some(forgery.into())
}
