//! Many seeds on many cores, and the command line that the examples share.

use crate::options::Options;
use crate::violation::Violation;
use std::fmt::Display;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Seeds that a thread takes at once.
const SLICE: u64 = 16;

/// What worlds without a violation add up to.
pub trait Totals: Default + Send + Display {
    /// Adds what happened in another world.
    fn add(&mut self, other: &Self);
    /// Worlds that count: at least two proxies, 50 ids and three faults.
    fn counted(&self) -> u64;
}

/// What a run over many seeds brought.
pub struct Hunt<S> {
    /// Worlds that were run.
    pub seeds: u64,
    /// How long it took.
    pub seconds: f64,
    /// What happened in them.
    pub summary: S,
    /// The first promise that was found broken; the run ends there.
    pub violation: Option<Violation>,
    /// All seeds before this one were run: a later run continues with it.
    pub next: u64,
}

/// Runs the worlds of `seeds` until one breaks a promise.
pub fn hunt<S: Totals>(
    seeds: Range<u64>,
    threads: usize,
    run: impl Fn(u64) -> Result<S, Violation> + Sync,
) -> Hunt<S> {
    hunt_until(seeds, threads, None, run)
}

/// As `hunt`, and no longer than `most`: what was run until then counts.
fn hunt_until<S: Totals>(
    seeds: Range<u64>,
    threads: usize,
    most: Option<Duration>,
    run: impl Fn(u64) -> Result<S, Violation> + Sync,
) -> Hunt<S> {
    let start = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let none = Hunt { seeds: 0, seconds: 0.0, summary: S::default(), violation: None, next: seeds.end };
    let total = Mutex::new(none);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(SLICE, Relaxed);
                    if from >= seeds.end || most.is_some_and(|most| start.elapsed() >= most) {
                        // A slice that was begun is finished: the least that was not is where all ends.
                        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                        total.next = total.next.min(from);
                        return;
                    }
                    for seed in from..(from + SLICE).min(seeds.end) {
                        let result = run(seed);
                        let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                        if total.violation.is_some() {
                            return;
                        }
                        total.seeds += 1;
                        match result {
                            Ok(world) => total.summary.add(&world),
                            Err(violation) => total.violation = Some(violation),
                        }
                    }
                }
            });
        }
    });
    let mut hunt = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    hunt.seconds = start.elapsed().as_secs_f64();
    hunt
}

/// What the examples are told.
pub struct Arguments {
    /// `--seed`, or `--from` and `--seeds` or `--counted`; all there are from `--from` on, where only `--seconds` bounds
    /// them; else 10,000.
    pub seeds: Range<u64>,
    /// `--threads`; all cores without it.
    pub threads: usize,
    /// `--seconds`: the run ends then, wherever it is.
    pub most: Option<Duration>,
    /// `--ids`: fewest ids of a world.
    pub ids: usize,
    /// `--faults` of a world.
    pub faults: usize,
    /// `--mutant`: name of a planted fault, or `all`.
    pub mutant: Option<String>,
    /// `--trace`: every event is printed.
    pub trace: bool,
}

impl Arguments {
    /// As the process was called.
    pub fn read() -> Arguments {
        let given: Vec<String> = std::env::args().skip(1).collect();
        let value = |name: &str| {
            let at = given.iter().position(|argument| argument == name)?;
            given.get(at + 1).cloned()
        };
        let number = |name: &str| value(name).and_then(|number| number.parse::<u64>().ok());
        let count =
            |name: &str, default| number(name).map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let from = number("--from").unwrap_or(0);
        let seeds = match (number("--seed"), number("--counted")) {
            (Some(seed), _) => seed..seed + 1,
            // One world in sixteen has no fault and does not count.
            (None, Some(counted)) => from..from + counted + counted.div_ceil(15) + 1,
            (None, None) => match (number("--seeds"), number("--seconds")) {
                (Some(count), _) => from..from + count,
                (None, Some(_)) => from..u64::MAX / 2,
                (None, None) => from..from + 10_000,
            },
        };
        Arguments {
            seeds,
            most: number("--seconds").map(Duration::from_secs),
            threads: count("--threads", std::thread::available_parallelism().map_or(1, usize::from)),
            ids: count("--ids", 50),
            faults: count("--faults", 3),
            mutant: value("--mutant"),
            trace: given.iter().any(|argument| argument == "--trace"),
        }
    }
}

/// Runs the worlds that were asked for: without a mutant none may break a promise, with one (or with each of `all`)
/// some world must.
pub fn report<S: Totals, M: Copy + Sync + Display>(
    arguments: &Arguments,
    mutants: &[M],
    run: impl Fn(u64, &Options<M>) -> Result<S, Violation> + Sync,
) -> ExitCode {
    let &Arguments { threads, most, ids, faults, trace, .. } = arguments;
    let worlds = |mutation, most| {
        let options = Options { ids, faults, mutation, trace };
        hunt_until(arguments.seeds.clone(), threads, most, |seed| run(seed, &options))
    };
    let Some(wanted) = &arguments.mutant else { return report_worlds(&worlds(None, most)) };
    let (mut found, mut missed) = (0, 0);
    for &mutant in mutants {
        if wanted != "all" && *wanted != mutant.to_string() {
            continue;
        }
        let hunt = worlds(Some(mutant), None);
        match &hunt.violation {
            Some(violation) => {
                println!("{mutant}: found after {} worlds\n  {violation}", hunt.seeds);
                found += 1;
            }
            None => {
                println!("{mutant}: NOT FOUND in {} worlds", hunt.seeds);
                missed += 1;
            }
        }
    }
    println!("{found} planted faults found, {missed} not");
    if found > 0 && missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report_worlds<S: Totals>(hunt: &Hunt<S>) -> ExitCode {
    println!(
        "{} worlds in {:.1} s ({:.0}/s), of which {} count (at least 2 proxies, 50 ids, 3 faults): {}",
        hunt.seeds,
        hunt.seconds,
        hunt.seeds as f64 / hunt.seconds,
        hunt.summary.counted(),
        hunt.summary,
    );
    match &hunt.violation {
        None => {
            println!("to continue: --from {}", hunt.next);
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("VIOLATION in {violation}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::{Options, Summary, run};

    fn worlds(most: Option<Duration>) -> Hunt<Summary> {
        hunt_until(5..40, 2, most, |seed| run(seed, &Options::default()))
    }

    #[test]
    fn a_run_says_where_to_continue() {
        let (whole, cut) = (worlds(None), worlds(Some(Duration::ZERO)));
        assert_eq!((whole.seeds, whole.next), (35, 40));
        assert_eq!((cut.seeds, cut.next), (0, 5));
    }
}
