//! V8 bundles (wire 1.8): several transactions of one flow in one datagram.
//!
//! Mind the offsets: the SubtreeID stands at 8, and the header has no TxID. HashKey and SeqNum stand where every frame has
//! them. Decoding walks all members once; the iterator cannot fail after that.

use crate::{DecodeError, GroupIndex, HashKey, Id, Kind, SeqNum, field};

/// Header length of V8.
pub const HEADER: usize = 66;

/// Borrowed view of a V8 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle<'a> {
    /// Byte 7; see [`Bundle::TXIDS`].
    pub flags: u8,
    /// Offset 8: common to all members.
    pub subtree_id: &'a Id,
    /// Offset 40.
    pub hash_key: HashKey,
    /// Offset 48: from the counter of the flow's single frames.
    pub seq_num: SeqNum,
    /// Offset 56; not compared with the members.
    pub group: GroupIndex,
    /// Offset 58; 0 = unset, range not checked.
    pub shard_bits: u8,
    /// Offset 60: number of members.
    pub count: u16,
    /// The member section.
    pub members: &'a [u8],
}

/// One transaction of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Present when the bundle carries TxIDs. Without it an EF member has no id but the canonical one.
    pub txid: Option<&'a Id>,
    /// Raw or EF.
    pub tx: &'a [u8],
}

impl<'a> Bundle<'a> {
    /// Flag: every member carries its TxID.
    pub const TXIDS: u8 = 0x01;

    /// Checks length, magic, version, then that the members fill the section exactly: one too many is
    /// `BundleTruncated`, one too few `BundleCountMismatch`.
    pub fn decode(datagram: &'a [u8]) -> Result<Bundle<'a>, DecodeError> {
        let short = DecodeError::BundleTooShort;
        let header: &[u8; HEADER] = datagram.first_chunk().ok_or(short)?;
        if !field::has_magic(header) {
            return Err(DecodeError::BundleBadMagic);
        }
        if header[6] != Kind::Bundle as u8 {
            return Err(DecodeError::BundleBadVersion);
        }
        let len = field::u32(header, 62).ok_or(short)?;
        let bundle = Bundle {
            flags: header[7],
            subtree_id: field::id(datagram, 8).ok_or(short)?,
            hash_key: HashKey(field::u64(header, 40).ok_or(short)?),
            seq_num: SeqNum(field::u64(header, 48).ok_or(short)?),
            group: GroupIndex(field::u16(header, 56).ok_or(short)?),
            shard_bits: header[58],
            count: field::u16(header, 60).ok_or(short)?,
            members: field::slice(datagram, HEADER, len).ok_or(DecodeError::BundleTruncated)?,
        };
        let mut rest = bundle.members;
        for _ in 0..bundle.count {
            (_, rest) = split_member(bundle.has_txids(), rest).ok_or(DecodeError::BundleTruncated)?;
        }
        if rest.is_empty() { Ok(bundle) } else { Err(DecodeError::BundleCountMismatch) }
    }

    /// True if every member carries its TxID.
    pub fn has_txids(&self) -> bool {
        self.flags & Bundle::TXIDS != 0
    }

    /// The members in order.
    pub fn members(&self) -> impl Iterator<Item = Member<'a>> + use<'a> {
        let with_txid = self.has_txids();
        let mut rest = self.members;
        (0..self.count).map_while(move |_| {
            let (member, after) = split_member(with_txid, rest)?;
            rest = after;
            Some(member)
        })
    }

    /// Declared length on the wire.
    pub fn wire_len(&self) -> usize {
        HEADER + self.members.len()
    }
}

fn split_member(with_txid: bool, bytes: &[u8]) -> Option<(Member<'_>, &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (txid, rest) = match with_txid {
        true => rest.split_first_chunk().map(|(txid, rest)| (Some(txid), rest))?,
        false => (None, rest),
    };
    let (tx, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some((Member { txid, tx }, rest))
}

/// Builds a bundle in a buffer: header first, then members until one does not fit.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut [u8],
    len: usize,
    count: u16,
    with_txid: bool,
}

/// Fields of a bundle header that do not follow from its members.
#[derive(Clone, Copy, Debug)]
pub struct BundleFields<'a> {
    /// Byte 7; [`Bundle::TXIDS`] demands a TxID with every member.
    pub flags: u8,
    /// Offset 8.
    pub subtree_id: &'a Id,
    /// Offset 40.
    pub hash_key: HashKey,
    /// Offset 48.
    pub seq_num: SeqNum,
    /// Offset 56.
    pub group: GroupIndex,
    /// Offset 58.
    pub shard_bits: u8,
}

impl<'o> Writer<'o> {
    /// Starts a bundle at the front of `out`, whose length is the budget (MTU − 48 for one IPv6 packet). `None` if not
    /// even the header fits.
    pub fn new(fields: &BundleFields<'_>, out: &'o mut [u8]) -> Option<Writer<'o>> {
        let header: &mut [u8; HEADER] = out.first_chunk_mut()?;
        header.fill(0);
        header[..8].copy_from_slice(&field::prologue(Kind::Bundle as u8, fields.flags));
        header[8..40].copy_from_slice(fields.subtree_id);
        header[40..48].copy_from_slice(&fields.hash_key.0.to_be_bytes());
        header[48..56].copy_from_slice(&fields.seq_num.0.to_be_bytes());
        header[56..58].copy_from_slice(&fields.group.0.to_be_bytes());
        header[58] = fields.shard_bits;
        Some(Writer { out, len: HEADER, count: 0, with_txid: fields.flags & Bundle::TXIDS != 0 })
    }

    /// Adds a member; `None`, and nothing is written, if it does not fit, is longer than 65,535 bytes, is one too many, or
    /// has a TxID where the flags say none (or the reverse).
    pub fn push(&mut self, member: Member<'_>) -> Option<()> {
        let tx_len = u16::try_from(member.tx.len()).ok()?;
        let count = self.count.checked_add(1)?;
        (member.txid.is_some() == self.with_txid).then_some(())?;
        let txid = member.txid.map_or(&[][..], |txid| txid);
        let rest = self.out.get_mut(self.len..)?.get_mut(..2 + txid.len() + member.tx.len())?;
        let (head, tx) = rest.split_at_mut(2 + txid.len());
        head[..2].copy_from_slice(&tx_len.to_be_bytes());
        head[2..].copy_from_slice(txid);
        tx.copy_from_slice(member.tx);
        self.len += rest.len();
        self.count = count;
        Some(())
    }

    /// Closes the bundle; returns its length.
    pub fn finish(self) -> usize {
        let payload = u32::try_from(self.len - HEADER).unwrap_or(u32::MAX);
        field::put(self.out, 60, &self.count.to_be_bytes());
        field::put(self.out, 62, &payload.to_be_bytes());
        self.len
    }
}
