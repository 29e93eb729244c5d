//! What tier 2 holds: the value of a claim and the record of an owner, byte by byte as in `docs/claims.md`.

use cache_backend::KeyValues;

/// First byte of every value that Oncecast writes in settled mode.
pub const VERSION: u8 = 1;
/// Bytes of a claim's value.
pub const CLAIM_LEN: usize = 29;
/// Bytes of a record.
pub const RECORD_LEN: usize = 17;
/// Value of a Go node, and of simple mode.
pub const PLAIN: &[u8] = b"1";
/// First byte of a courtesy mark.
pub const MARK: u8 = 2;
/// Bytes of a courtesy mark: those of a claim, so that replies prove themselves in the same way.
pub const MARK_LEN: usize = CLAIM_LEN;

/// Who took an id and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimValue {
    /// Random per worker and start.
    pub owner: u64,
    /// Epoch of the owner in which the request was built.
    pub epoch: u32,
    /// Random per request: tells our own value from any other.
    pub nonce: u64,
    /// First bytes of the id: an answer to another question shows itself.
    pub id: [u8; 8],
}

/// A value as found in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A claim of an Oncecast worker.
    Claim(ClaimValue),
    /// `1`: a Go node or simple mode.
    Plain,
    /// A listener saw the frame on the fabric.
    Marked(CourtesyMark),
    /// Neither: another version, or something else under this key.
    Unknown,
}

impl ClaimValue {
    /// The 29 bytes: version, owner, epoch, nonce, id; numbers big endian.
    pub fn encode(&self) -> [u8; CLAIM_LEN] {
        laid_out(VERSION, self.owner, self.epoch, self.nonce, &self.id)
    }
}

/// What claims and marks have in common: which of the two, three numbers, first bytes of the id.
fn laid_out(kind: u8, first: u64, second: u32, third: u64, id: &[u8; 8]) -> [u8; CLAIM_LEN] {
    let mut bytes = [0; CLAIM_LEN];
    bytes[0] = kind;
    bytes[1..9].copy_from_slice(&first.to_be_bytes());
    bytes[9..13].copy_from_slice(&second.to_be_bytes());
    bytes[13..21].copy_from_slice(&third.to_be_bytes());
    bytes[21..29].copy_from_slice(id);
    bytes
}

impl Found {
    /// Reads a value.
    pub fn parse(bytes: &[u8]) -> Found {
        if bytes == PLAIN {
            return Found::Plain;
        }
        let Ok(bytes) = <&[u8; CLAIM_LEN]>::try_from(bytes) else { return Found::Unknown };
        let (first, second, third) = (u64_at(bytes, 1), u32_at(bytes, 9), u64_at(bytes, 13));
        let id = u64_at(bytes, 21).to_be_bytes();
        match bytes[0] {
            VERSION => Found::Claim(ClaimValue { owner: first, epoch: second, nonce: third, id }),
            MARK => Found::Marked(CourtesyMark { flow: first, seconds: second, number: third, id }),
            _ => Found::Unknown,
        }
    }
}

/// What a listener writes under the key of a claim about a frame that it saw on the fabric: which one and when. A Go
/// node takes it for a claim, as it does any value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CourtesyMark {
    /// HashKey of the frame: the flow, so the process that emitted it.
    pub flow: u64,
    /// When it was seen, Unix seconds.
    pub seconds: u32,
    /// SeqNum of the frame.
    pub number: u64,
    /// First bytes of the id: an answer to another question shows itself.
    pub id: [u8; 8],
}

impl CourtesyMark {
    /// The 29 bytes: 2, flow, seconds, number, id; numbers big endian.
    pub fn encode(&self) -> [u8; MARK_LEN] {
        laid_out(MARK, self.flow, self.seconds, self.number, &self.id)
    }
}

/// An owner's one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is: an answer to another question shows itself.
    pub owner: u64,
    /// Every epoch up to this one is settled.
    pub settled: u32,
    /// The highest epoch in which a claim was released; zero for none.
    pub released: u32,
}

impl Record {
    /// The 17 bytes: version, owner, settled, released; numbers big endian.
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let mut bytes = [0; RECORD_LEN];
        bytes[0] = VERSION;
        bytes[1..9].copy_from_slice(&self.owner.to_be_bytes());
        bytes[9..13].copy_from_slice(&self.settled.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.released.to_be_bytes());
        bytes
    }

    /// `None`: not a record that this version can read.
    pub fn parse(bytes: &[u8]) -> Option<Record> {
        let bytes = <&[u8; RECORD_LEN]>::try_from(bytes).ok()?;
        (bytes[0] == VERSION).then(|| Record {
            owner: u64_at(bytes, 1),
            settled: u32_at(bytes, 9),
            released: u32_at(bytes, 13),
        })
    }
}

/// Bytes of the notice that an owner's process has ended.
pub const END_NOTICE_LEN: usize = 9;

/// The 9 bytes under the key `Names::end_notice`: version, owner.
pub fn encode_end_notice(owner: u64) -> [u8; END_NOTICE_LEN] {
    let mut bytes = [VERSION; END_NOTICE_LEN];
    bytes[1..].copy_from_slice(&owner.to_be_bytes());
    bytes
}

/// Whose process has ended; `None`: not a notice that this version can read.
pub fn parse_end_notice(bytes: &[u8]) -> Option<u64> {
    let bytes = <&[u8; END_NOTICE_LEN]>::try_from(bytes).ok()?;
    (bytes[0] == VERSION).then(|| u64_at(bytes, 1))
}

/// A batch of one pair.
pub(crate) fn one(key: &[u8], value: &[u8]) -> KeyValues {
    let mut batch = KeyValues::new();
    batch.push(key, value);
    batch
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_is_no_claim() {
        let mark = CourtesyMark { flow: 0x0102, seconds: 77, number: 9, id: [3; 8] };
        let bytes = mark.encode();
        assert_eq!(Found::parse(&bytes), Found::Marked(mark));
        assert_eq!(bytes[21..], [3; 8], "the id lies where a claim has it");
        assert_eq!(Found::parse(&bytes[..28]), Found::Unknown);
        assert_eq!(Found::parse(&[3; MARK_LEN]), Found::Unknown);
    }
}
