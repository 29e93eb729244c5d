//! Gaps in numbered flows: what is missing, what is owed, what was given up.
//!
//! Why: a frame lost in silence is the worst that can happen. Every datagram that carries a number is shown to the tracker
//! before any filter of contents. What a number skips becomes a gap, and a gap closes when its frame arrives and for no
//! other reason. Flow digests show what no later frame would: the loss of a flow's last frames, or of all of them. Probes
//! ask endpoints where no digest comes.
//!
//! The tracker knows no socket and no clock, and sends nothing. Its owner asks for what is missing and keeps a state of its
//! own (`R`) with each gap: what was asked of whom, and when. The crate depends on `frame` alone.
//!
//! Promises: a number is reported as missing once. Numbers that are given up are counted by reason, never silent. A single
//! frame cannot move a flow further than `max_jump`: a longer jump is held until a second frame or a digest confirms it.
//! Then the part that no endpoint could still hold is counted as lost, and the rest is to be requested.
//!
//! Limits: flows are bounded in number; a full table drops the idlest of a sample, or refuses. Missing numbers are kept as
//! ranges, bounded over all flows. A flow that left for its age leaves its next number in a bounded memory.
//!
//! Cost: a frame in order costs one hash lookup and a compare. A gap costs an entry in the table and one in the flow's
//! ordered map, whatever its length.
//!
//! | Module | What it holds |
//! |---|---|
//! | [`gaps`] | ranges of missing numbers, a pure data structure |
//! | `gap` | a gap as whoever asks for it sees it |
//! | `head` | where the numbers of a flow end; jumps that wait; restarts |
//! | `flows` | the bounded table of flows |
//! | `resume` | positions of an earlier process, and what a new flow owes |
//! | `digests` | what digests say, and who sends them |
//! | `probe` | questions about what follows a flow's last number |
//! | `journal` | counters, and notes for the log |
//! | `tracker` | the coordinator: [`Tracker`] |
//! | [`slots`] | a table whose entries have names |
//!
//! ```
//! use frame::{GroupIndex, HashKey, SeqNum, id::NO_ID};
//! use gap_track::{FlowClass, GapEvent, Seen, Sighting, TrackLimits, Tracker};
//! use std::net::Ipv6Addr;
//! use std::time::Instant;
//!
//! let now = Instant::now();
//! let mut tracker: Tracker<()> = Tracker::new(TrackLimits::default(), 1, now);
//! let frame = |number| Sighting {
//!     key: HashKey(7),
//!     seq: SeqNum(number),
//!     group: GroupIndex(0),
//!     subtree: &NO_ID,
//!     class: FlowClass::Tx,
//!     source: Ipv6Addr::LOCALHOST.into(),
//!     wanted: true,
//!     trusted: true,
//! };
//! tracker.observe(now, &frame(1));
//! tracker.observe(now, &frame(5));
//! assert_eq!(tracker.missing(), 3);
//!
//! // Somebody has to ask for it, when it is due.
//! let Some(GapEvent::Due(id)) = tracker.next_event() else { panic!("a gap was opened") };
//! let gap = tracker.gap(id).unwrap();
//! assert_eq!((gap.first, gap.last), (2, 4));
//! tracker.set_requested(id);
//!
//! // A number that comes closes its part of the gap.
//! let Seen::Filled(filled) = tracker.observe(now, &frame(3)) else { panic!("3 was missing") };
//! assert!(filled.requested);
//! assert_eq!((tracker.missing(), tracker.counts().recovered), (2, 1));
//! ```

#[macro_use]
mod planted;
mod digests;
mod flows;
mod gap;
pub mod gaps;
mod hash;
mod head;
mod journal;
mod limits;
#[cfg(feature = "mutants")]
#[doc(hidden)]
pub mod mutation;
mod probe;
mod resume;
mod sighting;
pub mod slots;
mod tracker;

pub use digests::FlowDigest;
pub use gap::{Gap, GapEvent};
pub use gaps::GapId;
pub use journal::{Counts, Loss, Lost};
pub use limits::TrackLimits;
pub use probe::{Asked, Question};
pub use resume::Position;
pub use sighting::{Filled, FlowClass, Seen, Sighting};
pub use tracker::Tracker;
