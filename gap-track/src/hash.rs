//! Hash of flow keys. It has a secret, because senders choose the keys; it costs two multiplications.

use std::hash::{BuildHasher, Hasher};

/// The secret.
#[derive(Clone)]
pub(crate) struct KeyedHash(u64);

impl KeyedHash {
    pub(crate) fn new(seed: u64) -> KeyedHash {
        KeyedHash(seed | 1)
    }
}

pub(crate) struct KeyedState(u64);

impl BuildHasher for KeyedHash {
    type Hasher = KeyedState;
    fn build_hasher(&self) -> KeyedState {
        KeyedState(self.0)
    }
}

impl Hasher for KeyedState {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a product are folded")]
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(value ^ self.0) * u128::from(0x9E37_79B9_7F4A_7C15_u64 | 1);
        let folded = (product as u64) ^ ((product >> 64) as u64);
        let again = u128::from(folded) * u128::from(self.0 | 1);
        self.0 = (again as u64) ^ ((again >> 64) as u64);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}
