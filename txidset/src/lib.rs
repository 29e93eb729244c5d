//! Two-tier claims: which node forwards an id.
//!
//! Tier 1 ([`local`]) is an exact set of fixed size in the process. The workers of a role share it. Tier 2 is a
//! `cache_backend::Backend`, which siblings share. It is asked only about ids that tier 1 has not seen. [`claims`] is the
//! protocol between them: a pure state machine (no socket, no clock, no task). It is told the time and what came back. It
//! says what to ask, and what to do with each frame. [`driver`] runs it against a real backend. [`node`] knows whose process
//! has ended, and [`fabric`] whose prefix it is. `docs/claims.md` has the rules.
//!
//! # Tier 1 alone
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//! use txidset::{ClaimKey, Claims, ClaimsConfig, Class, LocalSet, Verdict};
//!
//! let seen = Arc::new(LocalSet::new(100_000, Duration::from_secs(600), rand::random()));
//! let mut claims = Claims::new(ClaimsConfig::default(), seen, rand::random());
//!
//! // Key, the caller's name for the frame, and its bytes.
//! let frame = (ClaimKey { class: Class::Tx, id: [7; 32] }, 0, 250);
//! let mut verdicts = Vec::new();
//! let now = Instant::now();
//! claims.claim(now, &[frame, frame], &mut verdicts);
//! let [Verdict::Won(ticket), Verdict::Seen] = verdicts[..] else { panic!("first sight wins") };
//!
//! // It could not be sent: the next copy is new again.
//! claims.failed(now, ticket);
//! verdicts.clear();
//! claims.claim(now, &[frame], &mut verdicts);
//! assert!(matches!(verdicts[..], [Verdict::Won(_)]));
//! ```
//!
//! # Two workers and a store
//!
//! ```
//! use cache_backend::Settings;
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//! use txidset::{ClaimKey, Claims, ClaimsConfig, Class, Decision, Driver, LocalSet, Why};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = cache_backend::open(Settings::Memory { bytes: 1 << 20 }).await?;
//! let claims = |seed| {
//!     let config = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
//!     Claims::new(config, Arc::new(LocalSet::new(1000, Duration::from_secs(600), seed)), seed)
//! };
//! let (mut owner, mut sibling) = (claims(1), claims(2));
//! let mut driver = Driver::open(store).await?;
//! let frame = (ClaimKey { class: Class::Tx, id: [7; 32] }, 0, 250);
//! let now = Instant::now();
//!
//! owner.claim(now, &[frame], &mut Vec::new());
//! driver.pump(&mut owner, now);
//! let Some(Decision::Send { ticket, why: Why::Won, .. }) = owner.next_decision() else {
//!     panic!("the first claim is won")
//! };
//! owner.sent(now, ticket);
//!
//! // The sibling keeps its copy until the owner's record says that the claim is settled.
//! sibling.claim(now, &[frame], &mut Vec::new());
//! driver.pump(&mut sibling, now);
//! assert_eq!((sibling.next_decision(), sibling.waiting()), (None, 1));
//! let later = now + Duration::from_millis(100);
//! driver.pump(&mut owner, later);
//! driver.pump(&mut sibling, later);
//! assert_eq!(sibling.next_decision(), Some(Decision::Suppress { token: 0, why: Why::Settled }));
//! # Ok(())
//! # }
//! ```

#[macro_use]
mod planted;

pub mod claims;
pub mod config;
pub mod decision;
pub mod driver;
pub mod fabric;
pub mod key;
mod ledger;
pub mod local;
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod mutation;
pub mod name;
pub mod node;
mod random;
pub mod stats;
pub mod value;

pub use claims::{Answer, Ask, Claims, Request, RequestId, Trust, Watermark};
pub use config::{ClaimsConfig, Mode};
pub use decision::{Claimant, Decision, Ticket, Token, Verdict, Why};
pub use driver::Driver;
pub use fabric::FabricLabel;
pub use key::{ClaimKey, Class};
pub use ledger::{UNSETTLED_LATE, Unsettled};
pub use local::LocalSet;
pub use name::{Holder, KeyStyle, Names};
pub use node::Predecessors;
pub use stats::ClaimStats;
pub use value::{ClaimValue, CourtesyMark, Found, Record};
