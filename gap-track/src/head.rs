//! Where the numbers of a flow end: the next number that nobody has seen.
//!
//! A single frame cannot move a flow further than the longest jump: a longer one is held until a second frame or a digest
//! names a number near it. Frames behind the head whose ids are new, several in a row, say that the sender began anew.

/// Novel frames in a row behind the head that mean a restart (wire 9.1).
const RESTART_RUN: u8 = 4;

/// See the module text.
#[derive(Debug)]
pub(crate) struct Head {
    /// Lowest number not seen and not in a gap.
    next: u64,
    /// A jump that waits for confirmation.
    held: Option<HeldJump>,
    /// Consecutive novel frames behind `next`: (number expected next, how many).
    run: (u64, u8),
}

/// A number too far ahead to be believed at first.
#[derive(Clone, Copy, Debug)]
struct HeldJump {
    number: u64,
    /// A frame came under it; otherwise a digest named it.
    arrived: bool,
}

/// What a number does to a head that it is not behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is the next one; the head moved past it.
    Next,
    /// It is further ahead: `Head::jump` is due.
    Ahead,
    /// It is too far ahead; it waits for confirmation.
    Held,
}

/// A head that jumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Jumped {
    /// Where it was.
    pub(crate) from: u64,
    /// A number in between whose frame had come.
    pub(crate) arrived: Option<u64>,
}

impl Head {
    pub(crate) fn at(next: u64) -> Head {
        Head { next, held: None, run: (0, 0) }
    }

    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// A jump waits for confirmation.
    pub(crate) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// The last number that a held jump would leave behind.
    pub(crate) fn held_until(&self) -> Option<u64> {
        self.held.map(|held| (held.number - 1).max(self.next))
    }

    /// A frame came under a number at or ahead of the head.
    pub(crate) fn arrives(&mut self, number: u64, max_jump: u64) -> Step {
        if number == self.next {
            self.next = number.saturating_add(1);
            self.run.1 = 0;
            return Step::Next;
        }
        self.ahead(number, number - self.next, true, max_jump)
    }

    /// All numbers up to this one, at or ahead of the head, were sent.
    pub(crate) fn named(&mut self, highest: u64, max_jump: u64) -> Step {
        self.ahead(highest, (highest - self.next).saturating_add(1), false, max_jump)
    }

    fn ahead(&mut self, number: u64, distance: u64, arrived: bool, max_jump: u64) -> Step {
        // Two sightings that are near each other agree.
        let confirmed = self.held.is_some_and(|held| held.number.abs_diff(number) <= max_jump);
        if distance <= max_jump || confirmed {
            return Step::Ahead;
        }
        self.held = Some(HeldJump { number, arrived });
        Step::Held
    }

    /// Moves to `number`, and past it if its frame came.
    pub(crate) fn jump(&mut self, number: u64, past: bool) -> Jumped {
        let held = self.held.take_if(|held| held.number < number);
        let from = std::mem::replace(&mut self.next, number.saturating_add(u64::from(past)));
        self.run.1 = 0;
        Jumped { from, arrived: held.filter(|held| held.arrived).map(|held| held.number) }
    }

    /// A frame behind the head had an id that nobody had seen. `Some`: its sender began anew, and these numbers before
    /// the frame belong to its new life.
    pub(crate) fn novel(&mut self, number: u64) -> Option<u64> {
        let in_row = self.run.1 > 0 && self.run.0 == number;
        self.run = (number + 1, if in_row { self.run.1 + 1 } else { 1 });
        if self.run.1 < RESTART_RUN || number >= self.next {
            return None;
        }
        *self = Head::at(number + 1);
        Some((number + 1).saturating_sub(u64::from(RESTART_RUN)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_that_one_frame_names_is_held_and_a_second_one_near_it_confirms() {
        let mut head = Head::at(2);
        assert_eq!(head.arrives(1_000, 100), Step::Held);
        assert_eq!(head.arrives(2, 100), Step::Next);
        assert_eq!(head.arrives(3_000, 100), Step::Held, "far from the first");
        assert_eq!(head.named(3_050, 100), Step::Ahead);
        assert_eq!(head.jump(3_051, false), Jumped { from: 3, arrived: Some(3_000) });
        assert_eq!((head.next(), head.holds()), (3_051, false));
    }

    #[test]
    fn four_novel_frames_in_a_row_behind_the_head_are_a_restart() {
        let mut head = Head::at(100);
        assert_eq!([1, 2, 4, 5, 6].map(|number| head.novel(number)), [None; 5], "three is missing");
        assert_eq!(head.novel(7), Some(4));
        assert_eq!(head.next(), 8);
    }

    #[test]
    fn the_end_of_all_numbers_is_no_wrap() {
        let mut head = Head::at(u64::MAX);
        assert_eq!(head.arrives(u64::MAX, 10), Step::Next);
        assert_eq!(head.next(), u64::MAX);
    }
}
