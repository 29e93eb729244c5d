//! Keyed hash of an id and a kind: where an entry goes.
//!
//! NH over the four 64-bit words of the id: two ids chosen without knowledge of the keys agree in its 128 bits with
//! probability 2^-64 at most, whatever they are. Two more keyed products fold that to 64 bits and a bijection mixes
//! them, so that sets with a structure (counters, say) spread as random ones do.

use crate::random::split_mix;

pub(super) struct Hasher {
    keys: [u64; 4],
    fold: [u64; 2],
    kind: u64,
}

impl Hasher {
    pub(super) fn new(seed: u64) -> Hasher {
        let mut state = seed;
        let mut next = || split_mix(&mut state);
        Hasher { keys: [next(), next(), next(), next()], fold: [next() | 1, next() | 1], kind: next() | 1 }
    }

    #[inline]
    pub(super) fn hash(&self, id: &[u64; 4], kind: u8) -> u64 {
        let pair =
            |i: usize| wide(id[i].wrapping_add(self.keys[i]), id[i + 1].wrapping_add(self.keys[i + 1]));
        let (low, high) = halves(pair(0).wrapping_add(pair(2)));
        let (_, folded) = halves(wide(low, self.fold[0]).wrapping_add(wide(high, self.fold[1])));
        let mut hash = folded ^ self.kind.wrapping_mul(kind.into());
        hash = (hash ^ hash >> 32).wrapping_mul(0x9FB2_1C65_1E98_DF25);
        hash ^ hash >> 29
    }
}

fn wide(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves")]
fn halves(n: u128) -> (u64, u64) {
    (n as u64, (n >> 64) as u64)
}
