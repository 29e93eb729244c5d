//! `oncecast send`: puts transactions into a fabric through its proxies.

use crate::endpoint::{Endpoint, Transport};
use crate::interrupt::{self, Interrupt};
use crate::progress;
use crate::traffic::{self, Traffic};
use crate::values;
use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest UDP payload over IPv4 (over IPv6 it is 20 bytes more).
const UDP_MAX: usize = 65_507;

/// Send transactions to one proxy or several. Ctrl-C ends it with the report of what was sent; a second one at once.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Raw block file, file of hexadecimal transactions (one a line), a transaction in hexadecimal, or - for
    /// standard input.
    #[arg(value_name = "INPUT")]
    inputs: Vec<String>,

    /// Raw block file (the same as giving it as INPUT).
    #[arg(long, value_name = "FILE")]
    block: Option<String>,

    /// Where to send: udp://HOST:PORT or tcp://HOST:PORT; repeat or separate by commas for several targets, which
    /// take turns.
    #[arg(long, value_name = "TARGET", required = true, value_delimiter = ',')]
    to: Vec<Endpoint>,

    /// Transactions per second over all targets, 0 = as fast as they take it [default: 10000 if a target is udp,
    /// else 0].
    #[arg(long, value_name = "N")]
    rate: Option<u64>,

    /// Share of the transactions that is sent to every target and not only to the one whose turn it is (with one
    /// target: sent to it twice).
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0, value_parser = values::percent)]
    duplicates: f64,

    /// Stop after N transactions; past the end of the input go on with transactions derived from it by changing the
    /// lock time.
    #[arg(long, value_name = "N", value_parser = values::at_least_one)]
    count: Option<usize>,

    /// framed: BRC-124 frames; bare: transactions as they are; raw: the bytes of each input line as they are, whatever
    /// they may be (for trying how a role takes bad input).
    #[arg(long, value_enum, default_value_t = Format::Framed)]
    format: Format,

    /// Go on when a target goes away: what it cannot be given is counted, and a tcp target is connected again as soon
    /// as it is back. Without this, the first failure ends the command.
    #[arg(long)]
    keep_going: bool,

    /// Seed of the random choice of duplicates.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Print one line with one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// What goes over the wire.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Framed,
    Bare,
    Raw,
}

#[derive(Default)]
struct Totals {
    /// Transactions, each once.
    frames: u64,
    duplicates: u64,
    bytes: u64,
    /// Messages that a target could not be given (`--keep-going`).
    refused: u64,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let traffic = match args.format {
        Format::Framed | Format::Bare => Traffic::new(read_inputs(&args)?, args.count)?,
        Format::Raw => Traffic::raw(&args.inputs)?,
    };
    let connect = |to: &Endpoint| Target::connect(*to, args.keep_going);
    let mut targets = args.to.iter().map(connect).collect::<anyhow::Result<Vec<_>>>()?;
    let interrupt = Interrupt::watch()?;
    let began = Instant::now();
    let mut totals = send_all(&args, &traffic, &mut targets, &interrupt)?;
    for target in targets {
        totals.refused += target.finish()?;
    }
    report(&args, &traffic, &totals, began.elapsed());
    Ok(if totals.frames < traffic.len() as u64 { interrupt::EXIT.into() } else { ExitCode::SUCCESS })
}

fn read_inputs(args: &Args) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut base = Vec::new();
    for input in args.block.iter().chain(&args.inputs) {
        base.extend(traffic::read_input(input)?);
    }
    if args.block.is_none() && args.inputs.is_empty() {
        base = traffic::read_input("-")?;
    }
    Ok(base)
}

/// Sends until the end or the interrupt.
fn send_all(
    args: &Args,
    traffic: &Traffic,
    targets: &mut [Target],
    interrupt: &Interrupt,
) -> anyhow::Result<Totals> {
    let any_udp = args.to.iter().any(|to| to.transport == Transport::Udp);
    let mut pace = Pace::new(args.rate.unwrap_or(if any_udp { 10_000 } else { 0 }));
    let mut random = StdRng::seed_from_u64(args.seed);
    let bar = progress::bar(traffic.len() as u64, args.json, "sending");
    let (mut tx, mut message) = (Vec::new(), Vec::new());
    let mut totals = Totals::default();
    for index in 0..traffic.len() {
        pace.wait(|| flush_all(targets))?;
        if interrupt.seen() {
            break;
        }
        traffic.write(index, &mut tx);
        match args.format {
            Format::Framed => traffic::frame_transaction(&tx, &mut message)?,
            Format::Bare | Format::Raw => message.clone_from(&tx),
        }
        let turn = index % targets.len();
        targets[turn].send(&message)?;
        totals.frames += 1;
        totals.bytes += message.len() as u64;
        if args.duplicates > 0.0 && random.random_range(0.0..100.0) < args.duplicates {
            let copies = targets.len().max(2) - 1;
            for step in 1..=copies {
                let other = (turn + step) % targets.len();
                targets[other].send(&message)?;
                totals.duplicates += 1;
                totals.bytes += message.len() as u64;
            }
        }
        bar.inc(1);
    }
    flush_all(targets)?;
    bar.finish_and_clear();
    Ok(totals)
}

fn flush_all(targets: &mut [Target]) -> anyhow::Result<()> {
    targets.iter_mut().try_for_each(Target::flush)
}

fn report(args: &Args, traffic: &Traffic, totals: &Totals, took: Duration) {
    let seconds = took.as_secs_f64();
    if args.json {
        let targets: Vec<String> = args.to.iter().map(Endpoint::to_string).collect();
        println!(
            "{}",
            serde_json::json!({
                "transactions": totals.frames,
                "frames_sent": totals.frames + totals.duplicates,
                "duplicates_sent": totals.duplicates,
                "bytes": totals.bytes,
                "refused": totals.refused,
                "seconds": seconds,
                "targets": targets,
            })
        );
    } else {
        println!(
            "sent {} transactions and {} duplicates, {} bytes, in {seconds:.2} s ({:.0} a second)",
            totals.frames,
            totals.duplicates,
            totals.bytes,
            totals.frames as f64 / seconds.max(1e-9),
        );
        if totals.frames < traffic.len() as u64 {
            println!("interrupted: {} transactions were not sent", traffic.len() as u64 - totals.frames);
        }
        if totals.refused > 0 {
            println!("{} messages could not be given to their target", totals.refused);
        }
    }
}

/// Keeps to a rate in slots of a millisecond; a sender that fell behind does not catch up in a burst.
struct Pace {
    rate: u64,
    slot: Instant,
    left: u64,
    carried: u64,
}

impl Pace {
    const SLOT: Duration = Duration::from_millis(1);

    fn new(rate: u64) -> Pace {
        Pace { rate, slot: Instant::now(), left: 0, carried: 0 }
    }

    /// Waits until one more may leave; `before_sleep` runs first, so that nothing sits in a buffer meanwhile.
    fn wait(&mut self, mut before_sleep: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        if self.rate == 0 {
            return Ok(());
        }
        while self.left == 0 {
            let now = Instant::now();
            if now < self.slot {
                before_sleep()?;
                std::thread::sleep(self.slot - now);
            }
            self.slot = self.slot.max(now.checked_sub(Self::SLOT).unwrap_or(now)) + Self::SLOT;
            self.carried += self.rate;
            self.left = self.carried / 1000;
            self.carried %= 1000;
        }
        self.left -= 1;
        Ok(())
    }
}

/// A proxy.
enum Target {
    Udp(Datagrams),
    Tcp(Stream),
}

impl Target {
    fn connect(to: Endpoint, keep_going: bool) -> anyhow::Result<Target> {
        Ok(match to.transport {
            Transport::Udp => Target::Udp(Datagrams::open(to.address, keep_going)?),
            Transport::Tcp => Target::Tcp(Stream::connect(to, keep_going)?),
        })
    }

    fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        match self {
            Target::Udp(datagrams) => datagrams.send(message),
            Target::Tcp(stream) => stream.send(message),
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Target::Udp(_) => Ok(()),
            Target::Tcp(stream) => stream.flush(),
        }
    }

    /// Ends; returns how many messages the target could not be given.
    fn finish(self) -> anyhow::Result<u64> {
        match self {
            Target::Udp(datagrams) => Ok(datagrams.refused),
            Target::Tcp(stream) => stream.finish(),
        }
    }
}

struct Datagrams {
    socket: UdpSocket,
    to: SocketAddr,
    keep_going: bool,
    refused: u64,
}

impl Datagrams {
    fn open(to: SocketAddr, keep_going: bool) -> anyhow::Result<Datagrams> {
        let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).context("a UDP socket")?;
        Ok(Datagrams { socket, to, keep_going, refused: 0 })
    }

    fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(
            message.len() <= UDP_MAX,
            "a message of {} bytes does not fit a UDP datagram ({UDP_MAX} at most): send it to a tcp:// target",
            message.len()
        );
        match self.socket.send_to(message, self.to) {
            Ok(_) => Ok(()),
            Err(_) if self.keep_going => {
                self.refused += 1;
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("udp://{}", self.to)),
        }
    }
}

/// A TCP connection and the messages that it will be given together.
struct Stream {
    to: Endpoint,
    keep_going: bool,
    /// `None` while the target is away.
    connection: Option<TcpStream>,
    try_again: Instant,
    backoff: Duration,
    buffer: Vec<u8>,
    buffered: u64,
    refused: u64,
}

impl Stream {
    const BUFFER: usize = 1 << 16;
    const BACKOFF_FIRST: Duration = Duration::from_millis(10);
    const BACKOFF_CAP: Duration = Duration::from_millis(200);

    fn connect(to: Endpoint, keep_going: bool) -> anyhow::Result<Stream> {
        let connection = Stream::dial(to, Duration::from_secs(5))?;
        Ok(Stream {
            to,
            keep_going,
            connection: Some(connection),
            try_again: Instant::now(),
            backoff: Self::BACKOFF_FIRST,
            buffer: Vec::with_capacity(2 * Self::BUFFER),
            buffered: 0,
            refused: 0,
        })
    }

    fn dial(to: Endpoint, patience: Duration) -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&to.address, patience)
            .with_context(|| format!("{to}: is a proxy listening there (--tcp-listen-port)?"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_write_timeout(Some(Duration::from_secs(60))).context("write timeout")?;
        Ok(stream)
    }

    fn send(&mut self, message: &[u8]) -> anyhow::Result<()> {
        if self.connection.is_none() && !self.reconnect() {
            self.refused += 1;
            return Ok(());
        }
        self.buffer.extend_from_slice(message);
        self.buffered += 1;
        if self.buffer.len() >= Self::BUFFER { self.flush() } else { Ok(()) }
    }

    fn reconnect(&mut self) -> bool {
        if Instant::now() < self.try_again {
            return false;
        }
        self.connection = Stream::dial(self.to, Self::BACKOFF_CAP).ok();
        match self.connection {
            Some(_) => self.backoff = Self::BACKOFF_FIRST,
            None => self.wait_longer(),
        }
        self.connection.is_some()
    }

    fn wait_longer(&mut self) {
        self.try_again = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(Self::BACKOFF_CAP);
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let written = connection.write_all(&self.buffer);
        if let Err(error) = written {
            if !self.keep_going {
                return Err(error)
                    .with_context(|| format!("{}: the proxy closed or stopped reading", self.to));
            }
            // The next connection begins with a whole message.
            self.refused += self.buffered;
            self.connection = None;
            self.wait_longer();
        }
        self.buffer.clear();
        self.buffered = 0;
        Ok(())
    }

    /// Closes the sending side and waits until the proxy has read everything and closed too.
    fn finish(mut self) -> anyhow::Result<u64> {
        let Some(connection) = self.connection.take() else { return Ok(self.refused) };
        match Stream::close(connection, self.to) {
            Err(error) if !self.keep_going => Err(error),
            _ => Ok(self.refused),
        }
    }

    fn close(mut stream: TcpStream, to: Endpoint) -> anyhow::Result<()> {
        stream.shutdown(Shutdown::Write).with_context(|| to.to_string())?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).context("read timeout")?;
        let mut rest = [0; 64];
        stream
            .read(&mut rest)
            .with_context(|| format!("{to}: the proxy did not confirm that it read everything"))?;
        Ok(())
    }
}
