//! One enum for everything a decoder can refuse.

/// Why a datagram was refused. Names follow `docs/wire.md` section 1.0 and are what counters use as `reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Shorter than the header of its type.
    #[error("ErrTooShort")]
    TooShort,
    /// The first four bytes are not the magic.
    #[error("ErrBadMagic")]
    BadMagic,
    /// Byte 6 is not a version this decoder reads.
    #[error("ErrBadVer")]
    BadVersion,
    // The frame helper adds the rest: every name in wire.md 1.0 - 1.15 and vectors.json.
}

impl DecodeError {
    /// The field's name for the error, as in `docs/wire.md` and the vectors (`ErrTooShort`, …).
    pub fn name(self) -> &'static str {
        match self {
            DecodeError::TooShort => "ErrTooShort",
            DecodeError::BadMagic => "ErrBadMagic",
            DecodeError::BadVersion => "ErrBadVer",
        }
    }
}
