//! Message boundaries in a TCP stream (wire 4): frames, submission records, or bare transactions, one after the other.
//!
//! The first bytes of a connection fix its grammar for life. The finder is given what has arrived since the start of the
//! current message. It says how many bytes the message has, or how many are needed to tell, or that the stream is broken: then
//! the connection is closed. Lengths above the caller's limits are refused before any memory is taken for them. Cost: linear
//! in the message, however small the pieces are.
//!
//! ```
//! use frame::stream::{Boundary, Limits, Stream};
//!
//! let mut stream = Stream::new(Limits::DEFAULT);
//! let mut bytes = [&frame::MAGIC[..], &[0x02, 0xBF, 0x02], &[0; 85]].concat();
//! assert_eq!(stream.boundary(&bytes[..10]), Ok(Boundary::Need(92)));
//! bytes[91] = 7;
//! assert_eq!(stream.boundary(&bytes), Ok(Boundary::Message(99)));
//! ```

use crate::{DecodeError, Kind, MAGIC, control::SubtreeGroupAnnounce, data, field, object, tx};

pub use crate::boundary::Boundary;

/// How the messages of a connection are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grammar {
    /// Frames by their headers: V1, V2, V4, V5, V6, V9 and BRC-127.
    Framed,
    /// Submission records of objects (wire 1.9).
    Records,
    /// Transactions, raw or EF, by their structure.
    Transactions,
}

impl Grammar {
    /// By the first bytes: the magic, `BE EF`, anything else. `None`: too few to tell.
    pub fn of(first: &[u8]) -> Option<Grammar> {
        let may_be = |mark: &[u8]| first.len() < mark.len() && mark.starts_with(first);
        if first.starts_with(&MAGIC) {
            Some(Grammar::Framed)
        } else if first.starts_with(&object::RECORD_MARK) {
            Some(Grammar::Records)
        } else if may_be(&MAGIC) || may_be(&object::RECORD_MARK) {
            None
        } else {
            Some(Grammar::Transactions)
        }
    }
}

/// Upper bounds of what a peer may announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// PayloadLen of a frame, and length of a bare transaction.
    pub payload: u32,
    /// Object in a submission record.
    pub object: u32,
}

impl Limits {
    /// 64 MiB, and 1 MiB for objects: the bounds of generation B.
    pub const DEFAULT: Limits = Limits { payload: 64 << 20, object: 1 << 20 };
}

/// Boundary finder of one connection.
#[derive(Clone, Debug)]
pub struct Stream {
    grammar: Option<Grammar>,
    scanner: tx::Scanner,
    limits: Limits,
}

impl Stream {
    /// For a new connection.
    pub fn new(limits: Limits) -> Stream {
        Stream { grammar: None, scanner: tx::Scanner::default(), limits }
    }

    /// The grammar, once the first bytes have fixed it.
    pub fn grammar(&self) -> Option<Grammar> {
        self.grammar
    }

    /// The boundary of the message at the front of `bytes`, which must begin where the last message ended. After
    /// `Need`, call with the same start and more bytes; what was walked is not walked again. After an error the
    /// connection is to be closed: `BadMagic` and `BadVersion` for frames, `RecordMalformed`, `TxMalformed`, `TooLong`.
    pub fn boundary(&mut self, bytes: &[u8]) -> Result<Boundary, DecodeError> {
        let Some(grammar) = self.grammar.or_else(|| Grammar::of(bytes)) else {
            return Ok(Boundary::Need(bytes.len() + 1));
        };
        self.grammar = Some(grammar);
        match grammar {
            Grammar::Framed => framed(bytes, self.limits.payload),
            Grammar::Records => object::Record::size(bytes, self.limits.object),
            Grammar::Transactions => self.transaction(bytes),
        }
    }

    fn transaction(&mut self, bytes: &[u8]) -> Result<Boundary, DecodeError> {
        let boundary = self.scanner.advance(bytes)?;
        let (Boundary::Need(len) | Boundary::Message(len)) = boundary;
        if len > usize::try_from(self.limits.payload).unwrap_or(usize::MAX) {
            return Err(DecodeError::TooLong);
        }
        if let Boundary::Message(_) = boundary {
            self.scanner = tx::Scanner::default();
        }
        Ok(boundary)
    }
}

/// Boundary of one frame. A bad magic or type is refused as soon as it can be seen, not only after 44 bytes.
fn framed(bytes: &[u8], max_payload: u32) -> Result<Boundary, DecodeError> {
    let seen = bytes.get(..MAGIC.len()).unwrap_or(bytes);
    if !MAGIC.starts_with(seen) {
        return Err(DecodeError::BadMagic);
    }
    let Some(version) = bytes.get(6) else {
        return Ok(Boundary::Need(data::V1_HEADER));
    };
    let header = match Kind::from_byte(*version) {
        Some(Kind::SubtreeGroupAnnounce) => return Ok(Boundary::Message(SubtreeGroupAnnounce::LEN)),
        Some(Kind::LegacyTx) => data::V1_HEADER,
        Some(Kind::Tx | Kind::Block | Kind::Subtree | Kind::Anchor | Kind::Object) => data::HEADER,
        _ => return Err(DecodeError::BadVersion),
    };
    match field::u32(bytes, header - 4) {
        None => Ok(Boundary::Need(header)),
        Some(len) if len > max_payload => Err(DecodeError::TooLong),
        Some(len) => {
            let len = usize::try_from(len).map_err(|_| DecodeError::TooLong)?;
            Ok(Boundary::Message(header.checked_add(len).ok_or(DecodeError::TooLong)?))
        }
    }
}
