//! V5 payload: subtree data (wire 1.5).
//!
//! Counts are u64 on the wire, and lengths are their multiples. All of that is checked: a count of 2^59 is a payload that is
//! too short, not a length that wrapped to zero.

use crate::block::merkle_root;
use crate::{DecodeError, Id, TxId, field};

const FIXED: usize = 24;
const COUNT: usize = 8;
const FULL_NODE: usize = 48;

/// What a node of the payload holds, by the frame's MsgType.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// MsgType 1: 32-byte hashes.
    HashesOnly,
    /// MsgType 2: hash, fee, size.
    FullNodes,
}

impl Form {
    /// By byte 7 of the frame.
    pub fn of(msg_type: u8) -> Option<Form> {
        match msg_type {
            1 => Some(Form::HashesOnly),
            2 => Some(Form::FullNodes),
            _ => None,
        }
    }
}

/// The nodes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes<'a> {
    /// [`Form::HashesOnly`].
    Hashes(&'a [Id]),
    /// [`Form::FullNodes`]: hash, fee u64, size u64.
    Full(&'a [[u8; 48]]),
}

/// One node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node<'a> {
    /// TxID.
    pub hash: &'a Id,
    /// Fee and size, if the form has them.
    pub cost: Option<Cost>,
}

/// What a transaction pays and takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Satoshis.
    pub fee: u64,
    /// Bytes.
    pub size: u64,
}

impl<'a> Nodes<'a> {
    fn decode(form: Form, bytes: &'a [u8], count: usize) -> Option<(Nodes<'a>, usize)> {
        Some(match form {
            Form::HashesOnly => {
                let nodes = bytes.as_chunks().0.get(..count)?;
                (Nodes::Hashes(nodes), nodes.as_flattened().len())
            }
            Form::FullNodes => {
                let nodes = bytes.as_chunks().0.get(..count)?;
                (Nodes::Full(nodes), nodes.as_flattened().len())
            }
        })
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        match self {
            Nodes::Hashes(nodes) => nodes.len(),
            Nodes::Full(nodes) => nodes.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let nodes = *self;
        (0..nodes.len()).map_while(move |i| nodes.at(i))
    }

    fn at(&self, i: usize) -> Option<Node<'a>> {
        match self {
            Nodes::Hashes(nodes) => Some(Node { hash: nodes.get(i)?, cost: None }),
            Nodes::Full(nodes) => {
                let node = nodes.get(i)?;
                let cost = Cost { fee: field::u64(node, 32)?, size: field::u64(node, 40)? };
                Some(Node { hash: field::id(node, 0)?, cost: Some(cost) })
            }
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match self {
            Nodes::Hashes(nodes) => nodes.as_flattened(),
            Nodes::Full(nodes) => nodes.as_flattened(),
        }
    }
}

/// The 48 bytes of a full node, for building a payload.
pub fn full_node(hash: &Id, cost: Cost) -> [u8; 48] {
    let mut out = [0; FULL_NODE];
    out[..32].copy_from_slice(hash);
    out[32..40].copy_from_slice(&cost.fee.to_be_bytes());
    out[40..].copy_from_slice(&cost.size.to_be_bytes());
    out
}

/// BRC-132 payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubtreeData<'a> {
    /// Satoshis.
    pub total_fees: u64,
    /// Bytes of all transactions.
    pub total_size: u64,
    /// The transactions.
    pub nodes: Nodes<'a>,
    /// Those of them that conflict.
    pub conflicts: &'a [Id],
}

impl<'a> SubtreeData<'a> {
    /// Checks the parts in order; bytes after the conflicts are tolerated.
    pub fn decode(form: Form, payload: &'a [u8]) -> Result<SubtreeData<'a>, DecodeError> {
        let short = DecodeError::SubtreeTooShort;
        let (fixed, rest) = payload.split_first_chunk::<FIXED>().ok_or(short)?;
        let count = field::u64(fixed, 16).ok_or(short)?;
        let in_nodes = DecodeError::SubtreeNodes;
        let count = usize::try_from(count).map_err(|_| in_nodes)?;
        let (nodes, len) = Nodes::decode(form, rest, count).ok_or(in_nodes)?;
        let rest = rest.get(len..).ok_or(in_nodes)?;
        let (conflict_count, rest) = rest.split_first_chunk::<COUNT>().ok_or(in_nodes)?;
        let in_conflicts = DecodeError::SubtreeConflicts;
        let conflict_count =
            usize::try_from(u64::from_be_bytes(*conflict_count)).map_err(|_| in_conflicts)?;
        Ok(SubtreeData {
            total_fees: field::u64(fixed, 0).ok_or(short)?,
            total_size: field::u64(fixed, 8).ok_or(short)?,
            nodes,
            conflicts: rest.as_chunks().0.get(..conflict_count).ok_or(in_conflicts)?,
        })
    }

    /// Merkle root over the nodes. A list whose end is repeated folds to the same root, so it proves nothing: `None` where
    /// a node stands twice, and where `room` is not as long as the nodes. Cost: a sort and a hash a node.
    pub fn root(&self, room: &mut [TxId]) -> Option<Id> {
        if room.len() != self.nodes.len() {
            return None;
        }
        let fill = |room: &mut [TxId]| {
            room.iter_mut().zip(self.nodes.iter()).for_each(|(id, node)| *id = TxId(*node.hash));
        };
        fill(room);
        room.sort_unstable();
        if room.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        fill(room);
        Some(merkle_root(room))
    }

    /// Writes the payload to the front of `out`; returns its length, `None` if `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let (nodes, conflicts) = (self.nodes.bytes(), self.conflicts.as_flattened());
        let len = FIXED + nodes.len() + COUNT + conflicts.len();
        let (fixed, rest) = out.get_mut(..len)?.split_first_chunk_mut::<FIXED>()?;
        fixed[..8].copy_from_slice(&self.total_fees.to_be_bytes());
        fixed[8..16].copy_from_slice(&self.total_size.to_be_bytes());
        fixed[16..].copy_from_slice(&u64::try_from(self.nodes.len()).ok()?.to_be_bytes());
        let (node_bytes, rest) = rest.split_at_mut(nodes.len());
        let (count, conflict_bytes) = rest.split_at_mut(COUNT);
        node_bytes.copy_from_slice(nodes);
        count.copy_from_slice(&u64::try_from(self.conflicts.len()).ok()?.to_be_bytes());
        conflict_bytes.copy_from_slice(conflicts);
        Some(len)
    }
}
