//! The store in virtual time: what is kept, for how long, and what is announced.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use frame::subtree::{Nodes, SubtreeData};
use frame::{HashKey, Id, Kind, SeqNum, TxId};
use proptest::prelude::*;
use retry_endpoint::pipeline::admit::{Refusal, admit};
use retry_endpoint::pipeline::store::{Lifetimes, Put, Store, StoreLimits};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use support::{FLOW, GROUP, frame, frame_of, frame_with};

/// One store with a clock that the test moves.
struct Shelf {
    now: Instant,
    store: Store,
}

impl Shelf {
    fn new() -> Shelf {
        Shelf::verifying(true)
    }

    fn verifying(verify: bool) -> Shelf {
        let now = Instant::now();
        let limits = StoreLimits { bytes: 1 << 20, flows: 16 };
        Shelf { now, store: Store::new(limits, Lifetimes::default(), verify, 7, now) }
    }

    fn put(&mut self, datagram: &[u8]) -> Put {
        self.store.put(&admit(datagram).unwrap(), GROUP, self.now)
    }

    fn get(&mut self, seq: u64) -> Option<Vec<u8>> {
        let stored = self.store.get(FLOW, SeqNum(seq), self.now)?;
        Some(self.store.bytes(&stored.place).to_vec())
    }
}

#[test]
fn a_frame_is_kept_without_the_padding_of_its_train() {
    let mut shelf = Shelf::new();
    let clean = frame(5);
    let mut padded = clean.clone();
    padded.extend([0; 40]);
    assert_eq!(shelf.put(&padded), Put::Stored { new_flow: true });
    assert_eq!(shelf.get(5), Some(clean.clone()));
    assert_eq!(shelf.put(&clean), Put::Duplicate);
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
    }
    // The first by its number, one by its form below; the last four are the store's word, not that of `admit`.
    assert_eq!(Refusal::ALL.len(), 8 + 4);
    let lying = {
        let mut datagram = frame(1);
        datagram[88..92].copy_from_slice(&u32::MAX.to_be_bytes());
        datagram
    };
    assert_eq!(admit(&lying), Err(Refusal::Undecodable));
}

#[test]
fn the_first_writer_of_a_number_wins() {
    let mut shelf = Shelf::new();
    let (first, second) = (frame_of(FLOW, 9, b"first"), frame_of(FLOW, 9, b"second"));
    shelf.put(&first);
    assert_eq!(shelf.put(&second), Put::Conflict);
    assert_eq!(shelf.get(9), Some(first));
}

#[test]
fn a_forgery_neither_is_served_nor_keeps_the_genuine_frame_out() {
    let mut shelf = Shelf::new();
    let genuine = frame(9);
    let mut forged = genuine.clone();
    *forged.last_mut().unwrap() ^= 1;
    shelf.put(&forged);
    assert_eq!(shelf.get(9), None);
    assert_eq!(shelf.put(&genuine), Put::Stored { new_flow: false });
    assert_eq!(shelf.get(9), Some(genuine.clone()));

    let mut other = Shelf::new();
    other.put(&forged);
    assert_eq!(other.put(&genuine), Put::Replaced);
    assert_eq!(other.get(9), Some(genuine.clone()));

    let mut trusting = Shelf::verifying(false);
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
        let mut shelf = Shelf::new();
        shelf.put(&frame_with(Kind::Subtree, FLOW, 9, &root, &data(wrong)));
        assert_eq!(shelf.get(9), None);
        assert_eq!(shelf.put(&genuine), Put::Stored { new_flow: false });
        assert_eq!(shelf.get(9), Some(genuine.clone()));
    }
}

#[test]
fn the_oldest_segment_leaves_first_and_memory_stays() {
    let mut shelf = Shelf::new();
    let payload = vec![7; 1000];
    let most = 3 * (1 << 20) / 1100;
    let mut capacity = 0;
    for seq in 1..=most {
        shelf.put(&frame_of(FLOW, seq, &payload));
        capacity = shelf.store.stats(shelf.now).log_capacity;
        assert!(shelf.store.stats(shelf.now).log_bytes <= capacity);
    }
    assert!(capacity <= 1 << 20);
    let held: Vec<u64> = (1..=most).filter(|&seq| shelf.get(seq).is_some()).collect();
    assert_eq!(held.last(), Some(&most));
    assert_eq!(held.len() as u64, most - held[0] + 1, "what is held is one run up to the newest");
    assert!(shelf.store.stats(shelf.now).segments_left > 0);
}

#[test]
fn a_hostile_jump_in_numbers_costs_no_more_than_a_frame() {
    let mut shelf = Shelf::new();
    let jumps = [1, 1 << 20, 1 << 40, u64::MAX - 1, u64::MAX, 2];
    for seq in jumps {
        assert!(matches!(shelf.put(&frame(seq)), Put::Stored { .. }));
    }
    for seq in jumps {
        assert_eq!(shelf.get(seq), Some(frame(seq)));
    }
    assert_eq!(shelf.store.stats(shelf.now).pages, 4);
}

#[test]
fn scattered_numbers_fill_the_index_and_nothing_else() {
    let mut shelf = Shelf::new();
    for seq in 1..20_000_u64 {
        shelf.put(&frame(seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
    }
    let stats = shelf.store.stats(shelf.now);
    assert!(stats.pages * 96 <= (1 << 20) / 8, "{stats:?}");
    assert!(stats.pages_evicted > 0, "{stats:?}");
}

#[test]
fn a_slow_flow_survives_beside_a_busy_one_as_long_as_its_bytes_do() {
    let mut shelf = Shelf::new();
    let slow = HashKey(1);
    let mut last_slow = 0;
    for seq in 1..=30_000_u64 {
        shelf.put(&frame(seq));
        if seq % 500 == 0 {
            last_slow += 1;
            shelf.put(&frame_of(slow, last_slow, b"slow"));
        }
    }
    let now = shelf.now;
    assert!(shelf.store.get(slow, SeqNum(last_slow), now).is_some());
    assert!(shelf.store.get(slow, SeqNum(last_slow - 1), now).is_some());
    assert_eq!(shelf.store.stats(now).pages_evicted, 0);
}

#[test]
fn frames_are_served_for_their_lifetime_and_not_longer() {
    let mut shelf = Shelf::new();
    shelf.put(&frame(1));
    shelf.now += Duration::from_secs(60);
    assert!(shelf.get(1).is_some());
    shelf.now += Duration::from_millis(1);
    assert!(shelf.get(1).is_none());
    assert_eq!(shelf.put(&frame_of(FLOW, 1, b"anew")), Put::Stored { new_flow: false });
    assert!(shelf.get(1).is_some());
}

#[test]
fn flows_are_bounded_and_frames_of_forgotten_flows_are_still_served() {
    let mut shelf = Shelf::new();
    for flow in 1..=100 {
        shelf.put(&frame_of(HashKey(flow), 1, b"one"));
        shelf.now += Duration::from_micros(1);
    }
    assert_eq!(shelf.store.stats(shelf.now).flows, 16);
    let now = shelf.now;
    assert!((1..=100).all(|flow| shelf.store.get(HashKey(flow), SeqNum(1), now).is_some()));
}

/// Milliseconds from the start at which the flow is announced until `end`, and the numbers named; `digests`: when its
/// sender announces 7.
fn announcements(shelf: &mut Shelf, end: u64, digests: &[u64]) -> Vec<(u64, u64)> {
    let start = shelf.now;
    let mut said = Vec::new();
    for at in (0..end).step_by(10) {
        shelf.now = start + Duration::from_millis(at);
        if digests.contains(&at) {
            shelf.store.on_digest(FLOW, SeqNum(7), shelf.now);
        }
        let mut entries = Vec::new();
        if shelf.store.next_announcement().is_some_and(|due| due <= shelf.now) {
            shelf.store.announce(shelf.now, 100, &mut entries);
        }
        assert!(entries.iter().all(|entry| entry.hash_key == FLOW && entry.group == GROUP));
        said.extend(entries.iter().map(|entry| (at, entry.highest.0)));
    }
    said
}

#[test]
fn a_flow_that_falls_silent_is_announced_a_few_times_ever_less_often() {
    let mut shelf = Shelf::new();
    for seq in [3, 7, 5] {
        shelf.put(&frame(seq));
    }
    let said = announcements(&mut shelf, 200_000, &[]);
    assert_eq!(said.iter().map(|(_, highest)| *highest).collect::<Vec<_>>(), [7; 8]);
    assert!(said.windows(2).all(|pair| pair[1].0 - pair[0].0 >= pair[0].0 / 2), "{said:?}");
    assert!(said[0].0 <= 600 && said[7].0 >= 30_000 && said[7].0 < 60_000, "{said:?}");
    // It speaks again, and falls silent again.
    shelf.put(&frame(8));
    assert_eq!(announcements(&mut shelf, 200_000, &[]).len(), 8);
}

#[test]
fn a_flow_that_its_sender_announces_is_not_announced() {
    let mut shelf = Shelf::new();
    shelf.put(&frame(7));
    // As a proxy does (`digest` there), at each point of its round.
    for phase in (0..100).step_by(10) {
        let digests: Vec<u64> = [100, 200, 400, 800, 1_600, 3_200, 6_400, 16_400, 26_400, 36_400]
            .iter()
            .map(|at| at - phase)
            .collect();
        let mut shelf = Shelf::new();
        shelf.put(&frame(7));
        assert_eq!(announcements(&mut shelf, 60_000, &digests), [], "{phase}");
    }
}

#[test]
fn a_sender_that_dies_after_one_digest_is_spoken_for() {
    let mut shelf = Shelf::new();
    shelf.put(&frame(7));
    assert_eq!(announcements(&mut shelf, 60_000, &[150]).len(), 7);
}

#[test]
fn a_digest_that_does_not_reach_the_last_frame_covers_nothing() {
    let mut shelf = Shelf::new();
    shelf.put(&frame(8));
    assert_eq!(announcements(&mut shelf, 60_000, &[100, 200, 400, 800, 1_600]).len(), 8);
}

#[test]
fn a_number_that_is_not_served_is_not_announced() {
    let mut shelf = Shelf::new();
    shelf.put(&frame(7));
    let mut forged = frame(9);
    *forged.last_mut().unwrap() ^= 1;
    shelf.put(&forged);
    let said = announcements(&mut shelf, 60_000, &[]);
    assert!(said.len() == 8 && said.iter().all(|(_, highest)| *highest == 7), "{said:?}");
}

#[test]
fn flows_that_find_no_place_in_a_digest_wait_for_the_next() {
    let mut shelf = Shelf::new();
    for flow in 0..16 {
        shelf.put(&frame_of(HashKey(flow), 1, b"one"));
    }
    shelf.now += Duration::from_secs(1);
    let mut said = std::collections::HashSet::new();
    for _ in 0..4 {
        let mut entries = Vec::new();
        shelf.store.announce(shelf.now, 4, &mut entries);
        assert_eq!(entries.len(), 4);
        said.extend(entries.iter().map(|entry| entry.hash_key.0));
    }
    assert_eq!(said.len(), 16);
    // More flows than the table knows: who was forgotten is counted.
    for flow in 16..20 {
        shelf.put(&frame_of(HashKey(flow), 1, b"one"));
    }
    assert_eq!(shelf.store.stats(shelf.now).flows_forgotten, 4);
}

#[test]
fn coverage_says_what_was_kept_of_each_flow() {
    let mut shelf = Shelf::new();
    for seq in [7, 3, 11] {
        shelf.put(&frame(seq));
    }
    let coverage = shelf.store.coverage(10);
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
        let mut shelf = Shelf::verifying(false);
        let mut model: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
        for (at, (flow, seq, len)) in puts.iter().enumerate() {
            let datagram = frame_of(HashKey(*flow), *seq, &vec![u8::try_from(at % 251).unwrap(); *len]);
            shelf.put(&datagram);
            model.entry((*flow, *seq)).or_insert(datagram);
        }
        for ((flow, seq), datagram) in &model {
            // Everything fits: 800 frames of at most 700 bytes in seven eighths of a MiB.
            let stored = shelf.store.get(HashKey(*flow), SeqNum(*seq), shelf.now);
            let stored = stored.map(|stored| shelf.store.bytes(&stored.place).to_vec());
            prop_assert_eq!(stored.as_ref(), Some(datagram));
        }
    }
}
