//! Transactions: structure, Extended Format, canonical TxID (wire 1.2; BRC-30 for EF).
//!
//! Only the structure is read: scripts are skipped, no consensus rule is checked. In two things this is stricter than a plain
//! reader. A transaction without inputs is malformed, because `00` in the place of the input count announces the Extended
//! Format. A CompactSize must be minimal, because two encodings of one transaction would be two TxIDs.

use crate::{DecodeError, TxId, boundary::Boundary, hash};

pub use crate::hash::sha256d;

/// Version and marker of an EF transaction.
const EF_HEAD: usize = 10;
const EF_MARKER: [u8; 6] = [0, 0, 0, 0, 0, 0xEF];
/// Outpoint, empty script, sequence.
const MIN_INPUT: usize = 36 + 1 + 4;
/// Satoshis and empty locking script of the spent output.
const MIN_EXTENSION: usize = 8 + 1;
/// Satoshis, empty script.
const MIN_OUTPUT: usize = 8 + 1;
const LOCK_TIME: usize = 4;

/// What one pass over a serialized transaction finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// Bytes the transaction occupies.
    pub len: usize,
    /// Extended Format.
    pub extended: bool,
}

/// Walks one transaction (raw or EF) at the front of `bytes`. `TxTruncated` means that more bytes may complete it,
/// `TxMalformed` that none can. Counts are checked against what is left before they are believed.
pub fn parse(bytes: &[u8]) -> Result<Parsed, DecodeError> {
    let mut walk = Walk { bytes, at: 0 };
    let extended = walk.head()?;
    for _ in 0..walk.input_count(extended)? {
        walk.input()?;
        if extended {
            walk.extension()?;
        }
    }
    for _ in 0..walk.output_count()? {
        walk.output()?;
    }
    walk.skip(LOCK_TIME)?;
    Ok(Parsed { len: walk.at, extended })
}

/// True when the payload carries the EF marker `00 00 00 00 00 EF` at offset 4 (wire 1.2).
pub fn is_extended(payload: &[u8]) -> bool {
    payload.get(4..EF_HEAD) == Some(&EF_MARKER)
}

/// Double SHA-256 of the standard serialization; for EF the extension fields are skipped while hashing, nothing is
/// copied. The payload must be exactly one transaction for EF (`TxTrailing` otherwise); raw bytes are hashed as they
/// are, whatever they are.
pub fn canonical_txid(payload: &[u8]) -> Result<TxId, DecodeError> {
    if !is_extended(payload) {
        return Ok(TxId(sha256d(payload)));
    }
    let mut standard = hash::Pieces::default();
    split_extended(payload, |piece, part| {
        if part == Part::Standard {
            standard.update(piece);
        }
    })?;
    Ok(TxId(standard.sha256d()))
}

/// To which of the two a piece of an EF transaction belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The standard serialization.
    Standard,
    /// Amount and script of a spent output.
    Extension,
}

/// Gives the pieces of exactly one EF transaction, in order, without the marker. The standard pieces in a row are its standard
/// serialization. `TxTrailing` if more bytes follow.
pub fn split_extended(payload: &[u8], mut piece: impl FnMut(&[u8], Part)) -> Result<(), DecodeError> {
    let mut give = |from: usize, to: usize, part| piece(payload.get(from..to).unwrap_or_default(), part);
    give(0, 4, Part::Standard);
    let mut walk = Walk { bytes: payload, at: EF_HEAD };
    let mut kept = walk.at;
    let inputs = walk.input_count(true)?;
    for _ in 0..inputs {
        walk.input()?;
        give(kept, walk.at, Part::Standard);
        kept = walk.at;
        walk.extension()?;
        give(kept, walk.at, Part::Extension);
        kept = walk.at;
    }
    let outputs = walk.output_count()?;
    for _ in 0..outputs {
        walk.output()?;
    }
    walk.skip(LOCK_TIME)?;
    give(kept, walk.at, Part::Standard);
    if walk.at != payload.len() {
        return Err(DecodeError::TxTrailing);
    }
    Ok(())
}

/// Finds the end of a transaction whose bytes arrive in pieces. It remembers where it stopped, so that bytes are not
/// walked again each time more arrive: the whole cost is linear in the transaction.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    at: usize,
    stage: Stage,
    extended: bool,
}

#[derive(Clone, Copy, Debug, Default)]
enum Stage {
    #[default]
    Head,
    Inputs(u64),
    OutputCount,
    Outputs(u64),
    LockTime,
}

impl Scanner {
    /// `bytes` begin at the transaction and hold at least what they held at the last call. `Need(n)`: the transaction
    /// has at least `n` bytes, more than are here. `Message(n)`: it has exactly `n`. `TxMalformed` is the only error.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Boundary, DecodeError> {
        let mut walk = Walk { bytes, at: self.at };
        loop {
            match self.step(&mut walk) {
                Ok(Some(stage)) => (self.stage, self.at) = (stage, walk.at),
                Ok(None) => return Ok(Boundary::Message(walk.at)),
                Err(Stop::Need(len)) => return Ok(Boundary::Need(len)),
                Err(Stop::Malformed) => return Err(DecodeError::TxMalformed),
            }
        }
    }

    /// Extended Format; known once the input count is.
    pub fn is_extended(&self) -> bool {
        self.extended
    }

    /// Walks one element; `None` after the lock time.
    fn step(&mut self, walk: &mut Walk<'_>) -> Result<Option<Stage>, Stop> {
        Ok(Some(match self.stage {
            Stage::Head => {
                self.extended = walk.head()?;
                Stage::Inputs(walk.input_count(self.extended)?)
            }
            Stage::Inputs(0) => Stage::OutputCount,
            Stage::Inputs(left) => {
                walk.input()?;
                if self.extended {
                    walk.extension()?;
                }
                Stage::Inputs(left - 1)
            }
            Stage::OutputCount => Stage::Outputs(walk.output_count()?),
            Stage::Outputs(0) => Stage::LockTime,
            Stage::Outputs(left) => {
                walk.output()?;
                Stage::Outputs(left - 1)
            }
            Stage::LockTime => {
                walk.skip(LOCK_TIME)?;
                return Ok(None);
            }
        }))
    }
}

/// Why a walk ended early.
enum Stop {
    /// The whole has at least this many bytes.
    Need(usize),
    Malformed,
}

impl From<Stop> for DecodeError {
    fn from(stop: Stop) -> DecodeError {
        match stop {
            Stop::Need(_) => DecodeError::TxTruncated,
            Stop::Malformed => DecodeError::TxMalformed,
        }
    }
}

/// A position in the bytes of a transaction.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// Version and, for EF, the marker. True if extended.
    fn head(&mut self) -> Result<bool, Stop> {
        self.skip(4)?;
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.first() {
            None => Err(Stop::Need(EF_HEAD)),
            Some(0) => {
                let seen = rest.get(..EF_MARKER.len()).unwrap_or(rest);
                if !EF_MARKER.starts_with(seen) {
                    return Err(Stop::Malformed);
                }
                self.skip(EF_MARKER.len())?;
                Ok(true)
            }
            Some(_) => Ok(false),
        }
    }

    fn input_count(&mut self, extended: bool) -> Result<u64, Stop> {
        let count = self.compact_size()?;
        if count == 0 {
            return Err(Stop::Malformed);
        }
        let each = if extended { MIN_INPUT + MIN_EXTENSION } else { MIN_INPUT };
        self.expect(count, each, 1 + LOCK_TIME)?;
        Ok(count)
    }

    fn output_count(&mut self) -> Result<u64, Stop> {
        let count = self.compact_size()?;
        self.expect(count, MIN_OUTPUT, LOCK_TIME)?;
        Ok(count)
    }

    /// Outpoint, script, sequence.
    fn input(&mut self) -> Result<(), Stop> {
        self.skip(36)?;
        self.script()?;
        self.skip(4)
    }

    /// What EF adds to an input: satoshis and locking script of the output it spends.
    fn extension(&mut self) -> Result<(), Stop> {
        self.output()
    }

    /// Satoshis, script.
    fn output(&mut self) -> Result<(), Stop> {
        self.skip(8)?;
        self.script()
    }

    fn script(&mut self) -> Result<(), Stop> {
        let len = self.compact_size()?;
        self.skip(usize::try_from(len).map_err(|_| Stop::Malformed)?)
    }

    /// `count` elements of at least `each` bytes and then `after` bytes must be there.
    fn expect(&self, count: u64, each: usize, after: usize) -> Result<(), Stop> {
        let count = usize::try_from(count).map_err(|_| Stop::Malformed)?;
        let least = count.checked_mul(each).and_then(|len| len.checked_add(after));
        self.ahead(least.ok_or(Stop::Malformed)?).map(|_| ())
    }

    fn skip(&mut self, len: usize) -> Result<(), Stop> {
        self.at = self.ahead(len)?;
        Ok(())
    }

    /// The position `len` bytes ahead, if they are there.
    fn ahead(&self, len: usize) -> Result<usize, Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::Malformed)?;
        if end > self.bytes.len() { Err(Stop::Need(end)) } else { Ok(end) }
    }

    /// Bitcoin's variable-length integer, minimal form only.
    fn compact_size(&mut self) -> Result<u64, Stop> {
        let end = self.ahead(1)?;
        let first = self.bytes.get(self.at).copied().unwrap_or_default();
        let (extra, least) = match first {
            0xFD => (2, 0xFD),
            0xFE => (4, 0x1_0000),
            0xFF => (8, 0x1_0000_0000),
            small => {
                self.at = end;
                return Ok(u64::from(small));
            }
        };
        let after = self.ahead(1 + extra)?;
        let mut value = [0; 8];
        let bytes = self.bytes.get(end..after).unwrap_or_default();
        value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.at = after;
        match u64::from_le_bytes(value) {
            value if value < least => Err(Stop::Malformed),
            value => Ok(value),
        }
    }
}

/// A CompactSize at the front of `bytes` and its length. `None` if it is cut short, `Some(None)` if it is not minimal.
pub(crate) fn compact_size(bytes: &[u8]) -> Result<(u64, usize), DecodeError> {
    let mut walk = Walk { bytes, at: 0 };
    Ok((walk.compact_size()?, walk.at))
}
