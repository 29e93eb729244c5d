//! The way to one retry endpoint: how long it takes, how much of it may be under way, what waits for it.
//!
//! The round trip follows RFC 6298's estimator, between 5 ms and 2 s. Numbers under way are held in a window that grows
//! while repairs arrive and shrinks when more than half of them do not: a full receive queue, or a dead link. An endpoint
//! that answers nothing is left out, ever longer, until it speaks of itself.

use frame::{Ack, HashKey, SeqNum};
use gap_track::GapId;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const RTO_FIRST: Duration = Duration::from_millis(50);
const RTO_FLOOR: Duration = Duration::from_millis(5);
/// Longest timeout.
pub(super) const RTO_CAP: Duration = Duration::from_secs(2);
/// Numbers under way to one endpoint.
const WINDOW_FIRST: u64 = 512;
const WINDOW_FLOOR: u64 = 64;
const WINDOW_CAP: u64 = 8192;
/// Timeouts in a row after which an endpoint is left out for a while, then for twice as long, as long as others answer.
const SILENT_AFTER: u32 = 4;
const SILENT_RETRY: Duration = Duration::from_secs(1);
const SILENT_MOST: Duration = Duration::from_secs(16);
/// Single requests whose flow is remembered.
const SINGLES_REMEMBERED: usize = 256;

/// What is known of the way to an endpoint.
pub(super) struct Path {
    srtt: Option<Duration>,
    rttvar: Duration,
    /// Numbers under way.
    in_flight: u64,
    window: u64,
    arrived: u64,
    timed_out: u64,
    /// Last sign of life.
    heard: Option<Instant>,
    silent: u32,
    silent_until: Option<Instant>,
    held_until: Option<Instant>,
    ready: VecDeque<GapId>,
    singles: Bucket,
    /// Single requests under way, oldest first: plain answers name no flow.
    asked: VecDeque<(SeqNum, HashKey)>,
}

impl Path {
    pub(super) fn new(single_rate: f64) -> Path {
        Path {
            srtt: None,
            rttvar: Duration::ZERO,
            in_flight: 0,
            window: WINDOW_FIRST,
            arrived: 0,
            timed_out: 0,
            heard: None,
            silent: 0,
            silent_until: None,
            held_until: None,
            ready: VecDeque::new(),
            singles: Bucket::new(single_rate, (single_rate / 10.0).max(1.0)),
            asked: VecDeque::new(),
        }
    }

    /// Too many requests in a row went unanswered: others are asked.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.silent >= SILENT_AFTER && self.silent_until.is_some_and(|until| now < until)
    }

    /// When an answer is late.
    pub(super) fn rto(&self) -> Duration {
        let Some(srtt) = self.srtt else { return RTO_FIRST };
        (srtt + (self.rttvar * 4).max(Duration::from_millis(1))).clamp(RTO_FLOOR, RTO_CAP)
    }

    /// An answer took so long.
    pub(super) fn timed(&mut self, rtt: Duration) {
        match self.srtt {
            None => {
                self.srtt = Some(rtt);
                self.rttvar = rtt / 2;
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
    }

    /// It spoke of itself: it may be asked again. That it answers is not known yet.
    pub(super) fn spoke(&mut self) {
        self.silent_until = None;
    }

    /// A request was not answered.
    pub(super) fn unanswered(&mut self, now: Instant) {
        self.silent = self.silent.saturating_add(1);
        if let Some(times) = self.silent.checked_sub(SILENT_AFTER) {
            self.silent_until = Some(now + (SILENT_RETRY * (1 << times.min(8))).min(SILENT_MOST));
        }
    }

    /// It answered.
    pub(super) fn alive(&mut self, now: Instant) {
        self.silent = 0;
        self.silent_until = None;
        self.heard = Some(now);
    }

    /// `n` numbers are no longer under way.
    pub(super) fn landed(&mut self, n: u64, arrived: bool) {
        self.in_flight = self.in_flight.saturating_sub(n);
        if arrived {
            self.arrived += n;
        } else {
            self.timed_out += n;
        }
        let total = self.arrived + self.timed_out;
        if total >= self.window.min(256) {
            // Half of the numbers may be lost to a bad link without saying anything about queues.
            self.window = if self.timed_out * 2 > total {
                (self.window / 10 * 7).max(WINDOW_FLOOR)
            } else {
                (self.window + self.window / 4).min(WINDOW_CAP)
            };
            (self.arrived, self.timed_out) = (0, 0);
        }
    }

    /// It was heard since then.
    pub(super) fn heard_since(&self, then: Instant) -> bool {
        self.heard.is_some_and(|heard| heard >= then)
    }

    /// It wants no request until then.
    pub(super) fn hold(&mut self, until: Instant) {
        self.held_until = Some(until);
    }

    /// Until when it wants no request, if that is later than now.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        self.held_until.filter(|until| now < *until)
    }

    /// `n` numbers were asked for.
    pub(super) fn sent(&mut self, n: u64) {
        self.in_flight += n;
    }

    /// It does not have `n` numbers that it was asked for: that says nothing about the way.
    pub(super) fn returned(&mut self, n: u64) {
        self.in_flight = self.in_flight.saturating_sub(n);
    }

    /// How many numbers more may be asked for.
    pub(super) fn room(&self) -> u64 {
        self.window.saturating_sub(self.in_flight)
    }

    /// A gap waits to be asked for.
    pub(super) fn enqueue(&mut self, gap: GapId) {
        self.ready.push_back(gap);
    }

    /// A gap waits before all others.
    pub(super) fn enqueue_first(&mut self, gap: GapId) {
        self.ready.push_front(gap);
    }

    /// The gap that waits first.
    pub(super) fn first(&self) -> Option<GapId> {
        self.ready.front().copied()
    }

    /// It waits no longer.
    pub(super) fn leave_first(&mut self) {
        self.ready.pop_front();
    }

    /// May a request for a single number leave? If not, the time when it may.
    pub(super) fn take_single(&mut self, now: Instant) -> Result<(), Instant> {
        if self.singles.take(now) { Ok(()) } else { Err(self.singles.next(now)) }
    }

    /// A single number was asked for.
    pub(super) fn asked_single(&mut self, seq: SeqNum, key: HashKey) {
        self.asked.push_back((seq, key));
        if self.asked.len() > SINGLES_REMEMBERED {
            self.asked.pop_front();
        }
    }

    /// The single request that a plain answer is about.
    pub(super) fn answered_single(&mut self, verdict: Ack, seq_num: SeqNum) -> Option<(SeqNum, HashKey)> {
        let place = match verdict {
            // MISS carries no number: the oldest request is the best guess, and a wrong one costs a detour only.
            Ack::Miss => 0,
            _ => self.asked.iter().position(|(seq, _)| *seq == seq_num)?,
        };
        self.asked.remove(place)
    }
}

/// A token bucket.
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Option<Instant>,
}

impl Bucket {
    pub(super) fn new(rate: f64, burst: f64) -> Bucket {
        Bucket { rate, burst, tokens: burst, filled: None }
    }
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled.unwrap_or(now));
        self.filled = Some(now);
        self.tokens = (self.tokens + since.as_secs_f64() * self.rate).min(self.burst);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
    /// When the next token will be there.
    fn next(&self, now: Instant) -> Instant {
        let short = (1.0 - self.tokens).max(0.0) / self.rate.max(0.01);
        // Rounded up: a token that is a rounding error short would be waited for in steps of nothing.
        self.filled.unwrap_or(now) + Duration::from_secs_f64(short) + Duration::from_micros(100)
    }
}
