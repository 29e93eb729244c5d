//! `make bench`: every figure as a ratio inside one run, with the bar it has to reach.
//!
//! Order: what needs no network first (tier 1, frame store, allocations), then the pipeline as processes in network
//! namespaces, then proxies that share a Redis. Micro benchmarks are apart: `cargo bench -p bench`. How to read it: `docs/performance.md`.

#![allow(unreachable_pub, reason = "a binary has no outside: pub marks what a module offers to its siblings")]

mod allocations;
mod budget;
mod claims;
mod compare;
mod forward;
mod ingest;
mod machine;
mod net;
mod pipeline;
mod process;
mod redis;
mod reference;
mod rig;
mod row;
mod sets;
mod settled;
mod shared;
mod store;
mod takeover;
mod traffic;

use anyhow::Context;
use budget::Budget;
use clap::Parser;
use pipeline::Pipeline;
use process::Oncecast;
use row::Row;
use shared::Shared;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Time of all rounds together, well inside what is promised: 8 minutes, and one.
const FULL: Duration = Duration::from_secs(420);
const QUICK: Duration = Duration::from_secs(45);

/// Measures Oncecast against the floor of its machine
#[derive(Parser, Debug)]
struct Args {
    /// Fewer and shorter runs: within a minute
    #[arg(long)]
    quick: bool,
    /// Also write the figures to this file, as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only these parts: sets, store, allocations, pipeline, redis; with --against pipeline, redis
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
    /// Measure another binary and this one in turns, and tell by how much they differ; exit code 1 if this one is worse
    #[arg(long, value_name = "BINARY")]
    against: Option<PathBuf>,
    /// Pairs of runs with --against
    #[arg(long, value_name = "N", default_value_t = compare::LEAST_PAIRS)]
    pairs: usize,
    #[command(subcommand)]
    tool: Option<Tool>,
}

/// Measures the rows of a part.
type Part<'a> = &'a dyn Fn(&Budget) -> anyhow::Result<Vec<Row>>;

#[derive(clap::Subcommand, Debug)]
enum Tool {
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
    match &args.tool {
        Some(Tool::Reference(args)) => {
            println!("{}", reference::run(args)?);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Tool::Claims(args)) => {
            println!("{}", claims::run(args)?);
            return Ok(ExitCode::SUCCESS);
        }
        Some(Tool::Drain { listen }) => {
            ingest::drain(*listen)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let machine = machine::describe();
    println!("machine: {machine}");
    if let Some(other) = &args.against {
        let options = compare::Options { quick: args.quick, pairs: args.pairs, only: args.only };
        let compared = compare::run(&Oncecast::at(other)?, &options)?;
        if let Some(path) = &args.json {
            write(path, &serde_json::json!({ "machine": machine, "against": compared.json() }))?;
        }
        return Ok(if compared.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    println!("{}", row::heading());
    let mut rows = Vec::new();
    let wanted = |part: &str| args.only.is_empty() || args.only.iter().any(|only| only == part);
    let budget = Budget::new(if args.quick { QUICK } else { FULL }, |name| wanted(part_of(name)));
    if wanted("sets") {
        show(&mut rows, sets::rows(args.quick, &budget));
    }
    let parts: [(&str, Part); 4] = [
        ("store", &|_| store::rows(args.quick)),
        ("allocations", &|_| allocations::rows(args.quick)),
        ("pipeline", &|budget| Pipeline::new(Oncecast::find()?, args.quick)?.rows(budget)),
        ("redis", &|budget| {
            let shared = Shared::new(Oncecast::find()?, args.quick)?;
            let (mut rows, offered) = redis::rows(&shared, budget)?;
            rows.extend(settled::rows(&shared, offered, budget)?);
            Ok(rows)
        }),
    ];
    // What fails takes no other part with it, and is not passed over either.
    let mut failed = false;
    for (name, measure) in parts.into_iter().filter(|(name, _)| wanted(name)) {
        match measure(&budget) {
            Ok(more) => show(&mut rows, more),
            Err(error) => {
                failed = true;
                eprintln!("{name} was not measured: {error:#}");
            }
        }
    }
    let missed = rows.iter().filter(|row| !row.met()).count();
    println!("{} rows, {missed} below their bar", rows.len());
    if let Some(path) = &args.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        write(path, &serde_json::json!({ "machine": machine, "rows": rows }))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn write(path: &Path, report: &serde_json::Value) -> anyhow::Result<()> {
    std::fs::write(path, format!("{report:#}\n")).with_context(|| format!("{}", path.display()))
}

/// The part that a measurement belongs to, as `--only` names it.
fn part_of(measurement: &str) -> &str {
    match measurement {
        "sets" => measurement,
        "saturated" | "ingest" | "latency" | "workers" => "pipeline",
        _ => "redis",
    }
}

fn show(rows: &mut Vec<Row>, more: Vec<Row>) {
    for row in more {
        println!("{}", row.line());
        rows.push(row);
    }
}
