//! `memory`: a store inside the process, shared by the roles that run in it. Striped, bounded in bytes, TTL by
//! generation. Answers at once.

use crate::{Claimed, KeyValues};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// See the module text. Clones share the store.
#[derive(Clone)]
pub struct Memory {}

impl Memory {
    /// Never holds more than `capacity` bytes, own overhead included.
    pub fn new(_capacity: usize) -> Memory {
        unimplemented!()
    }
    pub fn claim(&self, _batch: &KeyValues, _ttl: Duration, _now: Instant, _out: &mut Vec<Claimed>) {
        unimplemented!()
    }
    pub fn set(&self, _batch: &KeyValues, _ttl: Duration, _now: Instant) {
        unimplemented!()
    }
    pub fn get(&self, _key: &[u8], _now: Instant) -> Option<Bytes> {
        unimplemented!()
    }
    pub fn del(&self, _key: &[u8]) -> bool {
        unimplemented!()
    }
}
