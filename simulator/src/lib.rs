//! Virtual time, virtual network and model backend that drive many nodes from a seed.
//!
//! Two kinds of worlds, each wholly drawn from one seed:
//! * [`claims`]: the claim protocol alone, its workers over the model backend. Small, fast, and the place where every
//!   interleaving of claims, records, leases and releases is tried.
//! * [`fabric`]: whole nodes. Proxies, listeners and retry endpoints run the rounds that ship, with a network, kernels and
//!   consumers between them.
//!
//! Both share the store (`store`), the calls to it (`store_calls`), what goes wrong (`fault`), and time and
//! random numbers (`context`). [`hunt`] runs many seeds on many cores.

pub mod claims;
mod context;
pub mod fabric;
mod fault;
pub mod hunt;
mod options;
mod owners;
mod random;
mod store;
mod store_calls;
mod timeline;
mod violation;

pub use options::Options;
pub use violation::Violation;

/// A millisecond of virtual time, which is counted in microseconds.
const MS: u64 = 1_000;
