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
use proxy_ingress::pipeline::{Ingress, IngressConfig, Next, RoundIo, Transmit};
use proxy_ingress::tally::Tally;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::driver::Driver;
use txidset::{Claims, ClaimsConfig, LocalSet};

const SENDER: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 4_000);
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

/// The kernel, and a session to the store.
struct Outside {
    driver: Driver,
    kernel: [Kernel; 1],
}

impl RoundIo for Outside {
    type Socket = Kernel;

    fn pump(&mut self, claims: &mut Claims, now: Instant) {
        self.driver.pump(claims, now);
    }

    fn sockets(&mut self) -> &mut [Kernel] {
        &mut self.kernel
    }

    fn max_train(&self) -> usize {
        64
    }
}

/// A worker without sockets.
pub struct Pipeline {
    ingress: Ingress,
    burst: Burst,
    outside: Outside,
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
            burst: Burst::new(0, 4 << 20),
            outside: Outside {
                driver: runtime.block_on(Driver::open(backend))?,
                kernel: [Kernel { frames: 0 }],
            },
        })
    }

    /// One round, as a worker makes it.
    pub fn round(&mut self, frames: &[Vec<u8>]) -> anyhow::Result<()> {
        for frame in frames {
            anyhow::ensure!(self.burst.arrive(frame, SENDER, None), "the burst is full");
        }
        self.ingress.begin(Instant::now(), &self.burst);
        loop {
            match self.ingress.commit(Instant::now(), &mut self.burst, &mut self.outside) {
                Next::Asked => {}
                Next::Full { .. } => anyhow::bail!("a kernel that takes everything was full"),
                Next::Done => return Ok(()),
            }
        }
    }

    /// Frames handed over so far.
    pub fn handed_over(&self) -> u64 {
        self.outside.kernel[0].frames
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
        warm.chunks(ROUND).try_for_each(|frames| pipeline.round(frames))?;
        let before = pipeline.handed_over();
        let mut done = Ok(());
        let found = allocation_counter::measure(|| {
            done = steady.chunks(ROUND).try_for_each(|frames| pipeline.round(frames));
        });
        done?;
        let forwarded = pipeline.handed_over() - before;
        // A flow digest may leave as well.
        anyhow::ensure!(forwarded >= steady.len() as u64, "{forwarded} of {} frames left", steady.len());
        alone = found.count_total as f64 / forwarded as f64;
        notes.push(format!("{name}: {} in {forwarded} frames", found.count_total));
    }
    Ok(vec![Row::new("allocations", alone, "a frame", Bar::Most(0.0), notes.join(", "))])
}
