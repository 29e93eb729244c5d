//! First stage: is this datagram (or TCP message) a frame that the fabric carries, and is its id its own?
//!
//! Everything that can refuse a frame happens here, before it costs a claim or a number: kind, header, size and fragment
//! count, then the payload's hash. An [`Admitted`] of fixed size describes what passes; the bytes stay where they are.
//!
//! Cost: one walk over the transaction and one double SHA-256 of the payload; nothing is copied. Only the check of a
//! subtree root takes memory, bounded by the length of the payload.

use crate::drops::DropReason;
use frame::data::DataFrame;
use frame::fragment::FragmentPlan;
use frame::hash::LONGEST_TOGETHER;
use frame::subtree::{Form, SubtreeData};
use frame::{DecodeError, HashKey, Id, Kind, Label, NO_ID, SeqNum, TxId, Variant, block, tx};
use txidset::{ClaimKey, Class};

/// Longest UDP payload over IPv6 without jumbograms: what one datagram can carry.
pub const MAX_DATAGRAM: usize = 65_487;
/// IPv6 and UDP headers.
pub const IP_UDP: u16 = 48;

/// How a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// A datagram; trailing bytes are possible.
    Udp,
    /// A message cut out of a stream.
    Tcp,
}

/// What the operator allows. One value for all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `--verify-payload-hash`.
    pub verify_payload_hash: bool,
    /// `--verify-subtree-root`.
    pub verify_subtree_root: bool,
    /// `--require-block-pow`.
    pub require_block_pow: bool,
    /// `--min-pow-bits`, compact form, 0 = no floor.
    pub min_pow_bits: u32,
    /// `--require-ef`.
    pub require_ef: bool,
    /// `--allow-stamped-ingress`.
    pub allow_stamped_ingress: bool,
    /// `--frag-mtu`, 0 = frames are never fragmented.
    pub frag_mtu: u16,
    /// Not `--variants=0`: a frame with bytes that its id does not prove is claimed with those, too.
    pub variants: bool,
}

impl Default for Policy {
    /// The defaults of the options.
    fn default() -> Policy {
        Policy {
            verify_payload_hash: true,
            verify_subtree_root: true,
            require_block_pow: true,
            min_pow_bits: 0,
            require_ef: false,
            allow_stamped_ingress: false,
            frag_mtu: 1_500,
            variants: true,
        }
    }
}

impl Policy {
    /// Longest frame that leaves as one datagram of the configured MTU.
    pub fn max_whole(&self) -> usize {
        match self.frag_mtu {
            0 => MAX_DATAGRAM,
            mtu => usize::from(mtu.saturating_sub(IP_UDP)),
        }
    }
}

/// How the frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As one datagram.
    Whole,
    /// As fragments (V3).
    Cut(FragmentPlan),
}

/// A frame that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// What the frame is; a bare transaction is [`Kind::Tx`].
    pub kind: Kind,
    /// Byte 7.
    pub msg_type: u8,
    /// TxID, ContentID or SubtreeID.
    pub id: Id,
    /// Offset 56.
    pub second_id: Id,
    /// Flow key and number that the sender set, zeros if none.
    pub preset: (HashKey, SeqNum),
    /// The bytes are a payload without a header.
    pub bare: bool,
    /// Offset of the payload in the bytes; 0 for a bare transaction.
    pub payload_at: u16,
    /// Bytes of the frame without what trails it.
    pub len: u32,
    /// How it leaves.
    pub shape: Shape,
    /// Its id does not prove all its bytes ([`outside`]).
    pub outside: bool,
    /// It leaves in standard form, which has so many bytes of payload.
    pub standard: Option<u32>,
}

/// What of a frame its id does not prove, and how it leaves without that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outside {
    /// Name of those bytes.
    pub variant: Id,
    standard_len: u32,
    standard_shape: Shape,
}

/// A frame that passed, and what of it its id does not prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What it is.
    pub frame: Admitted,
    /// `None`: its id proves all of it.
    pub outside: Option<Outside>,
}

impl Admitted {
    /// What is claimed before the frame is sent; `None` for kinds that bypass claims (V1, 0x30).
    pub fn claim_key(&self) -> Option<ClaimKey> {
        let class = match self.kind {
            Kind::Tx => Class::Tx,
            Kind::Anchor => Class::Anchor,
            Kind::Block => Class::Block(self.msg_type),
            Kind::Subtree => Class::Subtree(self.msg_type),
            _ => return None,
        };
        Some(ClaimKey { class, id: self.id })
    }

    /// From now on it leaves without what its id does not prove: extension and label. `false`: a frame of this kind has no
    /// such form.
    pub(super) fn reduce(&mut self, outside: &Outside) -> bool {
        if !matches!(self.kind, Kind::Tx | Kind::Anchor) {
            return false;
        }
        (self.second_id, self.shape, self.standard) =
            (NO_ID, outside.standard_shape, Some(outside.standard_len));
        true
    }

    /// Whether the frame takes a number of its flow.
    pub fn is_numbered(&self) -> bool {
        self.claim_key().is_some()
    }
}

/// Checks one datagram or message.
pub fn admit(policy: &Policy, bytes: &[u8], via: Via) -> Result<Admitted, DropReason> {
    admit_hashed(policy, bytes, via, None)
}

/// As [`admit`], and what of the frame its id does not prove.
pub fn judge(policy: &Policy, bytes: &[u8], via: Via) -> Result<Judged, DropReason> {
    let frame = admit(policy, bytes, via)?;
    Ok(Judged { frame, outside: outside(policy, &frame, bytes) })
}

/// What of an admitted frame its id does not prove. Costs a hash of those bytes where there are any, and else nothing.
pub fn outside(policy: &Policy, frame: &Admitted, bytes: &[u8]) -> Option<Outside> {
    if !frame.outside {
        return None;
    }
    let whole = if frame.bare {
        let (hash_key, seq_num) = frame.preset;
        let (kind, msg_type, id, second_id) = (frame.kind, frame.msg_type, &frame.id, &frame.second_id);
        DataFrame { kind, msg_type, id, hash_key, seq_num, second_id, payload: bytes }
    } else {
        DataFrame::decode(bytes).ok()?
    };
    let Variant { id, standard_len } = Variant::of(&whole, Label::Counts)?;
    // It is not longer than the frame, so it leaves in some shape.
    let standard_shape =
        shape(policy, frame.kind, whole.header_len() + standard_len, standard_len).unwrap_or(frame.shape);
    let standard_len = u32::try_from(standard_len).ok()?;
    Some(Outside { variant: id, standard_len, standard_shape })
}

/// Where the transaction lies in a datagram whose hash [`admit_hashed`] can be told: raw, whole, and short.
pub fn transaction_to_hash(bytes: &[u8]) -> Option<std::ops::Range<usize>> {
    if bytes.len() > LONGEST_TOGETHER || !matches!(Kind::of(bytes), Ok(Kind::Tx | Kind::LegacyTx)) {
        return None;
    }
    let frame = DataFrame::decode(bytes).ok()?;
    (!tx::is_extended(frame.payload)).then(|| frame.header_len()..frame.wire_len())
}

/// As [`admit`]; `hash` is the double SHA-256 of [`transaction_to_hash`], where it is known.
pub fn admit_hashed(
    policy: &Policy,
    bytes: &[u8],
    via: Via,
    hash: Option<TxId>,
) -> Result<Admitted, DropReason> {
    match Kind::of(bytes) {
        Ok(kind) => admit_kind(policy, kind, bytes, via, hash),
        Err(DecodeError::BadMagic) if !bytes.starts_with(&[0xBE, 0xEF]) => admit_bare(policy, bytes),
        Err(DecodeError::BadMagic) => Err(DropReason::Object),
        Err(_) => Err(DropReason::Decode),
    }
}

fn admit_kind(
    policy: &Policy,
    kind: Kind,
    bytes: &[u8],
    via: Via,
    hash: Option<TxId>,
) -> Result<Admitted, DropReason> {
    match kind {
        Kind::LegacyTx | Kind::Tx | Kind::Anchor | Kind::Block | Kind::Subtree => {
            let frame = DataFrame::decode(bytes).map_err(|_| DropReason::Decode)?;
            admit_data(policy, &frame, hash)
        }
        Kind::SubtreeGroupAnnounce if via == Via::Tcp => admit_announce(bytes),
        Kind::SubtreeGroupAnnounce => Err(DropReason::AnnounceOverUdp),
        Kind::Fragment => Err(DropReason::Fragment),
        Kind::BlockHeader => Err(DropReason::BlockHeader),
        Kind::Bundle => Err(DropReason::Bundle),
        Kind::Object => Err(DropReason::Object),
        Kind::Manifest => Err(DropReason::Manifest),
        _ => Err(DropReason::Control),
    }
}

fn admit_announce(bytes: &[u8]) -> Result<Admitted, DropReason> {
    let length = frame::SubtreeGroupAnnounce::LEN;
    if bytes.len() < length {
        return Err(DropReason::Decode);
    }
    Ok(Admitted {
        kind: Kind::SubtreeGroupAnnounce,
        msg_type: 0,
        id: [0; 32],
        second_id: [0; 32],
        preset: Default::default(),
        bare: false,
        outside: false,
        payload_at: 0,
        len: u32::try_from(length).map_err(|_| DropReason::Oversize)?,
        shape: Shape::Whole,
        standard: None,
    })
}

/// Cheap checks first, then size, then the hash.
fn admit_data(policy: &Policy, frame: &DataFrame<'_>, hash: Option<TxId>) -> Result<Admitted, DropReason> {
    let preset = (frame.hash_key, frame.seq_num);
    if frame.kind == Kind::Tx && preset.1 != SeqNum(0) && !policy.allow_stamped_ingress {
        return Err(DropReason::Stamped);
    }
    let is_tx = matches!(frame.kind, Kind::LegacyTx | Kind::Tx);
    if is_tx && policy.require_ef && !tx::is_extended(frame.payload) {
        return Err(DropReason::NotExtended);
    }
    let shape = shape(policy, frame.kind, frame.wire_len(), frame.payload.len())?;
    verify(policy, frame, hash)?;
    Ok(Admitted {
        kind: frame.kind,
        msg_type: frame.msg_type,
        id: *frame.id,
        second_id: *frame.second_id,
        preset,
        bare: false,
        outside: policy.variants && !Variant::is_plain(frame, Label::Counts),
        payload_at: u16::try_from(frame.header_len()).map_err(|_| DropReason::Oversize)?,
        len: u32::try_from(frame.wire_len()).map_err(|_| DropReason::Oversize)?,
        shape,
        standard: None,
    })
}

/// A payload without a header: exactly one transaction, reframed as an unstamped V2 when it leaves.
fn admit_bare(policy: &Policy, bytes: &[u8]) -> Result<Admitted, DropReason> {
    let parsed = tx::parse(bytes).map_err(|_| DropReason::BareMalformed)?;
    if parsed.len != bytes.len() {
        return Err(DropReason::BareMalformed);
    }
    if policy.require_ef && !parsed.extended {
        return Err(DropReason::BareNotExtended);
    }
    let shape = shape(policy, Kind::Tx, frame::data::HEADER + bytes.len(), bytes.len())?;
    let id = tx::canonical_txid(bytes).map_err(|_| DropReason::BareMalformed)?;
    Ok(Admitted {
        kind: Kind::Tx,
        msg_type: 0,
        id: id.0,
        second_id: [0; 32],
        preset: Default::default(),
        bare: true,
        outside: policy.variants && parsed.extended,
        payload_at: 0,
        len: u32::try_from(bytes.len()).map_err(|_| DropReason::Oversize)?,
        shape,
        standard: None,
    })
}

/// Size, fragment count and MTU. A frame is sent whole where it fits (wire 9.3.33).
fn shape(policy: &Policy, kind: Kind, whole: usize, payload: usize) -> Result<Shape, DropReason> {
    if whole <= policy.max_whole() {
        return Ok(Shape::Whole);
    }
    match kind {
        Kind::Anchor => Err(DropReason::AnchorOversize),
        Kind::LegacyTx if whole <= MAX_DATAGRAM => Ok(Shape::Whole),
        Kind::LegacyTx => Err(DropReason::Oversize),
        _ if policy.frag_mtu == 0 => Err(DropReason::Oversize),
        _ => FragmentPlan::new(payload, policy.frag_mtu).map(Shape::Cut).ok_or(DropReason::FragmentOverflow),
    }
}

/// Whether the payload is what the id says.
fn verify(policy: &Policy, frame: &DataFrame<'_>, hash: Option<TxId>) -> Result<(), DropReason> {
    match (frame.kind, frame.msg_type) {
        (Kind::Block, 1) => verify_block(policy, frame),
        (Kind::Subtree, _) if policy.verify_subtree_root => verify_subtree(frame),
        (Kind::Subtree, _) => Ok(()),
        _ if policy.verify_payload_hash => verify_tx(frame, hash),
        _ => Ok(()),
    }
}

fn verify_tx(frame: &DataFrame<'_>, hash: Option<TxId>) -> Result<(), DropReason> {
    match tx::parse(frame.payload) {
        Ok(parsed) if parsed.len == frame.payload.len() => {}
        _ => return Err(DropReason::NotOneTx),
    }
    match hash.map_or_else(|| tx::canonical_txid(frame.payload), Ok) {
        Ok(id) if id.0 == *frame.id => Ok(()),
        Ok(_) => Err(DropReason::HashMismatch),
        Err(_) => Err(DropReason::NotOneTx),
    }
}

/// A BRC-144 body and a BRC-131 body have only the header in common (wire 1.4).
fn verify_block(policy: &Policy, frame: &DataFrame<'_>) -> Result<(), DropReason> {
    if !policy.verify_payload_hash && !policy.require_block_pow {
        return Ok(());
    }
    let header = frame.payload.first_chunk::<80>().ok_or(DropReason::BlockMalformed)?;
    if policy.verify_payload_hash && block::header_hash(header) != *frame.id {
        return Err(DropReason::HashMismatch);
    }
    if policy.require_block_pow && !block::meets_target(header, policy.min_pow_bits) {
        return Err(DropReason::BlockPow);
    }
    Ok(())
}

/// The nodes must hash to the SubtreeID.
fn verify_subtree(frame: &DataFrame<'_>) -> Result<(), DropReason> {
    let form = Form::of(frame.msg_type).ok_or(DropReason::Decode)?;
    let data = SubtreeData::decode(form, frame.payload).map_err(|_| DropReason::SubtreeMalformed)?;
    match data.root(&mut vec![TxId::default(); data.nodes.len()]) {
        Some(root) if root == *frame.id => Ok(()),
        _ => Err(DropReason::SubtreeRoot),
    }
}
