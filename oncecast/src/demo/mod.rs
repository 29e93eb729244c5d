//! `oncecast demo`: a whole fabric in one process, over real sockets and real multicast, with loss.
//!
//! Two proxies share the `memory` backend, two listeners drop a share of everything that arrives at their door, two
//! retry endpoints drop nothing. The proof is the Merkle root in the block's own header.

mod consumers;
mod fleet;
mod network;
mod report;
mod sender;

use crate::progress;
use crate::traffic::{self, Traffic};
use anyhow::Context;
use consumers::Consumer;
use fleet::Fleet;
use network::Network;
use report::Report;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The block of the demo: mainnet 413567.
const BLOCK: &[u8] = include_bytes!("../../../tests/data/block413567.raw");
/// Share of the frames that is sent to both proxies.
const DUPLICATES_PERCENT: f64 = 30.0;
/// How long nothing new may arrive before the demo gives up.
const STALL: Duration = Duration::from_secs(20);
/// How long to listen on after everything came, to see whether anything comes twice.
const LINGER: Duration = Duration::from_millis(500);

/// Run a whole fabric on this machine and prove that every transaction arrived once.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Raw block (80-byte header, count, transactions) whose transactions are sent [default: the real block 413567, built in].
    #[arg(long, value_name = "FILE")]
    block: Option<String>,

    /// Number of transactions; past the end of the block go on with transactions derived from it [default: the block].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    count: Option<u64>,

    /// Share of all datagrams that each listener drops at its door, repairs and control included.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = loss)]
    loss: f64,

    /// Seed of the weather: which datagrams are lost, which frames go to both proxies [default: random].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Address family of the loopback network that carries the demo.
    #[arg(long, value_name = "FAMILY", value_enum, default_value_t = network::Choice::Auto)]
    network: network::Choice,

    /// Print one line with one JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

fn loss(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=90.0).contains(&value) => Ok(value),
        _ => Err("want a number from 0 to 90 (percent)".into()),
    }
}

/// Runs the demo. Exit status 0 only if nothing is missing or delivered twice and the root matches.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Before any thread exists: a private network namespace can only be entered then.
    let network = Network::find(args.network)?;
    let block = match &args.block {
        Some(file) => std::fs::read(file).with_context(|| format!("--block {file}"))?,
        None => BLOCK.to_vec(),
    };
    let named = || format!("--block {}", args.block.as_deref().unwrap_or("(built in)"));
    let base = traffic::block_transactions(&block).with_context(named)?;
    let count = args.count.and_then(|count| usize::try_from(count).ok());
    let traffic = Traffic::new(base, count).with_context(named)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("starting the runtime")?;
    let report = runtime.block_on(play(&args, network, &block, &traffic))?;
    report.print(args.json);
    Ok(if report.is_proof() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(args: &Args, network: Network, block: &[u8], traffic: &Traffic) -> anyhow::Result<Report> {
    let seed = args.seed.unwrap_or_else(rand::random);
    if !args.json {
        println!("{}; {} % loss at each listener; seed {seed}", network.name(), args.loss);
    }
    let expected = consumers::Expected::new(block, traffic)?;
    let consumers = [Consumer::start(network, &expected).await?, Consumer::start(network, &expected).await?];
    let fleet = Fleet::start(network, [consumers[0].address, consumers[1].address], args.loss, seed).await?;
    let began = Instant::now();
    let live = live_line(args, traffic.len() as u64 * 2);
    let mut sender = sender::Sender::connect(&fleet, seed).await?;
    let sent = tokio::select! {
        sent = sender.send_all(traffic, &fleet, DUPLICATES_PERCENT) => sent?,
        never = follow(&live, &consumers, &fleet) => never,
    };
    tokio::select! {
        () = until_delivered(&consumers) => {}
        never = follow(&live, &consumers, &fleet) => never,
    }
    let seconds = began.elapsed().as_secs_f64();
    tokio::time::sleep(LINGER).await;
    live.finish_and_clear();
    let totals = fleet.stop().await;
    let delivered = consumers.map(|consumer| consumer.finish());
    Ok(Report::new(
        traffic.len() as u64,
        network,
        sent,
        totals,
        &delivered,
        args.block_is_whole(traffic),
        seconds,
    ))
}

impl Args {
    /// True if the whole block was sent, so that its Merkle root can be proved.
    fn block_is_whole(&self, traffic: &Traffic) -> bool {
        traffic.len() >= traffic.base_len()
    }
}

fn live_line(args: &Args, total: u64) -> indicatif::ProgressBar {
    progress::bar(total, args.json, "delivered")
}

/// Keeps the live line true.
async fn follow<T>(live: &indicatif::ProgressBar, consumers: &[Consumer; 2], fleet: &Fleet) -> T {
    loop {
        let unique: usize = consumers.iter().map(Consumer::unique).sum();
        live.set_position(unique as u64);
        live.set_message(fleet.live_text());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ends when both consumers have everything, or when nothing new came for a while.
async fn until_delivered(consumers: &[Consumer; 2]) {
    let mut best = 0;
    let mut changed = Instant::now();
    while !consumers.iter().all(Consumer::is_complete) {
        let unique = consumers.iter().map(Consumer::unique).sum();
        if unique != best {
            best = unique;
            changed = Instant::now();
        } else if changed.elapsed() > STALL {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
