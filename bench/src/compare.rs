//! `make bench AGAINST=BINARY`: the rows that run the binary as a process, with another binary and this one in turns.
//!
//! Both get the same load: generators, sinks and questions come from this binary, only the role is the other's. One pair is
//! one run of each, right after the other; who is first changes from pair to pair. A ratio is this binary's figure over the
//! other's, turned so that more is better. A row is *worse* if the upper quartile of its ratios is below [`WORSE`]: three of
//! four pairs say that this binary loses more than that.
//!
//! Time: about a minute a pair, half of it with `--quick`; nine pairs are ten minutes.

use crate::forward::{self, Forwarder};
use crate::ingest::{self, Taker};
use crate::process::Oncecast;
use crate::rig::{Pace, Rig};
use crate::row::{median, quartiles, short};
use crate::settled::{self, Mode};
use crate::shared::Shared;
use serde_json::{Value, json};
use std::time::Instant;

/// Fewer pairs say too little.
pub const LEAST_PAIRS: usize = 9;
/// See the module text.
const WORSE: f64 = 0.97;
/// New frames a second while settled claims are measured.
const CLAIMS: f64 = 60_000.0;

/// What is wanted.
pub struct Options {
    pub quick: bool,
    pub pairs: usize,
    /// Parts; all if empty.
    pub only: Vec<String>,
}

/// Figures of one row, a pair each: the other binary's, this one's.
struct Compared {
    name: &'static str,
    unit: &'static str,
    less_is_better: bool,
    pairs: Vec<[f64; 2]>,
}

/// The rows, and what could not be measured.
pub struct Comparison {
    rows: Vec<Compared>,
    failed: bool,
}

/// Measures the rows of a part: the other binary and this one, pairs, quick.
type Part = fn(&mut Comparison, [&Oncecast; 2], usize, bool) -> anyhow::Result<()>;

/// One run of a part gives a figure for each of its rows.
type Figures<'a> = &'a mut dyn FnMut(&Oncecast) -> anyhow::Result<Vec<f64>>;

/// Measures every row and prints it.
pub fn run(other: &Oncecast, options: &Options) -> anyhow::Result<Comparison> {
    let pairs = options.pairs.max(LEAST_PAIRS);
    let mine = Oncecast::find()?;
    let began = Instant::now();
    println!(
        "{pairs} pairs; this binary over the other, more is better; worse if the upper quartile is below {WORSE}"
    );
    println!("{:24} {:>7} {:>7} {:>7}  how", "row", "lower", "middle", "upper");
    let mut comparison = Comparison { rows: Vec::new(), failed: false };
    let parts: [(&str, Part); 2] = [("pipeline", pipeline), ("redis", redis)];
    for (name, measure) in parts {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        if let Err(error) = measure(&mut comparison, [other, &mine], pairs, options.quick) {
            comparison.failed = true;
            eprintln!("{name} was not measured: {error:#}");
        }
    }
    let worse: Vec<&str> = comparison.worse().collect();
    match &worse[..] {
        [] => println!("no row is worse; {:.0} s", began.elapsed().as_secs_f64()),
        worse => println!("worse: {}; {:.0} s", worse.join(", "), began.elapsed().as_secs_f64()),
    }
    Ok(comparison)
}

/// Rows of the packet path, each part by itself, so that its pairs are close together.
fn pipeline(
    comparison: &mut Comparison,
    binaries: [&Oncecast; 2],
    pairs: usize,
    quick: bool,
) -> anyhow::Result<()> {
    let mut rig = Rig::new(binaries[1].clone(), quick)?;
    if quick {
        rig.frames /= 2;
    }
    // The first traffic of a network finds no neighbours and cold memory: it is not counted.
    forward::run(&rig, binaries[1], Forwarder::Floor, Pace::Unpaced)?;
    let mut rates = Vec::new();
    let rows = [("proxy_vs_floor", "frames/s of CPU", false), ("train_length", "frames", false)];
    comparison.measure(&rows, pairs, binaries, &mut |oncecast| {
        let run = forward::run(&rig, oncecast, Forwarder::Proxy, Pace::Unpaced)?;
        rates.push(run.per_cpu_second());
        Ok(vec![run.per_cpu_second(), run.frames / run.trains])
    })?;
    comparison.measure(
        &[("proxy_vs_plain", "frames/s of CPU", false)],
        pairs,
        binaries,
        &mut |oncecast| {
            Ok(vec![forward::run(&rig, oncecast, Forwarder::PlainProxy, Pace::Unpaced)?.per_cpu_second()])
        },
    )?;
    for (name, taker) in [("listener_vs_receiver", Taker::Listener), ("retry_vs_receiver", Taker::Retry)] {
        comparison.measure(&[(name, "ns of CPU", true)], pairs, binaries, &mut |oncecast| {
            Ok(vec![ingest::cost(&rig, oncecast, taker)?])
        })?;
    }
    let rate = median(rates) / 2.0;
    let rows = ["added_latency_p50", "added_latency_p90", "added_latency_p99"].map(|name| (name, "us", true));
    comparison.measure(&rows, pairs, binaries, &mut |oncecast| {
        let run = forward::run(&rig, oncecast, Forwarder::Proxy, Pace::Rate(rate))?;
        Ok(run.latency[..rows.len()].to_vec())
    })
}

/// Rows of proxies that share a Redis.
fn redis(
    comparison: &mut Comparison,
    binaries: [&Oncecast; 2],
    pairs: usize,
    quick: bool,
) -> anyhow::Result<()> {
    let shared = Shared::new(binaries[1].clone(), quick)?;
    for (name, mode) in [("settled_vs_simple", Mode::Settled), ("simple_claims", Mode::Simple)] {
        comparison.measure(&[(name, "frames/s of CPU", false)], pairs, binaries, &mut |oncecast| {
            let run = settled::run(&shared, oncecast, mode, &shared.with_redis(), CLAIMS)?;
            Ok(vec![run.per_cpu_second()])
        })?;
    }
    Ok(())
}

impl Comparison {
    /// Whether everything was measured and nothing is worse.
    pub fn passed(&self) -> bool {
        !self.failed && self.worse().next().is_none()
    }

    /// As part of the JSON report.
    pub fn json(&self) -> Value {
        self.rows.iter().map(Compared::json).collect()
    }

    fn worse(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.rows.iter().filter(|row| row.is_worse()).map(|row| row.name)
    }

    /// Runs both binaries in turns and prints the rows.
    fn measure(
        &mut self,
        rows: &[(&'static str, &'static str, bool)],
        pairs: usize,
        binaries: [&Oncecast; 2],
        figures: Figures<'_>,
    ) -> anyhow::Result<()> {
        let row = |&(name, unit, less_is_better)| Compared { name, unit, less_is_better, pairs: Vec::new() };
        let mut compared: Vec<Compared> = rows.iter().map(row).collect();
        for pair in 0..pairs {
            // What a machine does to whoever comes second must not be in all ratios.
            let first = pair % 2;
            let mut both = [Vec::new(), Vec::new()];
            for which in [first, 1 - first] {
                both[which] = figures(binaries[which])?;
            }
            for (at, row) in compared.iter_mut().enumerate() {
                row.pairs.push([both[0][at], both[1][at]]);
            }
        }
        compared.iter().for_each(|row| println!("{}", row.line()));
        self.rows.append(&mut compared);
        Ok(())
    }
}

impl Compared {
    fn ratios(&self) -> impl Iterator<Item = f64> + '_ {
        self.pairs.iter().map(|[other, mine]| if self.less_is_better { other / mine } else { mine / other })
    }

    fn is_worse(&self) -> bool {
        let [_, _, upper] = quartiles(self.ratios());
        // A figure that is missing is no excuse.
        upper.is_nan() || upper < WORSE
    }

    fn line(&self) -> String {
        let [lower, middle, upper] = quartiles(self.ratios());
        let of = |which: usize| short(median(self.pairs.iter().map(|pair| pair[which])));
        let verdict = if self.is_worse() { "worse; " } else { "" };
        format!(
            "{:24} {lower:7.3} {middle:7.3} {upper:7.3}  {verdict}{} {}, the other {}; {} pairs",
            self.name,
            of(1),
            self.unit,
            of(0),
            self.pairs.len()
        )
    }

    fn json(&self) -> Value {
        let [lower, middle, upper] = quartiles(self.ratios());
        json!({
            "name": self.name, "unit": self.unit, "pairs": self.pairs, "worse": self.is_worse(),
            "ratio": { "lower": lower, "middle": middle, "upper": upper },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(less_is_better: bool, mine: &[f64]) -> Compared {
        let pairs = mine.iter().map(|mine| [100.0, *mine]).collect();
        Compared { name: "row", unit: "x", less_is_better, pairs }
    }

    #[test]
    fn a_row_is_worse_if_three_of_four_pairs_lose_more_than_three_percent() {
        assert!(row(false, &[90.0, 95.0, 96.0, 96.9, 120.0]).is_worse());
        assert!(!row(false, &[90.0, 90.0, 90.0, 97.0, 97.0]).is_worse());
        assert!(row(false, &[90.0, 95.0, 96.0, 96.9, 120.0]).line().contains("worse"));
    }

    #[test]
    fn where_less_is_better_more_is_worse() {
        assert!(row(true, &[110.0; 9]).is_worse() && !row(true, &[90.0; 9]).is_worse());
        assert!(row(true, &[f64::NAN; 9]).is_worse(), "what was not measured has not passed");
    }

    #[test]
    fn one_row_that_is_worse_or_missing_fails_the_comparison() {
        let all = |mine: f64, failed| Comparison { rows: vec![row(false, &[mine; 9])], failed };
        assert!(all(100.0, false).passed());
        assert!(!all(90.0, false).passed() && !all(100.0, true).passed());
    }
}
