//! Names of claims and records in tier 2.

use crate::key::{ClaimKey, Class};

/// `--claim-keys`: how ids appear in keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum KeyStyle {
    /// 64 lower-case hex digits, as the Go nodes write: needed where they share the store.
    #[default]
    #[cfg_attr(feature = "clap", value(name = "go"))]
    Hex,
    /// 32 raw bytes after one byte of class: about half the store's memory.
    Compact,
}

/// Builds the keys of one gate.
///
/// The prefix names the fabric (ingress gate, `bsp:tx:`) or the consumer (egress gate, `bsl:egr:<deployment>:`).
/// Transactions: prefix and id. Other classes: the prefix without a trailing `tx:`, then `<class>[:<kind>]:` and id.
/// Records and what else is kept: the same base, a word (`rec:`, `end:`, `node:`, `pos:`, `fabric:`) and a name.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: Vec<u8>,
    style: KeyStyle,
    /// Length of the prefix without a trailing `tx:`.
    base: usize,
}

/// A link of a chain of takeovers: whose unsettled claim is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Owner of the claim.
    pub owner: u64,
    /// Its epoch.
    pub epoch: u32,
}

impl Names {
    /// `prefix` as configured.
    pub fn new(prefix: &[u8], style: KeyStyle) -> Names {
        let base = prefix.strip_suffix(b"tx:").map_or(prefix.len(), <[u8]>::len);
        Names { prefix: prefix.to_vec(), style, base }
    }

    /// Appends the key of a claim; `chain` is empty unless claims are taken over.
    pub fn claim(&self, key: &ClaimKey, chain: &[Holder], out: &mut Vec<u8>) {
        match self.style {
            KeyStyle::Hex => self.hex_claim(key, out),
            KeyStyle::Compact => self.compact_claim(key, out),
        }
        for holder in chain {
            let (owner, epoch) = (holder.owner.to_be_bytes(), holder.epoch.to_be_bytes());
            match self.style {
                KeyStyle::Hex => {
                    out.push(b':');
                    push_hex(out, &owner);
                    out.push(b':');
                    push_hex(out, &epoch);
                }
                KeyStyle::Compact => {
                    out.extend_from_slice(&owner);
                    out.extend_from_slice(&epoch);
                }
            }
        }
    }

    /// Appends the key of an owner's record.
    pub fn record(&self, owner: u64, out: &mut Vec<u8>) {
        self.tagged(0xFF, "rec:", &owner.to_be_bytes(), out);
    }

    /// Appends the key that says that an owner's process has ended.
    pub fn end_notice(&self, owner: u64, out: &mut Vec<u8>) {
        self.tagged(0xFE, "end:", &owner.to_be_bytes(), out);
    }

    /// Appends the key under which the process at `place` lists its owners.
    pub fn node(&self, place: &[u8], out: &mut Vec<u8>) {
        self.tagged(0xFD, "node:", place, out);
    }

    /// Appends the key of the positions of a consumer's workers with this index.
    pub fn positions(&self, index: u16, out: &mut Vec<u8>) {
        self.tagged(0xFC, "pos:", &index.to_be_bytes(), out);
    }

    /// Appends the key that says whose prefix this is.
    pub fn fabric(&self, out: &mut Vec<u8>) {
        self.tagged(0xFB, "fabric:", &[], out);
    }

    fn tagged(&self, tag: u8, word: &str, name: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix[..self.base]);
        match self.style {
            KeyStyle::Hex => {
                out.extend_from_slice(word.as_bytes());
                push_hex(out, name);
            }
            KeyStyle::Compact => {
                out.push(tag);
                out.extend_from_slice(name);
            }
        }
    }

    fn hex_claim(&self, key: &ClaimKey, out: &mut Vec<u8>) {
        if key.class == Class::Tx {
            out.extend_from_slice(&self.prefix);
        } else {
            out.extend_from_slice(&self.prefix[..self.base]);
            out.extend_from_slice(key.class.label().as_bytes());
            out.push(b':');
            if let Some(kind) = key.class.kind() {
                push_decimal(out, kind);
                out.push(b':');
            }
        }
        push_hex(out, &key.id);
    }

    fn compact_claim(&self, key: &ClaimKey, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix[..self.base]);
        #[allow(clippy::cast_possible_truncation, reason = "six classes")]
        let class = key.class.index() as u8;
        out.push(class);
        out.extend(key.class.kind());
        out.extend_from_slice(&key.id);
    }
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

fn push_decimal(out: &mut Vec<u8>, number: u8) {
    for place in [100, 10, 1] {
        if number >= place || place == 1 {
            out.push(b'0' + number / place % 10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(prefix: &str, style: KeyStyle, class: Class, chain: &[Holder]) -> String {
        let mut out = Vec::new();
        Names::new(prefix.as_bytes(), style).claim(&ClaimKey { class, id: [0xAB; 32] }, chain, &mut out);
        match style {
            KeyStyle::Hex => String::from_utf8(out).unwrap(),
            KeyStyle::Compact => out.len().to_string(),
        }
    }

    #[test]
    fn a_transaction_has_the_key_of_the_go_nodes() {
        let id = "ab".repeat(32);
        assert_eq!(name("bsp:tx:", KeyStyle::Hex, Class::Tx, &[]), format!("bsp:tx:{id}"));
        assert_eq!(name("bsl:egr:pair:", KeyStyle::Hex, Class::Tx, &[]), format!("bsl:egr:pair:{id}"));
    }

    #[test]
    fn other_classes_have_keys_of_their_own() {
        let id = "ab".repeat(32);
        assert_eq!(name("bsp:tx:", KeyStyle::Hex, Class::Anchor, &[]), format!("bsp:anchor:{id}"));
        assert_eq!(name("bsp:tx:", KeyStyle::Hex, Class::Block(2), &[]), format!("bsp:block:2:{id}"));
        assert_eq!(name("bsp:tx:", KeyStyle::Hex, Class::Object(205), &[]), format!("bsp:object:205:{id}"));
        assert_eq!(
            name("bsl:egr:pair:", KeyStyle::Hex, Class::Subtree(1), &[]),
            format!("bsl:egr:pair:subtree:1:{id}")
        );
        let variant = |class: Class| name("bsp:tx:", KeyStyle::Hex, class.variant(), &[]);
        assert_eq!(variant(Class::Tx), format!("bsp:variant:0:{id}"));
        assert_eq!(variant(Class::Anchor), format!("bsp:variant:16:{id}"));
        assert_eq!(variant(Class::Subtree(2)), format!("bsp:variant:50:{id}"));
    }

    #[test]
    fn a_takeover_names_the_claim_it_takes_over() {
        let chain = [Holder { owner: 0x1122, epoch: 7 }];
        let id = "ab".repeat(32);
        assert_eq!(
            name("bsp:tx:", KeyStyle::Hex, Class::Tx, &chain),
            format!("bsp:tx:{id}:0000000000001122:00000007")
        );
        assert_eq!(name("bsp:tx:", KeyStyle::Compact, Class::Tx, &chain), (4 + 1 + 32 + 12).to_string());
    }
}
