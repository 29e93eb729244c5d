//! What a boundary finder says about a message of which some bytes are here (wire 4).

/// What can be said about the message at the front of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The message has at least this many bytes, and they are not all here: ask again when they are.
    Need(usize),
    /// The message has exactly this many bytes; they need not all be here.
    Message(usize),
}
