//! What a request gets: data first, then a reply that says no more than what was done.
//!
//! `Request::read` checks a request. An `AnswerPlan` looks its numbers up and decides: which stored frames leave by multicast,
//! which by unicast, which numbers are not here. The round (`endpoint`) hands the multicast frames to the kernel, takes back
//! what the kernel refused, and only then makes the `Answer`. So an ACK never names data that was not handed over.
//!
//! * A multicast repair of one number leaves once within the dedup window. Whoever asks again within it gets its ACK,
//!   because the frame did leave.
//! * Unicast bytes to an address that has not proved itself never exceed three times the request. What does not fit leaves
//!   by multicast instead.
//! * A reply to a plain requester is byte for byte that of the Go stack: ACK with the number, or MISS with 0. A plain
//!   request for a range (no Go listener sends one) gets the ACK of its first number, or MISS if that one was not sent.
//! * A reply to a requester that set the extension flag names the request and lists what was not sent.
//!
//! Limits: at most 256 numbers a request. Cost: one store lookup a number. Only unicast repairs allocate.

use super::limit::{Level, RepairLimits};
use super::numbers::{MAX_RANGE, Numbers};
use super::store::{LogPlace, Store};
use frame::control::{Ack, Extended, Nack, Response};
use frame::{GroupIndex, SeqNum};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A well-formed request and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub nack: Nack,
    /// Who asks; replies go there.
    pub source: SocketAddr,
    /// The address that the request hit; replies come from there.
    pub local: Option<IpAddr>,
    /// Length of the request, the measure of what an unproven address may get back.
    pub received: usize,
}

service::reasons! {
    /// Why a datagram on the request port gets no answer.
    pub enum BadRequest {
        /// Not a NACK: short, wrong magic or wrong type.
        keeps Malformed = "bad_nack",
        /// EndSeq below StartSeq.
        keeps Reversed = "reversed_range",
        /// More numbers than the endpoint serves at once.
        keeps TooLong = "range_too_long",
        /// Number 0 is never sent.
        keeps Zero = "seq_zero",
    }
}

impl Request {
    /// Reads a request: at least 64 bytes (a longer one may be a future one), first number not after the last, at most
    /// `max_range` numbers.
    ///
    /// # Errors
    /// Why nothing is answered.
    pub fn read(
        datagram: &[u8],
        source: SocketAddr,
        local: Option<IpAddr>,
        max_range: u64,
    ) -> Result<Request, BadRequest> {
        let nack = Nack::decode(datagram).map_err(|_| BadRequest::Malformed)?;
        let span = nack.end.0.checked_sub(nack.start.0).ok_or(BadRequest::Reversed)?;
        if span >= max_range.clamp(1, MAX_RANGE) {
            return Err(BadRequest::TooLong);
        }
        if nack.start == SeqNum(0) {
            return Err(BadRequest::Zero);
        }
        Ok(Request { nack, source, local, received: datagram.len() })
    }

    /// How many numbers are asked for.
    pub fn count(&self) -> u64 {
        self.nack.end.0 - self.nack.start.0 + 1
    }

    /// Number at an offset from the first.
    pub fn seq(&self, offset: u64) -> SeqNum {
        SeqNum(self.nack.start.0.saturating_add(offset))
    }

    /// True if the requester reads extended replies.
    pub fn is_extended(&self) -> bool {
        self.nack.reads_extended()
    }

    /// True if another endpoint asks on behalf of its listeners.
    pub fn is_proxied(&self) -> bool {
        self.nack.flags & Nack::PROXIED != 0
    }

    /// The reply of a limit, where the source has proved itself and the endpoint says so much.
    pub fn throttled(&self, level: Level) -> Response {
        self.response(
            Ack::Throttled { bucket: level.bucket() },
            self.nack.start,
            Numbers::first(self.count()),
        )
    }

    fn response(&self, verdict: Ack, seq_num: SeqNum, missing: Numbers) -> Response {
        let extended = self.is_extended().then(|| {
            let (start, end) = (self.nack.start, self.nack.end);
            let mut extended =
                Extended { hash_key: self.nack.hash_key, start, end, not_found: [0; Extended::BITMAP] };
            missing.iter().for_each(|offset| extended.set_missing(self.seq(offset)));
            extended
        });
        Response { verdict, seq_num, extended }
    }
}

/// By which paths repairs leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairPaths {
    /// To the group that the frame came from.
    pub multicast: bool,
    /// To the requester.
    pub unicast: bool,
}

/// Policy of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What the endpoint advertises.
    pub paths: RepairPaths,
    /// A multicast repair is not repeated within this time.
    pub dedup_window: Duration,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Offset of its number from the first of the request.
    pub offset: u64,
    /// Where its bytes are.
    pub place: LogPlace,
    /// Group it came from.
    pub group: GroupIndex,
}

/// What one request gets. One value is reused for all requests of a worker.
#[derive(Debug, Default)]
pub(super) struct AnswerPlan {
    /// Frames to multicast, ascending.
    pub(super) multicast: Vec<Repair>,
    /// Frames to send to the requester, ascending.
    pub(super) unicast: Vec<Repair>,
    /// What is known so far of the numbers asked for.
    pub(super) outcome: Outcome,
    /// Repairs left out because they left within the dedup window.
    pub(super) repeated: u64,
    /// Limits that refused a repair, how often each.
    pub(super) limited: [u64; Level::ALL.len()],
    /// Frames that did not fit what an unproven address may get by unicast.
    pub(super) unproven: u64,
}

/// Which numbers left by which way, and which are not here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Handed over by multicast, now or within the dedup window.
    pub multicast: Numbers,
    /// Handed over by unicast.
    pub unicast: Numbers,
    /// Not stored here.
    pub missing: Numbers,
    /// The limit that stopped the answer, if none of it got through.
    pub throttled: Option<u8>,
}

impl AnswerPlan {
    /// Looks up everything that `request` asks for and decides.
    pub(super) fn make(
        &mut self,
        request: &Request,
        store: &mut Store,
        limits: &mut RepairLimits,
        policy: &Policy,
        now: Instant,
    ) {
        self.clear();
        let source = request.source.ip();
        let mut budget = limits.unicast_budget(source, request.received).saturating_sub(Response::MAX_LEN);
        let wants_unicast = policy.paths.unicast || request.is_proxied();
        for offset in 0..request.count() {
            let Some(stored) = store.get(request.nack.hash_key, request.seq(offset), now) else {
                self.outcome.missing.insert(offset);
                continue;
            };
            let repair = Repair { offset, place: stored.place, group: stored.group };
            let len = stored.place.span.len as usize;
            let fits = len <= budget;
            let unicast = wants_unicast && fits;
            // What an unproven address may not get by unicast goes where everybody gets it. Another endpoint's listeners
            // are not there, so its requests are left unanswered instead.
            let multicast = policy.paths.multicast || (wants_unicast && !fits && !request.is_proxied());
            if wants_unicast && !fits {
                self.unproven += 1;
            }
            let repeated = multicast && stored.repaired.is_some_and(|ago| ago < policy.dedup_window);
            if repeated {
                self.repeated += 1;
                self.outcome.multicast.insert(offset);
            }
            let multicast = multicast && !repeated;
            if !multicast && !unicast {
                continue;
            }
            if let Err(level) = limits.repair(source, stored.group.0, len, now) {
                self.limited[level.index()] += 1;
                self.outcome.throttled = Some(level.bucket());
                continue;
            }
            if unicast {
                budget = budget.saturating_sub(len);
                self.unicast.push(repair);
            }
            if multicast {
                self.multicast.push(repair);
            }
        }
    }

    /// True if not a single number is here.
    pub(super) fn found_nothing(&self, request: &Request) -> bool {
        self.outcome.missing.len() as u64 == request.count()
    }

    /// The multicast repairs leave together with those of other requests. Counts all of them as sent, so that a request
    /// behind this one does not send them again. What the kernel then refuses must be taken back (`Store::forget_repaired`,
    /// `Outcome::recheck`) before any reply leaves.
    pub(super) fn presume_multicast_sent(&mut self, store: &mut Store, now: Instant) {
        for repair in &self.multicast {
            self.outcome.multicast.insert(repair.offset);
            store.note_repaired(&repair.place, now);
        }
    }

    /// Forgets everything, keeps the memory.
    fn clear(&mut self) {
        self.multicast.clear();
        self.unicast.clear();
        self.outcome = Outcome::default();
        self.repeated = 0;
        self.limited = [0; Level::ALL.len()];
        self.unproven = 0;
    }
}

impl Outcome {
    /// After a refused repair: keeps only those multicast numbers whose repair stands.
    pub(super) fn recheck(&mut self, request: &Request, store: &Store, policy: &Policy, now: Instant) {
        for offset in self.multicast.iter() {
            if !store.repaired_within(request.nack.hash_key, request.seq(offset), policy.dedup_window, now) {
                self.multicast.remove(offset);
            }
        }
    }

    /// See [`Answer::reply`].
    fn reply(&self, request: &Request, say_throttled: bool) -> Option<Response> {
        let sent = self.multicast.union(self.unicast);
        let mut missing = Numbers::first(request.count());
        sent.iter().for_each(|offset| missing.remove(offset));
        // A plain reply can only speak of the first number; an extended one lists them all.
        let speaks_of_data = if request.is_extended() { !sent.is_empty() } else { sent.contains(0) };
        if speaks_of_data {
            let ack = Ack::Ack { multicast: !self.multicast.is_empty(), unicast: !self.unicast.is_empty() };
            return Some(request.response(ack, request.nack.start, missing));
        }
        match self.throttled {
            Some(bucket) if say_throttled => {
                Some(request.response(Ack::Throttled { bucket }, request.nack.start, missing))
            }
            Some(_) => None,
            None if self.missing.is_empty() => None,
            None => Some(request.response(Ack::Miss, SeqNum(0), missing)),
        }
    }
}

/// The answer to one request, for whoever owns the request port: send the repairs, say which were taken, then send the
/// reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What was asked, and by whom.
    pub request: Request,
    outcome: Outcome,
    /// Unicast repairs: (offset from the first number, end of its bytes in `memory`).
    frames: Vec<(u64, usize)>,
    memory: Vec<u8>,
}

impl Answer {
    /// Copies the unicast repairs: their segment may leave before they do.
    pub(super) fn new(request: Request, outcome: Outcome, unicast: &[Repair], store: &Store) -> Answer {
        let mut frames = Vec::with_capacity(unicast.len());
        let mut memory = Vec::new();
        for repair in unicast {
            let bytes = store.bytes(&repair.place);
            if !bytes.is_empty() {
                memory.extend_from_slice(bytes);
                frames.push((repair.offset, memory.len()));
            }
        }
        Answer { request, outcome, frames, memory }
    }

    /// What was done so far.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Bytes of its unicast repairs.
    pub fn unicast_bytes(&self) -> usize {
        self.memory.len()
    }

    /// Unicast repairs, ascending: offset from the first number, and the frame.
    pub fn repairs(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let mut start = 0;
        self.frames.iter().filter_map(move |&(offset, end)| {
            let bytes = self.memory.get(start..end);
            start = end;
            Some((offset, bytes?))
        })
    }

    /// The kernel took these unicast repairs.
    pub fn unicast_sent(&mut self, sent: Numbers) {
        self.outcome.unicast = self.outcome.unicast.union(sent);
    }

    /// The reply, once everything was handed over. `None`: nothing true can be said (a limit stopped the answer, and
    /// `say_throttled` is off).
    pub fn reply(&self, say_throttled: bool) -> Option<Response> {
        self.outcome.reply(&self.request, say_throttled)
    }
}
