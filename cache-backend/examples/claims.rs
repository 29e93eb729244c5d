//! Claims a second of one session on one single-threaded runtime, against `redis-benchmark` on the same server.
//!
//! `cargo run --release -p cache-backend --example claims -- [address] [seconds] [batches in flight] [keys a batch]`
//!
//! Without an address a `redis-server` is started on a unix socket. Keys of 71 bytes, values of 33, `NX GET PX`, all
//! novel. The rounds alternate with those of `redis-benchmark`, so that both see the same machine.

use cache_backend::{BootPolicy, Claimed, KeyValues, RedisSettings, RemoteSettings, Settings};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(600);
const ROUNDS: usize = 3;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The server of this run, ended with it.
struct Server {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_server() -> std::io::Result<(Server, String)> {
    let dir = tempfile::tempdir()?;
    let socket = dir.path().join("s");
    let child = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
        .arg(&socket)
        .stdout(Stdio::null())
        .spawn()?;
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok((Server { child, _dir: dir }, format!("unix://{}", socket.display())))
}

/// Both sides begin with an empty server; one that somebody named is left alone.
fn flush(ours: bool, address: &str) {
    if ours && let Some(path) = address.strip_prefix("unix://") {
        let _ = Command::new("redis-cli").args(["-s", path, "FLUSHALL"]).stdout(Stdio::null()).status();
    }
}

/// Claims a second of `redis-benchmark -c 1 -P 256`, with the same key, value and options.
fn reference(address: &str, requests: usize) -> Option<f64> {
    let mut command = Command::new("redis-benchmark");
    match address.strip_prefix("unix://") {
        Some(path) => command.args(["-s", path]),
        None => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, "6379"));
            command.args(["-h", host.trim_start_matches("redis://"), "-p", port])
        }
    };
    command.args(["-c", "1", "-P", "256", "-r", "100000000", "-q", "--csv", "-n", &requests.to_string()]);
    // bsp:tx: + 64 digits, of which the tool draws twelve.
    let key = format!(
        "bsp:tx:{}__rand_int__",
        rand::random_iter::<u8>().take(26).map(|b| format!("{b:02x}")).collect::<String>()
    );
    let value = "v".repeat(33);
    command.args(["SET", &key, &value, "NX", "GET", "PX", "600000"]);
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // The last line is "name","requests a second",…
    text.lines().last()?.split("\",\"").nth(1)?.parse().ok()
}

fn batch(next: &mut u64, keys: usize) -> KeyValues {
    let mut batch = KeyValues::new();
    let mut key = *b"bsp:tx:0000000000000000000000000000000000000000000000000000000000000000";
    for _ in 0..keys {
        // Ids are hashes: their order is random to the server. Multiplying by an odd number permutes the counter.
        let mut id = [7; 32];
        id[..8].copy_from_slice(&next.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        *next = next.wrapping_add(1);
        let _ = hex::encode_to_slice(id, &mut key[7..]);
        batch.push(&key, &[b'v'; 33]);
    }
    batch
}

/// Nanoseconds that this thread has run so far, which a busy machine does not stretch as it does the wall clock.
fn thread_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

async fn measure(address: &str, length: Duration, in_flight: usize, keys: usize) -> Outcome<(f64, f64)> {
    let remote = RemoteSettings {
        boot: BootPolicy::Strict,
        max_batches: in_flight + 1,
        ..RemoteSettings::for_claims()
    };
    let settings = RedisSettings { remote, ..RedisSettings::new(address) };
    let backend = cache_backend::open(Settings::Redis(Box::new(settings))).await?.ok_or("no backend")?;
    let session = backend.session().await?;
    let mut next = rand::random();
    let claim =
        |next: &mut u64| session.claim(batch(next, keys), TTL, Instant::now() + Duration::from_millis(50));
    let mut pending: FuturesUnordered<_> = (0..in_flight).map(|_| claim(&mut next)).collect();
    let (mut decided, mut undecided) = (0, 0);
    let (began, ran) = (Instant::now(), thread_time());
    while let Some(answers) = pending.next().await {
        let created = answers.iter().filter(|answer| matches!(answer, Ok(Claimed::Created))).count();
        decided += created;
        undecided += answers.len() - created;
        if began.elapsed() < length {
            pending.push(claim(&mut next));
        }
    }
    let ran = thread_time() - ran;
    let seconds = began.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a report")]
    let each = ran / (decided + undecided).max(1) as f64;
    for guard in backend.guards() {
        let [median, p99] = quantiles(&guard.latency().counts());
        println!("  {each:.0} ns of our CPU a claim; batch latency p50 < {median:?}, p99 < {p99:?}");
    }
    #[allow(clippy::cast_precision_loss, reason = "a report")]
    Ok((decided as f64 / seconds, undecided as f64 / (decided + undecided).max(1) as f64))
}

/// Upper edges of the buckets that hold the median and the p99.
fn quantiles(counts: &[u64]) -> [Duration; 2] {
    let total: u64 = counts.iter().sum();
    [total / 2, total * 99 / 100].map(|rank| {
        let mut seen = 0;
        let bucket = counts.iter().position(|count| {
            seen += count;
            seen > rank
        });
        bucket.and_then(cache_backend::guard::Latency::edge).unwrap_or(Duration::MAX)
    })
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    let (server, address) = match arguments.next() {
        Some(address) if address != "-" => (None, address),
        _ => {
            let (server, address) = start_server()?;
            (Some(server), address)
        }
    };
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let (seconds, in_flight, keys) = (number(3)?, number(4)?, number(256)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        flush(server.is_some(), &address);
        let ours =
            runtime.block_on(measure(&address, Duration::from_secs(seconds as u64), in_flight, keys))?;
        let (rate, undecided) = ours;
        flush(server.is_some(), &address);
        let Some(theirs) = reference(&address, 2_000_000) else {
            println!(
                "round {round}: {rate:.0} claims/s, {:.3} % undecided (redis-benchmark did not run)",
                undecided * 100.0
            );
            continue;
        };
        ratios.push(rate / theirs);
        println!(
            "round {round}: {rate:.0} claims/s, {:.3} % undecided; redis-benchmark {theirs:.0}/s; ratio {:.2}",
            undecided * 100.0,
            rate / theirs
        );
    }
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ratios.len() / 2) {
        println!("median ratio {median:.2} (bar 0.80)");
    }
    drop(server);
    Ok(())
}
