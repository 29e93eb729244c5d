//! Every scenario over IPv6 multicast, in a network namespace of this process's own.
//!
//! Without the usual harness: the namespace must be entered before any thread exists. Where it cannot be made the tests are
//! skipped, and a line says so.

mod scenarios;

use scenarios::{ALL, Family};
use std::process::Command;

fn main() {
    if let Err(error) = multicast_io::enter_private_network() {
        println!("SKIPPED: private_network: no network namespace can be made here: {error}");
        return;
    }
    if !ip(&["-6", "address", "add", "fd00::2/128", "dev", "lo", "nodad"]) {
        println!("SKIPPED: private_network: an IPv6 address on lo (is iproute2 installed, and IPv6 on?)");
        return;
    }
    let filter: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    for (name, scenario) in ALL.iter().filter(|(name, _)| wanted(name)) {
        println!("test {name} over IPv6 ...");
        scenario(Family::V6);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).status().is_ok_and(|status| status.success())
}
