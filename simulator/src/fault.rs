//! What goes wrong, when, and to whom.

use crate::MS;
use crate::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// kill -9; comes back after a while, or never.
    Crash { restart: Option<u64> },
    /// SIGSTOP, or a machine that stands still.
    Pause,
    /// SIGTERM.
    Drain,
    /// The kernel refuses the node's sends.
    RefusedSends,
    /// The node's link takes only so many frames a round.
    Shaped { frames: usize },
    /// The node's interface loses its carrier: what it takes vanishes. Or (`gone`) it is deleted and made again: it refuses.
    LinkLost { gone: bool },
    /// No request of the node reaches the store, or no reply the node.
    Partition { requests_land: bool },
    /// Replies of the store come after their deadline.
    LateReplies { by: u64 },
    /// Requests are carried out long after their deadline.
    LateLanding { by: u64 },
    /// From here on each answer of the connection is that of the question before.
    Slip,
    /// The breaker of the node is open.
    Breaker,
    /// Keys leave the store.
    Evict,
    /// The store goes away for a while and comes back without its latest writes.
    Failover,
    /// The node's wall clock jumps: means nothing, unless the lease is measured with it.
    ClockStep,
    /// The listener hears nothing of the fabric.
    Deaf,
    /// More than usual of what is sent to the listener gets lost.
    Loss { percent: u64 },
    /// The connection between listener and consumer breaks.
    ConsumerBreaks,
    /// The listener's consumer takes nothing.
    ConsumerStalls,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) node: usize,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Fault {
    /// Faults of a world; later ones often strike near an earlier one, because that is where protocols break.
    pub(crate) fn draw(
        random: &mut Random,
        count: usize,
        nodes: usize,
        span: u64,
        kind_of: impl Fn(&mut Random, usize) -> Kind,
    ) -> Vec<Fault> {
        let mut faults: Vec<Fault> = Vec::new();
        while faults.len() < count {
            let near = faults.last().filter(|_| random.percent(60)).map(|fault| (fault.start, fault.node));
            let (start, node) = match near {
                Some((start, node)) => {
                    let node = if random.percent(60) { node } else { random.below(nodes) };
                    (start + random.between(0, 400 * MS), node)
                }
                None => (random.between(50 * MS, span), random.below(nodes)),
            };
            let kind = kind_of(random, node);
            let end = start + kind.length(random);
            faults.push(Fault { kind, node, start, end });
        }
        faults
    }

    /// Whether the store, or the way to it, is in trouble.
    pub(crate) fn troubles_store(&self) -> bool {
        matches!(
            self.kind,
            Kind::Partition { .. }
                | Kind::LateReplies { .. }
                | Kind::LateLanding { .. }
                | Kind::Slip
                | Kind::Breaker
                | Kind::Evict
                | Kind::Failover
        )
    }

    /// Whether the store forgot something for good.
    pub(crate) fn forgets(&self) -> bool {
        matches!(self.kind, Kind::Evict | Kind::Failover)
    }

    /// Whether the node died or stood still.
    pub(crate) fn troubles_node(&self) -> bool {
        matches!(self.kind, Kind::Crash { .. } | Kind::Pause | Kind::Drain)
    }
}

impl Kind {
    /// What happens to a proxy that has no links, or to the store.
    pub(crate) fn of_proxy(random: &mut Random) -> Kind {
        let drawn = random.below(16);
        Kind::numbered(random, if drawn < 15 { drawn } else { 17 })
    }

    /// What happens to a proxy with links, or to the store.
    pub(crate) fn of_emitter(random: &mut Random) -> Kind {
        let drawn = random.below(18);
        Kind::numbered(random, drawn)
    }

    fn numbered(random: &mut Random, number: usize) -> Kind {
        match number {
            0..=2 => {
                let restart = random.percent(60).then(|| random.between(20 * MS, 600 * MS));
                Kind::Crash { restart }
            }
            3 | 4 => Kind::Pause,
            5 => Kind::Drain,
            6 | 7 => Kind::RefusedSends,
            8 => Kind::Partition { requests_land: true },
            9 => Kind::Partition { requests_land: false },
            10 => Kind::LateReplies { by: random.between(30 * MS, 300 * MS) },
            11 => Kind::LateLanding { by: random.between(30 * MS, 300 * MS) },
            12 => Kind::Slip,
            13 => [Kind::Breaker, Kind::ClockStep][random.below(2)],
            14 => Kind::Evict,
            15 => Kind::Shaped { frames: 1 + random.below(5) },
            16 => Kind::LinkLost { gone: random.percent(30) },
            _ => Kind::Failover,
        }
    }

    /// What happens to a listener and to those around it.
    pub(crate) fn of_listener(random: &mut Random) -> Kind {
        match random.below(18) {
            0..=2 => {
                let restart = random.percent(70).then(|| random.between(20 * MS, 600 * MS));
                Kind::Crash { restart }
            }
            3 | 4 => Kind::Pause,
            5 => Kind::Drain,
            6 => Kind::Deaf,
            7 | 8 => Kind::Loss { percent: random.between(20, 70) },
            9 | 10 => Kind::ConsumerBreaks,
            11 => Kind::ConsumerStalls,
            12 => Kind::Partition { requests_land: random.percent(50) },
            13 => Kind::LateReplies { by: random.between(30 * MS, 300 * MS) },
            14 => Kind::LateLanding { by: random.between(30 * MS, 300 * MS) },
            15 => Kind::Slip,
            16 => Kind::Breaker,
            _ => Kind::Evict,
        }
    }

    fn length(self, random: &mut Random) -> u64 {
        match self {
            Kind::Pause => random.between(60 * MS, 900 * MS),
            Kind::RefusedSends
            | Kind::Partition { .. }
            | Kind::LateReplies { .. }
            | Kind::LateLanding { .. }
            | Kind::Breaker => random.between(5 * MS, 200 * MS),
            Kind::Shaped { .. } | Kind::LinkLost { .. } => random.between(50 * MS, 800 * MS),
            Kind::Deaf | Kind::Loss { .. } | Kind::ConsumerStalls => random.between(20 * MS, 500 * MS),
            Kind::Failover => random.between(0, 200 * MS),
            Kind::Crash { restart } => restart.unwrap_or(0),
            Kind::Drain | Kind::Slip | Kind::Evict | Kind::ClockStep | Kind::ConsumerBreaks => 0,
        }
    }
}
