//! What must hold: noted and checked as frames leave, at every step, and at the end.

use super::frames::{frames, id_of};
use super::node::Node;
use super::world::World;
use super::{Summary, listener};
use crate::MS;
use crate::fault::Kind;
use frame::digest::Digest;
use frame::{Fragment, Kind as FrameKind};
use hashbrown::HashMap;
use std::rc::Rc;
use std::time::Duration;
use txidset::{ClaimStats, Why};

/// Counted reasons to let a frame through undecided: a bound was reached, or the process is stopping.
const BOUNDS: [Why; 3] = [Why::ParkingFull, Why::Bypassed, Why::Draining];

/// What left by the fabric.
#[derive(Default)]
pub(super) struct Sent {
    /// Id and fragment under each HashKey and SeqNum.
    numbers: HashMap<(u64, u64), (usize, u16)>,
    /// Fragments of an id that left under a HashKey.
    parts: HashMap<(usize, u64), u16>,
    /// Highest number that left of each flow.
    highest: HashMap<u64, u64>,
    /// By id: frames that left whole.
    whole: Vec<Vec<Whole>>,
    /// When the claim was built that stands in the store, by worker and id.
    won: HashMap<(usize, usize), u64>,
    /// By way: frames that processes of the past let through undecided.
    undecided: Vec<u64>,
    /// By way: flows whose position listeners of the past did not find.
    without_position: Vec<u64>,
}

/// A frame that left whole.
#[derive(Clone, Copy)]
struct Whole {
    at: u64,
    node: usize,
    /// Its flow.
    key: u64,
}

impl Sent {
    pub(super) fn new(ids: usize, ways: usize) -> Sent {
        let of_ways = vec![0; ways];
        Sent {
            whole: vec![Vec::new(); ids],
            undecided: of_ways.clone(),
            without_position: of_ways,
            ..Sent::default()
        }
    }

    /// The store took a claim that was built at `built`.
    pub(super) fn won(&mut self, who: usize, id: usize, built: u64) {
        self.won.insert((who, id), built);
    }
}

impl World {
    // As frames leave.

    pub(super) fn note_sent(&mut self, who: usize, bytes: &Rc<[u8]>) {
        let Some((key, seq)) = listener::stamp_of(bytes) else {
            return self.broken("a frame left without a number");
        };
        let Some(id) = self.id_at(id_of(bytes)) else { return self.broken("a frame left that nobody sent") };
        let (part, total) = part_of(bytes);
        self.trace(|| format!("worker {who} sends {id} as {:016x}:{seq}", key.0));
        if let Some((before, _)) = self.sent.numbers.insert((key.0, seq), (id, part)) {
            let what = format!("HashKey {:016x} with SeqNum {seq} carries {before} and then {id}", key.0);
            return self.broken(&what);
        }
        let highest = self.sent.highest.entry(key.0).or_default();
        *highest = seq.max(*highest);
        let parts = self.sent.parts.entry((id, key.0)).or_default();
        *parts += 1;
        if parts.is_multiple_of(total) {
            self.note_whole(who, id, Whole { at: self.now, node: self.node_of(who), key: key.0 });
        }
    }

    fn note_whole(&mut self, who: usize, id: usize, whole: Whole) {
        if let Some(late) = self.is_late(who, id, self.terms.lease)
            && !self.was_refused_since(who, self.now - late)
        {
            self.broken(&format!(
                "id {id}: sent {} ms after its claim, although a sibling had taken over",
                late / MS
            ));
        }
        self.sent.whole[id].push(whole);
        self.trails[0][id].pass(whole.node, whole.at);
    }

    /// How late a worker hands over an id that it won, if a sibling has handed it over since.
    fn is_late(&mut self, who: usize, id: usize, lease: u64) -> Option<u64> {
        let (node, way) = (self.node_of(who), self.way_of(who));
        let first = id_of(frames().of(self.first + id));
        let built = self.calls(who).claimed_at(first)?;
        // A copy that was let through undecided was not asked for.
        let won = self.sent.won.get(&(who, id)) == Some(&built) && self.undecided(who) == 0;
        let late = self.now - built;
        // With an open breaker nobody is asked again.
        let asks = !self.faults.iter().any(|fault| fault.kind == Kind::Breaker && fault.node == node);
        let taken = |at: u64, by: usize| at > built && by != node;
        let taken = self.trails[way][id].passages.iter().any(|passage| taken(passage.at, passage.node));
        (won && asks && taken && late > lease / 2 + MS).then_some(late)
    }

    pub(super) fn check_late_delivery(&mut self, number: usize, id: [u8; 8], claimed: bool) {
        let Some(id) = self.id_at(id) else { return };
        let who = self.proxies.len() + number;
        if let Some(late) = self.is_late(who, id, self.terms.egress_lease)
            && claimed
        {
            let late = late / MS;
            self.broken(&format!(
                "id {id}: delivered {late} ms after its claim, although a sibling had taken over"
            ));
        }
    }

    pub(super) fn check_digest(&mut self, bytes: &[u8]) {
        let Ok(digest) = Digest::decode(bytes) else { return self.broken("a digest that does not decode") };
        for entry in digest.entries() {
            let highest = self.sent.highest.get(&entry.hash_key.0).copied().unwrap_or(0);
            if entry.highest.0 > highest {
                let (key, announced) = (entry.hash_key.0, entry.highest.0);
                self.broken(&format!("a digest announces {key:016x}:{announced}, but only {highest} left"));
            }
        }
    }

    // At every step.

    pub(super) fn check_bounds(&mut self, who: usize) {
        let (proxy, terms) = (&self.proxies[who], &self.terms);
        let parked = proxy.stats.parked_bytes.value();
        let (slab, backlog) = (proxy.tally.slab_bytes.get(), proxy.tally.backlog_bytes.get());
        if parked > terms.park_bytes as u64 {
            self.broken(&format!("worker {who} parks {parked} bytes"));
        } else if slab > (terms.slab_bytes + terms.park_bytes) as u64 {
            self.broken(&format!("worker {who} holds {slab} bytes for the store"));
        } else if backlog > terms.backlog_bytes as u64 {
            self.broken(&format!("worker {who} holds {backlog} bytes for the kernel"));
        }
    }

    pub(super) fn check_listener(&mut self, number: usize) {
        let terms = self.terms;
        let listener = &mut self.listeners[number];
        let parked = listener.stats.as_ref().map_or(0, |stats| stats.parked_bytes.value());
        let counts = listener.pipeline.counts();
        let (waiting, lost) = (counts.waiting_bytes, counts.lost);
        // Rebuilt frames, and those that came late, are bounded by the claims and not by the table.
        let most = (terms.waiting_bytes + 2 * terms.park_bytes + 4_096) as u64;
        if parked > terms.park_bytes as u64 {
            self.broken(&format!("listener {number} parks {parked} bytes"));
        } else if waiting > most {
            self.broken(&format!("listener {number} holds {waiting} bytes for the store"));
        } else if lost.iter().sum::<u64>() > 0 {
            self.broken(&format!("listener {number} gave up numbers that the endpoint holds: {lost:?}"));
        }
    }

    // When a process ends, and at the end.

    /// Counts what the workers of a process let through undecided, before the process is forgotten.
    pub(super) fn note_end_of(&mut self, node: usize) {
        for who in 0..self.proxies.len() + self.listeners.len() {
            if self.node_of(who) == node {
                let (way, count) = (self.way_of(who), self.undecided(who));
                self.sent.undecided[way] += count;
                self.sent.without_position[way] += self.without_position(who);
            }
        }
    }

    fn without_position(&mut self, who: usize) -> u64 {
        let listener = who.checked_sub(self.proxies.len());
        listener.map_or(0, |number| self.listeners[number].pipeline.counts().flows_without_position)
    }

    fn undecided(&self, who: usize) -> u64 {
        let bounds = |stats: &ClaimStats| BOUNDS.iter().map(|&why| stats.by(why).value()).sum::<u64>();
        match who.checked_sub(self.proxies.len()) {
            // Those that found no place in the slab at all were never asked about.
            None => bounds(&self.proxies[who].stats) + self.proxies[who].tally.slab_overflow.get(),
            Some(number) => self.listeners[number].stats.as_ref().map_or(0, |stats| bounds(stats)),
        }
    }

    /// An orderly stop leaves nothing behind.
    pub(super) fn check_exit(&mut self, node: usize) {
        for who in 0..self.proxies.len() {
            if self.proxies[who].node == node {
                let waiting = self.proxies[who].ingress.claims().waiting();
                if waiting > 0 {
                    self.broken(&format!("{waiting} frames still wait when worker {who} stops"));
                }
                self.check_books(who);
            }
        }
    }

    /// Frames accepted are frames sent, suppressed, or dropped and counted.
    fn check_books(&mut self, who: usize) {
        let proxy = &self.proxies[who];
        let tally = &proxy.tally;
        let (accepted, deduped) = (tally.accepted(FrameKind::Tx).get(), tally.deduped(FrameKind::Tx).get());
        let planned = tally.emitted.get();
        let frames = planned + tally.fragmented.get() - tally.fragments.get();
        let (handed_over, dropped) = (tally.handed_over.get(), proxy.dropped());
        if accepted != deduped + frames {
            self.broken(&format!(
                "worker {who} accepted {accepted} frames, suppressed {deduped} and sent {frames}"
            ));
        } else if planned != handed_over + dropped {
            self.broken(&format!(
                "worker {who} planned {planned} datagrams, handed over {handed_over} and counted {dropped} as dropped"
            ));
        }
    }

    /// Nothing is under way any more, and nothing is missing; `late`: but for what nobody can have heard of.
    pub(super) fn is_done(&mut self, late: bool) -> bool {
        for who in 0..self.proxies.len() {
            let node = self.nodes[self.proxies[who].node];
            let proxy = &mut self.proxies[who];
            if node.alive && !(node.accepting && proxy.inbox.is_empty() && proxy.ingress.is_drained()) {
                return false;
            }
        }
        for listener in &mut self.listeners {
            let node = self.nodes[listener.node];
            if node.alive && !(node.accepting && listener.is_idle()) {
                return false;
            }
        }
        let ids = self.trails[0].len();
        (0..self.consumers.len()).all(|consumer| {
            (0..ids).all(|id| {
                !self.trails[1 + consumer][id].passages.is_empty()
                    || self.owes(consumer, id).is_none_or(|(_, unheard)| unheard && late)
            })
        })
    }

    pub(super) fn conclude(mut self) -> Result<Summary, String> {
        self.check_rest();
        self.check_proxies();
        for way in 0..self.trails.len() {
            self.check_once(way);
        }
        for consumer in 0..self.consumers.len() {
            self.check_delivered(consumer);
        }
        if let Some(what) = self.broken {
            return Err(what);
        }
        self.count_up();
        Ok(self.summary)
    }

    /// Nothing waits for ever.
    fn check_rest(&mut self) {
        for who in 0..self.proxies.len() {
            if !self.nodes[self.proxies[who].node].alive {
                continue;
            }
            let waiting = self.proxies[who].ingress.claims().waiting();
            if waiting > 0 || !self.proxies[who].ingress.is_drained() {
                self.broken(&format!("{waiting} frames wait for ever at worker {who}, or its claims do"));
            } else {
                self.check_books(who);
            }
        }
        for number in 0..self.listeners.len() {
            let listener = &mut self.listeners[number];
            if self.nodes[listener.node].alive && !listener.is_idle() {
                let gaps = listener.pipeline.counts().open_gaps;
                let (waits, queued) = (listener.pipeline.is_waiting(), listener.stream.queue.len());
                self.broken(&format!(
                    "listener {number} does not come to rest: {gaps} gaps, frames wait for a claim: {waits}, {queued} bytes \
                     for the consumer"
                ));
            }
        }
    }

    /// What a process received and did not lose by dying left by somebody, or was counted as dropped.
    fn check_proxies(&mut self) {
        for node in 0..self.nodes.len() {
            let workers: Vec<usize> = (0..self.proxies.len())
                .filter(|&who| self.proxies[who].node == node && self.nodes[node].ended_well())
                .collect();
            let mut owed: Vec<usize> = workers
                .iter()
                .flat_map(|&who| self.proxies[who].received.iter().copied())
                .filter(|&id| self.trails[0][id].passages.is_empty() && !self.trails[0][id].unreleased)
                .collect();
            owed.sort_unstable();
            owed.dedup();
            let dropped: u64 = workers.iter().map(|&who| self.proxies[who].dropped()).sum();
            if owed.len() as u64 > dropped {
                self.broken(&format!(
                    "node {node} received {owed:?} and nobody sent them; it counted {dropped} drops"
                ));
            }
        }
    }

    /// Each id once, but for what faults and bounds explain.
    fn check_once(&mut self, way: usize) {
        let undecided: u64 = self.sent.undecided[way]
            + (0..self.proxies.len() + self.listeners.len())
                .filter(|&who| self.way_of(who) == way && self.nodes[self.node_of(who)].alive)
                .collect::<Vec<_>>()
                .into_iter()
                .map(|who| self.undecided(who))
                .sum::<u64>();
        let reach = self.reach_of(way);
        let ours = self.nodes_of(way);
        let horizon = if way == 0 { self.terms.horizon } else { Duration::MAX };
        let horizon = u64::try_from(horizon.as_micros()).unwrap_or(u64::MAX);
        let unexplained = |trail: &super::trail::Trail| {
            trail.unexplained(&self.faults, reach, horizon, |node| ours.contains(&node)) as u64
        };
        let counts: Vec<u64> = self.trails[way].iter().map(unexplained).collect();
        let sum: u64 = counts.iter().sum();
        if sum > undecided {
            let id = counts.iter().position(|count| *count > 0).unwrap_or(0);
            let passages = self.trails[way][id].passages.clone();
            self.broken(&format!(
                "way {way}: {sum} duplicates that no fault explains and {undecided} let through undecided; id {id} passed at \
                 {passages:?}"
            ));
        }
    }

    fn reach_of(&self, way: usize) -> super::trail::Reach {
        if way == 0 { self.reach } else { self.consumers[way - 1].reach }
    }

    fn nodes_of(&self, way: usize) -> Vec<usize> {
        let workers = 0..self.proxies.len() + self.listeners.len();
        workers.filter(|&who| self.way_of(who) == way).map(|who| self.node_of(who)).collect()
    }

    /// What was sent while a listener of the consumer lived, and lives on, has arrived.
    fn check_delivered(&mut self, consumer: usize) {
        for id in 0..self.trails[0].len() {
            if !self.trails[1 + consumer][id].passages.is_empty() {
                continue;
            }
            match self.owes(consumer, id) {
                Some((number, false)) => {
                    self.broken(&format!(
                        "id {id} was sent and never came to consumer {consumer} of listener {number}"
                    ));
                }
                Some((_, true)) => self.summary.unheard += 1,
                None => self.summary.unserved += u64::from(!self.sent.whole[id].is_empty()),
            }
        }
    }

    /// A listener that must deliver an id that was not; `true`: nobody can tell it, because the sender died before its
    /// digest, all that came of the flow got lost, no position names it, and endpoints do not speak for others.
    fn owes(&mut self, consumer: usize, id: usize) -> Option<(usize, bool)> {
        let mut excused = None;
        if self.trails[1 + consumer][id].unreleased {
            return None;
        }
        // Of flows that look older than it, and whose position nobody had kept, a listener asks for a fixed number of
        // frames, counts them, and says for its siblings from where on it has all.
        let mut counted = self.sent.without_position[1 + consumer] > 0;
        for listener in self.listeners.iter_mut().filter(|listener| listener.consumer == consumer) {
            counted |= listener.pipeline.counts().flows_without_position > 0;
        }
        for number in 0..self.listeners.len() {
            let node = self.nodes[self.listeners[number].node];
            if self.listeners[number].consumer != consumer || !node.survives() {
                continue;
            }
            let since = match (counted, self.terms.small_head < 64) {
                (false, _) => 0,
                (true, false) => node.born,
                (true, true) => u64::MAX,
            };
            for whole in self.sent.whole[id].iter().filter(|whole| whole.at >= since) {
                let unheard = !self.listeners[number].heard.contains_key(&whole.key);
                if self.terms.announces || !unheard || !self.ended(whole.node, whole.at) {
                    return Some((number, false));
                }
                excused = Some((number, true));
            }
        }
        excused
    }

    /// The life of the node that sent at `at` is over.
    fn ended(&self, node: usize, at: u64) -> bool {
        let Node { alive, born, .. } = self.nodes[node];
        !alive || born > at
    }

    fn count_up(&mut self) {
        let again = |trails: &[super::trail::Trail]| {
            trails.iter().map(|trail| trail.passages.len().saturating_sub(1) as u64).sum::<u64>()
        };
        let once = |trails: &[super::trail::Trail]| {
            trails.iter().filter(|trail| !trail.passages.is_empty()).count() as u64
        };
        self.summary.sent = once(&self.trails[0]);
        self.summary.sent_again = again(&self.trails[0]);
        for way in 0..self.trails.len() {
            let (reach, ours) = (self.reach_of(way), self.nodes_of(way));
            if way > 0 {
                self.summary.delivered += once(&self.trails[way]);
                self.summary.delivered_again += again(&self.trails[way]);
            }
            for fault in &self.faults {
                let covers = |trail: &&super::trail::Trail| {
                    trail.is_covered(fault, reach) && (fault.forgets() || ours.contains(&fault.node))
                };
                self.summary.covered += self.trails[way].iter().filter(covers).count() as u64;
            }
        }
        self.summary.announced = self.endpoints.iter().map(|endpoint| endpoint.announced).sum();
        let probes = |listener: &mut super::listener::Listener| listener.pipeline.counts().tail_probes;
        self.summary.probes = self.listeners.iter_mut().map(probes).sum();
        let listeners = self.listeners.iter_mut();
        self.summary.repaired = listeners.map(|listener| listener.pipeline.counts().recovered).sum();
    }
}

/// Which fragment of how many; a whole frame is the first of one.
fn part_of(bytes: &[u8]) -> (u16, u16) {
    match Fragment::decode(bytes) {
        Ok(fragment) => (fragment.index, fragment.total),
        Err(_) => (0, 1),
    }
}
