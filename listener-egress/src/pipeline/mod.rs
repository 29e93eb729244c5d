//! The path of a frame through a listener's worker, as pure decisions: time, bytes and seeds come in as arguments. No
//! socket, no clock, no task.
//!
//! ```text
//!  datagram ─ door (source, kind, length) ─┬─ fragment ── track ── reassemble ─┐
//!                                          └─ filter ─ verify ─ track ─────────┴─ gate ─ deliver
//!                                                                 │ gaps
//!  ADVERT, digest, response ─────────────────────────────────── request ── NACK
//! ```
//!
//! [`round`] holds the order of a round and [`Pipeline`]; `reception` goes from a datagram to the gate; the rest are parts
//! with their own state. Gaps are tracked by the crate `gap-track`.

mod batch;
mod contested;
pub mod counts;
mod deliver;
mod filter;
mod gate;
mod headers;
pub mod mark;
mod path;
pub mod position;
mod reassemble;
mod reception;
mod registry;
mod request;
pub mod round;
mod settings;
mod totals;
mod verify;

pub use batch::{Batch, Door};
pub use counts::{Counts, DropReason, Loss};
pub use deliver::{Datagram, DatagramQueue, Full, Handed, LONGEST_DATAGRAM, Run, StreamQueue};
pub use filter::{BadPrefix, Filter, FilterRules, Prefix};
pub use gap_track::{FlowClass, Lost, Position, TrackLimits};
pub use gate::claim_key;
pub use headers::BLOCK_HEADER_FRAME;
pub use mark::{Sighted, Withheld};
pub use position::Positions;
pub use reassemble::{Parts, Reassembler, ReassemblyLimits, Rebuilt};
pub use registry::{Change, Known, MAX_ENDPOINTS, Registry};
pub use request::Request;
pub use round::{Fates, LeftBehind, Next, Pipeline, Refused, RoundIo, Turn};
pub use settings::Settings;
pub use verify::{VerifyRules, verify};
