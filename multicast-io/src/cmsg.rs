//! Control messages (`cmsg(3)`) in fixed, aligned memory.
//!
//! The layout is walked with checked arithmetic over a byte slice, not with the `CMSG_*` pointer macros, so a wrong
//! length from anywhere ends the walk and nothing else.

use crate::sockopt::Plain;

const HEADER: usize = size_of::<libc::cmsghdr>();
const ALIGN: usize = align_of::<libc::cmsghdr>();

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGN)
}

/// Bytes that a control message with `payload` bytes takes.
pub(crate) const fn space(payload: usize) -> usize {
    aligned(HEADER) + aligned(payload)
}

/// Control memory of one message.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Control<const N: usize> {
    bytes: [u8; N],
}

const _: () = assert!(align_of::<libc::cmsghdr>() <= 8);

impl<const N: usize> Control<N> {
    pub(crate) const fn empty() -> Control<N> {
        Control { bytes: [0; N] }
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    /// Writes one message at `at`, returns where the next one goes. `None` when it does not fit.
    pub(crate) fn write(
        &mut self,
        at: usize,
        level: libc::c_int,
        kind: libc::c_int,
        payload: &[u8],
    ) -> Option<usize> {
        let end = at.checked_add(space(payload.len()))?;
        let place = self.bytes.get_mut(at..end)?;
        // SAFETY: all zeros is a value (musl pads the structure).
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (aligned(HEADER) + payload.len()) as _;
        header.cmsg_level = level;
        header.cmsg_type = kind;
        place.fill(0);
        // SAFETY: `place` holds at least `HEADER` bytes; unaligned writes are allowed by `write_unaligned`.
        unsafe { place.as_mut_ptr().cast::<libc::cmsghdr>().write_unaligned(header) };
        place.get_mut(aligned(HEADER)..)?.get_mut(..payload.len())?.copy_from_slice(payload);
        Some(end)
    }

    /// The messages in the first `length` bytes.
    pub(crate) fn messages(&self, length: usize) -> Messages<'_> {
        Messages { rest: &self.bytes[..length.min(N)] }
    }
}

/// One control message.
pub(crate) struct Message<'a> {
    pub(crate) level: libc::c_int,
    pub(crate) kind: libc::c_int,
    pub(crate) payload: &'a [u8],
}

impl Message<'_> {
    /// The payload as `T`; `None` when it is shorter.
    pub(crate) fn read<T: Plain>(&self) -> Option<T> {
        if self.payload.len() < size_of::<T>() {
            return None;
        }
        // SAFETY: the payload is long enough, every bit pattern of a `Plain` type is a value, alignment is not assumed.
        Some(unsafe { self.payload.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// See `Control::messages`.
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        if self.rest.len() < HEADER {
            return None;
        }
        // SAFETY: at least `HEADER` bytes are there; integers only; alignment is not assumed.
        let header = unsafe { self.rest.as_ptr().cast::<libc::cmsghdr>().read_unaligned() };
        #[allow(clippy::unnecessary_cast, reason = "size_t with glibc, socklen_t with musl")]
        let length = header.cmsg_len as usize;
        let payload = self.rest.get(aligned(HEADER)..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(Message { level: header.cmsg_level, kind: header.cmsg_type, payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let mut control = Control::<64>::empty();
        let at = control.write(0, 17, 103, &1200u16.to_ne_bytes()).unwrap();
        let end = control.write(at, 41, 50, &[7; 20]).unwrap();
        assert_eq!(end, space(2) + space(20));
        let all: Vec<_> = control
            .messages(end)
            .map(|message| (message.level, message.kind, message.payload.len()))
            .collect();
        assert_eq!(all, [(17, 103, 2), (41, 50, 20)]);
        assert!(control.write(end, 1, 1, &[0; 9]).is_none());
    }

    #[test]
    fn a_lying_length_ends_the_walk() {
        let mut control = Control::<64>::empty();
        control.write(0, 17, 103, &[1; 4]).unwrap();
        for lie in [0u8, 1, 15, 65, 255] {
            control.bytes[0] = lie;
            assert_eq!(control.messages(64).count(), 0, "length {lie}");
        }
    }
}
