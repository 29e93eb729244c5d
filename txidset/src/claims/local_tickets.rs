//! Claims that tier 1 alone decided: nothing was asked, and nothing will be answered. Two things must be known of them: which
//! key a failed send gives back, and that each is answered once.
//!
//! Cost: 48 bytes a frame in flight, written when it is won and looked at when it is answered. A frame that was first with two
//! keys has the second one beside.

use crate::decision::Ticket;
use crate::key::ClaimKey;
use hashbrown::HashMap;

/// Set in the index of a ticket of this kind; entries of the protocol are far fewer than 2^31.
const LOCAL: u32 = 1 << 31;

/// See the module text.
#[derive(Default)]
pub(super) struct LocalTickets {
    won: Vec<Won>,
    free: Vec<u32>,
    /// The ids of frames whose `key` is their variant, where a failed send gives back both.
    beside: HashMap<u32, ClaimKey>,
}

struct Won {
    /// Changes when the claim is answered: a second answer finds nothing.
    generation: u32,
    key: ClaimKey,
    /// Between which watermarks it came.
    cohort: u64,
    /// There is a key in `LocalTickets::beside`.
    has_beside: bool,
}

/// Whether `ticket` was given out here.
#[inline]
pub(super) fn is_local(ticket: Ticket) -> bool {
    halves(ticket).0 & LOCAL != 0
}

impl LocalTickets {
    #[inline]
    pub(super) fn win(&mut self, key: &ClaimKey, beside: Option<ClaimKey>, cohort: u64) -> Ticket {
        let has_beside = beside.is_some();
        let (index, generation) = match self.free.pop() {
            Some(index) => {
                let won = &mut self.won[index as usize];
                (won.key, won.cohort, won.has_beside) = (*key, cohort, has_beside);
                (index, won.generation)
            }
            None => {
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "frames in flight are bounded far below 2^31"
                )]
                let index = self.won.len() as u32;
                self.won.push(Won { generation: 0, key: *key, cohort, has_beside });
                (index, 0)
            }
        };
        if let Some(beside) = beside {
            self.beside.insert(index, beside);
        }
        Ticket(u64::from(generation) << 32 | u64::from(index | LOCAL))
    }

    /// The claim is answered. Returns its keys and cohort, unless it was answered before.
    #[inline]
    pub(super) fn end(&mut self, ticket: Ticket) -> Option<(ClaimKey, Option<ClaimKey>, u64)> {
        let (index, generation) = halves(ticket);
        let index = index & !LOCAL;
        let won = self.won.get_mut(index as usize).filter(|won| won.generation == generation)?;
        won.generation = generation.wrapping_add(1);
        self.free.push(index);
        let beside = if won.has_beside { self.beside.remove(&index) } else { None };
        Some((won.key, beside, won.cohort))
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves")]
fn halves(ticket: Ticket) -> (u32, u32) {
    (ticket.0 as u32, (ticket.0 >> 32) as u32)
}
