//! All emit interfaces of a worker: each gets every frame, and none holds up another.

use super::emit::{Emission, Transmit};
use super::hand_over::HandOvers;
use super::lines::Lines;
#[cfg(feature = "mutants")]
use super::number::FlowTable;
use super::outlet::{Outlet, OutletProgress};
use super::settings::IngressConfig;
use crate::drops::DropReason;
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use frame::{Fabric, GroupIndex};
use std::net::SocketAddr;
use std::time::Instant;

/// See the module text. Sockets are passed in, in the order of the interfaces.
pub(super) struct Outlets {
    outlets: Vec<Outlet>,
    /// How far the current emission got on each; empty between emissions.
    progress: Vec<OutletProgress>,
    lines: Lines,
    fabric: Fabric,
    port: u16,
}

impl Outlets {
    pub(super) fn new(config: &IngressConfig) -> Outlets {
        let outlets: Vec<_> = (0..config.outlets.max(1)).map(|_| Outlet::new(config.outlet)).collect();
        let lines = Lines::new(outlets.len());
        Outlets { outlets, progress: Vec::new(), lines, fabric: config.fabric, port: config.egress_port }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    pub(super) fn mutate(&mut self, mutation: Mutation) {
        for outlet in &mut self.outlets {
            outlet.mutation = Some(mutation);
        }
    }

    /// A new emission: no interface has taken anything of it.
    pub(super) fn begin(&mut self) {
        self.progress.clear();
        self.progress.resize(self.outlets.len(), OutletProgress::Full(0));
        self.outlets.iter_mut().for_each(Outlet::begin);
    }

    /// The emission is over.
    pub(super) fn end(&mut self) {
        self.progress.clear();
    }

    /// Offers the emission to every interface; the first one whose socket is full, if any.
    pub(super) fn send(
        &mut self,
        now: Instant,
        emission: &Emission,
        memory: &[u8],
        sockets: &mut [impl Transmit],
        hand_overs: &mut HandOvers,
    ) -> Option<usize> {
        let mut full = None;
        let outlets = self.outlets.iter_mut().zip(&mut self.progress).zip(sockets);
        for (at, ((outlet, progress), socket)) in outlets.enumerate() {
            if let OutletProgress::Full(taken) = *progress
                && !self.lines.usable(at)
            {
                // What it alone lacks, others have; what none can send is lost, and released.
                let left = emission.origins.get(taken..).unwrap_or_default();
                match self.lines.any_usable() {
                    true => hand_overs.leave_out(left),
                    false => hand_overs.lose(left, DropReason::NoCarrier),
                }
                *progress = OutletProgress::Done;
            }
            if let OutletProgress::Full(taken) = *progress {
                *progress = outlet.send(now, (emission, memory), taken, socket, hand_overs);
            }
            if *progress != OutletProgress::Done {
                full = full.or(Some(at));
            }
        }
        full
    }

    /// Copies what full sockets did not take to the backlogs.
    pub(super) fn defer(
        &mut self,
        now: Instant,
        emission: &Emission,
        memory: &[u8],
        hand_overs: &mut HandOvers,
    ) {
        for (outlet, progress) in self.outlets.iter_mut().zip(&mut self.progress) {
            if let OutletProgress::Full(taken) = *progress {
                outlet.defer(now, (emission, memory), taken, hand_overs);
                *progress = OutletProgress::Done;
            }
        }
    }

    /// Between emissions: tries the backlogs again that are due, and gives up what waited too long.
    pub(super) fn retry(&mut self, now: Instant, sockets: &mut [impl Transmit], hand_overs: &mut HandOvers) {
        for (outlet, socket) in self.outlets.iter_mut().zip(sockets) {
            outlet.retry(now, socket, hand_overs);
            outlet.expire(now, hand_overs);
        }
    }

    /// Gives up every backlog.
    pub(super) fn abandon(&mut self, reason: DropReason, hand_overs: &mut HandOvers) {
        for outlet in &mut self.outlets {
            outlet.abandon(reason, hand_overs);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.outlets.len()
    }

    /// The interfaces, for a look at the links.
    pub(super) fn lines(&mut self) -> &mut Lines {
        &mut self.lines
    }

    /// One of the interfaces can emit.
    pub(super) fn can_emit(&self) -> bool {
        self.lines.any_usable()
    }

    /// What waits for an interface without carrier waits no more, as others have it.
    pub(super) fn leave_out(&mut self, hand_overs: &mut HandOvers) {
        for (at, outlet) in self.outlets.iter_mut().enumerate() {
            if !self.lines.usable(at) {
                outlet.leave_out(hand_overs);
            }
        }
    }

    /// Only ever planted: what waits takes new numbers.
    #[cfg(feature = "mutants")]
    pub(super) fn number_again(&mut self, flows: &mut FlowTable) {
        for outlet in &mut self.outlets {
            outlet.number_again(flows);
        }
    }

    /// Nothing waits on any of them.
    pub(super) fn is_idle(&self) -> bool {
        self.outlets.iter().all(|outlet| outlet.backlog().is_empty())
    }

    /// Whether frames for any group wait, by interface.
    pub(super) fn waiting(&self) -> impl Iterator<Item = bool> + '_ {
        self.outlets.iter().map(|outlet| !outlet.backlog().is_empty())
    }

    /// Frames for this group wait on interface `at`.
    pub(super) fn holds(&self, at: usize, group: GroupIndex) -> bool {
        let group = self.address(group);
        self.outlets.get(at).is_some_and(|outlet| outlet.backlog().holds(group))
    }

    /// Bytes that wait for this group where the fewest do.
    pub(super) fn least_waiting(&self, group: GroupIndex) -> usize {
        let group = self.address(group);
        self.outlets.iter().map(|outlet| outlet.backlog().bytes_for(group)).min().unwrap_or(0)
    }

    fn address(&self, group: GroupIndex) -> SocketAddr {
        SocketAddr::new(self.fabric.address(group), self.port)
    }

    /// Room in the emptiest backlog, bytes: what comes finds it on one interface at least.
    pub(super) fn most_room(&self) -> usize {
        self.outlets.iter().map(Outlet::room).max().unwrap_or(0)
    }

    /// Room in the fullest backlog, bytes.
    pub(super) fn least_room(&self) -> usize {
        self.outlets.iter().map(Outlet::room).min().unwrap_or(0)
    }

    /// When a backlog is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.outlets.iter().filter_map(Outlet::next_timeout).min()
    }

    /// Bytes of all backlogs.
    pub(super) fn backlog_bytes(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.backlog().bytes() as u64).sum()
    }

    /// Groups that wait, counted for each interface.
    pub(super) fn backlog_groups(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.backlog().lanes() as u64).sum()
    }
}
