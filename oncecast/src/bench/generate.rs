//! `oncecast bench generate`: traffic as fast as one core can send it, or at a rate.

use super::load::{self, Load, Recipe};
use super::shared::Groups;
use anyhow::Context;
use multicast_io::{Interface, Sender, SocketOptions, Train, host_clock, thread_time};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Trains of one call without a rate.
const CALL: usize = 8;

/// Send frames with the sizes of a block and valid ids, made before the clock starts.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Raw block whose transactions are sent, and derived ones beyond
    block: String,
    /// Proxy to send to, ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", required_unless_present = "multicast")]
    to: Option<SocketAddr>,
    /// Second proxy: trains go to the two in turn
    #[arg(long, value_name = "ADDRESS", requires = "to", conflicts_with = "stamp")]
    twin: Option<SocketAddr>,
    /// Share of the frames that go to both proxies, percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "twin")]
    both: usize,
    /// Send numbered frames to their groups, as a proxy does
    #[arg(long, conflicts_with = "to")]
    multicast: bool,
    #[command(flatten)]
    groups: Groups,
    /// Frames to make; each is sent once
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    frames: usize,
    /// Number of the first frame: the same number, the same ids [default: random]
    #[arg(long, value_name = "N")]
    first: Option<usize>,
    /// Source ports
    #[arg(long, value_name = "N", default_value_t = 16)]
    ports: usize,
    /// Longest train
    #[arg(long, value_name = "N", default_value_t = 16)]
    train: usize,
    /// Frames a second; 0 is as fast as possible
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u64,
    /// End after this long at the latest
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Write the time of sending into each transaction (lock time, µs), for `bench sink --latency`
    #[arg(long)]
    stamp: bool,
    /// Once the frames are made, wait until standard input ends: lets several generators begin together
    #[arg(long)]
    wait: bool,
}

/// Sends until the frames or the time end.
pub fn run(args: &Args) -> anyhow::Result<serde_json::Value> {
    let recipe = Recipe {
        block: &args.block,
        count: args.frames,
        first: args.first.unwrap_or_else(load::anywhere),
        train: args.train.max(1),
    };
    let mut load = match args.to {
        Some(to) => Load::to_address(&recipe, to)?,
        None => Load::to_groups(&recipe, args.groups.bits()?, |group| args.groups.destination(group))?,
    };
    if let Some(twin) = args.twin {
        load.share(twin, args.both);
    }
    let mut senders = (0..args.ports.max(1)).map(|_| open(args)).collect::<anyhow::Result<Vec<_>>>()?;
    eprintln!("ready");
    if args.wait {
        std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()).context("waiting for the start")?;
    }
    let (cpu, start) = (thread_time()?, Instant::now());
    let (sent, trains) = send(args, &mut load, &mut senders)?;
    let seconds = start.elapsed().as_secs_f64();
    let frames_of = |train: &Train| &load.frames[train.first as usize..][..train.count as usize];
    let bytes: u64 = load.trains[..trains].iter().flat_map(frames_of).map(|span| u64::from(span.len)).sum();
    Ok(serde_json::json!({
        "part": "generate", "frames": sent, "bytes": bytes, "seconds": seconds,
        "rate": sent as f64 / seconds.max(1e-9), "trains": trains,
        "cpu": super::shared::cpu(cpu)?,
    }))
}

fn open(args: &Args) -> anyhow::Result<Sender> {
    let mut options = SocketOptions::new("[::]:0".parse()?);
    options.send_buffer = Some(8 << 20);
    match args.to {
        Some(SocketAddr::V4(_)) => options.bind = "0.0.0.0:0".parse()?,
        Some(SocketAddr::V6(_)) => {}
        None => options.interface = Some(Interface::by_name(&args.groups.iface).context("--iface")?),
    }
    Ok(Sender::open(&options)?)
}

/// Returns how many frames were sent, and how many trains.
fn send(args: &Args, load: &mut Load, senders: &mut [Sender]) -> anyhow::Result<(usize, usize)> {
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(args.seconds.clamp(0.0, 3600.0));
    let (mut next, mut sent, mut turn) = (0, 0, 0);
    while next < load.trains.len() && Instant::now() < end {
        // At a rate each train leaves when it is due; the core spins, so that no timer blurs the measurement.
        let call = if args.rate > 0 { 1 } else { CALL };
        let upto = (next + call).min(load.trains.len());
        let frames = load.trains[next].first..load.trains[upto - 1].first + load.trains[upto - 1].count;
        if args.rate > 0 {
            let due = start + Duration::from_secs_f64(f64::from(frames.start) / args.rate as f64);
            while Instant::now() < due {
                std::hint::spin_loop();
            }
        }
        if args.stamp {
            let now = micros()?;
            frames.clone().for_each(|frame| load.restamp(frame as usize, now));
        }
        let count = senders.len();
        sent += hand_over(&mut senders[turn % count], load, next..upto, end)?;
        (next, turn) = (upto, turn + 1);
    }
    Ok((sent, next))
}

/// Sends trains; a full socket is tried again.
fn hand_over(
    sender: &mut Sender,
    load: &Load,
    trains: std::ops::Range<usize>,
    end: Instant,
) -> anyhow::Result<usize> {
    let (mut at, mut sent) = (trains.start, 0);
    while at < trains.end {
        let progress = sender.send(&load.memory, &load.trains[at..trains.end], &load.frames);
        sent += progress.frames;
        let Some(error) = progress.error else { break };
        let full = error.kind() == std::io::ErrorKind::WouldBlock || error.raw_os_error() == Some(105);
        anyhow::ensure!(full, "sending: {error}");
        if Instant::now() >= end {
            break;
        }
        // Whole trains behind us; the rest of a cut one is given up, this is a load and not a fabric.
        let mut done = progress.frames;
        while done > 0 && at < trains.end {
            done = done.saturating_sub(load.trains[at].count as usize);
            at += 1;
        }
        std::thread::yield_now();
    }
    Ok(sent)
}

/// The clock of stamps: microseconds, 32 bits.
pub fn micros() -> anyhow::Result<u32> {
    #[allow(clippy::cast_possible_truncation, reason = "differences of wrapped stamps are what is used")]
    Ok(host_clock()?.as_micros() as u32)
}
