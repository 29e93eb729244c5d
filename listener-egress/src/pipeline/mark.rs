//! Which transactions a listener marks where the proxies claim (docs/claims.md, courtesy marks).
//!
//! Why so few: a mark suppresses every further copy at the proxies of a site, and nobody counts that as a loss. So one
//! datagram to one listener must not be enough. A frame is marked only if all of this holds: it was verified; it came by
//! multicast, in the group of its id; it has a number, so that whoever lost it can have it repaired; it came when it was
//! due, not as a repair or under an old number; the worker had its turns in time; and it is new at the gate. What is new
//! there but fails one of the others is counted by reason.
//!
//! Cost: nothing unless marks are on; then a compare of addresses a frame, and 48 bytes a new one until the burst's end.

use frame::{Fabric, GroupIndex};
use std::net::IpAddr;
use txidset::ClaimKey;

service::reasons! {
    /// Why a frame that is new at the gate is not marked.
    pub enum Withheld {
        /// It came by unicast, or in another group than that of its id: others need not have it.
        keeps Unicast = "unicast",
        /// It has no number (V1): whoever lost it needs a copy that has one.
        keeps Unnumbered = "unnumbered",
        /// A repair, or an old number: it says nothing about now.
        keeps Repair = "repair",
        /// It was rebuilt from fragments, some of which may have been repairs.
        keeps Fragments = "fragments",
        /// The worker had no turn for a while: nobody knows how long ago the frame came.
        keeps Late = "late",
    }
}

/// Whether a frame is to be marked if it is new at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Markable {
    /// Marks are off, or not for this class.
    No,
    /// It is.
    Yes,
    /// It is not, and this is why.
    Withheld(Withheld),
}

/// A transaction that was seen on the fabric for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// What the proxies claim of it: its id; and once more its variant, if it has one.
    pub key: ClaimKey,
    /// HashKey of its frame.
    pub flow: u64,
    /// SeqNum of its frame.
    pub number: u64,
}

/// What is known of a frame's arrival.
pub(super) struct Arrived {
    /// Destination of the datagram, where the socket told it.
    pub(super) to: Option<IpAddr>,
    /// Group of its id.
    pub(super) group: GroupIndex,
    /// It came when its number was due; `None`: it has no number.
    pub(super) due: Option<bool>,
    /// From the host of a retry endpoint.
    pub(super) from_endpoint: bool,
    /// The worker had its turns in time.
    pub(super) punctual: bool,
}

impl Arrived {
    /// Whether the frame is to be marked if it is new at the gate.
    pub(super) fn judge(&self, fabric: &Fabric) -> Markable {
        if self.to != Some(fabric.address(self.group)) {
            Markable::Withheld(Withheld::Unicast)
        } else if self.due.is_none() {
            Markable::Withheld(Withheld::Unnumbered)
        } else if self.due != Some(true) || self.from_endpoint {
            Markable::Withheld(Withheld::Repair)
        } else if !self.punctual {
            Markable::Withheld(Withheld::Late)
        } else {
            Markable::Yes
        }
    }
}
