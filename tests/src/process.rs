//! Processes of a test: the real binary, its output kept, killed by id when the test ends.

use crate::Host;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The binary under test: `ONCECAST_BIN`, or what cargo built beside this test.
pub fn oncecast() -> PathBuf {
    if let Some(path) = std::env::var_os("ONCECAST_BIN") {
        return path.into();
    }
    beside_this_test("oncecast")
}

/// A program that cargo built beside this test.
pub fn beside_this_test(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let path = test.parent().and_then(|deps| deps.parent()).map(|dir| dir.join(name)).unwrap_or_default();
    assert!(path.exists(), "{} is missing: run `cargo build` first, or set ONCECAST_BIN", path.display());
    path
}

/// Longest orderly stop of a role: `--drain-timeout`, two seconds for closing sockets, and what a busy machine adds.
const STOP_SECONDS: f64 = 20.0;

/// A running process.
pub struct Process {
    name: String,
    child: Child,
    /// Its books are looked at when it ends.
    keeps_books: bool,
    stdout: std::fs::File,
    stderr: std::fs::File,
}

impl Process {
    /// Starts `oncecast` with `args` (split at spaces) on `host`.
    pub fn start(host: &Host, args: &str) -> Process {
        let mut command = host.command(oncecast());
        command.args(args.split_whitespace());
        Process::spawn(args, command)
    }

    /// Starts any command; output goes to unnamed files.
    pub fn spawn(name: &str, mut command: Command) -> Process {
        let file = || tempfile::tempfile().unwrap_or_else(|error| panic!("temporary file: {error}"));
        let (stdout, stderr) = (file(), file());
        let copy = |file: &std::fs::File| Stdio::from(file.try_clone().unwrap_or_else(|e| panic!("{e}")));
        command.stdin(Stdio::null()).stdout(copy(&stdout)).stderr(copy(&stderr));
        let child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        Process { name: name.into(), child, keeps_books: false, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`, `KILL`).
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{signal} {}", self.name);
    }

    /// Waits for the end; panics with the process's output after `seconds`.
    pub fn wait(&mut self, seconds: f64) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return status,
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
                Ok(None) => panic!("{} still runs after {seconds} s\n{}", self.name, self.output()),
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
    }

    /// Waits and demands exit status 0.
    pub fn succeed(&mut self, seconds: f64) -> String {
        let status = self.wait(seconds);
        assert!(status.success(), "{} ended with {status}\n{}", self.name, self.output());
        self.stdout()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells whether the process runs, also while it is borrowed.
    pub fn watch(&self) -> impl FnMut() -> bool + use<> {
        let stat = format!("/proc/{}/stat", self.id());
        // What follows the name in parentheses is the state; a zombie has ended.
        move || {
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            text.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        }
    }

    pub fn stdout(&self) -> String {
        contents(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        contents(&self.stderr)
    }

    /// Both outputs, for failure messages.
    pub fn output(&self) -> String {
        format!("--- {} stdout\n{}\n--- stderr\n{}", self.name, self.stdout(), self.stderr())
    }
}

impl Process {
    /// Begins an orderly stop, also of a process that stands still.
    pub fn begin_stop(&mut self) {
        if self.is_running() {
            self.signal("TERM");
            self.signal("CONT");
        }
    }

    /// The sum law: a role that ended in order says that all that came went somewhere. One that was killed says nothing.
    fn check_books(&mut self) {
        self.begin_stop();
        let ended = crate::within(STOP_SECONDS, || !self.is_running());
        let log = self.stderr();
        let holds = !log.contains("the sum does not hold")
            && (log.contains("the sum holds") || !log.contains(" drained"));
        assert!(ended && holds, "{}: ended in time: {ended}; its books balance: {holds}", self.name);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.keeps_books && !std::thread::panicking() {
            self.keeps_books = false;
            self.check_books();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.output());
        }
    }
}

fn contents(file: &std::fs::File) -> String {
    use std::os::unix::fs::FileExt;
    let mut bytes = Vec::new();
    let mut chunk = [0; 65_536];
    while let Ok(read @ 1..) = file.read_at(&mut chunk, bytes.len() as u64) {
        bytes.extend_from_slice(&chunk[..read]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `oncecast` with `args` on `host` to its end and returns (succeeded, standard output, standard error).
pub fn run(host: &Host, args: &str, seconds: f64) -> (bool, String, String) {
    let mut process = Process::start(host, args);
    let status = process.wait(seconds);
    (status.success(), process.stdout(), process.stderr())
}

/// Body of a role's `/readyz` without blanks.
pub fn readyz(host: &Host, admin_port: u16) -> String {
    run(host, &format!("status 127.0.0.1:{admin_port} --page readyz"), 10.0).1.split_whitespace().collect()
}

/// Starts a role and waits until its admin address says ready. When the test is over it is stopped in order, and its books
/// must balance.
pub fn role(host: &Host, admin_port: u16, args: &str) -> Process {
    let mut process = Process::start(host, &format!("{args} --metrics-addr 127.0.0.1:{admin_port}"));
    let (ready, _, error) =
        run(host, &format!("status 127.0.0.1:{admin_port} --page readyz --wait-ready 60"), 90.0);
    assert!(ready, "{args}: {error}\n{}", process.output());
    process.keeps_books = true;
    process
}

/// Sum over all label sets of a metric at a role's admin address; 0 if it is absent.
pub fn metric(host: &Host, admin_port: u16, name: &str) -> f64 {
    let (ok, page, error) = run(host, &format!("status 127.0.0.1:{admin_port} --page metrics"), 10.0);
    assert!(ok, "metrics of port {admin_port}: {error}");
    sum_of(&page, name)
}

/// Sum of the samples named `name` in a page of Prometheus text; `name` may end with one label matcher `{a="b"}`.
pub fn sum_of(page: &str, name: &str) -> f64 {
    let (name, label) =
        name.split_once('{').map_or((name, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| series.split('{').next() == Some(name) && series.contains(label))
        .filter_map(|(_, value)| value.parse::<f64>().ok())
        .sum()
}

/// Sends garbage to a UDP port: short, wrong magic, lying lengths, every message type with nothing behind it,
/// and the longest datagram there is.
pub fn garbage(host: &Host, address: &str, port: u16) {
    let mut datagrams: Vec<Vec<u8>> = vec![vec![0], vec![0xFF; 64], vec![0xE3; 1400], vec![0; 65_000]];
    for kind in 0..=0x41 {
        for len in [7, 44, 64, 92, 104, 200] {
            let mut datagram = vec![0xFF; len];
            datagram[..6].copy_from_slice(&[0xE3, 0xE1, 0xF3, 0xE8, 0x02, 0xBF]);
            datagram[6] = kind;
            datagrams.push(datagram);
        }
    }
    let lines: String = datagrams.iter().map(|datagram| hex::encode(datagram) + "\n").collect();
    let mut file = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("{error}"));
    std::io::Write::write_all(&mut file, lines.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let mut command = host.command(oncecast());
    command.args(["send", "--format", "raw", "--rate", "2000", "--to", &format!("udp://[{address}]:{port}")]);
    command.arg(file.path());
    let output = command.output().unwrap_or_else(|error| panic!("oncecast send: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
