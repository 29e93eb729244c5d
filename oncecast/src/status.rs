//! `oncecast status`: what a running role says of itself, for people and scripts without curl.

use crate::values;
use anyhow::{Context, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Longest answer read, bytes.
const MAX_ANSWER: u64 = 16 << 20;

/// Show what a running role says of itself.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Admin address (--metrics-addr of the role), HOST:PORT.
    #[arg(value_name = "HOST:PORT", value_parser = values::host_port)]
    address: SocketAddr,

    /// Page to fetch: status, readyz, healthz or metrics.
    #[arg(long, value_name = "PAGE", default_value = "status", value_parser = ["status", "readyz", "healthz", "metrics"])]
    page: String,

    /// Ask again until the role is ready, this many seconds at most; exit status 1 if it is not by then.
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, allow_negative_numbers = true)]
    wait_ready: Option<f64>,
}

/// Runs the command. Exit status 0 if the answer was HTTP 200.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let address = args.address;
    if let Some(seconds) = args.wait_ready {
        let limit = Duration::try_from_secs_f64(seconds.max(0.0)).context("--wait-ready")?;
        wait_ready(address, limit)?;
    }
    let (code, body) = get(address, &format!("/{}", args.page))?;
    println!("{}", body.trim_end());
    Ok(if code == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn wait_ready(address: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer = get(address, "/readyz");
        if matches!(answer, Ok((200, _))) {
            return Ok(());
        }
        if began.elapsed() >= limit {
            match answer {
                Ok((_, body)) => bail!("{address} is not ready after {limit:?}: {}", body.trim_end()),
                Err(error) => bail!("{address} is not ready after {limit:?}: {error:#}"),
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One HTTP/1.0 GET: status code and body.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let limit = Duration::from_secs(5);
    let mut stream =
        TcpStream::connect_timeout(&address, limit).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(limit)).context("read timeout")?;
    stream.set_write_timeout(Some(limit)).context("write timeout")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").context("request")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).context("answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
    Ok((code, body.to_owned()))
}
