//! `allocations`: heap allocations of the proxy's pipeline for each forwarded frame, in steady state.
//!
//! What runs is the round of a worker, as in a proxy on its own: the memory backend is tier 1 then, verification is on, and
//! the kernel takes everything. The note has a memory store that several roles share: it is asked batch by batch, and a
//! batch allocates.

use crate::row::{Bar, Row};
use crate::traffic;
use anyhow::Context;
use cache_backend::{Backend, Memory};
use frame::{Fabric, ShardBits};
use multicast_io::{Burst, Progress, Span, Train};
use proxy_ingress::pipeline::number::Identity;
use proxy_ingress::pipeline::{Ingress, IngressConfig, Transmit};
use proxy_ingress::tally::Tally;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::driver::Driver;
use txidset::{Claims, ClaimsConfig, LocalSet};

const ROUND: usize = 512;
/// Rounds until every buffer has its size.
const WARM: usize = 64;

struct Kernel {
    frames: u64,
}

impl Transmit for Kernel {
    fn transmit(&mut self, _memory: &[u8], trains: &[Train], _frames: &[Span]) -> Progress {
        let frames = trains.iter().map(|train| train.count as usize).sum();
        self.frames += frames as u64;
        Progress { frames, error: None }
    }
}

/// A worker without sockets.
pub struct Pipeline {
    ingress: Ingress,
    driver: Driver,
    burst: Burst,
    kernel: [Kernel; 1],
}

impl Pipeline {
    /// With the memory backend, or without a second tier.
    pub fn new(memory: bool) -> anyhow::Result<Pipeline> {
        let bits = ShardBits::new(2).context("shard bits")?;
        let now = Instant::now();
        let config = IngressConfig::new(Fabric::V4 { net: 9 }, bits, Identity::Instance([7; 16]));
        let local = Arc::new(LocalSet::starting_at(1 << 17, Duration::from_secs(600), 1, now));
        let claims = Claims::new(ClaimsConfig { tier2: memory, ..ClaimsConfig::default() }, local, 1);
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let backend = memory.then(|| Arc::new(Memory::new(64 << 20)) as Arc<dyn Backend>);
        Ok(Pipeline {
            ingress: Ingress::new(now, config, claims, Arc::new(Tally::new(bits))),
            driver: runtime.block_on(Driver::open(backend))?,
            burst: Burst::new(0, 4 << 20),
            kernel: [Kernel { frames: 0 }],
        })
    }

    /// One round, as a worker makes it.
    pub fn round(&mut self, frames: &[Vec<u8>]) {
        let now = Instant::now();
        let sender = IpAddr::V6(Ipv6Addr::LOCALHOST);
        for frame in frames {
            if let Some(span) = self.burst.push(frame) {
                self.ingress.receive_datagram(now, &self.burst, span, sender);
            }
        }
        self.ingress.ask(now);
        self.driver.pump(self.ingress.claims(), now);
        self.ingress.load(now, &mut self.burst);
        if self.ingress.plan(now, &mut self.burst, 64) {
            self.ingress.emit(now, self.burst.memory(), &mut self.kernel);
        }
        self.ingress.finish(now, &mut self.burst);
        self.burst.clear();
        self.driver.pump(self.ingress.claims(), now);
        self.ingress.tick(now, &mut self.kernel);
    }

    /// Frames handed over so far.
    pub fn handed_over(&self) -> u64 {
        self.kernel[0].frames
    }
}

/// Measures the row.
pub fn rows(quick: bool) -> anyhow::Result<Vec<Row>> {
    let rounds = if quick { 64 } else { 256 };
    let frames = traffic::frames((WARM + rounds) * ROUND, 0)?;
    let mut notes = Vec::new();
    let mut alone = f64::NAN;
    for (name, memory) in [("memory store shared with other roles", true), ("one proxy alone", false)] {
        let mut pipeline = Pipeline::new(memory)?;
        let (warm, steady) = frames.split_at(WARM * ROUND);
        warm.chunks(ROUND).for_each(|frames| pipeline.round(frames));
        let before = pipeline.handed_over();
        let found = allocation_counter::measure(|| {
            steady.chunks(ROUND).for_each(|frames| pipeline.round(frames));
        });
        let forwarded = pipeline.handed_over() - before;
        // A flow digest may leave as well.
        anyhow::ensure!(forwarded >= steady.len() as u64, "{forwarded} of {} frames left", steady.len());
        alone = found.count_total as f64 / forwarded as f64;
        notes.push(format!("{name}: {} in {forwarded} frames", found.count_total));
    }
    Ok(vec![Row::new("allocations", alone, "a frame", Bar::Most(0.0), notes.join(", "))])
}
