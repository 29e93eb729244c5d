//! A deterministic world of whole nodes: proxies and listeners that run their real pipelines, one retry endpoint with its
//! real store and answers, and models of everything around them, all drawn from one seed.
//!
//! 2 to 4 proxies of one or two workers; 1 to 3 listeners, a pair in front of one consumer included; 50 frames or more, some
//! of which leave in fragments. Modelled are the kernel that takes trains or refuses them ([`kernel`]), a multicast network
//! that loses, repeats, reorders, delays and forges ([`network`]), the shared store and the way to it, TCP connections
//! to the consumers with acknowledgements ([`consumer`]), and the runtime of each role: rounds and turns, timers and
//! calls ([`proxy`], [`listener`], [`endpoint`]).
//!
//! What is checked ([`trail`], [`check`]):
//! * no number twice: no HashKey with SeqNum ever carries two frames, or one frame twice;
//! * no loss at a proxy: an id that a living process received was sent by somebody, unless the kernel refused it and the
//!   process counted that; frames accepted are frames sent, suppressed or counted as dropped;
//! * no loss at a listener: what was sent while a listener of a consumer lived, and lives on, reaches that consumer whole
//!   and unaltered; no gap stays open and no number is given up while an endpoint holds it;
//! * once: an id is sent twice, or handed to a consumer twice, only where a fault explains it, and as often as that fault
//!   can explain: the node it struck had claimed or handed over that id within the lease around it;
//! * no lie: a record that says *settled* covers only what was sent, or what the consumer has;
//! * no late surprise: nobody hands over later than half a lease after its claim what a sibling has handed over since;
//! * digests announce no number that was not handed over;
//! * bounds: parked bytes, slab, backlog and the listener's table stay within their limits at every step; nothing waits
//!   for ever.
//!
//! Healthy here means: a call takes at most 30 ms and a round at most 15 ms, together less than the 50 ms that a frame
//! waits for the store; a timer is at most 2 ms late.

mod check;
mod consumer;
mod endpoint;
mod frames;
mod kernel;
mod listener;
mod mutation;
mod network;
mod node;
mod plan;
mod proxy;
mod strike;
mod trail;
mod world;

pub use mutation::Mutation;

use crate::hunt::Sum;
use crate::violation::{Violation, guarded};
use std::fmt;

/// What kind of worlds to run.
pub type Options = crate::options::Options<Mutation>;

/// What happened in worlds without a violation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Worlds with at least two proxies, 50 ids and three faults.
    pub counted: u64,
    /// Events handled.
    pub events: u64,
    /// Ids sent at least once.
    pub sent: u64,
    /// Sent again, each explained by a fault.
    pub sent_again: u64,
    /// Frames that consumers received for the first time.
    pub delivered: u64,
    /// Received again, each explained by a fault.
    pub delivered_again: u64,
    /// Ids that nodes had claimed or handed over within the lease around the faults that struck them: as many may come
    /// again.
    pub covered: u64,
    /// Numbers that came only because they were asked for.
    pub repaired: u64,
    /// Sent and never delivered, because no listener of the consumer lived through it.
    pub unserved: u64,
    /// Sent by a proxy that died before its next digest in a flow of which the listener never heard, in a world whose
    /// endpoints do not announce flows.
    pub unheard: u64,
    /// Flows that endpoints announced because their sender fell silent.
    pub announced: u64,
    /// Questions about what may follow a flow's last number.
    pub probes: u64,
}

impl Sum for Summary {
    fn add(&mut self, world: &Summary) {
        self.counted += world.counted;
        self.events += world.events;
        self.sent += world.sent;
        self.sent_again += world.sent_again;
        self.delivered += world.delivered;
        self.delivered_again += world.delivered_again;
        self.covered += world.covered;
        self.repaired += world.repaired;
        self.unserved += world.unserved;
        self.unheard += world.unheard;
        self.announced += world.announced;
        self.probes += world.probes;
    }

    fn counted(&self) -> u64 {
        self.counted
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events; {} ids sent, {} again; {} delivered, {} again (leases around the faults covered {}); {} numbers \
             repaired, {} flows announced by endpoints, {} probes; not delivered: {} while no listener of the consumer \
             lived, {} of flows that only an endpoint of an old kind knew",
            self.events,
            self.sent,
            self.sent_again,
            self.delivered,
            self.delivered_again,
            self.covered,
            self.repaired,
            self.announced,
            self.probes,
            self.unserved,
            self.unheard,
        )
    }
}

/// Runs the world of `seed`.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Violation> {
    let options = *options;
    guarded(|| world::World::new(seed, options).run()).map_err(|what| options.violation("fabric", seed, what))
}
