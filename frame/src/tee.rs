//! TEE1 envelope (wire 1.15): a datagram and where it came from, between processes of one host.

use crate::{DecodeError, field};
use core::net::Ipv6Addr;

/// Length of the envelope before the datagram.
pub const HEADER: usize = 24;
const MAGIC: [u8; 4] = *b"TEE1";
const VERSION: u8 = 1;

/// Borrowed view of an enveloped datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tee<'a> {
    /// Where the datagram came from; IPv4 in its mapped form.
    pub source: Ipv6Addr,
    /// Source port.
    pub port: u16,
    /// All that follows the envelope.
    pub datagram: &'a [u8],
}

impl<'a> Tee<'a> {
    /// Everything that is wrong is `BadTee`. The flags byte is not validated.
    pub fn decode(bytes: &'a [u8]) -> Result<Tee<'a>, DecodeError> {
        let bad = DecodeError::BadTee;
        let (header, datagram) = bytes.split_first_chunk::<HEADER>().ok_or(bad)?;
        if header.first_chunk() != Some(&MAGIC) || header[4] != VERSION {
            return Err(bad);
        }
        let source = Ipv6Addr::from(*field::bytes::<16>(header, 6).ok_or(bad)?);
        let port = field::u16(header, 22).ok_or(bad)?;
        Ok(Tee { source, port, datagram })
    }

    /// The envelope; the datagram follows it.
    pub fn header(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[6..22].copy_from_slice(&self.source.octets());
        out[22..].copy_from_slice(&self.port.to_be_bytes());
        out
    }

    /// Writes envelope and datagram to the front of `out`; `None` if `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let (header, rest) = out.split_first_chunk_mut::<HEADER>()?;
        let body = rest.get_mut(..self.datagram.len())?;
        *header = self.header();
        body.copy_from_slice(self.datagram);
        Some(HEADER + self.datagram.len())
    }
}
