//! Flow identity (wire 3): HashKey = XXH64(seed 0, sender ‖ group u32 ‖ subtree).

use crate::{GroupIndex, HashKey, Id};
use core::net::IpAddr;

/// 16 bytes that name the origin of a flow: a sender address (`standard`), or random bytes (`instance`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(pub [u8; 16]);

impl From<IpAddr> for Origin {
    /// IPv4 becomes `::ffff:a.b.c.d`.
    fn from(_address: IpAddr) -> Origin {
        unimplemented!()
    }
}

/// HashKey of the flow (origin, group ingredient, subtree ingredient); see the table of wire 3 for the ingredients.
pub fn hash_key(_origin: Origin, _group: GroupIndex, _subtree: &Id) -> HashKey {
    unimplemented!()
}
