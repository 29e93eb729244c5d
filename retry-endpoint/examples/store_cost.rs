//! What the store costs: put against a memcpy of the same frames into an equally large ring, and get of random numbers.
//!
//! `cargo run --release -p retry-endpoint --example store_cost -- [BLOCK] [MEBIBYTES]`: sizes come from the transactions of a
//! raw block file (default: a fixed mix), spread over 4 flows. Both sides write the same bytes in the same order; each is
//! timed on the first round, which touches fresh memory, and on the rounds after, which find the ring cold.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a measurement"
)]

use frame::data::{HeaderFields, encode_header};
use frame::{GroupIndex, HashKey, Kind, SeqNum};
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::store::{Lifetimes, Store, StoreLimits};
use std::hint::black_box;
use std::time::{Duration, Instant};

const FLOWS: u64 = 4;
const ROUNDS: usize = 4;

/// Payload lengths: those of a block, or a mix of its shape.
fn lengths(block: Option<&str>) -> Vec<usize> {
    let Some(path) = block else {
        return [192, 223, 225, 226, 226, 259, 339, 372, 373, 520, 668, 1110].repeat(128);
    };
    let bytes = std::fs::read(path).unwrap();
    let block = frame::block::Block::decode(&bytes).unwrap();
    block.transactions().map(|tx| tx.unwrap().len()).filter(|len| *len <= 1348).collect()
}

/// Frames as they lie in receive buffers: more of them than any cache holds is not the case there, so a few hundred are
/// reused; their numbers are written before each put, on both sides.
fn frames(lengths: &[usize]) -> Vec<Vec<u8>> {
    let make = |(at, len): (usize, &usize)| {
        let mut out = vec![u8::try_from(at % 251).unwrap(); 92 + len];
        let fields = HeaderFields {
            kind: Kind::Tx,
            msg_type: 0,
            id: &[7; 32],
            hash_key: HashKey(at as u64 % FLOWS + 1),
            seq_num: SeqNum(1),
            second_id: &[0; 32],
            payload_len: u32::try_from(*len).unwrap(),
        };
        encode_header(&fields, &mut out).unwrap();
        out
    };
    lengths.iter().take(512).enumerate().map(make).collect()
}

/// The next number of frame `at` in round-robin order.
fn number(frame: &mut [u8], at: u64) {
    frame[48..56].copy_from_slice(&(at / FLOWS + 1).to_be_bytes());
}

struct Ring {
    memory: Vec<u8>,
    at: usize,
}

impl Ring {
    fn put(&mut self, bytes: &[u8]) {
        if self.at + bytes.len() > self.memory.len() {
            self.at = 0;
        }
        self.memory[self.at..][..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// Nanoseconds a frame for each round over the ring.
fn rounds(frames: &mut [Vec<u8>], per_round: u64, mut put: impl FnMut(&[u8])) -> Vec<f64> {
    let mut at = 0;
    let round = |_| {
        let started = Instant::now();
        for _ in 0..per_round {
            let frame = &mut frames[usize::try_from(at).unwrap() % 512];
            number(frame, at);
            put(black_box(frame));
            at += 1;
        }
        started.elapsed().as_nanos() as f64 / per_round as f64
    };
    (0..ROUNDS).map(round).collect()
}

fn show(what: &str, ns: &[f64]) -> f64 {
    let rest = &ns[1..];
    let steady = rest.iter().sum::<f64>() / rest.len() as f64;
    println!("{what:<28} first round {:7.1} ns, then {steady:7.1} ns a frame", ns[0]);
    steady
}

fn main() {
    let mut args = std::env::args().skip(1);
    let block = args.next().filter(|path| path != "-");
    let mebibytes: usize = args.next().map_or(512, |text| text.parse().unwrap());
    let bytes = mebibytes << 20;
    let mut frames = frames(&lengths(block.as_deref()));
    let mean = frames.iter().map(Vec::len).sum::<usize>() as f64 / frames.len() as f64;

    let now = Instant::now();
    let new_store = || {
        Store::new(
            StoreLimits { bytes, flows: 1024 },
            Lifetimes::default(),
            false,
            0x5EED_5EED_5EED_5EED,
            now,
        )
    };
    let capacity = usize::try_from(new_store().stats(now).log_capacity).unwrap();
    let per_round = (capacity as f64 / (mean + 24.0)) as u64;
    println!("{mebibytes} MiB, {per_round} frames of {mean:.0} bytes on average, {FLOWS} flows");

    let mut ring = Ring { memory: vec![0; capacity], at: 0 };
    let floor = show("memcpy into a ring", &rounds(&mut frames, per_round, |frame| ring.put(frame)));
    drop(ring);
    let admitting = rounds(&mut frames, per_round, |frame| {
        let _ = black_box(admit(frame));
    });
    show("admit alone", &admitting);
    let mut store = new_store();
    let put = rounds(&mut frames, per_round, |frame| {
        let admitted = admit(frame).unwrap();
        black_box(store.put(&admitted, GroupIndex(1), now));
    });
    let put = show("admit and put", &put);
    println!("put / memcpy = {:.2}", put / floor);

    let newest = per_round * ROUNDS as u64 / FLOWS;
    let held = per_round / FLOWS * 9 / 10;
    let mut state = 1_u64;
    let gets = 1_000_000_u64;
    let started = Instant::now();
    let mut found = 0_u64;
    for _ in 0..gets {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let seq = SeqNum(newest - (state >> 33) % held);
        found += u64::from(
            store.get(HashKey((state >> 20) % FLOWS + 1), seq, now + Duration::from_secs(1)).is_some(),
        );
    }
    let get = started.elapsed().as_nanos() as f64 / gets as f64;
    println!("get of a random number       {get:.1} ns, {:.1} % found", found as f64 * 100.0 / gets as f64);
}
