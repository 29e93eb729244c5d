//! Any datagram of the fabric: the dispatcher over all kinds, and the place of flow and number that most kinds share.
//!
//! [`stamp`] and [`stamped`] write and read bytes 40-55 in place. They look at byte 6 and at the length of the header, and
//! decode nothing: a few nanoseconds, whatever the payload.

use crate::{DataFrame, DecodeError, Fragment, HashKey, Kind, SeqNum, bundle, bundle::Bundle};
use crate::{control, data, digest::Digest, field, fragment, manifest::Manifest};

/// First eight bytes of the id, flow and number of a datagram that was stamped; `None` for whatever [`stamp`] leaves alone
/// or that is too short.
pub fn stamped(datagram: &[u8]) -> Option<(u64, HashKey, SeqNum)> {
    let data = Kind::of(datagram).is_ok_and(|kind| kind.is_data() && kind != Kind::LegacyTx);
    let header = datagram.first_chunk::<56>().filter(|_| data)?;
    let at = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Some((at(8), HashKey(at(40)), SeqNum(at(48))))
}

/// Writes bytes 40-55. Left alone, with `false`, is whatever has no HashKey and SeqNum there: V1, control messages,
/// foreign bytes, and slices shorter than the header of their kind.
pub fn stamp(datagram: &mut [u8], hash_key: HashKey, seq_num: SeqNum) -> bool {
    let header = match Kind::of(datagram) {
        Ok(Kind::Fragment) => fragment::HEADER,
        Ok(Kind::Bundle) => bundle::HEADER,
        Ok(Kind::LegacyTx) | Err(_) => return false,
        Ok(kind) if kind.is_data() => data::HEADER,
        Ok(_) => return false,
    };
    if datagram.len() < header {
        return false;
    }
    field::put(datagram, 40, &hash_key.0.to_be_bytes());
    field::put(datagram, 48, &seq_num.0.to_be_bytes());
    true
}

/// Any datagram of the fabric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram<'a> {
    /// V1, V2, V4, V5, V6, V7, V9.
    Data(DataFrame<'a>),
    /// V3.
    Fragment(Fragment<'a>),
    /// V8.
    Bundle(Bundle<'a>),
    /// 0x10.
    Nack(control::Nack),
    /// 0x11, 0x12, 0x13.
    Response(control::Response),
    /// 0x14.
    Digest(Digest<'a>),
    /// 0x20.
    Advert(control::Advert),
    /// 0x30.
    SubtreeGroupAnnounce(control::SubtreeGroupAnnounce),
    /// 0x40.
    Manifest(Manifest<'a>),
}

impl<'a> Datagram<'a> {
    /// Dispatches on byte 6.
    pub fn decode(datagram: &'a [u8]) -> Result<Datagram<'a>, DecodeError> {
        Ok(match Kind::of(datagram)? {
            Kind::Fragment => Datagram::Fragment(Fragment::decode(datagram)?),
            Kind::Bundle => Datagram::Bundle(Bundle::decode(datagram)?),
            Kind::Nack => Datagram::Nack(control::Nack::decode(datagram)?),
            Kind::Miss | Kind::Ack | Kind::Throttled => {
                Datagram::Response(control::Response::decode(datagram)?)
            }
            Kind::Digest => Datagram::Digest(Digest::decode(datagram)?),
            Kind::Advert => Datagram::Advert(control::Advert::decode(datagram)?),
            Kind::SubtreeGroupAnnounce => {
                Datagram::SubtreeGroupAnnounce(control::SubtreeGroupAnnounce::decode(datagram)?)
            }
            Kind::Manifest => Datagram::Manifest(Manifest::decode(datagram)?),
            _ => Datagram::Data(DataFrame::decode(datagram)?),
        })
    }
}
