//! The random numbers of a world: all that a seed draws.

use crate::MS;

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    /// From `low` up to and without `high`.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low).max(1)
    }

    #[allow(clippy::cast_possible_truncation, reason = "bounded by a usize")]
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// When copies of an id that first appears at `first` reach one worker: mostly at once, seldom late, at times twice, at
    /// times never.
    pub(crate) fn copies(&mut self, first: u64) -> impl Iterator<Item = u64> + use<> {
        let one = self.percent(75).then(|| match self.below(20) {
            0 => first + self.between(0, 1500 * MS),
            1..=3 => first + self.between(0, 300 * MS),
            _ => first + self.between(0, 5 * MS),
        });
        let two = one.filter(|_| self.percent(10)).map(|one| one + self.between(0, 700 * MS));
        one.into_iter().chain(two)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}
