//! What is known of each id, what must hold of it, and what explains an exception.

use super::Summary;
use crate::MS;
use crate::fault::{Fault, Kind};
use crate::owners::Owners;
use crate::store::Change;
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
enum Fate {
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

/// What the checks know of all ids.
#[derive(Default)]
pub(super) struct Evidence {
    ids: Vec<History>,
    /// What the workers told the store.
    owners: Owners,
}

impl Evidence {
    pub(super) fn of_ids(count: usize) -> Evidence {
        Evidence { ids: (0..count).map(|_| History::default()).collect(), owners: Owners::default() }
    }

    /// A node received a copy; which one of its id that is. `seen`: it was judged to be a repeat.
    pub(super) fn received(&mut self, node: usize, id: usize, seen: bool) -> usize {
        let copies = &mut self.ids[id].copies;
        let before = copies.iter().rev().find(|(at, fate)| *at == node && *fate != Fate::Seen);
        let failed = before.is_some_and(|(_, fate)| *fate == Fate::Failed);
        copies.push((
            node,
            match (seen, failed) {
                (true, true) => Fate::SeenAfterFailure,
                (true, false) => Fate::Seen,
                (false, _) => Fate::Pending,
            },
        ));
        copies.len() - 1
    }

    /// The kernel refused a copy.
    pub(super) fn refused(&mut self, id: usize, copy: usize) {
        self.ids[id].copies[copy].1 = Fate::Failed;
    }

    /// A copy left.
    pub(super) fn emitted(&mut self, id: usize, copy: usize, emission: Emission) {
        self.ids[id].copies[copy].1 = Fate::Emitted;
        self.ids[id].emissions.push(emission);
    }

    /// Somebody outside of this world has sent the id.
    pub(super) fn emitted_elsewhere(&mut self, id: usize, at: u64) {
        self.ids[id].emissions.push(Emission { node: usize::MAX, at, why: None });
    }

    /// A copy was let go; `false`: although nobody has sent the id.
    pub(super) fn let_go(&mut self, id: usize, copy: usize) -> bool {
        let history = &mut self.ids[id];
        history.copies[copy].1 = Fate::Suppressed;
        !history.emissions.is_empty() || history.unreleased
    }

    /// Somebody has sent the id after `at`.
    pub(super) fn was_emitted_after(&self, id: usize, at: u64) -> bool {
        self.ids[id].emissions.iter().any(|emission| emission.at > at)
    }

    /// A failover undid the release of the id's claim.
    pub(super) fn unreleased(&mut self, id: usize) {
        self.ids[id].unreleased = true;
    }

    /// The node died, and what it had in its hands with it.
    pub(super) fn died(&mut self, node: usize) {
        for (at, fate) in self.ids.iter_mut().flat_map(|history| &mut history.copies) {
            let in_hand = matches!(fate, Fate::Pending | Fate::Suppressed | Fate::SeenAfterFailure);
            if *at == node && in_hand {
                *fate = Fate::Died;
            }
        }
    }

    /// The store took a claim or a record. Returns an id that is said to be settled and was not sent.
    pub(super) fn stored(&mut self, change: Change, id_of: impl Fn([u8; 8]) -> usize) -> Option<usize> {
        let ids = &self.ids;
        let emitted = |id: usize| !ids[id].emissions.is_empty();
        match change {
            Change::Claimed { owner, epoch, id } => self.owners.claimed(owner, epoch, id_of(id), emitted),
            Change::Recorded(record) => self.owners.recorded(record, emitted),
        }
    }

    /// No id is lost, none was sent twice without reason; adds up what happened.
    pub(super) fn conclude(&self, faults: &[Fault], summary: &mut Summary) -> Result<(), String> {
        for (id, history) in self.ids.iter().enumerate() {
            if history.is_lost() {
                return Err(format!("id {id} is lost: copies {:?}", history.copies));
            }
            if history.emissions.len() > 1 && !history.is_explained(faults) {
                return Err(format!("id {id} was sent twice without reason: {:?}", history.emissions));
            }
            summary.emitted += u64::from(!history.emissions.is_empty());
            summary.duplicates += history.emissions.len().saturating_sub(1) as u64;
            let taken_over = |emission: &&Emission| emission.why == Some(Why::TakenOver);
            summary.taken_over += history.emissions.iter().filter(taken_over).count() as u64;
        }
        Ok(())
    }
}

/// All that is known about one id.
#[derive(Default)]
struct History {
    emissions: Vec<Emission>,
    /// By node.
    copies: Vec<(usize, Fate)>,
    /// A failover undid its release.
    unreleased: bool,
}

impl History {
    /// Somebody still has, or let go, a copy that was never sent.
    fn is_lost(&self) -> bool {
        let blamed = |&(_, fate): &(usize, Fate)| {
            matches!(fate, Fate::Pending | Fate::Suppressed | Fate::SeenAfterFailure)
        };
        self.emissions.is_empty() && !self.unreleased && self.copies.iter().any(blamed)
    }

    /// Whether a fault or a bound explains that it was emitted more than once.
    fn is_explained(&self, faults: &[Fault]) -> bool {
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
