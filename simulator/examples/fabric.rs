//! Many worlds of proxies, listeners and an endpoint, on all cores.
//!
//! `cargo run --release -p simulator --example fabric -- [--seeds 10000 | --counted 1000000] [--from 0]
//! [--seed S [--trace]] [--ids 50] [--faults 3] [--mutant NAME|all] [--threads N] [--seconds S]`

use simulator::fabric::{Mutation, run};
use simulator::hunt::{Arguments, report};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let mut mutants = Mutation::all();
    if arguments.mutant.as_ref().is_some_and(|wanted| wanted != "all") {
        mutants.extend(Mutation::of_claims());
    }
    report(&arguments, &mutants, run)
}
