//! A deterministic world for the claim protocol: proxies with one or two workers each, a model of the shared store, and
//! faults, all drawn from one seed.
//!
//! What is checked, in every world:
//! * no loss: an id that a node received and did not lose by dying was emitted by somebody, unless every such copy was
//!   refused by the kernel (and counted as failed);
//! * no lie: when a record says that an epoch is settled, every id that stands claimed in it was emitted, and a copy is
//!   let go only after its id was emitted;
//! * once: an id is emitted twice only where a fault explains it: the store was in trouble around one of its emissions,
//!   or a node that emitted it died or stood still around that, or a bound was reached, or a node was draining;
//! * no late surprise: nobody emits later than half a lease after its claim what a sibling has emitted meanwhile;
//! * bounds: parked bytes never exceed their limit, and nothing waits for ever.
//!
//! Healthy here means: a call takes at most 30 ms, a frame leaves at most 60 ms after its decision, a timer is at most
//! 2 ms late.

mod evidence;
mod node;
mod world;

use crate::hunt::Totals;
use crate::violation::guarded;
use std::fmt;

pub use crate::violation::Violation;
pub use txidset::mutation::Mutation;

/// What kind of worlds to run.
pub type Options = crate::options::Options<Mutation>;

/// What happened in a world without a violation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Worlds with at least two proxies, 50 ids and three faults; one world in sixteen has no fault at all.
    pub counted: u64,
    /// Events handled.
    pub events: u64,
    /// Ids emitted at least once.
    pub emitted: u64,
    /// Emissions beyond the first of an id, all explained by a fault.
    pub duplicates: u64,
    /// Copies that were taken over from an owner that did not settle.
    pub taken_over: u64,
}

impl Totals for Summary {
    fn add(&mut self, world: &Summary) {
        self.counted += world.counted;
        self.events += world.events;
        self.emitted += world.emitted;
        self.duplicates += world.duplicates;
        self.taken_over += world.taken_over;
    }

    fn counted(&self) -> u64 {
        self.counted
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { events, emitted, duplicates, taken_over, .. } = self;
        write!(
            f,
            "{events} events, {emitted} ids emitted, {taken_over} taken over, {duplicates} duplicates explained by a \
             fault"
        )
    }
}

/// Runs the world of `seed`.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Violation> {
    let options = *options;
    guarded(|| world::World::new(seed, options).run()).map_err(|what| options.violation("claims", seed, what))
}
