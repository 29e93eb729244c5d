//! Virtual time, virtual network and model backend that drive the pipelines of many nodes from a seed.
//!
//! Two kinds of worlds, each wholly drawn from one seed:
//! * [`claims`]: the claim protocol alone, its workers over the model backend. Small, fast, and the place where every
//!   interleaving of claims, records, leases and releases is tried.
//! * [`fabric`]: whole nodes. Proxies, listeners and a retry endpoint run their real pipelines, with a network, kernels and
//!   consumers between them.
//!
//! Both share the backend ([`store`]), the way to it ([`way`]), what goes wrong ([`fault`]), time ([`timeline`]) and the
//! dice ([`random`]). [`hunt`] runs many seeds on many cores.

pub mod claims;
pub mod fabric;
mod fault;
pub mod hunt;
mod options;
mod owners;
mod random;
mod store;
mod timeline;
mod violation;
mod way;

pub use options::Options;
pub use violation::Violation;

/// A millisecond of virtual time, which is counted in microseconds.
const MS: u64 = 1_000;
