//! Transactions: structure, Extended Format, canonical TxID (wire 1.2; BRC-30 for EF).

use crate::{DecodeError, TxId};

/// What one pass over a serialized transaction finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Bytes the transaction occupies.
    pub len: usize,
    pub extended: bool,
}

/// Walks one transaction (raw or EF) at the front of `bytes`. `TxTruncated` means that more bytes may complete it,
/// `TxMalformed` that none can. Counts are checked against what is left before they are believed.
pub fn parse(_bytes: &[u8]) -> Result<Parsed, DecodeError> {
    unimplemented!()
}

/// True when the payload carries the EF marker `00 00 00 00 00 EF` at offset 4 (wire 1.2).
pub fn is_extended(_payload: &[u8]) -> bool {
    unimplemented!()
}

/// Double SHA-256 of the standard serialization; for EF the extension fields are skipped while hashing, nothing is
/// copied. The payload must be exactly one transaction for EF; raw bytes are hashed as they are.
pub fn canonical_txid(_payload: &[u8]) -> Result<TxId, DecodeError> {
    unimplemented!()
}

/// Double SHA-256.
pub fn sha256d(_bytes: &[u8]) -> [u8; 32] {
    unimplemented!()
}
