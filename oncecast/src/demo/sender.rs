//! The demo's sender: plays the wallets. It waits for ingress and for the retry endpoints when they fall behind. So nothing is
//! lost before it was accepted, and what a listener loses can be had again.

use super::fleet::Fleet;
use crate::traffic::{self, Traffic};
use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

/// Datagrams and bytes that may be on their way to one proxy: below the smallest socket buffer of a stock kernel.
const WINDOW_FRAMES: u64 = 96;
const WINDOW_BYTES: u64 = 64 << 10;
/// Datagrams that a retry endpoint may lag behind the proxies.
const LAG: u64 = 256;
/// Longest wait without any progress; what does not arrive by then was lost on the way and is not waited for again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest frame that a UDP datagram can carry on either family; longer ones go by TCP.
const UDP_MAX: usize = 65_507;
/// Pause between two looks at a full window.
const POLL: Duration = Duration::from_micros(500);

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub frames: u64,
    pub duplicates: u64,
}

/// Connections to both proxies.
pub struct Sender {
    doors: [Door; 2],
    random: StdRng,
}

/// One proxy's UDP port and a TCP connection to it.
struct Door {
    udp: UdpSocket,
    tcp: TcpStream,
    buffer: Vec<u8>,
    sent: u64,
    /// What may be sent before the next look at the proxy's counters.
    room_frames: u64,
    room_bytes: u64,
    /// Frames given up as lost on the way.
    forgiven: u64,
}

impl Sender {
    pub async fn connect(fleet: &Fleet, seed: u64) -> anyhow::Result<Sender> {
        let [one, two] = fleet.ingress()?;
        let doors = [Door::open(one.0, one.1).await?, Door::open(two.0, two.1).await?];
        Ok(Sender { doors, random: StdRng::seed_from_u64(seed) })
    }

    /// Sends everything: each transaction to one proxy by UDP or TCP, some to both.
    pub async fn send_all(
        &mut self,
        traffic: &Traffic,
        fleet: &Fleet,
        duplicates: f64,
    ) -> anyhow::Result<Sent> {
        let (mut tx, mut frame) = (Vec::new(), Vec::new());
        let mut sent = Sent::default();
        for index in 0..traffic.len() {
            traffic.write(index, &mut tx);
            traffic::frame_transaction(&tx, &mut frame)?;
            let proxy = self.random.random_range(0..2usize);
            self.send(proxy, &frame, fleet).await?;
            sent.frames += 1;
            if self.random.random_range(0.0..100.0) < duplicates {
                self.send(1 - proxy, &frame, fleet).await?;
                sent.frames += 1;
                sent.duplicates += 1;
            }
        }
        for door in &mut self.doors {
            door.flush().await?;
        }
        Ok(sent)
    }

    async fn send(&mut self, proxy: usize, frame: &[u8], fleet: &Fleet) -> anyhow::Result<()> {
        let by_udp = self.random.random_range(0..2) == 0 && frame.len() <= UDP_MAX;
        let door = &mut self.doors[proxy];
        door.wait_for_room(frame.len() as u64, proxy, fleet).await?;
        if by_udp {
            door.udp.send(frame).await.context("sending to a proxy by UDP")?;
        } else {
            door.buffer.extend_from_slice(frame);
        }
        door.sent += 1;
        Ok(())
    }
}

impl Door {
    async fn open(udp: SocketAddr, tcp: SocketAddr) -> anyhow::Result<Door> {
        let socket = UdpSocket::bind(SocketAddr::new(udp.ip(), 0)).await.context("a UDP socket")?;
        socket.connect(udp).await.with_context(|| format!("udp://{udp}"))?;
        let tcp = TcpStream::connect(tcp).await.with_context(|| format!("tcp://{tcp}"))?;
        tcp.set_nodelay(true).context("TCP_NODELAY")?;
        Ok(Door {
            udp: socket,
            tcp,
            buffer: Vec::new(),
            sent: 0,
            room_frames: WINDOW_FRAMES,
            room_bytes: WINDOW_BYTES,
            forgiven: 0,
        })
    }

    /// Waits until `bytes` more fit the window of proxy `index`, and the retry endpoints keep up.
    async fn wait_for_room(&mut self, bytes: u64, index: usize, fleet: &Fleet) -> anyhow::Result<()> {
        if self.room_frames == 0 || self.room_bytes < bytes {
            self.flush().await?;
            self.wait_until_taken(index, fleet).await;
            (self.room_frames, self.room_bytes) = (WINDOW_FRAMES, WINDOW_BYTES.max(bytes));
        }
        self.room_frames -= 1;
        self.room_bytes -= bytes;
        Ok(())
    }

    async fn wait_until_taken(&mut self, index: usize, fleet: &Fleet) {
        let mut behind = (u64::MAX, u64::MAX);
        let mut changed = Instant::now();
        loop {
            let now = (self.on_the_way(index, fleet), fleet.endpoints_lag());
            if now.0 == 0 && now.1 < LAG {
                return;
            }
            if now != behind {
                (behind, changed) = (now, Instant::now());
            } else if changed.elapsed() > PATIENCE {
                self.forgiven += self.on_the_way(index, fleet);
                fleet.forgive_lag();
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn on_the_way(&self, index: usize, fleet: &Fleet) -> u64 {
        self.sent.saturating_sub(fleet.received(index) + self.forgiven)
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.tcp.write_all(&self.buffer).await.context("sending to a proxy by TCP")?;
        self.buffer.clear();
        Ok(())
    }
}
