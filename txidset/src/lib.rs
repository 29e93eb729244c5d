//! Two-tier claims: which node forwards an id.
//!
//! Tier 1 (`local`) is an exact, fixed-memory set in the process, shared by the workers of a role. Tier 2 is a
//! `cache_backend::Backend`, asked only about ids that tier 1 has not seen. `claims` is the protocol between them: a
//! pure state machine (no socket, no clock, no task) that is told the time and what came back, and says what to ask and
//! what to do with each frame. `driver` runs it against a real backend. The rules are in `docs/claims.md`.

pub mod claims;
pub mod driver;
pub mod key;
pub mod local;
mod random;

pub use claims::{Claims, ClaimsConfig, Decision, Mode, Ticket, Token, Verdict, Why};
pub use key::{ClaimKey, Class};
pub use local::LocalSet;
