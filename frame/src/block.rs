//! Blocks: raw block files, header hash, proof of work, Merkle root (wire 1.4).

use crate::{DecodeError, Id, TxId};

/// Length of a block header.
pub const HEADER: usize = 80;

/// Hash of an 80-byte header.
pub fn header_hash(_header: &[u8; 80]) -> Id {
    unimplemented!()
}

/// True if the header's hash meets the target in its own nBits, and nBits is not easier than `floor` (compact form,
/// 0 = no floor).
pub fn meets_target(_header: &[u8; 80], _floor: u32) -> bool {
    unimplemented!()
}

/// View of a raw block: header, CompactSize count, transactions back to back.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    pub header: &'a [u8; 80],
    pub count: u64,
    transactions: &'a [u8],
}

impl<'a> Block<'a> {
    pub fn decode(_bytes: &'a [u8]) -> Result<Block<'a>, DecodeError> {
        unimplemented!()
    }
    /// Merkle root from the header (internal order).
    pub fn merkle_root(&self) -> Id {
        unimplemented!()
    }
    /// Transactions in order; an `Err` ends the iteration.
    pub fn transactions(&self) -> impl Iterator<Item = Result<&'a [u8], DecodeError>> + use<'a> {
        let _ = self.transactions;
        core::iter::empty()
    }
}

/// Folds `ids` in place to the Merkle root (Bitcoin's rule: the last of an odd level is paired with itself). Zeros
/// for an empty slice.
pub fn merkle_root(_ids: &mut [TxId]) -> Id {
    unimplemented!()
}
