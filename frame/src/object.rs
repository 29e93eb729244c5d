//! V9 objects: ids, submission and delivery records (wire 1.9).
//!
//! Every byte of a record is judged as soon as it is there: a stream that cannot become a record is broken at once.

use crate::{DecodeError, Id, boundary::Boundary, field, field::Writer, hash};

/// First two bytes of a submission record.
pub const RECORD_MARK: [u8; 2] = [0xBE, 0xEF];
const RECORD_VERSION: u8 = 1;
/// Most topics of one record.
pub const MAX_TOPICS: u8 = 15;
/// Longest topic name in bytes.
pub const MAX_TOPIC: u8 = 64;

/// TopicID: SHA-256 of the UTF-8 name.
pub fn topic_id(name: &str) -> Id {
    hash::sha256(name.as_bytes())
}

/// ContentID: double SHA-256 of the payload.
pub fn content_id(payload: &[u8]) -> Id {
    hash::sha256d(payload)
}

/// Key of claims and of reassembly slots: SHA-256(ContentID ∥ TopicID).
pub fn dedup_key(content_id: &Id, topic_id: &Id) -> Id {
    hash::sha256_pair(content_id, topic_id)
}

/// How many leading topics of a record may be matched, by byte 7 of the frame: 0 is the legacy form of 1.
pub fn deliverable(byte7: u8) -> u8 {
    byte7.max(1)
}

/// The closed table of object markers (first four bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marker {
    /// `01 00 BE EF`.
    BeefV1,
    /// `02 00 BE EF`.
    BeefV2,
    /// `01 01 01 01`.
    Atomic,
}

impl Marker {
    /// `None` for objects outside the table, which an ingress refuses.
    pub fn of(object: &[u8]) -> Option<Marker> {
        match object.first_chunk()? {
            [0x01, 0x00, 0xBE, 0xEF] => Some(Marker::BeefV1),
            [0x02, 0x00, 0xBE, 0xEF] => Some(Marker::BeefV2),
            [0x01, 0x01, 0x01, 0x01] => Some(Marker::Atomic),
            _ => None,
        }
    }
}

/// What a V9 payload holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// Exactly one submission record.
    Record(Record<'a>),
    /// Anything else.
    Bare(&'a [u8]),
}

impl<'a> Content<'a> {
    /// Never fails: what is not exactly one record is a bare object.
    pub fn of(payload: &'a [u8]) -> Content<'a> {
        match Record::decode(payload) {
            Ok(record) if record.wire_len() == payload.len() => Content::Record(record),
            _ => Content::Bare(payload),
        }
    }

    /// The object itself.
    pub fn object(&self) -> &'a [u8] {
        match self {
            Content::Record(record) => record.object,
            Content::Bare(object) => object,
        }
    }
}

/// Submission record: `BE EF`, version 1, count, topics (u8 length, name), u32 length, object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Number of topics, 1..=15.
    pub count: u8,
    topics: &'a [u8],
    /// At least one byte.
    pub object: &'a [u8],
}

impl<'a> Record<'a> {
    /// Boundary of the record at the front of a stream; `RecordMalformed` as soon as it can be seen, `TooLong` if the
    /// object is longer than `max_object`.
    pub fn size(bytes: &[u8], max_object: u32) -> Result<Boundary, DecodeError> {
        match record_head(bytes) {
            Err(Stop::Malformed) => Err(DecodeError::RecordMalformed),
            Err(Stop::Need(len)) => Ok(Boundary::Need(len)),
            Ok(head) if head.object_len > max_object => Err(DecodeError::TooLong),
            Ok(head) => head.end().map(Boundary::Message),
        }
    }

    /// The record at the front of `bytes`: `RecordShort` for a prefix of a valid record, `RecordMalformed` for anything
    /// else. Bytes after it are left alone ([`Record::wire_len`]).
    pub fn decode(bytes: &'a [u8]) -> Result<Record<'a>, DecodeError> {
        let head = record_head(bytes).map_err(|stop| match stop {
            Stop::Malformed => DecodeError::RecordMalformed,
            Stop::Need(_) => DecodeError::RecordShort,
        })?;
        let object = bytes.get(head.topics_end + 4..head.end()?).ok_or(DecodeError::RecordShort)?;
        let topics = bytes.get(4..head.topics_end).ok_or(DecodeError::RecordShort)?;
        Ok(Record { count: head.count, topics, object })
    }

    /// Length of the record on the wire.
    pub fn wire_len(&self) -> usize {
        4 + self.topics.len() + 4 + self.object.len()
    }

    /// Topic names as bytes: a decoder does not insist on UTF-8, only the encoder does.
    pub fn topics(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.topics;
        core::iter::from_fn(move || {
            let (len, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            Some(name)
        })
    }
}

enum Stop {
    Need(usize),
    Malformed,
}

struct RecordHead {
    count: u8,
    topics_end: usize,
    object_len: u32,
}

impl RecordHead {
    fn end(&self) -> Result<usize, DecodeError> {
        let len = usize::try_from(self.object_len).map_err(|_| DecodeError::TooLong)?;
        self.topics_end.checked_add(4).and_then(|at| at.checked_add(len)).ok_or(DecodeError::TooLong)
    }
}

/// Everything before the object; each byte is judged as soon as it is there.
fn record_head(bytes: &[u8]) -> Result<RecordHead, Stop> {
    let byte = |at: usize, valid: &dyn Fn(u8) -> bool| match bytes.get(at) {
        None => Err(Stop::Need(at + 1)),
        Some(byte) if valid(*byte) => Ok(*byte),
        Some(_) => Err(Stop::Malformed),
    };
    byte(0, &|b| b == RECORD_MARK[0])?;
    byte(1, &|b| b == RECORD_MARK[1])?;
    byte(2, &|b| b == RECORD_VERSION)?;
    let count = byte(3, &|b| (1..=MAX_TOPICS).contains(&b))?;
    let mut at = 4;
    for _ in 0..count {
        at += 1 + usize::from(byte(at, &|b| (1..=MAX_TOPIC).contains(&b))?);
        if at > bytes.len() {
            return Err(Stop::Need(at));
        }
    }
    let object_len = field::u32(bytes, at).ok_or(Stop::Need(at + 4))?;
    if object_len == 0 {
        return Err(Stop::Malformed);
    }
    Ok(RecordHead { count, topics_end: at, object_len })
}

/// Writes a submission record to the front of `out`; returns its length. `None` if `out` is too short or the topics or
/// the object are outside the bounds of a record.
pub fn encode_record(topics: &[&str], object: &[u8], out: &mut [u8]) -> Option<usize> {
    let count = u8::try_from(topics.len()).ok().filter(|count| (1..=MAX_TOPICS).contains(count))?;
    let object_len = u32::try_from(object.len()).ok().filter(|len| *len > 0)?;
    let mut out = Writer::new(out);
    out.put(&RECORD_MARK)?;
    out.put(&[RECORD_VERSION, count])?;
    for topic in topics {
        let len = u8::try_from(topic.len()).ok().filter(|len| (1..=MAX_TOPIC).contains(len))?;
        out.put(&[len])?;
        out.put(topic.as_bytes())?;
    }
    out.put(&object_len.to_be_bytes())?;
    out.put(object)?;
    Some(out.len())
}

/// Delivery record, as a consumer receives it: TopicID, u32 length, payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery<'a> {
    /// The topic that matched.
    pub topic_id: &'a Id,
    /// At least one byte.
    pub payload: &'a [u8],
}

impl<'a> Delivery<'a> {
    const FIXED: usize = 36;

    /// The record at the front of `bytes`; errors as for [`Record::decode`].
    pub fn decode(bytes: &'a [u8]) -> Result<Delivery<'a>, DecodeError> {
        let short = DecodeError::RecordShort;
        let topic_id = field::id(bytes, 0).ok_or(short)?;
        let len = field::u32(bytes, 32).ok_or(short)?;
        if len == 0 {
            return Err(DecodeError::RecordMalformed);
        }
        let payload = field::slice(bytes, Delivery::FIXED, len).ok_or(short)?;
        Ok(Delivery { topic_id, payload })
    }

    /// Length of the record on the wire.
    pub fn wire_len(&self) -> usize {
        Delivery::FIXED + self.payload.len()
    }

    /// Writes the record to the front of `out`; `None` if `out` is too short or the payload empty.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let len = u32::try_from(self.payload.len()).ok().filter(|len| *len > 0)?;
        let mut out = Writer::new(out);
        out.put(self.topic_id)?;
        out.put(&len.to_be_bytes())?;
        out.put(self.payload)?;
        Some(out.len())
    }
}
