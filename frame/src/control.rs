//! Control datagrams: NACK, ACK, MISS, THROTTLED, ADVERT, BRC-127 announce (wire 1.10, 1.12 - 1.14), and the
//! extensions that ride on them (`docs/wire-extensions.md`).

use crate::{DecodeError, HashKey, Id, SeqNum};
use core::net::Ipv6Addr;

/// Request for one number or a range (wire 1.12). 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Bit 0: Proxied. Bit 1 (0x02, extension): the requester reads extended replies.
    pub flags: u8,
    pub hash_key: HashKey,
    pub start: SeqNum,
    /// Inclusive.
    pub end: SeqNum,
    pub subtree_id: Id,
}

impl Nack {
    pub const LEN: usize = 64;
    pub const PROXIED: u8 = 0x01;
    pub const EXTENDED: u8 = 0x02;
    pub fn decode(_datagram: &[u8]) -> Result<Nack, DecodeError> {
        unimplemented!()
    }
    pub fn encode(&self) -> [u8; 64] {
        unimplemented!()
    }
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    Miss,
    /// `multicast` = flag 01, `unicast` = flag 02: by which path data was sent.
    Ack { multicast: bool, unicast: bool },
    /// Hold = 125 ms << bucket.
    Throttled { bucket: u8 },
}

/// Response (wire 1.13): 16 bytes; with the extension, what follows from byte 16 names the request
/// (HashKey u64, StartSeq u64, EndSeq u64) and carries a bitmap of the numbers that were not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    pub verdict: Ack,
    pub seq_num: SeqNum,
    pub extended: Option<Extended>,
}

/// The extension of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    pub hash_key: HashKey,
    pub start: SeqNum,
    pub end: SeqNum,
    /// Bit i of byte i/8 (LSB first) set: number `start + i` was not found. At most `MAX_RANGE` numbers.
    pub not_found: [u8; Extended::BITMAP],
}

impl Extended {
    /// Longest range that one request may name.
    pub const MAX_RANGE: u64 = 256;
    pub const BITMAP: usize = 32;
    pub fn is_missing(&self, _seq: SeqNum) -> bool {
        unimplemented!()
    }
    pub fn set_missing(&mut self, _seq: SeqNum) {
        unimplemented!()
    }
}

impl Response {
    pub const LEN: usize = 16;
    /// Longest encoding, bitmap included.
    pub const MAX_LEN: usize = 16 + 24 + Extended::BITMAP;
    pub fn decode(_datagram: &[u8]) -> Result<Response, DecodeError> {
        unimplemented!()
    }
    /// Writes into `out`, returns the length (16, or more with the extension).
    pub fn encode(&self, _out: &mut [u8; Response::MAX_LEN]) -> usize {
        unimplemented!()
    }
}

/// Beacon of a retry endpoint (wire 1.14). 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    pub scope: u8,
    pub nack_addr: Ipv6Addr,
    pub nack_port: u16,
    pub tier: u8,
    pub preference: u8,
    pub interval_secs: u16,
    pub flags: u16,
    pub instance_id: u32,
    /// Extension, bytes 36-37: longest range served, meaningful with `Advert::RANGES`.
    pub max_range: u16,
}

impl Advert {
    pub const LEN: usize = 56;
    pub const HAS_PARENT: u16 = 0x0002;
    pub const DRAINING: u16 = 0x0004;
    pub const UNICAST: u16 = 0x0008;
    pub const MULTICAST: u16 = 0x0010;
    /// Extension: the endpoint serves StartSeq..EndSeq.
    pub const RANGES: u16 = 0x0020;
    pub fn decode(_datagram: &[u8]) -> Result<Advert, DecodeError> {
        unimplemented!()
    }
    pub fn encode(&self) -> [u8; 56] {
        unimplemented!()
    }
    /// CRC-32C of the instance name, 0 becomes 1 (wire 1.14).
    pub fn instance_id_of(_name: &str) -> u32 {
        unimplemented!()
    }
}

/// BRC-127 subtree group announce (wire 1.10). 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtreeGroupAnnounce {
    pub flags: u8,
    pub subtree_id: Id,
    pub group_id: [u8; 16],
    pub epoch: u32,
    pub ttl_secs: u16,
}

impl SubtreeGroupAnnounce {
    pub const LEN: usize = 64;
    pub fn decode(_datagram: &[u8]) -> Result<SubtreeGroupAnnounce, DecodeError> {
        unimplemented!()
    }
    pub fn encode(&self) -> [u8; 64] {
        unimplemented!()
    }
}
