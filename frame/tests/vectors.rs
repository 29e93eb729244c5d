//! Every section of the wire vectors against this crate: each field of each decoded frame, each encoder byte for byte,
//! each malformed input by the name of its error.
//!
//! The file is `tests/data/vectors.json`, or the one named by `ONCECAST_VECTORS`. Sections, types, decoders and fields
//! that are not known here fail the test: nothing is skipped in silence.

#![allow(clippy::unwrap_used, reason = "a vector that cannot be read has to fail the test")]

use frame::bundle::{Bundle, BundleFields, Member, Writer};
use frame::control::{Ack, Advert, Nack, Response, SubtreeGroupAnnounce};
use frame::flow::{self, Origin, Route, StampPolicy, Stamping};
use frame::fragment::{self, Cut, Fragment, FragmentFields, Threshold};
use frame::manifest::{Groups, Manifest, ManifestFields, Successor};
use frame::object::{self, Content, Delivery, Record};
use frame::stream::{Boundary, Limits, Stream};
use frame::subtree::{self, Form, SubtreeData};
use frame::tee::Tee;
use frame::{
    DataFrame, Datagram, DecodeError, Fabric, GroupIndex, HashKey, Id, Kind, NO_ID, Scope, SeqNum, ShardBits,
    SourceMode, block, cache_key, group, hash, tx,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};

/// Checks one section and returns the number of items in it.
type Section = fn(&Value) -> usize;

const SECTIONS: [(&str, Section); 17] = [
    ("meta", meta),
    ("selftest", selftest),
    ("transactions", transactions),
    ("frames", frames),
    ("beef", beef),
    ("teewire_genB", teewire),
    ("hashkey", hashkey),
    ("group_derivation", group_derivation),
    ("control_groups", control_groups),
    ("plane_derivation_genB", plane_derivation),
    ("stamping", stamping),
    ("fragmentation", fragmentation),
    ("reassembly_admission", reassembly_admission),
    ("tcp_stream", tcp_stream),
    ("malformed", malformed),
    ("retry_server", retry_server),
    ("cache_key", cache_keys),
];

#[test]
fn every_vector_of_every_section_holds() {
    let path = std::env::var_os("ONCECAST_VECTORS")
        .unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vectors.json").into());
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let vectors: Map<String, Value> = serde_json::from_str(&text).unwrap();
    let mut total = 0;
    for (name, value) in &vectors {
        let (_, check) =
            SECTIONS.iter().find(|(known, _)| known == name).unwrap_or_else(|| panic!("section {name}?"));
        let items = check(value);
        println!("{name}: {items}");
        assert!(items > 0, "section {name} is empty");
        total += items;
    }
    for (name, _) in SECTIONS {
        assert!(vectors.contains_key(name), "section {name} is missing");
    }
    println!("total: {total}");
}

// ---- reading the file ----

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

fn text<'v>(item: &'v Value, key: &str) -> &'v str {
    item[key].as_str().unwrap_or_else(|| panic!("no text {key} in {item}"))
}

fn number(item: &Value, key: &str) -> u64 {
    item[key].as_u64().unwrap_or_else(|| panic!("no number {key} in {item}"))
}

fn small<T: TryFrom<u64>>(item: &Value, key: &str) -> T {
    T::try_from(number(item, key)).unwrap_or_else(|_| panic!("{key} out of range in {item}"))
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn bytes(item: &Value, key: &str) -> Vec<u8> {
    unhex(text(item, key))
}

fn id(item: &Value, key: &str) -> Id {
    bytes(item, key).try_into().unwrap_or_else(|_| panic!("{key} is no id in {item}"))
}

fn id_or_zeros(item: &Value, key: &str) -> Id {
    if item[key].is_null() { NO_ID } else { id(item, key) }
}

fn key(item: &Value, key: &str) -> HashKey {
    HashKey(u64::from_str_radix(text(item, key), 16).unwrap())
}

/// An id of which only the first bytes matter.
fn padded(prefix: &[u8]) -> Id {
    let mut id = NO_ID;
    id[..prefix.len()].copy_from_slice(prefix);
    id
}

fn origin(item: &Value) -> Origin {
    let address = text(item, "sender").split('%').next().unwrap();
    Origin::from(address.parse::<IpAddr>().unwrap())
}

fn key_hex(key: HashKey) -> String {
    format!("{:016x}", key.0)
}

/// `pat(n, seed)` of the vectors.
fn pattern(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| u8::try_from((31 * i + 17 * seed + (i >> 8)) % 256).unwrap()).collect()
}

/// Fails unless `keys` are all that an object has.
fn only(item: &Value, keys: &[&str]) {
    for name in item.as_object().unwrap().keys() {
        assert!(keys.contains(&name.as_str()), "unknown key {name} in {item}");
    }
}

/// Every field that the file expects is one we have, with the same value.
fn same_fields(expected: &Value, ours: &Value, context: &str) {
    for (name, want) in expected.as_object().unwrap_or_else(|| panic!("{context}: no fields")) {
        let have = ours.get(name).unwrap_or_else(|| panic!("{context}: unknown field {name}"));
        assert_eq!(have, want, "{context}: {name}");
    }
}

// ---- small sections ----

fn meta(meta: &Value) -> usize {
    assert_eq!(bytes(meta, "magic"), frame::MAGIC);
    assert_eq!(bytes(meta, "proto_ver"), frame::PROTOCOL);
    2
}

fn selftest(section: &Value) -> usize {
    only(section, &["xxh64_seed0", "crc32c", "sha256d", "pattern", "instance_id"]);
    for item in list(&section["xxh64_seed0"]) {
        let input = bytes(item, "input_hex");
        assert_eq!(xxhash_rust::xxh64::xxh64(&input, 0), key(item, "digest").0, "{item}");
    }
    for item in list(&section["crc32c"]) {
        let crc = hash::crc32c(&[&bytes(item, "input_hex")]);
        assert_eq!(format!("{crc:08x}"), text(item, "crc"));
    }
    for item in list(&section["sha256d"]) {
        assert_eq!(hash::sha256d(&bytes(item, "input_hex")), id(item, "digest"));
    }
    for item in list(&section["pattern"]) {
        let made = pattern(small(item, "n"), small(item, "seed"));
        match item.get("hex") {
            Some(_) => assert_eq!(made, bytes(item, "hex")),
            None => assert_eq!(hash::sha256(&made), id(item, "sha256")),
        }
    }
    for item in list(&section["instance_id"]) {
        let id = Advert::instance_id_of(text(item, "name"));
        let crc = u32::from_str_radix(text(item, "crc32c"), 16).unwrap();
        assert_eq!(id, crc.max(1), "{item}");
    }
    section.as_object().unwrap().values().map(|items| list(items).len()).sum()
}

fn transactions(section: &Value) -> usize {
    only(section, &["note", "items"]);
    for item in list(&section["items"]) {
        let (raw, ef) = (bytes(item, "raw"), bytes(item, "ef"));
        let txid = id(item, "txid");
        assert_eq!(tx::canonical_txid(&raw).unwrap().0, txid);
        assert_eq!(tx::canonical_txid(&ef).unwrap().0, txid);
        assert_eq!(hash::sha256d(&ef), id(item, "sha256d_of_ef"));
        assert_eq!(json!(tx::is_extended(&raw)), item["is_ef_raw"]);
        assert_eq!(json!(tx::is_extended(&ef)), item["is_ef_ef"]);
        for (form, extended) in [(&raw, false), (&ef, true)] {
            assert_eq!(tx::parse(form), Ok(tx::Parsed { len: form.len(), extended }));
            for cut in 0..form.len() {
                assert_eq!(tx::parse(&form[..cut]), Err(DecodeError::TxTruncated), "cut at {cut}");
            }
        }
    }
    list(&section["items"]).len()
}

fn hashkey(section: &Value) -> usize {
    for item in list(section) {
        let origin = origin(item);
        let group = GroupIndex(small(item, "group_idx"));
        let subtree = id(item, "subtree_id");
        assert_eq!(origin.0[..], bytes(item, "sender16"), "{item}");
        assert_eq!(flow::hash_input(origin, group, &subtree)[..], bytes(item, "input_hex"), "{item}");
        assert_eq!(flow::hash_key(origin, group, &subtree), key(item, "hash_key"), "{item}");
    }
    list(section).len()
}

fn cache_keys(section: &Value) -> usize {
    for item in list(section) {
        let seq = SeqNum(number(item, "seq"));
        let made = cache_key(key(item, "hash_key"), seq);
        assert_eq!(made[..], bytes(item, "key"));
        assert_eq!(
            made[8..],
            bytes(item, "cross_instance_dedup_key"),
            "the reference's key is the number alone"
        );
    }
    list(section).len()
}

fn teewire(section: &Value) -> usize {
    for item in list(section) {
        let envelope = bytes(item, "hex");
        let source: SocketAddrV6 = text(item, "source").parse().unwrap();
        let tee = Tee::decode(&envelope).unwrap();
        assert_eq!((tee.source, tee.port), (*source.ip(), source.port()));
        Datagram::decode(tee.datagram).unwrap();
        let mut out = vec![0; envelope.len()];
        assert_eq!(tee.encode(&mut out), Some(envelope.len()));
        assert_eq!(out, envelope);
    }
    list(section).len()
}

// ---- groups ----

/// Fabric by the names of the file: scope (`site`, …) and mode (`asm`, `ssm`).
fn fabric(scope: &str, mode: &str, group_id: u16) -> Fabric {
    let scope = match scope {
        "link" => Scope::Link,
        "site" => Scope::Site,
        "org" | "organisation" | "organization" => Scope::Organisation,
        "global" => Scope::Global,
        other => panic!("scope {other}?"),
    };
    let mode = match mode {
        "asm" => SourceMode::Asm,
        "ssm" => SourceMode::Ssm,
        other => panic!("mode {other}?"),
    };
    Fabric::v6(mode, scope, group_id).unwrap()
}

/// The fabric whose addresses begin with this prefix.
fn fabric_with_prefix(prefix: &[u8], group_id: u16) -> Fabric {
    let scopes = [Scope::Link, Scope::Site, Scope::Organisation, Scope::Global];
    scopes
        .iter()
        .flat_map(|scope| [SourceMode::Asm, SourceMode::Ssm].map(|mode| Fabric::v6(mode, *scope, group_id)))
        .flatten()
        .find(|fabric| octets(fabric.address(GroupIndex(0)))[..2] == *prefix)
        .unwrap_or_else(|| panic!("prefix {prefix:02x?}?"))
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => panic!("{address} in an IPv6 fabric"),
    }
}

fn group_derivation(section: &Value) -> usize {
    for item in list(section) {
        let bits = ShardBits::new(small(item, "shard_bits")).unwrap();
        let index = bits.group_of(&padded(&bytes(item, "txid_prefix")));
        assert_eq!(index, GroupIndex(small(item, "group_idx")), "{item}");
        let group_id = u16::from_str_radix(text(item, "group_id"), 16).unwrap();
        let fabric = fabric_with_prefix(&bytes(item, "prefix"), group_id);
        let address = fabric.address(index);
        assert_eq!(octets(address)[..], bytes(item, "addr_hex"), "{item}");
        assert_eq!(address, text(item, "addr").parse::<IpAddr>().unwrap());
        assert_eq!(fabric.index_of(address), Some(index));
    }
    list(section).len()
}

fn control_groups(section: &Value) -> usize {
    for item in list(section) {
        let index = match text(item, "name") {
            "BlockHeader" => GroupIndex::BLOCK_HEADER,
            "SubtreeData" => GroupIndex::SUBTREE_DATA,
            "SubtreeGroupAnnounce" => GroupIndex::SUBTREE_GROUP_ANNOUNCE,
            "Beacon" => GroupIndex::BEACON,
            "BlockBroadcast" => GroupIndex::BLOCK_BROADCAST,
            other => panic!("control group {other}?"),
        };
        assert_eq!(format!("{:04x}", index.0), text(item, "idx"));
        let mut addresses = 0;
        for (name, address) in item.as_object().unwrap() {
            let Some((scope, mode)) = name.split_once('_') else { continue };
            let fabric = fabric(scope, mode, Fabric::DEFAULT_GROUP_ID);
            let address: IpAddr = address.as_str().unwrap().parse().unwrap();
            assert_eq!(fabric.address(index), address, "{item}");
            addresses += 1;
        }
        assert!(addresses > 0, "{item}");
    }
    list(section).len()
}

fn plane_derivation(section: &Value) -> usize {
    for item in list(section) {
        let prefix = bytes(item, "key_prefix");
        if !item["topic"].is_null() {
            assert_eq!(object::topic_id(text(item, "topic"))[..prefix.len()], prefix, "{item}");
        }
        let bits = ShardBits::new(small(item, "shard_bits")).unwrap();
        let index = group::plane(small(item, "domain"), bits, &padded(&prefix)).unwrap();
        assert_eq!(format!("{:04x}", index.0), text(item, "group_idx"), "{item}");
        for (name, address) in item.as_object().unwrap() {
            let Some((scope, mode)) = name.strip_prefix("addr_").and_then(|name| name.split_once('_')) else {
                continue;
            };
            let expected: IpAddr = address.as_str().unwrap().parse().unwrap();
            assert_eq!(fabric(scope, mode, Fabric::DEFAULT_GROUP_ID).address(index), expected, "{item}");
        }
    }
    list(section).len()
}

// ---- frames ----

fn frames(section: &Value) -> usize {
    let mut exact = 0;
    let mut count = 0;
    for (kind, items) in section.as_object().unwrap() {
        assert!(!list(items).is_empty(), "frames.{kind} is empty");
        for item in list(items) {
            let datagram = bytes(item, "hex");
            assert_eq!(datagram.len(), small::<usize>(item, "len"), "{item}");
            let context = format!("frames.{kind} {}", text(item, "name"));
            let encoded = check_frame(item, &datagram, &context);
            assert_eq!(encoded, canonical(&datagram, encoded.len()), "{context}: encoded");
            exact += usize::from(encoded == datagram);
            count += 1;
        }
    }
    println!("frames encoded byte for byte: {exact} of {count}, the others without tail and ignored bytes");
    assert!(exact > 0);
    count
}

/// The declared bytes of a datagram, with zeros (and the protocol number) in the bytes that nobody validates and
/// no view keeps.
fn canonical(datagram: &[u8], wire_len: usize) -> Vec<u8> {
    let mut canonical = datagram[..wire_len].to_vec();
    canonical[4..6].copy_from_slice(&frame::PROTOCOL);
    match Kind::of(datagram).unwrap() {
        Kind::Fragment => canonical[101..104].fill(0),
        Kind::Bundle => canonical[59] = 0,
        Kind::Advert => canonical[38..].fill(0),
        Kind::SubtreeGroupAnnounce => canonical[62..].fill(0),
        _ => {}
    }
    canonical
}

/// Compares all that the file says of a frame; returns what the encoder makes of it.
fn check_frame(item: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let expected = &item["decoded"];
    let decoder = text(item, "decoder");
    Datagram::decode(datagram).unwrap_or_else(|error| panic!("{context}: dispatcher: {error}"));
    match decoder {
        "frame.Decode" => check_data(item, DataFrame::decode_tx(datagram), context),
        "frame.DecodeBlock" => check_data(item, DataFrame::decode_only(Kind::Block, datagram), context),
        "frame.DecodeSubtreeData" => {
            check_data(item, DataFrame::decode_only(Kind::Subtree, datagram), context)
        }
        "frame.DecodeAnchor" => check_data(item, DataFrame::decode_only(Kind::Anchor, datagram), context),
        "frame.DecodeBlockHeader" => {
            check_data(item, DataFrame::decode_only(Kind::BlockHeader, datagram), context)
        }
        "frame.DecodeBEEF" => check_data(item, DataFrame::decode_only(Kind::Object, datagram), context),
        "frame.DecodeFragment" => check_fragment(item, datagram, context),
        "bundle.Decode" => check_bundle(expected, datagram, context),
        "frame.DecodeSubtreeGroupAnnounce" => check_subtree_group(expected, datagram, context),
        "frame.DecodeShardManifest" => check_manifest(expected, datagram, context),
        "nack.Decode" => check_nack(expected, datagram, context),
        "nack.DecodeResponse(genB)" => check_response(expected, datagram, context),
        "discovery.DecodeADVERT" => check_advert(expected, datagram, context),
        other => panic!("{context}: decoder {other}?"),
    }
}

fn check_data(item: &Value, decoded: Result<DataFrame<'_>, DecodeError>, context: &str) -> Vec<u8> {
    let frame = decoded.unwrap_or_else(|error| panic!("{context}: {error}"));
    same_fields(&item["decoded"], &data_fields(&frame), context);
    if let Some(expected) = item.get("is_ef") {
        assert_eq!(json!(tx::is_extended(frame.payload)), *expected, "{context}");
        assert_eq!(tx::canonical_txid(frame.payload).unwrap().0, *frame.id, "{context}");
    }
    if let Some(expected) = item.get("payload_decoded") {
        check_payload(&frame, expected, context);
    }
    if frame.kind == Kind::Object {
        check_object(&frame, context);
    }
    let bits = ShardBits::new(item["shard_bits"].as_u64().unwrap_or(0).try_into().unwrap()).unwrap();
    let route = Route::of(&frame, bits, bits).unwrap();
    if !item["shard_bits"].is_null() {
        assert_eq!(route.destination, GroupIndex(small(item, "group_idx")), "{context}");
    }
    check_flow(item, frame.hash_key, route, context);
    let mut out = vec![0; frame.wire_len()];
    assert_eq!(frame.encode(&mut out), Some(out.len()), "{context}");
    assert_eq!(DataFrame::decode(&out), Ok(frame), "{context}");
    out
}

/// Where the file names sender and group, the HashKey follows from them.
fn check_flow(item: &Value, hash_key: HashKey, route: Route<'_>, context: &str) {
    if item["sender"].is_null() || hash_key.0 == 0 {
        return;
    }
    let group = GroupIndex(small(item, "group_idx"));
    assert_eq!(flow::hash_key(origin(item), group, route.flow_subtree), hash_key, "{context}");
}

fn data_fields(frame: &DataFrame<'_>) -> Value {
    let mut fields = json!({
        "version": frame.kind as u8,
        "byte7": frame.msg_type,
        "hash_key": key_hex(frame.hash_key),
        "seq_num": frame.seq_num.0,
        "payload_len": frame.payload.len(),
        "payload": hex::encode(frame.payload),
    });
    let (id, second) = (json!(hex::encode(frame.id)), json!(hex::encode(frame.second_id)));
    match frame.kind {
        Kind::LegacyTx | Kind::Tx | Kind::Anchor => (fields["txid"], fields["subtree_id"]) = (id, second),
        Kind::Block => (fields["content_id"], fields["msg_type"]) = (id, json!(frame.msg_type)),
        Kind::Subtree => (fields["subtree_id"], fields["msg_type"]) = (id, json!(frame.msg_type)),
        Kind::BlockHeader => fields["block_hash"] = id,
        Kind::Object => {
            (fields["content_id"], fields["topic_id"]) = (id, second);
            fields["deliver_count"] = json!(frame.msg_type);
            fields["deliverable"] = json!(object::deliverable(frame.msg_type));
        }
        other => panic!("{other:?} is no data frame"),
    }
    fields
}

fn check_payload(frame: &DataFrame<'_>, expected: &Value, context: &str) {
    let mut out = vec![0; frame.payload.len()];
    let (ours, encoded) = match frame.kind {
        Kind::Block => {
            let announce = block::Announce::decode(frame.payload).unwrap();
            assert_eq!(block::header_hash(announce.header), *frame.id, "{context}: ContentID");
            (announce_fields(&announce), announce.encode(&mut out))
        }
        Kind::Subtree => {
            let form = Form::of(frame.msg_type).unwrap();
            let data = SubtreeData::decode(form, frame.payload).unwrap();
            (subtree_fields(&data), data.encode(&mut out))
        }
        other => panic!("{context}: payload of {other:?}?"),
    };
    same_fields(expected, &ours, context);
    let len = encoded.unwrap();
    assert_eq!(out[..len], frame.payload[..len], "{context}: payload encoded");
}

fn announce_fields(announce: &block::Announce<'_>) -> Value {
    json!({
        "header": hex::encode(announce.header),
        "coinbase_txid": hex::encode(announce.coinbase),
        "subtree_count": announce.subtrees.len(),
        "subtree_hashes": announce.subtrees.iter().map(hex::encode).collect::<Vec<_>>(),
    })
}

fn subtree_fields(data: &SubtreeData<'_>) -> Value {
    let node = |node: subtree::Node<'_>| match node.cost {
        None => json!({ "tx_hash": hex::encode(node.hash) }),
        Some(cost) => json!({ "tx_hash": hex::encode(node.hash), "fee": cost.fee, "size": cost.size }),
    };
    json!({
        "total_fees": data.total_fees,
        "total_size_bytes": data.total_size,
        "node_count": data.nodes.len(),
        "nodes": data.nodes.iter().map(node).collect::<Vec<_>>(),
        "conflict_count": data.conflicts.len(),
        "conflicts": data.conflicts.iter().map(hex::encode).collect::<Vec<_>>(),
    })
}

/// ContentID is over the payload as sent; a record's first topic is the frame's.
fn check_object(frame: &DataFrame<'_>, context: &str) {
    assert_eq!(object::content_id(frame.payload), *frame.id, "{context}");
    let content = Content::of(frame.payload);
    assert!(object::Marker::of(content.object()).is_some(), "{context}: marker");
    if let Content::Record(record) = content {
        let topic = std::str::from_utf8(record.topics().next().unwrap()).unwrap();
        assert_eq!(object::topic_id(topic), *frame.second_id, "{context}");
    }
}

fn check_fragment(item: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let fragment = Fragment::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    let ours = json!({
        "version": 3,
        "msg_type": fragment.msg_type,
        "tx_id_slot": hex::encode(fragment.id),
        "hash_key": key_hex(fragment.hash_key),
        "seq_num": fragment.seq_num.0,
        "subtree_slot": hex::encode(fragment.second_id),
        "frag_data_len": fragment.data.len(),
        "orig_payload_len": fragment.original_len,
        "frag_index": fragment.index,
        "frag_total": fragment.total,
        "orig_frame_ver": fragment.original_version,
        "frag_data": hex::encode(fragment.data),
    });
    same_fields(&item["decoded"], &ours, context);
    let bits = ShardBits::new(0).unwrap();
    check_flow(item, fragment.hash_key, Route::of_fragment(&fragment, bits, bits).unwrap(), context);
    let mut out = vec![0; fragment.wire_len()];
    assert_eq!(fragment.encode(&mut out), Some(out.len()));
    out
}

fn check_bundle(expected: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let bundle = Bundle::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    let member =
        |member: Member<'_>| json!({ "txid": member.txid.map(hex::encode), "tx": hex::encode(member.tx) });
    let ours = json!({
        "version": 8,
        "flags": bundle.flags,
        "subtree_id": hex::encode(bundle.subtree_id),
        "hash_key": key_hex(bundle.hash_key),
        "seq_num": bundle.seq_num.0,
        "group_idx": bundle.group.0,
        "shard_bits": bundle.shard_bits,
        "tx_count": bundle.count,
        "payload_len": bundle.members.len(),
        "members": bundle.members().map(member).collect::<Vec<_>>(),
    });
    same_fields(expected, &ours, context);
    let Bundle { flags, subtree_id, hash_key, seq_num, group, shard_bits, .. } = bundle;
    let fields = BundleFields { flags, subtree_id, hash_key, seq_num, group, shard_bits };
    let mut out = vec![0; bundle.wire_len()];
    let mut writer = Writer::new(&fields, &mut out).unwrap();
    bundle.members().for_each(|member| writer.push(member).unwrap());
    assert_eq!(writer.finish(), out.len());
    out
}

fn check_subtree_group(expected: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let announce =
        SubtreeGroupAnnounce::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    let ours = json!({
        "msg_type": Kind::SubtreeGroupAnnounce as u8,
        "flags": announce.flags,
        "subtree_id": hex::encode(announce.subtree_id),
        "group_id": hex::encode(announce.group_id),
        "epoch": announce.epoch,
        "ttl": announce.ttl_secs,
    });
    same_fields(expected, &ours, context);
    announce.encode().to_vec()
}

fn check_manifest(expected: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let manifest = Manifest::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    same_fields(expected, &manifest_fields(&manifest, datagram), context);
    let groups: Vec<GroupIndex> = manifest.groups().map(Iterator::collect).unwrap_or_default();
    let sources: Vec<Ipv6Addr> = manifest.sources().collect();
    let domains: Vec<_> = manifest.domains().collect();
    let fields = ManifestFields {
        identity: manifest.identity,
        groups: match manifest.bitmap() {
            Some(bitmap) => Groups::Bitmap(bitmap),
            None if groups.is_empty() => Groups::Unsaid,
            None => Groups::List(&groups),
        },
        sources: &sources,
        successor: manifest.successor(),
        domains: &domains,
    };
    let mut out = vec![0; manifest.wire_len()];
    assert_eq!(fields.encode(&mut out), Some(out.len()), "{context}");
    out
}

fn manifest_fields(manifest: &Manifest<'_>, datagram: &[u8]) -> Value {
    let frame::manifest::Identity { flags, source, instance_id, epoch, ttl_secs, interval_secs, .. } =
        manifest.identity;
    let groups: Option<Vec<u16>> = manifest.groups().map(|groups| groups.map(|group| group.0).collect());
    let listed = groups.filter(|_| manifest.bitmap().is_none());
    let successor = |next: Successor| {
        json!({
            "generation_id": hex::encode(next.generation),
            "shard_bits": next.shard_bits,
            "flags": next.flags,
            "transition_epoch": next.transition_epoch,
        })
    };
    let domain = |domain: frame::manifest::Domain| {
        let mut fields = json!({
            "domain_id": domain.id,
            "shard_bits": domain.shard_bits,
            "slot_span": domain.span,
            "flags": domain.flags,
            "version": domain.version,
            "generation_id": hex::encode(domain.generation),
        });
        if let Some(next) = domain.successor {
            fields["successor"] = successor(next);
        }
        fields
    };
    let domains: Vec<Value> = manifest.domains().map(domain).collect();
    json!({
        "flags": flags,
        "src_ipv6": source.to_string(),
        "instance_id": format!("{instance_id:08x}"),
        "epoch": epoch,
        "ttl": ttl_secs,
        "announce_interval": interval_secs,
        "shard_bits": manifest.identity.shard_bits,
        "role_hint": manifest.identity.role,
        "group_count": listed.as_ref().map_or(0, Vec::len),
        "bitmap_bytes": manifest.bitmap().map_or(0, <[u8]>::len),
        "source_count": manifest.sources().len(),
        "crc32c": hex::encode(&datagram[44..48]),
        "generation_id": hex::encode(manifest.identity.generation),
        "groups": listed,
        "bitmap": manifest.bitmap().map(hex::encode),
        "sources": manifest.sources().map(|source| source.to_string()).collect::<Vec<_>>(),
        "successor": manifest.successor().map(successor),
        "domains": if domains.is_empty() { Value::Null } else { json!(domains) },
        "wire_len": manifest.wire_len(),
    })
}

fn check_nack(expected: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let nack = Nack::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    let ours = json!({
        "msg_type": Kind::Nack as u8,
        "flags": nack.flags,
        "proxied": nack.flags & Nack::PROXIED != 0,
        "hash_key": key_hex(nack.hash_key),
        "start_seq": nack.start.0,
        "end_seq": nack.end.0,
        "subtree_id": hex::encode(nack.subtree_id),
    });
    same_fields(expected, &ours, context);
    nack.encode().to_vec()
}

fn check_response(expected: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let response = Response::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    let encoded = encode_response(&response);
    let ours = json!({
        "msg_type": response.verdict.kind() as u8,
        "flags": encoded[7],
        "seq_num": response.seq_num.0,
        "hold_ms": response.verdict.hold_ms(),
    });
    same_fields(expected, &ours, context);
    encoded
}

fn encode_response(response: &Response) -> Vec<u8> {
    let mut out = [0; Response::MAX_LEN];
    let len = response.encode(&mut out);
    out[..len].to_vec()
}

fn check_advert(expected: &Value, datagram: &[u8], context: &str) -> Vec<u8> {
    let advert = Advert::decode(datagram).unwrap_or_else(|error| panic!("{context}: {error}"));
    // The file writes mapped addresses in groups of hex; Rust prints them dotted. Compare values, not spelling.
    let as_address = |value: &Value| json!(value.as_str().unwrap().parse::<Ipv6Addr>().unwrap());
    let as_socket = |value: &Value| json!(value.as_str().unwrap().parse::<SocketAddrV6>().unwrap());
    let mut expected = expected.clone();
    expected["nack_addr"] = as_address(&expected["nack_addr"]);
    expected["registry_addr"] = as_socket(&expected["registry_addr"]);
    let mut ours = json!({
        "msg_type": Kind::Advert as u8,
        "scope": advert.scope,
        "nack_addr": advert.nack_addr,
        "nack_port": advert.nack_port,
        "tier": advert.tier,
        "preference": advert.preference,
        "beacon_interval_s": advert.interval_secs,
        "flags": advert.flags,
        "instance_id": format!("{:08x}", advert.instance_id),
        "registry_ttl_s": 3 * u32::from(advert.interval_secs),
        "registry_addr": SocketAddrV6::new(advert.nack_addr, advert.nack_port, 0, 0),
    });
    // How another language prints the same address is of no concern here, only that it is the same.
    if let Some(printed) = expected.get("registry_addr_go") {
        let printed: std::net::SocketAddr = printed.as_str().unwrap().parse().unwrap();
        assert_eq!(
            (printed.ip(), printed.port()),
            (advert.nack_addr.to_canonical(), advert.nack_port),
            "{context}"
        );
        ours["registry_addr_go"] = expected["registry_addr_go"].clone();
    }
    same_fields(&expected, &ours, context);
    advert.encode().to_vec()
}

// ---- objects ----

fn beef(section: &Value) -> usize {
    only(section, &["topic_ids", "content_ids", "records", "delivery", "dedup_key"]);
    for item in list(&section["topic_ids"]) {
        assert_eq!(object::topic_id(text(item, "topic")), id(item, "topic_id"), "{item}");
    }
    for item in list(&section["content_ids"]) {
        assert_eq!(object::content_id(&bytes(item, "hex")), id(item, "content_id"), "{item}");
    }
    for item in list(&section["records"]) {
        check_record(item);
    }
    for item in list(&section["delivery"]) {
        let bytes_of = bytes(item, "hex");
        let topic_id = object::topic_id(text(item, "topic"));
        let payload = bytes(item, "payload");
        let delivery = Delivery { topic_id: &topic_id, payload: &payload };
        assert_eq!(Delivery::decode(&bytes_of), Ok(delivery), "{item}");
        let mut out = vec![0; bytes_of.len()];
        assert_eq!(delivery.encode(&mut out), Some(bytes_of.len()));
        assert_eq!(out, bytes_of);
    }
    for item in list(&section["dedup_key"]) {
        let made = object::dedup_key(&id(item, "content_id"), &id(item, "topic_id"));
        assert_eq!(made, id(item, "key"), "{item}");
    }
    section.as_object().unwrap().values().map(|items| list(items).len()).sum()
}

fn check_record(item: &Value) {
    let wire = bytes(item, "hex");
    assert_eq!(wire.len(), small::<usize>(item, "len"));
    let topics: Vec<&str> = list(&item["topics"]).iter().map(|topic| topic.as_str().unwrap()).collect();
    let record = Record::decode(&wire).unwrap();
    let names: Vec<&[u8]> = record.topics().collect();
    assert_eq!(names, topics.iter().map(|topic| topic.as_bytes()).collect::<Vec<_>>());
    assert_eq!(record.object, bytes(item, "object"));
    assert_eq!(record.wire_len(), wire.len());
    assert_eq!(Record::size(&wire, u32::MAX), Ok(Boundary::Message(wire.len())));
    for cut in 0..wire.len() {
        assert_eq!(Record::decode(&wire[..cut]), Err(DecodeError::RecordShort), "{item} cut at {cut}");
    }
    let mut out = vec![0; wire.len()];
    assert_eq!(object::encode_record(&topics, record.object, &mut out), Some(wire.len()));
    assert_eq!(out, wire);
}

// ---- what a proxy does ----

fn stamping(section: &Value) -> usize {
    only(section, &["note", "steps"]);
    let mut counters: HashMap<HashKey, SeqNum> = HashMap::new();
    for step in list(&section["steps"]) {
        let mut datagram = bytes(step, "input");
        let stamp_source = step["stamp_source"].as_bool().unwrap();
        let policy = if stamp_source { StampPolicy::OwnKey } else { StampPolicy::Fill };
        let (hash_key, seq_num) = stamped(&datagram, step, policy, &mut counters);
        assert!(frame::datagram::stamp(&mut datagram, hash_key, seq_num));
        assert_eq!(hash_key, key(step, "out_hash_key"), "{}", text(step, "name"));
        assert_eq!(seq_num.0, number(step, "out_seq"), "{}", text(step, "name"));
        assert_eq!(datagram, bytes(step, "output"), "{}", text(step, "name"));
    }
    list(&section["steps"]).len()
}

/// What bytes 40-55 become in a proxy with this policy and these counters.
fn stamped(
    datagram: &[u8],
    step: &Value,
    policy: StampPolicy,
    counters: &mut HashMap<HashKey, SeqNum>,
) -> (HashKey, SeqNum) {
    let frame = DataFrame::decode(datagram).unwrap();
    let bits = ShardBits::new(0).unwrap();
    let subtree = Route::of(&frame, bits, bits).unwrap().flow_subtree;
    let ours = flow::hash_key(origin(step), GroupIndex(small(step, "group_idx")), subtree);
    match policy.decide(frame.kind, frame.hash_key, frame.seq_num) {
        Stamping::Number => {
            let counter = counters.entry(ours).or_default();
            *counter = counter.next();
            (ours, *counter)
        }
        Stamping::KeyOnly => (ours, frame.seq_num),
        Stamping::Keep => (frame.hash_key, frame.seq_num),
        Stamping::Refuse => panic!("{step}: neither policy refuses"),
    }
}

fn fragmentation(section: &Value) -> usize {
    for item in list(section) {
        let mtu: u16 = small(item, "frag_mtu");
        let len: usize = small(item, "payload_len");
        match fragment::cut(len, mtu, Threshold::Compatible) {
            Cut::Whole => assert_eq!(number(item, "frag_total"), 0, "{item}"),
            Cut::Overflow => panic!("{item}: too many fragments"),
            Cut::Fragments(plan) => check_fragmentation(item, plan),
        }
    }
    list(section).len()
}

fn check_fragmentation(item: &Value, plan: fragment::FragmentPlan) {
    let name = text(item, "name");
    assert_eq!(u64::from(plan.total), number(item, "frag_total"), "{name}");
    assert_eq!(u64::from(plan.data_len), number(item, "frag_data_size"), "{name}");
    let lens: Vec<usize> = (0..plan.total).map(|index| plan.range(index).len()).collect();
    assert_eq!(json!(lens), item["frag_lens"], "{name}");

    let payload = fragmented_payload(item);
    let content_id = id(item, "content_id");
    let kind = Kind::from_byte(small(item, "orig_frame_ver")).unwrap();
    let second_id = match kind {
        Kind::Object => id_or_zeros(item, "topic_id"),
        _ => id_or_zeros(item, "subtree_id"),
    };
    let frame = DataFrame {
        kind,
        msg_type: small(item, "msg_type"),
        id: &content_id,
        hash_key: HashKey(0),
        seq_num: SeqNum(0),
        second_id: &second_id,
        payload: &payload,
    };
    let bits = ShardBits::new(0).unwrap();
    let subtree = Route::of(&frame, bits, bits).unwrap().flow_subtree;
    let hash_key = flow::hash_key(origin(item), GroupIndex(small(item, "group_idx")), subtree);
    let hashes = list(&item["datagrams_sha256"]);
    assert_eq!(hashes.len(), usize::from(plan.total), "{name}");
    let mut seq_num = SeqNum(0);
    for (index, expected) in (0..plan.total).zip(hashes) {
        seq_num = seq_num.next();
        let datagram = fragment_of(&frame, plan, index, hash_key, seq_num);
        if let Some(whole) = item.get("datagrams") {
            assert_eq!(hex::encode(&datagram), whole[usize::from(index)].as_str().unwrap(), "{name} {index}");
        }
        assert_eq!(hex::encode(hash::sha256(&datagram)), expected.as_str().unwrap(), "{name} {index}");
    }
}

fn fragment_of(
    frame: &DataFrame<'_>,
    plan: fragment::FragmentPlan,
    index: u16,
    key: HashKey,
    seq: SeqNum,
) -> Vec<u8> {
    let fields = FragmentFields::of(frame, plan, index, key, seq);
    let data = &frame.payload[plan.range(index)];
    let mut out = vec![0; fragment::HEADER + data.len()];
    assert_eq!(fragment::encode(&fields, data, &mut out), Some(out.len()));
    let decoded = Fragment::decode(&out).unwrap();
    assert_eq!(decoded.original_kind(), frame.kind);
    assert!(fragment::opens_slot(decoded.index, decoded.total, decoded.original_len, 64 << 20));
    out
}

/// The payload that was cut: from the datagrams where the file has them, else a pattern, whose seed the file only
/// gives in words; the hash says which.
fn fragmented_payload(item: &Value) -> Vec<u8> {
    let len = small(item, "payload_len");
    let wanted = id(item, "payload_sha256");
    let from_datagrams = item.get("datagrams").map(|datagrams| {
        let datagrams = list(datagrams).iter().map(|datagram| unhex(datagram.as_str().unwrap()));
        datagrams.flat_map(|datagram| datagram[fragment::HEADER..].to_vec()).collect()
    });
    from_datagrams
        .into_iter()
        .chain((0..256).map(|seed| pattern(len, seed)))
        .find(|payload: &Vec<u8>| payload.len() == len && hash::sha256(payload) == wanted)
        .unwrap_or_else(|| panic!("{}: no pattern has this hash", text(item, "name")))
}

fn reassembly_admission(section: &Value) -> usize {
    const GENERATIONS: [(&str, u32); 2] = [("accept_genA", u32::MAX), ("accept_genB", 64 << 20)];
    for item in list(section) {
        only(
            item,
            &[
                "name",
                "frag_total",
                "frag_index",
                "orig_payload_len",
                "accept",
                "accept_genA",
                "accept_genB",
                "note",
            ],
        );
        let index = item["frag_index"].as_u64().unwrap_or(0).try_into().unwrap();
        let mut compared = 0;
        for (generation, max_len) in GENERATIONS {
            let Some(expected) = item.get("accept").or_else(|| item.get(generation)) else { continue };
            let opens = fragment::opens_slot(
                index,
                small(item, "frag_total"),
                small(item, "orig_payload_len"),
                max_len,
            );
            assert_eq!(json!(opens), *expected, "{} {generation}", text(item, "name"));
            compared += 1;
        }
        assert!(compared > 0, "{item}");
    }
    list(section).len()
}

fn tcp_stream(section: &Value) -> usize {
    let wire = bytes(section, "hex");
    let boundaries: Vec<usize> =
        list(&section["boundaries"]).iter().map(|at| at.as_u64().unwrap().try_into().unwrap()).collect();
    let kinds = list(&section["kinds"]);
    assert_eq!((boundaries.first(), boundaries.last()), (Some(&0), Some(&wire.len())));
    assert_eq!(kinds.len() + 1, boundaries.len());
    for chunk in [1, 7, wire.len()] {
        assert_eq!(split_stream(&wire, chunk), boundaries, "in chunks of {chunk}");
    }
    for (message, expected) in boundaries.windows(2).zip(kinds) {
        let kind = Kind::of(&wire[message[0]..message[1]]).unwrap();
        let name = match kind {
            Kind::SubtreeGroupAnnounce => "BRC-127".into(),
            kind => format!("V{}", kind as u8),
        };
        assert_eq!(name, expected.as_str().unwrap());
    }
    kinds.len()
}

/// Boundaries found when bytes arrive `chunk` at a time.
fn split_stream(wire: &[u8], chunk: usize) -> Vec<usize> {
    let mut stream = Stream::new(Limits::DEFAULT);
    let (mut start, mut boundaries) = (0, vec![0]);
    for arrived in (chunk..wire.len() + chunk).step_by(chunk) {
        let arrived = arrived.min(wire.len());
        while start < arrived {
            match stream.boundary(&wire[start..arrived]).unwrap() {
                Boundary::Message(len) if start + len <= arrived => start += len,
                Boundary::Message(_) => break,
                Boundary::Need(len) => {
                    assert!(start + len > arrived, "asks for bytes that are here");
                    break;
                }
            }
            boundaries.push(start);
        }
    }
    boundaries
}

// ---- refusals ----

fn malformed(section: &Value) -> usize {
    for item in list(section) {
        let input = bytes(item, "hex");
        assert_eq!(input.len(), small::<usize>(item, "len"), "{item}");
        let error = refuse(text(item, "decoder"), &input);
        let name = error.map(DecodeError::name);
        assert_eq!(name, Some(text(item, "error")), "{} ({})", text(item, "name"), text(item, "decoder"));
    }
    list(section).len()
}

/// The error of the named decoder, `None` if it accepts.
fn refuse(decoder: &str, input: &[u8]) -> Option<DecodeError> {
    match decoder {
        "frame.Decode" => DataFrame::decode_tx(input).err(),
        "frame.DecodeFragment" => Fragment::decode(input).err(),
        "frame.DecodeBlock" => DataFrame::decode_only(Kind::Block, input).err(),
        "frame.DecodeBlockAnnounce" => block::Announce::decode(input).err(),
        "frame.DecodeSubtreeData" => DataFrame::decode_only(Kind::Subtree, input).err(),
        "frame.DecodeSubtreeDataPayload(HashesOnly)" => SubtreeData::decode(Form::HashesOnly, input).err(),
        "frame.DecodeSubtreeDataPayload(FullNodes)" => SubtreeData::decode(Form::FullNodes, input).err(),
        "frame.DecodeAnchor" => DataFrame::decode_only(Kind::Anchor, input).err(),
        "frame.DecodeBlockHeader" => DataFrame::decode_only(Kind::BlockHeader, input).err(),
        "frame.DecodeBEEF" => DataFrame::decode_only(Kind::Object, input).err(),
        "bundle.Decode" => Bundle::decode(input).err(),
        "objfmt.BEEFRecordSize" => Record::decode(input).err(),
        "frame.DecodeSubtreeGroupAnnounce" => SubtreeGroupAnnounce::decode(input).err(),
        "frame.DecodeShardManifest" => Manifest::decode(input).err(),
        "nack.Decode" => Nack::decode(input).err(),
        "nack.DecodeResponse(genB)" => Response::decode(input).err(),
        // Generation A does not know THROTTLED; the other types are the same.
        "nack.DecodeResponse(genA)" => match Response::decode(input) {
            Ok(Response { verdict: Ack::Throttled { .. }, .. }) => Some(DecodeError::BadResponse),
            response => response.err(),
        },
        "discovery.DecodeADVERT" => Advert::decode(input).err(),
        other => panic!("decoder {other}?"),
    }
}

/// The bytes of each exchange: what is served decodes and names one number, the reply echoes it.
fn retry_server(section: &Value) -> usize {
    only(section, &["note", "hash_key", "cases"]);
    let cached = key(section, "hash_key");
    let mut served = None;
    for case in list(&section["cases"]) {
        let name = text(case, "name");
        let single = Nack::decode(&bytes(case, "request")).ok().filter(|nack| nack.start == nack.end);
        if case["reply_genA"].is_null() {
            assert_eq!(single, None, "{name}: a decodable request for one number is answered");
            assert_eq!(case["multicast"], json!(false), "{name}");
            continue;
        }
        let nack = single.unwrap_or_else(|| panic!("{name}: answered, so it decodes"));
        let reply = bytes(case, "reply_genA");
        let response = Response::decode(&reply).unwrap();
        assert_eq!(encode_response(&response), reply, "{name}");
        match response.verdict {
            Ack::Ack { multicast: true, unicast: false } => {
                assert_eq!((nack.hash_key, nack.start), (cached, response.seq_num), "{name}");
                assert_eq!(*served.get_or_insert(nack.start), nack.start, "{name}: one frame is cached");
                assert_eq!(case["multicast"], json!(true), "{name}");
            }
            Ack::Miss => {
                assert_ne!((nack.hash_key, Some(nack.start)), (cached, served), "{name}");
                assert_eq!(response.seq_num, SeqNum(0), "{name}");
                assert_eq!(case["multicast"], json!(false), "{name}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(served.is_some());
    list(&section["cases"]).len()
}
