//! What a frame costs in the pipeline alone, with a kernel that takes everything for nothing, beside what the double
//! SHA-256 of the same transactions costs. `cargo run --release -p proxy-ingress --example pipeline_cost [BATCH]`.

use frame::block::Block;
use frame::data::{HEADER, HeaderFields, encode_header};
use frame::{Fabric, HashKey, Kind, SeqNum, ShardBits, tx};
use multicast_io::{Burst, Progress, Span, Train};
use proxy_ingress::pipeline::number::Identity;
use proxy_ingress::pipeline::{Ingress, IngressConfig, Next, Policy, RoundIo, Transmit};
use proxy_ingress::tally::Tally;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::{Claims, ClaimsConfig, LocalSet};

const BLOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/block413567.raw");
const ROUNDS: usize = 2_000;
const SENDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 4_000);

/// A kernel that takes everything; it notes when an emission began, and when it was over.
struct Nothing {
    began: Option<Instant>,
    pumped: Instant,
}

impl Transmit for Nothing {
    fn transmit(&mut self, _: &[u8], trains: &[Train], _: &[Span]) -> Progress {
        self.began.get_or_insert_with(Instant::now);
        Progress { frames: trains.iter().map(|train| train.count as usize).sum(), error: None }
    }
}

/// No store.
struct Outside([Nothing; 1]);

impl RoundIo for Outside {
    type Socket = Nothing;

    fn pump(&mut self, _: &mut Claims, _: Instant) {
        self.0[0].pumped = Instant::now();
    }

    fn sockets(&mut self) -> &mut [Nothing] {
        &mut self.0
    }

    fn max_train(&self) -> usize {
        64
    }
}

fn main() -> anyhow::Result<()> {
    let batch = std::env::args().nth(1).map_or(Ok(256), |text| text.parse())?;
    let bytes = std::fs::read(BLOCK)?;
    let mut transactions: Vec<Vec<u8>> = Vec::new();
    for transaction in Block::decode(&bytes)?.transactions() {
        let transaction = transaction?;
        if transaction.len() <= 1_348 {
            transactions.push(transaction.to_vec());
        }
    }
    for verify in [true, false] {
        let now = Instant::now();
        let bits = ShardBits::new(2).ok_or_else(|| anyhow::anyhow!("shard bits"))?;
        let tally = Arc::new(Tally::new(bits));
        let local = Arc::new(LocalSet::new(1 << 20, Duration::from_secs(600), 1));
        let claims = Claims::new(ClaimsConfig::default(), local, 1);
        let mut ingress = Ingress::new(now, config(bits, verify), claims, Arc::clone(&tally));
        let mut burst = Burst::new(0, 16 << 20);
        let mut source = Source { transactions: transactions.clone(), at: 0, nonce: 0 };
        let mut stages = [Duration::ZERO; 3];
        let mut hashing = Duration::ZERO;
        for _ in 0..ROUNDS {
            source.fill(&mut burst, batch)?;
            let start = Instant::now();
            for arrival in burst.arrivals() {
                black_box(tx::sha256d(&burst.bytes(arrival.span)[HEADER..]));
            }
            hashing += start.elapsed();
            round(&mut ingress, &mut burst, &mut stages);
        }
        let frames = (ROUNDS * batch) as f64;
        let each = |time: Duration| time.as_nanos() as f64 / frames;
        println!("batch {batch}, verification {}:", if verify { "on" } else { "off" });
        println!("  double SHA-256 alone   {:6.0} ns a frame", each(hashing));
        for (name, time) in
            ["admit and claim", "load, plan and number", "emit and answer claims"].iter().zip(stages)
        {
            println!("  {name:<22} {:6.0}", each(time));
        }
        println!("  sum                    {:6.0}", each(stages.iter().sum()));
        println!("  frames a train {:.1}", tally.emitted.get() as f64 / tally.trains.get() as f64);
        anyhow::ensure!(tally.emitted.get() == (ROUNDS * batch) as u64, "not every frame left");
    }
    Ok(())
}

fn round(ingress: &mut Ingress, burst: &mut Burst, stages: &mut [Duration; 3]) {
    let start = Instant::now();
    let mut outside = Outside([Nothing { began: None, pumped: start }]);
    ingress.begin(start, burst);
    ingress.commit(start, burst, &mut outside);
    let asked = outside.0[0].pumped;
    while ingress.commit(asked, burst, &mut outside) != Next::Done {}
    let [Nothing { began, pumped }] = outside.0;
    let began = began.unwrap_or(pumped);
    for (sum, time) in stages.iter_mut().zip([asked - start, began - asked, pumped - began]) {
        *sum += time;
    }
}

/// The block again and again, each time with other lock times and so with other ids.
struct Source {
    transactions: Vec<Vec<u8>>,
    at: usize,
    nonce: u32,
}

impl Source {
    fn fill(&mut self, burst: &mut Burst, count: usize) -> anyhow::Result<()> {
        let mut frame = Vec::new();
        for _ in 0..count {
            let len = self.transactions.len();
            let transaction = &mut self.transactions[self.at % len];
            let lock_time = transaction.len() - 4;
            self.nonce += 1;
            transaction[lock_time..].copy_from_slice(&self.nonce.to_le_bytes());
            self.at += 1;
            let id = tx::canonical_txid(transaction)?;
            frame.clear();
            frame.resize(HEADER, 0);
            let fields = HeaderFields {
                kind: Kind::Tx,
                msg_type: 0,
                id: &id.0,
                hash_key: HashKey(0),
                seq_num: SeqNum(0),
                second_id: &[0; 32],
                payload_len: u32::try_from(transaction.len())?,
            };
            encode_header(&fields, &mut frame);
            frame.extend_from_slice(transaction);
            anyhow::ensure!(burst.arrive(&frame, SENDER, None), "burst full");
        }
        Ok(())
    }
}

fn config(shard_bits: ShardBits, verify: bool) -> IngressConfig {
    IngressConfig {
        policy: Policy { verify_payload_hash: verify, ..Policy::default() },
        ..IngressConfig::new(Fabric::V4 { net: 9 }, shard_bits, Identity::Instance([7; 16]))
    }
}
