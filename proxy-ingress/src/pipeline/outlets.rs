//! All emit interfaces of a worker: each gets every frame, and none holds up another.

use super::emit::{Emission, Outlet, OutletProgress, Transmit};
use super::hand_over::HandOvers;
#[cfg(feature = "mutants")]
use super::number::FlowTable;
use super::settings::IngressConfig;
use std::time::Instant;

/// See the module text. Sockets are passed in, in the order of the interfaces.
pub(super) struct Outlets {
    outlets: Vec<Outlet>,
    /// How far the current emission got on each; empty between emissions.
    progress: Vec<OutletProgress>,
}

impl Outlets {
    pub(super) fn new(now: Instant, config: &IngressConfig) -> Outlets {
        let outlets = (0..config.outlets.max(1)).map(|_| Outlet::new(now, config.outlet)).collect();
        Outlets { outlets, progress: Vec::new() }
    }

    /// A new emission: no interface has taken anything of it.
    pub(super) fn begin(&mut self) {
        self.progress.clear();
        self.progress.resize(self.outlets.len(), OutletProgress::Full(0));
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
            if let OutletProgress::Full(taken) = *progress {
                *progress = outlet.send(now, emission, memory, taken, socket, hand_overs);
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
                outlet.defer(now, emission, memory, taken, hand_overs);
                *progress = OutletProgress::Done;
            }
        }
    }

    /// Tries the backlogs again that are due.
    pub(super) fn retry(&mut self, now: Instant, sockets: &mut [impl Transmit], hand_overs: &mut HandOvers) {
        for (outlet, socket) in self.outlets.iter_mut().zip(sockets) {
            outlet.retry(now, socket, hand_overs);
        }
    }

    /// Gives up every backlog.
    pub(super) fn abandon(&mut self, hand_overs: &mut HandOvers) {
        for outlet in &mut self.outlets {
            outlet.abandon(hand_overs);
        }
    }

    /// Only ever planted: what waits takes new numbers.
    #[cfg(feature = "mutants")]
    pub(super) fn number_again(&mut self, flows: &mut FlowTable) {
        for outlet in &mut self.outlets {
            outlet.number_again(flows);
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.outlets.len()
    }

    /// Whether each has a backlog, in order.
    pub(super) fn blocked(&self) -> impl Iterator<Item = bool> + '_ {
        self.outlets.iter().map(Outlet::is_blocked)
    }

    /// When a backlog is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.outlets.iter().filter_map(Outlet::next_timeout).min()
    }

    /// Bytes of all backlogs.
    pub(super) fn backlog_bytes(&self) -> u64 {
        self.outlets.iter().map(|outlet| outlet.backlog_bytes() as u64).sum()
    }
}
