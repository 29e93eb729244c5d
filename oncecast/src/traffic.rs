//! Transactions to send: from a block, from hex, and derived ones beyond.
//!
//! Derived transactions are those of the file with another lock time: valid structure, new TxID, real sizes.

use anyhow::{Context, bail};
use frame::TxId;
use frame::block::Block;
use std::io::Read;
use std::path::Path;

/// A list of base transactions and how far to go past it.
pub struct Traffic {
    base: Vec<Vec<u8>>,
    count: usize,
}

impl Traffic {
    /// `count` transactions: the base list, then derived ones; `None` = the base list once.
    pub fn new(base: Vec<Vec<u8>>, count: Option<usize>) -> anyhow::Result<Traffic> {
        if base.is_empty() {
            bail!("the input holds no transaction; give a raw block, or hexadecimal transactions one a line");
        }
        if let Some(short) = base.iter().find(|tx| tx.len() < 10) {
            bail!("a transaction of {} bytes is too short to be one (10 is the least)", short.len());
        }
        let count = count.unwrap_or(base.len());
        Ok(Traffic { base, count })
    }

    /// Whatever bytes the lines of these files hold in hexadecimal; nothing is derived from them.
    pub fn raw(files: &[String]) -> anyhow::Result<Traffic> {
        let mut base = Vec::new();
        for file in files {
            let text = std::fs::read_to_string(file).with_context(|| format!("file {file}"))?;
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                base.push(hex::decode(line.trim()).with_context(|| format!("file {file}: not hexadecimal"))?);
            }
        }
        anyhow::ensure!(!base.is_empty(), "no line of hexadecimal bytes in {files:?}");
        Ok(Traffic { count: base.len(), base })
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Length of the input, without what is derived from it.
    pub fn base_len(&self) -> usize {
        self.base.len()
    }

    /// Writes transaction `index` into `out` (cleared first).
    pub fn write(&self, index: usize, out: &mut Vec<u8>) {
        out.clear();
        let round = index / self.base.len();
        out.extend_from_slice(&self.base[index % self.base.len()]);
        if round > 0 {
            add_to_lock_time(out, round);
        }
    }

    /// TxID of transaction `index`; `scratch` is overwritten.
    pub fn txid(&self, index: usize, scratch: &mut Vec<u8>) -> anyhow::Result<TxId> {
        self.write(index, scratch);
        frame::tx::canonical_txid(scratch).with_context(|| format!("transaction {index} of the input"))
    }
}

/// Adds `round` to the lock time, the last four bytes of a transaction, so that its id changes.
pub fn add_to_lock_time(tx: &mut [u8], round: usize) {
    let Some(at) = tx.len().checked_sub(4) else { return };
    let old = u32::from_le_bytes([tx[at], tx[at + 1], tx[at + 2], tx[at + 3]]);
    #[allow(clippy::cast_possible_truncation, reason = "the lock time wraps on purpose")]
    tx[at..].copy_from_slice(&old.wrapping_add(round as u32).to_le_bytes());
}

/// Reads one input: a file with a raw block or with hex lines, `-` for standard input, or a transaction in hex.
pub fn read_input(input: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    if input == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
        return parse_input(&bytes).context("standard input");
    }
    let path = Path::new(input);
    if path.exists() {
        let bytes = std::fs::read(path).with_context(|| format!("file {input}"))?;
        return parse_input(&bytes).with_context(|| format!("file {input}"));
    }
    if !input.is_empty() && input.bytes().all(|b| b.is_ascii_hexdigit()) {
        return parse_hex(input.as_bytes());
    }
    bail!("{input:?} is neither an existing file nor a transaction in hexadecimal nor `-` (standard input)")
}

/// All transactions of a raw block.
pub fn block_transactions(bytes: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let block = Block::decode(bytes).context("not a raw block (80-byte header, count, transactions)")?;
    block.transactions().map(|tx| Ok(tx.context("a transaction of the block")?.to_vec())).collect()
}

fn parse_input(bytes: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    let is_text = bytes.iter().all(|b| b.is_ascii_hexdigit() || b.is_ascii_whitespace());
    if is_text { parse_hex(bytes) } else { block_transactions(bytes) }
}

fn parse_hex(text: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
    text.split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .enumerate()
        .map(|(at, word)| {
            let tx =
                hex::decode(word).with_context(|| format!("transaction {} is not hexadecimal", at + 1))?;
            let parsed = frame::tx::parse(&tx).with_context(|| format!("transaction {}", at + 1))?;
            if parsed.len != tx.len() {
                bail!("transaction {} ends after {} of its {} bytes", at + 1, parsed.len, tx.len());
            }
            Ok(tx)
        })
        .collect()
}

/// Builds the unstamped V2 frame of a transaction into `out`.
pub fn frame_transaction(tx: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
    let txid = frame::tx::canonical_txid(tx)?;
    let payload_len = u32::try_from(tx.len()).context("a transaction longer than 4 GiB cannot be framed")?;
    out.clear();
    out.resize(frame::data::HEADER, 0);
    let fields = frame::data::HeaderFields {
        kind: frame::Kind::Tx,
        msg_type: 0,
        id: &txid.0,
        hash_key: frame::HashKey(0),
        seq_num: frame::SeqNum(0),
        second_id: &[0; 32],
        payload_len,
    };
    frame::data::encode_header(&fields, out).context("header buffer")?;
    out.extend_from_slice(tx);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TX: &str = "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff00ffffffff0100f2052a010000000000000000";

    #[test]
    fn derived_transactions_differ_only_in_the_lock_time_and_have_new_ids() {
        let traffic = Traffic::new(read_input(TX).unwrap(), Some(3)).unwrap();
        let (mut first, mut second, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
        traffic.write(0, &mut first);
        traffic.write(1, &mut second);
        assert_eq!(first[..first.len() - 4], second[..second.len() - 4]);
        let ids: std::collections::HashSet<_> =
            (0..3).map(|i| traffic.txid(i, &mut scratch).unwrap()).collect();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn an_input_that_is_no_transaction_is_refused_with_its_name() {
        let error = read_input("no/such/file").unwrap_err().to_string();
        assert!(error.contains("no/such/file"), "{error}");
        assert!(parse_hex(b"abc").is_err());
    }
}
