//! Wire formats of the transaction fabric, and what is derived from them.
//!
//! Views borrow the datagram and copy nothing; encoders write into a buffer that the caller owns. Nothing here
//! allocates, reads a clock or touches a socket, and no length is trusted before it was checked.
//!
//! The byte layouts are those of `docs/wire.md`; section numbers in the comments refer to it.
#![no_std]
#[cfg(test)]
extern crate std;

pub mod block;
mod boundary;
pub mod bundle;
pub mod control;
pub mod data;
pub mod datagram;
pub mod digest;
pub mod error;
mod field;
pub mod flow;
pub mod fragment;
pub mod group;
pub mod hash;
pub mod id;
mod kind;
pub mod manifest;
pub mod object;
pub mod stream;
pub mod subtree;
pub mod tee;
pub mod tx;

pub use control::{Ack, Advert, Nack, Response, SubtreeGroupAnnounce};
pub use data::DataFrame;
pub use datagram::Datagram;
pub use error::DecodeError;
pub use fragment::Fragment;
pub use group::{Fabric, GroupIndex, Scope, ShardBits, SourceMode};
pub use id::{HashKey, Id, NO_ID, SeqNum, SubtreeId, TxId, cache_key};
pub use kind::Kind;

/// First four bytes of every datagram (wire 1.0).
pub const MAGIC: [u8; 4] = [0xE3, 0xE1, 0xF3, 0xE8];
/// Bytes 4 and 5: written by everybody, checked by nobody (wire 1.0).
pub const PROTOCOL: [u8; 2] = [0x02, 0xBF];
