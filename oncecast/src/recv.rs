//! `oncecast recv`: a consumer behind a listener, that counts, prints and verifies what it is given.

use crate::consumer::{Checklist, RecordReader};
use crate::endpoint::{Endpoint, Transport};
use crate::progress;
use crate::traffic::{self, Traffic};
use crate::values;
use anyhow::Context;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;

/// Missing transactions that are named at the end.
const NAMED: usize = 20;

/// Receive what a listener delivers, count it, print it or verify it. Ctrl-C ends it with its report, after it took
/// what is on its way (--linger); a second one at once.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to take deliveries: udp://HOST:PORT or tcp://HOST:PORT (a listener connects there); repeat or separate by
    /// commas for several. Port 0 lets the system choose; the address is printed.
    #[arg(long, value_name = "ENDPOINT", default_value = "udp://127.0.0.1:9100", value_delimiter = ',')]
    listen: Vec<Endpoint>,

    /// Expect every transaction of this raw block once, rebuild its Merkle root from what was delivered, and exit with
    /// 0 only if it matches the block's header and nothing came twice.
    #[arg(long, value_name = "FILE")]
    verify_block: Option<String>,

    /// Expect what `oncecast send FILE` sends, with the same --count, and name what did not come.
    #[arg(long, value_name = "FILE", conflicts_with = "verify_block")]
    expect: Option<String>,

    /// Stop after N different transactions.
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    count: Option<usize>,

    /// Give up after this many seconds without being complete, 0 = never [default: 60 with --verify-block, --expect or
    /// --count, else 0].
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, allow_negative_numbers = true)]
    timeout: Option<f64>,

    /// Once complete or interrupted, go on this many seconds to take what is on its way and see whether anything comes
    /// twice.
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = values::seconds)]
    linger: f64,

    /// Print each transaction in hexadecimal on standard output as it comes.
    #[arg(long)]
    print: bool,

    /// Print each record in hexadecimal as it was delivered, frame header included where the listener keeps it.
    #[arg(long, conflicts_with = "print")]
    frames: bool,

    /// Print one line with one JSON object at the end instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(receive(args))
}

async fn receive(args: Args) -> anyhow::Result<ExitCode> {
    let mut checklist = checklist(&args)?;
    // Bounded: a consumer that cannot keep up makes TCP listeners wait, as a real one would.
    let (records_in, mut records) = mpsc::channel::<Vec<u8>>(1024);
    for endpoint in &args.listen {
        listen(*endpoint, records_in.clone(), args.json).await?;
    }
    drop(records_in);
    let began = Instant::now();
    let complete = collect(&args, &mut checklist, &mut records).await?;
    report(&args, &checklist, complete, began.elapsed())
}

/// What is expected.
fn checklist(args: &Args) -> anyhow::Result<Checklist> {
    if let Some(file) = &args.verify_block {
        let bytes = std::fs::read(file).with_context(|| format!("--verify-block {file}"))?;
        return Checklist::of_block(&bytes)
            .with_context(|| format!("--verify-block {file} is not a raw block"));
    }
    let Some(input) = &args.expect else { return Ok(Checklist::open()) };
    let base = traffic::read_input(input).with_context(|| format!("--expect {input}"))?;
    let traffic = Traffic::new(base, args.count)?;
    let mut scratch = Vec::new();
    let ids = (0..traffic.len()).map(|index| traffic.txid(index, &mut scratch));
    let ids = ids.collect::<anyhow::Result<Vec<_>>>().with_context(|| format!("--expect {input}"))?;
    Ok(Checklist::of(ids, 0, None))
}

/// Starts taking deliveries at `endpoint`.
async fn listen(endpoint: Endpoint, out: mpsc::Sender<Vec<u8>>, quiet: bool) -> anyhow::Result<()> {
    let failed = || format!("--listen {endpoint}");
    let bound = match endpoint.transport {
        Transport::Udp => {
            let socket = UdpSocket::bind(endpoint.address).await.with_context(failed)?;
            let socket_ref = socket2::SockRef::from(&socket);
            socket_ref.set_recv_buffer_size(16 << 20).with_context(failed)?;
            let bound = socket.local_addr().with_context(failed)?;
            tokio::spawn(take_datagrams(socket, out));
            bound
        }
        Transport::Tcp => {
            let listener = TcpListener::bind(endpoint.address).await.with_context(failed)?;
            let bound = listener.local_addr().with_context(failed)?;
            tokio::spawn(accept(listener, out));
            bound
        }
    };
    if !quiet {
        eprintln!("receiving at {}", Endpoint { address: bound, ..endpoint });
    }
    Ok(())
}

async fn take_datagrams(socket: UdpSocket, out: mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; 65_536];
    while let Ok((len, _)) = socket.recv_from(&mut buffer).await {
        if out.send(buffer[..len].to_vec()).await.is_err() {
            return;
        }
    }
}

async fn accept(listener: TcpListener, out: mpsc::Sender<Vec<u8>>) {
    while let Ok((stream, peer)) = listener.accept().await {
        tokio::spawn(take_stream(stream, peer, out.clone()));
    }
}

async fn take_stream(mut stream: TcpStream, peer: SocketAddr, out: mpsc::Sender<Vec<u8>>) {
    let mut reader = RecordReader::default();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => read,
        };
        reader.extend(&buffer[..read]);
        loop {
            match reader.next_record() {
                Ok(Some(record)) => {
                    if out.send(record.to_vec()).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("tcp://{peer}: {error}; connection closed");
                    return;
                }
            }
        }
    }
}

/// Checks records off until everything came and the linger time is over, or time is up.
async fn collect(
    args: &Args,
    checklist: &mut Checklist,
    records: &mut mpsc::Receiver<Vec<u8>>,
) -> anyhow::Result<bool> {
    let listed = args.verify_block.is_some() || args.expect.is_some();
    let bounded = listed || args.count.is_some();
    let goal = args.count.unwrap_or_else(|| checklist.missing());
    let seconds = args.timeout.unwrap_or(if bounded { 60.0 } else { 0.0 });
    let give_up = deadline_in(if seconds > 0.0 { seconds } else { f64::MAX });
    let bar = progress::bar(goal as u64, args.json || !bounded, "receiving");
    let is_complete = |list: &Checklist| match args.count {
        Some(count) => list.unique() >= count,
        None => listed && list.missing_is_zero(),
    };
    let mut end = give_up;
    let mut complete = bounded && is_complete(checklist);
    let mut interrupted = false;
    loop {
        tokio::select! {
            record = records.recv() => {
                let Some(record) = record else { break };
                let new = checklist.take(&record);
                if args.print {
                    print_hex(crate::consumer::payload_of(&record))?;
                } else if args.frames {
                    print_hex(&record)?;
                }
                if new {
                    bar.inc(1);
                }
                if bounded && !complete && is_complete(checklist) {
                    complete = true;
                    end = deadline_in(args.linger);
                }
            }
            () = tokio::time::sleep_until(end) => break,
            _ = tokio::signal::ctrl_c() => {
                if interrupted {
                    break;
                }
                interrupted = true;
                end = end.min(deadline_in(args.linger));
            }
        }
    }
    bar.finish_and_clear();
    Ok(complete || !bounded)
}

/// A moment `seconds` from now; far away for what no clock can hold.
fn deadline_in(seconds: f64) -> tokio::time::Instant {
    let wait = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    let now = tokio::time::Instant::now();
    now + wait.min(Duration::from_secs(86_400 * 365))
}

fn print_hex(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", hex::encode(bytes)).context("standard output")
}

fn report(args: &Args, list: &Checklist, complete: bool, took: Duration) -> anyhow::Result<ExitCode> {
    let (missing, twice) = (list.missing(), list.duplicates());
    let named: Vec<String> = list.missing_ids().take(NAMED).map(|id| id.to_string()).collect();
    let verified = args.verify_block.is_none() || (list.merkle_root_ok() && twice == 0);
    let seconds = took.as_secs_f64();
    if args.json {
        println!(
            "{}",
            serde_json::json!({
                "received": list.unique() as u64 + twice,
                "unique": list.unique(),
                "duplicates": twice,
                "missing": missing,
                "missing_ids": named,
                "unexpected": list.unexpected(),
                "merkle_root_ok": args.verify_block.is_some().then(|| list.merkle_root_ok()),
                "complete": complete,
                "seconds": seconds,
            })
        );
    } else {
        eprintln!("{} different transactions, {twice} deliveries too many, in {seconds:.2} s", list.unique());
        for id in &named {
            eprintln!("missing: {id}");
        }
        if let Some(file) = &args.verify_block {
            let verdict = if list.merkle_root_ok() { "matches" } else { "does NOT match" };
            eprintln!("{file}: {missing} transactions missing; the Merkle root {verdict}");
        }
    }
    Ok(if complete && verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
