//! Raw blocks and proof of work: a real block, and the edges of the compact target.

use frame::block::{Block, header_hash, meets_target, merkle_root, target};
use frame::subtree::{Nodes, SubtreeData};
use frame::{DecodeError, TxId, tx};

/// A block of the main chain.
const BLOCK: &[u8] = include_bytes!("../../tests/data/block413567.raw");

#[test]
fn the_transactions_of_a_real_block_fold_to_its_merkle_root() {
    let block = Block::decode(BLOCK).unwrap();
    let mut ids: Vec<TxId> =
        block.transactions().map(|tx| tx::canonical_txid(tx.unwrap()).unwrap()).collect();
    assert_eq!(u64::try_from(ids.len()), Ok(block.count));
    assert_eq!(merkle_root(&mut ids), block.merkle_root());
    let len: usize = block.transactions().map(|tx| tx.unwrap().len()).sum();
    assert_eq!(80 + 3 + len, BLOCK.len(), "header, count and transactions are the whole file");
}

#[test]
fn a_real_header_meets_its_own_target_and_a_changed_one_does_not() {
    let mut header = *Block::decode(BLOCK).unwrap().header;
    assert!(meets_target(&header, 0));
    assert!(meets_target(&header, 0x1D00_FFFF), "harder than the easiest of the main chain");
    assert!(!meets_target(&header, 0x1700_0001), "easier than the floor asked for");
    assert_eq!(header_hash(&header)[28..], [0; 4]);
    header[76] ^= 1;
    assert!(!meets_target(&header, 0));
}

#[test]
fn a_truncated_block_ends_with_an_error() {
    for len in [0, 79, 80, 81, 82, 100] {
        assert_eq!(Block::decode(&BLOCK[..len]).err(), Some(DecodeError::BlockTruncated), "{len} bytes");
    }
    let cut = Block::decode(&BLOCK[..BLOCK.len() - 1]).unwrap();
    assert_eq!(cut.transactions().last(), Some(Err(DecodeError::TxTruncated)));
    assert_eq!(u64::try_from(cut.transactions().count()), Ok(cut.count), "the error is the last item");
}

#[test]
fn a_count_that_the_bytes_cannot_hold_is_refused_before_it_is_walked() {
    let mut bytes = [0u8; 200];
    bytes[80..89].fill(0xFF);
    assert_eq!(Block::decode(&bytes).err(), Some(DecodeError::BlockTruncated));
    bytes[80..83].copy_from_slice(&[0xFD, 1, 0]);
    assert_eq!(Block::decode(&bytes).err(), Some(DecodeError::BlockMalformed), "a count of 1 in three bytes");
    bytes[80] = 0;
    assert_eq!(
        Block::decode(&bytes).err(),
        Some(DecodeError::BlockMalformed),
        "no block is without a coinbase"
    );
}

#[test]
fn compact_targets_decode_as_the_field_decodes_them() {
    let with = |at: usize, bytes: &[u8]| {
        let mut target = [0; 32];
        target[at..at + bytes.len()].copy_from_slice(bytes);
        Some(target)
    };
    assert_eq!(target(0x1D00_FFFF), with(4, &[0xFF, 0xFF]));
    assert_eq!(target(0x0300_1234), with(30, &[0x12, 0x34]));
    assert_eq!(target(0x0112_0000), with(31, &[0x12]), "an exponent below 3 shifts the mantissa out");
    assert_eq!(target(0x2100_FFFF), with(0, &[0xFF, 0xFF]), "zeros may pass the top");
    assert_eq!(target(0x2200_00FF), with(0, &[0xFF]));
    for (bits, why) in [
        (0x0000_0000, "zero"),
        (0x1D00_0000, "zero mantissa"),
        (0x0100_1234, "shifted out altogether"),
        (0x1D80_FFFF, "negative"),
        (0x2101_0000, "above 256 bits"),
        (0x2200_0100, "above 256 bits"),
        (0x2300_0001, "above 256 bits"),
        (0xFF7F_FFFF, "far above 256 bits"),
    ] {
        assert_eq!(target(bits), None, "{bits:08x} is {why}");
    }
}

#[test]
fn a_header_with_an_impossible_target_never_meets_it() {
    let mut header = *Block::decode(BLOCK).unwrap().header;
    for bits in [0u32, 0x1D80_FFFF, 0xFF7F_FFFF] {
        header[72..76].copy_from_slice(&bits.to_le_bytes());
        assert!(!meets_target(&header, 0), "{bits:08x}");
    }
    let real = *Block::decode(BLOCK).unwrap().header;
    assert!(!meets_target(&real, 0x1D80_FFFF), "nor an impossible floor");
}

#[test]
fn merkle_roots_pair_the_last_of_an_odd_level_with_itself() {
    let id = |byte| TxId([byte; 32]);
    let pair = |left: [u8; 32], right: [u8; 32]| frame::hash::sha256d(&[left, right].concat());
    assert_eq!(merkle_root(&mut []), [0; 32]);
    assert_eq!(merkle_root(&mut [id(1)]), [1; 32]);
    let (ab, cc) = (pair([1; 32], [2; 32]), pair([3; 32], [3; 32]));
    assert_eq!(merkle_root(&mut [id(1), id(2)]), ab);
    assert_eq!(merkle_root(&mut [id(1), id(2), id(3)]), pair(ab, cc));
}

#[test]
fn a_subtree_has_a_root_unless_a_node_stands_twice() {
    let leaves = [[1; 32], [2; 32], [3; 32]];
    let data =
        |nodes| SubtreeData { total_fees: 0, total_size: 0, nodes: Nodes::Hashes(nodes), conflicts: &[] };
    let root = merkle_root(&mut leaves.map(TxId));
    assert_eq!(data(&leaves).root(&mut [TxId::default(); 3]), Some(root));
    let repeated = [leaves[0], leaves[1], leaves[2], leaves[2]];
    assert_eq!(merkle_root(&mut repeated.map(TxId)), root);
    assert_eq!(data(&repeated).root(&mut [TxId::default(); 4]), None);
    assert_eq!(data(&leaves).root(&mut [TxId::default(); 2]), None);
}
