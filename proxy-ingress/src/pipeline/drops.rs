//! Why a frame is not forwarded: one closed list, so that every drop has a counter and every counter a meaning.

/// Reason of a drop; [`DropReason::name`] is the label value of `bsp_packets_dropped_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The header does not decode (wire 1.0: magic, version, lengths, message type).
    Decode,
    /// The kernel cut the datagram.
    Truncated,
    /// V3 at ingress: only a proxy makes fragments.
    Fragment,
    /// V7 at ingress: only listeners make block headers.
    BlockHeader,
    /// V8: not carried yet.
    Bundle,
    /// V9 or a BEEF submission record: not carried yet.
    Object,
    /// 0x40 on the ingress port.
    Manifest,
    /// 0x30 over UDP (wire 1.10: TCP only).
    AnnounceOverUdp,
    /// Any other control message on the ingress port.
    Control,
    /// V2 that carries a SeqNum although `--allow-stamped-ingress` is off.
    Stamped,
    /// `--require-ef` and the payload is not in Extended Format.
    NotExtended,
    /// The payload is not exactly one transaction.
    NotOneTx,
    /// The payload does not hash to the id in the header.
    HashMismatch,
    /// No magic, and not exactly one transaction either.
    BareMalformed,
    /// `--require-ef` and a bare transaction is not in Extended Format.
    BareNotExtended,
    /// A block payload without a header.
    BlockMalformed,
    /// The block header does not meet its target, or the target is easier than `--min-pow-bits`.
    BlockPow,
    /// Subtree data whose counts do not fit its length.
    SubtreeMalformed,
    /// Subtree data whose nodes do not hash to the SubtreeID.
    SubtreeRoot,
    /// More than 65,535 fragments would be needed.
    FragmentOverflow,
    /// An anchor that does not fit the MTU (anchors are never fragmented, wire 1.6).
    AnchorOversize,
    /// Larger than a datagram can be, and of a kind that is not fragmented.
    Oversize,
    /// The kernel refused the frame until `--send-deadline`.
    SendRefused,
    /// The kernel refuses frames and the backlog of the interface is full.
    BacklogFull,
    /// The kernel will never take the frame (too large for the interface).
    WriteError,
}

impl DropReason {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [DropReason; 25] = {
        use DropReason::*;
        [
            Decode,
            Truncated,
            Fragment,
            BlockHeader,
            Bundle,
            Object,
            Manifest,
            AnnounceOverUdp,
            Control,
            Stamped,
            NotExtended,
            NotOneTx,
            HashMismatch,
            BareMalformed,
            BareNotExtended,
            BlockMalformed,
            BlockPow,
            SubtreeMalformed,
            SubtreeRoot,
            FragmentOverflow,
            AnchorOversize,
            Oversize,
            SendRefused,
            BacklogFull,
            WriteError,
        ]
    };

    /// Label value of the drop counter; where the Go stack has the same reason, its name.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Decode => "decode_error",
            DropReason::Truncated => "truncated",
            DropReason::Fragment => "fragment_at_ingress",
            DropReason::BlockHeader => "block_header_at_ingress",
            DropReason::Bundle => "bundle_unsupported",
            DropReason::Object => "beef_disabled",
            DropReason::Manifest => "manifest_at_ingress",
            DropReason::AnnounceOverUdp => "announce_over_udp",
            DropReason::Control => "control_at_ingress",
            DropReason::Stamped => "stamped_ingress",
            DropReason::NotExtended => "ingress_not_ef",
            DropReason::NotOneTx => "payload_not_one_tx",
            DropReason::HashMismatch => "payload_hash_mismatch",
            DropReason::BareMalformed => "bare_tx_malformed",
            DropReason::BareNotExtended => "bare_tx_not_ef",
            DropReason::BlockMalformed => "block_malformed",
            DropReason::BlockPow => "block_pow",
            DropReason::SubtreeMalformed => "subtree_malformed",
            DropReason::SubtreeRoot => "subtree_root_mismatch",
            DropReason::FragmentOverflow => "frag_overflow",
            DropReason::AnchorOversize => "anchor_oversize",
            DropReason::Oversize => "oversize",
            DropReason::SendRefused => "send_refused",
            DropReason::BacklogFull => "backlog_full",
            DropReason::WriteError => "write_error",
        }
    }

    /// Position in [`DropReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::DropReason;

    #[test]
    fn every_reason_has_its_own_name_and_place() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        for (position, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), position);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
