//! Why a decoder refuses: one enum, with the names that the field already uses.

use core::fmt;

/// One table: documentation, variant, name.
macro_rules! decode_errors {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a datagram, record or transaction was refused. [`DecodeError::name`] is what counters use as `reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum DecodeError {
            $($(#[$doc])* $variant,)*
        }

        impl DecodeError {
            /// Every error, for tables of counters: `ALL[e as usize] == e`.
            pub const ALL: &'static [DecodeError] = &[$(DecodeError::$variant,)*];

            /// The field's name for the error, as in `docs/wire.md` and the vectors (`ErrTooShort`, …).
            pub const fn name(self) -> &'static str {
                match self {
                    $(DecodeError::$variant => $name,)*
                }
            }
        }
    };
}

decode_errors! {
    /// Shorter than the header of its type.
    TooShort = "ErrTooShort",
    /// The first four bytes are not the magic.
    BadMagic = "ErrBadMagic",
    /// Byte 6 is not a version this decoder reads.
    BadVersion = "ErrBadVer",
    /// FragTotal is 0 or FragIndex is not below it.
    BadFragment = "ErrBadFrag",
    /// V4 with a MsgType other than 1 and 2.
    BadBlockMsg = "ErrBadBlockMsg",
    /// V5 with a MsgType other than 1 and 2.
    BadSubtreeMsg = "ErrBadSubtreeMsg",
    /// V7 whose PayloadLen is not 80.
    BadBlockHeaderLen = "ErrBadBlockHeaderLen",
    /// The declared length is longer than what is left.
    UnexpectedEof = "ErrUnexpectedEOF",

    /// A BRC-131 payload ends before its list of subtrees (byte 116).
    AnnounceTooShort = "block announce payload too short (<116)",
    /// A BRC-131 payload ends inside its list of subtrees.
    AnnounceSubtrees = "block announce payload too short for subtrees",
    /// A BRC-132 payload ends before its nodes (byte 24).
    SubtreeTooShort = "subtree payload too short (<24)",
    /// A BRC-132 payload ends inside its nodes, or before the ConflictCount.
    SubtreeNodes = "subtree payload too short for nodes",
    /// A BRC-132 payload ends inside its conflicts.
    SubtreeConflicts = "subtree payload too short for conflicts",

    /// V8 shorter than 66 bytes.
    BundleTooShort = "bundle.ErrTooShort",
    /// V8 without the magic.
    BundleBadMagic = "bundle.ErrBadMagic",
    /// The bundle decoder was given another version.
    BundleBadVersion = "bundle.ErrBadVer",
    /// The member section, or a member in it, passes the end.
    BundleTruncated = "bundle.ErrTruncated",
    /// The members end before PayloadLen says so.
    BundleCountMismatch = "bundle.ErrCountMismatch",

    /// A submission or delivery record that more bytes may complete.
    RecordShort = "objfmt.ErrShort",
    /// A submission or delivery record that no further bytes can make valid.
    RecordMalformed = "objfmt.ErrMalformed",

    /// BRC-127 shorter than 64 bytes.
    SubtreeGroupTooShort = "ErrSubtreeGroupAnnounceTooShort",
    /// The BRC-127 decoder was given another type.
    SubtreeGroupBadType = "subtree_announce: wrong MsgType (anonymous error)",

    /// BRC-139 shorter than 64 bytes.
    ManifestTooShort = "ErrShardManifestTooShort",
    /// The manifest decoder was given another type.
    ManifestBadType = "ErrShardManifestBadMsgType",
    /// A manifest with more than 12 shard bits.
    ManifestBadShardBits = "ErrShardManifestBadShardBits",
    /// Group flag, counts and list of a manifest disagree.
    ManifestBadEncoding = "ErrShardManifestBadEncoding",
    /// Source flag and count of a manifest disagree.
    ManifestBadSources = "ErrShardManifestBadSources",
    /// A successor without authority, out of bounds, or more than one bit away.
    ManifestBadSuccessor = "ErrShardManifestBadSuccessor",
    /// A manifest ends before its declared lists do.
    ManifestTruncated = "ErrShardManifestTruncated",
    /// The domain section of a manifest breaks a rule of wire 1.11.
    ManifestBadDomains = "ErrShardManifestBadDomains",
    /// The checksum of a manifest does not match.
    ManifestBadCrc = "ErrShardManifestBadCRC",

    /// Not a NACK: length, magic or type.
    BadNack = "ErrBadNACK",
    /// Not an ACK, MISS or THROTTLED: length, magic, type, or a broken extension.
    BadResponse = "ErrBadResponse",
    /// Not an ADVERT: length, magic, type or an all-zero address.
    BadAdvert = "ErrBadADVERT",
    /// Not a flow digest: length, magic, type or count.
    BadDigest = "ErrBadDigest",
    /// Not a TEE1 envelope: length, magic or version.
    BadTee = "ErrBadTee",

    /// The transaction ends early: more bytes may complete it.
    TxTruncated = "ErrTxTruncated",
    /// No further bytes can make this a transaction.
    TxMalformed = "ErrTxMalformed",
    /// Bytes follow a transaction that should have ended its payload.
    TxTrailing = "ErrTxTrailing",
    /// A block file ends before its transactions do.
    BlockTruncated = "ErrBlockTruncated",
    /// The transaction count of a block is not a minimal CompactSize.
    BlockMalformed = "ErrBlockMalformed",

    /// A length above the limit that the caller set.
    TooLong = "ErrTooLong",
    /// The first bytes of a stream, or of a message in it, fit no grammar.
    BadStream = "ErrBadStream",
}

impl fmt::Display for DecodeError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl core::error::Error for DecodeError {}
