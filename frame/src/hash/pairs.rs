//! Double SHA-256 of two messages at a time, with the SHA instructions of the processor.
//!
//! The instructions wait for the round before. With two messages in turns the processor finds work of the other meanwhile.

use super::sha256;
use crate::Id;
use core::slice;
use sha2::block_api::compress256;

/// Block of the compression function.
pub(super) const BLOCK: usize = 64;
/// Least padding: one bit (a byte) and the length.
pub(super) const TAIL: usize = 9;
/// FIPS 180-4, section 5.3.3.
pub(super) const START: [u32; 8] =
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
    pub(super) fn cut(self, bytes: &[u8]) -> (u32, &[u8]) {
        match bytes.get(..self.len as usize) {
            Some(bytes) => (self.len, bytes),
            None => (u32::try_from(bytes.len()).unwrap_or(self.len), bytes),
        }
    }
}

/// A message of which some blocks may have been hashed.
pub(super) struct Started<'a> {
    pub(super) message: Message,
    pub(super) state: [u32; 8],
    /// What has not been hashed yet.
    pub(super) rest: &'a [u8],
    /// The bit that ends the message was hashed as well: only its length is left.
    pub(super) marked: bool,
    /// Length of the whole.
    pub(super) len: u32,
}

impl<'a> Started<'a> {
    pub(super) fn new(message: Message, bytes: &'a [u8]) -> Started<'a> {
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
pub(super) fn in_pairs<'a>(
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
pub(super) fn sha256_again(digests: [[u32; 8]; 2]) -> [Id; 2] {
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

#[cfg(test)]
mod tests {
    use super::super::sha256d;
    use super::*;

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
