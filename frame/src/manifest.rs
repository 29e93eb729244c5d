//! BRC-139 shard manifest (wire 1.11).

/// Borrowed view of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manifest<'a> { pub groups: &'a [u8] }
