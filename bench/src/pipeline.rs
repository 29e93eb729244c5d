//! The pipeline as processes: generators → proxy, floor or reference → multicast → sink.
//!
//! Figures of one row come from runs that took turns, and a ratio is the median of the ratios of neighbours, so that the
//! drift of a machine cancels. Rates are frames per second of CPU time of the forwarder: its worker is saturated, so on a
//! machine of its own that is frames a second, and on a shared one it does not depend on who else runs.

use crate::budget::Budget;
use crate::net::{INGRESS, Line, MIDDLE, counter};
use crate::process::{Oncecast, Process, together};
use crate::row::{Bar, Row, median};
use crate::traffic;
use multicast_io::thread_time;
use serde_json::Value;
use std::time::{Duration, Instant};

const PLAIN: &str = "--gso=false --gro=false --train-padding 0";
/// Frames of one ingress train: several clients' worth, far below what the proxy makes of them.
const TRAIN: usize = 32;

/// Which core does what.
pub struct Places {
    pub generators: Vec<usize>,
    pub middle: Vec<usize>,
    pub sink: usize,
}

impl Places {
    /// A core that this process may use; they are given out again where there are fewer.
    pub fn core(index: usize) -> usize {
        let cores = crate::machine::cores();
        cores.get(index % cores.len().max(1)).copied().unwrap_or(0)
    }

    fn new() -> Places {
        let core = Places::core;
        match few_cores() {
            true => Places { generators: vec![core(0)], middle: vec![core(1)], sink: core(0) },
            false => {
                Places { generators: vec![core(0), core(3)], middle: vec![core(1), core(2)], sink: core(2) }
            }
        }
    }
}

/// Whether processes have to share cores.
fn few_cores() -> bool {
    crate::machine::cores().len() < 4
}

/// See the module text.
pub struct Pipeline {
    pub line: Line,
    /// What runs on it.
    pub oncecast: Oncecast,
    /// Cores of the processes.
    pub places: Places,
    /// Runs of each kind.
    pub rounds: usize,
    /// Frames of one generator.
    pub frames: usize,
    /// CPU nanoseconds of a double SHA-256 of a frame's payload.
    sha: f64,
}

/// What forwards.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Forwarder {
    Proxy,
    PlainProxy,
    Floor,
    Reference,
}

/// How the generators send.
#[derive(Clone, Copy)]
enum Pace {
    /// As fast as they can, so that the forwarder is saturated.
    Unpaced,
    /// Frames a second, stamped for latency.
    Rate(f64),
}

/// One run.
struct Run {
    frames: f64,
    cpu: f64,
    /// Frames a second of wall clock that reached the sink.
    rate: f64,
    trains: f64,
    padding: f64,
    bytes: f64,
    ingress_drops: f64,
    sink_drops: f64,
    memory: f64,
    latency: [f64; 4],
}

impl Run {
    fn per_cpu_second(&self) -> f64 {
        self.frames / self.cpu
    }

    fn nanoseconds(&self) -> f64 {
        self.cpu * 1e9 / self.frames
    }
}

impl Pipeline {
    /// Makes the network; the error says why there can be none.
    pub fn new(oncecast: Oncecast, quick: bool) -> anyhow::Result<Pipeline> {
        let (rounds, frames) = if quick { (1, 300_000) } else { (5, 1_000_000) };
        Ok(Pipeline { line: Line::new()?, oncecast, places: Places::new(), rounds, frames, sha: sha_cost()? })
    }

    /// All rows of the proxy.
    pub fn rows(&self, budget: &Budget) -> anyhow::Result<Vec<Row>> {
        let (mut rows, rate) = self.saturated(budget)?;
        rows.extend(crate::ingest::rows(self, budget)?);
        rows.extend(self.latency(rate / 2.0, budget)?);
        rows.push(self.workers(budget)?);
        if few_cores() {
            for row in &mut rows {
                row.remark("; fewer than 4 cores: the processes share them, this means little");
            }
        }
        Ok(rows)
    }

    /// Rows at saturation, and the proxy's frames per CPU second.
    fn saturated(&self, budget: &Budget) -> anyhow::Result<(Vec<Row>, f64)> {
        let (mut proxy, mut plain, mut floor, mut reference) = (vec![], vec![], vec![], vec![]);
        // The first traffic of a network finds no neighbours and cold memory: it is not counted.
        self.run(Forwarder::Floor, Pace::Unpaced)?;
        for () in budget.rounds("saturated", 1..=self.rounds) {
            floor.push(self.run(Forwarder::Floor, Pace::Unpaced)?);
            proxy.push(self.run(Forwarder::Proxy, Pace::Unpaced)?);
            plain.push(self.run(Forwarder::PlainProxy, Pace::Unpaced)?);
            reference.push(self.run(Forwarder::Reference, Pace::Unpaced)?);
        }
        let ratio = |over: &[Run], under: &[Run]| {
            median(over.iter().zip(under).map(|(over, under)| over.per_cpu_second() / under.per_cpu_second()))
        };
        let rate = |runs: &[Run]| median(runs.iter().map(Run::per_cpu_second)) / 1e6;
        let added =
            median(proxy.iter().zip(&floor).map(|(proxy, floor)| proxy.nanoseconds() - floor.nanoseconds()));
        let of = |figure: fn(&Run) -> f64| median(proxy.iter().map(figure));
        let (proxy_rate, floor_rate) = (rate(&proxy), rate(&floor));
        let gigabits = of(|run| 8.0 * run.bytes / run.frames) * proxy_rate / 1e3;
        let rows = vec![
            Row::new(
                "proxy_vs_plain",
                ratio(&proxy, &plain),
                "x",
                Bar::Least(5.0),
                format!(
                    "{proxy_rate:.2} M frames/s ({gigabits:.1} Gbit/s), without trains {:.3} M",
                    rate(&plain)
                ),
            ),
            Row::new(
                "proxy_vs_floor",
                ratio(&proxy, &floor),
                "x",
                Bar::Least(0.65),
                format!(
                    "floor {floor_rate:.2} M frames/s; at the sink {:.2} and {:.2} M by the clock",
                    of(|run| run.rate) / 1e6,
                    median(floor.iter().map(|run| run.rate)) / 1e6,
                ),
            ),
            Row::new(
                "proxy_added_cpu",
                added,
                "ns",
                Bar::Most(1.25 * self.sha + 250.0),
                format!(
                    "proxy {:.0} ns, floor {:.0} ns a frame; double SHA-256 {:.0} ns; {:.0} MiB resident",
                    of(Run::nanoseconds),
                    median(floor.iter().map(Run::nanoseconds)),
                    self.sha,
                    of(|run| run.memory),
                ),
            ),
            Row::new(
                "floor_vs_reference",
                ratio(&floor, &reference),
                "x",
                Bar::Least(0.8),
                format!("reference {:.2} M frames/s", rate(&reference)),
            ),
            Row::new(
                "train_length",
                of(|run| run.frames / run.trains),
                "frames",
                Bar::Least(8.0),
                format!("floor {:.1}", median(floor.iter().map(|run| run.frames / run.trains))),
            ),
            Row::new(
                "padding_bytes",
                of(|run| 100.0 * run.padding / run.bytes),
                "%",
                Bar::Most(6.0),
                format!(
                    "kernel drops: {:.0} at the proxy's socket (it is saturated), {:.0} at the sink's",
                    of(|run| run.ingress_drops),
                    of(|run| run.sink_drops)
                ),
            ),
        ];
        Ok((rows, proxy_rate * 1e6))
    }

    /// Added latency at a rate: time from the generator's stamp to the sink, proxy against floor.
    fn latency(&self, rate: f64, budget: &Budget) -> anyhow::Result<Vec<Row>> {
        let (mut proxy, mut floor) = (vec![], vec![]);
        for () in budget.rounds("latency", 1..=self.rounds) {
            floor.push(self.run(Forwarder::Floor, Pace::Rate(rate))?.latency);
            proxy.push(self.run(Forwarder::Proxy, Pace::Rate(rate))?.latency);
        }
        let row = |name, at: usize, bar| {
            let ratio = median(proxy.iter().zip(&floor).map(|(proxy, floor)| proxy[at] / floor[at]));
            let of = |runs: &[[f64; 4]], at: usize| median(runs.iter().map(|latency| latency[at]));
            let note = format!(
                "{:.0} us against {:.0} us at {:.0} k frames/s; p99.9 {:.0} against {:.0} us",
                of(&proxy, at),
                of(&floor, at),
                rate / 1e3,
                of(&proxy, 3),
                of(&floor, 3)
            );
            Row::new(name, ratio, "x", Bar::Most(bar), note)
        };
        Ok(vec![
            row("added_latency_p50", 0, 1.5),
            row("added_latency_p90", 1, 1.5),
            row("added_latency_p99", 2, 2.0),
        ])
    }

    /// One worker against two, nobody joined, bytes counted at the interface.
    fn workers(&self, budget: &Budget) -> anyhow::Result<Row> {
        let (mut ratios, mut rates) = (vec![], vec![]);
        for () in budget.rounds("workers", 1..=self.rounds) {
            let one = self.interface_rate(1)?;
            let two = self.interface_rate(2)?;
            ratios.push(two / one);
            rates.push((one, two));
        }
        let of = |pick: fn(&(f64, f64)) -> f64| median(rates.iter().map(pick)) * 8e-9;
        let note = format!(
            "{:.1} and {:.1} Gbit/s at the interface, {} source ports, nobody joined",
            of(|rates| rates.0),
            of(|rates| rates.1),
            16 * self.places.generators.len()
        );
        Ok(Row::new("workers", median(ratios), "x", Bar::Least(1.7), note))
    }

    /// Bytes a second that leave the proxy's interface while both generators send.
    fn interface_rate(&self, workers: usize) -> anyhow::Result<f64> {
        let cores = &self.places.middle[..workers.min(self.places.middle.len())];
        let _proxy = self.proxy(cores, &format!("--workers {workers}"))?;
        let generators = self.generators(Pace::Unpaced)?;
        std::thread::sleep(Duration::from_millis(100));
        let counter = || -> anyhow::Result<(f64, Instant)> {
            let bytes = counter(&self.line.middle, MIDDLE[1], "tx_bytes")?;
            Ok((bytes as f64, Instant::now()))
        };
        let (before, start) = counter()?;
        std::thread::sleep(Duration::from_millis(400));
        let (after, end) = counter()?;
        for generator in generators {
            generator.finish()?;
        }
        Ok((after - before) / end.duration_since(start).as_secs_f64())
    }

    fn run(&self, forwarder: Forwarder, pace: Pace) -> anyhow::Result<Run> {
        let latency = if matches!(pace, Pace::Rate(_)) { "--latency" } else { "" };
        let args = format!("bench sink --iface eth0 --idle-ms 600 {latency}");
        let mut sink = self.oncecast.start(&self.line.sink, &[self.places.sink], &args)?;
        sink.wait_ready()?;
        let core = &self.places.middle[..1];
        let middle = match forwarder {
            Forwarder::Proxy => self.proxy(core, "--workers 1")?,
            Forwarder::PlainProxy => self.proxy(core, &format!("--workers 1 {PLAIN}"))?,
            Forwarder::Floor => {
                let args = format!("bench floor --iface {} --idle-ms 1800", MIDDLE[1]);
                let mut floor = self.oncecast.start(&self.line.middle, core, &args)?;
                floor.wait_ready()?;
                floor
            }
            Forwarder::Reference => {
                Process::myself(&self.line.middle, core, &format!("reference --iface {}", MIDDLE[1]))?
            }
        };
        let before = middle.cpu()?;
        for generator in self.generators(pace)? {
            generator.finish()?;
        }
        // The sink ends when nothing has come for a while; floor and reference live longer, so that their CPU time can be
        // read.
        let sunk = sink.finish()?;
        let cpu = middle.cpu()? - before;
        let memory = middle.peak_memory();
        let counts = match forwarder {
            Forwarder::Proxy | Forwarder::PlainProxy => self.proxy_counts()?,
            _ => counts_of(&middle.finish()?),
        };
        let latency =
            ["p50", "p90", "p99", "p999"].map(|name| sunk["latency_us"][name].as_f64().unwrap_or(f64::NAN));
        anyhow::ensure!(counts[0] > 0.0, "nothing was forwarded");
        Ok(Run {
            frames: counts[0],
            trains: counts[1],
            padding: counts[2],
            bytes: counts[3],
            ingress_drops: counts[4],
            sink_drops: sunk["kernel_drops"].as_f64().unwrap_or(0.0),
            rate: sunk["rate"].as_f64().unwrap_or(f64::NAN),
            cpu,
            memory,
            latency,
        })
    }

    fn proxy(&self, cores: &[usize], extra: &str) -> anyhow::Result<Process> {
        let args = format!("proxy --iface {} --cache-backend memory {extra}", MIDDLE[1]);
        self.oncecast.role(&self.line.middle, cores, &args)
    }

    /// Frames, trains, padding, bytes, drops at the ingress socket.
    fn proxy_counts(&self) -> anyhow::Result<[f64; 5]> {
        let names = [
            "bsp_packets_handed_over_total",
            "bsp_trains_total",
            "bsp_train_padding_bytes_total",
            "bsp_bytes_forwarded_total",
            "bsp_kernel_receive_drops_total",
        ];
        self.oncecast.metrics(&self.line.middle, names)
    }

    fn generators(&self, pace: Pace) -> anyhow::Result<Vec<Process>> {
        let cores = match pace {
            Pace::Unpaced => &self.places.generators[..],
            Pace::Rate(_) => &self.places.generators[..1],
        };
        let mut first = rand_number();
        let mut start = |core: &usize| {
            let block = traffic::block_file();
            let paced = match pace {
                Pace::Unpaced => format!("--frames {} --train {TRAIN} --seconds 2", self.frames),
                // Half a second at least, or the quantiles mean nothing.
                Pace::Rate(rate) => {
                    format!("--frames {} --train 8 --rate {rate:.0} --stamp --seconds 3", self.frames)
                }
            };
            first += self.frames;
            let args =
                format!("bench generate {} --to {INGRESS} --first {first} --wait {paced}", block.display());
            self.oncecast.start(&self.line.generator, std::slice::from_ref(core), &args)
        };
        let generators = cores.iter().map(&mut start).collect::<anyhow::Result<Vec<_>>>()?;
        together(generators)
    }
}

/// Ids of different runs must not meet in one proxy; they may between proxies.
fn rand_number() -> usize {
    std::process::id() as usize * 1_000
}

fn counts_of(report: &Value) -> [f64; 5] {
    ["frames", "trains", "padding", "bytes", "kernel_drops"]
        .map(|name| report[name].as_f64().unwrap_or(f64::NAN))
}

/// CPU nanoseconds of one double SHA-256 of the block's transactions, on average: one at a time, with the processor's SHA
/// instructions.
fn sha_cost() -> anyhow::Result<f64> {
    let transactions = traffic::transactions()?;
    // Long enough for the clock of CPU time.
    const PASSES: usize = 10;
    let pass = || {
        let start = thread_time().unwrap_or_default().total();
        for transaction in transactions.iter().cycle().take(transactions.len() * PASSES) {
            std::hint::black_box(frame::tx::sha256d(transaction));
        }
        let took = thread_time().unwrap_or_default().total().saturating_sub(start);
        took.as_nanos() as f64 / (transactions.len() * PASSES) as f64
    };
    Ok(median((0..11).map(|_| pass())))
}
