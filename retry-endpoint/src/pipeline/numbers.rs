//! Which numbers of one request: a bitmap over at most 256 consecutive numbers, relative to the first.

use frame::control::Extended;

/// Offsets 0 ..= 255 from the first number of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Numbers([u64; 4]);

/// Longest range that one request may name (docs/wire-extensions.md).
pub const MAX_RANGE: u64 = Extended::MAX_RANGE;

impl Numbers {
    /// No number.
    pub const NONE: Numbers = Numbers([0; 4]);

    /// Offsets 0 .. `count`, at most 256.
    pub fn first(count: u64) -> Numbers {
        let mut numbers = Numbers::NONE;
        for offset in 0..count.min(MAX_RANGE) {
            numbers.insert(offset);
        }
        numbers
    }

    /// Adds an offset; those beyond the map are ignored.
    pub fn insert(&mut self, offset: u64) {
        if let Some((word, bit)) = place(offset) {
            self.0[word] |= bit;
        }
    }

    /// Removes an offset.
    pub fn remove(&mut self, offset: u64) {
        if let Some((word, bit)) = place(offset) {
            self.0[word] &= !bit;
        }
    }

    /// True if the offset is in the set.
    pub fn contains(&self, offset: u64) -> bool {
        place(offset).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    /// True without any offset.
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }

    /// How many offsets.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// What is in either.
    #[must_use]
    pub fn union(self, other: Numbers) -> Numbers {
        let mut out = self;
        for (word, more) in out.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        out
    }

    /// Ascending offsets.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let copy = *self;
        (0..MAX_RANGE).filter(move |&offset| copy.contains(offset))
    }
}

/// Word and bit of an offset, `None` beyond the map.
fn place(offset: u64) -> Option<(usize, u64)> {
    let offset = usize::try_from(offset).ok().filter(|&offset| offset < 256)?;
    Some((offset / 64, 1 << (offset % 64)))
}
