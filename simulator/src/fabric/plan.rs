//! What a world is made of, and what will happen in it: drawn before the first event.

use super::Options;
use super::event::Event;
use super::frames::FRAMES;
use super::network::Rates;
use super::node_config::NodeConfig;
use crate::MS;
use crate::context::Context;
use crate::fault::{Fault, Kind};
use crate::random::Random;
use crate::timeline::ANY;

/// See the module text.
pub(super) struct WorldPlan {
    /// Processes that are proxies; listeners come after them.
    pub(super) proxies: usize,
    /// Workers of each.
    pub(super) workers: usize,
    /// The consumer of each listener.
    pub(super) consumers_of: &'static [usize],
    /// Ids come within so long.
    span: u64,
    pub(super) ids: usize,
    /// Number of the first frame.
    pub(super) first: usize,
    pub(super) faults: Vec<Fault>,
    pub(super) config: NodeConfig,
    pub(super) rates: Rates,
    endpoint_may_die: bool,
}

impl WorldPlan {
    pub(super) fn draw(seed: u64, options: &Options, random: &mut Random) -> WorldPlan {
        let proxies = 2 + random.below(3);
        let workers = if random.percent(25) { 2 } else { 1 };
        let consumers_of: &[usize] = [&[0][..], &[0, 0], &[0, 0], &[0, 1], &[0, 0, 1]][random.below(5)];
        let span = random.between(400, 1_500) * MS;
        let count = if seed.is_multiple_of(16) { 0 } else { options.faults };
        let nodes = proxies + consumers_of.len();
        let mut faults = Fault::draw(random, count, nodes, span, |random, node| {
            if node < proxies { Kind::of_emitter(random) } else { Kind::of_listener(random) }
        });
        if random.percent(25) {
            host_dies(random, &mut faults, proxies, nodes);
        }
        let ids = (options.ids + random.below(20)).min(FRAMES / 2);
        let first = random.below(FRAMES / 2);
        let (config, rates) = (NodeConfig::draw(random), Rates::draw(random));
        let endpoint_may_die = count > 0 && config.endpoints.count > 1;
        WorldPlan {
            proxies,
            workers,
            consumers_of,
            span,
            ids,
            first,
            faults,
            config,
            rates,
            endpoint_may_die,
        }
    }

    /// Processes.
    pub(super) fn nodes(&self) -> usize {
        self.proxies + self.consumers_of.len()
    }

    pub(super) fn consumers(&self) -> usize {
        1 + self.consumers_of.iter().max().copied().unwrap_or(0)
    }

    /// At least two proxies, 50 ids and three faults.
    pub(super) fn counts(&self) -> bool {
        self.proxies >= 2 && self.ids >= 50 && self.faults.len() >= 3
    }

    /// Puts arrivals and faults on the timeline. Returns after when nothing is planned.
    pub(super) fn schedule(&self, context: &mut Context<Event>) -> u64 {
        let mut until = 0;
        for id in 0..self.ids {
            // Listeners are up before the first frame.
            let first = 5 * MS + context.random.between(0, self.span);
            for worker in 0..self.proxies * self.workers {
                for at in context.random.copies(first) {
                    until = until.max(at + 50 * MS);
                    // Whatever process serves that address then.
                    context.timeline.push(at, worker, ANY, Event::Arrive(id));
                }
            }
        }
        for (index, &Fault { start, end, node, .. }) in self.faults.iter().enumerate() {
            context.timeline.push(start, node, ANY, Event::Fault(index));
            until = until.max(end + 50 * MS);
        }
        if self.endpoint_may_die && context.random.percent(70) {
            let random = &mut context.random;
            let at = random.between(50 * MS, self.span);
            let restart = random.percent(70).then(|| random.between(20 * MS, 600 * MS));
            context.timeline.push(at, 1, ANY, Event::EndpointDies { restart });
        }
        until
    }
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
