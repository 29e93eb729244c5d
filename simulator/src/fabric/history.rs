//! What is known of one id at one gate: that of the proxies, or that of one consumer. And what explains that it passed more
//! than once.
//!
//! What a fault explains:
//! * A fault of a node explains one more passage of an id, if the node had claimed or handed over that id around the fault. That
//!   is: from a lease (and what a record takes) before it to two leases after it.
//! * A fault of the store itself explains one more for each worker that had touched the id.
//! * A node that cannot ask the store, or believe its answers (each worker has a connection that may slip), knows only what
//!   its tier 1 remembers. Copies that come after the horizon of the id's first sight there are new to it, each of them.

use crate::MS;
use crate::fault::{Fault, Kind};

/// A frame that passed a gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passage {
    pub(super) node: usize,
    pub(super) at: u64,
}

/// A node did something about the id: claimed it, or handed it over.
#[derive(Clone, Copy, Debug)]
struct Touch {
    node: usize,
    at: u64,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct IdHistory {
    pub(super) passages: Vec<Passage>,
    touches: Vec<Touch>,
    /// A failover undid a release of its claim.
    pub(super) unreleased: bool,
}

/// How far around a fault its consequences reach.
#[derive(Clone, Copy, Debug)]
pub(super) struct FaultReach {
    before: u64,
    after: u64,
}

impl FaultReach {
    /// For claims of a lease: what was claimed within it, an epoch and two calls earlier may not be recorded yet; what
    /// follows ends with a takeover of a takeover.
    pub(super) fn of_lease(lease: u64) -> FaultReach {
        FaultReach { before: lease + 150 * MS, after: 2 * lease + 300 * MS }
    }

    fn holds(self, fault: &Fault, at: u64) -> bool {
        // A slip may lie in wait until its connection is used again.
        let over = fault.kind != Kind::Slip && at > fault.end + self.after;
        at + self.before >= fault.start && !over
    }
}

impl IdHistory {
    pub(super) fn touch(&mut self, node: usize, at: u64) {
        self.touches.push(Touch { node, at });
    }

    pub(super) fn pass(&mut self, node: usize, at: u64) {
        self.touch(node, at);
        self.passages.push(Passage { node, at });
    }

    /// Passages beyond the first that no fault explains. `ours`: nodes of this gate. `horizon`: of their tier 1.
    pub(super) fn unexplained(
        &self,
        faults: &[Fault],
        reach: FaultReach,
        horizon: u64,
        ours: impl Fn(usize) -> bool,
    ) -> usize {
        let extra = self.passages.len().saturating_sub(1);
        if extra == 0 {
            return 0;
        }
        extra.saturating_sub(faults.iter().map(|fault| self.explained(fault, reach, horizon, &ours)).sum())
    }

    fn explained(
        &self,
        fault: &Fault,
        reach: FaultReach,
        horizon: u64,
        ours: &impl Fn(usize) -> bool,
    ) -> usize {
        let near = |touch: &&Touch| reach.holds(fault, touch.at);
        if fault.forgets() {
            let before = self.touches.iter().any(|touch| touch.at <= fault.start);
            let any = before || self.touches.iter().any(|touch| reach.holds(fault, touch.at));
            let mut nodes: Vec<usize> = self.touches.iter().map(|touch| touch.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            return if any { nodes.len() } else { 0 };
        }
        let struck = |touch: &Touch| ours(touch.node) && touch.node == fault.node;
        if !self.touches.iter().filter(near).any(struck) {
            return 0;
        }
        let alone = matches!(fault.kind, Kind::Breaker | Kind::Slip);
        if alone { self.forgotten(fault.node, horizon).max(1) } else { 1 }
    }

    /// Passages by `node` after its tier 1 had forgotten the id.
    fn forgotten(&self, node: usize, horizon: u64) -> usize {
        let first = self.touches.iter().filter(|touch| touch.node == node).map(|touch| touch.at).min();
        let Some(end) = first.and_then(|first| first.checked_add(horizon)) else { return 0 };
        self.passages.iter().filter(|passage| passage.node == node && passage.at >= end).count()
    }

    /// Whether `fault` may have touched the id: what the lease around it covers.
    pub(super) fn is_covered(&self, fault: &Fault, reach: FaultReach) -> bool {
        self.touches.iter().any(|touch| touch.node == fault.node && reach.holds(fault, touch.at))
    }
}
