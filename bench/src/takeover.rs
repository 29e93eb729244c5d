//! `takeover`: how long after the death of a claim's owner its sibling sends the frame.
//!
//! The owner claims through a relay that never gives it an answer. Once the claim stands in the server the owner is killed,
//! and only then its sibling gets its copy: the whole lease is still to come, so this is the longest that a frame waits.

use crate::budget::Budget;
use crate::net::inside;
use crate::row::{Bar, Row, median};
use crate::shared::Shared;
use crate::traffic;
use anyhow::Context;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use tests::relay::Relay;

/// `--claim-lease` of both proxies, its default.
const LEASE: Duration = Duration::from_millis(250);
/// What a takeover may need beyond it: reads between records, and a claim.
const BEYOND: Duration = Duration::from_millis(150);
/// How long anything that happens at all may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Measures the row.
pub fn row(shared: &Shared, budget: &Budget) -> anyhow::Result<Row> {
    shared.flush();
    let times = if shared.quick { 3 } else { 9 };
    let relay = Relay::before(&shared.redis);
    let _sibling = shared.proxy(1, &shared.with_redis())?;
    let fabric = inside(&shared.sink, listen)?;
    let sender = inside(&shared.sender, || Ok(UdpSocket::bind("[::]:0")?))?;
    let mut waits = Vec::new();
    // Every proxy that claimed is dead or has another id: no frame is known already.
    for (frame, ()) in traffic::frames(times, 0)?.into_iter().zip(budget.rounds("takeover", 1..=times)) {
        relay.mischief.withhold(false);
        let owner = shared.proxy(0, &format!("--cache-backend redis --redis-addr {}", relay.address()))?;
        relay.mischief.withhold(true);
        sender.send_to(&frame, shared.ingress(0))?;
        claimed(shared, &frame)?;
        // Killed on drop.
        drop(owner);
        let died = Instant::now();
        sender.send_to(&frame, shared.ingress(1))?;
        waits.push(arrival(&fabric, &frame, died)?.as_secs_f64() * 1e3);
    }
    let longest = waits.iter().copied().fold(0.0, f64::max);
    let note = format!(
        "longest of {}, median {:.0} ms; lease {} ms",
        waits.len(),
        median(waits.iter().copied()),
        LEASE.as_millis()
    );
    Ok(Row::new("takeover", longest, "ms", Bar::Most((LEASE + BEYOND).as_secs_f64() * 1e3), note))
}

/// A socket that takes what leaves for the groups.
fn listen() -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 9001))?;
    let index = nix::net::if_::if_nametoindex("eth0")?;
    for group in 0..4 {
        socket.join_multicast_v6(&Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0x000b, group), index)?;
    }
    Ok(socket)
}

/// Waits until the claim of a frame stands in the server.
fn claimed(shared: &Shared, frame: &[u8]) -> anyhow::Result<()> {
    use std::io::{Read, Write};
    let mut server = std::os::unix::net::UnixStream::connect(shared.redis.socket())?;
    server.set_read_timeout(Some(PATIENCE))?;
    let key: String = frame[8..40].iter().map(|byte| format!("{byte:02x}")).collect();
    let began = Instant::now();
    let mut answer = [0; 4];
    while &answer != b":1\r\n" {
        anyhow::ensure!(began.elapsed() < PATIENCE, "the owner never claimed bsp:tx:{key}");
        server.write_all(format!("EXISTS bsp:tx:{key}\r\n").as_bytes())?;
        server.read_exact(&mut answer)?;
    }
    Ok(())
}

/// How long after `since` the frame came.
fn arrival(fabric: &UdpSocket, frame: &[u8], since: Instant) -> anyhow::Result<Duration> {
    fabric.set_read_timeout(Some(PATIENCE))?;
    let mut datagram = [0; 2048];
    loop {
        let (length, _): (usize, SocketAddr) =
            fabric.recv_from(&mut datagram).context("the frame never reached the fabric")?;
        if datagram[..length].get(8..40) == frame.get(8..40) {
            return Ok(since.elapsed());
        }
    }
}
