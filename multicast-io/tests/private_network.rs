//! Every scenario over IPv6 multicast, in a network namespace of this process's own.
//!
//! Without the usual harness: the namespace must be entered before any thread exists. Where it cannot be made the tests are
//! skipped, and a line says so.

mod queues;
mod scenarios;

use multicast_io::probe::wait_readable;
use scenarios::{ALL, Family};
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

fn main() {
    if let Err(error) = multicast_io::enter_private_network() {
        tests::skipped(&format!("a network namespace: {error}"));
        return;
    }
    if !run("ip", "-6 address add fd00::2/128 dev lo nodad") || !reachable(Family::V6.other_host()) {
        tests::skipped("an IPv6 address on lo (is iproute2 installed, and IPv6 on?)");
        return;
    }
    let filter: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |name: &str| filter.is_empty() || filter.iter().any(|part| name.contains(part.as_str()));
    for (name, scenario) in ALL.iter().filter(|(name, _)| wanted(name)) {
        println!("test {name} over IPv6 ...");
        scenario(Family::V6);
    }
    for (name, scenario) in queues::ALL.iter().filter(|(name, _)| wanted(name)) {
        for family in [Family::V4, Family::V6] {
            println!("test {name} over {family:?} ...");
            scenario(family);
        }
    }
    println!("all passed");
}

/// Waits until the kernel, which does that in the background, delivers to an address that was just added.
fn reachable(address: IpAddr) -> bool {
    let reach = || -> std::io::Result<bool> {
        let socket = UdpSocket::bind((Family::V6.anywhere(), 0))?;
        socket.send_to(b"there?", (address, socket.local_addr()?.port()))?;
        wait_readable(&socket, Duration::from_millis(20))
    };
    (0..250).any(|_| reach().unwrap_or(false))
}

/// Runs a program of iproute2 in this namespace.
fn run(program: &str, arguments: &str) -> bool {
    Command::new(program).args(arguments.split(' ')).status().is_ok_and(|status| status.success())
}
