//! `oncecast bench floor`: what the sockets alone cost.
//!
//! The same sockets, batches and trains as a proxy with one worker, and no work on the frames: nothing is decoded beyond
//! group and length, nothing verified, claimed or numbered. A proxy can approach it and never pass it.

use super::shared::{End, Ending, Groups};
use anyhow::Context;
use frame::data::HEADER;
use frame::{GroupIndex, ShardBits};
use multicast_io::{
    Burst, Interface, PortUse, Ready, Receiver, Sender, SocketOptions, Span, Train, thread_time,
};
use proxy_ingress::pipeline::admit::MAX_DATAGRAM;
use proxy_ingress::pipeline::train::{Order, TrainFrame, TrainLimits, TrainPlan};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

/// Receive slots, as the proxy has them.
const SLOTS: usize = 128;
/// Datagrams of a round, as the proxy takes them.
const ROUND: usize = 1024;

/// Forward frames like a proxy that does no work, to measure what the sockets cost.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Address to take frames on
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8725")]
    listen: SocketAddr,
    #[command(flatten)]
    groups: Groups,
    /// Percent that a frame may grow to share a train
    #[arg(long, value_name = "PERCENT", default_value_t = 15)]
    train_padding: u32,
    /// Send one datagram at a time
    #[arg(long)]
    no_gso: bool,
    /// Take one datagram at a time
    #[arg(long)]
    no_gro: bool,
    /// Messages of one receive call
    #[arg(long, value_name = "N", default_value_t = 32)]
    recv_batch: usize,
    #[command(flatten)]
    ending: Ending,
}

/// Forwards until nothing comes any more.
pub fn run(args: &Args) -> anyhow::Result<serde_json::Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(forward(args))
}

struct Floor<'a> {
    groups: &'a Groups,
    bits: ShardBits,
    limits: TrainLimits,
    sender: Sender,
    cars: Vec<TrainFrame>,
    spans: Vec<Span>,
    plan: TrainPlan,
    frames: Vec<Span>,
    trains: Vec<Train>,
    count: Count,
}

#[derive(Default)]
struct Count {
    rounds: u64,
    frames: u64,
    trains: u64,
    padding: u64,
    bytes: u64,
    lost: u64,
}

async fn forward(args: &Args) -> anyhow::Result<serde_json::Value> {
    let mut receiver = Ready::new(open_receiver(args)?)?;
    let mut floor = Floor::open(args)?;
    let mut burst = Burst::new(SLOTS, 0).touched();
    let mut end = End::new(&args.ending);
    let (mut began, mut first) = (thread_time()?, None);
    eprintln!("ready");
    while let Some(left) = end.left(Instant::now()) {
        burst.clear();
        let received = receiver.read_with(|receiver| receiver.receive(&mut burst, args.recv_batch));
        match tokio::time::timeout(left, received).await {
            Err(_) => continue,
            Ok(received) => received.context("receiving")?,
        };
        let now = Instant::now();
        if first.is_none() {
            (began, first) = (thread_time()?, Some(now));
        }
        end.moved(now);
        fill(receiver.get_mut(), &mut burst, args.recv_batch)?;
        floor.send(&burst)?;
    }
    let count = &floor.count;
    Ok(serde_json::json!({
        "part": "floor", "frames": count.frames, "trains": count.trains, "rounds": count.rounds,
        "bytes": count.bytes, "padding": count.padding, "lost": count.lost,
        "seconds": first.map_or(0.0, |first| first.elapsed().as_secs_f64()),
        "kernel_drops": receiver.get_ref().kernel_drops(), "cpu": super::shared::cpu(began)?,
    }))
}

/// Takes what else waits, up to a round.
fn fill(receiver: &mut Receiver, burst: &mut Burst, batch: usize) -> anyhow::Result<()> {
    while burst.arrivals().len() < ROUND && burst.free_slots() > 0 {
        match receiver.receive(burst, batch) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("receiving"),
        }
    }
    Ok(())
}

fn open_receiver(args: &Args) -> anyhow::Result<Receiver> {
    let mut options = SocketOptions::new(args.listen);
    options.port_use = PortUse::Shared;
    options.dual_stack = args.listen.is_ipv6();
    options.gro = !args.no_gro;
    options.receive_buffer = Some(4 << 20);
    Ok(Receiver::open(&options)?)
}

impl Floor<'_> {
    fn open(args: &Args) -> anyhow::Result<Floor<'_>> {
        let mut options = SocketOptions::new("[::]:0".parse()?);
        options.interface = Some(Interface::by_name(&args.groups.iface).context("--iface")?);
        options.send_buffer = Some(8 << 20);
        options.gso = !args.no_gso;
        let sender = Sender::open(&options)?;
        let limits = TrainLimits {
            max_frames: sender.max_train(),
            max_bytes: MAX_DATAGRAM,
            max_segment: super::load::MAX_SEGMENT,
            padding_percent: args.train_padding,
            order: Order::Length,
        };
        Ok(Floor {
            groups: &args.groups,
            bits: args.groups.bits()?,
            limits,
            sender,
            cars: Vec::new(),
            spans: Vec::new(),
            plan: TrainPlan::new(),
            frames: Vec::new(),
            trains: Vec::new(),
            count: Count::default(),
        })
    }

    fn send(&mut self, burst: &Burst) -> anyhow::Result<()> {
        self.cars.clear();
        self.spans.clear();
        for arrival in burst.arrivals() {
            let Some((group, len)) = route(self.bits, burst.bytes(arrival.span)) else { continue };
            self.cars.push(TrainFrame::whole(group, len));
            self.spans.push(Span { start: arrival.span.start, len: len.into() });
        }
        self.plan.make(&self.limits, &self.cars);
        self.frames.clear();
        self.frames.extend(self.plan.order.iter().map(|&at| self.spans[at as usize]));
        self.trains.clear();
        self.trains.extend(self.plan.trains.iter().map(|cars| Train {
            destination: self.groups.destination(cars.group),
            first: cars.first,
            count: cars.count,
            segment: cars.segment,
        }));
        let progress = self.sender.send(burst.memory(), &self.trains, &self.frames);
        if let Some(error) = progress.error
            && error.kind() != io::ErrorKind::WouldBlock
        {
            return Err(error).context("sending");
        }
        let count = &mut self.count;
        count.rounds += 1;
        count.frames += progress.frames as u64;
        count.lost += (self.frames.len() - progress.frames) as u64;
        count.trains += self.trains.len() as u64;
        count.padding += self.plan.padding;
        count.bytes += self.frames.iter().map(|span| u64::from(span.len)).sum::<u64>();
        Ok(())
    }
}

/// Group and length of a frame; `None` for what is too short to be one.
fn route(bits: ShardBits, datagram: &[u8]) -> Option<(GroupIndex, u16)> {
    let id = datagram.get(8..40)?.first_chunk()?;
    let length = u32::from_be_bytes(*datagram.get(88..92)?.first_chunk()?);
    let len = HEADER.checked_add(usize::try_from(length).ok()?).filter(|len| *len <= datagram.len())?;
    Some((bits.group_of(id), u16::try_from(len).ok()?))
}
