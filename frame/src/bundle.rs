//! V8 bundles (wire 1.8).

/// Borrowed view of a V8 datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bundle<'a> { pub members: &'a [u8] }
