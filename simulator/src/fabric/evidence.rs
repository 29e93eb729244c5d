//! What the checks know: noted as frames are claimed, leave and arrive. Promises that can be judged at once are judged here;
//! those of a whole world in [`super::verdict`].
//!
//! There are several *gates*, each with claims of its own: that of the proxies (0), then that of each consumer's listeners.

use super::event::Event;
use super::frames::{frames, id_of};
use super::history::{FaultReach, IdHistory};
use crate::MS;
use crate::context::Context;
use crate::fault::{Fault, Kind};
use crate::owners::Owners;
use crate::store::Change;
use crate::store_calls::Calls;
use frame::digest::Digest;
use frame::{Fragment, HashKey, Kind as FrameKind};
use hashbrown::HashMap;

/// The gate of the proxies.
pub(super) const INGRESS: usize = 0;

/// What is known of one gate.
pub(super) struct GateEvidence {
    /// By id.
    pub(super) histories: Vec<IdHistory>,
    pub(super) reach: FaultReach,
    lease: u64,
    /// What its workers told the store.
    owners: Owners,
    /// Frames that processes of the past let through undecided.
    pub(super) undecided: u64,
    /// Flows whose position listeners of the past did not find.
    pub(super) without_position: u64,
}

/// See the module text.
pub(super) struct Evidence {
    pub(super) gates: Vec<GateEvidence>,
    pub(super) faults: Vec<Fault>,
    /// Number of the first frame.
    first: usize,
    sent: Sent,
    /// When the claim was built that stands in the store, by worker and id.
    won: HashMap<(usize, usize), u64>,
}

/// What left by the fabric.
#[derive(Default)]
struct Sent {
    /// Id and fragment under each HashKey and SeqNum.
    numbers: HashMap<(u64, u64), (usize, u16)>,
    /// By worker and id: the fragments of the last attempt.
    attempts: HashMap<(usize, usize), Attempt>,
    /// Highest number that left of each flow.
    highest: HashMap<u64, u64>,
    /// By id: frames that left whole.
    whole: Vec<Vec<Whole>>,
}

/// A frame that left whole.
#[derive(Clone)]
pub(super) struct Whole {
    pub(super) at: u64,
    pub(super) node: usize,
    /// Its flow; several, if that was retired between its fragments.
    pub(super) keys: Vec<u64>,
}

/// Fragments leave in the order of their index: the first begins an attempt.
#[derive(Default)]
struct Attempt {
    parts: u16,
    keys: Vec<u64>,
}

/// Who hands something over, as far as a check asks.
pub(super) struct HandOver<'a> {
    pub(super) who: usize,
    pub(super) node: usize,
    pub(super) gate: usize,
    pub(super) calls: &'a Calls,
    /// Frames that its worker let through undecided.
    pub(super) undecided: u64,
    /// When its kernel last refused something: what it sends then may be late.
    pub(super) refused_at: Option<u64>,
}

impl Evidence {
    /// `first`: number of the first of so many frames; `leases`: of each gate.
    pub(super) fn new(first: usize, ids: usize, leases: &[u64], faults: Vec<Fault>) -> Evidence {
        let gate = |&lease: &u64| GateEvidence {
            histories: (0..ids).map(|_| IdHistory::default()).collect(),
            reach: FaultReach::of_lease(lease),
            lease,
            owners: Owners::default(),
            undecided: 0,
            without_position: 0,
        };
        Evidence {
            gates: leases.iter().map(gate).collect(),
            faults,
            first,
            sent: Sent { whole: vec![Vec::new(); ids], ..Sent::default() },
            won: HashMap::new(),
        }
    }

    /// Ids of this world.
    pub(super) fn ids(&self) -> usize {
        self.sent.whole.len()
    }

    /// The bytes of an id's frame, as a wallet sends it.
    pub(super) fn frame(&self, id: usize) -> &'static [u8] {
        frames().of(self.first + id)
    }

    /// The id in this world whose first bytes are these.
    pub(super) fn id_at(&self, first: [u8; 8]) -> Option<usize> {
        frames().number(first).and_then(|number| self.id_of(number))
    }

    fn id_of(&self, number: usize) -> Option<usize> {
        number.checked_sub(self.first).filter(|id| *id < self.ids())
    }

    pub(super) fn history(&self, gate: usize, id: usize) -> &IdHistory {
        &self.gates[gate].histories[id]
    }

    /// Frames of an id that left whole.
    pub(super) fn whole(&self, id: usize) -> &[Whole] {
        &self.sent.whole[id]
    }

    // Claims.

    /// A worker asks the store for ids.
    pub(super) fn asked(&mut self, gate: usize, node: usize, now: u64, ids: &[[u8; 8]]) {
        for &id in ids {
            if let Some(id) = self.id_at(id) {
                self.gates[gate].histories[id].touch(node, now);
            }
        }
    }

    /// The store took a claim or a record of a worker. Returns an id that is said to be settled and has not passed.
    pub(super) fn stored(&mut self, who: usize, gate: usize, calls: &Calls, change: Change) -> Option<usize> {
        let first = self.first;
        let id_of = |id| frames().number(id).and_then(|number| number.checked_sub(first)).unwrap_or(0);
        let GateEvidence { histories, owners, .. } = &mut self.gates[gate];
        let passed =
            |id: usize| histories.get(id).is_none_or(|history: &IdHistory| !history.passages.is_empty());
        match change {
            Change::Claimed { owner, epoch, id } => {
                self.won.insert((who, id_of(id)), calls.claimed_at(id).unwrap_or(0));
                owners.claimed(owner, epoch, id_of(id), passed)
            }
            Change::Recorded(record) => owners.recorded(record, passed),
        }
    }

    /// A failover undid the release of the claims of these keys.
    pub(super) fn unreleased(&mut self, undone: Vec<(Vec<u8>, [u8; 8])>) {
        for (key, id) in undone {
            let Some(id) = self.id_at(id) else { continue };
            // Keys of listeners begin with their consumer.
            let gate = match key.first_chunk::<2>() {
                Some([b'e', consumer]) => 1 + usize::from(consumer.saturating_sub(b'0')),
                _ => INGRESS,
            };
            if let Some(history) = self.gates.get_mut(gate).and_then(|gate| gate.histories.get_mut(id)) {
                history.unreleased = true;
            }
        }
    }

    // As frames leave.

    /// A worker's kernel took a frame or fragment.
    pub(super) fn left(&mut self, context: &mut Context<Event>, by: &HandOver<'_>, bytes: &[u8]) {
        let Some((key, seq)) = stamp_of(bytes) else {
            return context.violation("a frame left without a number");
        };
        let Some(id) = self.id_at(id_of(bytes)) else {
            return context.violation("a frame left that nobody sent");
        };
        let (part, total) = part_of(bytes);
        context.trace(|| format!("worker {} sends {id} as {:016x}:{seq}", by.who, key.0));
        if let Some((before, _)) = self.sent.numbers.insert((key.0, seq), (id, part)) {
            let what = format!("HashKey {:016x} with SeqNum {seq} carries {before} and then {id}", key.0);
            return context.violation(&what);
        }
        let highest = self.sent.highest.entry(key.0).or_default();
        let before = std::mem::replace(highest, seq.max(*highest));
        if seq != before + 1 {
            return context
                .violation(&format!("HashKey {:016x}: SeqNum {seq} leaves behind {before}", key.0));
        }
        if part == 0 {
            self.begins(context, by, id);
        }
        let attempt = self.sent.attempts.entry((by.who, id)).or_default();
        attempt.parts += 1;
        if !attempt.keys.contains(&key.0) {
            attempt.keys.push(key.0);
        }
        if attempt.parts == total {
            let keys = std::mem::take(&mut attempt.keys);
            self.left_whole(context, by, id, keys);
        }
    }

    /// The first datagram of a frame leaves. (What follows it of an object may come late: a sibling takes over, as of anything
    /// that leaves for longer than a lease.)
    fn begins(&mut self, context: &mut Context<Event>, by: &HandOver<'_>, id: usize) {
        self.sent.attempts.insert((by.who, id), Attempt::default());
        if let Some(late) = self.is_late(context.now, by, id)
            && by.refused_at.is_none_or(|refused| refused < context.now - late)
        {
            let late = late / MS;
            context.violation(&format!(
                "id {id}: sent {late} ms after its claim, although a sibling had taken over"
            ));
        }
    }

    fn left_whole(&mut self, context: &mut Context<Event>, by: &HandOver<'_>, id: usize, keys: Vec<u64>) {
        let now = context.now;
        self.sent.whole[id].push(Whole { at: now, node: by.node, keys });
        self.gates[INGRESS].histories[id].pass(by.node, now);
    }

    /// How late a worker hands over an id that it won, if a sibling has handed it over since.
    fn is_late(&self, now: u64, by: &HandOver<'_>, id: usize) -> Option<u64> {
        let gate = &self.gates[by.gate];
        let built = by.calls.claimed_at(id_of(self.frame(id)))?;
        // A copy that was let through undecided was not asked for.
        let won = self.won.get(&(by.who, id)) == Some(&built) && by.undecided == 0;
        let late = now - built;
        // With an open breaker nobody is asked again.
        let asks = !self.faults.iter().any(|fault| fault.kind == Kind::Breaker && fault.node == by.node);
        let taken = |at: u64, node: usize| at > built && node != by.node;
        let taken = gate.histories[id].passages.iter().any(|passage| taken(passage.at, passage.node));
        (won && asks && taken && late > gate.lease / 2 + MS).then_some(late)
    }

    /// A listener hands over a frame that it claimed.
    pub(super) fn delivered(&mut self, context: &mut Context<Event>, by: &HandOver<'_>, id: [u8; 8]) {
        let Some(id) = self.id_at(id) else { return };
        if let Some(late) = self.is_late(context.now, by, id) {
            let late = late / MS;
            context.violation(&format!(
                "id {id}: delivered {late} ms after its claim, although a sibling had taken over"
            ));
        }
    }

    /// A digest announces no number that was not handed over.
    pub(super) fn check_digest(&self, context: &mut Context<Event>, bytes: &[u8]) {
        let Ok(digest) = Digest::decode(bytes) else {
            return context.violation("a digest that does not decode");
        };
        for entry in digest.entries() {
            let highest = self.sent.highest.get(&entry.hash_key.0).copied().unwrap_or(0);
            if entry.highest.0 > highest {
                let (key, announced) = (entry.hash_key.0, entry.highest.0);
                context.violation(&format!(
                    "a digest announces {key:016x}:{announced}, but only {highest} left"
                ));
            }
        }
    }

    /// A consumer has a whole record: it must be a frame that was sent, unaltered but for its stamp. Returns its id.
    pub(super) fn consumed(
        &mut self,
        context: &mut Context<Event>,
        gate: usize,
        node: usize,
        record: &[u8],
    ) -> Option<usize> {
        const STAMP: std::ops::Range<usize> = 40..56;
        let Some(number) = frames().number(id_of(record)) else {
            context.violation("the consumer got something that nobody sent");
            return None;
        };
        let original = frames().of(number);
        let same = record.len() == original.len()
            && record[..STAMP.start] == original[..STAMP.start]
            && record[STAMP.end..] == original[STAMP.end..];
        let Some(id) = self.id_of(number).filter(|_| same) else {
            context.violation(&format!("the consumer got frame {number} not as it was sent"));
            return None;
        };
        self.gates[gate].histories[id].pass(node, context.now);
        Some(id)
    }
}

/// Flow and number of a frame or fragment.
pub(super) fn stamp_of(bytes: &[u8]) -> Option<(HashKey, u64)> {
    let kind = FrameKind::of(bytes).ok()?;
    if !matches!(kind, FrameKind::Tx | FrameKind::Fragment) {
        return None;
    }
    let at = |at: usize| bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    Some((HashKey(at(40)?), at(48)?))
}

/// Which fragment of how many; a whole frame is the first of one.
fn part_of(bytes: &[u8]) -> (u16, u16) {
    match Fragment::decode(bytes) {
        Ok(fragment) => (fragment.index, fragment.total),
        Err(_) => (0, 1),
    }
}
