//! The frames that tier 2 was, is or will be asked about. Each has one state, and each state holds what it alone needs.
//!
//! A [`EntryHandle`] names an entry as it was when the handle was made. A change that makes older handles void gives the entry
//! another generation, so whoever kept one finds nothing. The ticket of the caller is such a handle too.
//!
//! Cost: entries and their lists are reused. No allocation once a worker has had its largest number of frames in flight.

use crate::decision::{Ticket, Token};
use crate::key::{ClaimKey, Class};
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
    /// The key that decides: the id; of a frame with two keys the variant, until it is lost and the id won.
    pub(super) key: ClaimKey,
    /// The other key of a frame that was first with both.
    pub(super) beside: Option<ClaimKey>,
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
        /// Where the claim on the id belongs that is asked for beside it.
        beside: Option<EpochPlace>,
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
    /// It is under the key beside the one that decides.
    pub(super) beside: bool,
}

impl Entries {
    /// Puts a frame into the queue of those that need an answer since `now`.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        (key, beside): (&ClaimKey, Option<ClaimKey>),
        token: Token,
        bytes: u32,
        cohort: u64,
    ) -> EntryId {
        let id = self.free.pop().unwrap_or_else(|| {
            #[allow(clippy::cast_possible_truncation, reason = "frames in flight are bounded far below 2^32")]
            let id = EntryId(self.entries.len() as u32);
            self.entries.push(Entry::free(now, *key));
            id
        });
        let entry = &mut self[id];
        (entry.key, entry.beside) = (*key, beside);
        (entry.token, entry.bytes, entry.cohort) = (token, bytes, cohort);
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
        let (state, beside) = (State::Free, None);
        Entry { generation: 0, state, key, beside, token: 0, bytes: 0, cohort: 0, since: now, history }
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

    /// The id that is claimed beside the variant, if it is: never where a variant is taken over.
    pub(super) fn asks_beside(&self) -> Option<ClaimKey> {
        let by_variant = matches!(self.key.class, Class::Variant(_));
        self.beside.filter(|_| by_variant && self.history.chain.is_empty())
    }

    /// The variant is another's, and the id is ours or may be: from now on the id decides.
    pub(super) fn turn_to_id(&mut self) {
        if let Some(id) = self.beside.replace(self.key) {
            self.key = id;
        }
        self.history.held.iter_mut().for_each(|link| link.beside = !link.beside);
    }

    /// Whether the claim on the id, asked for beside the variant in the same request, is certainly ours; `None`: it is not.
    pub(super) fn may_go_by_id(&self) -> Option<bool> {
        self.asks_beside()?;
        self.history.held.iter().find(|link| link.beside).map(|link| link.certain)
    }

    /// Other bytes of its id were claimed before.
    pub(super) fn is_one_of_several(&self) -> bool {
        matches!(self.key.class, Class::Variant(_)) && !self.history.holds_beside()
    }

    /// The claim that is under way is not waited for: it may be ours.
    pub(super) fn hold_unanswered(&mut self) {
        if let State::Asked { place, beside, .. } = self.state {
            self.history.hold_beside(beside, false);
            self.history.hold(place, false);
        }
    }
}

/// The first bytes of an id, as they stand in the value of a claim.
pub(super) fn first_bytes(key: &ClaimKey) -> [u8; 8] {
    *key.id.first_chunk().unwrap_or(&[0; 8])
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
        self.held.push(ChainLink { place, certain, depth: self.chain.len(), beside: false });
    }

    /// Keeps the claim on the id that was asked for beside the variant.
    pub(super) fn hold_beside(&mut self, place: Option<EpochPlace>, certain: bool) {
        self.held.extend(place.map(|place| ChainLink { place, certain, depth: 0, beside: true }));
    }

    /// A claim on the id that was asked for beside the variant is ours, or may be.
    pub(super) fn holds_beside(&self) -> bool {
        self.held.iter().any(|link| link.beside)
    }

    /// The last claim under the key that decides.
    pub(super) fn latest(&self) -> Option<ChainLink> {
        self.held.iter().rev().find(|link| !link.beside).copied()
    }

    /// Whether the store said of every claim that it is ours.
    pub(super) fn is_certain(&self) -> bool {
        self.held.iter().all(|link| link.certain)
    }
}
