//! What holds for every value and for every input: encoding and decoding are inverse, a truncated frame is refused, and
//! no bytes make a decoder panic.

#[path = "../../fuzz/src/decoders.rs"]
#[allow(unreachable_pub, reason = "the fuzz crate exports the same file")]
mod decoders;

use frame::bundle::{self, Bundle, BundleFields, Member};
use frame::control::{Ack, Advert, Extended, Nack, Response, SubtreeGroupAnnounce};
use frame::digest::{self, Digest, Entry};
use frame::fragment::{self, Cut, Fragment, Threshold};
use frame::manifest::{Domain, Groups, Identity, Manifest, ManifestFields, Successor};
use frame::object::{self, Delivery, Record};
use frame::stream::{Boundary, Limits, Stream};
use frame::subtree::{self, Cost, Form, Nodes, SubtreeData};
use frame::tee::Tee;
use frame::{
    DataFrame, Datagram, DecodeError, Fabric, GroupIndex, HashKey, Id, Kind, NO_ID, Scope, SeqNum, ShardBits,
    SourceMode, block, tx,
};
use proptest::prelude::*;
use std::fmt::Debug;
use std::net::Ipv6Addr;

const ROOM: usize = 1 << 16;

/// The bytes that `encode` writes into a large buffer.
fn encoded(encode: impl FnOnce(&mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = vec![0xA5; ROOM];
    let len = encode(&mut out).expect("fits");
    out.truncate(len);
    out
}

/// No prefix of `whole` is accepted.
fn refuses_truncation<'a, T: Debug>(whole: &'a [u8], decode: impl Fn(&'a [u8]) -> Result<T, DecodeError>) {
    for cut in 0..whole.len() {
        let result = decode(&whole[..cut]);
        assert!(result.is_err(), "accepts {cut} of {} bytes: {result:?}", whole.len());
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

fn kind_and_type() -> impl Strategy<Value = (Kind, u8)> {
    prop_oneof![
        any::<u8>().prop_map(|byte| (Kind::LegacyTx, byte)),
        any::<u8>().prop_map(|byte| (Kind::Tx, byte)),
        (1..=2u8).prop_map(|byte| (Kind::Block, byte)),
        (1..=2u8).prop_map(|byte| (Kind::Subtree, byte)),
        any::<u8>().prop_map(|byte| (Kind::Anchor, byte)),
        any::<u8>().prop_map(|byte| (Kind::BlockHeader, byte)),
        any::<u8>().prop_map(|byte| (Kind::Object, byte)),
    ]
}

proptest! {
    #[test]
    fn a_data_frame_survives_the_wire(
        (kind, msg_type) in kind_and_type(),
        ids in any::<(Id, Id)>(),
        stamp in any::<(u64, u64)>(),
        mut payload in payload(),
        tail in payload(),
    ) {
        if kind == Kind::BlockHeader {
            payload.resize(80, 0);
        }
        let numbered = kind != Kind::LegacyTx;
        let frame = DataFrame {
            kind,
            msg_type,
            id: &ids.0,
            hash_key: HashKey(if numbered { stamp.0 } else { 0 }),
            seq_num: SeqNum(if numbered { stamp.1 } else { 0 }),
            second_id: if numbered { &ids.1 } else { &NO_ID },
            payload: &payload,
        };
        let mut bytes = encoded(|out| frame.encode(out));
        prop_assert_eq!(bytes.len(), frame.wire_len());
        refuses_truncation(&bytes, DataFrame::decode);
        bytes.extend(tail);
        prop_assert_eq!(DataFrame::decode(&bytes), Ok(frame));
        prop_assert_eq!(DataFrame::decode_only(kind, &bytes), Ok(frame));
        prop_assert_eq!(Datagram::decode(&bytes), Ok(Datagram::Data(frame)));
    }

    #[test]
    fn a_fragment_survives_the_wire(
        msg_type: u8, ids in any::<(Id, Id)>(), stamp in any::<(u64, u64)>(), original_len: u32,
        (total, index) in (1..=u16::MAX).prop_flat_map(|total| (Just(total), 0..total)),
        original_version: u8, data in payload(),
    ) {
        let fragment = Fragment {
            msg_type, id: &ids.0, hash_key: HashKey(stamp.0), seq_num: SeqNum(stamp.1), second_id: &ids.1,
            original_len, index, total, original_version, data: &data,
        };
        let bytes = encoded(|out| fragment.encode(out));
        prop_assert_eq!(bytes.len(), fragment.wire_len());
        refuses_truncation(&bytes, Fragment::decode);
        prop_assert_eq!(Fragment::decode(&bytes), Ok(fragment));
    }

    #[test]
    fn a_bundle_survives_the_wire(
        with_txid: bool, ids in any::<(Id, Id)>(), stamp in any::<(u64, u64)>(), group: u16, shard_bits: u8,
        txs in prop::collection::vec(payload(), 0..8),
    ) {
        let fields = BundleFields {
            flags: u8::from(with_txid), subtree_id: &ids.0, hash_key: HashKey(stamp.0), seq_num: SeqNum(stamp.1),
            group: GroupIndex(group), shard_bits,
        };
        let members: Vec<Member<'_>> =
            txs.iter().map(|tx| Member { txid: with_txid.then_some(&ids.1), tx }).collect();
        let bytes = encoded(|out| {
            let mut writer = bundle::Writer::new(&fields, out)?;
            members.iter().try_for_each(|member| writer.push(*member))?;
            Some(writer.finish())
        });
        refuses_truncation(&bytes, Bundle::decode);
        let bundle = Bundle::decode(&bytes).expect("valid");
        prop_assert_eq!(bundle.members().collect::<Vec<_>>(), members);
        prop_assert_eq!((bundle.hash_key, bundle.seq_num, bundle.group), (fields.hash_key, fields.seq_num, fields.group));
        prop_assert_eq!((bundle.subtree_id, bundle.shard_bits, bundle.wire_len()), (&ids.0, shard_bits, bytes.len()));
    }

    #[test]
    fn control_messages_survive_the_wire(
        flags: u8, key: u64, range in any::<(u64, u64)>(), subtree_id: Id, group_id: [u8; 16],
        words in any::<(u32, u16, u16, u16, u16)>(), address in 1..u128::MAX,
    ) {
        let nack = Nack {
            flags, hash_key: HashKey(key), start: SeqNum(range.0), end: SeqNum(range.1), subtree_id,
        };
        prop_assert_eq!(Nack::decode(&nack.encode()), Ok(nack));
        refuses_truncation(&nack.encode(), Nack::decode);

        let advert = Advert {
            scope: flags, nack_addr: Ipv6Addr::from_bits(address), nack_port: words.1, tier: flags, preference: flags,
            interval_secs: words.2, flags: words.3, instance_id: words.0, max_range: words.4,
        };
        prop_assert_eq!(Advert::decode(&advert.encode()), Ok(advert));
        refuses_truncation(&advert.encode(), Advert::decode);

        let announce =
            SubtreeGroupAnnounce { flags, subtree_id, group_id, epoch: words.0, ttl_secs: words.1 };
        prop_assert_eq!(SubtreeGroupAnnounce::decode(&announce.encode()), Ok(announce));
        refuses_truncation(&announce.encode(), SubtreeGroupAnnounce::decode);
    }

    #[test]
    fn a_response_survives_the_wire(
        verdict in prop_oneof![
            Just(Ack::Miss),
            any::<(bool, bool)>().prop_map(|(multicast, unicast)| Ack::Ack { multicast, unicast }),
            (0..16u8).prop_map(|bucket| Ack::Throttled { bucket }),
        ],
        seq: u64, key: u64, start: u64, numbers in 1..=Extended::MAX_RANGE, missing: [u64; 5], is_extended: bool,
    ) {
        let start = start.saturating_sub(numbers);
        let mut extended = Extended::new(HashKey(key), SeqNum(start), SeqNum(start + numbers - 1)).expect("in bounds");
        let mut expected: Vec<SeqNum> = missing.iter().map(|i| SeqNum(start + i % numbers)).collect();
        expected.iter().for_each(|seq| extended.set_missing(*seq));
        extended.set_missing(SeqNum(start + numbers));
        expected.sort_unstable();
        expected.dedup();
        prop_assert_eq!(extended.missing().collect::<Vec<_>>(), expected);

        let response = Response { verdict, seq_num: SeqNum(seq), extended: is_extended.then_some(extended) };
        let mut out = [0xA5; Response::MAX_LEN];
        let len = response.encode(&mut out);
        prop_assert_eq!(Response::decode(&out[..len]), Ok(response));
        for cut in (0..len).filter(|cut| *cut != Response::LEN) {
            prop_assert_eq!(Response::decode(&out[..cut]), Err(DecodeError::BadResponse));
        }
        if is_extended {
            let bare = Response { extended: None, ..response };
            prop_assert_eq!(Response::decode(&out[..Response::LEN]), Ok(bare), "the bit alone means nothing");
        }
    }

    #[test]
    fn a_digest_survives_the_wire(flows in prop::collection::vec(any::<(u64, u64, u16, Id)>(), 0..20), room in 0..1200usize) {
        let entries: Vec<Entry> = flows.into_iter().map(|(key, highest, group, subtree_id)| Entry {
            hash_key: HashKey(key), highest: SeqNum(highest), group: GroupIndex(group), subtree_id,
        }).collect();
        let mut out = vec![0xA5; room];
        let (len, written) = digest::encode(&entries, &mut out);
        prop_assert!(len <= room && written <= entries.len());
        if room >= digest::HEADER {
            prop_assert!(written == entries.len() || room - len < digest::ENTRY, "as many as fit");
            let decoded: Vec<Entry> = Digest::decode(&out).expect("valid").entries().collect();
            prop_assert_eq!(&decoded, &entries[..written]);
            refuses_truncation(&out[..len], Digest::decode);
        }
    }

    #[test]
    fn a_manifest_survives_the_wire(
        words in any::<(u128, u32, u32, u16, u16, u8)>(), shard_bits in 0..=12u8, generation: [u8; 16],
        list in prop::collection::btree_set(any::<u16>(), 0..40), bitmap in prop::collection::vec(any::<u8>(), 1..40),
        as_bitmap: bool, sources in prop::collection::vec(any::<u128>(), 0..4), step in 0..=2u8, with_successor: bool,
        with_domains: bool,
    ) {
        let next = (shard_bits + step).saturating_sub(1).min(12);
        let successor = Successor { generation, shard_bits: next, flags: 1, transition_epoch: words.1 };
        let identity = Identity {
            flags: Manifest::AUTHORITATIVE, source: Ipv6Addr::from_bits(words.0), instance_id: words.1, epoch: words.2,
            ttl_secs: words.3, interval_secs: words.4, shard_bits, role: words.5, generation,
        };
        let transactions = Domain { id: 0, shard_bits, span: 1, flags: Domain::ACTIVE, version: 0, generation, successor: None };
        let next_objects = Successor { shard_bits: 14, ..successor };
        let objects = Domain {
            id: 1, shard_bits: 15, span: 8, flags: Domain::SSM | Domain::SUCCESSOR, successor: Some(next_objects),
            ..transactions
        };
        let groups: Vec<GroupIndex> = list.iter().copied().map(GroupIndex).collect();
        let sources: Vec<Ipv6Addr> = sources.into_iter().map(Ipv6Addr::from_bits).collect();
        let domains = if with_domains { vec![transactions, objects] } else { vec![] };
        let fields = ManifestFields {
            identity,
            groups: if as_bitmap { Groups::Bitmap(&bitmap) } else { Groups::List(&groups) },
            sources: &sources,
            successor: with_successor.then_some(successor),
            domains: &domains,
        };
        let mut bytes = encoded(|out| fields.encode(out));
        refuses_truncation(&bytes, Manifest::decode);
        let wire_len = bytes.len();
        bytes.push(0xFF);
        let manifest = Manifest::decode(&bytes).expect("valid");
        prop_assert_eq!(manifest.wire_len(), wire_len);
        prop_assert_eq!(manifest.successor(), fields.successor);
        prop_assert_eq!(manifest.sources().collect::<Vec<_>>(), sources.clone());
        prop_assert_eq!(manifest.domains().collect::<Vec<_>>(), domains.clone());
        let expected: Vec<GroupIndex> = if as_bitmap {
            (0..8 * bitmap.len()).filter(|i| bitmap[i / 8] >> (i % 8) & 1 == 1)
                .map(|i| GroupIndex(i.try_into().expect("small"))).collect()
        } else {
            groups.clone()
        };
        let decoded: Vec<GroupIndex> = manifest.groups().map(Iterator::collect).unwrap_or_default();
        prop_assert_eq!(decoded, expected);
        for broken in 8..wire_len {
            bytes[broken] ^= 1;
            prop_assert!(Manifest::decode(&bytes).is_err(), "byte {} is under the checksum", broken);
            bytes[broken] ^= 1;
        }
    }

    #[test]
    fn block_and_subtree_payloads_survive_the_wire(
        header in prop::collection::vec(any::<u8>(), 80), ids in prop::collection::vec(any::<Id>(), 0..6),
        totals in any::<(u64, u64)>(), coinbase: Id, fee: u64, size: u64,
    ) {
        let announce =
            block::Announce { header: header.first_chunk().expect("80 bytes"), coinbase: &coinbase, subtrees: &ids };
        let bytes = encoded(|out| announce.encode(out));
        prop_assert_eq!(block::Announce::decode(&bytes), Ok(announce));
        refuses_truncation(&bytes, block::Announce::decode);

        let full: Vec<[u8; 48]> = ids.iter().map(|id| subtree::full_node(id, Cost { fee, size })).collect();
        for (form, nodes) in [(Form::HashesOnly, Nodes::Hashes(&ids)), (Form::FullNodes, Nodes::Full(&full))] {
            let data = SubtreeData { total_fees: totals.0, total_size: totals.1, nodes, conflicts: &ids };
            let bytes = encoded(|out| data.encode(out));
            prop_assert_eq!(SubtreeData::decode(form, &bytes), Ok(data));
            refuses_truncation(&bytes, |bytes| SubtreeData::decode(form, bytes));
            let hashes: Vec<Id> = data.nodes.iter().map(|node| *node.hash).collect();
            prop_assert_eq!(&hashes, &ids);
            let costs_agree = data.nodes.iter()
                .all(|node| node.cost == (form == Form::FullNodes).then_some(Cost { fee, size }));
            prop_assert!(costs_agree);
        }
    }

    #[test]
    fn records_and_envelopes_survive_the_wire(
        topics in prop::collection::vec("[a-zé_]{1,32}", 1..=15), object in prop::collection::vec(any::<u8>(), 1..200),
        topic_id: Id, source: u128, port: u16,
    ) {
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let bytes = encoded(|out| object::encode_record(&names, &object, out));
        let record = Record::decode(&bytes).expect("valid");
        prop_assert_eq!(record.topics().collect::<Vec<_>>(), names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
        prop_assert_eq!((record.object, record.wire_len()), (&object[..], bytes.len()));
        refuses_truncation(&bytes, Record::decode);

        let delivery = Delivery { topic_id: &topic_id, payload: &object };
        let bytes = encoded(|out| delivery.encode(out));
        prop_assert_eq!(Delivery::decode(&bytes), Ok(delivery));
        refuses_truncation(&bytes, Delivery::decode);

        let tee = Tee { source: Ipv6Addr::from_bits(source), port, datagram: &object };
        let bytes = encoded(|out| tee.encode(out));
        prop_assert_eq!(Tee::decode(&bytes), Ok(tee));
        refuses_truncation(&tee.header(), Tee::decode);
    }

    #[test]
    fn fragments_of_a_plan_are_the_payload(len in 0..200_000usize, mtu in 0..=u16::MAX) {
        for threshold in [Threshold::Compatible, Threshold::WholeIfFits] {
            match fragment::cut(len, mtu, threshold) {
                Cut::Overflow => prop_assert!(len.div_ceil(usize::from(mtu) - 152) > 65_535),
                Cut::Whole => {
                    let room = usize::from(mtu).saturating_sub(fragment::WHOLE_OVERHEAD);
                    prop_assert!(mtu <= 152 || len <= room);
                }
                Cut::Fragments(plan) => {
                    let mut end = 0;
                    for index in 0..plan.total {
                        let range = plan.range(index);
                        prop_assert_eq!(range.start, end);
                        prop_assert!(!range.is_empty() && range.len() + fragment::OVERHEAD <= usize::from(mtu));
                        prop_assert!(range.len() == usize::from(plan.data_len) || index == plan.total - 1);
                        end = range.end;
                    }
                    prop_assert_eq!(end, len);
                    prop_assert!(plan.range(plan.total).is_empty());
                }
            }
        }
    }

    #[test]
    fn a_group_is_found_again_by_its_address(key: Id, bits in 0..=15u8, group_id: u16, net: u8, other: u16) {
        let bits = ShardBits::new(bits).expect("at most 15");
        let group = bits.group_of(&key);
        prop_assert!(u32::from(group.0) < bits.groups());
        for scope in [Scope::Link, Scope::Site, Scope::Organisation, Scope::Global] {
            for mode in [SourceMode::Asm, SourceMode::Ssm] {
                let Some(fabric) = Fabric::v6(mode, scope, group_id) else { continue };
                prop_assert_eq!(fabric.index_of(fabric.address(group)), Some(group));
                prop_assert!(fabric.address(group).is_multicast());
                let elsewhere = Fabric::v6(mode, scope, group_id ^ 1).expect("same combination");
                prop_assert_eq!(fabric.index_of(elsewhere.address(GroupIndex(other))), None);
            }
        }
        let fabric = Fabric::V4 { net };
        prop_assert_eq!(fabric.index_of(fabric.address(group)), Some(group));
        prop_assert_eq!(Fabric::V4 { net: net ^ 1 }.index_of(fabric.address(group)), None);
    }

    #[test]
    fn both_forms_of_a_transaction_have_one_id((raw, extended) in transaction(), tail in 1..50usize) {
        let txid = tx::canonical_txid(&raw).expect("raw bytes are hashed as they are");
        prop_assert_eq!(tx::canonical_txid(&extended), Ok(txid));
        prop_assert_eq!(tx::parse(&raw), Ok(tx::Parsed { len: raw.len(), extended: false }));
        prop_assert_eq!(tx::parse(&extended), Ok(tx::Parsed { len: extended.len(), extended: true }));
        refuses_truncation(&raw, tx::parse);
        refuses_truncation(&extended, tx::parse);
        let mut longer = extended;
        longer.resize(longer.len() + tail, 0);
        prop_assert_eq!(tx::canonical_txid(&longer), Err(DecodeError::TxTrailing));
    }

    #[test]
    fn a_stream_of_transactions_is_cut_where_they_end(
        txs in prop::collection::vec(transaction(), 1..6), chunk in 1..400usize,
    ) {
        let mut wire = Vec::new();
        let mut ends = Vec::new();
        for (i, (raw, extended)) in txs.iter().enumerate() {
            wire.extend(if i % 2 == 0 { raw } else { extended });
            ends.push(wire.len());
        }
        let mut stream = Stream::new(Limits::DEFAULT);
        let (mut start, mut found) = (0, Vec::new());
        for arrived in (chunk..wire.len() + chunk).step_by(chunk).map(|arrived| arrived.min(wire.len())) {
            while let Boundary::Message(len) = stream.boundary(&wire[start..arrived]).expect("valid") {
                start += len;
                found.push(start);
            }
        }
        prop_assert_eq!(found, ends);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in 0..Kind::ALL.len()) {
        let mut typed = bytes.clone();
        if let Some(front) = typed.get_mut(..7) {
            front[..4].copy_from_slice(&frame::MAGIC);
            front[6] = Kind::ALL[kind] as u8;
        }
        for input in [bytes, typed] {
            let accepted = decoders::exercise(&input);
            for (i, decoder) in decoders::DECODERS.iter().enumerate() {
                prop_assert_eq!(accepted >> i & 1 == 1, (decoder.run)(&input), "{}", decoder.name);
            }
        }
    }
}

/// A transaction in both forms, raw and extended.
fn transaction() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let bytes = |len: std::ops::Range<usize>| prop::collection::vec(any::<u8>(), len);
    let script = || prop_oneof![4 => bytes(0..60), 1 => bytes(250..300)];
    let input = (any::<[u8; 36]>(), script(), any::<[u8; 4]>(), any::<[u8; 8]>(), script());
    let inputs = prop::collection::vec(input, 1..5);
    let outputs = prop::collection::vec((any::<[u8; 8]>(), script()), 0..5);
    (inputs, outputs, any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(inputs, outputs, version, lock_time)| {
        let mut forms = [version.to_vec(), version.to_vec()];
        forms[1].extend([0, 0, 0, 0, 0, 0xEF]);
        for (i, form) in forms.iter_mut().enumerate() {
            put_size(form, inputs.len());
            for (outpoint, unlocking, sequence, satoshis, locking) in &inputs {
                form.extend(outpoint);
                put_script(form, unlocking);
                form.extend(sequence);
                if i == 1 {
                    form.extend(satoshis);
                    put_script(form, locking);
                }
            }
            put_size(form, outputs.len());
            for (satoshis, locking) in &outputs {
                form.extend(satoshis);
                put_script(form, locking);
            }
            form.extend(lock_time);
        }
        let [raw, extended] = forms;
        (raw, extended)
    })
}

fn put_script(out: &mut Vec<u8>, script: &[u8]) {
    put_size(out, script.len());
    out.extend(script);
}

fn put_size(out: &mut Vec<u8>, size: usize) {
    match u8::try_from(size) {
        Ok(small) if small < 0xFD => out.push(small),
        _ => {
            out.push(0xFD);
            out.extend(u16::try_from(size).expect("short script").to_le_bytes());
        }
    }
}
