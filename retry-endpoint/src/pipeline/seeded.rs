//! The hash of every table here: two words and a secret into one. An outsider who chooses the words cannot choose where they
//! land.

/// Mixes both words with the secret before a wide multiply.
pub(crate) fn seeded(seed: u64, a: u64, b: u64) -> u64 {
    let left = a ^ seed;
    let right = b.rotate_left(32) ^ seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD6E8_FEB8_6659_FD93;
    let first = fold(left, right);
    fold(first ^ seed, 0xA076_1D64_78BD_642F)
}

/// Both halves of the 128-bit product.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a u128")]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}
