//! `listener_vs_receiver`, `retry_vs_receiver`: numbered frames straight into the groups, and who takes them.
//!
//! The bare receiver has the same sockets and only counts. The listener verifies, tracks and delivers over TCP to a
//! process that throws everything away; the retry endpoint stores. Each is warmed with as many frames as its memory holds,
//! so that the pages of a log that is filled for the first time are not counted.

use crate::budget::Budget;
use crate::net::MIDDLE;
use crate::process::{Oncecast, Process, together};
use crate::rig::Rig;
use crate::row::{Bar, Row, median};
use crate::traffic;
use std::time::Duration;

/// Who takes the frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Taker {
    Receiver,
    Listener,
    Retry,
}

const DRAIN: &str = "127.0.0.1:9100";

impl Taker {
    fn args(self) -> String {
        match self {
            Taker::Receiver => "bench sink --iface eth0 --idle-ms 1500".to_owned(),
            Taker::Listener => {
                format!("listener --iface eth0 --workers 1 --egress-proto tcp --egress-addr {DRAIN}")
            }
            Taker::Retry => {
                "retry --mc-iface eth0 --egress-iface eth0 --workers 1 --cache-bytes 128MiB".to_owned()
            }
        }
    }

    fn counter(self) -> &'static str {
        match self {
            Taker::Receiver => "",
            Taker::Listener => "bsl_frames_received_total",
            Taker::Retry => "bre_frames_received_total",
        }
    }
}

/// Measures both rows.
pub fn rows(rig: &Rig, budget: &Budget) -> anyhow::Result<Vec<Row>> {
    let (mut bare, mut listener, mut retry) = (vec![], vec![], vec![]);
    for () in budget.rounds("ingest", 1..=rig.rounds) {
        bare.push(cost(rig, &rig.oncecast, Taker::Receiver)?);
        listener.push(cost(rig, &rig.oncecast, Taker::Listener)?);
        retry.push(cost(rig, &rig.oncecast, Taker::Retry)?);
    }
    let row = |name, bar, costs: &[f64]| {
        let ratio = median(bare.iter().zip(costs).map(|(bare, cost)| bare / cost));
        let of = |costs: &[f64]| median(costs.iter().copied());
        let note = format!("{:.0} ns a frame, bare receiver {:.0} ns (CPU)", of(costs), of(&bare));
        Row::new(name, ratio, "x", Bar::Least(bar), note)
    };
    Ok(vec![row("listener_vs_receiver", 0.5, &listener), row("retry_vs_receiver", 0.6, &retry)])
}

/// CPU nanoseconds a frame taken by a role of `oncecast`, or by the bare receiver.
pub fn cost(rig: &Rig, oncecast: &Oncecast, taker: Taker) -> anyhow::Result<f64> {
    let (places, host) = (&rig.places, &rig.line.sink);
    let core = &places.middle[..1];
    if taker == Taker::Receiver {
        let mut process = rig.oncecast.start(host, core, &taker.args())?;
        process.wait_ready()?;
        let cpu = process.cpu()?;
        send(rig)?;
        let cpu = process.cpu()? - cpu;
        return Ok(cpu * 1e9 / process.finish()?["frames"].as_f64().unwrap_or(f64::NAN));
    }
    let _drain = match taker {
        Taker::Listener => Some(Process::myself(host, &[places.sink], &format!("drain --listen {DRAIN}"))?),
        _ => None,
    };
    let process = oncecast.role(host, core, &taker.args())?;
    send(rig)?;
    let (cpu, frames) = (process.cpu()?, taken(rig, taker)?);
    send(rig)?;
    Ok((process.cpu()? - cpu) * 1e9 / (taken(rig, taker)? - frames))
}

/// Numbered frames from every generator, as fast as they can; returns when they were taken or dropped.
fn send(rig: &Rig) -> anyhow::Result<()> {
    let cores = &rig.places.generators;
    let start = |core: &usize| {
        let args = format!(
            "bench generate {} --multicast --iface {} --frames {} --train 32 --ports 4 --seconds 2 --wait",
            traffic::block_file().display(),
            MIDDLE[1],
            rig.frames / 2,
        );
        rig.oncecast.start(&rig.line.middle, std::slice::from_ref(core), &args)
    };
    for generator in together(cores.iter().map(start).collect::<anyhow::Result<Vec<_>>>()?)? {
        generator.finish()?;
    }
    std::thread::sleep(Duration::from_millis(300));
    Ok(())
}

/// Frames that a role has received so far.
fn taken(rig: &Rig, taker: Taker) -> anyhow::Result<f64> {
    let [frames] = rig.oncecast.metrics(&rig.line.sink, [taker.counter()])?;
    Ok(frames)
}

/// Accepts connections and throws away what they carry, until it is killed.
pub fn drain(listen: std::net::SocketAddr) -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind(listen)?;
    eprintln!("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
    }
    Ok(())
}
