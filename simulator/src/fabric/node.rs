//! A process, as far as every role has it.

use super::kernel::Refusal;
use crate::store_calls::StoreLink;

#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) alive: bool,
    /// A draining process takes nothing new.
    pub(super) accepting: bool,
    /// Stopping: what waited for the store was decided.
    pub(super) decided: bool,
    /// It stopped in order.
    pub(super) exited: bool,
    pub(super) incarnation: u32,
    /// When this life began.
    pub(super) born: u64,
    pub(super) paused_until: u64,
    pub(super) link: StoreLink,
    /// Of a proxy: its kernel refuses sends.
    pub(super) refusing: (u64, Refusal),
    /// Of a proxy: until then its link takes so many frames a round.
    pub(super) shaped: (u64, usize),
}

impl Node {
    pub(super) fn new(incarnation: u32, born: u64) -> Node {
        Node {
            alive: true,
            accepting: true,
            decided: false,
            exited: false,
            incarnation,
            born,
            paused_until: 0,
            link: StoreLink::default(),
            refusing: (0, Refusal::NoBuffers),
            shaped: (0, 0),
        }
    }

    /// This life of the process is over.
    pub(super) fn leave(&mut self) {
        self.alive = false;
        self.incarnation += 1;
        self.paused_until = 0;
    }

    /// It lives, or stopped in order: what it received it did not lose by dying.
    pub(super) fn ended_well(&self) -> bool {
        self.alive || self.exited
    }

    /// It lives, and lives on: nobody asked it to stop.
    pub(super) fn survives(&self) -> bool {
        self.alive && self.accepting
    }
}
