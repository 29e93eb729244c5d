//! A worker's claims without its frames, as a process: tier 1, the claim protocol, the driver and the session to the store,
//! on one thread, as fast as answers come.
//!
//! As a worker does, it keeps the protocol supplied and lets every frame that was decided go at once; frames wait up to the
//! bound that a worker's slab has by default.

use cache_backend::{RedisSettings, Settings};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use txidset::driver::Driver;
use txidset::{Claims, ClaimsConfig, Decision, LocalSet, Verdict};

/// New ids of one round, as a receive brings them.
const ROUND: usize = 256;
/// Ids that wait for their answer: what a worker that is not overrun has in hand.
const IN_HAND: usize = 4_096;
/// What a frame costs while it waits.
const BYTES: u32 = 512;
const SLAB: (usize, usize) = (1 << 17, 32 << 20);

/// Options of the loop.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Redis server, HOST:PORT
    #[arg(long)]
    redis: String,
    /// How many
    #[arg(long, default_value_t = 1 << 18)]
    claims: usize,
}

/// Claims new ids until so many are decided, and tells what was decided, by reason.
pub fn run(args: &Args) -> anyhow::Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(claim(args))
}

async fn claim(args: &Args) -> anyhow::Result<Value> {
    let settings = Settings::Redis(Box::new(RedisSettings::new(&args.redis)));
    let backend = cache_backend::open(settings).await?;
    let mut driver = Driver::open(backend).await?;
    let local = Arc::new(LocalSet::new(1 << 20, Duration::from_secs(600), rand::random()));
    let config = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
    let mut claims = Claims::new(config, local, rand::random()).limit_waiting(SLAB.0, SLAB.1);
    let (mut next, mut verdicts): (u64, Vec<Verdict>) = (rand::random(), Vec::new());
    let stats = claims.stats();
    eprintln!("ready");
    let (began, cpu) = (Instant::now(), multicast_io::thread_time()?);
    let mut left = args.claims / ROUND;
    while left > 0 || claims.waiting() > 0 {
        let now = Instant::now();
        // Where the store is given up for a while, tier 1 decides at once and nothing waits.
        let room = IN_HAND.saturating_sub(claims.waiting()) / ROUND;
        for _ in 0..room.min(left) {
            left -= 1;
            let batch: Vec<_> =
                (0..ROUND as u64).map(|at| (crate::sets::key(next.wrapping_add(at)), at, BYTES)).collect();
            next = next.wrapping_add(ROUND as u64);
            verdicts.clear();
            claims.claim(now, &batch, &mut verdicts);
            for verdict in &verdicts {
                if let Verdict::Won(ticket) = verdict {
                    claims.sent(now, *ticket);
                }
            }
        }
        driver.pump(&mut claims, now);
        while let Some(decision) = claims.next_decision() {
            if let Decision::Send { token, ticket, .. } = decision
                && claims.may_send(now, ticket, || token)
            {
                claims.sent(now, ticket);
            }
        }
        driver.pump(&mut claims, Instant::now());
        match claims.waiting() {
            0 => tokio::task::yield_now().await,
            _ => driver.progress(&mut claims).await,
        }
    }
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), multicast_io::thread_time()?.total() - cpu.total());
    let by = txidset::Why::ALL.map(|why| (why.label().to_owned(), json!(stats.by(why).value())));
    Ok(json!({
        "seconds": seconds, "cpu": cpu.as_secs_f64(), "requests": stats.claim_requests.value(),
        "decided": by.into_iter().collect::<serde_json::Map<_, _>>(),
    }))
}
