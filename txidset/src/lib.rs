//! Two-tier claims: which node forwards an id.
//!
//! Tier 1 (`local`) is an exact, fixed-memory set in the process, shared by the workers of a role. Tier 2 is a
//! `cache_backend::Backend`, asked only about ids that tier 1 has not seen. `claims` is the protocol between them: a
//! pure state machine (no socket, no clock, no task) that is told the time and what came back, and says what to ask and
//! what to do with each frame. `driver` runs it against a real backend, `node` knows whose process has ended,
//! `fabric` whose prefix it is. The rules are in `docs/claims.md`.

pub mod claims;
pub mod driver;
pub mod fabric;
pub mod key;
mod ledger;
pub mod local;
#[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "only the simulator plants faults"))]
#[doc(hidden)]
pub mod mutation;
pub mod name;
pub mod node;
mod random;
pub mod stats;
pub mod value;

pub use claims::{
    Answer, Ask, Claimant, Claims, ClaimsConfig, Decision, Mark, Mode, Request, RequestId, Ticket, Token,
    Trust, Verdict, Why,
};
pub use driver::Driver;
pub use fabric::FabricWord;
pub use key::{ClaimKey, Class};
pub use local::LocalSet;
pub use name::{Holder, KeyStyle, Names};
pub use node::Succession;
pub use stats::ClaimStats;
pub use value::{ClaimValue, CourtesyMark, Found, Record};
