//! Multicast repairs on the wire: one sender an interface, the frames read in place from the store's segments.

use crate::config::Config;
use crate::pipeline::answer::{Repair, TrainRules, runs};
use crate::pipeline::store::Store;
use frame::Fabric;
use multicast_io::{Interface, Progress, Ready, Sender, SocketError, SocketOptions, Span, Train, wildcard};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// Address and port of a group; link scope names its interface.
pub(crate) fn destination(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.octets()[1] & 0x0F == 0x02 => SocketAddrV6::new(v6, port, 0, interface).into(),
        address => SocketAddr::new(address, port),
    }
}

/// Opens a sender for multicast on one interface, with the options of an emitter.
pub(crate) fn open_sender(
    config: &Config,
    fabric: &Fabric,
    interface: &Interface,
) -> Result<Sender, SocketError> {
    let bind = SocketAddr::new(config.fabric.bind_source.unwrap_or_else(|| wildcard(fabric.is_v4())), 0);
    Sender::open(&SocketOptions {
        interface: Some(interface.clone()),
        hop_limit: config.fabric.egress_hoplimit,
        loopback: config.fabric.egress_loop,
        ..SocketOptions::new(bind)
    })
}

/// One sending socket and the interface behind it.
pub(crate) struct Link {
    pub(crate) sender: Sender,
    pub(crate) interface: Interface,
}

struct Port {
    sender: Ready<Sender>,
    interface: u32,
    /// Longest frame that fits the MTU.
    frame_bytes: u32,
}

/// Sends repairs of one worker.
pub(crate) struct Emitter {
    ports: Vec<Port>,
    fabric: Fabric,
    port: u16,
    padding: u32,
    trains: Vec<Train>,
    spans: Vec<Span>,
}

impl Emitter {
    /// Longest wait for a full socket; what is not sent then is not acknowledged and will be asked for again.
    const PATIENCE: Duration = Duration::from_millis(5);

    /// Must be called on the worker's runtime.
    pub(crate) fn new(links: Vec<Link>, config: &Config, fabric: Fabric) -> io::Result<Emitter> {
        let overhead = if fabric.is_v4() { 28 } else { 48 };
        let ports = links.into_iter().map(|Link { sender, interface }| {
            let sender = Ready::new(sender)?;
            let frame_bytes = interface.mtu.saturating_sub(overhead);
            Ok(Port { sender, interface: interface.index, frame_bytes })
        });
        Ok(Emitter {
            ports: ports.collect::<io::Result<_>>()?,
            fabric,
            port: config.egress_port,
            padding: config.train_padding,
            trains: Vec::new(),
            spans: Vec::new(),
        })
    }

    /// Errors that the kernel queued about earlier datagrams, since open.
    pub(crate) fn queued_errors(&self) -> u64 {
        self.ports.iter().map(|port| port.sender.get_ref().queued_errors()).sum()
    }

    /// Interfaces that refused trains, so that frames leave one by one.
    pub(crate) fn gso_refused(&self) -> u64 {
        self.ports.iter().map(|port| u64::from(port.sender.get_ref().gso_refused())).sum()
    }

    /// Sends `repairs` to their groups; returns how many of them, from the first, every interface took.
    pub(crate) async fn multicast(&mut self, store: &Store, repairs: &[Repair]) -> usize {
        let mut sent = repairs.len();
        for at in 0..self.ports.len() {
            sent = sent.min(self.send(at, store, repairs).await);
        }
        sent
    }

    async fn send(&mut self, at: usize, store: &Store, repairs: &[Repair]) -> usize {
        let deadline = Instant::now() + Emitter::PATIENCE;
        let mut sent = 0;
        while sent < repairs.len() {
            let segment = self.load(at, &repairs[sent..]);
            let progress = match self.hand_over(at, store.segment(segment), deadline).await {
                Ok(progress) => progress,
                Err(error) => {
                    service::limited!(warn, 1, "multicast repair: {error}");
                    break;
                }
            };
            sent += progress.frames;
            match progress.error {
                None if progress.frames > 0 => {}
                None => break,
                Some(_) if progress.frames > 0 && Instant::now() < deadline => {}
                // A queue below the socket was full: give it a moment.
                Some(error) if error.raw_os_error() == Some(ENOBUFS) && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Some(error) => {
                    service::limited!(warn, 1, "multicast repair refused: {error}");
                    break;
                }
            }
        }
        sent
    }

    /// Hands the loaded trains to the kernel; waits while the socket is full.
    async fn hand_over(&mut self, at: usize, memory: &[u8], deadline: Instant) -> io::Result<Progress> {
        let (trains, spans) = (&self.trains, &self.spans);
        let send = |sender: &mut Sender| {
            let mut progress = sender.send(memory, trains, spans);
            match progress.error.take_if(|error| error.kind() == io::ErrorKind::WouldBlock) {
                Some(full) if progress.frames == 0 => Err(full),
                _ => Ok(progress),
            }
        };
        let port = &mut self.ports[at];
        let waited = tokio::time::timeout_at(deadline.into(), port.sender.write_with(send)).await;
        waited.unwrap_or_else(|late| Err(late.into()))
    }

    /// Lays out the trains of the first segment that `repairs` touch.
    fn load(&mut self, at: usize, repairs: &[Repair]) -> usize {
        self.trains.clear();
        self.spans.clear();
        let port = &self.ports[at];
        let rules = TrainRules {
            frames: port.sender.get_ref().max_train(),
            frame_bytes: port.frame_bytes,
            padding: self.padding,
        };
        let segment = repairs.first().map_or(0, |repair| repair.place.segment);
        for run in runs(repairs, &rules).take_while(|run| run.segment == segment) {
            let (Ok(first), Ok(count), Ok(longest)) =
                (u32::try_from(run.first), u32::try_from(run.count), u16::try_from(run.longest))
            else {
                break;
            };
            let destination = destination(self.fabric.address(run.group), self.port, port.interface);
            self.trains.push(Train { destination, first, count, segment: longest });
            self.spans.extend(repairs[run.first..][..run.count].iter().map(|repair| repair.place.span));
        }
        segment
    }
}

/// `ENOBUFS` on Linux.
const ENOBUFS: i32 = 105;
