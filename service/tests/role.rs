//! A role as a process: signals, drain, admin HTTP, panics. The role is this test program itself, started again.

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use service::config::{self, Environment, Role};
use service::host::Needs;
use service::{Deps, run};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

const MODE: &str = "SERVICE_TEST_ROLE";

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    Echo(Echo),
}

#[derive(clap::Args)]
struct Echo {
    /// drain: ends with the drain. drop: the drain drops frames. hang: never ends. panic: a worker dies. leave: ends by itself. fail: does not start.
    #[arg(long)]
    mode: String,
}

static ROLES: &[Role] = &[Role { name: "echo", aliases: &[], defaults: &[("metrics-addr", "127.0.0.1:0")] }];

/// The child half: does nothing unless asked.
#[test]
fn child() -> Result<(), String> {
    let Some(mode) = std::env::var_os(MODE) else { return Ok(()) };
    let mode = mode.into_string().map_err(|_| "mode")?;
    let argv = ["oncecast", "echo", "--drain-timeout=0", &format!("--mode={mode}")].map(OsString::from);
    let loaded =
        config::load(Cli::command(), ROLES, argv, &Environment::default()).map_err(|exit| exit.text)?;
    let Cmd::Echo(echo) = Cli::from_arg_matches(&loaded.matches).map_err(|error| error.to_string())?.command;
    let code = run::run("1.0", loaded.role.unwrap(), echo, |_| Ok(Needs::default()), start);
    if code == std::process::ExitCode::SUCCESS { Ok(()) } else { Err(format!("{code:?}")) }
}

async fn start(echo: Echo, deps: Deps) -> anyhow::Result<impl Future<Output = ()>> {
    let condition = deps.lifecycle.condition("echo");
    condition.met("up");
    anyhow::ensure!(echo.mode != "fail", "no echo");
    let mode = echo.mode.clone();
    let mut worker = service::spawn_worker("echo".to_owned(), move || async move {
        match mode.as_str() {
            "panic" => panic!("broken invariant"),
            "leave" => {}
            "drop" => {
                deps.lifecycle.drain_began().await;
                deps.lifecycle.leave_behind(3, 400, 2);
            }
            "hang" => std::future::pending().await,
            _ => deps.lifecycle.drain_began().await,
        }
    })?;
    Ok(async move { worker.ended().await })
}

/// A role in a process of its own, killed when the test ends.
struct Process {
    child: Child,
    stderr: BufReader<ChildStderr>,
    seen: String,
}

impl Process {
    fn start(mode: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(MODE, mode)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Process { child, stderr, seen: String::new() }
    }

    /// Reads the log up to a line that holds `text`.
    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "no {text:?} in:\n{}", self.seen);
            self.seen.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn admin(&mut self) -> SocketAddr {
        let line = self.wait_for("admin HTTP listens");
        let addr: String =
            line.split("127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{addr}").parse().unwrap()
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    /// Exit code and the whole log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        self.seen.push_str(&rest);
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.seen))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn sigterm_drains_and_exits_with_0() {
    for signal in ["TERM", "INT"] {
        let mut role = Process::start("drain");
        let admin = role.admin();
        role.wait_for("started");
        assert_eq!(ask(admin, "GET", "/readyz").0, 200);
        let (_, metrics) = ask(admin, "GET", "/metrics");
        assert!(metrics.contains("oncecast_build_info{version=\"1.0\",role=\"echo\""), "{metrics}");
        assert!(metrics.contains("process_cpu_seconds_total "), "{metrics}");
        role.signal(signal);
        role.wait_for("drained");
        assert_eq!(role.end().0, Some(0));
    }
}

#[test]
fn a_second_signal_ends_a_drain_at_once() {
    let mut role = Process::start("hang");
    let admin = role.admin();
    role.wait_for("started");
    role.signal("TERM");
    role.wait_for("draining");
    let (code, body) = ask(admin, "GET", "/readyz");
    assert_eq!(code, 503, "{body}");
    role.signal("TERM");
    assert_eq!(role.end().0, Some(143));
}

#[test]
fn a_drain_without_end_is_cut_and_said_aloud() {
    let mut role = Process::start("hang");
    role.wait_for("started");
    role.signal("INT");
    let (code, log) = role.end();
    assert_ne!(code, Some(0));
    assert!(log.contains("the drain did not end within --drain-timeout"), "{log}");
}

#[test]
fn a_drain_that_drops_frames_says_how_many_and_is_a_failure() {
    let mut role = Process::start("drop");
    role.wait_for("started");
    role.signal("TERM");
    let (code, log) = role.end();
    assert_ne!(code, Some(0));
    assert!(log.contains("the drain dropped 3 frames, 400 bytes of 2 flows"), "{log}");
    assert!(!log.contains(" drained"), "{log}");
}

#[test]
fn a_panic_ends_the_process_with_70() {
    let (code, log) = Process::start("panic").end();
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("broken invariant"), "{log}");
}

#[test]
fn a_role_that_ends_by_itself_or_does_not_start_is_a_failure() {
    let (code, log) = Process::start("leave").end();
    assert_ne!(code, Some(0));
    assert!(log.contains("the role ended by itself"), "{log}");
    let (code, log) = Process::start("fail").end();
    assert_ne!(code, Some(0));
    assert!(log.contains("oncecast echo: no echo"), "{log}");
}

#[test]
fn the_log_level_changes_over_http_and_by_sighup() {
    let mut role = Process::start("drain");
    let admin = role.admin();
    role.wait_for("started");
    assert_eq!(ask(admin, "GET", "/loglevel"), (200, "{\"level\":\"info\"}".to_owned()));
    assert_eq!(ask(admin, "PUT", "/loglevel?level=warn").0, 200);
    assert_eq!(ask(admin, "GET", "/loglevel").1, "{\"level\":\"warn\"}");
    let (code, body) = ask(admin, "POST", "/loglevel?level=loud");
    assert_eq!(code, 400);
    assert!(body.contains("want off, error, warn"), "{body}");
    role.signal("HUP");
    role.wait_for("log level changed level=\"debug\"");
    role.signal("HUP");
    role.wait_for("log level changed level=\"info\"");
    let status: serde_json::Value = serde_json::from_str(&ask(admin, "GET", "/status").1).unwrap();
    assert_eq!(status["log_level"], "info");
    assert_eq!(status["config"]["mode"]["value"], "drain");
}
