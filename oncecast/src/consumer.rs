//! What a consumer behind a listener does: takes records, finds out what they are, and checks them off.

use frame::block::Block;
use frame::{DataFrame, TxId};
use std::collections::HashMap;

/// Longest record taken from a stream: a frame of 64 MiB and its header.
const MAX_RECORD: usize = (64 << 20) + 1024;

/// The transaction in a record: the payload of a frame whose header was kept, or the record itself.
pub fn payload_of(record: &[u8]) -> &[u8] {
    if record.starts_with(&frame::MAGIC)
        && let Ok(frame) = DataFrame::decode(record)
    {
        return frame.payload;
    }
    record
}

/// Cuts a stream of records (u32 big-endian length, then the record).
#[derive(Default)]
pub struct RecordReader {
    buffer: Vec<u8>,
    read: usize,
}

impl RecordReader {
    /// Adds what was read from the stream.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.read > 0 && self.read == self.buffer.len() {
            self.buffer.clear();
            self.read = 0;
        } else if self.read > 1 << 20 {
            self.buffer.drain(..self.read);
            self.read = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete record; an error if the stream cannot be one of a listener.
    pub fn next_record(&mut self) -> anyhow::Result<Option<&[u8]>> {
        let rest = &self.buffer[self.read..];
        let Some(&[a, b, c, d]) = rest.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        anyhow::ensure!(len <= MAX_RECORD, "a record of {len} bytes: this is not the stream of a listener");
        if rest.len() < 4 + len {
            return Ok(None);
        }
        let at = self.read + 4;
        self.read = at + len;
        Ok(Some(&self.buffer[at..at + len]))
    }
}

/// Which transactions are expected, in the order of the block, and how often each came.
pub struct Checklist {
    expected: HashMap<TxId, usize>,
    /// (times seen, id computed from what was delivered)
    seen: Vec<u32>,
    unique: usize,
    duplicates: u64,
    others: HashMap<TxId, u32>,
    block_len: usize,
    merkle_root: Option<frame::Id>,
}

impl Checklist {
    /// Expects nothing in particular: counts what comes.
    pub fn open() -> Checklist {
        Checklist::of(Vec::new(), 0, None)
    }

    /// Expects `ids`, of which the first `block_len` are those of a block with this Merkle root, in order.
    pub fn of(ids: Vec<TxId>, block_len: usize, merkle_root: Option<frame::Id>) -> Checklist {
        let seen = vec![0; ids.len()];
        let expected = ids.into_iter().enumerate().map(|(at, id)| (id, at)).collect();
        Checklist { expected, seen, unique: 0, duplicates: 0, others: HashMap::new(), block_len, merkle_root }
    }

    /// Expects the transactions of a raw block.
    pub fn of_block(bytes: &[u8]) -> anyhow::Result<Checklist> {
        let block = Block::decode(bytes)?;
        let mut ids = Vec::new();
        for tx in block.transactions() {
            ids.push(frame::tx::canonical_txid(tx?)?);
        }
        let len = ids.len();
        Ok(Checklist::of(ids, len, Some(block.merkle_root())))
    }

    /// Takes one record. True if it was new.
    pub fn take(&mut self, record: &[u8]) -> bool {
        let Ok(id) = frame::tx::canonical_txid(payload_of(record)) else { return false };
        let times = match self.expected.get(&id) {
            Some(&at) => &mut self.seen[at],
            None => self.others.entry(id).or_default(),
        };
        *times += 1;
        if *times > 1 {
            self.duplicates += 1;
            return false;
        }
        self.unique += 1;
        true
    }

    /// Different transactions that came, expected or not.
    pub fn unique(&self) -> usize {
        self.unique
    }

    /// Deliveries beyond the first of a transaction.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Transactions that came although nobody expected them.
    pub fn unexpected(&self) -> usize {
        self.others.len()
    }

    /// Expected transactions that did not come.
    pub fn missing(&self) -> usize {
        self.seen.iter().filter(|times| **times == 0).count()
    }

    /// Which they are, in no order.
    pub fn missing_ids(&self) -> impl Iterator<Item = TxId> {
        self.expected.iter().filter(|(_, at)| self.seen[**at] == 0).map(|(id, _)| *id)
    }

    /// True once everything expected came. Costs nothing, unlike `missing`.
    pub fn missing_is_zero(&self) -> bool {
        self.expected.len() + self.others.len() == self.unique
    }

    /// The Merkle root over the ids that were computed from what was delivered, in the order of the block; compares
    /// it with the block's header. False while one is missing, or without a block.
    pub fn merkle_root_ok(&self) -> bool {
        let Some(root) = self.merkle_root else { return false };
        let mut delivered: Vec<(usize, TxId)> = self
            .expected
            .iter()
            .filter(|(_, at)| **at < self.block_len && self.seen[**at] > 0)
            .map(|(id, at)| (*at, *id))
            .collect();
        delivered.sort_unstable_by_key(|(at, _)| *at);
        let mut ids: Vec<TxId> = delivered.into_iter().map(|(_, id)| id).collect();
        ids.len() == self.block_len && frame::block::merkle_root(&mut ids) == root
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_wherever_the_stream_was_split() {
        let mut stream = Vec::new();
        for record in [&b"one"[..], b"", b"three"] {
            stream.extend_from_slice(&u32::try_from(record.len()).unwrap().to_be_bytes());
            stream.extend_from_slice(record);
        }
        let mut reader = RecordReader::default();
        let mut records = Vec::new();
        for byte in stream {
            reader.extend(&[byte]);
            while let Some(record) = reader.next_record().unwrap() {
                records.push(record.to_vec());
            }
        }
        assert_eq!(records, [b"one".to_vec(), b"".to_vec(), b"three".to_vec()]);
    }

    #[test]
    fn a_length_that_no_listener_sends_is_an_error() {
        let mut reader = RecordReader::default();
        reader.extend(&[0xFF; 8]);
        assert!(reader.next_record().is_err());
    }
}
