//! How far the listeners of a consumer are, kept in the shared store, so that the process after this one goes on there.
//!
//! Why: a process that dies takes with it what it had claimed and not delivered, and the copies that it had parked.
//! Retry endpoints still hold those frames. The next process must know from where on to ask. A fixed reach is too long
//! for most flows and too short for the worst: a frame that falls behind it is lost in silence.
//!
//! Promise: below a flow's position every number has reached its end: its frame was handed over and the store knows, was
//! suppressed because another had handed it over, was refused by a filter or a check, or was given up and counted as
//! lost. So positions of any listener of the consumer hold for all of them, and the highest wins.
//!
//! How: a snapshot of the flows' first missing numbers is taken together with a watermark in the claims. It is written when
//! the watermark is passed (`txidset::Watermark`) and everything that passed without a claim has left. One snapshot at a
//! time.
//!
//! With the positions go the retry endpoints, so that nothing waits for the first ADVERT.
//!
//! Limits: `MAX_FLOWS` flows a worker, those left out are counted; they fall back to `--catch-up`. Cost: a scan of the
//! worker's flows per snapshot, ten a second at most and fewer with many flows; one write of 18 bytes a flow where
//! something changed.

use super::counts::Counts;
use super::reassemble::Reassembler;
use super::registry::{Known, MAX_ENDPOINTS, Registry};
use super::request::Tracker;
use frame::{GroupIndex, HashKey};
use gap_track::{FlowClass, Position};
use hashbrown::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Instant;
use txidset::{Claims, Watermark};

/// Flows in one value.
pub const MAX_FLOWS: usize = 4096;
/// Workers whose positions are looked for.
pub const MAX_WORKERS: u16 = 256;

const VERSION: u8 = 2;
const HEADER: usize = 4;
const ENDPOINT: usize = 26;
const FLOW: usize = 18;

/// Where the consumer's listeners were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Retry endpoints that they knew.
    pub endpoints: Vec<Known>,
    /// Where each flow was left.
    pub flows: Vec<Position>,
}

impl Positions {
    /// Version u8, endpoints u8, flows u16; then per endpoint instance u32, address 16 bytes (IPv4 as mapped), port u16,
    /// tier u8, preference u8, longest range u16 (0: single numbers); then per flow HashKey u64,
    /// number u64, group u16.
    pub fn encode(&self) -> Vec<u8> {
        let endpoints = &self.endpoints[..self.endpoints.len().min(MAX_ENDPOINTS)];
        let flows = &self.flows[..self.flows.len().min(MAX_FLOWS)];
        let mut out = Vec::with_capacity(HEADER + endpoints.len() * ENDPOINT + flows.len() * FLOW);
        out.extend([VERSION, u8::try_from(endpoints.len()).unwrap_or(0)]);
        out.extend(u16::try_from(flows.len()).unwrap_or(0).to_be_bytes());
        for endpoint in endpoints {
            let address = match endpoint.address.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out.extend(endpoint.instance.to_be_bytes());
            out.extend(address.octets());
            out.extend(endpoint.address.port().to_be_bytes());
            out.extend([endpoint.tier, endpoint.preference]);
            out.extend(endpoint.max_range.unwrap_or(0).to_be_bytes());
        }
        for Position { key, next, group } in flows {
            out.extend(key.0.to_be_bytes());
            out.extend(next.to_be_bytes());
            out.extend(group.0.to_be_bytes());
        }
        out
    }

    /// `None`: not what this version writes.
    pub fn decode(bytes: &[u8]) -> Option<Positions> {
        let (head, rest) = bytes.split_first_chunk::<HEADER>()?;
        let (endpoints, flows) = (usize::from(head[1]), usize::from(u16::from_be_bytes([head[2], head[3]])));
        if head[0] != VERSION || rest.len() != endpoints * ENDPOINT + flows * FLOW {
            return None;
        }
        let (endpoints, flows) = rest.split_at_checked(endpoints * ENDPOINT)?;
        Some(Positions {
            endpoints: endpoints.as_chunks::<ENDPOINT>().0.iter().map(endpoint).collect(),
            flows: flows.as_chunks::<FLOW>().0.iter().map(flow).collect(),
        })
    }

    /// Joins what several workers or listeners wrote: the highest position of each flow.
    pub fn join(all: impl IntoIterator<Item = Positions>) -> Positions {
        let (mut endpoints, mut flows) = (Vec::new(), HashMap::new());
        for positions in all {
            for endpoint in positions.endpoints {
                if !endpoints.contains(&endpoint) && endpoints.len() < MAX_ENDPOINTS {
                    endpoints.push(endpoint);
                }
            }
            for position in positions.flows {
                let highest = flows.entry(position.key).or_insert(position);
                if position.next > highest.next {
                    *highest = position;
                }
            }
        }
        let mut flows: Vec<Position> = flows.into_values().collect();
        // In one order for all processes: what follows from it can be repeated.
        flows.sort_unstable_by_key(|position| position.key.0);
        Positions { endpoints, flows }
    }
}

fn endpoint(bytes: &[u8; ENDPOINT]) -> Known {
    let [i0, i1, i2, i3, address @ .., p0, p1, tier, preference, r0, r1] = *bytes;
    let range = u16::from_be_bytes([r0, r1]);
    Known {
        address: SocketAddr::new(
            IpAddr::V6(Ipv6Addr::from(address)).to_canonical(),
            u16::from_be_bytes([p0, p1]),
        ),
        instance: u32::from_be_bytes([i0, i1, i2, i3]),
        tier,
        preference,
        max_range: (range > 0).then_some(range),
    }
}

fn flow(bytes: &[u8; FLOW]) -> Position {
    let [k0, k1, k2, k3, k4, k5, k6, k7, n0, n1, n2, n3, n4, n5, n6, n7, g0, g1] = *bytes;
    Position {
        key: HashKey(u64::from_be_bytes([k0, k1, k2, k3, k4, k5, k6, k7])),
        next: u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]),
        group: GroupIndex(u16::from_be_bytes([g0, g1])),
    }
}

/// Keeps the positions of one worker.
pub(super) struct PositionKeeper {
    /// Index of the worker among those whose positions are kept; `None`: they are not.
    worker: Option<u16>,
    snapshot: Option<Snapshot>,
    /// Written last, and when.
    written: Option<(Vec<u8>, Instant)>,
    /// Ticks until the next look.
    pause: usize,
    /// Until then nothing is known to have reached its end but what this process saw.
    not_before: Option<Instant>,
}

/// Positions that wait until what came before them has left.
struct Snapshot {
    watermark: Watermark,
    positions: Positions,
}

/// What positions are taken from.
pub(super) struct Sources<'a> {
    pub(super) tracker: &'a Tracker,
    pub(super) reassembler: &'a Reassembler,
    pub(super) registry: &'a Registry,
}

impl PositionKeeper {
    pub(super) fn new(worker: Option<u16>) -> PositionKeeper {
        PositionKeeper { worker, snapshot: None, written: None, pause: 0, not_before: None }
    }

    /// The store did not say where the consumer's listeners were: their positions stand until endpoints hold nothing from
    /// before this process.
    pub(super) fn let_stand(&mut self, now: Instant) {
        self.not_before = Some(now + FlowClass::Block.horizon());
    }

    /// Writes the snapshot that is due, and takes the next. Call ten times a second. `unclaimed`: frames without a claim
    /// that have not left yet.
    pub(super) fn keep(
        &mut self,
        now: Instant,
        sources: &Sources<'_>,
        claims: Option<&mut Claims>,
        unclaimed: u64,
        counts: &mut Counts,
    ) {
        let (Some(worker), Some(claims)) = (self.worker, claims) else { return };
        self.pause = self.pause.saturating_sub(1);
        if self.pause > 0 || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        if let Some(snapshot) = &mut self.snapshot {
            if unclaimed > 0 || !claims.is_passed(&mut snapshot.watermark) {
                return;
            }
            let value = snapshot.positions.encode();
            let refresh = claims.config().ttl / 4;
            let known = self.written.as_ref().is_some_and(|(written, at)| {
                *written == value && now.saturating_duration_since(*at) < refresh
            });
            if !known && !snapshot.positions.flows.is_empty() {
                claims.keep_positions(worker, &value);
                counts.positions_kept += 1;
                self.written = Some((value, now));
            }
        }
        let mut flows = Vec::new();
        counts.positions_left_out = sources.tracker.positions(MAX_FLOWS, &mut flows) as u64;
        hold_back(&mut flows, sources.reassembler);
        let endpoints = sources.registry.known().collect();
        self.snapshot =
            Some(Snapshot { watermark: claims.watermark(), positions: Positions { endpoints, flows } });
        self.pause = sources.tracker.flows() / MAX_FLOWS;
    }
}

/// What an object that is not complete was made of so far has not reached its end.
pub(super) fn hold_back(flows: &mut [Position], reassembler: &Reassembler) {
    let mut lowest: HashMap<HashKey, u64> = HashMap::new();
    for (key, seq) in reassembler.incomplete() {
        let low = lowest.entry(key).or_insert(seq.0);
        *low = seq.0.min(*low);
    }
    if lowest.is_empty() {
        return;
    }
    for Position { key, next, .. } in flows {
        *next = lowest.get(key).map_or(*next, |low| (*low).min(*next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(address: &str, max_range: Option<u16>) -> Known {
        Known { address: address.parse().unwrap(), instance: 7, tier: 1, preference: 9, max_range }
    }

    fn left(key: u64, next: u64) -> Position {
        Position { key: HashKey(key), next, group: GroupIndex(3) }
    }

    #[test]
    fn positions_survive_their_bytes() {
        let positions = Positions {
            endpoints: vec![known("[fd10::3]:9300", Some(256)), known("10.1.2.3:9300", None)],
            flows: vec![left(1, 5), left(u64::MAX, u64::MAX)],
        };
        let bytes = positions.encode();
        assert_eq!(Positions::decode(&bytes), Some(positions));
        for len in 0..bytes.len() {
            assert_eq!(Positions::decode(&bytes[..len]), None, "{len} bytes");
        }
        let mut later = bytes;
        later[0] = VERSION + 1;
        assert_eq!(Positions::decode(&later), None);
    }

    #[test]
    fn the_highest_position_of_a_flow_wins() {
        let of =
            |next| Positions { endpoints: vec![known("[fd10::3]:9300", None)], flows: vec![left(1, next)] };
        assert_eq!(Positions::join([of(3), of(8), of(5)]), of(8));
    }
}
