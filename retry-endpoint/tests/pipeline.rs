//! The pipeline in virtual time: what is kept, who gets what, and what it may cost.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use frame::control::{Ack, Nack, Response};
use frame::subtree::{Nodes, SubtreeData};
use frame::{GroupIndex, HashKey, Id, Kind, SeqNum, TxId};
use proptest::prelude::*;
use retry_endpoint::pipeline::admit::{Refusal, admit};
use retry_endpoint::pipeline::answer::{BadRequest, Plan, Policy, Repair, Request, TrainRules, Ways, runs};
use retry_endpoint::pipeline::limit::{
    Buckets, Level, Network, Rate, RepairLimits, RepairRates, RequestLimits, RequestRates, Trusted,
};
use retry_endpoint::pipeline::store::{Lifetimes, Limits, Put, Store};
use retry_endpoint::pipeline::upstream::{Ask, Fetches, Wish};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::{frame_of, frame_with};

const FLOW: HashKey = HashKey(0xB778_5278_7652_F86C);
const GROUP: GroupIndex = GroupIndex(1);
const FAR: &str = "192.0.2.7:40000";
const LOCAL: &str = "127.0.0.1:40000";

fn frame(seq: u64) -> Vec<u8> {
    frame_of(FLOW, seq, format!("payload {seq}").as_bytes())
}

fn rates(rate: f64) -> RepairRates {
    let rate = Rate { rate, burst: rate };
    RepairRates { group: rate, bytes: rate }
}

/// One endpoint with a clock that the test moves.
struct Endpoint {
    now: Instant,
    store: Store,
    limits: RepairLimits,
    policy: Policy,
    plan: Plan,
}

impl Endpoint {
    fn new() -> Endpoint {
        Endpoint::with(true, Trusted::default(), rates(1e12))
    }

    fn with(verify: bool, trusted: Trusted, repairs: RepairRates) -> Endpoint {
        let now = Instant::now();
        let limits = Limits { bytes: 1 << 20, flows: 16 };
        Endpoint {
            now,
            store: Store::new(limits, Lifetimes::default(), verify, 7, now),
            limits: RepairLimits::new(repairs, trusted, 7, now),
            policy: Policy {
                ways: Ways { multicast: true, unicast: false },
                dedup_window: Duration::from_millis(10),
            },
            plan: Plan::default(),
        }
    }

    fn put(&mut self, datagram: &[u8]) -> Put {
        self.store.put(&admit(datagram).unwrap(), GROUP, self.now)
    }

    fn get(&mut self, seq: u64) -> Option<Vec<u8>> {
        let stored = self.store.get(FLOW, SeqNum(seq), self.now)?;
        Some(self.store.bytes(&stored.place).to_vec())
    }

    /// Plans and sends everything; the kernel takes `takes` of the multicast repairs.
    fn ask_taking(&mut self, request: &Request, takes: usize) -> Option<Response> {
        self.plan.make(request, &mut self.store, &mut self.limits, &self.policy, self.now);
        let sent = self.plan.multicast.len().min(takes);
        self.plan.multicast_sent(sent, &mut self.store, self.now);
        for repair in self.plan.unicast.clone() {
            self.plan.done.unicast.insert(repair.offset);
        }
        self.plan.done.reply(request, true)
    }

    fn ask(&mut self, request: &Request) -> Option<Response> {
        self.ask_taking(request, usize::MAX)
    }
}

fn request_from(source: &str, start: u64, end: u64, flags: u8) -> Request {
    let nack = Nack { flags, hash_key: FLOW, start: SeqNum(start), end: SeqNum(end), subtree_id: [0; 32] };
    let source: SocketAddr = source.parse().unwrap();
    Request::read(&nack.encode(), source, None, 256).unwrap()
}

fn plain(seq: u64) -> Request {
    request_from(LOCAL, seq, seq, 0)
}

fn range(start: u64, end: u64) -> Request {
    request_from(LOCAL, start, end, Nack::EXTENDED)
}

const ACK_MULTICAST: Ack = Ack::Ack { multicast: true, unicast: false };

// ------------------------------------------------------------------------------------------------- admission, store --

#[test]
fn a_frame_is_kept_without_the_padding_of_its_train() {
    let mut endpoint = Endpoint::new();
    let clean = frame(5);
    let mut padded = clean.clone();
    padded.extend([0; 40]);
    assert_eq!(endpoint.put(&padded), Put::Stored { new_flow: true });
    assert_eq!(endpoint.get(5), Some(clean.clone()));
    assert_eq!(endpoint.put(&clean), Put::Duplicate);
}

#[test]
fn what_nobody_can_ask_for_is_refused_by_name() {
    let unnumbered = frame(0);
    assert_eq!(admit(&unnumbered), Err(Refusal::Unnumbered));
    for (version, refusal) in [
        (0x01, Refusal::Legacy),
        (0x07, Refusal::BlockHeader),
        (0x08, Refusal::Bundle),
        (0x09, Refusal::Object),
        (0x40, Refusal::Manifest),
        (0x10, Refusal::Control),
    ] {
        let mut datagram = frame(1);
        datagram[6] = version;
        assert_eq!(admit(&datagram), Err(refusal), "{version:#x}");
        assert_eq!(Refusal::ALL.len(), 8);
    }
    let lying = {
        let mut datagram = frame(1);
        datagram[88..92].copy_from_slice(&u32::MAX.to_be_bytes());
        datagram
    };
    assert_eq!(admit(&lying), Err(Refusal::Undecodable));
}

#[test]
fn the_first_writer_of_a_number_wins() {
    let mut endpoint = Endpoint::new();
    let (first, second) = (frame_of(FLOW, 9, b"first"), frame_of(FLOW, 9, b"second"));
    endpoint.put(&first);
    assert_eq!(endpoint.put(&second), Put::Conflict);
    assert_eq!(endpoint.get(9), Some(first));
}

#[test]
fn a_forgery_neither_is_served_nor_keeps_the_genuine_frame_out() {
    let mut endpoint = Endpoint::new();
    let genuine = frame(9);
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    endpoint.put(&forged);
    assert_eq!(endpoint.get(9), None);
    assert_eq!(endpoint.put(&genuine), Put::Stored { new_flow: false });
    assert_eq!(endpoint.get(9), Some(genuine.clone()));

    let mut other = Endpoint::new();
    other.put(&forged);
    assert_eq!(other.put(&genuine), Put::Replaced);
    assert_eq!(other.get(9), Some(genuine.clone()));

    let mut trusting = Endpoint::with(false, Trusted::default(), rates(1e12));
    trusting.put(&forged);
    assert_eq!(trusting.put(&genuine), Put::Conflict);
    assert_eq!(trusting.get(9), Some(forged));
}

#[test]
fn forged_subtree_data_is_not_served_either() {
    let data = |leaves: &[Id]| {
        let nodes = Nodes::Hashes(leaves);
        let mut payload = [0; 200];
        let data = SubtreeData { total_fees: 0, total_size: 0, nodes, conflicts: &[] };
        let len = data.encode(&mut payload).unwrap();
        payload[..len].to_vec()
    };
    let leaves = [[1; 32], [2; 32], [3; 32]];
    let root = frame::block::merkle_root(&mut leaves.map(TxId));
    let genuine = frame_with(Kind::Subtree, FLOW, 9, &root, &data(&leaves));
    for wrong in [&leaves[..2], &[leaves[0], leaves[1], leaves[2], leaves[2]]] {
        let mut endpoint = Endpoint::new();
        endpoint.put(&frame_with(Kind::Subtree, FLOW, 9, &root, &data(wrong)));
        assert_eq!(endpoint.get(9), None);
        assert_eq!(endpoint.put(&genuine), Put::Stored { new_flow: false });
        assert_eq!(endpoint.get(9), Some(genuine.clone()));
    }
}

#[test]
fn the_oldest_segment_leaves_first_and_memory_stays() {
    let mut endpoint = Endpoint::new();
    let payload = vec![7; 1000];
    let most = 3 * (1 << 20) / 1100;
    let mut capacity = 0;
    for seq in 1..=most {
        endpoint.put(&frame_of(FLOW, seq, &payload));
        capacity = endpoint.store.stats(endpoint.now).log_capacity;
        assert!(endpoint.store.stats(endpoint.now).log_bytes <= capacity);
    }
    assert!(capacity <= 1 << 20);
    let held: Vec<u64> = (1..=most).filter(|&seq| endpoint.get(seq).is_some()).collect();
    assert_eq!(held.last(), Some(&most));
    assert_eq!(held.len() as u64, most - held[0] + 1, "what is held is one run up to the newest");
    assert!(endpoint.store.stats(endpoint.now).segments_left > 0);
}

#[test]
fn a_hostile_jump_in_numbers_costs_no_more_than_a_frame() {
    let mut endpoint = Endpoint::new();
    let jumps = [1, 1 << 20, 1 << 40, u64::MAX - 1, u64::MAX, 2];
    for seq in jumps {
        assert!(matches!(endpoint.put(&frame(seq)), Put::Stored { .. }));
    }
    for seq in jumps {
        assert_eq!(endpoint.get(seq), Some(frame(seq)));
    }
    assert_eq!(endpoint.store.stats(endpoint.now).pages, 4);
}

#[test]
fn scattered_numbers_fill_the_index_and_nothing_else() {
    let mut endpoint = Endpoint::new();
    for seq in 1..20_000_u64 {
        endpoint.put(&frame(seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
    }
    let stats = endpoint.store.stats(endpoint.now);
    assert!(stats.pages * 96 <= (1 << 20) / 8, "{stats:?}");
    assert!(stats.pages_evicted > 0, "{stats:?}");
}

#[test]
fn a_slow_flow_survives_beside_a_busy_one_as_long_as_its_bytes_do() {
    let mut endpoint = Endpoint::new();
    let slow = HashKey(1);
    let mut last_slow = 0;
    for seq in 1..=30_000_u64 {
        endpoint.put(&frame(seq));
        if seq % 500 == 0 {
            last_slow += 1;
            endpoint.put(&frame_of(slow, last_slow, b"slow"));
        }
    }
    let now = endpoint.now;
    assert!(endpoint.store.get(slow, SeqNum(last_slow), now).is_some());
    assert!(endpoint.store.get(slow, SeqNum(last_slow - 1), now).is_some());
    assert_eq!(endpoint.store.stats(now).pages_evicted, 0);
}

#[test]
fn frames_are_served_for_their_lifetime_and_not_longer() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(1));
    endpoint.now += Duration::from_secs(60);
    assert!(endpoint.get(1).is_some());
    endpoint.now += Duration::from_millis(1);
    assert!(endpoint.get(1).is_none());
    assert_eq!(endpoint.put(&frame_of(FLOW, 1, b"anew")), Put::Stored { new_flow: false });
    assert!(endpoint.get(1).is_some());
}

#[test]
fn flows_are_bounded_and_frames_of_forgotten_flows_are_still_served() {
    let mut endpoint = Endpoint::new();
    for flow in 1..=100 {
        endpoint.put(&frame_of(HashKey(flow), 1, b"one"));
        endpoint.now += Duration::from_micros(1);
    }
    assert_eq!(endpoint.store.stats(endpoint.now).flows, 16);
    let now = endpoint.now;
    assert!((1..=100).all(|flow| endpoint.store.get(HashKey(flow), SeqNum(1), now).is_some()));
}

/// Milliseconds from the start at which the flow is announced until `end`, and the numbers named; `digests`: when its
/// sender announces 7.
fn announcements(endpoint: &mut Endpoint, end: u64, digests: &[u64]) -> Vec<(u64, u64)> {
    let start = endpoint.now;
    let mut said = Vec::new();
    for at in (0..end).step_by(10) {
        endpoint.now = start + Duration::from_millis(at);
        if digests.contains(&at) {
            endpoint.store.heard_of(FLOW, SeqNum(7), endpoint.now);
        }
        let mut entries = Vec::new();
        if endpoint.store.next_announcement().is_some_and(|due| due <= endpoint.now) {
            endpoint.store.announce(endpoint.now, 100, &mut entries);
        }
        assert!(entries.iter().all(|entry| entry.hash_key == FLOW && entry.group == GROUP));
        said.extend(entries.iter().map(|entry| (at, entry.highest.0)));
    }
    said
}

#[test]
fn a_flow_that_falls_silent_is_announced_a_few_times_ever_less_often() {
    let mut endpoint = Endpoint::new();
    for seq in [3, 7, 5] {
        endpoint.put(&frame(seq));
    }
    let said = announcements(&mut endpoint, 200_000, &[]);
    assert_eq!(said.iter().map(|(_, highest)| *highest).collect::<Vec<_>>(), [7; 8]);
    assert!(said.windows(2).all(|pair| pair[1].0 - pair[0].0 >= pair[0].0 / 2), "{said:?}");
    assert!(said[0].0 <= 600 && said[7].0 >= 30_000 && said[7].0 < 60_000, "{said:?}");
    // It speaks again, and falls silent again.
    endpoint.put(&frame(8));
    assert_eq!(announcements(&mut endpoint, 200_000, &[]).len(), 8);
}

#[test]
fn a_flow_that_its_sender_announces_is_not_announced() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(7));
    // As a proxy does (`digest` there), at each point of its round.
    for phase in (0..100).step_by(10) {
        let digests: Vec<u64> = [100, 200, 400, 800, 1_600, 3_200, 6_400, 16_400, 26_400, 36_400]
            .iter()
            .map(|at| at - phase)
            .collect();
        let mut endpoint = Endpoint::new();
        endpoint.put(&frame(7));
        assert_eq!(announcements(&mut endpoint, 60_000, &digests), [], "{phase}");
    }
}

#[test]
fn a_sender_that_dies_after_one_digest_is_spoken_for() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(7));
    assert_eq!(announcements(&mut endpoint, 60_000, &[150]).len(), 7);
}

#[test]
fn a_digest_that_does_not_reach_the_last_frame_covers_nothing() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(8));
    assert_eq!(announcements(&mut endpoint, 60_000, &[100, 200, 400, 800, 1_600]).len(), 8);
}

#[test]
fn a_number_that_is_not_served_is_not_announced() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(7));
    let mut forged = frame(9);
    *forged.last_mut().unwrap() ^= 1;
    endpoint.put(&forged);
    let said = announcements(&mut endpoint, 60_000, &[]);
    assert!(said.len() == 8 && said.iter().all(|(_, highest)| *highest == 7), "{said:?}");
}

#[test]
fn flows_that_find_no_place_in_a_digest_wait_for_the_next() {
    let mut endpoint = Endpoint::new();
    for flow in 0..16 {
        endpoint.put(&frame_of(HashKey(flow), 1, b"one"));
    }
    endpoint.now += Duration::from_secs(1);
    let mut said = std::collections::HashSet::new();
    for _ in 0..4 {
        let mut entries = Vec::new();
        endpoint.store.announce(endpoint.now, 4, &mut entries);
        assert_eq!(entries.len(), 4);
        said.extend(entries.iter().map(|entry| entry.hash_key.0));
    }
    assert_eq!(said.len(), 16);
    // More flows than the table knows: who was forgotten is counted.
    for flow in 16..20 {
        endpoint.put(&frame_of(HashKey(flow), 1, b"one"));
    }
    assert_eq!(endpoint.store.stats(endpoint.now).flows_forgotten, 4);
}

#[test]
fn coverage_says_what_was_kept_of_each_flow() {
    let mut endpoint = Endpoint::new();
    for seq in [7, 3, 11] {
        endpoint.put(&frame(seq));
    }
    let coverage = endpoint.store.coverage(10);
    assert_eq!(coverage.len(), 1);
    let flow = coverage[0];
    assert_eq!((flow.hash_key, flow.group, flow.lowest, flow.highest, flow.frames), (FLOW.0, 1, 3, 11, 3));
}

proptest! {
    /// Against a model that remembers everything: what the store returns is what was put first, and the newest frames are
    /// always there.
    #[test]
    fn the_store_returns_what_was_put_first(
        puts in proptest::collection::vec((0_u64..6, 1_u64..2000, 0_usize..600), 1..800)
    ) {
        let mut endpoint = Endpoint::with(false, Trusted::default(), rates(1e12));
        let mut model: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        for (at, (flow, seq, len)) in puts.iter().enumerate() {
            let datagram = frame_of(HashKey(*flow), *seq, &vec![u8::try_from(at % 251).unwrap(); *len]);
            endpoint.put(&datagram);
            model.entry((*flow, *seq)).or_insert(datagram);
        }
        for ((flow, seq), datagram) in &model {
            // Everything fits: 800 frames of at most 700 bytes in seven eighths of a MiB.
            let stored = endpoint.store.get(HashKey(*flow), SeqNum(*seq), endpoint.now);
            let stored = stored.map(|stored| endpoint.store.bytes(&stored.place).to_vec());
            prop_assert_eq!(stored.as_ref(), Some(datagram));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- answers --

#[test]
fn a_plain_request_gets_the_replies_of_the_go_stack() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(42));
    let hit = endpoint.ask(&plain(42)).unwrap();
    assert_eq!(hit, Response { verdict: ACK_MULTICAST, seq_num: SeqNum(42), extended: None });
    let miss = endpoint.ask(&plain(43)).unwrap();
    assert_eq!(miss, Response { verdict: Ack::Miss, seq_num: SeqNum(0), extended: None });
}

#[test]
fn a_range_with_holes_is_answered_with_a_bitmap_of_them() {
    let mut endpoint = Endpoint::new();
    for seq in (10..=30).filter(|seq| seq % 7 != 0) {
        endpoint.put(&frame(seq));
    }
    let reply = endpoint.ask(&range(10, 30)).unwrap();
    assert_eq!(reply.verdict, ACK_MULTICAST);
    let extended = reply.extended.unwrap();
    assert_eq!((extended.hash_key, extended.start, extended.end), (FLOW, SeqNum(10), SeqNum(30)));
    let missing: Vec<u64> = (10..=30).filter(|&seq| extended.is_missing(SeqNum(seq))).collect();
    assert_eq!(missing, [14, 21, 28]);
    let sent: Vec<u64> = endpoint.plan.multicast.iter().map(|repair| repair.offset + 10).collect();
    assert_eq!(sent, (10..=30).filter(|seq| seq % 7 != 0).collect::<Vec<_>>());
}

#[test]
fn a_range_at_the_end_of_the_numbers_does_not_wrap() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(u64::MAX));
    let reply = endpoint.ask(&range(u64::MAX - 255, u64::MAX)).unwrap();
    assert_eq!(reply.verdict, ACK_MULTICAST);
    let extended = reply.extended.unwrap();
    assert!(!extended.is_missing(SeqNum(u64::MAX)) && extended.is_missing(SeqNum(u64::MAX - 1)));
}

#[test]
fn no_ack_goes_out_for_data_that_was_not_handed_over() {
    let mut endpoint = Endpoint::new();
    for seq in 1..=4 {
        endpoint.put(&frame(seq));
    }
    assert_eq!(endpoint.ask_taking(&plain(1), 0), None, "nothing was sent, nothing can be said");
    let reply = endpoint.ask_taking(&range(1, 4), 2).unwrap();
    let extended = reply.extended.unwrap();
    let missing: Vec<bool> = (1..=4).map(|seq| extended.is_missing(SeqNum(seq))).collect();
    assert_eq!(missing, [false, false, true, true]);
    // A plain requester hears an ACK for its first number only.
    let reply = endpoint.ask_taking(&request_from(LOCAL, 3, 4, 0), 0);
    assert_eq!(reply, None);
}

#[test]
fn a_repeat_within_the_window_is_sent_once_and_acknowledged_again() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(1));
    endpoint.ask(&plain(1)).unwrap();
    endpoint.now += Duration::from_millis(9);
    let again = endpoint.ask(&request_from("127.0.0.2:5", 1, 1, 0)).unwrap();
    assert_eq!((again.verdict, endpoint.plan.multicast.len(), endpoint.plan.repeated), (ACK_MULTICAST, 0, 1));
    endpoint.now += Duration::from_millis(1);
    endpoint.ask(&plain(1)).unwrap();
    assert_eq!(endpoint.plan.multicast.len(), 1, "after the window it is sent again");
}

#[test]
fn a_repair_that_the_kernel_refused_does_not_open_the_window() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(1));
    endpoint.ask_taking(&plain(1), 0);
    endpoint.ask(&plain(1));
    assert_eq!(endpoint.plan.multicast.len(), 1);
}

#[test]
fn unicast_to_an_unproven_address_never_exceeds_three_times_the_request() {
    let mut endpoint = Endpoint::new();
    endpoint.policy.ways = Ways { multicast: false, unicast: true };
    for seq in 1..=256 {
        endpoint.put(&frame_of(FLOW, seq, &[1]));
    }
    let far = request_from(FAR, 1, 256, Nack::EXTENDED);
    let reply = endpoint.ask(&far).unwrap();
    let data: usize = endpoint.plan.unicast.iter().map(|repair| repair.place.span.len as usize).sum();
    let mut out = [0; Response::MAX_LEN];
    assert!(data + reply.encode(&mut out) <= 3 * far.received);
    assert_eq!(endpoint.plan.unicast.len(), 1);
    assert_eq!(endpoint.plan.multicast.len(), 255, "the rest goes where everybody gets it");

    let near = request_from(LOCAL, 1, 256, Nack::EXTENDED);
    endpoint.ask(&near);
    assert_eq!(endpoint.plan.unicast.len(), 256, "loopback cannot be forged");
}

#[test]
fn an_address_on_the_list_gets_everything_by_unicast() {
    let networks = vec!["192.0.2.0/24".parse::<Network>().unwrap()];
    let mut endpoint = Endpoint::with(true, Trusted::new(networks), rates(1e12));
    endpoint.policy.ways = Ways { multicast: false, unicast: true };
    for seq in 1..=20 {
        endpoint.put(&frame(seq));
    }
    let reply = endpoint.ask(&request_from(FAR, 1, 20, Nack::EXTENDED)).unwrap();
    assert_eq!(reply.verdict, Ack::Ack { multicast: false, unicast: true });
    assert_eq!((endpoint.plan.unicast.len(), endpoint.plan.multicast.len()), (20, 0));
}

#[test]
fn another_endpoint_gets_unicast_and_is_not_answered_into_our_groups_alone() {
    let mut endpoint = Endpoint::new();
    endpoint.policy.ways = Ways { multicast: false, unicast: true };
    endpoint.put(&frame_of(FLOW, 1, &[0; 900]));
    let reply = endpoint.ask(&request_from(FAR, 1, 1, Nack::PROXIED));
    assert_eq!((reply, endpoint.plan.unproven), (None, 1));
    let reply = endpoint.ask(&request_from(LOCAL, 1, 1, Nack::PROXIED)).unwrap();
    assert_eq!(reply.verdict, Ack::Ack { multicast: false, unicast: true });
}

#[test]
fn malformed_requests_get_nothing() {
    let source: SocketAddr = LOCAL.parse().unwrap();
    let read = |bytes: &[u8], most| Request::read(bytes, source, None, most).unwrap_err();
    let nack = |start, end| {
        let nack =
            Nack { flags: 0, hash_key: FLOW, start: SeqNum(start), end: SeqNum(end), subtree_id: [0; 32] };
        nack.encode()
    };
    assert_eq!(read(&nack(1, 1)[..63], 256), BadRequest::Malformed);
    assert_eq!(read(&nack(2, 1), 256), BadRequest::Reversed);
    assert_eq!(read(&nack(1, 257), 256), BadRequest::TooLong);
    assert_eq!(read(&nack(1, 9), 8), BadRequest::TooLong);
    assert_eq!(read(&nack(0, u64::MAX), 256), BadRequest::TooLong);
    assert_eq!(read(&nack(0, 3), 256), BadRequest::Zero);
    let mut wrong = nack(1, 1);
    wrong[6] = 0x11;
    assert_eq!(read(&wrong, 256), BadRequest::Malformed);
    let mut long = nack(1, 256).to_vec();
    long.push(0);
    assert_eq!(Request::read(&long, source, None, 256).unwrap().count(), 256);
}

#[test]
fn the_server_vectors_hold() {
    let path = std::env::var("ONCECAST_VECTORS").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../frame/tests/data/vectors.json").to_owned()
    });
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let section = &vectors["retry_server"];
    let flow = u64::from_str_radix(section["hash_key"].as_str().unwrap(), 16).unwrap();
    for case in section["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut endpoint = Endpoint::new();
        endpoint.put(&frame_of(HashKey(flow), 42, b"the one"));
        let datagram = hex::decode(case["request"].as_str().unwrap()).unwrap();
        let request = Request::read(&datagram, LOCAL.parse().unwrap(), None, 256);
        // Ranges are our extension: generation A drops them.
        if name == "range" {
            let reply = endpoint.ask(&request.unwrap()).unwrap();
            assert_eq!((reply.verdict, reply.seq_num, reply.extended), (ACK_MULTICAST, SeqNum(42), None));
            continue;
        }
        let reply = request.ok().and_then(|request| endpoint.ask(&request));
        let bytes = reply.map(|reply| {
            let mut out = [0; Response::MAX_LEN];
            let len = reply.encode(&mut out);
            hex::encode(&out[..len])
        });
        assert_eq!(bytes.as_deref(), case["reply_genA"].as_str(), "{name}");
        assert_eq!(!endpoint.plan.multicast.is_empty(), case["multicast"].as_bool().unwrap(), "{name}");
    }
}

// ----------------------------------------------------------------------------------------------------------- limits --

#[test]
fn limits_refuse_speak_and_recover() {
    let now = Instant::now();
    let rate = |n: f64| Rate { rate: n, burst: n };
    let rates = RequestRates { ip: rate(5.0), sequence: rate(3.0), chain: rate(100.0) };
    let mut limits = RequestLimits::new(rates, 1, now);
    let (source, other) = ("192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap());
    let nack = |seq| request_from(FAR, seq, seq, 0).nack;
    for _ in 0..3 {
        assert_eq!(limits.check(source, &nack(1), now), Ok(()));
    }
    assert_eq!(
        limits.check(other, &nack(1), now),
        Err(Level::Sequence),
        "for one number of a flow, from anybody"
    );
    assert_eq!(limits.check(source, &nack(2), now), Ok(()));
    assert_eq!(limits.check(source, &nack(3), now), Ok(()));
    assert_eq!(limits.check(source, &nack(4), now), Err(Level::Ip));
    assert_eq!(limits.check(source, &nack(4), now + Duration::from_secs(1)), Ok(()));
}

#[test]
fn a_range_counts_once_and_its_bytes_count() {
    let bytes = Rate { rate: 1.0, burst: 250.0 };
    let many = Rate { rate: 1e9, burst: 1e9 };
    let mut endpoint = Endpoint::with(true, Trusted::default(), RepairRates { group: many, bytes });
    for seq in 1..=4 {
        endpoint.put(&frame_of(FLOW, seq, &[0; 8]));
    }
    let reply = endpoint.ask(&range(1, 4)).unwrap();
    assert_eq!(endpoint.plan.multicast.len(), 2, "two frames of 100 bytes fit 250");
    assert_eq!(endpoint.plan.limited[Level::Bytes.index()], 2);
    assert!(reply.extended.unwrap().is_missing(SeqNum(4)));
    endpoint.now += Duration::from_millis(20);
    let reply = endpoint.ask(&range(3, 4)).unwrap();
    assert_eq!(reply.verdict, Ack::Throttled { bucket: Level::Bytes.bucket() });
}

#[test]
fn a_flood_of_addresses_does_not_grow_the_table() {
    let now = Instant::now();
    let mut buckets = Buckets::new(Rate { rate: 1.0, burst: 2.0 }, 1024, 3, now);
    let size = buckets.len();
    for key in 0..1_000_000_u128 {
        buckets.take((key, 0), 1.0, now);
    }
    assert_eq!((buckets.len(), size), (1024, 1024));
}

proptest! {
    /// A bucket never hands out more than its burst and its rate allow.
    #[test]
    fn a_bucket_keeps_its_rate(steps in proptest::collection::vec((0_u64..500, 1_u32..5), 1..200)) {
        let start = Instant::now();
        let mut now = start;
        let mut buckets = Buckets::new(Rate { rate: 10.0, burst: 20.0 }, 64, 5, start);
        let mut taken = 0.0;
        for (millis, cost) in steps {
            now += Duration::from_millis(millis);
            if buckets.take((1, 2), f64::from(cost), now) {
                taken += f64::from(cost);
            }
            prop_assert!(taken <= 20.0 + 10.0 * (now - start).as_secs_f64() + 1e-6);
        }
    }
}

#[test]
fn networks_are_read_and_matched() {
    let trusted = Trusted::new(vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    for (address, inside) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("10.2.0.1", false),
        ("2001:db8:5::1", true),
        ("2001:db9::1", false),
        ("127.0.0.9", true),
        ("::1", true),
    ] {
        assert_eq!(trusted.contains(address.parse().unwrap()), inside, "{address}");
    }
    for wrong in ["10.0.0.0/33", "::/129", "host", "10.0.0.0/x", ""] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
    assert!(Trusted::new(vec!["::/0".parse().unwrap()]).contains("1.2.3.4".parse().unwrap()));
}

// ------------------------------------------------------------------------------------------------- trains, upstream --

#[test]
fn repairs_ride_in_trains_of_one_group_and_nearly_one_length() {
    let mut endpoint = Endpoint::new();
    for (seq, len) in [100, 105, 98, 300, 310, 2000, 100].into_iter().enumerate() {
        endpoint.put(&frame_of(FLOW, seq as u64 + 1, &vec![1; len]));
    }
    endpoint.ask(&range(1, 7));
    let repairs: Vec<Repair> = endpoint.plan.multicast.clone();
    let rules = TrainRules { frames: 16, frame_bytes: 1452, padding: 15 };
    let counts: Vec<usize> = runs(&repairs, &rules).map(|run| run.count).collect();
    assert_eq!(counts, [3, 2, 1, 1]);
    let single = TrainRules { frames: 1, ..rules };
    assert_eq!(runs(&repairs, &single).count(), 7);
    let equal = TrainRules { padding: 0, ..rules };
    assert_eq!(runs(&repairs, &equal).count(), 7);
}

#[test]
fn a_miss_is_fetched_once_for_all_and_a_failed_fetch_is_released() {
    let start = Instant::now();
    let mut fetches = Fetches::new(2, 2, Duration::from_millis(300));
    let wanted = (FLOW, SeqNum(1));
    assert_eq!(fetches.wish(wanted, start), Wish::Ask(Ask { wanted, endpoint: 0 }));
    assert_eq!(fetches.wish(wanted, start), Wish::Collapsed);
    // The first upstream has nothing, the second is silent.
    assert_eq!(fetches.missed(wanted, 0, start), Some(Ask { wanted, endpoint: 1 }));
    assert_eq!(fetches.missed(wanted, 0, start), None, "a late word of the first changes nothing");
    assert_eq!(fetches.pending(), 1);
    let mut asks = Vec::new();
    assert_eq!(fetches.overdue(start + Duration::from_millis(300), &mut asks), 1);
    assert!(asks.is_empty());
    assert_eq!(fetches.wish(wanted, start), Wish::Ask(Ask { wanted, endpoint: 0 }), "and can be tried again");
    assert!(fetches.arrived(wanted));
    assert!(!fetches.arrived(wanted));
    for seq in 2..=3 {
        fetches.wish((FLOW, SeqNum(seq)), start);
    }
    assert_eq!(fetches.wish((FLOW, SeqNum(4)), start), Wish::Full);
}

#[test]
fn requests_that_leave_together_lose_their_acks_together_when_the_kernel_refuses() {
    let mut endpoint = Endpoint::new();
    endpoint.put(&frame(1));
    let (first, second) = (plain(1), request_from("127.0.0.2:5", 1, 1, 0));
    let mut plan = |request: &Request| {
        endpoint.plan.make(
            request,
            &mut endpoint.store,
            &mut endpoint.limits,
            &endpoint.policy,
            endpoint.now,
        );
        endpoint.plan.multicast_presumed(&mut endpoint.store, endpoint.now);
        (endpoint.plan.multicast.clone(), endpoint.plan.done)
    };
    let (repairs, mut of_first) = plan(&first);
    let (again, mut of_second) = plan(&second);
    assert_eq!((repairs.len(), again.len()), (1, 0), "the second rides on the repair of the first");
    assert!(of_second.reply(&second, true).is_some());
    endpoint.store.unmark_repaired(&repairs[0].place);
    for (request, done) in [(&first, &mut of_first), (&second, &mut of_second)] {
        done.recheck(request, &endpoint.store, &endpoint.policy, endpoint.now);
        assert_eq!(done.reply(request, true), None);
    }
}

#[test]
fn every_metric_follows_the_rules_for_names() {
    let faults: Vec<String> =
        retry_endpoint::runtime::metrics().filter_map(|metric| metric.fault()).collect();
    assert!(faults.is_empty(), "{faults:?}");
}
