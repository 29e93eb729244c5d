//! Many worlds of the claim protocol, on all cores.
//!
//! `cargo run --release -p simulator --example claims -- [--seeds 10000 | --counted 1000000] [--from 0]
//! [--seed S [--trace]] [--ids 50] [--faults 3] [--mutant NAME|all] [--threads N] [--seconds S]`

use simulator::claims::{Mutation, run};
use simulator::hunt::{Arguments, report};
use std::process::ExitCode;

fn main() -> ExitCode {
    report(&Arguments::read(), &Mutation::ALL, run)
}
