//! What a shared Redis costs a proxy: `redis_claims`, `redis_pipeline`, `redis_latency`, `redis_stopped`.

use crate::net::inside;
use crate::process::Process;
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

/// Decisions of a proxy by reason.
const DECISIONS: &str = "bsp_txid_claim_decisions_total";

/// Measures the rows.
pub fn rows(shared: &Shared) -> anyhow::Result<Vec<Row>> {
    let (claims, rate) = claims(shared)?;
    Ok(vec![claims, pipeline(shared, OFFERED * rate)?, latency(shared)?, stopped(shared)?])
}

/// Claims a second of one worker that were decided, against redis-benchmark; and how many they were.
fn claims(shared: &Shared) -> anyhow::Result<(Row, f64)> {
    let (rounds, seconds, requests) = if shared.quick { (1, 1.0, 400_000) } else { (3, 1.5, 1_000_000) };
    let (mut ratios, mut rates, mut open, mut cpu) = (vec![], vec![], 0.0_f64, vec![]);
    for _ in 0..rounds {
        shared.flush();
        let reference = shared.reference(requests)?;
        shared.flush();
        let core = &shared.cores.proxies[..1];
        let args = format!("claims --redis {} --seconds {seconds}", shared.redis.address());
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

/// Share of the frames offered, all novel, whose claim was decided in the server.
fn pipeline(shared: &Shared, rate: f64) -> anyhow::Result<Row> {
    shared.flush();
    let seconds = if shared.quick { 1.0 } else { 3.0 };
    let proxy = shared.proxy(0, &shared.with_redis())?;
    let frames = rate * seconds;
    let options = format!("--frames {frames:.0} --rate {rate:.0} --train 32 --seconds {}", seconds + 1.0);
    let mut generator = shared.generator(&options)?;
    let cpu = proxy.cpu()?;
    generator.begin();
    let report = generator.finish()?;
    let (sent, offered) =
        (report["frames"].as_f64().unwrap_or(f64::NAN), report["rate"].as_f64().unwrap_or(f64::NAN));
    // The last claims are answered within one deadline.
    std::thread::sleep(Duration::from_millis(200));
    let cpu = (proxy.cpu()? - cpu) * 1e9 / sent;
    let won = format!("{DECISIONS}{{why=\"won\"}}");
    let bypassed = format!("{DECISIONS}{{why=\"bypassed\"}}");
    let doubt = format!("{DECISIONS}{{why=\"in_doubt\"}}");
    let names = [&won, &bypassed, &doubt, "bsp_slab_overflow_total", "bsp_kernel_receive_drops_total"];
    let [won, bypassed, doubt, overflow, drops] = shared.oncecast.metrics(&shared.proxies[0], names)?;
    let note = format!(
        "{:.0} k frames/s offered ({:.0} k sent) for {seconds} s: {bypassed:.0} bypassed, {doubt:.0} in doubt, {overflow:.0} \
         without room, {drops:.0} dropped by the kernel; {cpu:.0} ns of CPU a frame",
        rate / 1e3,
        offered / 1e3,
    );
    Ok(Row::new("redis_pipeline", won / sent, "share", Bar::Least(1.0), note).and(bypassed == 0.0))
}

/// What a claim in the server adds to the p99 of the time through a proxy, against the p99 of a PING meanwhile.
fn latency(shared: &Shared) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 1 } else { 3 };
    let (mut added, mut bars, mut with, mut without, mut pings) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
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
    let seconds = if shared.quick { 0.8 } else { 1.5 };
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
fn stopped(shared: &Shared) -> anyhow::Result<Row> {
    let rounds = if shared.quick { 1 } else { 3 };
    let (mut ratios, mut rates) = (vec![], vec![]);
    for _ in 0..rounds {
        let none = saturated(shared, "--cache-backend none", false)?;
        let stopped = saturated(shared, &shared.with_redis(), true)?;
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
    let frames = if shared.quick { 1_000_000 } else { 2_500_000 };
    let proxy = shared.proxy(0, backend)?;
    let mut generator = shared.generator(&format!("--frames {frames} --train 32 --seconds 3"))?;
    generator.begin();
    std::thread::sleep(NOTICED);
    if stop {
        shared.redis.signal("STOP");
        std::thread::sleep(NOTICED);
    }
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
