//! Fields at offsets: every read is checked, and none copies an id. A writer that stops where its buffer ends.

use crate::Id;

/// The `N` bytes at `offset`, `None` if they are not all there.
pub(crate) fn bytes<const N: usize>(from: &[u8], offset: usize) -> Option<&[u8; N]> {
    from.get(offset..)?.first_chunk()
}

pub(crate) fn id(from: &[u8], offset: usize) -> Option<&Id> {
    bytes(from, offset)
}

pub(crate) fn u16(from: &[u8], offset: usize) -> Option<u16> {
    bytes(from, offset).copied().map(u16::from_be_bytes)
}

pub(crate) fn u32(from: &[u8], offset: usize) -> Option<u32> {
    bytes(from, offset).copied().map(u32::from_be_bytes)
}

pub(crate) fn u64(from: &[u8], offset: usize) -> Option<u64> {
    bytes(from, offset).copied().map(u64::from_be_bytes)
}

/// `len` bytes at `offset` with a length from the wire.
pub(crate) fn slice(from: &[u8], offset: usize, len: u32) -> Option<&[u8]> {
    let end = offset.checked_add(usize::try_from(len).ok()?)?;
    from.get(offset..end)
}

/// True if the datagram begins with the magic (fewer than four bytes do not).
pub(crate) fn has_magic(datagram: &[u8]) -> bool {
    datagram.first_chunk() == Some(&crate::MAGIC)
}

/// Magic, protocol, type and byte 7: the first eight bytes of everything on the fabric.
pub(crate) const fn prologue(kind: u8, byte7: u8) -> [u8; 8] {
    let [a, b, c, d] = crate::MAGIC;
    let [e, f] = crate::PROTOCOL;
    [a, b, c, d, e, f, kind, byte7]
}

/// Overwrites a field; nothing happens if it is not all there.
pub(crate) fn put(out: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(field) = out.get_mut(offset..).and_then(|rest| rest.get_mut(..value.len())) {
        field.copy_from_slice(value);
    }
}

/// Appends to a buffer that the caller owns.
pub(crate) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { out, len: 0 }
    }

    /// `None`, and nothing is written, if there is no room.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}
