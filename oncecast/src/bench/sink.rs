//! `oncecast bench sink`: receives and counts, nothing else. With `--latency` it reads the stamps of `bench generate`.

use super::generate::micros;
use super::load;
use super::shared::{End, Ending, Groups};
use anyhow::Context;
use multicast_io::{Burst, Interface, Ready, Receiver, SocketOptions, thread_time};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Width of the bins over which a rate is taken.
const BIN: Duration = Duration::from_millis(10);
/// Longest latency told apart, µs; beyond it counts as this.
const LONGEST: usize = 1 << 20;

/// Join the groups (or bind a port), receive with GRO, count.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    groups: Groups,
    /// Join no group: take what is sent to this address
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<SocketAddr>,
    /// Read the time of sending out of each transaction
    #[arg(long)]
    latency: bool,
    /// Take datagrams one by one
    #[arg(long)]
    no_gro: bool,
    /// Receive buffer, bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    buffer: usize,
    #[command(flatten)]
    ending: Ending,
}

struct Count {
    frames: u64,
    bytes: u64,
    bins: Vec<u64>,
    latencies: Vec<u32>,
}

/// Counts until nothing comes any more.
pub fn run(args: &Args) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(count(args))
}

fn open(args: &Args) -> anyhow::Result<Receiver> {
    let bind = args.bind.unwrap_or(SocketAddr::new("::".parse()?, args.groups.port));
    let mut options = SocketOptions::new(bind);
    options.reuse_address = true;
    options.gro = !args.no_gro;
    options.receive_buffer = Some(args.buffer);
    let receiver = Receiver::open(&options)?;
    if args.bind.is_none() {
        let on = Interface::by_name(&args.groups.iface).context("--iface")?;
        for group in args.groups.all()? {
            receiver.join(args.groups.destination(group).ip(), &on)?;
        }
    }
    Ok(receiver)
}

async fn count(args: &Args) -> anyhow::Result<serde_json::Value> {
    let mut receiver = Ready::new(open(args)?)?;
    let mut burst = Burst::new(64, 0);
    let latencies = if args.latency { vec![0; LONGEST] } else { Vec::new() };
    let mut count = Count { frames: 0, bytes: 0, bins: Vec::new(), latencies };
    let mut end = End::new(&args.ending);
    let (mut began, mut first) = (thread_time()?, None);
    eprintln!("ready");
    while let Some(left) = end.left(Instant::now()) {
        burst.clear();
        let received = receiver.read_with(|receiver| receiver.receive(&mut burst, 64));
        match tokio::time::timeout(left, received).await {
            Err(_) => continue,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(received) => received.context("receiving")?,
        };
        let now = Instant::now();
        if first.is_none() {
            began = thread_time()?;
        }
        end.moved(now);
        count.take(&burst, now.saturating_duration_since(*first.get_or_insert(now)))?;
    }
    count.report(receiver.get_ref(), began)
}

impl Count {
    fn take(&mut self, burst: &Burst, since: Duration) -> anyhow::Result<()> {
        let arrivals = burst.arrivals();
        self.frames += arrivals.len() as u64;
        self.bytes += arrivals.iter().map(|arrival| u64::from(arrival.span.len)).sum::<u64>();
        let bin = usize::try_from(since.as_nanos() / BIN.as_nanos())?;
        if self.bins.len() <= bin {
            self.bins.resize(bin + 1, 0);
        }
        self.bins[bin] += arrivals.len() as u64;
        if !self.latencies.is_empty() {
            let now = micros()?;
            for arrival in arrivals {
                let Some(stamp) = load::stamp_of(burst.bytes(arrival.span)) else { continue };
                let late = usize::try_from(now.wrapping_sub(stamp))?;
                self.latencies[late.min(LONGEST - 1)] += 1;
            }
        }
        Ok(())
    }

    /// Frames a second while traffic flowed: the middle of the bins that hold any.
    fn steady_rate(&self) -> f64 {
        let mut bins: Vec<u64> = self.bins.iter().copied().filter(|&frames| frames > 0).collect();
        bins.sort_unstable();
        bins.get(bins.len() / 2).map_or(0.0, |&frames| frames as f64 / BIN.as_secs_f64())
    }

    fn quantile(&self, share: f64) -> Option<usize> {
        let total: u64 = self.latencies.iter().map(|&count| u64::from(count)).sum();
        let mut left = (total as f64 * share).ceil();
        self.latencies.iter().position(|&count| {
            left -= f64::from(count);
            total > 0 && left <= 0.0
        })
    }

    fn report(
        &self,
        receiver: &Receiver,
        began: multicast_io::ThreadTime,
    ) -> anyhow::Result<serde_json::Value> {
        let mut report = serde_json::json!({
            "part": "sink", "frames": self.frames, "bytes": self.bytes,
            "rate": self.steady_rate(), "seconds": self.bins.len() as f64 * BIN.as_secs_f64(),
            "kernel_drops": receiver.kernel_drops(), "cpu": super::shared::cpu(began)?,
        });
        if !self.latencies.is_empty() {
            report["latency_us"] = serde_json::json!({
                "p50": self.quantile(0.5), "p90": self.quantile(0.9),
                "p99": self.quantile(0.99), "p999": self.quantile(0.999),
            });
        }
        Ok(report)
    }
}
