//! One Aerospike node on a host of its own: the stand-in, or a real server.
//!
//! `ONCECAST_AEROSPIKE_SERVER=/path/to/asd` puts a real Community Edition server (7.0 or later) in its place. Days that
//! only the stand-in can have are then skipped, and said so.

use crate::process::beside_this_test;
use crate::stand_in::NAMESPACE;
use crate::{Host, Net, Process, eventually};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The program of a real server, if one was named.
pub fn server() -> Option<OsString> {
    std::env::var_os("ONCECAST_AEROSPIKE_SERVER").filter(|path| !path.is_empty())
}

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

    /// Whether this node can have a day with that name; where not, it is said loudly.
    pub fn can(name: &str) -> bool {
        let can = server().is_none() || matches!(name, "full" | "forbids-ttl");
        if !can {
            eprintln!("\n*** SKIPPED: a real Aerospike cannot be told {name:?}; the stand-in can ***\n");
        }
        can
    }

    /// Starts it again, empty and well behaved.
    pub fn restart(&mut self) {
        self.kill();
        self.starts += 1;
        match server() {
            Some(program) => self.start_server(&program),
            None => self.start_stand_in(),
        }
    }

    fn start_stand_in(&mut self) {
        let mut command = self.host.command(beside_this_test("aerospike-stand-in"));
        command.arg(self.address()).arg(self.control());
        let process = self.process.insert(Process::spawn("aerospike-stand-in", command));
        let control = self.dir.path().join(format!("control{}", self.starts));
        assert!(eventually(|| UnixStream::connect(&control).is_ok()), "{}", process.output());
        self.set("late-ms", 0);
    }

    /// The port opens seconds before the partitions have an owner.
    fn start_server(&mut self, program: &OsString) {
        let work = self.dir.path().join(format!("work{}", self.starts));
        for below in ["smd", "usr/udf/lua"] {
            std::fs::create_dir_all(work.join(below)).unwrap_or_else(|error| panic!("{error}"));
        }
        let file = work.join("conf");
        std::fs::write(&file, configuration(&work)).unwrap_or_else(|error| panic!("{error}"));
        let mut command = self.host.command(program);
        command.args(["--foreground", "--config-file"]).arg(&file);
        self.process = Some(Process::spawn("asd", command));
        let owned = || self.info("partition-generation").parse().is_ok_and(|number: i64| number >= 0);
        assert!(eventually(owned), "{:?}", self.process.as_ref().map(Process::output));
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
        address_on(&self.host)
    }

    /// Options of a role that uses it.
    pub fn options(&self) -> String {
        options_on(&self.host)
    }

    /// Sets what it does wrong; the names are those of `stand_in::Node::set`.
    pub fn set(&self, name: &str, value: u64) {
        match (server(), name) {
            (None, _) => assert_eq!(self.say(&format!("{name} {value}")), "ok", "{name}"),
            (_, "full") => self.fill(value != 0),
            (_, "forbids-ttl") => self.configure(&format!("nsup-period={}", if value == 0 { 5 } else { 0 })),
            _ => panic!("a real server cannot be told {name:?}"),
        }
    }

    /// Records it holds.
    pub fn records(&self) -> u64 {
        if server().is_none() {
            return self.say("records").parse().unwrap_or(0);
        }
        let page = self.info(&format!("namespace/{NAMESPACE}"));
        let objects = page.split(';').find_map(|line| line.strip_prefix("objects="));
        objects.and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    fn configure(&self, what: &str) {
        let answer = self.info(&format!("set-config:context=namespace;id={NAMESPACE};{what}"));
        assert_eq!(answer, "ok", "{what}");
    }

    /// Sets the share of the machine's memory above which writes are refused, and waits until the server, which looks
    /// every ten seconds, has seen it.
    fn fill(&self, full: bool) {
        self.configure(&format!("stop-writes-sys-memory-pct={}", if full { 1 } else { 0 }));
        let wanted = format!(";stop_writes={full};");
        assert!(eventually(|| self.info(&format!("namespace/{NAMESPACE}")).contains(&wanted)), "{wanted}");
    }

    /// A real server's answer to an info request: eight bytes of head, then a line with the request, a tab and the answer.
    fn info(&self, request: &str) -> String {
        const ASK: &str = r#"exec 3<>/dev/tcp/127.0.0.1/3000 || exit 1
            printf '\x02\x01\x00\x00\x00\x00\x00'"\\x$(printf %02x $((${#1} + 1)))"'%s\n' "$1" >&3
            length=$((16#$(head -c 8 <&3 | od -An -tx1 -v | tr -d ' \n' | cut -c5-)))
            head -c "$length" <&3"#;
        let output = self.host.command("bash").args(["-c", ASK, "bash", request]).output();
        let output = output.unwrap_or_else(|error| panic!("bash: {error}"));
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim().split_once('\t').map(|(_, answer)| answer.to_owned()).unwrap_or_default()
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

/// Where a node on this host listens. The Community Edition has no IPv6.
fn address_on(host: &Host) -> String {
    match server() {
        Some(_) => format!("10.10.0.{}:3000", host.number),
        None => format!("[{}]:3000", host.v6()),
    }
}

/// Options of a role that uses the node on this host.
pub fn options_on(host: &Host) -> String {
    format!("--aerospike-hosts {} --aerospike-namespace {NAMESPACE}", address_on(host))
}

/// One node, one namespace in memory, TTLs allowed.
fn configuration(work: &Path) -> String {
    let work = work.display();
    format!(
        "service {{
    run-as-daemon false
    proto-fd-max 1024
    work-directory {work}
    pidfile {work}/pid
    cluster-name oncecast
    node-id a1
}}
mod-lua {{
    user-path {work}/usr/udf/lua
}}
logging {{
    console {{
        context any warning
    }}
}}
network {{
    service {{
        address any
        port 3000
    }}
    fabric {{
        address any
        port 3001
    }}
    heartbeat {{
        mode mesh
        address any
        port 3002
        interval 150
        timeout 10
    }}
}}
namespace {NAMESPACE} {{
    replication-factor 1
    nsup-period 5
    storage-engine memory {{
        data-size 512M
    }}
}}
"
    )
}
