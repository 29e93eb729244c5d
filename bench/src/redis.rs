//! What a shared Redis costs a proxy: `redis_claims`, `redis_pipeline`, `redis_latency`, `redis_stopped`.

use crate::budget::Budget;
use crate::net::inside;
use crate::process::{Process, kept_waiting};
use crate::row::{Bar, Row, median};
use crate::shared::Shared;
use anyhow::Context;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use txidset::Why;

/// Share of the claims that may stay undecided where claims are counted.
const UNDECIDED: f64 = 0.001;
/// Share of the claim rate that is offered to a proxy.
const OFFERED: f64 = 0.8;
/// Novel frames a second at which latency is measured.
const RATE: f64 = 20_000.0;
/// What the claim may add to a round trip, µs.
const ADDED: f64 = 1_000.0;
/// A dead server may cost as long as this.
const NOTICED: Duration = Duration::from_millis(100);

/// Measures the rows; and tells how many claims a second a proxy can be offered.
pub fn rows(shared: &Shared, budget: &Budget) -> anyhow::Result<(Vec<Row>, f64)> {
    let (claims, rate) = claims(shared, budget)?;
    let offered = OFFERED * rate;
    let pipeline = pipeline(shared, offered, budget)?;
    Ok((vec![claims, pipeline, latency(shared, budget)?, stopped(shared, budget)?], offered))
}

/// Claims a second of one worker that were decided, against redis-benchmark; and how many they were.
fn claims(shared: &Shared, budget: &Budget) -> anyhow::Result<(Row, f64)> {
    let rounds = if shared.quick { 1 } else { 5 };
    let (mut ratios, mut rates, mut open, mut cpu) = (vec![], vec![], 0.0_f64, vec![]);
    for () in budget.rounds("redis_claims", 1..=rounds) {
        shared.steady()?;
        let reference = shared.reference(shared.room())?;
        shared.steady()?;
        let core = &shared.cores.proxies[..1];
        let args = format!("claims --redis {} --claims {}", shared.redis.address(), shared.room());
        let report = Process::myself(&shared.proxies[0], core, &args)?.finish()?;
        let by = |why: Why| report["decided"][why.label()].as_f64().unwrap_or(f64::NAN);
        let decided = [Why::Won, Why::TakenOver, Why::Settled, Why::Exists].map(by).iter().sum::<f64>();
        let all = Why::ALL.map(by).iter().sum::<f64>();
        let rate = decided / report["seconds"].as_f64().unwrap_or(f64::NAN);
        open = open.max(1.0 - decided / all);
        cpu.push(report["cpu"].as_f64().unwrap_or(f64::NAN) * 1e9 / all);
        ratios.push(rate / reference);
        rates.push((rate, reference));
    }
    let rate = median(rates.iter().map(|rates| rates.0));
    let note = format!(
        "{:.0} k claims/s decided, redis-benchmark {:.0} k; undecided at most {:.3} % (bar 0.1); {:.0} ns of CPU a claim",
        rate / 1e3,
        median(rates.iter().map(|rates| rates.1)) / 1e3,
        open * 100.0,
        median(cpu),
    );
    let row = Row::new("redis_claims", median(ratios), "x", Bar::Least(OFFERED), note);
    Ok((row.and(open <= UNDECIDED), rate))
}

/// What became of the claims of a load.
struct Offer {
    /// Share that was decided in the server.
    decided: f64,
    bypassed: f64,
    in_doubt: f64,
    /// Dropped by the kernel before the proxy read them.
    drops: f64,
    /// CPU nanoseconds of the proxy a frame.
    cpu: f64,
    /// Milliseconds that proxy and server waited for a core.
    waited: f64,
}

/// Share of the frames offered, all novel, whose claim was decided in the server.
fn pipeline(shared: &Shared, rate: f64, budget: &Budget) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 1 } else { 3 };
    let offers = budget
        .rounds("redis_pipeline", 1..=rounds)
        .map(|()| offer(shared, rate))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let of = |figure: fn(&Offer) -> f64| median(offers.iter().map(figure));
    let worst = offers.iter().map(|offer| offer.decided).fold(f64::MAX, f64::min);
    let note = format!(
        "{:.0} k frames/s offered; {:.0} bypassed, {:.0} in doubt, {:.0} dropped by the kernel; worst of {} runs {worst:.4}; \
         {:.0} ns of CPU a frame; proxy and server waited {:.0} ms for a core",
        rate / 1e3,
        of(|offer| offer.bypassed),
        of(|offer| offer.in_doubt),
        of(|offer| offer.drops),
        offers.len(),
        of(|offer| offer.cpu),
        of(|offer| offer.waited),
    );
    let row = Row::new("redis_pipeline", of(|offer| offer.decided), "share", Bar::Least(1.0), note);
    Ok(row.and(of(|offer| offer.bypassed) == 0.0))
}

fn offer(shared: &Shared, rate: f64) -> anyhow::Result<Offer> {
    shared.steady()?;
    let proxy = shared.proxy(0, &shared.with_redis())?;
    let options = format!("--frames {} --rate {rate:.0} --train 32 --seconds 5", shared.room());
    let mut generator = shared.generator(&options)?;
    let both = [proxy.id(), shared.redis.process().context("redis-server")?.id()];
    let waiting = || both.map(kept_waiting).into_iter().sum::<anyhow::Result<f64>>();
    let (cpu, waited) = (proxy.cpu()?, waiting()?);
    generator.begin();
    let sent = generator.finish()?["frames"].as_f64().unwrap_or(f64::NAN);
    // The last claims are answered within one deadline.
    std::thread::sleep(Duration::from_millis(200));
    let cpu = (proxy.cpu()? - cpu) * 1e9 / sent;
    let waited = (waiting()? - waited) * 1e3;
    let [won, bypassed, in_doubt] =
        ["won", "bypassed", "in_doubt"].map(|why| format!("bsp_txid_claim_decisions_total{{why=\"{why}\"}}"));
    let names = [&won, &bypassed, &in_doubt, "bsp_slab_overflow_total", "bsp_kernel_receive_drops_total"];
    let [won, bypassed, in_doubt, overflow, drops] = shared.oncecast.metrics(&shared.proxies[0], names)?;
    Ok(Offer { decided: won / sent, bypassed: bypassed + overflow, in_doubt, drops, cpu, waited })
}

/// What a claim in the server adds to the p99 of the time through a proxy, against the p99 of a PING meanwhile.
fn latency(shared: &Shared, budget: &Budget) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 1 } else { 3 };
    let (mut added, mut bars, mut with, mut without, mut pings) = (vec![], vec![], vec![], vec![], vec![]);
    for () in budget.rounds("redis_latency", 1..=rounds) {
        shared.flush();
        let none = latencies(shared, "--cache-backend none")?;
        let (redis, ping) = pinging(shared, || latencies(shared, &shared.with_redis()))?;
        added.push(redis[1] - none[1]);
        bars.push(ping + ADDED);
        with.push(redis);
        without.push(none);
        pings.push(ping);
    }
    let of = |runs: &[[f64; 2]], at: usize| median(runs.iter().map(|run| run[at]));
    let note = format!(
        "p50 {:.0} and p99 {:.0} us at {:.0} k novel frames/s, without Redis {:.0} and {:.0} us; PING p99 {:.0} us",
        of(&with, 0),
        of(&with, 1),
        RATE / 1e3,
        of(&without, 0),
        of(&without, 1),
        median(pings),
    );
    Ok(Row::new("redis_latency", median(added), "us", Bar::Most(median(bars)), note))
}

/// p50 and p99 from the generator to the sink, µs.
fn latencies(shared: &Shared, backend: &str) -> anyhow::Result<[f64; 2]> {
    let seconds = if shared.quick { 0.5 } else { 1.5 };
    let sink = "bench sink --iface eth0 --idle-ms 200 --latency";
    let mut sink = shared.oncecast.start(&shared.sink, &[shared.cores.sink], sink)?;
    sink.wait_ready()?;
    let _proxy = shared.proxy(0, backend)?;
    let frames = RATE * seconds;
    let mut generator = shared.generator(&format!(
        "--frames {frames:.0} --rate {RATE} --train 1 --stamp --seconds {}",
        seconds + 1.0
    ))?;
    generator.begin();
    generator.finish()?;
    let report = sink.finish()?;
    Ok(["p50", "p99"].map(|name| report["latency_us"][name].as_f64().unwrap_or(f64::NAN)))
}

/// Asks the server once a millisecond from the proxy's host while `work` runs; p99 of the round trips, µs.
fn pinging<T>(shared: &Shared, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, f64)> {
    let address = shared.redis.address();
    let mut stream = inside(&shared.proxies[0], || {
        let stream = TcpStream::connect(&address).with_context(|| address.clone())?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(stream)
    })?;
    let over = AtomicBool::new(false);
    let core = shared.cores.sink;
    std::thread::scope(|scope| {
        let pinger = scope.spawn(|| -> anyhow::Result<Vec<f64>> {
            multicast_io::pin_current_thread(core)?;
            let mut times = Vec::new();
            while !over.load(Relaxed) {
                let asked = Instant::now();
                stream.write_all(b"PING\r\n")?;
                stream.read_exact(&mut [0; 7])?;
                times.push(asked.elapsed().as_nanos() as f64 / 1e3);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(times)
        });
        let done = work();
        over.store(true, Relaxed);
        let mut times = pinger.join().map_err(|_| anyhow::anyhow!("the pinger failed"))??;
        times.sort_by(f64::total_cmp);
        let p99 = times.get(times.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        Ok((done?, p99))
    })
}

/// Frames a CPU second while the server hangs, against no store at all.
fn stopped(shared: &Shared, budget: &Budget) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 1 } else { 5 };
    let (mut ratios, mut rates) = (vec![], vec![]);
    for () in budget.rounds("redis_stopped", 1..=rounds) {
        let none = || saturated(shared, "--cache-backend none", false);
        let stopped = || saturated(shared, &shared.with_redis(), true);
        // In turns: what a machine does to whoever comes second would be in all ratios.
        let (stopped, none) = match ratios.len() % 2 {
            0 => {
                let none = none()?;
                (stopped()?, none)
            }
            _ => (stopped()?, none()?),
        };
        ratios.push(stopped / none);
        rates.push((stopped, none));
    }
    let note = format!(
        "{:.2} M frames/s of CPU, without a store {:.2} M; the server stopped, counted from {} ms after",
        median(rates.iter().map(|rates| rates.0)) / 1e6,
        median(rates.iter().map(|rates| rates.1)) / 1e6,
        NOTICED.as_millis(),
    );
    Ok(Row::new("redis_stopped", median(ratios), "x", Bar::Least(0.95), note))
}

/// Frames a CPU second of a saturated proxy; with `stop` the server is stopped shortly before the count begins.
fn saturated(shared: &Shared, backend: &str, stop: bool) -> anyhow::Result<f64> {
    shared.flush();
    let frames = if shared.quick { 700_000 } else { 2_500_000 };
    let proxy = shared.proxy(0, backend)?;
    let mut generator = shared.generator(&format!("--frames {frames} --train 32 --seconds 3"))?;
    generator.begin();
    std::thread::sleep(NOTICED);
    if stop {
        shared.redis.signal("STOP");
    }
    // Without a store as well: in the first moments tier 1 grows.
    std::thread::sleep(NOTICED);
    let counted = || -> anyhow::Result<(f64, f64)> {
        let before = proxy.cpu()?;
        let [frames] = shared.oncecast.metrics(&shared.proxies[0], ["bsp_packets_handed_over_total"])?;
        Ok((frames, (before + proxy.cpu()?) / 2.0))
    };
    let began = counted();
    let sent = generator.finish();
    let ended = counted();
    shared.redis.signal("CONT");
    sent?;
    let ((before, since), (after, until)) = (began?, ended?);
    Ok((after - before) / (until - since))
}
