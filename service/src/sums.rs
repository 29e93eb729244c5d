//! The sum law: what came is what went and what is in hand. No frame leaves the books.
//!
//! Each role says it of its own counters, as one [`Sum`]. It holds whenever the workers stand still: at the exit of a role,
//! where it is written to the log, and in the simulator's worlds. While workers go on, a reader may see a frame that came
//! and not yet where it went.

use std::fmt;

/// Both sides of the law, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    came: Vec<(&'static str, u64)>,
    went: Vec<(&'static str, u64)>,
}

impl Sum {
    /// What came, and what became of it.
    pub fn new<const C: usize, const W: usize>(
        came: [(&'static str, u64); C],
        went: [(&'static str, u64); W],
    ) -> Sum {
        Sum { came: came.into(), went: went.into() }
    }

    /// Adds the counts of another worker, term by term.
    pub fn add(&mut self, other: &Sum) {
        for (mine, theirs) in [(&mut self.came, &other.came), (&mut self.went, &other.went)] {
            for (name, count) in theirs {
                match mine.iter_mut().find(|(known, _)| known == name) {
                    Some((_, sum)) => *sum += count,
                    None => mine.push((name, *count)),
                }
            }
        }
    }

    /// Both sides are equal.
    pub fn holds(&self) -> bool {
        total(&self.came) == total(&self.went)
    }

    /// A term by its name.
    pub fn term(&self, name: &str) -> u64 {
        let found = self.came.iter().chain(&self.went).find(|(known, _)| *known == name);
        found.map_or(0, |(_, count)| *count)
    }
}

/// Sums of all workers as one.
impl std::iter::Sum for Sum {
    fn sum<I: Iterator<Item = Sum>>(sums: I) -> Sum {
        sums.fold(Sum::default(), |mut all, one| {
            all.add(&one);
            all
        })
    }
}

fn total(side: &[(&'static str, u64)]) -> u128 {
    side.iter().map(|(_, count)| u128::from(*count)).sum()
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |terms: &[(&'static str, u64)]| {
            terms.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(" + ")
        };
        let sign = if self.holds() { "=" } else { "≠" };
        write!(f, "{} {sign} {}", side(&self.came), side(&self.went))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_holds_if_both_sides_are_equal_and_says_all_terms() {
        let one = Sum::new([("accepted", 5)], [("handed over", 3), ("lost", 1)]);
        assert!(!one.holds());
        assert_eq!(one.to_string(), "accepted 5 ≠ handed over 3 + lost 1");
        let other = Sum::new([("accepted", 5)], [("handed over", 6), ("lost", 0)]);
        let both: Sum = [one, other].into_iter().sum();
        assert!(both.holds());
        assert_eq!(
            (both.to_string().as_str(), both.term("lost")),
            ("accepted 10 = handed over 9 + lost 1", 1)
        );
    }
}
