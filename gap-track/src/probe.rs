//! Probes: asking for what may follow a flow's last number, where nobody says whether anything does.
//!
//! Why: a flow's last frames can be lost together with all that would show it. Their sender died before its next digest.
//! Or this process took the place of one that died, knows the flow by its position alone, and nothing of it comes any
//! more. Endpoints hold those frames.
//!
//! How: a flow that was silent for a while is asked for by the numbers that would come next: a few, and four times as
//! many each time that the last of them was there. An extended reply says which of them the endpoint holds. Up to the
//! highest all are owed from then on, as after a digest, so that a repair that gets lost is asked for again. A flow that
//! only a position names is asked for soon after the start.
//!
//! An endpoint that holds nothing passes the question on to the next. After the last the question rests and is put again,
//! `ROUNDS` times. Silence is asked again, ever later and every second time the next endpoint, `TRIES` times; then the
//! flow is counted and named (`take_unconfirmed`): nobody said whether more was sent. Plain replies name no flow:
//! endpoints of the Go stack are asked for one number, and the frame itself is the answer.
//!
//! Limits: one question a flow at a time; whoever asks paces them. Cost: a few flows a tick, nothing for a frame.

use frame::{HashKey, Id};
use std::time::{Duration, Instant};

/// Numbers that a probe asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Flow.
    pub key: HashKey,
    /// Its subtree label.
    pub subtree: Id,
    /// First number.
    pub first: u64,
    /// How many at most.
    pub width: u16,
    /// Which endpoint of the order; after the last the first again.
    pub hop: u8,
    /// Who left the question unanswered before.
    pub unanswered: Option<u32>,
    /// Of a flow that only a position names.
    pub resumed: bool,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
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
/// Time for the first answer; doubles.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);
const LONGEST_ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// From an answer that found something to the next question: repairs come first.
const AGAIN: Duration = Duration::from_millis(20);
/// From the start to the first question about flows that only positions name: traffic and digests come first.
pub(crate) const AFTER_START: Duration = Duration::from_millis(300);

/// How far the probing of a flow is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
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
    /// In the queue of flows whose question is due soon.
    hurried: bool,
}

impl Probe {
    pub(crate) fn new(due: Option<Instant>) -> Probe {
        let (asked, width) = (0, FIRST_WIDTH);
        Probe { asked, endpoint: None, width, due, tries: 0, rounds: 0, hop: 0, rests: false, hurried: false }
    }

    /// The question that begins with `first`. The endpoint asked is the one after those that hold nothing, and the next
    /// after two questions in vain.
    pub(crate) fn question(&self, key: HashKey, subtree: Id, first: u64, resumed: bool) -> Question {
        let hop = self.hop.saturating_add(self.tries / 2);
        Question { key, subtree, first, width: self.width, hop, unanswered: self.endpoint, resumed }
    }

    /// It is time; `otherwise` holds where no time is set.
    pub(crate) fn is_due(&self, now: Instant, otherwise: Option<Instant>) -> bool {
        !self.rests && self.due.or(otherwise).is_some_and(|due| now >= due)
    }

    /// A time is set for the next question.
    pub(crate) fn is_expected(&self) -> bool {
        !self.rests && self.due.is_some()
    }

    pub(crate) fn rests(&self) -> bool {
        self.rests
    }

    /// The flow spoke: its silence begins anew. What was asked may still be answered.
    pub(crate) fn saw_traffic(&mut self) {
        *self = Probe { asked: self.asked, width: self.width, hurried: self.hurried, ..Probe::new(None) };
    }

    /// A question about `seq` is under way.
    pub(crate) fn covers(&self, seq: u64) -> bool {
        self.asked != 0 && seq.checked_sub(self.asked).is_some_and(|offset| offset < u64::from(self.width))
    }

    /// The question under way begins with `seq`.
    pub(crate) fn asks_from(&self, seq: u64) -> bool {
        self.asked == seq
    }

    /// It enters the queue; `false`: it is there, or has no business there.
    pub(crate) fn hurries(&mut self) -> bool {
        self.is_expected() && !std::mem::replace(&mut self.hurried, true)
    }

    /// It left the queue.
    pub(crate) fn left_queue(&mut self) {
        self.hurried = false;
    }

    /// Nobody answered for too long: it rests.
    pub(crate) fn gives_up(&mut self) -> bool {
        self.rests |= self.tries >= TRIES;
        self.tries >= TRIES
    }

    /// The question was put; the flow was silent for so long.
    pub(crate) fn was_asked(&mut self, now: Instant, first: u64, asked: Asked, silence: Duration) {
        self.asked = first;
        let pause = (ANSWER_TIMEOUT * (1 << self.tries.min(8))).min(LONGEST_ANSWER_TIMEOUT);
        self.tries += 1;
        self.endpoint = if let Asked::Range(endpoint) = asked { Some(endpoint) } else { None };
        self.due = Some(now + if self.endpoint.is_some() { pause } else { silence.max(pause) });
        self.rests = asked == Asked::Single && self.tries >= SINGLE_TRIES;
    }

    /// The frame that the question was about came: what follows it?
    pub(crate) fn was_met(&mut self, now: Instant) {
        self.due = Some(now + AGAIN);
    }

    /// The endpoint holds numbers of the question; `all`: the last one too.
    pub(crate) fn found(&mut self, now: Instant, all: bool) {
        let width = if all { (self.width * 4).min(MOST_WIDTH) } else { FIRST_WIDTH };
        *self = Probe { width, hurried: self.hurried, ..Probe::new(Some(now + AGAIN)) };
    }

    /// The endpoint, one of so many, holds none.
    pub(crate) fn found_nothing(&mut self, now: Instant, endpoints: usize, silence: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_grow_while_all_is_there_and_are_small_again_where_something_ends() {
        let now = Instant::now();
        let mut probe = Probe::new(Some(now));
        let widths: Vec<u16> = [true, true, true, true, false]
            .map(|all| {
                probe.was_asked(now, 5, Asked::Range(1), Duration::ZERO);
                probe.found(now, all);
                probe.question(HashKey(1), [0; 32], 5, false).width
            })
            .to_vec();
        assert_eq!(widths, [16, 64, 256, 256, 4]);
    }

    #[test]
    fn silence_is_asked_ever_later_and_every_second_time_of_another_until_it_is_given_up() {
        let now = Instant::now();
        let mut probe = Probe::new(Some(now));
        let mut hops = Vec::new();
        while !probe.gives_up() {
            hops.push(probe.question(HashKey(1), [0; 32], 5, true).hop);
            probe.was_asked(now, 5, Asked::Range(1), Duration::ZERO);
        }
        assert_eq!(hops, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert!(probe.rests() && !probe.hurries());
        assert!(!probe.is_due(now + Duration::from_secs(60), None));
        probe.saw_traffic();
        assert!(probe.is_due(now, Some(now)), "the flow spoke");
    }

    #[test]
    fn a_question_that_no_endpoint_can_answer_rests_after_some_rounds() {
        let now = Instant::now();
        let mut probe = Probe::new(Some(now));
        let mut asked = 0;
        while !probe.rests() {
            probe.was_asked(now, 5, Asked::Range(1), Duration::ZERO);
            probe.found_nothing(now, 2, Duration::ZERO);
            asked += 1;
        }
        assert_eq!(asked, usize::from(ROUNDS) * 2);
    }
}
