//! The wire formats of the transaction fabric, and what follows from them.
//!
//! A view borrows the datagram and copies nothing. An encoder writes into a buffer of its caller and returns the length, or
//! `None` where the buffer is too short. Nothing here allocates, reads a clock or touches a socket.
//!
//! Promises: no input makes a decoder panic or read outside its datagram; no length is believed before it was checked.
//! Limits: of transactions and blocks only the structure is read, no consensus rule is checked.
//!
//! The byte layouts are those of `docs/wire.md`; numbers of sections in the comments are its numbers.
//!
//! ```
//! use frame::{Datagram, DecodeError, HashKey, Nack, NO_ID, SeqNum};
//!
//! let request = Nack { flags: 0, hash_key: HashKey(7), start: SeqNum(3), end: SeqNum(5), subtree_id: NO_ID };
//! let datagram = request.encode();
//! assert_eq!(Datagram::decode(&datagram), Ok(Datagram::Nack(request)));
//! assert_eq!(Datagram::decode(&datagram[..40]), Err(DecodeError::BadNack));
//! ```
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
pub mod outside;
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
pub use outside::{Label, Variant};

/// First four bytes of every datagram (wire 1.0).
pub const MAGIC: [u8; 4] = [0xE3, 0xE1, 0xF3, 0xE8];
/// Bytes 4 and 5: written by everybody, checked by nobody (wire 1.0).
pub const PROTOCOL: [u8; 2] = [0x02, 0xBF];

/// The example of the README is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
