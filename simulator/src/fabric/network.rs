//! The multicast network: every listener and endpoint hears what is sent to a group, each in its own time; a listener may
//! lose it, hear it twice, or hear a forgery first. Endpoints lose nothing.

use super::listener::Arrived;
use super::world::{Event, World};
use crate::MS;
use crate::random::Random;
use crate::timeline::ANY;
use frame::data::HEADER;
use frame::{GroupIndex, Kind};
use listener_egress::pipeline::Door;
use std::net::SocketAddr;
use std::rc::Rc;

/// What the network does to all that it carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Network {
    /// Percent lost on the way to a listener.
    loss: u64,
    /// Percent heard twice.
    repeats: u64,
    /// Percent of frames that a forged copy runs ahead of.
    forged: u64,
    /// Longest detour; longer than the pause between two frames, it reorders them.
    detour: u64,
}

impl Network {
    pub(super) fn draw(random: &mut Random) -> Network {
        Network {
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

impl World {
    /// A datagram to a data group, from a proxy or as a repair.
    pub(super) fn multicast(&mut self, from: SocketAddr, bytes: &Rc<[u8]>) {
        for listener in 0..self.listeners.len() {
            if self.network.forged > 0
                && self.random.percent(self.network.forged)
                && let Some(forgery) = forge(bytes)
            {
                self.carry(listener, Door::Groups, from, &forgery, true);
            }
            self.carry(listener, Door::Groups, from, bytes, false);
        }
    }

    /// The endpoints hear a frame of a group.
    pub(super) fn reach_endpoints(&mut self, group: GroupIndex, bytes: &Rc<[u8]>) {
        for endpoint in 0..self.endpoints.len() {
            let at = self.now + self.network.delay(&mut self.random);
            let bytes = Rc::clone(bytes);
            self.timeline.push(at, endpoint, ANY, Event::Keep { group, bytes });
        }
    }

    /// A digest to the beacon group.
    pub(super) fn send_digest(&mut self, from: SocketAddr, bytes: &Rc<[u8]>) {
        self.check_digest(bytes);
        for listener in 0..self.listeners.len() {
            self.announce(listener, Event::Digest { from, bytes: Rc::clone(bytes) });
        }
        for endpoint in 0..self.endpoints.len() {
            let at = self.now + self.network.delay(&mut self.random);
            self.timeline.push(at, endpoint, ANY, Event::Overhear(Rc::clone(bytes)));
        }
    }

    /// A datagram to one listener.
    pub(super) fn unicast(&mut self, listener: usize, door: Door, from: SocketAddr, bytes: &Rc<[u8]>) {
        self.carry(listener, door, from, bytes, false);
    }

    fn carry(&mut self, listener: usize, door: Door, from: SocketAddr, bytes: &Rc<[u8]>, forged: bool) {
        let copies = if self.random.percent(self.network.repeats) { 2 } else { 1 };
        for _ in 0..copies {
            if self.arrives(listener) {
                let at = self.now + self.network.delay(&mut self.random);
                let arrived = Arrived { door, from, bytes: Rc::clone(bytes), forged };
                self.timeline.push(at, self.proxies.len() + listener, ANY, Event::Datagram(arrived));
            }
        }
    }

    /// A digest or an ADVERT to one listener.
    pub(super) fn announce(&mut self, listener: usize, news: Event) {
        if self.arrives(listener) {
            let at = self.now + self.network.delay(&mut self.random);
            self.timeline.push(at, self.proxies.len() + listener, ANY, news);
        }
    }

    /// A request on its way from a listener; it may get lost like anything else.
    pub(super) fn request(&mut self, listener: usize, to: SocketAddr, nack: Box<[u8; frame::Nack::LEN]>) {
        if let Some(endpoint) = self.endpoint_at(to)
            && self.arrives(listener)
        {
            let at = self.now + self.network.delay(&mut self.random);
            self.timeline.push(at, listener, ANY, Event::Request { endpoint, nack });
        }
    }

    fn arrives(&mut self, listener: usize) -> bool {
        let node = &self.nodes[self.listeners[listener].node];
        let extra = if node.losing.0 > self.now { node.losing.1 } else { 0 };
        let loss = self.network.loss.max(extra);
        node.deaf_until <= self.now && !self.random.percent(loss)
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
