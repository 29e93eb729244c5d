//! One run through whatever forwards: generators → proxy, floor or reference → multicast → sink.

use crate::net::MIDDLE;
use crate::process::{Oncecast, Process};
use crate::rig::{Pace, Rig};
use serde_json::Value;

/// A proxy that sends every frame alone.
const PLAIN: &str = "--gso=false --gro=false --train-padding 0";

/// What forwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Forwarder {
    /// As it ships.
    Proxy,
    /// Without trains.
    PlainProxy,
    /// The least that moves frames with this project's socket layer.
    Floor,
    /// The plain loop that shares no code with it.
    Reference,
}

/// One run.
pub struct Run {
    pub frames: f64,
    /// CPU seconds of the forwarder.
    pub cpu: f64,
    /// Frames a second of wall clock that reached the sink.
    pub rate: f64,
    pub trains: f64,
    pub padding: f64,
    pub bytes: f64,
    pub ingress_drops: f64,
    pub sink_drops: f64,
    /// Peak resident memory of the forwarder, MiB.
    pub memory: f64,
    /// p50, p90, p99, p99.9 from the generator to the sink, µs.
    pub latency: [f64; 4],
}

impl Run {
    /// Frames a CPU second.
    pub fn per_cpu_second(&self) -> f64 {
        self.frames / self.cpu
    }

    /// CPU nanoseconds a frame.
    pub fn nanoseconds(&self) -> f64 {
        self.cpu * 1e9 / self.frames
    }
}

/// Measures one run; a proxy is one of `oncecast`.
pub fn run(rig: &Rig, oncecast: &Oncecast, forwarder: Forwarder, pace: Pace) -> anyhow::Result<Run> {
    let latency = if matches!(pace, Pace::Rate(_)) { "--latency" } else { "" };
    let args = format!("bench sink --iface eth0 --idle-ms 600 {latency}");
    let mut sink = rig.oncecast.start(&rig.line.sink, &[rig.places.sink], &args)?;
    sink.wait_ready()?;
    let core = &rig.places.middle[..1];
    let middle = match forwarder {
        Forwarder::Proxy => rig.proxy(oncecast, core, "--workers 1")?,
        Forwarder::PlainProxy => rig.proxy(oncecast, core, &format!("--workers 1 {PLAIN}"))?,
        Forwarder::Floor => {
            let args = format!("bench floor --iface {} --idle-ms 1800", MIDDLE[1]);
            let mut floor = rig.oncecast.start(&rig.line.middle, core, &args)?;
            floor.wait_ready()?;
            floor
        }
        Forwarder::Reference => {
            Process::myself(&rig.line.middle, core, &format!("reference --iface {}", MIDDLE[1]))?
        }
    };
    let before = middle.cpu()?;
    for generator in rig.generators(pace)? {
        generator.finish()?;
    }
    // The sink ends when nothing has come for a while; floor and reference live longer, so that their CPU time can be
    // read.
    let sunk = sink.finish()?;
    let cpu = middle.cpu()? - before;
    let memory = middle.peak_memory();
    let counts = match forwarder {
        Forwarder::Proxy | Forwarder::PlainProxy => proxy_counts(rig)?,
        _ => counts_of(&middle.finish()?),
    };
    let latency =
        ["p50", "p90", "p99", "p999"].map(|name| sunk["latency_us"][name].as_f64().unwrap_or(f64::NAN));
    anyhow::ensure!(counts[0] > 0.0, "nothing was forwarded");
    Ok(Run {
        frames: counts[0],
        trains: counts[1],
        padding: counts[2],
        bytes: counts[3],
        ingress_drops: counts[4],
        sink_drops: sunk["kernel_drops"].as_f64().unwrap_or(0.0),
        rate: sunk["rate"].as_f64().unwrap_or(f64::NAN),
        cpu,
        memory,
        latency,
    })
}

/// Frames, trains, padding, bytes, drops at the ingress socket.
fn proxy_counts(rig: &Rig) -> anyhow::Result<[f64; 5]> {
    let names = [
        "bsp_packets_handed_over_total",
        "bsp_trains_total",
        "bsp_train_padding_bytes_total",
        "bsp_bytes_forwarded_total",
        "bsp_kernel_receive_drops_total",
    ];
    rig.oncecast.metrics(&rig.line.middle, names)
}

fn counts_of(report: &Value) -> [f64; 5] {
    ["frames", "trains", "padding", "bytes", "kernel_drops"]
        .map(|name| report[name].as_f64().unwrap_or(f64::NAN))
}
