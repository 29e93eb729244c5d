//! Why a frame is not forwarded: one closed list, so that every drop has a counter and every counter a meaning.

service::reasons! {
    /// Reason of a drop; its name is the label value of `bsp_packets_dropped_total`; where the Go stack has the same reason,
    /// its name.
    pub enum DropReason {
        /// The header does not decode (wire 1.0: magic, version, lengths, message type).
        keeps Decode = "decode_error",
        /// The kernel cut the datagram.
        keeps Truncated = "truncated",
        /// V3 at ingress: only a proxy makes fragments.
        keeps Fragment = "fragment_at_ingress",
        /// V7 at ingress: only listeners make block headers.
        keeps BlockHeader = "block_header_at_ingress",
        /// V8: not carried yet.
        keeps Bundle = "bundle_unsupported",
        /// V9 or a BEEF submission record: not carried yet.
        keeps Object = "beef_disabled",
        /// 0x40 on the ingress port.
        keeps Manifest = "manifest_at_ingress",
        /// 0x30 over UDP (wire 1.10: TCP only).
        keeps AnnounceOverUdp = "announce_over_udp",
        /// Any other control message on the ingress port.
        keeps Control = "control_at_ingress",
        /// V2 that carries a SeqNum although `--allow-stamped-ingress` is off.
        keeps Stamped = "stamped_ingress",
        /// `--require-ef` and the payload is not in Extended Format.
        keeps NotExtended = "ingress_not_ef",
        /// The payload is not exactly one transaction.
        keeps NotOneTx = "payload_not_one_tx",
        /// The payload does not hash to the id in the header.
        keeps HashMismatch = "payload_hash_mismatch",
        /// No magic, and not exactly one transaction either.
        keeps BareMalformed = "bare_tx_malformed",
        /// `--require-ef` and a bare transaction is not in Extended Format.
        keeps BareNotExtended = "bare_tx_not_ef",
        /// A block payload without a header.
        keeps BlockMalformed = "block_malformed",
        /// The block header does not meet its target, or the target is easier than `--min-pow-bits`.
        keeps BlockPow = "block_pow",
        /// Subtree data whose counts do not fit its length.
        keeps SubtreeMalformed = "subtree_malformed",
        /// Subtree data whose nodes do not hash to the SubtreeID.
        keeps SubtreeRoot = "subtree_root_mismatch",
        /// More than 65,535 fragments would be needed.
        keeps FragmentOverflow = "frag_overflow",
        /// An anchor that does not fit the MTU (anchors are never fragmented, wire 1.6).
        keeps AnchorOversize = "anchor_oversize",
        /// Larger than a datagram can be, and of a kind that is not fragmented.
        keeps Oversize = "oversize",
        /// The kernel refused the frame until `--send-deadline`.
        loses SendRefused = "send_refused",
        /// The kernel refuses frames and the backlog of the interface is full.
        loses BacklogFull = "backlog_full",
        /// No emit interface could send until `--send-deadline`, or the last one lost its carrier behind the frame.
        loses NoCarrier = "no_carrier",
        /// The kernel will never take the frame (too large for the interface).
        loses WriteError = "write_error",
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
