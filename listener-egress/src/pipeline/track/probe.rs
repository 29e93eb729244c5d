//! Probes: asking for what may follow a flow's last number, where nobody says whether anything does.
//!
//! Why: a flow's last frames can be lost together with all that would show it. Their sender died before its next digest;
//! or this process took the place of one that died, knows the flow by its position alone, and nothing of it comes any
//! more. Endpoints hold those frames.
//!
//! How: a flow that was silent for a while is asked for by the numbers that would come next: a few, and four times as
//! many each time that the last of them was there. An extended reply says which of them the endpoint holds, and up to
//! the highest all are owed from then on, as after a digest, so that a repair that gets lost is asked for again. A flow
//! that only a position names is asked for soon after the start.
//!
//! An endpoint that holds nothing passes the question on to the next; after the last the question rests and is put again,
//! `ROUNDS` times. Silence is asked again, ever later and every second time the next endpoint, `TRIES` times; then the flow is counted and named
//! (`take_unconfirmed`): nobody said whether more was sent. Plain replies name no flow: endpoints of the Go stack are
//! asked for one number, and the frame itself is the answer.
//!
//! Limits: one question a flow at a time; `request` paces them. Cost: a few flows a tick, nothing for a frame.

use super::{Counts, Flow, FlowClass, Sighting, Tracker};
use crate::mutation::Mutation;
use frame::control::Extended;
use frame::{GroupIndex, HashKey, Id, SeqNum, id::NO_ID};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Where a flow was left: every number below has reached its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Flow.
    pub key: HashKey,
    /// First number that has not reached its end.
    pub next: u64,
    /// Group that carries the flow.
    pub group: GroupIndex,
}

/// Numbers that a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) key: HashKey,
    pub(crate) subtree: Id,
    pub(crate) first: u64,
    pub(crate) width: u16,
    /// Which endpoint of the order; after the last the first again.
    pub(crate) hop: u8,
    /// Who left the question unanswered before.
    pub(crate) unanswered: Option<u32>,
    /// Of a flow that only a position names.
    pub(crate) resumed: bool,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Nobody can be asked now.
    Not,
    /// The reply of this endpoint will say which numbers are held.
    Range(u32),
    /// One number; it comes, or does not.
    Single,
}

/// Rounds of all endpoints before a silent flow rests.
const ROUNDS: u8 = 4;
/// Questions without an answer: 28 s, within the life of an endpoint that is only remembered.
const TRIES: u8 = 10;
/// Questions to an endpoint whose replies name no flow.
const SINGLE_TRIES: u8 = 3;
/// Numbers of the first question; each may cost an endpoint a look into its shared tier, or at its upstream.
const FIRST_WIDTH: u16 = 4;
const MOST_WIDTH: u16 = 256;
/// Patience with the first question; doubles.
const PATIENCE: Duration = Duration::from_millis(250);
const MOST_PATIENCE: Duration = Duration::from_secs(4);
/// From an answer that found something to the next question: repairs come first.
const AGAIN: Duration = Duration::from_millis(20);
/// From the start to the first question about flows that only positions name: traffic and digests come first.
pub(super) const AFTER_START: Duration = Duration::from_millis(300);
/// Flows looked at in a tick because a question is due soon.
const HURRIED: usize = 1024;
/// Names kept for the log between two calls.
const NOTES: usize = 64;

/// How far the probing of a flow is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    /// First number of the question under way; 0: there is none.
    asked: u64,
    /// Who was asked.
    endpoint: Option<u32>,
    width: u16,
    due: Option<Instant>,
    tries: u8,
    rounds: u8,
    hop: u8,
    /// Nothing is asked until the next frame.
    rests: bool,
    /// In `Tracker::hurried`.
    hurried: bool,
}

impl Probe {
    pub(super) fn new(due: Option<Instant>) -> Probe {
        let (asked, width) = (0, FIRST_WIDTH);
        Probe { asked, endpoint: None, width, due, tries: 0, rounds: 0, hop: 0, rests: false, hurried: false }
    }

    /// Which endpoint of the order is asked: the one after those that hold nothing, and the next after two questions in
    /// vain.
    fn hop(&self) -> u8 {
        self.hop.saturating_add(self.tries / 2)
    }

    /// The flow spoke: its silence begins anew. What was asked may still be answered.
    pub(super) fn saw_traffic(&mut self) {
        *self = Probe { asked: self.asked, width: self.width, hurried: self.hurried, ..Probe::new(None) };
    }

    /// A question about `seq` is under way.
    pub(super) fn covers(&self, seq: u64) -> bool {
        self.asked != 0 && seq.checked_sub(self.asked).is_some_and(|offset| offset < u64::from(self.width))
    }

    fn was_asked(&mut self, now: Instant, first: u64, asked: Asked, silence: Duration) {
        self.asked = first;
        let pause = (PATIENCE * (1 << self.tries.min(8))).min(MOST_PATIENCE);
        self.tries += 1;
        self.endpoint = if let Asked::Range(endpoint) = asked { Some(endpoint) } else { None };
        self.due = Some(now + if self.endpoint.is_some() { pause } else { silence.max(pause) });
        self.rests = asked == Asked::Single && self.tries >= SINGLE_TRIES;
    }

    /// The endpoint holds numbers of the question; `all`: the last one too.
    fn found(&mut self, now: Instant, all: bool) {
        let width = if all { (self.width * 4).min(MOST_WIDTH) } else { FIRST_WIDTH };
        *self = Probe { width, hurried: self.hurried, ..Probe::new(Some(now + AGAIN)) };
    }

    /// The endpoint holds none.
    fn found_nothing(&mut self, now: Instant, endpoints: usize, silence: Duration) {
        (self.asked, self.endpoint) = (0, None);
        (self.tries, self.width) = (0, FIRST_WIDTH);
        self.hop = self.hop.saturating_add(1);
        self.due = Some(now);
        if usize::from(self.hop) >= endpoints {
            self.hop = 0;
            self.rounds += 1;
            self.rests = self.rounds >= ROUNDS;
            self.due = Some(now + silence.max(AFTER_START));
        }
    }
}

/// A flow that only a position names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumed {
    pub(super) next: u64,
    pub(super) group: GroupIndex,
    pub(super) probe: Probe,
}

impl Tracker {
    /// Asks about flows that are due; of all flows some, in turn.
    pub(super) fn probe_hurried(
        &mut self,
        now: Instant,
        ask: &mut impl FnMut(&Question) -> Asked,
        counts: &mut Counts,
    ) {
        for _ in 0..self.hurried.len().min(HURRIED) {
            let Some(key) = self.hurried.pop_front() else { return };
            let Some(probe) = self.probe_of(key) else { continue };
            probe.hurried = false;
            if probe.rests || probe.due.is_none() {
                continue;
            }
            self.probe(now, key, ask, counts);
            self.hurry(key);
        }
    }

    /// Asks about a flow, if it is time.
    pub(super) fn probe(
        &mut self,
        now: Instant,
        key: HashKey,
        ask: &mut impl FnMut(&Question) -> Asked,
        counts: &mut Counts,
    ) {
        let Some((question, since)) = self.question(now, key) else { return };
        let Some(probe) = self.probe_of(key) else { return };
        if probe.tries >= TRIES {
            probe.rests = true;
            counts.flows_unconfirmed += 1;
            if self.unconfirmed.len() < NOTES {
                self.unconfirmed.push((key, question.first));
            }
            return;
        }
        let asked = ask(&question);
        if asked != Asked::Not
            && let Some(probe) = self.probe_of(key)
        {
            probe.was_asked(now, question.first, asked, now.saturating_duration_since(since));
            counts.tail_probes += 1;
        }
    }

    /// What is to be asked about a flow now, and since when it is silent.
    fn question(&self, now: Instant, key: HashKey) -> Option<(Question, Instant)> {
        if let Some(flow) = self.by_key.get(&key).and_then(|slot| self.flows.get(*slot)) {
            let wants = flow.wants_probe(now, self.digest_sources.contains(&flow.source));
            let (width, hop) = (flow.probe.width, flow.probe.hop());
            let skipped = u64::from(self.mutation == Some(Mutation::ProbeSkipsOne));
            let (subtree, first) = (flow.subtree, flow.next + skipped);
            let (unanswered, resumed) = (flow.probe.endpoint, false);
            let question = Question { key, subtree, first, width, hop, unanswered, resumed };
            return wants.then_some((question, flow.last_seen));
        }
        let Resumed { next, probe, .. } = self.resumed.get(&key)?;
        let wants = !probe.rests && probe.due.is_some_and(|due| now >= due);
        let (width, hop) = (probe.width, probe.hop());
        let (unanswered, first) = (probe.endpoint, *next);
        let question = Question { key, subtree: NO_ID, first, width, hop, unanswered, resumed: true };
        wants.then_some((question, self.started))
    }

    pub(super) fn probe_of(&mut self, key: HashKey) -> Option<&mut Probe> {
        match self.by_key.get(&key) {
            Some(slot) => self.flows.get_mut(*slot).map(|flow| &mut flow.probe),
            None => self.resumed.get_mut(&key).map(|resumed| &mut resumed.probe),
        }
    }

    /// Has the flow looked at in every tick until its question is put.
    pub(super) fn hurry(&mut self, key: HashKey) {
        if let Some(probe) = self.probe_of(key)
            && probe.due.is_some()
            && !probe.rests
            && !std::mem::replace(&mut probe.hurried, true)
        {
            self.hurried.push_back(key);
        }
    }

    /// The frame that a question was about came: what follows it?
    pub(super) fn question_met(&mut self, now: Instant, key: HashKey) {
        if let Some(probe) = self.probe_of(key) {
            probe.due = Some(now + AGAIN);
            self.hurry(key);
        }
    }

    /// An endpoint, one of `endpoints`, says which numbers of a range it holds: perhaps those of a question.
    pub(crate) fn probed(&mut self, now: Instant, e: &Extended, endpoints: usize, counts: &mut Counts) {
        let key = e.hash_key;
        let last = e.end.0.min(e.start.0.saturating_add(Extended::MAX_RANGE - 1));
        let held = (e.start.0..=last).rev().find(|seq| !e.is_missing(SeqNum(*seq)));
        let spoke = self.by_key.get(&key).and_then(|slot| self.flows.get(*slot)).map(|flow| flow.last_seen);
        let silence = now.saturating_duration_since(spoke.unwrap_or(self.started));
        let Some(probe) = self.probe_of(key).filter(|probe| probe.asked == e.start.0) else { return };
        match held {
            Some(highest) => {
                probe.found(now, highest == last);
                self.reveal(now, key, highest, counts);
            }
            None => probe.found_nothing(now, endpoints, silence),
        }
        self.hurry(key);
    }

    /// All numbers of a flow up to `highest` were sent: those that did not come are owed.
    fn reveal(&mut self, now: Instant, key: HashKey, highest: u64, counts: &mut Counts) {
        if let Some(group) = self.resumed.get(&key).map(|resumed| resumed.group) {
            let source = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            let (class, seq) = (FlowClass::of_group(group), SeqNum(highest));
            let s =
                Sighting { key, seq, group, subtree: &NO_ID, class, source, wanted: true, trusted: false };
            if !self.resume_flow(now, &s, counts) {
                return;
            }
        }
        let Some(&slot) = self.by_key.get(&key) else { return };
        let Some(flow) = self.flows.get_mut(slot) else { return };
        if flow.older_than_us > 0 {
            flow.older_than_us = flow.older_than_us.max(highest);
        }
        if highest >= flow.next && flow.wanted {
            let delay = self.limits.digest_delay;
            self.jump(now, slot, highest.saturating_add(1), delay, None, counts);
        }
    }

    /// Flows of which no endpoint said whether numbers from there on were sent, since the last call (at most 64; the
    /// counter has all).
    pub fn take_unconfirmed(&mut self, out: &mut Vec<(HashKey, u64)>) {
        out.append(&mut self.unconfirmed);
    }

    /// Flows that only a position names, and that are still being asked about.
    pub fn unheard(&self) -> usize {
        self.resumed.values().filter(|resumed| !resumed.probe.rests).count()
    }
}

impl Flow {
    /// Idle for long enough that its last frames may be lost, and no digest spoke of it (wire 9.2, 15). A sender of
    /// `digests` has the first word; one that was killed sends none of its last frames.
    pub(super) fn wants_probe(&self, now: Instant, digests: bool) -> bool {
        let least = Duration::from_millis(if digests { 2_000 } else { 500 });
        let pause = Duration::from_nanos(self.interval_ns.saturating_mul(4)).max(least);
        self.wanted
            && !self.probe.rests
            && self.gaps.is_empty()
            && now >= self.probe.due.unwrap_or(self.last_seen + pause)
    }
}
