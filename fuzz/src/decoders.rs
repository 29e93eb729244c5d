//! The one list of decoders that every fuzzer drives: the libFuzzer targets beside this file, `make fuzz-quick`
//! (`frame/examples/fuzz_quick.rs`) and the property tests (`frame/tests/properties.rs`).
//!
//! A decoder is driven to the end: what it accepts is walked completely, encoded again where there is an encoder, and
//! decoded once more, which must give the same view. A disagreement panics, as a crash would.

use frame::bundle::{self, Bundle, BundleFields};
use frame::control::{Advert, Nack, Response, SubtreeGroupAnnounce};
use frame::digest::{self, Digest};
use frame::flow::{Origin, Route};
use frame::fragment::{self, Fragment};
use frame::manifest::{Groups, Manifest, ManifestFields};
use frame::object::{self, Content, Delivery, Record};
use frame::stream::{Boundary, Limits, Stream};
use frame::subtree::{Form, SubtreeData};
use frame::tee::Tee;
use frame::{DataFrame, Datagram, DecodeError, Kind, ShardBits, block, hash, tx};

/// A decoder and its name.
pub struct Decoder {
    /// What the tables print.
    pub name: &'static str,
    /// True if the decoder accepted the bytes.
    pub run: fn(&[u8]) -> bool,
}

/// All of them.
pub const DECODERS: [Decoder; 21] = [
    Decoder { name: "datagram", run: datagram },
    Decoder { name: "data frame", run: data_frame },
    Decoder { name: "data frame by kind", run: data_frame_by_kind },
    Decoder { name: "fragment", run: fragment },
    Decoder { name: "bundle", run: bundle },
    Decoder { name: "nack", run: nack },
    Decoder { name: "response", run: response },
    Decoder { name: "advert", run: advert },
    Decoder { name: "subtree group announce", run: subtree_group },
    Decoder { name: "digest", run: digest },
    Decoder { name: "manifest", run: manifest },
    Decoder { name: "block announce", run: announce },
    Decoder { name: "subtree hashes", run: |bytes| subtree(Form::HashesOnly, bytes) },
    Decoder { name: "subtree full nodes", run: |bytes| subtree(Form::FullNodes, bytes) },
    Decoder { name: "submission record", run: record },
    Decoder { name: "delivery record", run: delivery },
    Decoder { name: "tee", run: tee },
    Decoder { name: "transaction", run: transaction },
    Decoder { name: "transaction in pieces", run: transaction_in_pieces },
    Decoder { name: "block", run: raw_block },
    Decoder { name: "stream", run: stream },
];

/// Puts `bytes` through every decoder; bit i of the result is set if `DECODERS[i]` accepted them.
pub fn exercise(bytes: &[u8]) -> u32 {
    DECODERS.iter().zip(0..).fold(0, |accepted, (decoder, i)| accepted | u32::from((decoder.run)(bytes)) << i)
}

/// Encodes with `encode` into a buffer of exactly `len` bytes.
fn encoded(len: usize, encode: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = vec![0xA5; len];
    assert_eq!(encode(&mut out), Some(len), "an encoder fills the declared length");
    out
}

/// The dispatcher over all types.
pub fn datagram(bytes: &[u8]) -> bool {
    let decoded = Datagram::decode(bytes);
    if let Err(error) = decoded {
        assert!(DecodeError::ALL.contains(&error));
    }
    decoded.is_ok()
}

/// V1, V2, V4, V5, V6, V7 and V9.
pub fn data_frame(bytes: &[u8]) -> bool {
    let Ok(frame) = DataFrame::decode(bytes) else { return false };
    assert!(frame.wire_len() <= bytes.len());
    let again = encoded(frame.wire_len(), |out| frame.encode(out));
    assert_eq!(DataFrame::decode(&again), Ok(frame));
    for bits in [0, 15].map(ShardBits::new) {
        let Some(bits) = bits else { continue };
        if let Some(route) = Route::of(&frame, bits, bits) {
            route.hash_key(Origin([7; 16]));
        }
    }
    let mut stamped = again;
    let has_stamp = frame::datagram::stamp(&mut stamped, frame.hash_key, frame.seq_num);
    assert_eq!(has_stamp, frame.kind != Kind::LegacyTx);
    assert_eq!(DataFrame::decode(&stamped), Ok(frame));
    let content = Content::of(frame.payload);
    object::Marker::of(content.object());
    true
}

/// The decoder of each kind against the general one.
pub fn data_frame_by_kind(bytes: &[u8]) -> bool {
    let general = DataFrame::decode(bytes).ok().map(|frame| frame.kind);
    let accepted = Kind::ALL.into_iter().find(|kind| DataFrame::decode_only(*kind, bytes).is_ok());
    assert_eq!(accepted, general);
    let transaction = DataFrame::decode_tx(bytes).is_ok();
    assert_eq!(transaction, matches!(accepted, Some(Kind::LegacyTx | Kind::Tx)));
    accepted.is_some()
}

/// V3.
pub fn fragment(bytes: &[u8]) -> bool {
    let Ok(fragment) = Fragment::decode(bytes) else { return false };
    let again = encoded(fragment.wire_len(), |out| fragment.encode(out));
    assert_eq!(Fragment::decode(&again), Ok(fragment));
    fragment::opens_slot(fragment.index, fragment.total, fragment.original_len, u32::MAX);
    if let Some(bits) = ShardBits::new(15) {
        Route::of_fragment(&fragment, bits, bits);
    }
    for mtu in [0, 152, 153, 1500, u16::MAX] {
        if let Some(plan) =
            fragment::FragmentPlan::new(usize::try_from(fragment.original_len).unwrap_or(0), mtu)
        {
            let last = plan.range(plan.total - 1);
            assert_eq!(u32::try_from(last.end), Ok(plan.payload_len));
            assert!(plan.range(fragment.index).end <= last.end);
        }
    }
    true
}

/// V8.
pub fn bundle(bytes: &[u8]) -> bool {
    let Ok(bundle) = Bundle::decode(bytes) else { return false };
    assert_eq!(bundle.members().count(), usize::from(bundle.count));
    let Bundle { flags, subtree_id, hash_key, seq_num, group, shard_bits, .. } = bundle;
    let fields = BundleFields { flags, subtree_id, hash_key, seq_num, group, shard_bits };
    let again = encoded(bundle.wire_len(), |out| {
        let mut writer = bundle::Writer::new(&fields, out)?;
        bundle.members().try_for_each(|member| writer.push(member))?;
        Some(writer.finish())
    });
    assert_eq!(Bundle::decode(&again), Ok(bundle));
    true
}

/// 0x10.
pub fn nack(bytes: &[u8]) -> bool {
    let Ok(nack) = Nack::decode(bytes) else { return false };
    assert_eq!(Nack::decode(&nack.encode()), Ok(nack));
    true
}

/// 0x11, 0x12 and 0x13, with the extension.
pub fn response(bytes: &[u8]) -> bool {
    let Ok(response) = Response::decode(bytes) else { return false };
    let mut out = [0xA5; Response::MAX_LEN];
    let len = response.encode(&mut out);
    assert_eq!(out.get(..len).map(Response::decode), Some(Ok(response)));
    if let Some(extended) = response.extended {
        assert!(extended.missing().all(|seq| extended.is_missing(seq)));
    }
    true
}

/// 0x20.
pub fn advert(bytes: &[u8]) -> bool {
    let Ok(advert) = Advert::decode(bytes) else { return false };
    assert_eq!(Advert::decode(&advert.encode()), Ok(advert));
    true
}

/// 0x30.
pub fn subtree_group(bytes: &[u8]) -> bool {
    let Ok(announce) = SubtreeGroupAnnounce::decode(bytes) else { return false };
    assert_eq!(SubtreeGroupAnnounce::decode(&announce.encode()), Ok(announce));
    true
}

/// 0x14.
pub fn digest(bytes: &[u8]) -> bool {
    let Ok(digest) = Digest::decode(bytes) else { return false };
    let entries: Vec<digest::Entry> = digest.entries().collect();
    let mut out = vec![0xA5; bytes.len()];
    let (len, written) = digest::encode(&entries, &mut out);
    assert_eq!(written, entries.len());
    assert_eq!(out.get(..len).map(Digest::decode), Some(Ok(digest)));
    true
}

/// Changed bytes hardly ever carry the right checksum, so the rules behind it are reached by writing it.
pub fn manifest(bytes: &[u8]) -> bool {
    match Manifest::decode(bytes) {
        Ok(manifest) => walk_manifest(&manifest),
        Err(DecodeError::ManifestBadCrc) => {
            let sealed = sealed(bytes);
            sealed
                .as_deref()
                .map(Manifest::decode)
                .is_some_and(|result| result.is_ok_and(|m| walk_manifest(&m)))
        }
        Err(_) => false,
    }
}

/// The bytes with the checksum of all of them at offset 44.
fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (before, after) = (bytes.get(..44)?, bytes.get(48..)?);
    let crc = hash::crc32c(&[before, &[0; 4], after]).to_be_bytes();
    Some([before, &crc, after].concat())
}

fn walk_manifest(manifest: &Manifest<'_>) -> bool {
    let groups: Vec<_> = manifest.groups().map(Iterator::collect).unwrap_or_default();
    let sources: Vec<_> = manifest.sources().collect();
    let domains: Vec<_> = manifest.domains().collect();
    let fields = ManifestFields {
        identity: manifest.identity,
        groups: match manifest.bitmap() {
            Some(bitmap) => Groups::Bitmap(bitmap),
            None => Groups::List(&groups),
        },
        sources: &sources,
        successor: manifest.successor(),
        domains: &domains,
    };
    let again = encoded(manifest.wire_len(), |out| fields.encode(out));
    let again = Manifest::decode(&again);
    assert!(again.is_ok_and(|again| again.identity == manifest.identity && again.domains().eq(domains)));
    true
}

/// BRC-131 payload, and the proof of work of its header.
pub fn announce(bytes: &[u8]) -> bool {
    if let Some(header) = bytes.first_chunk() {
        block::meets_target(header, 0x1d00_ffff);
    }
    let Ok(announce) = block::Announce::decode(bytes) else { return false };
    let len = block::ANNOUNCE_FIXED + announce.subtrees.as_flattened().len();
    let again = encoded(len, |out| announce.encode(out));
    assert_eq!(block::Announce::decode(&again), Ok(announce));
    true
}

/// BRC-132 payload.
pub fn subtree(form: Form, bytes: &[u8]) -> bool {
    let Ok(data) = SubtreeData::decode(form, bytes) else { return false };
    assert_eq!(data.nodes.iter().count(), data.nodes.len());
    let mut out = vec![0xA5; bytes.len()];
    let again = data.encode(&mut out).and_then(|len| out.get(..len));
    assert_eq!(again.map(|again| SubtreeData::decode(form, again)), Some(Ok(data)));
    true
}

/// Submission record, in one piece and as the head of a stream.
pub fn record(bytes: &[u8]) -> bool {
    let size = Record::size(bytes, u32::MAX);
    let Ok(record) = Record::decode(bytes) else {
        assert!(!matches!(size, Ok(Boundary::Message(len)) if len <= bytes.len()));
        return false;
    };
    assert_eq!(size, Ok(Boundary::Message(record.wire_len())));
    assert_eq!(record.topics().count(), usize::from(record.count));
    let names: Option<Vec<&str>> = record.topics().map(|name| std::str::from_utf8(name).ok()).collect();
    if let Some(names) = names {
        let again = encoded(record.wire_len(), |out| object::encode_record(&names, record.object, out));
        assert_eq!(Record::decode(&again), Ok(record));
    }
    true
}

/// Delivery record.
pub fn delivery(bytes: &[u8]) -> bool {
    let Ok(delivery) = Delivery::decode(bytes) else { return false };
    let again = encoded(delivery.wire_len(), |out| delivery.encode(out));
    assert_eq!(Delivery::decode(&again), Ok(delivery));
    true
}

/// TEE1 envelope.
pub fn tee(bytes: &[u8]) -> bool {
    let Ok(tee) = Tee::decode(bytes) else { return false };
    let again = encoded(bytes.len(), |out| tee.encode(out));
    assert_eq!(Tee::decode(&again), Ok(tee));
    true
}

/// Structure and canonical TxID must agree on what is one whole EF transaction.
pub fn transaction(bytes: &[u8]) -> bool {
    let parsed = tx::parse(bytes);
    if tx::is_extended(bytes) {
        let whole = parsed.is_ok_and(|parsed| parsed.len == bytes.len());
        assert_eq!(tx::canonical_txid(bytes).is_ok(), whole);
    }
    parsed.is_ok()
}

/// A scanner that sees the bytes in three pieces must end where one pass ends.
pub fn transaction_in_pieces(bytes: &[u8]) -> bool {
    let mut scanner = tx::Scanner::default();
    let mut last = Ok(Boundary::Need(1));
    for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len()] {
        let piece = bytes.get(..cut).unwrap_or(bytes);
        last = scanner.advance(piece);
        match last {
            Ok(Boundary::Need(len)) => assert!(len > piece.len()),
            Ok(Boundary::Message(_)) | Err(_) => break,
        }
    }
    match (tx::parse(bytes), last) {
        (Ok(parsed), Ok(Boundary::Message(len))) => assert_eq!(parsed.len, len),
        (Err(DecodeError::TxTruncated), Ok(Boundary::Need(_))) => {}
        (Err(error), Err(same)) => assert_eq!(error, same),
        (whole, pieces) => panic!("{whole:?} in one pass, {pieces:?} in pieces"),
    }
    matches!(last, Ok(Boundary::Message(_)))
}

/// Raw block with its transactions.
pub fn raw_block(bytes: &[u8]) -> bool {
    let Ok(block) = block::Block::decode(bytes) else { return false };
    block.transactions().all(|transaction| transaction.is_ok())
}

/// Cuts the bytes into messages as a connection would, whole and with the bytes arriving in halves.
pub fn stream(bytes: &[u8]) -> bool {
    let mut stream = Stream::new(Limits::DEFAULT);
    let mut rest = bytes;
    loop {
        let half = rest.get(..rest.len() / 2).unwrap_or(rest);
        let early = stream.clone().boundary(half);
        let boundary = stream.boundary(rest);
        if let (Ok(Boundary::Message(early)), Ok(now)) = (early, boundary) {
            assert_eq!(now, Boundary::Message(early));
        }
        match boundary {
            Ok(Boundary::Message(len)) => match rest.get(len..) {
                Some([]) => return true,
                Some(after) => rest = after,
                None => return false,
            },
            Ok(Boundary::Need(len)) => {
                assert!(len > rest.len(), "asks for bytes that are here");
                return false;
            }
            Err(_) => return false,
        }
    }
}
