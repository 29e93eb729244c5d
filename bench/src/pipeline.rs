//! The pipeline as processes: generators → proxy, floor or reference → multicast → sink.
//!
//! Figures of one row come from runs that took turns, and a ratio is the median of the ratios of neighbours, so that the
//! drift of a machine cancels. Rates are frames per second of CPU time of the forwarder: its worker is saturated, so on a
//! machine of its own that is frames a second, and on a shared one it does not depend on who else runs.

use crate::budget::Budget;
use crate::forward::{self, Forwarder, Run};
use crate::net::{MIDDLE, counter};
use crate::process::Oncecast;
use crate::rig::{Pace, Rig, few_cores};
use crate::row::{Bar, Row, median};
use crate::traffic;
use multicast_io::thread_time;
use std::time::{Duration, Instant};

/// See the module text.
pub struct Pipeline {
    rig: Rig,
    /// CPU nanoseconds of a double SHA-256 of a frame's payload.
    sha: f64,
}

impl Pipeline {
    /// Makes the network; the error says why there can be none.
    pub fn new(oncecast: Oncecast, quick: bool) -> anyhow::Result<Pipeline> {
        Ok(Pipeline { rig: Rig::new(oncecast, quick)?, sha: sha_cost()? })
    }

    /// All rows of the proxy.
    pub fn rows(&self, budget: &Budget) -> anyhow::Result<Vec<Row>> {
        let (mut rows, rate) = self.saturated(budget)?;
        rows.extend(crate::ingest::rows(&self.rig, budget)?);
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
        let mut saturated = Saturated::default();
        // The first traffic of a network finds no neighbours and cold memory: it is not counted.
        self.run(Forwarder::Floor, Pace::Unpaced)?;
        for () in budget.rounds("saturated", 1..=self.rig.rounds) {
            saturated.floor.push(self.run(Forwarder::Floor, Pace::Unpaced)?);
            saturated.proxy.push(self.run(Forwarder::Proxy, Pace::Unpaced)?);
            saturated.plain.push(self.run(Forwarder::PlainProxy, Pace::Unpaced)?);
            saturated.reference.push(self.run(Forwarder::Reference, Pace::Unpaced)?);
        }
        let rows = saturated.rows(self.sha).into_iter().chain(saturated.trains()).collect();
        Ok((rows, saturated.proxy_rate() * 1e6))
    }

    /// Added latency at a rate: time from the generator's stamp to the sink, proxy against floor.
    fn latency(&self, rate: f64, budget: &Budget) -> anyhow::Result<Vec<Row>> {
        let (mut proxy, mut floor) = (vec![], vec![]);
        for () in budget.rounds("latency", 1..=self.rig.rounds) {
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
        for () in budget.rounds("workers", 1..=self.rig.rounds) {
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
            16 * self.rig.places.generators.len()
        );
        Ok(Row::new("workers", median(ratios), "x", Bar::Least(1.7), note))
    }

    /// Bytes a second that leave the proxy's interface while both generators send.
    fn interface_rate(&self, workers: usize) -> anyhow::Result<f64> {
        let cores = &self.rig.places.middle[..workers.min(self.rig.places.middle.len())];
        let _proxy = self.rig.proxy(&self.rig.oncecast, cores, &format!("--workers {workers}"))?;
        let generators = self.rig.generators(Pace::Unpaced)?;
        std::thread::sleep(Duration::from_millis(100));
        let counter = || -> anyhow::Result<(f64, Instant)> {
            let bytes = counter(&self.rig.line.middle, MIDDLE[1], "tx_bytes")?;
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
        forward::run(&self.rig, &self.rig.oncecast, forwarder, pace)
    }
}

/// Runs at saturation.
#[derive(Default)]
struct Saturated {
    proxy: Vec<Run>,
    plain: Vec<Run>,
    floor: Vec<Run>,
    reference: Vec<Run>,
}

/// Million frames a CPU second.
fn rate(runs: &[Run]) -> f64 {
    median(runs.iter().map(Run::per_cpu_second)) / 1e6
}

impl Saturated {
    fn proxy_rate(&self) -> f64 {
        rate(&self.proxy)
    }

    /// What a frame costs; `sha` is what its double SHA-256 takes.
    fn rows(&self, sha: f64) -> Vec<Row> {
        let Saturated { proxy, plain, floor, reference } = self;
        let ratio = |over: &[Run], under: &[Run]| {
            median(over.iter().zip(under).map(|(over, under)| over.per_cpu_second() / under.per_cpu_second()))
        };
        let added =
            median(proxy.iter().zip(floor).map(|(proxy, floor)| proxy.nanoseconds() - floor.nanoseconds()));
        let of = |figure: fn(&Run) -> f64| median(proxy.iter().map(figure));
        let (proxy_rate, floor_rate) = (rate(proxy), rate(floor));
        let gigabits = of(|run| 8.0 * run.bytes / run.frames) * proxy_rate / 1e3;
        vec![
            Row::new(
                "proxy_vs_plain",
                ratio(proxy, plain),
                "x",
                Bar::Least(5.0),
                format!(
                    "{proxy_rate:.2} M frames/s ({gigabits:.1} Gbit/s), without trains {:.3} M",
                    rate(plain)
                ),
            ),
            Row::new(
                "proxy_vs_floor",
                ratio(proxy, floor),
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
                Bar::Most(1.25 * sha + 250.0),
                format!(
                    "proxy {:.0} ns, floor {:.0} ns a frame; double SHA-256 {:.0} ns; {:.0} MiB resident",
                    of(Run::nanoseconds),
                    median(floor.iter().map(Run::nanoseconds)),
                    sha,
                    of(|run| run.memory),
                ),
            ),
            Row::new(
                "floor_vs_reference",
                ratio(floor, reference),
                "x",
                Bar::Least(0.8),
                format!("reference {:.2} M frames/s", rate(reference)),
            ),
        ]
    }

    /// What the trains look like.
    fn trains(&self) -> [Row; 2] {
        let Saturated { proxy, floor, .. } = self;
        let of = |figure: fn(&Run) -> f64| median(proxy.iter().map(figure));
        [
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
        ]
    }
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
