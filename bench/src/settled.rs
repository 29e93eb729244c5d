//! What settled claims cost beyond simple ones: `settled_vs_simple`, `settled_vs_simple_memory`, `commands_per_claim`,
//! `park_time_p99`.
//!
//! Two proxies, three of ten frames go to both, one copy right after the other.

use crate::budget::Budget;
use crate::process::{Oncecast, Process};
use crate::row::{Bar, Row, median};
use crate::shared::Shared;
use std::time::Duration;

/// Share of the frames that both proxies get, percent.
const BOTH: usize = 30;
/// New frames a second while commands are counted.
const RATE: usize = 20_000;

/// `--claim-mode`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Settled,
    Simple,
}

impl Mode {
    fn option(self) -> &'static str {
        match self {
            Mode::Settled => "--claim-mode settled",
            Mode::Simple => "--claim-mode simple",
        }
    }
}

/// What two proxies did with a load.
pub struct Run {
    /// Frames that came, copies included.
    frames: f64,
    /// CPU seconds of both.
    cpu: f64,
    /// Frames let through undecided.
    undecided: f64,
    /// Frames dropped by the kernel before they were read.
    drops: f64,
}

impl Run {
    /// Frames a CPU second of both.
    pub fn per_cpu_second(&self) -> f64 {
        self.frames / self.cpu
    }
}

/// Measures the rows; both proxies together claim `offered` times a second.
pub fn rows(shared: &Shared, offered: f64, budget: &Budget) -> anyhow::Result<Vec<Row>> {
    // Two proxies ask the server at once: what one may be offered is more than enough for both.
    let rate = 0.75 * offered / (1.0 + BOTH as f64 / 100.0);
    let mut rows = vec![with_redis(shared, rate, budget)?, with_memory(shared, rate, budget)?];
    rows.extend(steady(shared)?);
    rows.push(crate::takeover::row(shared, budget)?);
    Ok(rows)
}

/// Frames a CPU second of both proxies, settled against simple claims in the server.
fn with_redis(shared: &Shared, rate: f64, budget: &Budget) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 1 } else { 5 };
    let (mut settled, mut simple) = (vec![], vec![]);
    for () in budget.rounds("settled", 1..=rounds) {
        settled.push(run(shared, &shared.oncecast, Mode::Settled, &shared.with_redis(), rate)?);
        simple.push(run(shared, &shared.oncecast, Mode::Simple, &shared.with_redis(), rate)?);
    }
    let ratio =
        median(settled.iter().zip(&simple).map(|(one, other)| one.per_cpu_second() / other.per_cpu_second()));
    let of_cpu = |runs: &[Run]| median(runs.iter().map(Run::per_cpu_second)) / 1e3;
    let undecided = |runs: &[Run]| median(runs.iter().map(|run| 100.0 * run.undecided / run.frames));
    let note = format!(
        "{:.0} k frames/s of CPU, simple {:.0} k; {:.0} k frames/s, {BOTH} % of them at both proxies; undecided {:.2} and {:.2} %, kernel \
         drops {:.0} and {:.0}",
        of_cpu(&settled),
        of_cpu(&simple),
        rate / 1e3,
        undecided(&settled),
        undecided(&simple),
        median(settled.iter().map(|run| run.drops)),
        median(simple.iter().map(|run| run.drops)),
    );
    Ok(Row::new("settled_vs_simple", ratio, "x", Bar::Least(0.9), note))
}

/// The same with a memory store; the bar is what two equal runs differ by.
fn with_memory(shared: &Shared, rate: f64, budget: &Budget) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 2 } else { 3 };
    let (mut settled, mut simple) = (vec![], vec![]);
    for () in budget.rounds("settled_memory", 2..=rounds) {
        for (mode, rates) in [(Mode::Settled, &mut settled), (Mode::Simple, &mut simple)] {
            rates.push(run(shared, &shared.oncecast, mode, "--cache-backend memory", rate)?.per_cpu_second());
        }
    }
    let spread = |rates: &[f64]| {
        let (least, most) =
            rates.iter().fold((f64::MAX, 0.0_f64), |(a, b), &rate| (a.min(rate), b.max(rate)));
        1.0 - least / most
    };
    let spread = spread(&settled).max(spread(&simple));
    let ratio = median(settled.iter().copied()) / median(simple.iter().copied());
    let note = format!(
        "{:.2} M frames/s of CPU, simple {:.2} M; the bar is the spread of {rounds} equal runs",
        median(settled) / 1e6,
        median(simple) / 1e6
    );
    Ok(Row::new("settled_vs_simple_memory", ratio, "x", Bar::Least(1.0 - spread), note))
}

/// Two proxies of `oncecast` under a load of so many new frames a second.
pub fn run(
    shared: &Shared,
    oncecast: &Oncecast,
    mode: Mode,
    backend: &str,
    rate: f64,
) -> anyhow::Result<Run> {
    if backend == shared.with_redis() {
        shared.steady()?;
    }
    let proxies = pair(shared, oncecast, mode, backend)?;
    let frames = shared.room() * 9 / 10;
    let twin = shared.ingress(1);
    let options =
        format!("--frames {frames} --rate {rate:.0} --train 32 --twin {twin} --both {BOTH} --seconds 3");
    let mut generator = shared.generator(&options)?;
    let before = cpu(&proxies)?;
    generator.begin();
    generator.finish()?;
    // Parked copies are let go within two epochs.
    std::thread::sleep(Duration::from_millis(200));
    let cpu = cpu(&proxies)? - before;
    let names =
        ["bsp_packets_received_total", "bsp_txid_claim_errors_total", "bsp_kernel_receive_drops_total"];
    let [frames, undecided, drops] = both(shared, names)?;
    Ok(Run { frames, cpu, undecided, drops })
}

/// Rows at a steady rate: commands for each claim, and how long copies are parked.
fn steady(shared: &Shared) -> anyhow::Result<Vec<Row>> {
    shared.flush();
    let seconds = if shared.quick { 1 } else { 3 };
    let _proxies = pair(shared, &shared.oncecast, Mode::Settled, &shared.with_redis())?;
    let twin = shared.ingress(1);
    let options = format!(
        "--frames {} --rate {RATE} --train 1 --twin {twin} --both {BOTH} --seconds 10",
        RATE * seconds
    );
    let mut generator = shared.generator(&options)?;
    let before = shared.commands();
    generator.begin();
    generator.finish()?;
    std::thread::sleep(Duration::from_millis(200));
    let after = shared.commands();
    // What asks for the counts is no command of the proxies.
    let calls = |name: &str| after.get(name).unwrap_or(&0.0) - before.get(name).unwrap_or(&0.0);
    let commands: f64 = after.keys().filter(|name| *name != "info").map(|name| calls(name)).sum();
    let reads = "bsp_txid_claim_requests_total{what=\"records_read\"}";
    let [misses, reads] = both(shared, ["bsp_txid_claim_local_total{result=\"new\"}", reads])?;
    let note = format!(
        "{commands:.0} commands ({:.0} SET, {:.0} PING, {reads:.0} record reads) for {misses:.0} ids new to a proxy at {} k \
         frames/s",
        calls("set"),
        calls("ping"),
        RATE / 1000
    );
    let commands = Row::new("commands_per_claim", (commands - reads) / misses, "", Bar::Most(1.05), note);
    Ok(vec![commands, parked(shared)?])
}

/// How long copies were parked whose owner sent its own.
fn parked(shared: &Shared) -> anyhow::Result<Row> {
    // Cumulative: upper bound in milliseconds, copies.
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for host in &shared.proxies {
        for line in shared.oncecast.page(host, "metrics")?.lines() {
            let rest = line.strip_prefix("bsp_txid_claim_parked_seconds_bucket{outcome=\"let_go\",le=\"");
            let Some((bound, count)) = rest.and_then(|rest| rest.split_once("\"} ")) else { continue };
            // The last is +Inf.
            let (bound, count) = (1e3 * bound.parse::<f64>().unwrap_or(f64::INFINITY), count.parse::<f64>()?);
            match buckets.iter_mut().find(|bucket| bucket.0 >= bound) {
                Some(bucket) => bucket.1 += count,
                None => buckets.push((bound, count)),
            }
        }
    }
    let copies = buckets.last().map_or(f64::NAN, |bucket| bucket.1);
    let quantile = |share: f64| {
        // As Prometheus does: evenly spread within a bucket.
        let at = buckets.iter().position(|bucket| bucket.1 >= share * copies)?;
        let (low, below) = at.checked_sub(1).map_or((0.0, 0.0), |before| buckets[before]);
        let (high, upto) = buckets[at];
        Some(low + (high - low) * (share * copies - below) / (upto - below))
    };
    let [median, p99] = [0.5, 0.99].map(|share| quantile(share).unwrap_or(f64::NAN));
    let note = format!("median {median:.0} ms, {copies:.0} copies; bsp_txid_claim_parked_seconds");
    Ok(Row::new("park_time_p99", p99, "ms", Bar::Most(150.0), note))
}

fn pair(shared: &Shared, oncecast: &Oncecast, mode: Mode, backend: &str) -> anyhow::Result<[Process; 2]> {
    let options = format!("{backend} {}", mode.option());
    Ok([shared.proxy_of(oncecast, 0, &options)?, shared.proxy_of(oncecast, 1, &options)?])
}

fn cpu(proxies: &[Process; 2]) -> anyhow::Result<f64> {
    Ok(proxies[0].cpu()? + proxies[1].cpu()?)
}

/// Metrics of both proxies, added up.
fn both<const N: usize>(shared: &Shared, names: [&str; N]) -> anyhow::Result<[f64; N]> {
    let [first, second] =
        [&shared.proxies[0], &shared.proxies[1]].map(|host| shared.oncecast.metrics(host, names));
    let (first, second) = (first?, second?);
    Ok(std::array::from_fn(|at| first[at] + second[at]))
}
