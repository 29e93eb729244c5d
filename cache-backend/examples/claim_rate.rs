//! Claims a second of one session on one single-threaded runtime, against `redis-benchmark` on the same server.
//!
//! `cargo run --release -p cache-backend --example claim_rate -- [address] [seconds] [batches in flight] [keys a batch]
//! [claims a second]`
//!
//! Without an address (or with `-`) a `redis-server` is started on a unix socket; `aerospike://host:3000,other:3000/namespace`
//! is an Aerospike. Keys of 71 bytes, values of 33, all novel; in Redis `NX GET PX`. The rounds alternate with those of
//! `redis-benchmark`, so that both see the same machine. With a rate, batches leave when their time has come, and what
//! each waited is counted from that time.

use cache_backend::{
    AerospikeSettings, BootPolicy, Claimed, KeyValues, RedisSettings, RemoteSettings, Session, Settings,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(600);
const ROUNDS: usize = 3;
const AEROSPIKE: &str = "aerospike://";

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
    if address.starts_with(AEROSPIKE) {
        return None;
    }
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

/// How many claims, how many at once, how fast.
#[derive(Clone, Copy)]
struct Load {
    length: Duration,
    in_flight: usize,
    keys: usize,
    /// Claims a second; 0: as fast as they are answered.
    rate: usize,
}

/// What became of them.
#[derive(Default)]
struct Measured {
    created: usize,
    undecided: usize,
    waited: Vec<Duration>,
}

impl Measured {
    fn count(&mut self, answers: &cache_backend::Answers<Claimed>, since: Instant) {
        let created = answers.iter().filter(|answer| matches!(answer, Ok(Claimed::Created))).count();
        self.created += created;
        self.undecided += answers.len() - created;
        self.waited.push(since.elapsed());
    }

    fn waited(&mut self, of_thousand: usize) -> Duration {
        self.waited.sort_unstable();
        let rank = (self.waited.len() * of_thousand / 1000).min(self.waited.len().saturating_sub(1));
        self.waited.get(rank).copied().unwrap_or_default()
    }
}

/// What to open, with so many batches under way at most.
fn settings(address: &str, batches: usize) -> Settings {
    let mut remote = RemoteSettings::for_claims();
    (remote.boot, remote.max_batches) = (BootPolicy::Strict, batches + 1);
    let Some((hosts, namespace)) = address.strip_prefix(AEROSPIKE).and_then(|rest| rest.split_once('/'))
    else {
        let mut redis = RedisSettings::new(address);
        redis.remote = remote;
        return Settings::Redis(Box::new(redis));
    };
    let mut aerospike = AerospikeSettings::new("", namespace);
    aerospike.hosts = hosts.split(',').map(str::to_owned).collect();
    aerospike.remote = remote;
    Settings::Aerospike(Box::new(aerospike))
}

async fn measure(address: &str, load: Load) -> Outcome<(f64, f64)> {
    let backend = cache_backend::open(settings(address, load.in_flight)).await?.ok_or("no backend")?;
    let session = backend.session().await?;
    let (began, ran) = (Instant::now(), thread_time());
    let mut measured = match load.rate {
        0 => flood(&*session, load).await,
        _ => pace(&*session, load).await,
    };
    let (ran, seconds) = (thread_time() - ran, began.elapsed().as_secs_f64());
    let claims = measured.created + measured.undecided;
    #[allow(clippy::cast_precision_loss, reason = "a report")]
    let (each, rate, undecided) = (
        ran / claims.max(1) as f64,
        measured.created as f64 / seconds,
        measured.undecided as f64 / claims.max(1) as f64,
    );
    let [median, p99, most] = [500, 990, 1000].map(|part| measured.waited(part));
    println!(
        "  {each:.0} ns of our CPU a claim; a batch waited p50 {median:.0?}, p99 {p99:.0?}, at most {most:.0?}"
    );
    for guard in backend.guards() {
        for kind in cache_backend::OpErrorKind::ALL.iter().copied().filter(|&kind| guard.errors(kind) > 0) {
            println!("  {}: {} {kind}", guard.server(), guard.errors(kind));
        }
    }
    Ok((rate, undecided))
}

fn claim(
    session: &dyn Session,
    next: &mut u64,
    keys: usize,
    since: Instant,
) -> impl Future<Output = (cache_backend::Answers<Claimed>, Instant)> + use<> {
    let answers = session.claim(batch(next, keys), TTL, Instant::now() + Duration::from_millis(50));
    async move { (answers.await, since) }
}

/// So many batches are always under way.
async fn flood(session: &dyn Session, load: Load) -> Measured {
    let (mut next, began) = (rand::random(), Instant::now());
    let mut pending: FuturesUnordered<_> =
        (0..load.in_flight).map(|_| claim(session, &mut next, load.keys, Instant::now())).collect();
    let mut measured = Measured::default();
    while let Some((answers, since)) = pending.next().await {
        measured.count(&answers, since);
        // A refused batch is answered at once: the sockets get their turn as well.
        tokio::task::yield_now().await;
        if began.elapsed() < load.length {
            pending.push(claim(session, &mut next, load.keys, Instant::now()));
        }
    }
    measured
}

/// A batch leaves whenever its time has come.
async fn pace(session: &dyn Session, load: Load) -> Measured {
    #[allow(clippy::cast_precision_loss, reason = "a pause of microseconds")]
    let pause = Duration::from_secs_f64(load.keys as f64 / load.rate as f64);
    let (mut next, began) = (rand::random(), Instant::now());
    let mut pending = FuturesUnordered::new();
    let mut measured = Measured::default();
    let mut due = began;
    loop {
        while due <= Instant::now() && due - began < load.length {
            pending.push(claim(session, &mut next, load.keys, due));
            due += pause;
        }
        if due - began >= load.length && pending.is_empty() {
            return measured;
        }
        tokio::select! {
            biased;
            Some((answers, since)) = pending.next() => measured.count(&answers, since),
            () = tokio::time::sleep_until(due.into()), if due - began < load.length => {}
        }
    }
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
    let (seconds, in_flight, keys, rate) = (number(3)?, number(4)?, number(256)?, number(0)?);
    let load = Load { length: Duration::from_secs(seconds as u64), in_flight, keys, rate };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        flush(server.is_some(), &address);
        let (rate, undecided) = runtime.block_on(measure(&address, load))?;
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
