//! `make bench`: every figure as a ratio inside one run, with the bar it has to reach.
//!
//! Order: what needs no network first (tier 1, frame store, allocations), then the pipeline as processes in network
//! namespaces. Micro benchmarks are apart: `cargo bench -p bench`. How to read it: `docs/performance.md`.

#![allow(unreachable_pub, reason = "a binary has no outside: pub marks what a module offers to its siblings")]

mod allocations;
mod claims;
mod ingest;
mod machine;
mod net;
mod pipeline;
mod process;
mod redis;
mod reference;
mod row;
mod sets;
mod settled;
mod shared;
mod store;
mod takeover;
mod traffic;

use anyhow::Context;
use clap::Parser;
use process::Oncecast;
use row::Row;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures Oncecast against the floor of its machine
#[derive(Parser, Debug)]
struct Args {
    /// Fewer and shorter runs: within a minute
    #[arg(long)]
    quick: bool,
    /// Also write the figures to this file, as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these parts: sets, store, allocations, pipeline
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(clap::Subcommand, Debug)]
enum Part {
    /// The plain loop of floor_vs_reference, as a process of its own
    Reference(reference::Args),
    /// The claims of one worker in a Redis, as a process of its own
    Claims(claims::Args),
    /// A consumer that throws away what it is sent
    Drain {
        /// Address to take connections on
        #[arg(long)]
        listen: std::net::SocketAddr,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    match &args.part {
        Some(Part::Reference(args)) => {
            println!("{}", reference::run(args)?);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Part::Claims(args)) => {
            println!("{}", claims::run(args)?);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Part::Drain { listen }) => {
            ingest::drain(*listen)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let machine = machine::describe();
    println!("machine: {machine}");
    println!("{}", row::heading());
    let mut rows = Vec::new();
    let wanted = |part: &str| args.only.is_empty() || args.only.iter().any(|only| only == part);
    if wanted("sets") {
        show(&mut rows, sets::rows(args.quick));
    }
    if wanted("store") {
        show(&mut rows, store::rows(args.quick)?);
    }
    if wanted("allocations") {
        show(&mut rows, allocations::rows(args.quick)?);
    }
    if wanted("pipeline") {
        show(&mut rows, pipeline::Pipeline::new(Oncecast::find()?, args.quick)?.rows()?);
    }
    if wanted("redis") {
        show(&mut rows, redis::rows(&shared::Shared::new(Oncecast::find()?, args.quick)?)?);
    }
    if wanted("claims") {
        show(&mut rows, settled::rows(&shared::Shared::new(Oncecast::find()?, args.quick)?)?);
    }
    let missed = rows.iter().filter(|row| !row.met()).count();
    println!("{} rows, {missed} below their bar", rows.len());
    if let Some(path) = &args.json {
        let report =
            serde_json::json!({ "machine": machine, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() });
        std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("{}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(rows: &mut Vec<Row>, more: Vec<Row>) {
    for row in more {
        println!("{}", row.line());
        rows.push(row);
    }
}
