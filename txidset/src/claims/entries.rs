//! The frames that tier 2 was, is or will be asked about. Each has one state, and each state holds what it alone needs.
//!
//! A [`EntryHandle`] names an entry as it was when the handle was made. A change that makes older handles void gives the entry
//! another generation, so whoever kept one finds nothing. The ticket of the caller is such a handle too.
//!
//! Cost: entries and their lists are reused. No allocation once a worker has had its largest number of frames in flight.

use crate::decision::{Ticket, Token};
use crate::key::ClaimKey;
use crate::ledger::EpochPlace;
use crate::name::Holder;
use crate::value::ClaimValue;
use std::ops::{Index, IndexMut};
use std::time::Instant;

/// Number of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId(u32);

/// An entry as it was when the handle was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHandle {
    pub(super) id: EntryId,
    generation: u32,
}

/// See the module text.
#[derive(Default)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    free: Vec<EntryId>,
}

/// A frame on its way through the protocol.
pub(super) struct Entry {
    generation: u32,
    pub(super) state: State,
    pub(super) key: ClaimKey,
    pub(super) token: Token,
    pub(super) bytes: u32,
    /// Between which watermarks it came.
    pub(super) cohort: u64,
    /// Since when it needs an answer about its claim, or needed one last. A look at a void handle finds it too.
    pub(super) since: Instant,
    pub(super) history: History,
}

/// Where a frame is in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No frame uses the entry.
    Free,
    /// Waits for room in a request.
    Queued,
    /// Its claim is under way.
    Asked {
        /// Where the claim belongs that is asked for.
        place: EpochPlace,
        /// In the value of that claim.
        nonce: u64,
    },
    /// Its claim was answered, and what follows is being decided: no frame stays in this state.
    Answered,
    /// Another owner has it.
    Parked(Parked),
    /// The caller sends it.
    Ours,
    /// Its claims are being deleted.
    Releasing,
}

/// A copy that waits for its owner's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parked {
    /// The value that was found.
    pub(super) holder: ClaimValue,
    pub(super) since: Instant,
    /// Reads of the owner's record that were answered since then.
    pub(super) reads: u8,
}

/// What was claimed for a frame so far. It outlives the states: a frame may be claimed again.
pub(super) struct History {
    /// Claims that are ours, or may be.
    pub(super) held: Vec<ChainLink>,
    /// Claims that were taken over (or fenced) so far: the tail of the key.
    pub(super) chain: Vec<Holder>,
    /// When the request of the latest claim was built.
    pub(super) built: Instant,
    /// The holder of this value released something in its epoch, so the same key is claimed once more.
    pub(super) second_ask: Option<ClaimValue>,
    pub(super) taking_over: bool,
}

/// A claim that is ours, or may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainLink {
    pub(super) place: EpochPlace,
    /// The store said so.
    pub(super) certain: bool,
    /// Length of the chain in its key.
    pub(super) depth: usize,
}

impl Entries {
    /// Puts a frame into the queue of those that need an answer since `now`.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        key: ClaimKey,
        token: Token,
        bytes: u32,
        cohort: u64,
    ) -> EntryId {
        let id = self.free.pop().unwrap_or_else(|| {
            #[allow(clippy::cast_possible_truncation, reason = "frames in flight are bounded far below 2^32")]
            let id = EntryId(self.entries.len() as u32);
            self.entries.push(Entry::free(now, key));
            id
        });
        let entry = &mut self[id];
        (entry.key, entry.token, entry.bytes, entry.cohort) = (key, token, bytes, cohort);
        entry.state = State::Queued;
        (entry.since, entry.history.built) = (now, now);
        id
    }

    /// The entry is free for another frame. Returns the cohort of the one that used it.
    pub(super) fn free(&mut self, id: EntryId) -> u64 {
        let entry = &mut self[id];
        entry.outdate();
        entry.state = State::Free;
        entry.history.clear();
        let cohort = entry.cohort;
        self.free.push(id);
        cohort
    }

    pub(super) fn handle(&self, id: EntryId) -> EntryHandle {
        EntryHandle { id, generation: self[id].generation }
    }

    /// The entry, unless the handle is void.
    pub(super) fn find(&self, handle: EntryHandle) -> Option<&Entry> {
        let entry = &self[handle.id];
        (entry.generation == handle.generation).then_some(entry)
    }

    /// What the caller answers for an entry that is its own to send.
    pub(super) fn ticket(&self, id: EntryId) -> Ticket {
        Ticket(u64::from(self[id].generation) << 32 | u64::from(id.0))
    }

    /// The entry of a ticket that was not answered yet.
    pub(super) fn ticketed(&self, ticket: Ticket) -> Option<EntryId> {
        #[allow(clippy::cast_possible_truncation, reason = "the two halves")]
        let handle = EntryHandle { id: EntryId(ticket.0 as u32), generation: (ticket.0 >> 32) as u32 };
        if handle.id.0 as usize >= self.entries.len() {
            return None;
        }
        self.find(handle).is_some_and(|entry| entry.state == State::Ours).then_some(handle.id)
    }

    /// Every entry there is, by number.
    pub(super) fn ids(&self) -> impl Iterator<Item = EntryId> + use<> {
        #[allow(clippy::cast_possible_truncation, reason = "entries are numbered by u32")]
        let end = self.entries.len() as u32;
        (0..end).map(EntryId)
    }
}

impl Index<EntryId> for Entries {
    type Output = Entry;
    #[inline]
    fn index(&self, id: EntryId) -> &Entry {
        &self.entries[id.0 as usize]
    }
}

impl IndexMut<EntryId> for Entries {
    #[inline]
    fn index_mut(&mut self, id: EntryId) -> &mut Entry {
        &mut self.entries[id.0 as usize]
    }
}

impl Entry {
    fn free(now: Instant, key: ClaimKey) -> Entry {
        let history =
            History { held: Vec::new(), chain: Vec::new(), built: now, second_ask: None, taking_over: false };
        Entry { generation: 0, state: State::Free, key, token: 0, bytes: 0, cohort: 0, since: now, history }
    }

    /// Handles and tickets of before are void.
    pub(super) fn outdate(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    /// Since when it needs an answer about its claim, if it does.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let waits = matches!(self.state, State::Queued | State::Asked { .. } | State::Answered);
        waits.then_some(self.since)
    }

    /// How it is parked, if it is.
    pub(super) fn parked(&self) -> Option<&Parked> {
        match &self.state {
            State::Parked(parked) => Some(parked),
            _ => None,
        }
    }

    /// The first bytes of its id, as they stand in the value of a claim.
    pub(super) fn id_bytes(&self) -> [u8; 8] {
        *self.key.id.first_chunk().unwrap_or(&[0; 8])
    }
}

impl History {
    fn clear(&mut self) {
        self.held.clear();
        self.chain.clear();
        self.second_ask = None;
        self.taking_over = false;
    }

    /// Keeps the claim that was asked for: it is ours, or may be.
    pub(super) fn hold(&mut self, place: EpochPlace, certain: bool) {
        self.held.push(ChainLink { place, certain, depth: self.chain.len() });
    }

    /// Whether the store said of every claim that it is ours.
    pub(super) fn is_certain(&self) -> bool {
        self.held.iter().all(|link| link.certain)
    }
}
