//! `store_put`: the frame store against a memcpy of the same frames into an equally large cold ring.

use crate::row::{Bar, Row, median};
use crate::traffic;
use frame::GroupIndex;
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::store::{Lifetimes, Store, StoreLimits};
use std::time::Instant;

/// The ring and the store: well beyond any cache.
const BYTES: usize = 256 << 20;

/// Measures the row.
pub fn rows(quick: bool) -> anyhow::Result<Vec<Row>> {
    let (rounds, passes) = if quick { (3, 2) } else { (7, 4) };
    let mut frames = traffic::frames(1 << 17, 7)?;
    let bytes: usize = frames.iter().map(Vec::len).sum();
    let mut ring = vec![0_u8; BYTES];
    let base = Instant::now();
    let mut store =
        Store::new(StoreLimits { bytes: BYTES, flows: 1024 }, Lifetimes::default(), true, 1, base);
    let (mut at, mut number) = (0, 0_u64);
    let (mut ratios, mut put_ns, mut copy_ns) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (mut put, mut copy) = (0.0, 0.0);
        for _ in 0..passes {
            for frame in &mut frames {
                number += 1;
                frame[48..56].copy_from_slice(&number.to_be_bytes());
            }
            let start = Instant::now();
            for frame in &frames {
                if at + frame.len() > ring.len() {
                    at = 0;
                }
                ring[at..at + frame.len()].copy_from_slice(frame);
                at += frame.len();
            }
            std::hint::black_box(&ring);
            copy += start.elapsed().as_nanos() as f64;
            let start = Instant::now();
            for frame in &frames {
                if let Ok(admitted) = admit(frame) {
                    std::hint::black_box(store.put(&admitted, GroupIndex(0), base));
                }
            }
            put += start.elapsed().as_nanos() as f64;
        }
        // The first round touches the memory for the first time.
        if round > 0 {
            let count = (frames.len() * passes) as f64;
            ratios.push(put / copy);
            put_ns.push(put / count);
            copy_ns.push(copy / count);
        }
    }
    let note = format!(
        "put {:.0} ns, memcpy {:.0} ns; frames of {} bytes on average into {} MiB",
        median(put_ns),
        median(copy_ns),
        bytes / frames.len(),
        BYTES >> 20,
    );
    Ok(vec![Row::new("store_put", median(ratios), "x", Bar::Most(2.0), note)])
}
