//! Retry endpoints: who may be asked, and in which order.
//!
//! Endpoints announce themselves by ADVERT (wire 1.14, 7) or are given by `--retry-endpoints`. The order is: tier
//! ascending, preference descending, then rendezvous by flow. So all listeners ask the same one of several equals for one
//! flow, and its repair is made once. Given endpoints are the last tier and never expire, whatever was announced. A
//! draining one leaves at once; others leave three of their intervals after their last word.
//!
//! Those that the consumer's listeners knew before this process are remembered (`position`): after a start, requests need
//! not wait for the first ADVERT.
//!
//! The key is (instance, address, port): two hosts under one name do not overwrite each other.
//!
//! Limits: `MAX_ENDPOINTS`; a newcomer of a nearer tier takes the place of the farthest.

use super::path::Path;
use frame::{Advert, HashKey};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Endpoints at once.
pub const MAX_ENDPOINTS: usize = 64;

/// Life of an endpoint that is only remembered: three pauses between ADVERTs of one that speaks seldom.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Tier of given endpoints: behind every tier that fits an ADVERT.
const GIVEN_TIER: u16 = 256;

/// One endpoint.
pub(super) struct Endpoint {
    pub(super) id: u32,
    pub(super) address: SocketAddr,
    instance: u32,
    tier: u16,
    preference: u8,
    /// Longest range served; `None` = single numbers only, as far as known.
    pub(super) max_range: Option<u16>,
    /// `None` = given, never expires.
    expires: Option<Instant>,
    pub(super) path: Path,
}

/// What is worth remembering of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is asked.
    pub address: SocketAddr,
    /// Its instance id.
    pub instance: u32,
    /// Its tier.
    pub tier: u8,
    /// Its preference.
    pub preference: u8,
    /// Longest range that it serves; `None` = single numbers.
    pub max_range: Option<u16>,
}

/// What an ADVERT changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new endpoint.
    Added,
    /// A known one spoke again.
    Refreshed,
    /// It drains.
    Removed,
    /// No room, or it drains and was not known.
    Ignored,
}

/// See the module text.
pub struct Registry {
    endpoints: Vec<Endpoint>,
    next_id: u32,
    /// Requests per second to each endpoint that serves single numbers only.
    single_rate: f64,
}

impl Registry {
    /// `single_rate`: requests per second that this worker may send to one endpoint of the Go stack.
    pub fn new(given: &[SocketAddr], single_rate: f64) -> Registry {
        let mut registry = Registry { endpoints: Vec::new(), next_id: 0, single_rate };
        for &address in given {
            if !registry.endpoints.iter().any(|e| e.address == address) {
                registry.add(address, 0, GIVEN_TIER, 0, None, None);
            }
        }
        registry
    }

    /// Takes an ADVERT.
    pub fn advert(&mut self, now: Instant, advert: &Advert) -> Change {
        let address = SocketAddr::new(unmapped(IpAddr::V6(advert.nack_addr)), advert.nack_port);
        let known = self
            .endpoints
            .iter()
            .position(|e| e.expires.is_some() && e.instance == advert.instance_id && e.address == address);
        if advert.flags & Advert::DRAINING != 0 {
            return known.map_or(Change::Ignored, |index| {
                self.endpoints.remove(index);
                Change::Removed
            });
        }
        let interval = advert.interval_secs.clamp(1, 3600);
        let expires = Some(now + Duration::from_secs(3 * u64::from(interval)));
        let tier = u16::from(advert.tier);
        let max_range = (advert.flags & Advert::RANGES != 0).then(|| advert.max_range.max(1));
        if let Some(endpoint) = known.and_then(|index| self.endpoints.get_mut(index)) {
            endpoint.tier = tier;
            endpoint.preference = advert.preference;
            endpoint.max_range = max_range;
            endpoint.expires = expires;
            endpoint.path.spoke();
            return Change::Refreshed;
        }
        if self.endpoints.len() >= MAX_ENDPOINTS && !self.make_room(tier) {
            return Change::Ignored;
        }
        self.add(address, advert.instance_id, tier, advert.preference, max_range, expires);
        Change::Added
    }

    /// Takes endpoints that this consumer's listeners knew before this process: until they speak, or for a while.
    pub fn remember(&mut self, now: Instant, known: &[Known]) {
        for k in known {
            let same =
                |e: &Endpoint| e.expires.is_some() && e.instance == k.instance && e.address == k.address;
            if self.endpoints.len() < MAX_ENDPOINTS && !self.endpoints.iter().any(same) {
                let (tier, expires) = (k.tier.into(), Some(now + REMEMBERED));
                self.add(k.address, k.instance, tier, k.preference, k.max_range, expires);
            }
        }
    }

    /// Endpoints that announced themselves.
    pub fn known(&self) -> impl Iterator<Item = Known> {
        let announced = self.endpoints.iter().filter(|e| e.expires.is_some());
        announced.filter_map(|e| {
            let (instance, preference, max_range) = (e.instance, e.preference, e.max_range);
            Some(Known {
                address: e.address,
                instance,
                tier: u8::try_from(e.tier).ok()?,
                preference,
                max_range,
            })
        })
    }

    /// Forgets those that were silent for three intervals.
    pub fn expire(&mut self, now: Instant) {
        self.endpoints.retain(|e| e.expires.is_none_or(|expires| now < expires));
    }

    /// When `expire` has something to do.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.endpoints.iter().filter_map(|e| e.expires).min()
    }

    /// Endpoints known.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// No endpoint is known.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// True if datagrams from `address` may be responses or repairs.
    pub fn knows(&self, address: SocketAddr) -> bool {
        let address = SocketAddr::new(unmapped(address.ip()), address.port());
        self.endpoints.iter().any(|e| e.address == address)
    }

    /// True if an endpoint lives on this host: its multicast repairs come from there.
    pub fn knows_host(&self, host: IpAddr) -> bool {
        let host = unmapped(host);
        self.endpoints.iter().any(|e| e.address.ip() == host)
    }

    pub(super) fn by_id(&mut self, id: u32) -> Option<&mut Endpoint> {
        self.endpoints.iter_mut().find(|e| e.id == id)
    }

    /// The endpoint at a place below `len`.
    pub(super) fn at(&mut self, place: usize) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(place)
    }

    pub(super) fn by_address(&mut self, address: SocketAddr) -> Option<&mut Endpoint> {
        let address = SocketAddr::new(unmapped(address.ip()), address.port());
        let announced = self.endpoints.iter().position(|e| e.expires.is_some() && e.address == address);
        let index = announced.or_else(|| self.endpoints.iter().position(|e| e.address == address))?;
        self.endpoints.get_mut(index)
    }

    /// Endpoints that may be asked now: those that answer, or all where none does.
    fn eligible(&self, now: Instant) -> impl Iterator<Item = &Endpoint> {
        let listed = self.endpoints.iter().filter(|e| !self.is_shadowed(e));
        let all = listed.clone().all(|e| e.path.is_silent(now));
        listed.filter(move |e| all || !e.path.is_silent(now))
    }

    /// How many may be asked now.
    pub(super) fn candidates(&self, now: Instant) -> usize {
        self.eligible(now).count()
    }

    /// The endpoint to ask for a flow after `hop` others were asked in vain.
    pub(super) fn choose(&self, now: Instant, key: HashKey, hop: u8) -> Option<u32> {
        let mut order = [((0, 0, 0), 0); MAX_ENDPOINTS];
        let mut n = 0;
        for endpoint in self.eligible(now) {
            if let Some(place) = order.get_mut(n) {
                *place = (endpoint.rank(key), endpoint.id);
                n += 1;
            }
        }
        let order = order.get_mut(..n)?;
        order.sort_unstable();
        let &(_, id) = order.get(usize::from(hop)).or(order.first())?;
        Some(id)
    }

    /// A given endpoint that announces itself counts once, as announced.
    fn is_shadowed(&self, endpoint: &Endpoint) -> bool {
        endpoint.expires.is_none()
            && self.endpoints.iter().any(|e| e.expires.is_some() && e.address == endpoint.address)
    }

    fn make_room(&mut self, tier: u16) -> bool {
        let farthest = self.endpoints.iter().enumerate().filter(|(_, e)| e.expires.is_some());
        match farthest.max_by_key(|(_, e)| (e.tier, std::cmp::Reverse(e.preference))) {
            Some((index, endpoint)) if endpoint.tier > tier => {
                self.endpoints.remove(index);
                true
            }
            _ => false,
        }
    }

    fn add(
        &mut self,
        address: SocketAddr,
        instance: u32,
        tier: u16,
        preference: u8,
        max_range: Option<u16>,
        expires: Option<Instant>,
    ) {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let address = SocketAddr::new(unmapped(address.ip()), address.port());
        let path = Path::new(self.single_rate);
        self.endpoints.push(Endpoint { id, address, instance, tier, preference, max_range, expires, path });
    }
}

impl Endpoint {
    fn rank(&self, key: HashKey) -> (u16, u8, u64) {
        let address = match self.address.ip() {
            IpAddr::V4(v4) => u64::from(v4.to_bits()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h] = v6.segments().map(u64::from);
                (a << 48 | b << 32 | c << 16 | d) ^ (e << 48 | f << 32 | g << 16 | h)
            }
        };
        let name = address ^ (u64::from(self.instance) << 16) ^ u64::from(self.address.port());
        (self.tier, u8::MAX - self.preference, mix(key.0 ^ mix(name)))
    }
}

/// SplitMix64's finalizer: spreads neighbouring names over the whole range.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// `::ffff:a.b.c.d` is a.b.c.d.
pub(super) fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
