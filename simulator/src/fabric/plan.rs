//! What a world is made of, and what will happen in it: drawn before the first event.

use super::Options;
use super::consumer::Consumer;
use super::frames::FRAMES;
use super::network::Network;
use super::node::Node;
use super::trail::{Reach, Trail};
use super::world::{Event, World};
use crate::MS;
use crate::fault::{Fault, Kind};
use crate::owners::Owners;
use crate::random::Random;
use crate::timeline::ANY;
use std::time::{Duration, Instant};

/// What all nodes of a world are told. Times in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Lease of the proxies' claims.
    pub(super) lease: u64,
    /// Lease of the listeners' claims.
    pub(super) egress_lease: u64,
    /// Bytes of parked copies, at each worker.
    pub(super) park_bytes: usize,
    /// Bytes of frames that wait for the store, at each proxy.
    pub(super) slab_bytes: usize,
    /// Frames that wait for the store, at each proxy.
    pub(super) slab_entries: usize,
    /// Bytes that wait for the kernel, at each proxy.
    pub(super) backlog_bytes: usize,
    pub(super) send_deadline: u64,
    /// Bytes of frames that wait for the store, at each listener.
    pub(super) waiting_bytes: usize,
    /// Bytes that wait for the consumer.
    pub(super) queue_bytes: usize,
    /// How long tier 1 of a proxy remembers.
    pub(super) horizon: Duration,
    pub(super) max_batch: usize,
    /// Numbers from before its start that a listener asks for on its own (`TrackLimits`): if they are few, the positions
    /// that its predecessor left must say the rest.
    pub(super) catch_up: u64,
    pub(super) small_head: u64,
    /// Retry endpoints.
    pub(super) endpoints: usize,
    /// They announce flows that fell silent; those of the Go stack, and old ones of ours, do not.
    pub(super) announces: bool,
}

impl Terms {
    fn draw(random: &mut Random) -> Terms {
        Terms {
            lease: 250 * MS,
            egress_lease: tight(random, 80, 500 * MS, 2_000 * MS),
            park_bytes: tight(random, 20, 1_000, 1 << 16),
            slab_bytes: tight(random, 20, 2_048, 1 << 16),
            slab_entries: tight(random, 20, 4, 256),
            backlog_bytes: tight(random, 30, 1_000, 1 << 16),
            send_deadline: tight(random, 50, 60 * MS, 300 * MS),
            waiting_bytes: tight(random, 15, 1_000, 1 << 16),
            queue_bytes: tight(random, 30, 2_000, 1 << 16),
            horizon: tight(random, 20, Duration::from_millis(300), Duration::from_secs(120)),
            max_batch: tight(random, 20, 3, 64),
            catch_up: tight(random, 50, 2, 8_192),
            small_head: tight(random, 50, 8, 64),
            endpoints: tight(random, 35, 2, 1),
            announces: !random.percent(25),
        }
    }
}

/// In so many percent of worlds the tight value.
fn tight<T>(random: &mut Random, percent: u64, value: T, otherwise: T) -> T {
    if random.percent(percent) { value } else { otherwise }
}

/// The first two faults become the end of a host that a proxy and a listener share: nobody is left to say how far the
/// proxy's flows went.
fn host_dies(random: &mut Random, faults: &mut [Fault], proxies: usize, nodes: usize) {
    let [first, second, ..] = faults else { return };
    let restart = random.between(20 * MS, 600 * MS);
    first.node = random.below(proxies);
    first.kind = Kind::Crash { restart: random.percent(30).then_some(restart) };
    second.node = proxies + random.below(nodes - proxies);
    second.kind = Kind::Crash { restart: Some(restart) };
    second.start = first.start + random.between(0, 20 * MS);
    (first.end, second.end) = (first.start + restart, second.start + restart);
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> World {
        let mut random = Random::new(seed);
        let proxies = 2 + random.below(3);
        let per_proxy = if random.percent(25) { 2 } else { 1 };
        let consumers_of: &[usize] = [&[0][..], &[0, 0], &[0, 0], &[0, 1], &[0, 0, 1]][random.below(5)];
        let span = random.between(400, 1_500) * MS;
        let count = if seed.is_multiple_of(16) { 0 } else { options.faults };
        let nodes = proxies + consumers_of.len();
        let mut faults = Fault::draw(&mut random, count, nodes, span, |random, node| {
            if node < proxies { Kind::of_proxy(random) } else { Kind::of_listener(random) }
        });
        if random.percent(25) {
            host_dies(&mut random, &mut faults, proxies, nodes);
        }
        let ids = (options.ids + random.below(20)).min(FRAMES / 2);
        let ways = 2 + consumers_of.iter().max().copied().unwrap_or(0);
        let trails: Vec<Vec<Trail>> =
            (0..ways).map(|_| (0..ids).map(|_| Trail::default()).collect()).collect();
        let first = random.below(FRAMES / 2);
        let (terms, network) = (Terms::draw(&mut random), Network::draw(&mut random));
        let mut world =
            World::of_parts(seed, options, random, Instant::now(), terms, network, faults, trails, first);
        world.nodes = (0..nodes).map(|_| Node::new(0, 0)).collect();
        for node in 0..proxies {
            world.start_proxy(node, per_proxy);
        }
        world.consumers = (1..ways)
            .map(|_| Consumer {
                stalled_until: 0,
                owners: Owners::default(),
                reach: Reach::of_lease(terms.egress_lease),
            })
            .collect();
        for (number, &consumer) in consumers_of.iter().enumerate() {
            world.start_listener(proxies + number, consumer);
        }
        world.plan(span, proxies, ids);
        if count > 0 && terms.endpoints > 1 && world.random.percent(70) {
            let at = world.random.between(50 * MS, span);
            let restart = world.random.percent(70).then(|| world.random.between(20 * MS, 600 * MS));
            world.timeline.push(at, 1, ANY, Event::EndpointDies { restart });
        }
        world
    }

    fn plan(&mut self, span: u64, proxies: usize, ids: usize) {
        self.summary.counted = u64::from(proxies >= 2 && ids >= 50 && self.faults.len() >= 3);
        for id in 0..ids {
            // Listeners are up before the first frame.
            let first = 5 * MS + self.random.between(0, span);
            self.plan_copies(first, id);
        }
        for index in 0..self.faults.len() {
            let Fault { start, end, node, .. } = self.faults[index];
            self.timeline.push(start, node, ANY, Event::Fault(index));
            self.planned_until = self.planned_until.max(end + 50 * MS);
        }
    }

    fn plan_copies(&mut self, first: u64, id: usize) {
        for worker in 0..self.proxies.len() {
            for at in self.random.copies(first) {
                self.plan_copy(at, worker, id);
            }
        }
    }

    fn plan_copy(&mut self, at: u64, worker: usize, id: usize) {
        self.planned_until = self.planned_until.max(at + 50 * MS);
        // Whatever process serves that address then.
        self.timeline.push(at, worker, ANY, Event::Arrive(id));
    }
}
