//! The round of a worker: everything that it does with what came, in the one order that is right.
//!
//! This is the calling pattern, the same for the runtime, the simulator, the tests and the benchmarks:
//!
//! ```text
//! ingress.begin(now, &burst);             // after each receive call: what is new in the burst is admitted or dropped
//! ingress.message(now, message);          // for each message of a TCP stream
//! loop {
//!     match ingress.commit(clock.now(), &mut burst, &mut io) {
//!         Next::Asked => {}               // the store was asked: read the time again, go on
//!         Next::Full { outlet, until } => // a socket is full: wait until it is writable, or until `until`
//!         Next::Done => break,            // the burst is cleared, the round is over
//!     }
//! }
//! ```
//!
//! `commit` does, in this order:
//!
//! 1. It admits what `begin` did not see. It claims all frames of the round together. It pumps the claims: requests go to
//!    the store. *Returns `Asked`.* The caller reads the time again, so that a process that was stopped between asking
//!    and sending sends nothing that a sibling may have taken over.
//! 2. It loads all frames that may leave, plans trains, numbers the frames, and hands them to every socket.
//!    *Returns `Full`* while a socket is full and the time of [`IngressConfig::full_timeout`] is not over; after that the
//!    rest goes to the backlog of its interface. With a timeout of zero it never returns `Full`.
//! 3. It copies frames that still wait for the store out of the burst. Those that find no room leave now, undecided: step 2
//!    once more, for them alone.
//! 4. It clears the burst. It pumps the claims again: answers about what was sent, and releases, go to the store. It tries
//!    backlogs again and sends digests that are due. *Returns `Done`.*
//!
//! What came in while a round was under way is not lost: before step 3 the round goes back to step 1 for it.
//!
//! A round without anything new is a round too: it takes up what waits (decisions of the store, large frames, backlogs).
//! Call it when the driver made progress, at [`Ingress::next_timeout`], and again at once while [`Ingress::is_busy`].
//!
//! An orderly stop: [`Ingress::decide_all`], rounds until nothing waits or the time is over, [`Ingress::close`], one more
//! round. Its step 4 ends with the farewell digests, and gives up, counts and releases what still waits.
//!
//! The links are looked at before frames are claimed, and again behind what was handed over ([`RoundIo::look`]). While no
//! interface can emit nothing is claimed: frames wait in `hold`. What was handed over and not looked at behind, when the last
//! carrier went, is released.
//!
//! Promises: no frame is sent before its claim was asked for; no claim is answered before its frame left or was given up;
//! the burst is not cleared while a frame in it has no other place.
//!
//! Cost: no allocation, copy or lock for a frame in steady state; memory grows with the largest round.

use super::admission::{Admission, Message};
use super::announcer::Announcer;
use super::claim::Gate;
use super::emit::Transmit;
use super::hold::{Cut, Outage};
use super::lines::Lines;
use super::load::{Loader, Stages};
use super::number::FlowTable;
use super::outcome::Outcomes;
use super::outlets::Outlets;
use super::planner::Planner;
use super::settings::IngressConfig;
use crate::drops::DropReason;
#[cfg(feature = "mutants")]
use crate::mutation::Mutation;
use crate::tally::Tally;
use multicast_io::Burst;
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::Claims;

/// Frames admitted in one round, beyond which streams wait for the next.
const BATCH: usize = 1024;
/// Large frames that wait, beyond which streams are not read.
const LARGE_WAITING: usize = 64;
/// Room in a backlog that a round needs if all that it brings is refused, unless the backlog is small: then half of it.
const ROUND_ROOM: usize = 4 << 20;
/// How often the open claims are looked through.
const LOOK: Duration = Duration::from_millis(100);

/// What a round needs from the world around it.
pub trait RoundIo {
    /// A socket of an emit interface.
    type Socket: Transmit;

    /// Takes answers of the store, and sends it the requests that `claims` has ready.
    fn pump(&mut self, claims: &mut Claims, now: Instant);

    /// The sockets, one for each emit interface, always in the same order.
    fn sockets(&mut self) -> &mut [Self::Socket];

    /// The longest train that every socket can send, in frames.
    fn max_train(&self) -> usize;

    /// Looks at the links, behind everything that was handed over so far, and writes what changed since the last look. Where
    /// nobody knows of links, every interface can emit.
    fn look(&mut self, _lines: &mut Lines) {}
}

/// What the caller does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The store was asked. Read the time again, and commit.
    Asked,
    /// The socket of this interface is full. Wait until it is writable, but not longer than `until`; then commit.
    Full {
        /// Position in [`RoundIo::sockets`].
        outlet: usize,
        /// End of the wait.
        until: Instant,
    },
    /// The round is over.
    Done,
}

/// Where a round goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing was begun, or frames were admitted that are not claimed yet.
    Ask,
    /// The store was asked.
    Load,
    /// An emission is under way; full sockets are waited for until then.
    Send { until: Instant },
}

/// The pipeline of one worker. See the module text for the order of calls.
// Wide because it is the list of the stages of a round, each with a state of its own.
pub struct Ingress {
    step: Step,
    full_timeout: Duration,
    /// `--send-backlog-bytes`.
    backlog_bytes: usize,
    /// When the open claims were looked through last.
    looked_at: Instant,
    outage: Outage,
    /// The next round is the last.
    closing: bool,
    admission: Admission,
    gate: Gate,
    flows: FlowTable,
    loader: Loader,
    planner: Planner,
    outlets: Outlets,
    outcomes: Outcomes,
    announcer: Announcer,
    tally: Arc<Tally>,
    #[cfg(feature = "mutants")]
    mutation: Option<Mutation>,
    /// Only for a planted fault: when the store was asked.
    #[cfg(feature = "mutants")]
    asked_at: Instant,
}

impl Ingress {
    /// How long the runtime may sleep at most, so that gauges do not go stale.
    pub const REPORT_EVERY: Duration = Duration::from_secs(1);

    /// A pipeline in front of `claims`.
    pub fn new(now: Instant, config: IngressConfig, claims: Claims, tally: Arc<Tally>) -> Ingress {
        tally.interfaces.set(config.outlets.max(1) as u64);
        Ingress {
            step: Step::Ask,
            full_timeout: config.full_timeout,
            backlog_bytes: config.outlet.bytes,
            looked_at: now,
            outage: Outage::new(config.outlet.bytes, config.outlet.deadline),
            closing: false,
            admission: Admission::new(config.policy),
            gate: Gate::new(claims, config.claims, config.slab_entries, config.slab_bytes)
                .bound_variants(config.variants.clone()),
            loader: Loader::new(&config),
            planner: Planner::new(&config),
            outlets: Outlets::new(&config),
            outcomes: Outcomes::default(),
            announcer: Announcer::new(&config),
            flows: FlowTable::new(config.identity, config.flows),
            tally,
            #[cfg(feature = "mutants")]
            mutation: None,
            #[cfg(feature = "mutants")]
            asked_at: now,
        }
    }

    /// What the links say before the first round.
    pub fn start_with(&mut self, lines: Lines) {
        *self.outlets.lines() = lines;
    }

    /// Plants a fault.
    #[cfg(feature = "mutants")]
    #[doc(hidden)]
    pub fn mutate(&mut self, mutation: Mutation) {
        self.mutation = Some(mutation);
        self.gate.mutation = Some(mutation);
        self.loader.mutation = Some(mutation);
        self.outlets.mutate(mutation);
        self.outcomes.mutation = Some(mutation);
        self.announcer.mutation = Some(mutation);
    }

    // The round.

    /// Admits what is new in `burst`. May be called after each receive call, while what came is in the nearer caches.
    /// From here to [`Next::Done`] the burst belongs to the round: more may be received into it, nothing may leave it.
    pub fn begin(&mut self, now: Instant, burst: &Burst) {
        #[cfg(feature = "mutants")]
        if planted!(self, ClearedBeforeKept) && self.step == Step::Ask && !self.gate.has_unasked() {
            self.gate.keep(burst, &self.tally, |_| {});
        }
        self.admission.take_burst(now, burst, &mut self.gate, &self.tally);
    }

    /// Admits a message of a TCP stream.
    pub fn message(&mut self, now: Instant, message: Message) {
        self.admission.take_message(now, message, &mut self.gate, &self.tally);
    }

    /// Goes on with the round as far as it can; see the module text.
    pub fn commit(&mut self, now: Instant, burst: &mut Burst, io: &mut impl RoundIo) -> Next {
        let until = match self.step {
            Step::Ask => return self.ask(now, burst, io),
            Step::Load => {
                self.load(self.time_to_load(now), burst);
                self.plan(now, burst, io.max_train())
            }
            Step::Send { until } => until,
        };
        if let Some(full) = self.send(now, until, burst, io) {
            return full;
        }
        if self.admission.has_more(burst) || self.gate.has_unasked() {
            return self.ask(now, burst, io);
        }
        if self.keep(now, burst) {
            let until = self.plan(now, burst, io.max_train());
            if let Some(full) = self.send(now, until, burst, io) {
                return full;
            }
        }
        self.end(now, burst, io)
    }

    /// The time for decisions of an orderly stop is over: every frame that waits for the store leaves undecided, in the
    /// rounds that follow.
    pub fn decide_all(&mut self, now: Instant) {
        self.gate.claims().drain(now);
    }

    /// The time of an orderly stop is over: the next round announces, a last time, every flow that took a number since its
    /// last digest. What still waits then is given up, counted and released.
    pub fn close(&mut self) {
        self.closing = true;
    }

    // What the runtime must know between rounds.

    /// The claim protocol, for the driver.
    pub fn claims(&mut self) -> &mut Claims {
        self.gate.claims()
    }

    /// When a round is due, at the latest: a backlog, or a digest.
    pub fn next_timeout(&self) -> Option<Instant> {
        let due =
            [self.outlets.next_timeout(), self.announcer.next_timeout(), self.outage.hold.next_timeout()];
        due.into_iter().flatten().min()
    }

    /// No backlog has room for another round: receiving more would only overflow it.
    pub fn is_blocked(&self) -> bool {
        self.outlets.most_room() < self.round_room() + self.loader.copied_bytes()
    }

    /// The kernel refuses something: a round should be small, so that it finds room in the backlog.
    pub fn has_backlog(&self) -> bool {
        !self.outlets.is_idle()
    }

    /// TCP stops being read first: when a quarter of a backlog is taken, half of the slab is, frames wait long for their
    /// place in a request to the store, or large frames wait.
    pub fn may_read_streams(&self) -> bool {
        self.gate.may_read_streams()
            && self.loader.large_waiting() < LARGE_WAITING
            && self.outage.hold.may_read_streams()
            && self.outlets.least_room() >= self.backlog_bytes - self.backlog_bytes / 4
    }

    /// As many frames are admitted as one emission should hold.
    pub fn is_batch_full(&self) -> bool {
        self.gate.pending() >= BATCH
    }

    /// Something is under way that another round can go on with at once.
    pub fn is_busy(&self) -> bool {
        self.room_to_load() > 0 && (self.loader.is_busy(&self.outlets) || self.gate.has_cleared())
    }

    /// Frames that wait for the store, or for room after it.
    pub fn waiting_frames(&self) -> usize {
        self.gate.load().1
    }

    /// Since when no interface can emit; `None` while one can.
    pub fn mute_since(&self) -> Option<Instant> {
        self.outage.since
    }

    /// What became of frames when the last interface lost its carrier, once.
    pub fn take_cut(&mut self) -> Option<Cut> {
        self.outage.cut.take()
    }

    /// Nothing waits: no frame, no backlog, no open claim, and the store knows what was settled.
    pub fn is_drained(&mut self) -> bool {
        self.loader.is_idle()
            && !self.gate.has_cleared()
            && self.waiting_frames() == 0
            && self.gate.claims().is_idle()
            && self.outcomes.is_idle()
            && self.outage.hold.is_empty()
            && self.outlets.is_idle()
    }

    /// Room that a backlog must have for what a round may bring.
    fn round_room(&self) -> usize {
        ROUND_ROOM.min(self.backlog_bytes / 2)
    }

    /// Bytes of frames that may be loaded although they can wait where they are.
    fn room_to_load(&self) -> usize {
        if self.outlets.is_idle() {
            return usize::MAX;
        }
        self.outlets.most_room().saturating_sub(self.round_room())
    }

    // Steps, in order.

    fn ask(&mut self, now: Instant, burst: &Burst, io: &mut impl RoundIo) -> Next {
        self.begin(now, burst);
        if self.gate.has_unasked() || !self.outlets.can_emit() || !self.outage.hold.is_empty() {
            self.look(now, io);
        }
        self.hold_or_offer(burst);
        self.gate.ask(now, &self.tally);
        io.pump(self.gate.claims(), now);
        self.step = Step::Load;
        #[cfg(feature = "mutants")]
        {
            self.asked_at = now;
        }
        Next::Asked
    }

    /// The time that decides whether a claim is still fresh enough to send.
    fn time_to_load(&self, now: Instant) -> Instant {
        #[cfg(feature = "mutants")]
        if planted!(self, TimeNotReadAgain) {
            return self.asked_at;
        }
        now
    }

    /// Without an interface that can emit nothing is claimed. With one, what waited for it is.
    fn hold_or_offer(&mut self, burst: &Burst) {
        let (gate, hold, tally) = (&mut self.gate, &mut self.outage.hold, &self.tally);
        if !self.outlets.can_emit() {
            gate.withdraw(burst, |candidate, bytes| hold.push(candidate, bytes, tally));
            return;
        }
        while let Some((candidate, bytes)) = hold.pop() {
            gate.offer_again(candidate, bytes);
        }
    }

    /// Looks at the links, and draws the consequences.
    fn look(&mut self, now: Instant, io: &mut impl RoundIo) {
        io.look(self.outlets.lines());
        let (interfaces, hand_overs) = (self.outlets.len(), self.outcomes.hand_overs());
        let lines = self.outlets.lines();
        let (all_cut, can_emit) = (lines.all_cut(), lines.any_usable());
        lines.confirmed();
        match can_emit {
            true => self.outage.since = None,
            false if self.outage.since.is_some() => return,
            false => self.outage.since = Some(now),
        }
        if !all_cut {
            return self.outlets.leave_out(hand_overs);
        }
        let (frames, claims) = hand_overs.cut(interfaces);
        if frames > 0 || !can_emit {
            self.outage.cut = Some(Cut { frames, claims });
        }
        if !can_emit {
            self.outlets.abandon(DropReason::NoCarrier, hand_overs);
            self.loader.abandon(hand_overs, &self.tally);
        }
    }

    fn load(&mut self, now: Instant, burst: &mut Burst) {
        if !self.outlets.can_emit() {
            let (gate, hold, tally) = (&mut self.gate, &mut self.outage.hold, &self.tally);
            return gate.withdraw_decided(now, burst, tally, |candidate, bytes| {
                hold.push(candidate, bytes, tally);
            });
        }
        let room = self.room_to_load();
        let (loader, stages) = self.stages();
        stages.hand_overs.tell(now);
        loader.load(now, burst, room, stages);
    }

    fn stages(&mut self) -> (&mut Loader, Stages<'_>) {
        let stages = Stages {
            gate: &mut self.gate,
            flows: &mut self.flows,
            hand_overs: self.outcomes.hand_overs(),
            outlets: &self.outlets,
            tally: &self.tally,
        };
        (&mut self.loader, stages)
    }

    /// Plans and numbers what was loaded; how long full sockets are waited for.
    fn plan(&mut self, now: Instant, burst: &mut Burst, max_train: usize) -> Instant {
        if !self.loader.loaded().is_empty() {
            let loaded = self.loader.loaded();
            self.planner.plan(now, max_train, burst, loaded, &mut self.flows, &self.tally);
            self.announcer.wake(now, &mut self.flows);
            self.outlets.begin();
        }
        now + self.full_timeout
    }

    /// Hands the emission to every socket. Some: one is full, and there is time to wait for it.
    fn send(&mut self, now: Instant, until: Instant, burst: &Burst, io: &mut impl RoundIo) -> Option<Next> {
        let (emission, hand_overs) = (self.planner.emission(), self.outcomes.hand_overs());
        if emission.is_empty() {
            return None;
        }
        let full = self.outlets.send(now, emission, burst.memory(), io.sockets(), hand_overs);
        let wait = full.filter(|_| now < until).map(|outlet| Next::Full { outlet, until });
        if wait.is_some() {
            self.tally.send_blocked.add(1);
            self.step = Step::Send { until };
        } else {
            self.outlets.defer(now, emission, burst.memory(), hand_overs);
            self.planner.end();
            self.outlets.end();
        }
        self.tell_outcomes(now, io);
        wait
    }

    /// Copies undecided frames out of the burst. `true`: some found no room, and were loaded to be sent undecided.
    fn keep(&mut self, now: Instant, burst: &mut Burst) -> bool {
        #[cfg(feature = "mutants")]
        if planted!(self, ClearedBeforeKept) {
            return false;
        }
        let mut overflow = Vec::new();
        self.gate.keep(burst, &self.tally, |cleared| overflow.push(cleared));
        let (loader, mut stages) = self.stages();
        for cleared in overflow {
            loader.load_cleared(now, burst, cleared, &mut stages);
        }
        !loader.loaded().is_empty()
    }

    fn end(&mut self, now: Instant, burst: &mut Burst, io: &mut impl RoundIo) -> Next {
        self.step = Step::Ask;
        burst.clear();
        self.admission.forget_burst();
        io.pump(self.gate.claims(), now);
        self.tick(now, io);
        if std::mem::take(&mut self.closing) {
            self.say_farewell(now, io);
        }
        Next::Done
    }

    /// Time has passed: backlogs are tried again, digests that are due are sent, gauges are set.
    fn tick(&mut self, now: Instant, io: &mut impl RoundIo) {
        #[cfg(feature = "mutants")]
        if planted!(self, RefusedTrainRenumbered) {
            self.outlets.number_again(&mut self.flows);
        }
        if self.outlets.can_emit() {
            self.outlets.retry(now, io.sockets(), self.outcomes.hand_overs());
        }
        self.outage.hold.expire(now, &self.tally);
        self.tell_outcomes(now, io);
        self.tally.recent.set_owner(self.gate.claims().owner());
        self.announcer.tick(now, &mut self.flows, &self.outlets, io.sockets(), &self.tally);
        self.report(now);
    }

    fn say_farewell(&mut self, now: Instant, io: &mut impl RoundIo) {
        self.announcer.farewell(now, &mut self.flows, &self.outlets, io.sockets(), &self.tally);
        self.abandon(now, io);
        io.pump(self.gate.claims(), now);
    }

    /// What still waits is given up, counted and released.
    fn abandon(&mut self, now: Instant, io: &mut impl RoundIo) {
        self.outage.hold.abandon(&self.tally);
        let decided = self.gate.abandon(now, &self.tally);
        let waiting = self.waiting_frames() as u64;
        let hand_overs = self.outcomes.hand_overs();
        self.outlets.abandon(DropReason::SendRefused, hand_overs);
        self.loader.abandon(hand_overs, &self.tally);
        // The claims of those that wait never settle: a sibling that has a copy takes over.
        hand_overs.lost.push((DropReason::SendRefused, decided + waiting));
        self.tell_outcomes(now, io);
    }

    /// What was handed over is told behind a look at the links.
    fn tell_outcomes(&mut self, now: Instant, io: &mut impl RoundIo) {
        if self.outcomes.hand_overs().awaits_look() && !planted!(self, SettledWithoutCarrier) {
            self.look(now, io);
        }
        let (claims, announcer) = (self.gate.claims(), &mut self.announcer);
        self.outcomes.tell(now, claims, &mut self.flows, announcer, &self.tally);
    }

    /// Copies levels to their gauges.
    fn report(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked_at) >= LOOK {
            self.looked_at = now;
            let oldest = self.outcomes.oldest(now).as_millis();
            self.tally.oldest_hand_over.set(u64::try_from(oldest).unwrap_or(u64::MAX));
        }
        let (bytes, frames) = self.gate.load();
        let tally = &self.tally;
        tally.slab_bytes.set(bytes as u64);
        tally.slab_frames.set(frames as u64);
        tally.held_bytes.set(self.outage.hold.bytes() as u64);
        tally.backlog_bytes.set(self.outlets.backlog_bytes());
        tally.backlog_groups.set(self.outlets.backlog_groups());
        tally.flows.set(self.flows.len() as u64);
        let totals = self.flows.totals();
        tally.flows_evicted.set(totals.evicted);
        tally.flows_expired.set(totals.expired);
        tally.flows_retired.set(totals.retired);
        tally.flows_unannounced.set(self.announcer.unannounced());
        tally.flow_holes.set(totals.holes);
    }
}
