//! What the pipeline is measured with: three hosts on a line, which core does what, and the load.

use crate::net::{INGRESS, Line, MIDDLE};
use crate::process::{Oncecast, Process, together};
use crate::traffic;

/// Frames of one ingress train: several clients' worth, far below what the proxy makes of them.
const TRAIN: usize = 32;

/// Which core does what.
pub struct Places {
    pub generators: Vec<usize>,
    pub middle: Vec<usize>,
    pub sink: usize,
}

impl Places {
    /// A core that this process may use; they are given out again where there are fewer.
    pub fn core(index: usize) -> usize {
        let cores = crate::machine::cores();
        cores.get(index % cores.len().max(1)).copied().unwrap_or(0)
    }

    fn new() -> Places {
        let core = Places::core;
        match few_cores() {
            true => Places { generators: vec![core(0)], middle: vec![core(1)], sink: core(0) },
            false => {
                Places { generators: vec![core(0), core(3)], middle: vec![core(1), core(2)], sink: core(2) }
            }
        }
    }
}

/// Whether processes have to share cores.
pub fn few_cores() -> bool {
    crate::machine::cores().len() < 4
}

/// See the module text.
pub struct Rig {
    pub line: Line,
    /// Makes the load, takes what comes out, and is asked for figures. It is also what is measured, unless another binary is.
    pub oncecast: Oncecast,
    /// Cores of the processes.
    pub places: Places,
    /// Runs of each kind.
    pub rounds: usize,
    /// Frames of one generator.
    pub frames: usize,
}

/// How the generators send.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As fast as they can, so that the forwarder is saturated.
    Unpaced,
    /// Frames a second, stamped for latency.
    Rate(f64),
}

impl Rig {
    /// Makes the network; the error says why there can be none.
    pub fn new(oncecast: Oncecast, quick: bool) -> anyhow::Result<Rig> {
        let (rounds, frames) = if quick { (1, 300_000) } else { (5, 1_000_000) };
        Ok(Rig { line: Line::new()?, oncecast, places: Places::new(), rounds, frames })
    }

    /// Starts a proxy of `oncecast` between generators and sink.
    pub fn proxy(&self, oncecast: &Oncecast, cores: &[usize], extra: &str) -> anyhow::Result<Process> {
        let args = format!("proxy --iface {} --cache-backend memory {extra}", MIDDLE[1]);
        oncecast.role(&self.line.middle, cores, &args)
    }

    /// Starts the generators; they have begun when this returns.
    pub fn generators(&self, pace: Pace) -> anyhow::Result<Vec<Process>> {
        let cores = match pace {
            Pace::Unpaced => &self.places.generators[..],
            Pace::Rate(_) => &self.places.generators[..1],
        };
        let mut first = rand_number();
        let mut start = |core: &usize| {
            let block = traffic::block_file();
            let paced = match pace {
                Pace::Unpaced => format!("--frames {} --train {TRAIN} --seconds 2", self.frames),
                // Half a second at least, or the quantiles mean nothing.
                Pace::Rate(rate) => {
                    format!("--frames {} --train 8 --rate {rate:.0} --stamp --seconds 3", self.frames)
                }
            };
            first += self.frames;
            let args =
                format!("bench generate {} --to {INGRESS} --first {first} --wait {paced}", block.display());
            self.oncecast.start(&self.line.generator, std::slice::from_ref(core), &args)
        };
        let generators = cores.iter().map(&mut start).collect::<anyhow::Result<Vec<_>>>()?;
        together(generators)
    }
}

/// Ids of different runs must not meet in one proxy; they may between proxies.
fn rand_number() -> usize {
    std::process::id() as usize * 1_000
}
