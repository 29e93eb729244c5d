//! The coordinator: what a datagram, a digest, an answer and the time do to flows and gaps.
//!
//! Gaps that are new, hastened or cut are named to the owner ([`Tracker::next_event`]), who asks for them; the owner's state
//! of a repair (`R`) travels with the gap, and comes back when a number arrives or is given up.

use crate::digests::{DigestSenders, FlowDigest};
use crate::flows::{Flow, FlowTable};
use crate::gap::{Gap, GapEvent, Missing};
use crate::gaps::{GapId, Gaps, Range};
use crate::hash::KeyedHash;
use crate::head::Step;
use crate::journal::{Counts, Journal, Loss, Lost};
use crate::limits::TrackLimits;
use crate::probe::{Asked, Probe, Question};
use crate::resume::{Departed, Owed, Position, Positions, first_owed};
use crate::sighting::{Filled, FlowClass, Seen, Sighting};
use crate::slots::Slot;
use frame::control::Extended;
use frame::id::NO_ID;
use frame::{GroupIndex, HashKey, Id, SeqNum};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// First look whether a deferred number has room.
const DEFERRED_DELAY: Duration = Duration::from_millis(50);
/// Flows looked at in a sweep because a question is due soon.
const HURRIED: usize = 1024;

/// All flows of one worker. See the crate's text.
pub struct Tracker<R> {
    limits: TrackLimits,
    started: Instant,
    flows: FlowTable,
    gaps: Gaps<Missing<R>>,
    departed: Departed,
    positions: Positions,
    /// Flows about which a question is due soon.
    hurried: VecDeque<HashKey>,
    events: Vec<GapEvent<R>>,
    digest_senders: DigestSenders,
    journal: Journal,
    #[cfg(feature = "mutants")]
    mutation: Option<crate::mutation::Mutation>,
}

impl<R: Copy + Default> Tracker<R> {
    /// An empty tracker. `seed` places flows and chooses victims.
    pub fn new(limits: TrackLimits, seed: u64, now: Instant) -> Tracker<R> {
        let hash = KeyedHash::new(seed);
        Tracker {
            flows: FlowTable::new(limits.max_flows, hash.clone(), seed),
            gaps: Gaps::default(),
            departed: Departed::new(limits.max_flows, hash.clone()),
            positions: Positions::new(hash),
            hurried: VecDeque::new(),
            events: Vec::new(),
            digest_senders: DigestSenders::default(),
            journal: Journal::default(),
            started: now,
            limits,
            #[cfg(feature = "mutants")]
            mutation: None,
        }
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: crate::mutation::Mutation) {
        self.mutation = Some(mutation);
    }

    // Positions.

    /// Where an earlier process was: every number below the position has reached its end, and what comes from there on is
    /// owed. Endpoints are asked about flows that stay silent (`sweep`).
    pub fn resume(&mut self, flows: impl IntoIterator<Item = Position>) {
        for position in flows.into_iter().take(self.limits.max_flows) {
            self.positions.add(position, self.started);
            self.hurry(position.key);
        }
    }

    /// The first number of each flow that has not come, of at most `most` flows, those that spoke last; what was resumed
    /// and not seen since keeps its position. Flows that the filters refuse have none. Returns how many flows found no
    /// place.
    pub fn positions(&self, most: usize, out: &mut Vec<Position>) -> usize {
        let position =
            |flow: &Flow| Position { key: flow.label.key, next: flow.position(), group: flow.label.group };
        let wanted = self.flows.iter().filter(|flow| flow.wanted);
        let mut seen: Vec<_> = wanted.map(|flow| (flow.pace.last_seen, position(flow))).collect();
        let all = seen.len() + self.positions.len();
        if seen.len() > most {
            seen.select_nth_unstable_by_key(most, |(at, _)| Reverse(*at));
            seen.truncate(most);
        }
        out.clear();
        out.extend(seen.iter().map(|&(_, position)| position));
        out.extend(self.positions.iter().take(most - out.len()));
        all - out.len()
    }

    // Datagrams and digests.

    /// Takes one numbered datagram into account. Call it for every datagram that carries a number, before any filter of
    /// contents.
    pub fn observe(&mut self, now: Instant, s: &Sighting<'_>) -> Seen<R> {
        let seen = self.place(now, s);
        if planted!(self, DuplicateClosesGap) && matches!(seen, Seen::Known) {
            self.place(now, &Sighting { seq: SeqNum(s.seq.0.saturating_add(1)), ..*s });
        }
        seen
    }

    fn place(&mut self, now: Instant, s: &Sighting<'_>) -> Seen<R> {
        if s.seq.0 == 0 {
            return Seen::Untracked;
        }
        let Some(slot) = self.flows.find(s.key) else { return self.first_sight(now, s) };
        let Some(flow) = self.flows.get_mut(slot) else { return Seen::Untracked };
        if !flow.believes(s) {
            self.journal.counts.flow_mismatch += 1;
            return Seen::Untracked;
        }
        let seq = s.seq.0;
        if seq < flow.head.next() {
            return self.behind(now, slot, seq, s.trusted);
        }
        let asked = flow.probe.covers(seq);
        flow.saw_traffic(now);
        flow.wanted = s.wanted;
        match flow.head.arrives(seq, self.limits.max_jump) {
            Step::Next => {
                self.hasten_young(now, slot);
                if asked {
                    self.question_met(now, s.key);
                }
                Seen::Advanced
            }
            Step::Held => {
                self.journal.counts.jumps_held += 1;
                Seen::Held
            }
            Step::Ahead => {
                self.jump(now, slot, seq, self.limits.reorder_delay, true);
                Seen::Advanced
            }
        }
    }

    fn first_sight(&mut self, now: Instant, s: &Sighting<'_>) -> Seen<R> {
        let seq = s.seq.0;
        if self.resume_flow(now, s) {
            return self.place(now, s);
        }
        let first = self.owed_from(now, s, seq);
        let Some(slot) = self.add_flow(now, s, first) else { return Seen::Untracked };
        if seq < first {
            return self.behind(now, slot, seq, s.trusted);
        }
        self.jump(now, slot, seq, self.limits.reorder_delay, true);
        Seen::Advanced
    }

    fn behind(&mut self, now: Instant, slot: Slot, seq: u64, trusted: bool) -> Seen<R> {
        // A frame that nobody verified may not close a gap that is wanted.
        if trusted && let Some(filled) = self.fill(slot, seq) {
            self.journal.came(filled.requested, now.saturating_duration_since(filled.opened));
            return Seen::Filled(filled);
        }
        self.journal.counts.duplicates += 1;
        Seen::Known
    }

    /// Takes one entry of a flow digest into account.
    pub fn digest(&mut self, now: Instant, digest: &FlowDigest<'_>) {
        if planted!(self, DigestIgnored) {
            return;
        }
        self.journal.counts.digest_entries += 1;
        self.digest_senders.spoke(digest.source);
        let highest = digest.highest.0;
        let (Some(after), false) = (highest.checked_add(1), highest == 0) else { return };
        let Some(slot) = self.flows.find(digest.key).or_else(|| self.first_named(now, digest, after)) else {
            return;
        };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if highest < flow.head.next() {
            return;
        }
        flow.wanted = digest.wanted;
        match flow.head.named(highest, self.limits.max_jump) {
            Step::Held => self.journal.counts.jumps_held += 1,
            Step::Next | Step::Ahead => self.jump(now, slot, after, self.limits.digest_delay, false),
        }
    }

    /// Makes a flow that a digest names first.
    fn first_named(&mut self, now: Instant, digest: &FlowDigest<'_>, after: u64) -> Option<Slot> {
        let s = digest.sighting();
        if self.resume_flow(now, &s) {
            return self.flows.find(digest.key);
        }
        let first = self.owed_from(now, &s, after);
        let slot = self.add_flow(now, &s, first)?;
        if first < after {
            self.jump(now, slot, after, self.limits.digest_delay, false);
        }
        None
    }

    /// A frame behind the highest number, not missing, had an id that nobody had seen: several in a row, from a
    /// source that repairs nothing, mean that the sender began anew under its old key (wire 9.1).
    pub fn novel_behind(&mut self, now: Instant, key: HashKey, seq: SeqNum) {
        let Some(slot) = self.flows.find(key) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if seq.0 < flow.older_than_us && now < self.started + flow.label.class.horizon() {
            // From before this process: new to us, and probably a repair that a sibling asked for.
            return;
        }
        self.journal.counts.collisions += 1;
        let Some(last) = flow.head.novel(seq.0) else { return };
        let wanted = flow.wanted;
        self.journal.counts.restarts += 1;
        self.give_up_flow(slot, Loss::Restart);
        let first = (last + 1).saturating_sub(self.limits.max_jump).max(1);
        if wanted && first <= last {
            self.open(now, slot, first, last, self.limits.reorder_delay);
        }
    }

    /// A number that was taken as arrived turned out to be worthless (a fragment of an object that failed its hash): it
    /// is missing again.
    pub fn reopen(&mut self, now: Instant, key: HashKey, seq: SeqNum) {
        if let Some(slot) = self.arrived_before(key, seq) {
            self.open(now, slot, seq.0, seq.0, self.limits.reorder_delay);
        }
    }

    /// A frame that arrived found no room. Endpoints still hold it: its number is missing again, and is to be asked for
    /// when there is room ([`Gap::deferred`]). `grows`: a deferred gap in this state may take the number behind it in.
    pub fn defer(&mut self, now: Instant, key: HashKey, seq: SeqNum, grows: impl Fn(&R) -> bool) {
        let Some(slot) = self.arrived_before(key, seq) else { return };
        // Those before it found no room either, as a rule: one range.
        if let Some(before) = self.gap_at(slot, seq.0 - 1)
            && self.gaps.get(before).is_some_and(|gap| gap.value.deferred && grows(&gap.value.repair))
        {
            self.gaps.grow(before);
            self.journal.found_missing(seq.0, seq.0);
            return;
        }
        if let Some(id) = self.open(now, slot, seq.0, seq.0, DEFERRED_DELAY)
            && let Some(missing) = self.gaps.value_mut(id)
        {
            missing.deferred = true;
        }
    }

    // What is known.

    /// True if `seq` is missing, or is the number that a probe asks for.
    pub fn is_missing(&self, key: HashKey, seq: SeqNum) -> bool {
        let Some(flow) = self.flows.of_key(key) else {
            return self.positions.get(key).is_some_and(|left| left.probe.covers(seq.0));
        };
        let probed = flow.head.next() <= seq.0 && flow.probe.covers(seq.0);
        probed || self.gaps.find(&flow.gaps, seq.0).is_some()
    }

    /// True if frames of the flow were seen here, or by an earlier process.
    pub fn knows(&self, key: HashKey) -> bool {
        self.flows.find(key).is_some() || self.positions.get(key).is_some()
    }

    /// Group and label of a flow of which a verified frame was seen.
    pub fn label(&self, key: HashKey) -> Option<(GroupIndex, Id)> {
        let label = &self.flows.of_key(key)?.label;
        label.trusted.then_some((label.group, label.subtree))
    }

    /// Numbers missing now.
    pub fn missing(&self) -> u64 {
        self.gaps.numbers()
    }

    /// Flows known now.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// Flows that only a position names, and that are still being asked about.
    pub fn unheard(&self) -> usize {
        self.positions.asked_about()
    }

    /// Totals since the start.
    pub fn counts(&self) -> &Counts {
        &self.journal.counts
    }

    /// What was given up since the last call (at most 64 notes; the counters have all).
    pub fn take_losses(&mut self, out: &mut Vec<Lost>) {
        self.journal.take_losses(out);
    }

    /// How long requested numbers were missing that came since the last call.
    pub fn take_recoveries(&mut self, out: &mut Vec<Duration>) {
        self.journal.take_recoveries(out);
    }

    /// Flows of which no endpoint said whether numbers from there on were sent, since the last call (at most 64; the
    /// counter has all).
    pub fn take_unconfirmed(&mut self, out: &mut Vec<(HashKey, u64)>) {
        self.journal.take_unconfirmed(out);
    }

    // Gaps, for whoever asks for them.

    /// What happened to gaps since the last call, in no particular order.
    pub fn next_event(&mut self) -> Option<GapEvent<R>> {
        self.events.pop()
    }

    /// A gap; `None`: nothing of it is missing any more.
    pub fn gap(&self, id: GapId) -> Option<Gap<R>> {
        let Range { first, last, value } = *self.gaps.get(id)?;
        let Missing { expires, due, requested, deferred, repair, .. } = value;
        Some(Gap { first, last, expires, due, requested, deferred, repair })
    }

    /// The owner's state of a gap's repair.
    pub fn repair_mut(&mut self, id: GapId) -> Option<&mut R> {
        self.gaps.value_mut(id).map(|missing| &mut missing.repair)
    }

    /// Somebody was asked for the gap: what comes of it now was recovered, and not merely reordered.
    pub fn set_requested(&mut self, id: GapId) {
        if let Some(missing) = self.gaps.value_mut(id) {
            missing.requested = true;
        }
    }

    /// Flow and subtree label of a gap.
    pub fn flow_of(&self, id: GapId) -> Option<(HashKey, Id)> {
        let flow = self.flows.get(self.gaps.get(id)?.value.flow)?;
        Some((flow.label.key, flow.label.subtree))
    }

    /// The gap that holds the first missing number of `first..=last`.
    pub fn next_gap(&self, key: HashKey, first: u64, last: u64) -> Option<GapId> {
        self.gaps.find_within(&self.flows.of_key(key)?.gaps, first, last)
    }

    /// Cuts a gap so that it ends before `at`; the rest becomes a gap of its own in the same state. No event.
    pub fn split(&mut self, id: GapId, at: u64) -> Option<GapId> {
        let flow = self.flows.get_mut(self.gaps.get(id)?.value.flow)?;
        self.gaps.split(&mut flow.gaps, id, at)
    }

    /// The horizon of a gap passed.
    pub fn give_up(&mut self, id: GapId) {
        let Some(flow) = self.gaps.get(id).and_then(|gap| self.flows.get_mut(gap.value.flow)) else { return };
        let Some(gap) = self.gaps.remove(&mut flow.gaps, id) else { return };
        let why = if gap.last < flow.older_than_us { Loss::BeforeStart } else { Loss::Horizon };
        self.journal.lose(flow.label.key, gap.first, gap.last, why);
        self.events.push(GapEvent::GivenUp(gap.value.repair, gap.numbers()));
    }

    /// Gives up every open gap: the process stops.
    pub fn stop(&mut self) {
        for place in 0..self.flows.places() {
            if let Some((slot, _)) = self.flows.at(place) {
                self.give_up_flow(slot, Loss::Stop);
            }
        }
    }

    // Flows.

    /// Makes the flow where it was left before this process, if its position is known.
    fn resume_flow(&mut self, now: Instant, s: &Sighting<'_>) -> bool {
        if !s.wanted {
            return false;
        }
        let Some(left) = self.positions.remove(s.key) else { return false };
        let Some(slot) = self.add_flow(now, s, left.next) else { return false };
        let counts = &mut self.journal.counts;
        counts.flows_resumed += 1;
        counts.catch_up = counts.catch_up.saturating_add(s.seq.0.saturating_sub(left.next));
        if let Some(flow) = self.flows.get_mut(slot) {
            flow.older_than_us = s.seq.0.max(left.next);
            flow.probe = left.probe;
        }
        true
    }

    /// The first number that a flow seen for the first time at `s.seq` owes us; `baseline` where it owes nothing from
    /// before.
    fn owed_from(&mut self, now: Instant, s: &Sighting<'_>, baseline: u64) -> u64 {
        if let Some(next) = self.departed.remove(s.key) {
            return next;
        }
        if !s.wanted {
            return baseline;
        }
        match first_owed(&self.limits, s.seq.0, self.is_settled(now)) {
            Owed::From(first) => first,
            Owed::CatchUp(first) => {
                let counts = &mut self.journal.counts;
                counts.flows_without_position += 1;
                counts.catch_up = counts.catch_up.saturating_add(s.seq.0 - first);
                first
            }
            Owed::Nothing => baseline,
        }
    }

    /// Flows that begin now are new, and not only to us.
    fn is_settled(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= self.limits.settle
    }

    fn add_flow(&mut self, now: Instant, s: &Sighting<'_>, next: u64) -> Option<Slot> {
        if self.flows.is_full() {
            let Some(victim) = self.flows.victim(now) else {
                self.journal.counts.flows_refused += 1;
                return None;
            };
            self.remove_flow(victim);
        }
        let mut flow = Flow::new(now, s, next);
        // Where the numbers end that the flow had before this process, if it catches up with them.
        if self.limits.catch_up > 0 && s.seq.0 > self.limits.small_head && !self.is_settled(now) {
            flow.older_than_us = s.seq.0;
        }
        Some(self.flows.insert(flow))
    }

    fn remove_flow(&mut self, slot: Slot) {
        self.give_up_flow(slot, Loss::FlowEvicted);
        if let Some(flow) = self.flows.remove(slot) {
            self.departed.put(flow.label.key, flow.head.next());
            self.journal.counts.flows_evicted += 1;
        }
    }

    fn give_up_flow(&mut self, slot: Slot, why: Loss) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        while let Some(gap) = self.gaps.remove_first(&mut flow.gaps) {
            self.journal.lose(flow.label.key, gap.first, gap.last, why);
            self.events.push(GapEvent::GivenUp(gap.value.repair, gap.numbers()));
        }
    }

    fn arrived_before(&self, key: HashKey, seq: SeqNum) -> Option<Slot> {
        let slot = self.flows.find(key)?;
        let known = self.flows.get(slot).is_some_and(|flow| seq.0 != 0 && seq.0 < flow.head.next());
        (known && self.gap_at(slot, seq.0).is_none()).then_some(slot)
    }

    fn gap_at(&self, slot: Slot, seq: u64) -> Option<GapId> {
        self.gaps.find(&self.flows.get(slot)?.gaps, seq)
    }

    /// Moves a flow's head to `seq` over a run of missing numbers, and past `seq` if that is what `arrived`.
    fn jump(&mut self, now: Instant, slot: Slot, seq: u64, delay: Duration, arrived: bool) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let jumped = flow.head.jump(seq, arrived);
        let (from, key) = (jumped.from, flow.label.key);
        if !flow.wanted || from >= seq {
            return;
        }
        let first = from.max(seq.saturating_sub(self.limits.max_jump));
        if first > from {
            self.journal.found_missing(from, first - 1);
            self.journal.lose(key, from, first - 1, Loss::Jump);
        }
        let gap = self.open(now, slot, first, seq - 1, delay);
        if let Some(held) = jumped.arrived {
            self.fill(slot, held);
        }
        if let Some(gap) = gap
            && arrived
            && self.limits.reorder_frames > 0
            && let Some(flow) = self.flows.get_mut(slot)
        {
            // The frame that revealed the gap is the first of the later ones.
            flow.young = Some((gap, seq.saturating_add(self.limits.reorder_frames)));
        }
    }

    fn open(&mut self, now: Instant, slot: Slot, first: u64, last: u64, delay: Duration) -> Option<GapId> {
        let flow = self.flows.get_mut(slot)?;
        last.checked_sub(first)?;
        self.journal.found_missing(first, last);
        if self.gaps.len() >= self.limits.max_gaps {
            self.journal.lose(flow.label.key, first, last, Loss::TableFull);
            return None;
        }
        let horizon = self.limits.gap_ttl.unwrap_or(flow.label.class.horizon());
        let value = Missing {
            flow: slot,
            opened: now,
            expires: now + horizon,
            due: now + delay.min(horizon),
            requested: false,
            deferred: false,
            repair: R::default(),
        };
        let id = self.gaps.insert(&mut flow.gaps, Range { first, last, value });
        self.events.push(GapEvent::Due(id));
        Some(id)
    }

    /// Takes one number out of its gap.
    fn fill(&mut self, slot: Slot, seq: u64) -> Option<Filled<R>> {
        let flow = self.flows.get_mut(slot)?;
        let taken = self.gaps.take(&mut flow.gaps, seq)?;
        self.events.extend(taken.cut_off().map(GapEvent::CutOff));
        let Missing { requested, opened, repair, .. } = taken.value;
        Some(Filled { requested, opened, repair, rest: [taken.below, taken.above] })
    }

    /// Enough later frames came: the youngest gap need not wait any longer.
    fn hasten_young(&mut self, now: Instant, slot: Slot) {
        let Some(flow) = self.flows.get_mut(slot) else { return };
        let Some((id, _)) = flow.young.take_if(|(_, at)| flow.head.next() >= *at) else { return };
        if let Some(missing) = self.gaps.value_mut(id)
            && !missing.requested
        {
            missing.due = missing.due.min(now);
            self.events.push(GapEvent::Due(id));
        }
    }

    // Sweeps and probes.

    /// Looks at some flows: forgets those that are idle for too long, and has `ask` put the questions that are due.
    pub fn sweep(&mut self, now: Instant, flows: usize, mut ask: impl FnMut(&Question) -> Asked) {
        // Flows that were resumed and are still not seen are forgotten like others.
        if now.saturating_duration_since(self.started) >= self.limits.idle {
            self.positions.clear();
        }
        self.probe_hurried(now, &mut ask);
        for _ in 0..flows.min(self.flows.places()) {
            let Some((slot, flow)) = self.flows.sweep_next() else { continue };
            let key = flow.label.key;
            if flow.idle_for(now) < self.limits.idle || !flow.gaps.is_empty() {
                self.probe(now, key, &mut ask);
                continue;
            }
            if let Some(last) = flow.head.held_until() {
                self.journal.lose(key, flow.head.next(), last, Loss::Jump);
            }
            self.remove_flow(slot);
        }
    }

    /// Asks about flows whose question is due soon.
    fn probe_hurried(&mut self, now: Instant, ask: &mut impl FnMut(&Question) -> Asked) {
        for _ in 0..self.hurried.len().min(HURRIED) {
            let Some(key) = self.hurried.pop_front() else { return };
            let Some(probe) = self.probe_of(key) else { continue };
            probe.left_queue();
            if probe.is_expected() {
                self.probe(now, key, ask);
                self.hurry(key);
            }
        }
    }

    /// Asks about a flow, if it is time.
    fn probe(&mut self, now: Instant, key: HashKey, ask: &mut impl FnMut(&Question) -> Asked) {
        let Some((question, since)) = self.question(now, key) else { return };
        let Some(probe) = self.probe_of(key) else { return };
        if probe.gives_up() {
            return self.journal.unconfirmed(key, question.first);
        }
        let silent = planted!(self, ResumedNotProbed) && question.resumed;
        let asked = if silent { Asked::Not } else { ask(&question) };
        if asked != Asked::Not
            && let Some(probe) = self.probe_of(key)
        {
            probe.was_asked(now, question.first, asked, now.saturating_duration_since(since));
            self.journal.counts.tail_probes += 1;
        }
    }

    /// What is to be asked about a flow now, and since when it is silent.
    fn question(&self, now: Instant, key: HashKey) -> Option<(Question, Instant)> {
        if let Some(flow) = self.flows.of_key(key) {
            let wants = flow.wants_probe(now, self.digest_senders.contains(&flow.label.source));
            let first = flow.head.next() + u64::from(planted!(self, ProbeSkipsOne));
            let question = flow.probe.question(key, flow.label.subtree, first, false);
            return wants.then_some((question, flow.pace.last_seen));
        }
        let left = self.positions.get(key)?;
        let question = left.probe.question(key, NO_ID, left.next, true);
        left.probe.is_due(now, None).then_some((question, self.started))
    }

    fn probe_of(&mut self, key: HashKey) -> Option<&mut Probe> {
        match self.flows.find(key) {
            Some(slot) => self.flows.get_mut(slot).map(|flow| &mut flow.probe),
            None => self.positions.get_mut(key).map(|left| &mut left.probe),
        }
    }

    /// Has the flow looked at in every sweep until its question is put.
    fn hurry(&mut self, key: HashKey) {
        if self.probe_of(key).is_some_and(Probe::hurries) {
            self.hurried.push_back(key);
        }
    }

    fn question_met(&mut self, now: Instant, key: HashKey) {
        if let Some(probe) = self.probe_of(key) {
            probe.was_met(now);
            self.hurry(key);
        }
    }

    /// An endpoint, one of `endpoints`, says which numbers of a range it holds: perhaps those of a question.
    pub fn probed(&mut self, now: Instant, e: &Extended, endpoints: usize) {
        let key = e.hash_key;
        let last = e.end.0.min(e.start.0.saturating_add(Extended::MAX_RANGE - 1));
        let held = (e.start.0..=last).rev().find(|seq| !e.is_missing(SeqNum(*seq)));
        let spoke = self.flows.of_key(key).map(|flow| flow.pace.last_seen);
        let silence = now.saturating_duration_since(spoke.unwrap_or(self.started));
        let Some(probe) = self.probe_of(key).filter(|probe| probe.asks_from(e.start.0)) else { return };
        match held {
            Some(highest) => {
                probe.found(now, highest == last);
                self.reveal(now, key, highest);
            }
            None => probe.found_nothing(now, endpoints, silence),
        }
        self.hurry(key);
    }

    /// All numbers of a flow up to `highest` were sent: those that did not come are owed.
    fn reveal(&mut self, now: Instant, key: HashKey, highest: u64) {
        if let Some(group) = self.positions.get(key).map(|left| left.group) {
            let source = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let (class, seq) = (FlowClass::of_group(group), SeqNum(highest));
            let s =
                Sighting { key, seq, group, subtree: &NO_ID, class, source, wanted: true, trusted: false };
            if !self.resume_flow(now, &s) {
                return;
            }
        }
        let Some(slot) = self.flows.find(key) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.older_than_us > 0 {
            flow.older_than_us = flow.older_than_us.max(highest);
        }
        if highest >= flow.head.next() && flow.wanted {
            self.jump(now, slot, highest.saturating_add(1), self.limits.digest_delay, false);
        }
    }
}

#[cfg(test)]
mod tests;
