//! What a frame costs by each way of sending: alone, in `sendmmsg` batches, in trains; and of receiving them.
//!
//!     cargo run --release -p multicast-io --example throughput -- [frames] [bytes a frame]
//!
//! One thread sends IPv6 multicast over a veth pair in a network namespace of its own (the loopback where none can be made), one
//! receives. Each runs on a core of its own. Costs are CPU time of the thread, so that others on the machine disturb them
//! less than they disturb the rate. The kernel's work of the receiving side up to the socket's queue runs on the sender's
//! core and is counted there.

use multicast_io::affinity::allowed_cores;
use multicast_io::probe::{wait_readable, wait_writable};
use multicast_io::{
    Burst, Interface, Receiver, Sender, SocketOptions, Span, Train, enter_private_network,
    pin_current_thread, thread_time,
};
use std::error::Error;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// One way of sending and receiving.
struct Way {
    name: &'static str,
    /// Frames a train, and frames a call.
    train: usize,
    call: usize,
    /// Every frame shorter than the segment by this at most: padding.
    short_by: usize,
    gro: bool,
    receive_batch: usize,
}

const WAYS: [Way; 9] = [
    way("one a call", 1, 1, 0, false, 64),
    way("sendmmsg 64", 1, 64, 0, false, 64),
    way("trains of 4", 4, 64, 0, true, 64),
    way("trains of 16, no GRO", 16, 256, 0, false, 64),
    way("trains of 16", 16, 256, 0, true, 64),
    way("trains of 16, padded", 16, 256, 40, true, 64),
    way("trains of 16, receive 8", 16, 256, 0, true, 8),
    way("trains of 64", 64, 1_024, 0, true, 64),
    way("trains of 128, padded", 128, 1_024, 40, true, 64),
];

const fn way(
    name: &'static str,
    train: usize,
    call: usize,
    short_by: usize,
    gro: bool,
    receive_batch: usize,
) -> Way {
    Way { name, train, call, short_by, gro, receive_batch }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let frames = arguments.next().transpose()?.unwrap_or(1_000_000);
    let bytes = arguments.next().transpose()?.unwrap_or(256).clamp(64, 1_400);
    let (send_on, receive_on) = network()?;
    println!("{frames} frames of {bytes} bytes, {} to {}", send_on.name, receive_on.name);
    println!(
        "{:26} {:>9} {:>12} {:>12} {:>12} {:>10}",
        "", "M/s", "send ns", "receive ns", "arrived", "dropped"
    );
    for way in &WAYS {
        // Slow ways need fewer frames to show their cost.
        let frames = if way.train == 1 { frames / 4 } else { frames };
        measure(way, frames, bytes, &send_on, &receive_on)?;
    }
    Ok(())
}

/// A veth pair in a namespace of our own, else the loopback.
fn network() -> Outcome<(Interface, Interface)> {
    if let Err(error) = enter_private_network() {
        println!("no network namespace ({error}): on the loopback, which has to route ff05::/16");
        return Ok((Interface::by_name("lo")?, Interface::by_name("lo")?));
    }
    let steps = [
        "link add left type veth peer name right",
        "link set left up",
        "link set right up",
        "-6 address add fd00::1/64 dev left nodad",
        "-6 address add fd00::2/64 dev right nodad",
        "-6 route del local ff05::/16 dev lo table local",
    ];
    let done =
        |step: &&str| Command::new("ip").args(step.split(' ')).status().is_ok_and(|status| status.success());
    match steps.iter().find(|step| !done(step)) {
        Some(step) => {
            println!("`ip {step}` failed: on the loopback");
            Ok((Interface::by_name("lo")?, Interface::by_name("lo")?))
        }
        None => Ok((Interface::by_name("left")?, Interface::by_name("right")?)),
    }
}

/// What one side did.
struct Side {
    frames: u64,
    dropped: u64,
    cpu: Duration,
    elapsed: Duration,
}

fn measure(
    way: &Way,
    frames: usize,
    bytes: usize,
    send_on: &Interface,
    receive_on: &Interface,
) -> Outcome<()> {
    let group: IpAddr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0xb, 1).into();
    let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    let options = |interface: &Interface| SocketOptions {
        interface: Some(interface.clone()),
        receive_buffer: Some(64 << 20),
        send_buffer: Some(4 << 20),
        loopback: interface.is_loopback,
        gro: way.gro,
        ..SocketOptions::new(any)
    };
    let receiver = Receiver::open(&options(receive_on))?;
    receiver.join(group, receive_on)?;
    let to = SocketAddr::new(group, receiver.local_addr()?.port());
    let sender = Sender::open(&options(send_on))?;
    let finished = AtomicBool::new(false);
    let (sent, received) = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(receiver, way.receive_batch, &finished));
        let sending = scope.spawn(|| send(sender, way, to, frames, bytes));
        let sent = sending.join();
        finished.store(true, Ordering::Release);
        (sent, receiving.join())
    });
    let died = |_| "a thread died";
    report(way.name, &sent.map_err(died)??, &received.map_err(died)??);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn report(name: &str, sent: &Side, received: &Side) {
    let each = |time: Duration, frames: u64| time.as_secs_f64() * 1e9 / frames.max(1) as f64;
    println!(
        "{name:26} {:9.3} {:12.0} {:12.0} {:12} {:10}",
        sent.frames as f64 / sent.elapsed.as_secs_f64() / 1e6,
        each(sent.cpu, sent.frames),
        each(received.cpu, received.frames),
        received.frames,
        received.dropped,
    );
}

fn pin(from_the_end: usize) -> Outcome<()> {
    let cores = allowed_cores()?;
    if cores.len() > from_the_end {
        pin_current_thread(cores[cores.len() - 1 - from_the_end])?;
    }
    Ok(())
}

fn send(mut sender: Sender, way: &Way, to: SocketAddr, frames: usize, bytes: usize) -> Outcome<Side> {
    pin(0)?;
    let memory = vec![7; way.call * bytes];
    let spans: Vec<Span> = (0..way.call)
        .map(|at| -> Outcome<Span> {
            // The longest frame leads its train and gives the segment.
            let short_by = at % way.train * 7 % (way.short_by + 1);
            Ok(Span { start: u32::try_from(at * bytes)?, len: u32::try_from(bytes - short_by)? })
        })
        .collect::<Outcome<_>>()?;
    let trains: Vec<Train> = (0..way.call)
        .step_by(way.train)
        .map(|first| -> Outcome<Train> {
            Ok(Train {
                destination: to,
                first: u32::try_from(first)?,
                count: u32::try_from(way.train)?,
                segment: u16::try_from(bytes)?,
            })
        })
        .collect::<Outcome<_>>()?;
    let (began, cpu) = (Instant::now(), thread_time()?.total());
    let mut sent = 0;
    while sent < frames {
        let progress = sender.send(&memory, &trains, &spans);
        sent += progress.frames;
        match progress.error {
            Some(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_writable(&sender, Duration::from_secs(1))?;
            }
            Some(error) => return Err(error.into()),
            None => {}
        }
    }
    Ok(Side { frames: sent as u64, dropped: 0, cpu: thread_time()?.total() - cpu, elapsed: began.elapsed() })
}

fn receive(mut receiver: Receiver, batch: usize, finished: &AtomicBool) -> Outcome<Side> {
    pin(1)?;
    let mut burst = Burst::new(64, 0);
    let (began, cpu) = (Instant::now(), thread_time()?.total());
    let mut frames = 0;
    let mut sum = 0u64;
    loop {
        match receiver.receive(&mut burst, batch) {
            Ok(new) => {
                frames += new as u64;
                // Reads of each frame what a decoder reads first.
                for arrival in burst.arrivals() {
                    sum += burst.bytes(arrival.span)[..48].iter().map(|byte| u64::from(*byte)).sum::<u64>();
                }
                burst.clear();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let over = finished.load(Ordering::Acquire);
                if !wait_readable(&receiver, Duration::from_millis(50))? && over {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    std::hint::black_box(sum);
    Ok(Side {
        frames,
        dropped: receiver.kernel_drops(),
        cpu: thread_time()?.total() - cpu,
        elapsed: began.elapsed(),
    })
}
