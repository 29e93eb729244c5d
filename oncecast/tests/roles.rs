//! Each role as its own process on the loopback (IPv4 groups, no privilege needed): ready, valid metrics, drain.

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

/// A running role, killed when the test ends.
struct Role {
    child: Child,
    stderr: BufReader<ChildStderr>,
    log: String,
}

impl Role {
    fn start(args: &[&str]) -> Role {
        let mut child = Command::new(env!("CARGO_BIN_EXE_oncecast"))
            .env_clear()
            .args(args)
            .args(["--metrics-addr=127.0.0.1:0", "--drain-timeout=1s"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Role { child, stderr, log: String::new() }
    }

    fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.stderr.read_line(&mut line).unwrap(), 0, "no {text:?} in:\n{}", self.log);
            self.log.push_str(&line);
            if line.contains(text) {
                return line;
            }
        }
    }

    fn admin(&mut self) -> SocketAddr {
        let line = self.wait_for("admin HTTP listens");
        line.trim().rsplit("addr=").next().unwrap().parse().unwrap()
    }

    fn terminate(mut self) -> (Option<i32>, String) {
        let kill = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).unwrap();
        self.log.push_str(&rest);
        (self.child.wait().unwrap().code(), std::mem::take(&mut self.log))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(addr: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Starts a role, reads its pages, stops it.
fn lives_and_drains(args: &[&str], metric_prefix: &str) {
    let mut role = Role::start(args);
    let admin = role.admin();
    role.wait_for("started");
    let status = ["status", "--wait-ready=30", "--page=readyz", &admin.to_string()].map(str::to_owned);
    let ready = Command::new(env!("CARGO_BIN_EXE_oncecast")).args(status).output().unwrap();
    assert!(ready.status.success(), "{ready:?}");
    assert_eq!(get(admin, "/healthz").0, 200);
    let page = service::exposition::parse(&get(admin, "/metrics").1).unwrap();
    assert!(page.keys().any(|id| id.starts_with(metric_prefix)), "no {metric_prefix} in {page:?}");
    let status: serde_json::Value = serde_json::from_str(&get(admin, "/status").1).unwrap();
    assert_eq!(status["role"].as_str(), args.first().copied());
    assert_eq!(status["config"]["drain-timeout"]["origin"], "flag");
    let (code, log) = role.terminate();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_proxy_becomes_ready_and_drains() {
    let args =
        ["proxy", "--fabric=ipv4", "--iface=lo", "--listen=127.0.0.1", "--udp-listen-port=0", "--workers=2"];
    lives_and_drains(&args, "bsp_");
}

#[test]
fn a_retry_endpoint_becomes_ready_and_drains() {
    let args = [
        "retry",
        "--fabric=ipv4",
        "--iface=lo",
        "--listen-port=0",
        "--nack-port=0",
        "--nack-addr=127.0.0.1",
        "--cache-bytes=64MiB",
    ];
    lives_and_drains(&args, "bre_");
}

#[test]
fn a_listener_becomes_ready_and_drains() {
    let args = [
        "listener",
        "--fabric=ipv4",
        "--iface=lo",
        "--listen-port=0",
        "--beacon-port=0",
        "--egress-addr=127.0.0.1:9",
        "--recv-buf-bytes=1MiB",
    ];
    lives_and_drains(&args, "bsl_");
}
