//! The digests of the wire, each in one place. XXH64 is in [`crate::flow`].
//!
//! `sha2` finds the SHA instructions of the processor at run time; see [`sha256d`] for what that costs.

use crate::Id;
use crc::{CRC_32_ISCSI, Crc, Table};
use sha2::{Digest, Sha256};

/// Double SHA-256: TxID, ContentID, block hash, Merkle nodes.
///
/// Cost: with SHA instructions about 1.1 GB/s on one Zen 3 core (320 ns for a mean transaction of 349 bytes), without
/// them a quarter of that. For many messages see [`sha256d_each`].
pub fn sha256d(bytes: &[u8]) -> [u8; 32] {
    sha256(&sha256(bytes))
}

/// Longest message that is worth hashing beside others: a datagram of an ordinary link.
pub const LONGEST_TOGETHER: usize = 1_536;

/// Messages that this processor hashes side by side; 1 where [`sha256d_each`] gains nothing.
pub fn lanes() -> usize {
    #[cfg(target_arch = "x86_64")]
    if crate::lanes::is_available() {
        return crate::lanes::LANES;
    }
    1
}

/// Double SHA-256 of messages by number. Neighbours in `order` are hashed side by side for as long as the longest of
/// them takes: sort by length. `found` gets each number with its hash.
pub fn sha256d_each<'a>(
    order: impl IntoIterator<Item = u32>,
    message: impl Fn(u32) -> &'a [u8],
    mut found: impl FnMut(u32, Id),
) {
    let mut order = order.into_iter();
    #[cfg(target_arch = "x86_64")]
    {
        use crate::lanes::{LANES, sha256d};
        let mut numbers = [0; LANES];
        let mut messages: [&[u8]; LANES] = [&[]; LANES];
        while crate::lanes::is_available() {
            let mut count = 0;
            for number in order.by_ref().take(LANES) {
                (numbers[count], messages[count]) = (number, message(number));
                count += 1;
            }
            if count == 0 {
                return;
            }
            messages[count..].fill(&[]);
            let Some(ids) = sha256d(&messages) else { return };
            numbers.iter().zip(ids).take(count).for_each(|(&number, id)| found(number, id));
        }
    }
    for number in order {
        found(number, sha256d(message(number)));
    }
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
    use std::vec::Vec;

    #[test]
    fn messages_of_every_length_hash_side_by_side_as_they_do_alone() {
        let bytes: Vec<u8> = (0..1_600_u32).map(|n| (n * 31 % 251).to_le_bytes()[0]).collect();
        let lengths: Vec<usize> = (0..300).chain([447, 448, 511, 512, 1_351, 1_536]).rev().collect();
        let message = |number: u32| &bytes[number as usize % 7..][..lengths[number as usize]];
        let mut seen = 0;
        sha256d_each(0..u32::try_from(lengths.len()).unwrap(), message, |number, id| {
            assert_eq!(id, sha256d(message(number)), "{} bytes", lengths[number as usize]);
            seen += 1;
        });
        assert_eq!(seen, lengths.len());
    }
}
