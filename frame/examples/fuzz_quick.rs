//! Puts random and mutated datagrams through every decoder, on stable Rust and in minutes: `make fuzz-quick`.
//!
//! `--iterations N` of each sort (default 10,000,000), `--seed N` (default: printed at the start), `--threads N`,
//! `--corpus DIR` (writes the valid inputs as a seed corpus for cargo-fuzz and ends). The work is cut into shards with
//! their own seeds, so a run is the same whatever the number of threads. A panic prints the input and ends with status 1.

#[path = "../../fuzz/src/decoders.rs"]
#[allow(unreachable_pub, reason = "the fuzz crate exports the same file")]
mod decoders;

use decoders::DECODERS;
use frame::control::{Ack, Extended};
use frame::digest::{self, Entry};
use frame::{GroupIndex, HashKey, Id, Response, SeqNum};
use std::io::IsTerminal;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SHARDS: u64 = 256;
const LONGEST: u64 = 2048;

fn main() {
    let options = Options::from_arguments();
    let seeds = seeds();
    if let Some(directory) = &options.corpus {
        return write_corpus(directory, &seeds);
    }
    println!("seed {} · {} seeds · {} threads", options.seed, seeds.len(), options.threads);
    for sort in [Sort::Random, Sort::Mutated] {
        run(sort, &options, &seeds);
    }
}

#[derive(Clone, Copy, Debug)]
enum Sort {
    /// Random bytes; half of them behind a valid prologue, so that they pass the first checks.
    Random,
    /// A valid input, changed.
    Mutated,
}

struct Options {
    iterations: u64,
    seed: u64,
    threads: u64,
    corpus: Option<String>,
}

impl Options {
    fn from_arguments() -> Options {
        let since_epoch = std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.subsec_nanos());
        let threads = std::thread::available_parallelism().map_or(1, |n| u64::try_from(n.get()).unwrap_or(1));
        let mut options = Options { iterations: 10_000_000, seed: since_epoch.into(), threads, corpus: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().unwrap_or_else(|| usage(&name, "nothing"));
            let number = || value.parse().unwrap_or_else(|_| usage(&name, &value));
            match name.as_str() {
                "--iterations" => options.iterations = number(),
                "--seed" => options.seed = number(),
                "--threads" => options.threads = number().max(1),
                "--corpus" => options.corpus = Some(value),
                _ => usage(&name, &value),
            }
        }
        options
    }
}

fn usage(name: &str, value: &str) -> ! {
    eprintln!("{name} {value}: accepted are --iterations N, --seed N, --threads N and --corpus DIR");
    std::process::exit(2)
}

/// Inputs of which every decoder accepts some: all hex strings of the wire vectors, and what the vectors lack.
fn seeds() -> Vec<Vec<u8>> {
    let vectors = include_str!("../tests/data/vectors.json");
    let mut seeds = Vec::new();
    match serde_json::from_str(vectors) {
        Ok(value) => collect_hex(&value, &mut seeds),
        Err(error) => panic!("tests/data/vectors.json: {error}"),
    }
    let mut extended = [0; Response::MAX_LEN];
    for last in [1, 8, 9, Extended::MAX_RANGE] {
        let mut extension = Extended::new(HashKey(7), SeqNum(1), SeqNum(last));
        if let Some(extension) = &mut extension {
            extension.set_missing(SeqNum(last));
        }
        let verdict = Ack::Ack { multicast: true, unicast: true };
        let len = Response { verdict, seq_num: SeqNum(1), extended: extension }.encode(&mut extended);
        seeds.push(extended[..len].to_vec());
    }
    let entry =
        Entry { hash_key: HashKey(7), highest: SeqNum(9), group: GroupIndex(3), subtree_id: Id::default() };
    let mut digest = [0; 600];
    let (len, _) = digest::encode(&[entry; 8], &mut digest);
    seeds.push(digest[..len].to_vec());
    seeds.push(block_of(&seeds));
    seeds
}

fn collect_hex(value: &serde_json::Value, seeds: &mut Vec<Vec<u8>>) {
    match value {
        serde_json::Value::String(text) => {
            seeds.extend(hex::decode(text).ok().filter(|bytes| bytes.len() > 8))
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_hex(item, seeds)),
        serde_json::Value::Object(fields) => fields.values().for_each(|item| collect_hex(item, seeds)),
        _ => {}
    }
}

/// A block of the transactions among the seeds.
fn block_of(seeds: &[Vec<u8>]) -> Vec<u8> {
    let whole = |seed: &&Vec<u8>| frame::tx::parse(seed).is_ok_and(|parsed| parsed.len == seed.len());
    let transactions: Vec<&Vec<u8>> = seeds.iter().filter(whole).take(8).collect();
    let mut block = vec![0; frame::block::HEADER];
    block.extend(u8::try_from(transactions.len()));
    transactions.into_iter().for_each(|transaction| block.extend(transaction));
    block
}

fn write_corpus(directory: &str, seeds: &[Vec<u8>]) {
    let written = std::fs::create_dir_all(directory).and_then(|()| {
        seeds.iter().enumerate().try_for_each(|(i, seed)| std::fs::write(format!("{directory}/{i:04}"), seed))
    });
    match written {
        Ok(()) => println!("{} files in {directory}", seeds.len()),
        Err(error) => panic!("{directory}: {error}"),
    }
}

/// Runs all shards of one sort and prints what was accepted.
fn run(sort: Sort, options: &Options, seeds: &[Vec<u8>]) {
    let started = Instant::now();
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let accepted: Vec<AtomicU64> = DECODERS.iter().map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let shard = next.fetch_add(1, Ordering::Relaxed);
                    if shard >= SHARDS {
                        break;
                    }
                    let iterations =
                        options.iterations * (shard + 1) / SHARDS - options.iterations * shard / SHARDS;
                    let counts = run_shard(sort, options.seed, shard, iterations, seeds);
                    for (total, count) in accepted.iter().zip(counts) {
                        total.fetch_add(count, Ordering::Relaxed);
                    }
                    done.fetch_add(iterations, Ordering::Relaxed);
                }
            });
        }
        if std::io::stderr().is_terminal() {
            show_progress(sort, options.iterations, &done);
        }
    });
    println!(
        "{sort:?}: {} datagrams in {:.1} s, accepted:",
        options.iterations,
        started.elapsed().as_secs_f64()
    );
    for (decoder, count) in DECODERS.iter().zip(&accepted) {
        println!("  {:<24}{:>10}", decoder.name, count.load(Ordering::Relaxed));
    }
}

fn show_progress(sort: Sort, all: u64, done: &AtomicU64) {
    while done.load(Ordering::Relaxed) < all {
        eprint!("\r{sort:?}: {:>3} %", done.load(Ordering::Relaxed) * 100 / all.max(1));
        std::thread::sleep(Duration::from_millis(200));
    }
    eprint!("\r                    \r");
}

fn run_shard(sort: Sort, seed: u64, shard: u64, iterations: u64, seeds: &[Vec<u8>]) -> [u64; DECODERS.len()] {
    let mut random = Random(seed ^ shard << 32 ^ (sort as u64) << 63);
    let mut counts = [0; DECODERS.len()];
    let mut bytes = Vec::new();
    for _ in 0..iterations {
        bytes.clear();
        match sort {
            Sort::Random => random_datagram(&mut random, &mut bytes),
            Sort::Mutated => mutated_datagram(&mut random, seeds, &mut bytes),
        }
        let Ok(mut accepted) = catch_unwind(|| decoders::exercise(&bytes)) else {
            eprintln!("PANIC on {sort:?} input of shard {shard}, seed {seed}: {}", hex::encode(&bytes));
            std::process::exit(1);
        };
        while accepted != 0 {
            counts[accepted.trailing_zeros() as usize] += 1;
            accepted &= accepted - 1;
        }
    }
    counts
}

fn random_datagram(random: &mut Random, bytes: &mut Vec<u8>) {
    // Short ones matter most: the checks are at the front.
    let longest = if random.one_in(4) { LONGEST } else { 160 };
    let len = random.below(longest);
    random.fill(bytes, len);
    if random.one_in(2) {
        let kind = frame::Kind::ALL[random.index(frame::Kind::ALL.len())];
        let [a, b, c, d] = frame::MAGIC;
        bytes.splice(..bytes.len().min(7), [a, b, c, d, 0x02, 0xBF, kind as u8]);
        // Declared lengths are uniform in 32 bits: without this none would ever fit.
        for at in [40, 62, 88] {
            if random.one_in(2) && bytes.len() > at + 4 {
                bytes[at..at + 3].fill(0);
            }
        }
    }
}

fn mutated_datagram(random: &mut Random, seeds: &[Vec<u8>], bytes: &mut Vec<u8>) {
    bytes.extend(&seeds[random.index(seeds.len())]);
    for _ in 0..=random.below(3) {
        mutate(random, seeds, bytes);
    }
}

/// One change: flip, overwrite, cut, grow, drop, repeat or splice.
fn mutate(random: &mut Random, seeds: &[Vec<u8>], bytes: &mut Vec<u8>) {
    const EDGES: [u64; 10] =
        [0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, u32::MAX as u64, 1 << 59, i64::MAX as u64, u64::MAX];
    let at = random.index(bytes.len() + 1);
    let rest = bytes.len() - at;
    match random.below(8) {
        0 | 1 if rest > 0 => bytes[at] ^= 1 << random.below(8),
        2 if rest > 0 => bytes[at] = random.byte(),
        3 => {
            let edge = EDGES[random.index(EDGES.len())];
            let edge = if random.one_in(2) { edge.to_be_bytes() } else { edge.to_le_bytes() };
            let width = (1 << random.below(4)).min(rest);
            bytes[at..at + width].copy_from_slice(&edge[8 - width..]);
        }
        4 => bytes.truncate(at),
        5 => {
            let more = random.below(200);
            random.fill(bytes, more);
        }
        6 => {
            let range = at..at + random.index(rest + 1).min(64);
            if random.one_in(2) {
                bytes.drain(range);
            } else {
                bytes.extend_from_within(range);
            }
        }
        _ => {
            let other = &seeds[random.index(seeds.len())];
            bytes.truncate(at);
            bytes.extend(&other[at.min(other.len())..]);
        }
    }
}

/// SplitMix64: small, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(u64::try_from(len).unwrap_or(1))).unwrap_or(0)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// Appends `len` random bytes.
    fn fill(&mut self, bytes: &mut Vec<u8>, len: u64) {
        let end = bytes.len() + usize::try_from(len).unwrap_or(0);
        while bytes.len() < end {
            bytes.extend(self.next().to_ne_bytes());
        }
        bytes.truncate(end);
    }
}
