//! Many worlds of the claim protocol, on all cores.
//!
//! `cargo run --release -p simulator --example claims -- --seeds 100000 [--from 0] [--seed S [--trace]] [--ids 50]
//! [--faults 3] [--mutant NAME|all] [--threads N]`

use simulator::claims::{Mutation, Options, Summary, Violation, run};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Seeds that a thread takes at once.
const SLICE: u64 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: u64| value(name).and_then(|n| n.parse().ok()).unwrap_or(default);
    let count = |name: &str, default| usize::try_from(number(name, default)).unwrap_or(usize::MAX);
    let trace = arguments.iter().any(|argument| argument == "--trace");
    let mut options =
        Options { ids: count("--ids", 50), faults: count("--faults", 3), mutation: None, trace };
    let threads = value("--threads").and_then(|n| n.parse().ok()).unwrap_or_else(cores);
    let seeds = match value("--seed").and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => number("--from", 0)..number("--from", 0) + number("--seeds", 10_000),
    };
    let Some(mutants) = value("--mutant") else { return report(&hunt(seeds, &options, threads)) };
    let mut missed = 0;
    for mutation in Mutation::ALL {
        if mutants == "all" || mutants == format!("{mutation:?}") {
            options.mutation = Some(mutation);
            let hunted = hunt(seeds.clone(), &options, threads);
            match &hunted.violation {
                Some(violation) => println!("{mutation:?}: found\n  {violation}"),
                None => {
                    println!("{mutation:?}: NOT FOUND in {} seeds", hunted.seeds);
                    missed += 1;
                }
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a run over many seeds brought.
struct Hunt {
    seeds: u64,
    seconds: f64,
    summary: Summary,
    violation: Option<Violation>,
}

fn hunt(seeds: std::ops::Range<u64>, options: &Options, threads: usize) -> Hunt {
    let start = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Hunt { seeds: 0, seconds: 0.0, summary: Summary::default(), violation: None });
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(SLICE, Relaxed);
                    if from >= seeds.end {
                        return;
                    }
                    for seed in from..(from + SLICE).min(seeds.end) {
                        let result = run(seed, options);
                        let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        total.seeds += 1;
                        if total.violation.is_some() {
                            return;
                        }
                        match result {
                            Ok(summary) => total.add(summary),
                            Err(violation) => total.violation = Some(violation),
                        }
                    }
                }
            });
        }
    });
    let mut hunt = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    hunt.seconds = start.elapsed().as_secs_f64();
    hunt
}

impl Hunt {
    fn add(&mut self, world: Summary) {
        self.summary.events += world.events;
        self.summary.emitted += world.emitted;
        self.summary.duplicates += world.duplicates;
        self.summary.taken_over += world.taken_over;
    }
}

fn report(hunt: &Hunt) -> ExitCode {
    let Summary { events, emitted, duplicates, taken_over } = hunt.summary;
    println!(
        "{} worlds in {:.1} s ({:.0}/s): {events} events, {emitted} ids emitted, {taken_over} taken over, \
         {duplicates} duplicates explained by a fault",
        hunt.seeds,
        hunt.seconds,
        hunt.seeds as f64 / hunt.seconds,
    );
    match &hunt.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("VIOLATION in {violation}");
            ExitCode::FAILURE
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
