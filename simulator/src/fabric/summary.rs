//! What happened in worlds.

use crate::hunt::Totals;
use std::fmt;

/// What happened in worlds without a violation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Worlds with at least two proxies, 50 ids and three faults.
    pub counted: u64,
    /// Events handled.
    pub events: u64,
    /// Ids sent at least once.
    pub sent: u64,
    /// Sent again, each explained by a fault.
    pub sent_again: u64,
    /// Frames that consumers received for the first time.
    pub delivered: u64,
    /// Received again, each explained by a fault.
    pub delivered_again: u64,
    /// Ids that nodes had claimed or handed over within the lease around the faults that struck them: as many may come
    /// again.
    pub covered: u64,
    /// Numbers that came only because they were asked for.
    pub repaired: u64,
    /// Sent and never delivered, because no listener of the consumer lived through it.
    pub unserved: u64,
    /// Sent by a proxy that died before its next digest in a flow of which the listener never heard, in a world whose
    /// endpoints do not announce flows.
    pub unheard: u64,
    /// Flows that endpoints announced because their sender fell silent.
    pub announced: u64,
    /// Questions about what may follow a flow's last number.
    pub probes: u64,
}

impl Totals for Summary {
    fn add(&mut self, world: &Summary) {
        self.counted += world.counted;
        self.events += world.events;
        self.sent += world.sent;
        self.sent_again += world.sent_again;
        self.delivered += world.delivered;
        self.delivered_again += world.delivered_again;
        self.covered += world.covered;
        self.repaired += world.repaired;
        self.unserved += world.unserved;
        self.unheard += world.unheard;
        self.announced += world.announced;
        self.probes += world.probes;
    }

    fn counted(&self) -> u64 {
        self.counted
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events; {} ids sent, {} again; {} delivered, {} again (leases around the faults covered {}); {} numbers \
             repaired, {} flows announced by endpoints, {} probes; not delivered: {} while no listener of the consumer \
             lived, {} of flows that only an endpoint of an old kind knew",
            self.events,
            self.sent,
            self.sent_again,
            self.delivered,
            self.delivered_again,
            self.covered,
            self.repaired,
            self.announced,
            self.probes,
            self.unserved,
            self.unheard,
        )
    }
}
