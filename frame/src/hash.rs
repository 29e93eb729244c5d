//! The digests of the wire, each in one place. XXH64 is in [`crate::flow`].
//!
//! `sha2` finds the SHA instructions of the processor at run time; see [`sha256d`] for what that costs.

use crate::Id;
use core::slice;
use crc::{CRC_32_ISCSI, Crc, Table};
use sha2::block_api::compress256;
use sha2::{Digest, Sha256};

/// Double SHA-256: TxID, ContentID, block hash, Merkle nodes.
///
/// Cost: with SHA instructions about 1.3 GB/s on one Zen 4 core (277 ns for a mean transaction of 349 bytes), without
/// them a quarter of that. For many messages see [`sha256d_each`].
pub fn sha256d(bytes: &[u8]) -> [u8; 32] {
    sha256(&sha256(bytes))
}

/// Longest message that is worth hashing beside others: a datagram of an ordinary link.
pub const LONGEST_TOGETHER: usize = 1_536;

/// Block of the compression function.
pub(crate) const BLOCK: usize = 64;
/// Least padding: one bit (a byte) and the length.
pub(crate) const TAIL: usize = 9;
/// FIPS 180-4, section 5.3.3.
pub(crate) const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// One of many messages to hash; what `at` and `from` mean is the caller's affair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its number.
    pub at: u32,
    /// Where it begins.
    pub from: u32,
    /// Its length.
    pub len: u32,
}

impl Message {
    /// Its bytes at the front of `bytes`, and how many: all where there are fewer.
    pub(crate) fn cut(self, bytes: &[u8]) -> (u32, &[u8]) {
        match bytes.get(..self.len as usize) {
            Some(bytes) => (self.len, bytes),
            None => (u32::try_from(bytes.len()).unwrap_or(self.len), bytes),
        }
    }
}

/// Double SHA-256 of many messages; `found` gets each with its hash, in no order. `sorted` is room for as many. `bytes`
/// gives a message's bytes, and may give what lies behind them as well: it is not hashed, and loads of whole blocks are faster.
///
/// Side by side where the processor has AVX-512 and there are at least sixteen, else two at a time with the SHA
/// instructions, which fill each other's waits. Cost for the mean transaction of 349 bytes (7 blocks) on one Zen 4 core: 347 ns
/// alone, 221 ns in pairs, 171 ns each of 32, 142 ns each of 256.
pub fn sha256d_each<'a>(
    messages: &[Message],
    sorted: &mut [Message],
    bytes: impl Fn(Message) -> &'a [u8],
    mut found: impl FnMut(Message, Id),
) {
    sort_by_blocks(messages, sorted);
    #[cfg(target_arch = "x86_64")]
    if crate::lanes::sha256d_each(sorted, &bytes, &mut found) {
        return;
    }
    in_pairs(sorted.iter().map(|&message| Started::new(message, bytes(message))), &mut found);
}

/// By number of blocks, the most first; everything above the longest that is expected counts as equal.
fn sort_by_blocks(messages: &[Message], sorted: &mut [Message]) {
    const KINDS: usize = LONGEST_TOGETHER / BLOCK + 2;
    let kind = |message: &Message| {
        let blocks = ((message.len as usize).saturating_add(TAIL - 1)) / BLOCK;
        KINDS - 1 - blocks.min(KINDS - 1)
    };
    let mut places = [0_usize; KINDS];
    messages.iter().for_each(|message| places[kind(message)] += 1);
    let mut next = 0;
    for place in &mut places {
        next += core::mem::replace(place, next);
    }
    for message in messages {
        let place = &mut places[kind(message)];
        if let Some(sorted) = sorted.get_mut(*place) {
            *sorted = *message;
        }
        *place += 1;
    }
}

/// A message of which some blocks may have been hashed.
pub(crate) struct Started<'a> {
    pub(crate) message: Message,
    pub(crate) state: [u32; 8],
    /// What has not been hashed yet.
    pub(crate) rest: &'a [u8],
    /// The bit that ends the message was hashed as well: only its length is left.
    pub(crate) marked: bool,
    /// Length of the whole.
    pub(crate) len: u32,
}

impl<'a> Started<'a> {
    fn new(message: Message, bytes: &'a [u8]) -> Started<'a> {
        let (len, rest) = message.cut(bytes);
        Started { message, state: START, rest, marked: false, len }
    }

    /// What is left after the whole blocks, with padding: one block or two.
    fn tail(&self) -> ([[u8; BLOCK]; 2], usize) {
        let (_, rest) = self.rest.as_chunks::<BLOCK>();
        let mut bytes = [[0; BLOCK]; 2];
        let count = if rest.len() + TAIL <= BLOCK { 1 } else { 2 };
        bytes[0][..rest.len()].copy_from_slice(rest);
        bytes[0][rest.len()] = if self.marked { 0 } else { 0x80 };
        bytes[count - 1][BLOCK - 8..].copy_from_slice(&(u64::from(self.len) * 8).to_be_bytes());
        (bytes, count)
    }
}

/// Hashes messages two at a time; `found` gets each with its double SHA-256.
pub(crate) fn in_pairs<'a>(
    mut messages: impl Iterator<Item = Started<'a>>,
    found: &mut impl FnMut(Message, Id),
) {
    while let Some(one) = messages.next() {
        match messages.next() {
            Some(other) => {
                let names = [one.message, other.message];
                names.into_iter().zip(sha256d_pair([one, other])).for_each(|(name, id)| found(name, id));
            }
            None => {
                let name = one.message;
                found(name, sha256d_alone(one));
            }
        }
    }
}

/// Double SHA-256 of two messages, block by block in turns. The SHA instructions wait for the round before; the processor
/// finds the other message's block in its window meanwhile. (More than two at a time bring nothing.)
fn sha256d_pair(mut messages: [Started<'_>; 2]) -> [Id; 2] {
    let [(one, _), (other, _)] = [0, 1].map(|at| messages[at].rest.as_chunks::<BLOCK>());
    let both = one.len().min(other.len());
    for (one, other) in one.iter().zip(other) {
        compress256(&mut messages[0].state, slice::from_ref(one));
        compress256(&mut messages[1].state, slice::from_ref(other));
    }
    compress256(&mut messages[0].state, &one[both..]);
    compress256(&mut messages[1].state, &other[both..]);
    let tails = [messages[0].tail(), messages[1].tail()];
    for at in 0..2 {
        for (message, (blocks, count)) in messages.iter_mut().zip(&tails) {
            compress256(&mut message.state, blocks[..*count].get(at).map_or(&[], slice::from_ref));
        }
    }
    sha256_again(messages.map(|message| message.state))
}

fn sha256d_alone(mut message: Started<'_>) -> Id {
    compress256(&mut message.state, message.rest.as_chunks().0);
    let (blocks, count) = message.tail();
    compress256(&mut message.state, &blocks[..count]);
    sha256(&to_bytes(message.state))
}

/// SHA-256 of two digests.
pub(crate) fn sha256_again(digests: [[u32; 8]; 2]) -> [Id; 2] {
    let mut states = [START; 2];
    for (state, digest) in states.iter_mut().zip(digests) {
        let mut block = [0; BLOCK];
        block[..32].copy_from_slice(&to_bytes(digest));
        block[32] = 0x80;
        block[BLOCK - 8..].copy_from_slice(&256_u64.to_be_bytes());
        compress256(state, slice::from_ref(&block));
    }
    states.map(to_bytes)
}

fn to_bytes(state: [u32; 8]) -> Id {
    let mut bytes = [0; 32];
    for (bytes, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    bytes
}

/// SHA-256 once: TopicID.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of two ids in a row.
pub(crate) fn sha256_pair(left: &Id, right: &Id) -> [u8; 32] {
    let mut pair = [0; 64];
    pair[..32].copy_from_slice(left);
    pair[32..].copy_from_slice(right);
    sha256(&pair)
}

/// Double SHA-256 over pieces that are not contiguous.
#[derive(Clone, Default)]
pub(crate) struct Sha256d(Sha256);

impl Sha256d {
    pub(crate) fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    pub(crate) fn finish(self) -> [u8; 32] {
        let once: [u8; 32] = self.0.finalize().into();
        sha256(&once)
    }
}

static CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// CRC-32C (Castagnoli) over pieces in a row: instance ids and manifests, never per frame.
pub fn crc32c(pieces: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest();
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;
    use std::vec::Vec;

    #[test]
    fn messages_of_every_length_hash_side_by_side_as_they_do_alone() {
        let bytes: Vec<u8> = (0..4_000_u32).map(|n| (n * 31 % 251).to_le_bytes()[0]).collect();
        let lengths = (0..300).chain([447, 448, 511, 512, 1_351, 1_536, 1_537, 3_900]).rev();
        let messages: Vec<Message> =
            (0_u32..).zip(lengths).map(|(at, len)| Message { at, from: at % 7, len }).collect();
        for count in [0, 1, 2, 15, 16, 17, 31, messages.len()] {
            let mut seen = [false; 400];
            let mut sorted = vec![Message::default(); count];
            let slice = |message: Message| &bytes[message.from as usize..][..message.len as usize];
            sha256d_each(&messages[..count], &mut sorted, slice, |message, id| {
                assert_eq!(message, messages[message.at as usize]);
                assert_eq!(id, sha256d(slice(message)), "{} bytes", message.len);
                assert!(!std::mem::replace(&mut seen[message.at as usize], true));
            });
            assert_eq!(seen.iter().filter(|seen| **seen).count(), count);
        }
    }

    #[test]
    fn what_lies_behind_a_message_is_not_hashed() {
        let bytes: Vec<u8> = (0..5_000_u32).map(|n| (n * 31 % 251).to_le_bytes()[0]).collect();
        // The last ones end where the bytes end: nothing can be loaded behind them.
        let messages: Vec<Message> =
            (0..400).map(|at| Message { at, from: 4_600 + at, len: 400 - at }).collect();
        let mut sorted = vec![Message::default(); messages.len()];
        let mut count = 0;
        sha256d_each(
            &messages,
            &mut sorted,
            |message| &bytes[message.from as usize..],
            |message, id| {
                assert_eq!(id, sha256d(&bytes[message.from as usize..][..message.len as usize]));
                count += 1;
            },
        );
        assert_eq!(count, messages.len());
        let early: Vec<Message> = (0..200).map(|at| Message { at, from: at, len: at }).collect();
        sha256d_each(
            &early,
            &mut sorted[..200],
            |message| &bytes[message.from as usize..],
            |message, id| {
                assert_eq!(id, sha256d(&bytes[message.from as usize..][..message.len as usize]));
            },
        );
    }

    #[test]
    fn two_messages_at_a_time_hash_as_one() {
        let bytes = [7; 300];
        for (one, other) in (0..300).zip((0..300).rev()) {
            let messages = [&bytes[..one], &bytes[..other]];
            let started =
                messages.map(|bytes| Started::new(Message { len: 300, ..Message::default() }, bytes));
            assert_eq!(sha256d_pair(started), messages.map(sha256d), "{one} and {other} bytes");
        }
    }
}
