//! Prints how long trains become with the transactions of a real block: frames a train and bytes of padding, by batch
//! and number of groups. `cargo run -p proxy-ingress --example train_length [BLOCK]`.

use frame::block::Block;
use frame::{ShardBits, data, tx};
use proxy_ingress::pipeline::train::{Order, TrainFrame, TrainLimits, TrainPlan};
use std::time::{Duration, Instant};

const DEFAULT_BLOCK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/block413567.raw");
/// Frames planned for one row of the table.
const FRAMES: usize = 1 << 16;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).unwrap_or_else(|| DEFAULT_BLOCK.to_owned());
    let bytes = std::fs::read(&path)?;
    let block = Block::decode(&bytes)?;
    let mut whole = Vec::new();
    for transaction in block.transactions() {
        let transaction = transaction?;
        if transaction.len() <= 1_348 {
            whole.push((tx::canonical_txid(transaction)?, u16::try_from(data::HEADER + transaction.len())?));
        }
    }
    println!("{} transactions of up to 1,348 bytes in {path}", whole.len());
    println!("batch  groups  padding  frames/train  +bytes   ns/frame");
    for (batch, bits) in [(64, 2), (256, 2), (1024, 2), (1024, 0), (1024, 4), (1024, 8)] {
        let bits = ShardBits::new(bits).ok_or_else(|| anyhow::anyhow!("shard bits"))?;
        for (padding_percent, order) in [(0, Order::Length), (15, Order::Length), (15, Order::Arrival)] {
            let frames: Vec<TrainFrame> =
                whole.iter().map(|(id, len)| TrainFrame::whole(bits.group_of(&id.0), *len)).collect();
            let row = measure(&frames, batch, padding_percent, order);
            println!(
                "{batch:5}  {:6}  {:>7}  {:12.1}  {:5.1} %  {:8.0}",
                bits.groups(),
                if order == Order::Arrival { "arrival".to_owned() } else { format!("{padding_percent} %") },
                row.frames as f64 / row.trains as f64,
                100.0 * row.padding as f64 / row.bytes as f64,
                row.time.as_nanos() as f64 / row.frames as f64,
            );
        }
    }
    Ok(())
}

struct Row {
    frames: usize,
    trains: usize,
    bytes: u64,
    padding: u64,
    time: Duration,
}

/// Plans batches that walk through the block again and again.
fn measure(frames: &[TrainFrame], batch: usize, padding_percent: u32, order: Order) -> Row {
    let limits =
        TrainLimits { max_frames: 64, max_bytes: 65_487, max_segment: 1_452, padding_percent, order };
    let mut row = Row { frames: 0, trains: 0, bytes: 0, padding: 0, time: Duration::ZERO };
    let mut plan = TrainPlan::new();
    let endless: Vec<TrainFrame> = frames.iter().copied().cycle().take(FRAMES).collect();
    for frames in endless.chunks(batch) {
        let start = Instant::now();
        plan.make(&limits, frames);
        row.time += start.elapsed();
        row.frames += frames.len();
        row.trains += plan.trains.len();
        row.bytes += frames.iter().map(|frame| u64::from(frame.len)).sum::<u64>();
        row.padding += plan.padding;
    }
    row
}
