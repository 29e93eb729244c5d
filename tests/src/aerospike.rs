//! The Aerospike stand-in on a host of its own.

use crate::process::beside_this_test;
use crate::{Host, Net, Process, eventually};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use tempfile::TempDir;

/// One node on port 3000.
pub struct Aerospike {
    pub host: Host,
    process: Option<Process>,
    dir: TempDir,
    starts: u32,
}

impl Aerospike {
    /// Starts a node on a new host and waits until it obeys.
    pub fn start(net: &Net) -> Aerospike {
        Aerospike::on(net.host("aerospike"))
    }

    /// The same on `host`.
    pub fn on(host: Host) -> Aerospike {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("temporary directory: {error}"));
        let mut node = Aerospike { host, process: None, dir, starts: 0 };
        node.restart();
        node
    }

    /// Starts it again, empty and well behaved.
    pub fn restart(&mut self) {
        self.kill();
        self.starts += 1;
        let mut command = self.host.command(beside_this_test("aerospike-stand-in"));
        command.arg(self.address()).arg(self.control());
        let process = self.process.insert(Process::spawn("aerospike-stand-in", command));
        let control = self.dir.path().join(format!("control{}", self.starts));
        assert!(eventually(|| UnixStream::connect(&control).is_ok()), "{}", process.output());
        self.set("late-ms", 0);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal (`STOP`: it hangs).
    pub fn signal(&self, signal: &str) {
        self.process.iter().for_each(|process| process.signal(signal));
    }

    /// For `--aerospike-hosts`.
    pub fn address(&self) -> String {
        format!("[{}]:3000", self.host.v6())
    }

    /// Options of a role that uses it.
    pub fn options(&self) -> String {
        format!("--aerospike-hosts {} --aerospike-namespace {}", self.address(), crate::stand_in::NAMESPACE)
    }

    /// Sets what it does wrong; the names are those of `stand_in::Node::set`.
    pub fn set(&self, name: &str, value: u64) {
        assert_eq!(self.say(&format!("{name} {value}")), "ok", "{name}");
    }

    /// Records it holds.
    pub fn records(&self) -> u64 {
        self.say("records").parse().unwrap_or(0)
    }

    fn control(&self) -> PathBuf {
        self.dir.path().join(format!("control{}", self.starts))
    }

    fn say(&self, line: &str) -> String {
        let ask = || {
            let mut stream = UnixStream::connect(self.control())?;
            stream.write_all(format!("{line}\n").as_bytes())?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer)?;
            Ok::<_, std::io::Error>(answer.trim().to_owned())
        };
        ask().unwrap_or_else(|error| panic!("aerospike-stand-in, {line:?}: {error}"))
    }
}
