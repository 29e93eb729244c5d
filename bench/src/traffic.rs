//! The transactions of the real block as frames, in memory.

use anyhow::Context;
use frame::block::Block;
use frame::data::{HEADER, HeaderFields, encode_header};
use frame::{HashKey, Kind, SeqNum, tx};
use std::path::{Path, PathBuf};

/// Longest transaction whose frame fits one datagram.
const LONGEST: usize = 1_348;

/// The block that travels with the project.
pub fn block_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/block413567.raw")
}

/// Its transactions that fit one datagram.
pub fn transactions() -> anyhow::Result<Vec<Vec<u8>>> {
    let path = block_file();
    let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
    let block = Block::decode(&bytes).context("the block")?;
    let mut transactions = Vec::new();
    for transaction in block.transactions() {
        let transaction = transaction.context("a transaction of the block")?;
        if transaction.len() <= LONGEST {
            transactions.push(transaction.to_vec());
        }
    }
    Ok(transactions)
}

/// `count` frames with valid ids: the block's and derived ones. `flow` 0 leaves them unnumbered.
pub fn frames(count: usize, flow: u64) -> anyhow::Result<Vec<Vec<u8>>> {
    let base = transactions()?;
    let make = |index: usize| {
        let mut payload = base[index % base.len()].clone();
        let at = payload.len() - 4;
        let lock_time = u32::try_from(index / base.len())?;
        payload[at..].copy_from_slice(&lock_time.to_le_bytes());
        let mut frame = vec![0; HEADER];
        let fields = HeaderFields {
            kind: Kind::Tx,
            msg_type: 0,
            id: &tx::sha256d(&payload),
            hash_key: HashKey(flow),
            seq_num: SeqNum(if flow == 0 { 0 } else { index as u64 + 1 }),
            second_id: &[0; 32],
            payload_len: u32::try_from(payload.len())?,
        };
        encode_header(&fields, &mut frame).context("a header")?;
        frame.extend_from_slice(&payload);
        Ok(frame)
    };
    (0..count).map(make).collect()
}
