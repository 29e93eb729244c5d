//! Which troubles stand, and since when.
//!
//! A *holder* (a condition of the role) raises a trouble when it enters a bad state and clears it when it leaves. A trouble that
//! was raised becomes a *reason* once it *stands*: after [`STANDS_AFTER`] in its state. It goes [`GOES_AFTER`] after its state
//! ended, so that a state that comes and goes is one reason and not many.
//!
//! Pure: the time is an argument. Limit: one row for a holder and a code. Cost: a walk over a few rows; for cold paths.

use crate::codes::Code;
use std::time::{Duration, Instant};

/// A state lasts so long before it is a reason.
pub const STANDS_AFTER: Duration = Duration::from_secs(2);
/// A reason stays so long after its state ended.
pub const GOES_AFTER: Duration = Duration::from_secs(5);

/// Names a holder of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderId(pub usize);

/// All troubles of one role.
#[derive(Debug, Default)]
pub struct Troubles {
    rows: Vec<Row>,
}

/// One trouble of one holder.
#[derive(Debug)]
struct Row {
    holder: HolderId,
    code: Code,
    detail: String,
    /// When its state began.
    since: Instant,
    /// From when on it is a reason.
    stands_from: Instant,
    /// Until when; `None` while its state lasts.
    until: Option<Instant>,
    /// What the log was told.
    told: bool,
}

/// A trouble that stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// Who raised it.
    pub holder: HolderId,
    /// What it is.
    pub code: Code,
    /// What it is about: names, numbers.
    pub detail: &'a str,
    /// When its state began.
    pub since: Instant,
}

/// A change that the log should tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Who raised or cleared it.
    pub holder: HolderId,
    /// What it is.
    pub code: Code,
    /// What it is about.
    pub detail: String,
    /// It stands now; else it is gone.
    pub stands: bool,
}

impl Row {
    fn stands(&self, now: Instant) -> bool {
        now >= self.stands_from && self.until.is_none_or(|until| now < until)
    }
}

impl Troubles {
    /// The holder is in this state. `delay`: how long before it is a reason; nothing where it is one already.
    pub fn raise(&mut self, now: Instant, holder: HolderId, code: Code, detail: &str, delay: Duration) {
        let known = self.rows.iter_mut().find(|row| row.holder == holder && row.code == code);
        let Some(row) = known else {
            self.rows.push(Row {
                holder,
                code,
                detail: detail.to_owned(),
                since: now,
                stands_from: now + delay,
                until: None,
                told: false,
            });
            return;
        };
        if row.detail != detail {
            detail.clone_into(&mut row.detail);
        }
        if row.until.is_some() {
            if !row.stands(now) {
                (row.since, row.stands_from) = (now, now + delay);
            }
            row.until = None;
        }
    }

    /// The holder left all states but this one. `linger`: how long what stands stays.
    pub fn clear(&mut self, now: Instant, holder: HolderId, except: Option<Code>, linger: Duration) {
        for row in self.rows.iter_mut().filter(|row| row.holder == holder && Some(row.code) != except) {
            if row.until.is_none() {
                // What did not stand yet never will.
                row.until = Some(if row.stands(now) { now + linger } else { now });
            }
        }
    }

    /// What stands now, in the order in which it was first raised.
    pub fn standing(&self, now: Instant) -> impl Iterator<Item = Reason<'_>> {
        self.rows.iter().filter(move |row| row.stands(now)).map(|row| Reason {
            holder: row.holder,
            code: row.code,
            detail: &row.detail,
            since: row.since,
        })
    }

    /// What came to stand and what went since the last call.
    pub fn changes(&mut self, now: Instant) -> Vec<Change> {
        let changed = self.rows.iter_mut().filter(|row| row.stands(now) != row.told);
        changed
            .map(|row| {
                row.told = !row.told;
                let Row { holder, code, told: stands, .. } = *row;
                Change { holder, code, detail: row.detail.clone(), stands }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HolderId = HolderId(0);
    const B: HolderId = HolderId(1);
    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        troubles: Troubles,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            World { troubles: Troubles::default(), now: Instant::now() }
        }

        fn raise(&mut self, holder: HolderId, code: Code) {
            self.troubles.raise(self.now, holder, code, "why", STANDS_AFTER);
        }

        fn clear(&mut self, holder: HolderId) {
            self.troubles.clear(self.now, holder, None, GOES_AFTER);
        }

        fn standing(&self) -> Vec<(HolderId, Code)> {
            self.troubles.standing(self.now).map(|reason| (reason.holder, reason.code)).collect()
        }
    }

    #[test]
    fn a_state_is_a_reason_after_two_seconds_in_it_and_until_five_seconds_out_of_it() {
        let mut world = World::new();
        let began = world.now;
        world.raise(A, Code::ConsumerRefused);
        world.now += STANDS_AFTER - Duration::from_millis(1);
        assert_eq!(world.standing(), []);
        world.now = began + STANDS_AFTER;
        assert_eq!(world.standing(), [(A, Code::ConsumerRefused)]);
        world.clear(A);
        let left = world.now;
        world.now += GOES_AFTER - Duration::from_millis(1);
        assert_eq!(world.standing(), [(A, Code::ConsumerRefused)]);
        world.now = left + GOES_AFTER;
        assert_eq!(world.standing(), []);
    }

    #[test]
    fn a_state_that_passes_within_two_seconds_is_no_reason() {
        let mut world = World::new();
        for _ in 0..10 {
            world.raise(A, Code::StoreUnreachable);
            world.now += SECOND;
            world.clear(A);
            world.now += SECOND;
            assert_eq!(world.standing(), []);
        }
    }

    #[test]
    fn a_reason_whose_state_comes_and_goes_is_one_reason() {
        let mut world = World::new();
        let began = world.now;
        world.raise(A, Code::StoreUnreachable);
        world.now += STANDS_AFTER;
        assert_eq!(world.troubles.changes(world.now).len(), 1);
        for _ in 0..5 {
            world.clear(A);
            world.now += 4 * SECOND;
            world.raise(A, Code::StoreUnreachable);
            world.now += SECOND;
            assert_eq!(world.standing(), [(A, Code::StoreUnreachable)]);
            assert_eq!(world.troubles.changes(world.now), []);
        }
        assert_eq!(world.troubles.standing(world.now).next().unwrap().since, began);
    }

    #[test]
    fn holders_do_not_clear_each_other_and_another_state_has_its_own_time() {
        let mut world = World::new();
        world.raise(A, Code::ConsumerRefused);
        world.raise(B, Code::ConsumerRefused);
        world.now += STANDS_AFTER;
        world.clear(B);
        world.troubles.clear(world.now, A, Some(Code::Losing), GOES_AFTER);
        world.raise(A, Code::Losing);
        world.now += STANDS_AFTER;
        let both = [(A, Code::ConsumerRefused), (B, Code::ConsumerRefused), (A, Code::Losing)];
        assert_eq!(world.standing(), both);
        world.now += 3 * SECOND;
        assert_eq!(world.standing(), [(A, Code::Losing)]);
    }

    #[test]
    fn the_log_hears_of_each_change_once() {
        let mut world = World::new();
        world.raise(A, Code::Losing);
        assert_eq!(world.troubles.changes(world.now), []);
        world.now += STANDS_AFTER;
        let change = |stands| Change { holder: A, code: Code::Losing, detail: "why".to_owned(), stands };
        assert_eq!(world.troubles.changes(world.now), [change(true)]);
        assert_eq!(world.troubles.changes(world.now), []);
        world.clear(A);
        world.now += GOES_AFTER;
        assert_eq!(world.troubles.changes(world.now), [change(false)]);
    }
}
