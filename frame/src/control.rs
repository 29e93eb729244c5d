//! Control datagrams: NACK, ACK, MISS, THROTTLED, ADVERT, BRC-127 announce (wire 1.10, 1.12 - 1.14), and the
//! extensions that ride on them (`docs/wire-extensions.md`).
//!
//! All are small and have a fixed length, so they are decoded into owned values. Bytes behind the layout are tolerated. A
//! receiver ignores flag bits that it does not know.

use crate::{DecodeError, HashKey, Id, Kind, SeqNum, field};
use core::net::Ipv6Addr;

/// Request for one number or a range (wire 1.12). 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Bit 0: Proxied. Bit 1 (0x02, extension): the requester reads extended replies.
    pub flags: u8,
    /// Flow.
    pub hash_key: HashKey,
    /// First number.
    pub start: SeqNum,
    /// Inclusive. Not checked against `start`: a server decides what it serves.
    pub end: SeqNum,
    /// Informational.
    pub subtree_id: Id,
}

impl Nack {
    /// Length on the wire.
    pub const LEN: usize = 64;
    /// Flag: passed on by a retry endpoint; answer by unicast, never pass on again.
    pub const PROXIED: u8 = 0x01;
    /// Flag (extension): the requester reads extended replies.
    pub const EXTENDED: u8 = 0x02;

    /// Everything that is wrong is `BadNack`; longer datagrams are accepted.
    pub fn decode(datagram: &[u8]) -> Result<Nack, DecodeError> {
        let bad = DecodeError::BadNack;
        let bytes: &[u8; Nack::LEN] = datagram.first_chunk().ok_or(bad)?;
        if !field::has_magic(bytes) || bytes[6] != Kind::Nack as u8 {
            return Err(bad);
        }
        Ok(Nack {
            flags: bytes[7],
            hash_key: HashKey(field::u64(bytes, 8).ok_or(bad)?),
            start: SeqNum(field::u64(bytes, 16).ok_or(bad)?),
            end: SeqNum(field::u64(bytes, 24).ok_or(bad)?),
            subtree_id: *field::id(bytes, 32).ok_or(bad)?,
        })
    }

    /// True if the reply may be extended. A request with bits that have no meaning is taken as generation A takes it, by
    /// ignoring all of its flags.
    pub fn reads_extended(&self) -> bool {
        self.flags & !Nack::PROXIED == Nack::EXTENDED
    }

    /// The 64 bytes.
    pub fn encode(&self) -> [u8; 64] {
        let mut out = [0; Nack::LEN];
        out[..8].copy_from_slice(&field::prologue(Kind::Nack as u8, self.flags));
        out[8..16].copy_from_slice(&self.hash_key.0.to_be_bytes());
        out[16..24].copy_from_slice(&self.start.0.to_be_bytes());
        out[24..32].copy_from_slice(&self.end.0.to_be_bytes());
        out[32..].copy_from_slice(&self.subtree_id);
        out
    }
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// Not there.
    Miss,
    /// `multicast` = flag 01, `unicast` = flag 02: by which path data was sent.
    Ack {
        /// Flag 01.
        multicast: bool,
        /// Flag 02.
        unicast: bool,
    },
    /// Hold = 125 ms << bucket.
    Throttled {
        /// Low nibble of byte 7.
        bucket: u8,
    },
}

impl Ack {
    /// Byte 7, bit 7 of a response: the extension follows from byte 16. Only sent to who asked with
    /// [`Nack::EXTENDED`].
    pub const EXTENDED: u8 = 0x80;
    const MULTICAST: u8 = 0x01;
    const UNICAST: u8 = 0x02;
    const BUCKET: u8 = 0x0F;

    /// Byte 6.
    pub const fn kind(self) -> Kind {
        match self {
            Ack::Miss => Kind::Miss,
            Ack::Ack { .. } => Kind::Ack,
            Ack::Throttled { .. } => Kind::Throttled,
        }
    }

    /// How long a throttled requester holds, in milliseconds; 0 for the other verdicts.
    pub const fn hold_ms(self) -> u64 {
        match self {
            Ack::Throttled { bucket } => 125 << (bucket & Ack::BUCKET),
            _ => 0,
        }
    }

    fn read(kind: u8, flags: u8) -> Option<Ack> {
        Some(match Kind::from_byte(kind)? {
            Kind::Miss => Ack::Miss,
            Kind::Ack => {
                Ack::Ack { multicast: flags & Ack::MULTICAST != 0, unicast: flags & Ack::UNICAST != 0 }
            }
            Kind::Throttled => Ack::Throttled { bucket: flags & Ack::BUCKET },
            _ => return None,
        })
    }

    fn flags(self) -> u8 {
        match self {
            Ack::Miss => 0,
            Ack::Ack { multicast, unicast } => {
                let flag = |set, flag| if set { flag } else { 0 };
                flag(multicast, Ack::MULTICAST) | flag(unicast, Ack::UNICAST)
            }
            Ack::Throttled { bucket } => bucket & Ack::BUCKET,
        }
    }
}

/// Response (wire 1.13): 16 bytes. With the extension (byte 7 bit 0x80) more follows from byte 16: the request (HashKey u64,
/// StartSeq u64, EndSeq u64), and a bitmap of the numbers that were not found, one bit a number, rounded up to whole bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Byte 6 and the flags that go with it.
    pub verdict: Ack,
    /// ACK and THROTTLED echo the number that was asked for (the first of a range); MISS carries 0.
    pub seq_num: SeqNum,
    /// The extension, if there is one.
    pub extended: Option<Extended>,
}

/// The extension of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    /// Flow of the request.
    pub hash_key: HashKey,
    /// First number of the request.
    pub start: SeqNum,
    /// Last number of the request, inclusive.
    pub end: SeqNum,
    /// Bit i of byte i/8 (LSB first) set: number `start + i` was not found. At most `MAX_RANGE` numbers.
    pub not_found: [u8; Extended::BITMAP],
}

impl Extended {
    /// Longest range that one request may name.
    pub const MAX_RANGE: u64 = 256;
    /// Bytes of the longest bitmap.
    pub const BITMAP: usize = 32;
    const FIXED: usize = 24;

    /// An answer to this range in which nothing is missing yet. `None` if the range is reversed or longer than
    /// [`Extended::MAX_RANGE`].
    pub fn new(hash_key: HashKey, start: SeqNum, end: SeqNum) -> Option<Extended> {
        let extended = Extended { hash_key, start, end, not_found: [0; Extended::BITMAP] };
        extended.numbers().map(|_| extended)
    }

    /// True if `seq` is in the range and was not found.
    pub fn is_missing(&self, seq: SeqNum) -> bool {
        self.position(seq).and_then(|(byte, bit)| Some(self.not_found.get(byte)? & bit != 0)).unwrap_or(false)
    }

    /// Marks `seq`; numbers outside the range are ignored.
    pub fn set_missing(&mut self, seq: SeqNum) {
        if let Some((byte, bit)) = self.position(seq)
            && let Some(bits) = self.not_found.get_mut(byte)
        {
            *bits |= bit;
        }
    }

    /// The missing numbers, ascending.
    pub fn missing(&self) -> impl Iterator<Item = SeqNum> {
        (0..self.numbers().unwrap_or(0)).map(|i| SeqNum(self.start.0 + i)).filter(|seq| self.is_missing(*seq))
    }

    /// Length of the range, 1..=MAX_RANGE.
    fn numbers(&self) -> Option<u64> {
        let numbers = self.end.0.checked_sub(self.start.0)?.checked_add(1)?;
        (numbers <= Extended::MAX_RANGE).then_some(numbers)
    }

    fn position(&self, seq: SeqNum) -> Option<(usize, u8)> {
        let i = seq.0.checked_sub(self.start.0)?;
        (i < self.numbers()?).then_some(())?;
        Some((usize::try_from(i / 8).ok()?, 1 << (i % 8)))
    }

    /// Bytes of the bitmap on the wire.
    fn bitmap_len(&self) -> Option<usize> {
        usize::try_from(self.numbers()?.div_ceil(8)).ok()
    }

    fn decode(bytes: &[u8]) -> Option<Extended> {
        let mut extended = Extended {
            hash_key: HashKey(field::u64(bytes, 0)?),
            start: SeqNum(field::u64(bytes, 8)?),
            end: SeqNum(field::u64(bytes, 16)?),
            not_found: [0; Extended::BITMAP],
        };
        let len = extended.bitmap_len()?;
        let bitmap = bytes.get(Extended::FIXED..)?.get(..len)?;
        extended.not_found.get_mut(..len)?.copy_from_slice(bitmap);
        extended.clear_beyond_range();
        Some(extended)
    }

    /// Padding bits of the last byte are not validated; dropping them keeps equal answers equal.
    fn clear_beyond_range(&mut self) {
        let Some(numbers) = self.numbers() else { return };
        for (byte, first) in self.not_found.iter_mut().zip((0u64..).step_by(8)) {
            match numbers.saturating_sub(first) {
                0 => *byte = 0,
                left @ 1..8 => *byte &= (1 << left) - 1,
                _ => {}
            }
        }
    }

    fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.bitmap_len()?;
        let (fixed, bitmap) = out.split_first_chunk_mut::<{ Extended::FIXED }>()?;
        fixed[..8].copy_from_slice(&self.hash_key.0.to_be_bytes());
        fixed[8..16].copy_from_slice(&self.start.0.to_be_bytes());
        fixed[16..].copy_from_slice(&self.end.0.to_be_bytes());
        bitmap.get_mut(..len)?.copy_from_slice(self.not_found.get(..len)?);
        Some(Extended::FIXED + len)
    }
}

impl Response {
    /// Length without the extension.
    pub const LEN: usize = 16;
    /// Longest encoding, bitmap included.
    pub const MAX_LEN: usize = 16 + Extended::FIXED + Extended::BITMAP;

    /// As generation B reads it, with the extension; everything that is wrong is `BadResponse`.
    pub fn decode(datagram: &[u8]) -> Result<Response, DecodeError> {
        let bad = DecodeError::BadResponse;
        let (head, rest) = datagram.split_first_chunk::<{ Response::LEN }>().ok_or(bad)?;
        if !field::has_magic(head) {
            return Err(bad);
        }
        let verdict = Ack::read(head[6], head[7]).ok_or(bad)?;
        let seq_num = SeqNum(field::u64(head, 8).ok_or(bad)?);
        // A bare 16-byte reply with the bit set comes from someone who gave the bit another meaning: ignored, as every
        // unknown flag. With more bytes it is our extension, and must be whole.
        let extended = match (head[7] & Ack::EXTENDED, rest) {
            (0, _) | (_, []) => None,
            (_, rest) => Some(Extended::decode(rest).ok_or(bad)?),
        };
        Ok(Response { verdict, seq_num, extended })
    }

    /// Writes into `out`, returns the length (16, or more with the extension). An extension whose range is impossible
    /// is left out.
    pub fn encode(&self, out: &mut [u8; Response::MAX_LEN]) -> usize {
        let (head, rest) = out.split_at_mut(Response::LEN);
        let extension = self.extended.and_then(|extended| extended.encode(rest));
        let flag = if extension.is_some() { Ack::EXTENDED } else { 0 };
        head[..8].copy_from_slice(&field::prologue(self.verdict.kind() as u8, self.verdict.flags() | flag));
        head[8..].copy_from_slice(&self.seq_num.0.to_be_bytes());
        Response::LEN + extension.unwrap_or(0)
    }
}

/// Beacon of a retry endpoint (wire 1.14). 56 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// 05, 08, 0E, or FF for all three; not validated.
    pub scope: u8,
    /// Where NACKs go; never all zeros.
    pub nack_addr: Ipv6Addr,
    /// Where NACKs go.
    pub nack_port: u16,
    /// Lower is nearer.
    pub tier: u8,
    /// Higher is preferred within a tier.
    pub preference: u8,
    /// Seconds between beacons; an entry lives three of them.
    pub interval_secs: u16,
    /// See the constants.
    pub flags: u16,
    /// [`Advert::instance_id_of`] the instance's name.
    pub instance_id: u32,
    /// Extension, bytes 36-37: longest range served, meaningful with `Advert::RANGES`.
    pub max_range: u16,
}

impl Advert {
    /// Length on the wire.
    pub const LEN: usize = 56;
    /// Flag: has an upstream.
    pub const HAS_PARENT: u16 = 0x0002;
    /// Flag: about to leave.
    pub const DRAINING: u16 = 0x0004;
    /// Flag: repairs by unicast.
    pub const UNICAST: u16 = 0x0008;
    /// Flag: repairs by multicast.
    pub const MULTICAST: u16 = 0x0010;
    /// Extension: the endpoint serves StartSeq..EndSeq.
    pub const RANGES: u16 = 0x0020;

    /// Everything that is wrong is `BadAdvert`.
    pub fn decode(datagram: &[u8]) -> Result<Advert, DecodeError> {
        let bad = DecodeError::BadAdvert;
        let bytes: &[u8; Advert::LEN] = datagram.first_chunk().ok_or(bad)?;
        if !field::has_magic(bytes) || bytes[6] != Kind::Advert as u8 {
            return Err(bad);
        }
        let nack_addr = Ipv6Addr::from(*field::bytes::<16>(bytes, 8).ok_or(bad)?);
        if nack_addr.is_unspecified() {
            return Err(bad);
        }
        Ok(Advert {
            scope: bytes[7],
            nack_addr,
            nack_port: field::u16(bytes, 24).ok_or(bad)?,
            tier: bytes[26],
            preference: bytes[27],
            interval_secs: field::u16(bytes, 28).ok_or(bad)?,
            flags: field::u16(bytes, 30).ok_or(bad)?,
            instance_id: field::u32(bytes, 32).ok_or(bad)?,
            max_range: field::u16(bytes, 36).ok_or(bad)?,
        })
    }

    /// The 56 bytes.
    pub fn encode(&self) -> [u8; 56] {
        let mut out = [0; Advert::LEN];
        out[..8].copy_from_slice(&field::prologue(Kind::Advert as u8, self.scope));
        out[8..24].copy_from_slice(&self.nack_addr.octets());
        out[24..26].copy_from_slice(&self.nack_port.to_be_bytes());
        out[26] = self.tier;
        out[27] = self.preference;
        out[28..30].copy_from_slice(&self.interval_secs.to_be_bytes());
        out[30..32].copy_from_slice(&self.flags.to_be_bytes());
        out[32..36].copy_from_slice(&self.instance_id.to_be_bytes());
        out[36..38].copy_from_slice(&self.max_range.to_be_bytes());
        out
    }

    /// CRC-32C of the instance name, 0 becomes 1 (wire 1.14).
    pub fn instance_id_of(name: &str) -> u32 {
        crate::hash::crc32c(&[name.as_bytes()]).max(1)
    }
}

/// BRC-127 subtree group announce (wire 1.10). 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtreeGroupAnnounce {
    /// Byte 7, 0 by the document.
    pub flags: u8,
    /// The subtree that joins the group.
    pub subtree_id: Id,
    /// The group that listeners subscribe to.
    pub group_id: [u8; 16],
    /// Unix seconds, never validated.
    pub epoch: u32,
    /// Lifetime from arrival; 0 = the listener's default (900).
    pub ttl_secs: u16,
}

impl SubtreeGroupAnnounce {
    /// Length on the wire.
    pub const LEN: usize = 64;

    /// Checks length, then magic, then type.
    pub fn decode(datagram: &[u8]) -> Result<SubtreeGroupAnnounce, DecodeError> {
        let short = DecodeError::SubtreeGroupTooShort;
        let bytes: &[u8; SubtreeGroupAnnounce::LEN] = datagram.first_chunk().ok_or(short)?;
        if !field::has_magic(bytes) {
            return Err(DecodeError::BadMagic);
        }
        if bytes[6] != Kind::SubtreeGroupAnnounce as u8 {
            return Err(DecodeError::SubtreeGroupBadType);
        }
        Ok(SubtreeGroupAnnounce {
            flags: bytes[7],
            subtree_id: *field::id(bytes, 8).ok_or(short)?,
            group_id: *field::bytes(bytes, 40).ok_or(short)?,
            epoch: field::u32(bytes, 56).ok_or(short)?,
            ttl_secs: field::u16(bytes, 60).ok_or(short)?,
        })
    }

    /// The 64 bytes.
    pub fn encode(&self) -> [u8; 64] {
        let mut out = [0; SubtreeGroupAnnounce::LEN];
        out[..8].copy_from_slice(&field::prologue(Kind::SubtreeGroupAnnounce as u8, self.flags));
        out[8..40].copy_from_slice(&self.subtree_id);
        out[40..56].copy_from_slice(&self.group_id);
        out[56..60].copy_from_slice(&self.epoch.to_be_bytes());
        out[60..62].copy_from_slice(&self.ttl_secs.to_be_bytes());
        out
    }
}
