//! What must hold, and what explains an exception.

use crate::MS;
use crate::fault::{Fault, Kind};
use txidset::Why;

/// An emission this long before a fault may not be settled when it strikes.
const BEFORE: u64 = 400 * MS;
/// This long after a fault its consequences last: two leases, and what queued up.
const AFTER: u64 = 800 * MS;

/// A frame on the fabric.
#[derive(Clone, Copy, Debug)]
pub(super) struct Emission {
    pub(super) node: usize,
    pub(super) at: u64,
    pub(super) why: Option<Why>,
}

/// What became of one copy of an id at one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pending,
    Emitted,
    /// Another node has sent it, said the protocol.
    Suppressed,
    /// A repeat at the same node.
    Seen,
    /// A repeat, although the copy before it could not be sent.
    SeenAfterFailure,
    /// The kernel refused it; counted.
    Failed,
    /// Its node died.
    Died,
}

/// All that is known about one id.
#[derive(Default)]
pub(super) struct History {
    pub(super) emissions: Vec<Emission>,
    pub(super) copies: Vec<(usize, Fate)>,
    /// A failover undid its release.
    pub(super) unreleased: bool,
}

impl History {
    /// Somebody still has, or let go, a copy that was never sent.
    pub(super) fn is_lost(&self) -> bool {
        let blamed = |&(_, fate): &(usize, Fate)| {
            matches!(fate, Fate::Pending | Fate::Suppressed | Fate::SeenAfterFailure)
        };
        self.emissions.is_empty() && !self.unreleased && self.copies.iter().any(blamed)
    }

    /// Whether a fault or a bound explains that it was emitted more than once.
    pub(super) fn is_explained(&self, faults: &[Fault]) -> bool {
        let bound = |why| matches!(why, Why::Draining | Why::ParkingFull | Why::Bypassed);
        self.emissions.iter().any(|emission| {
            emission.why.is_some_and(bound) || faults.iter().any(|fault| self.explains(fault, emission))
        })
    }

    fn explains(&self, fault: &Fault, emission: &Emission) -> bool {
        // A slip may lie in wait until its connection is used again.
        let over = fault.kind != Kind::Slip && emission.at > fault.end + AFTER;
        let near = emission.at + BEFORE >= fault.start && !over;
        let forgotten = fault.forgets() && emission.at <= fault.start;
        // Its owner, or one that released it and died before it could say so.
        let failed = |&(node, fate): &(usize, Fate)| node == fault.node && fate == Fate::Failed;
        let owner = emission.node == fault.node || self.copies.iter().any(failed);
        fault.troubles_store() && (near || forgotten) || fault.troubles_node() && near && owner
    }
}
