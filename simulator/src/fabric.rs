//! A deterministic world of whole nodes: proxies, listeners and retry endpoints that run the rounds that ship, and models of
//! everything around them, all drawn from one seed.
//!
//! 2 to 4 proxies of one or two workers; 1 to 3 listeners, a pair in front of one consumer included; 50 frames or more, some
//! of which leave in fragments. A world has these parts, each with its own state:
//!
//! | Part | Module |
//! |---|---|
//! | time, events, random numbers | `crate::context`, `event`, `plan` |
//! | a multicast network that loses, repeats, reorders, delays and forges | `network` |
//! | the shared store and the calls to it | `crate::store`, `crate::store_calls`, `worker` |
//! | processes, their rounds and ends | `fleet`, `node`, `worker` |
//! | a proxy, and its kernel, which takes trains or refuses them | `proxy`, `kernel` |
//! | a listener, and the TCP connection to its consumer | `listener`, `consumer` |
//! | a retry endpoint | `endpoint` |
//! | what the checks know, and what they conclude | `evidence`, `history`, `verdict` |
//!
//! `world` brings them together: it takes the next event and hands it to the part that it is for. A process gets all that
//! surrounds it as one argument, the `environment`.
//!
//! What is checked (`evidence`, `history`, `verdict`):
//! * no number twice: no HashKey with SeqNum ever carries two frames, or one frame twice;
//! * no loss at a proxy: an id that a living process received was sent by somebody, unless the kernel refused it and the
//!   process counted that; frames accepted are frames sent, suppressed or counted as dropped;
//! * no loss at a listener: what was sent while a listener of a consumer lived, and lives on, reaches that consumer whole
//!   and unaltered; no gap stays open and no number is given up while an endpoint holds it;
//! * once: an id is sent twice, or handed to a consumer twice, only where a fault explains it, and as often as that fault
//!   can explain: the node it struck had claimed or handed over that id within the lease around it;
//! * no lie: a record that says *settled* covers only what was sent, or what the consumer has;
//! * no late surprise: nobody hands over later than half a lease after its claim what a sibling has handed over since;
//! * digests announce no number that was not handed over, and an endpoint acknowledges no repair that its kernel did not
//!   take;
//! * bounds: parked bytes, slab, backlog and the listener's table stay within their limits at every step; nothing waits
//!   for ever.
//!
//! Healthy here means: a call takes at most 30 ms and a round pauses at most 15 ms after it asked the store, together less
//! than the 50 ms that a frame waits for it; a timer is at most 2 ms late. A full socket is waited for 5 ms, or not at all.

mod consumer;
mod endpoint;
mod environment;
mod event;
mod evidence;
mod fleet;
mod frames;
mod history;
mod kernel;
mod listener;
mod mutation;
mod network;
mod node;
mod node_config;
mod plan;
mod proxy;
mod summary;
mod verdict;
mod worker;
mod world;

pub use mutation::Mutation;
pub use summary::Summary;

use crate::violation::{Violation, guarded};

/// What kind of worlds to run.
pub type Options = crate::options::Options<Mutation>;

/// Runs the world of `seed`.
pub fn run(seed: u64, options: &Options) -> Result<Summary, Violation> {
    let options = *options;
    guarded(|| world::World::new(seed, options).run()).map_err(|what| options.violation("fabric", seed, what))
}
