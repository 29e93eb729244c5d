//! Blocks: raw block files, header hash, proof of work, Merkle root (wire 1.4), and the BRC-131 announce.
//!
//! A raw block is walked transaction by transaction; nothing is collected. Its count is checked against the bytes that are
//! there before it is believed.

use crate::{DecodeError, Id, TxId, field, hash, tx};

/// Length of a block header.
pub const HEADER: usize = 80;
/// Length of a BRC-131 announce without subtrees.
pub const ANNOUNCE_FIXED: usize = 116;

/// Hash of an 80-byte header.
pub fn header_hash(header: &[u8; 80]) -> Id {
    hash::sha256d(header)
}

/// True if the header's hash meets the target in its own nBits, and nBits is not easier than `floor` (compact form,
/// 0 = no floor). A target that is zero, negative or above 256 bits is met by nothing; the same goes for such a floor.
pub fn meets_target(header: &[u8; 80], floor: u32) -> bool {
    let Some(bits) = field::bytes(header, 72).copied().map(u32::from_le_bytes) else {
        return false;
    };
    let Some(target) = target(bits) else { return false };
    if floor != 0 && self::target(floor).is_none_or(|floor| target > floor) {
        return false;
    }
    let mut hash = header_hash(header);
    hash.reverse();
    hash <= target
}

/// The target of a compact nBits, most significant byte first: an exponent in bytes and a 23-bit mantissa with a sign.
/// `None` for zero, negative and overflowing encodings.
pub fn target(bits: u32) -> Option<Id> {
    let [exponent, mantissa @ ..] = bits.to_be_bytes();
    if mantissa[0] & 0x80 != 0 {
        return None;
    }
    let mut target = [0; 32];
    // Mantissa byte i has the weight 256^(exponent - 1 - i); weights below one are cut off, weights beyond 2^256 must
    // belong to zeros.
    for (i, byte) in mantissa.into_iter().enumerate() {
        let Some(weight) = usize::from(exponent).checked_sub(1 + i) else { continue };
        match 31usize.checked_sub(weight).and_then(|at| target.get_mut(at)) {
            Some(digit) => *digit = byte,
            None if byte == 0 => {}
            None => return None,
        }
    }
    (target != [0; 32]).then_some(target)
}

/// View of a raw block: header, CompactSize count, transactions back to back.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The first 80 bytes.
    pub header: &'a [u8; 80],
    /// Announced number of transactions; not more than the bytes could hold.
    pub count: u64,
    transactions: &'a [u8],
}

impl<'a> Block<'a> {
    /// Shortest transaction: version, one input, no output, lock time.
    const MIN_TX: u64 = 51;

    /// Reads header and count. `BlockTruncated` if the bytes cannot hold the announced count, `BlockMalformed` if the
    /// count is not a minimal CompactSize or zero.
    pub fn decode(bytes: &'a [u8]) -> Result<Block<'a>, DecodeError> {
        let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(DecodeError::BlockTruncated)?;
        let (count, len) = tx::compact_size(rest).map_err(|error| match error {
            DecodeError::TxTruncated => DecodeError::BlockTruncated,
            _ => DecodeError::BlockMalformed,
        })?;
        let transactions = rest.get(len..).ok_or(DecodeError::BlockTruncated)?;
        if count == 0 {
            return Err(DecodeError::BlockMalformed);
        }
        let room = u64::try_from(transactions.len()).unwrap_or(u64::MAX) / Block::MIN_TX;
        if count > room {
            return Err(DecodeError::BlockTruncated);
        }
        Ok(Block { header, count, transactions })
    }

    /// Merkle root from the header (internal order).
    pub fn merkle_root(&self) -> Id {
        field::id(self.header, 36).copied().unwrap_or_default()
    }

    /// Transactions in order; an `Err` ends the iteration. Bytes after the last are ignored.
    pub fn transactions(&self) -> impl Iterator<Item = Result<&'a [u8], DecodeError>> + use<'a> {
        let mut rest = self.transactions;
        let mut left = self.count;
        core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let transaction = tx::parse(rest).and_then(|parsed| {
                let (transaction, after) =
                    rest.split_at_checked(parsed.len).ok_or(DecodeError::TxTruncated)?;
                rest = after;
                Ok(transaction)
            });
            if transaction.is_err() {
                left = 0;
            }
            Some(transaction)
        })
    }
}

/// Folds `ids` in place to the Merkle root (Bitcoin's rule: the last of an odd level is paired with itself). Zeros
/// for an empty slice.
pub fn merkle_root(ids: &mut [TxId]) -> Id {
    let mut level = ids.len();
    while level > 1 {
        let next = level.div_ceil(2);
        for i in 0..next {
            let left = ids[2 * i];
            let right = ids[(2 * i + 1).min(level - 1)];
            ids[i] = TxId(hash::sha256(&hash::sha256_pair(&left.0, &right.0)));
        }
        level = next;
    }
    ids.first().copied().unwrap_or_default().0
}

/// BRC-131 BlockAnnounce payload (V4, MsgType 1). A V4 may instead carry a whole BRC-144 body, of which only the first
/// 80 bytes are the same: decode this only where the sender is known to announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announce<'a> {
    /// The header; its double hash is the frame's ContentID.
    pub header: &'a [u8; 80],
    /// TxID of the coinbase.
    pub coinbase: &'a Id,
    /// Roots of the block's subtrees.
    pub subtrees: &'a [Id],
}

impl<'a> Announce<'a> {
    /// `AnnounceTooShort` below 116 bytes, `AnnounceSubtrees` if the list is cut; bytes after it are tolerated.
    pub fn decode(payload: &'a [u8]) -> Result<Announce<'a>, DecodeError> {
        let short = DecodeError::AnnounceTooShort;
        let (fixed, rest) = payload.split_first_chunk::<ANNOUNCE_FIXED>().ok_or(short)?;
        let count = field::u32(fixed, 112).ok_or(short)?;
        let count = usize::try_from(count).map_err(|_| DecodeError::AnnounceSubtrees)?;
        let (subtrees, _) = rest.as_chunks::<32>();
        Ok(Announce {
            header: fixed.first_chunk().ok_or(short)?,
            coinbase: field::id(fixed, HEADER).ok_or(short)?,
            subtrees: subtrees.get(..count).ok_or(DecodeError::AnnounceSubtrees)?,
        })
    }

    /// Writes the payload to the front of `out`; returns its length, `None` if `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let count = u32::try_from(self.subtrees.len()).ok()?;
        let (fixed, rest) = out.split_first_chunk_mut::<ANNOUNCE_FIXED>()?;
        let list = rest.get_mut(..self.subtrees.as_flattened().len())?;
        fixed[..80].copy_from_slice(self.header);
        fixed[80..112].copy_from_slice(self.coinbase);
        fixed[112..].copy_from_slice(&count.to_be_bytes());
        list.copy_from_slice(self.subtrees.as_flattened());
        Some(ANNOUNCE_FIXED + list.len())
    }
}
