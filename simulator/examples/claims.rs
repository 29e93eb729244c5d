//! Many worlds of the claim protocol, on all cores.
//!
//! `cargo run --release -p simulator --example claims -- [--seeds 10000 | --counted 1000000] [--from 0]
//! [--seed S [--trace]] [--ids 50] [--faults 3] [--mutant NAME|all] [--threads N] [--seconds S]`

use simulator::claims::{Mutation, Options, run};
use simulator::hunt::{Arguments, report};
use std::fmt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let mutants = Mutation::ALL.map(Planted);
    report(&arguments, &mutants, |seed, mutant: Option<Planted>| {
        let options = Options {
            ids: arguments.ids,
            faults: arguments.faults,
            mutation: mutant.map(|planted| planted.0),
            trace: arguments.trace,
        };
        run(seed, &options)
    })
}

/// A planted fault, by its name.
#[derive(Clone, Copy)]
struct Planted(Mutation);

impl fmt::Display for Planted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
