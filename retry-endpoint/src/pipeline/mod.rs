//! Decisions of the retry role: slices and time in, verdicts out. No socket, no clock, no task.
//!
//! The modules follow the path of a frame: `admit` looks at what arrived, `store` keeps it, `limit` says who may ask for
//! how much, `answer` decides what a request gets, `upstream` fetches what is missing here, `advertise` tells listeners
//! where to ask.

pub mod admit;
pub mod advertise;
pub mod answer;
pub mod limit;
pub mod numbers;
pub mod store;
pub mod upstream;

/// Two seeds into one hash that an outsider cannot steer: both inputs are mixed with secrets before a wide multiply.
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
