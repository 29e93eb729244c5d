//! `oncecast bench`: the parts of the pipeline benchmark, each a process of its own.
//!
//! `make bench` starts them in network namespaces around a proxy, a listener or a retry endpoint; by hand they measure a
//! real network. Each part ends by itself and prints one line of JSON. `docs/performance.md` says how to read it.

mod floor;
mod generate;
mod load;
mod shared;
mod sink;

use std::process::ExitCode;

/// Parts of a benchmark: what the socket floor is, traffic, and a sink that counts.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(clap::Subcommand, Debug)]
enum Part {
    Floor(floor::Args),
    Generate(generate::Args),
    Sink(sink::Args),
}

/// Runs one part.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = match args.part {
        Part::Floor(args) => floor::run(&args)?,
        Part::Generate(args) => generate::run(&args)?,
        Part::Sink(args) => sink::run(&args)?,
    };
    println!("{report}");
    Ok(ExitCode::SUCCESS)
}
