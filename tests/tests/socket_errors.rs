//! The one policy for socket errors, on every kind of thread: a socket that fails at every try ends the process with code 70,
//! a listening socket that cannot accept for a while goes on when it can.
//!
//! Each case runs in a process of its own: a role is started in it, then its kernel refuses the calls on one socket
//! (seccomp), as a broken driver would.
#![allow(clippy::unwrap_used, reason = "tests")]

use clap::{Args, FromArgMatches};
use frame::{Fabric, GroupIndex};
use multicast_io::{Interface, Sender, SocketOptions, Span, Train};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use service::config::LogFormat;
use service::logs::Logs;
use service::worker::thread::EXIT_PANIC;
use service::{Deps, Lifecycle, Registry};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::RawFd;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tests::{Process, eventually, oncecast};

/// Says which case a child process runs.
const CASE: &str = "ONCECAST_SOCKET_ERROR_CASE";
/// How long a child waits for its own end: longer than the policy's limit, by far.
const LONGEST: Duration = Duration::from_secs(60);
/// An input or output error (Linux).
const EIO: u32 = 5;
/// System calls of x86-64 and aarch64.
#[cfg(target_arch = "x86_64")]
const CALLS: Calls = Calls { recvmmsg: 299, sendmmsg: 307 };
#[cfg(target_arch = "aarch64")]
const CALLS: Calls = Calls { recvmmsg: 243, sendmmsg: 269 };

struct Calls {
    recvmmsg: i64,
    sendmmsg: i64,
}

/// A fabric of its own on `lo`: ports nobody has, and a network number of this process.
struct World {
    net: u8,
    data: u16,
    beacon: u16,
}

impl World {
    fn new() -> World {
        World { net: u8::try_from(std::process::id() % 250).unwrap(), data: free_port(), beacon: free_port() }
    }

    /// The options of a role as its command line would give them.
    fn config<Config: Args + FromArgMatches>(&self, more: &str) -> Config {
        let World { net, data, beacon } = self;
        let line = format!(
            "role --fabric ipv4 --mc-ipv4-net {net} --iface lo --workers 1 --drain-timeout 1s --beacon-port {beacon} {more}"
        );
        let line = line.replace("DATA", &data.to_string());
        let command = Config::augment_args(clap::Command::new("role"));
        // Options that the service loads for every role are not part of a role's own.
        let known: Vec<_> =
            command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
        let options = line.split("--").skip(1).map(|option| option.split_whitespace().collect::<Vec<_>>());
        let mut words = vec!["role".to_owned()];
        for option in options.filter(|option| known.iter().any(|name| option[0] == *name)) {
            words.push(format!("--{}", option[0]));
            words.extend(option[1..].iter().map(|value| (*value).to_owned()));
        }
        Config::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    fn group(&self, group: GroupIndex, port: u16) -> SocketAddr {
        SocketAddr::new(Fabric::V4 { net: self.net }.address(group), port)
    }
}

fn free_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

fn deps(role: &'static str) -> Deps {
    Deps { lifecycle: Lifecycle::new(role), registry: Arc::new(Registry::default()), store: None }
}

/// Descriptors of this process whose socket is bound to `port`.
fn sockets_on(port: u16) -> Vec<RawFd> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap_or_default();
    let both = table("udp") + &table("udp6");
    let inodes: Vec<String> = both
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let bound = fields.get(1)?.rsplit_once(':')?.1;
            (u16::from_str_radix(bound, 16).ok()? == port).then(|| format!("socket:[{}]", fields[9]))
        })
        .collect();
    let of = |fd: &RawFd| {
        std::fs::read_link(format!("/proc/self/fd/{fd}"))
            .is_ok_and(|link| inodes.iter().any(|inode| link.to_string_lossy() == **inode))
    };
    let found: Vec<_> = descriptors().into_iter().filter(of).collect();
    assert!(!found.is_empty(), "no socket on port {port}");
    found
}

fn descriptors() -> Vec<RawFd> {
    let names = std::fs::read_dir("/proc/self/fd").unwrap();
    names.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// From now on `call` on these descriptors fails with `EIO`, on all threads.
fn refuse(call: i64, sockets: &[RawFd]) {
    let rule = |fd: &RawFd| {
        let fd = u64::try_from(*fd).unwrap();
        let condition = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, fd).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    };
    let rules = [(call, sockets.iter().map(rule).collect())].into_iter().collect();
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(EIO), arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

/// Sends to `to` until this process ends. A process that outlives it ends well, which no case wants.
async fn knock(to: SocketAddr) {
    let lo = Interface::by_name("lo").unwrap();
    let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let options = SocketOptions { interface: Some(lo), loopback: true, ..SocketOptions::new(bind) };
    let mut sender = Sender::open(&options).unwrap();
    let train = Train { destination: to, first: 0, count: 1, segment: 8 };
    let end = Instant::now() + LONGEST;
    let mut every = tokio::time::interval(Duration::from_millis(20));
    while Instant::now() < end {
        every.tick().await;
        sender.send(&[0; 8], &[train], &[Span { start: 0, len: 8 }]);
    }
}

/// The child half of the cases: does nothing unless asked.
#[tokio::test]
async fn child() {
    let Ok(case) = std::env::var(CASE) else { return };
    // What a role says must reach the parent before the process ends, as in the product.
    let _logs = Logs::start(LogFormat::Text, &"info".parse().unwrap()).unwrap();
    let world = World::new();
    let retry = "--egress-iface lo --nack-port 0 --nack-addr 127.0.0.1 --listen-port DATA --egress-port DATA \
                 --egress-loop --beacon-interval 1s --cache-bytes 64MiB";
    let listener = "--listen-port DATA --egress-addr 127.0.0.1:9 --egress-proto udp";
    let proxy = "--listen 127.0.0.1 --udp-listen-port 0 --egress-port DATA";
    match case.as_str() {
        "retry-worker" | "retry-nack" | "retry-digests" | "retry-beacon" => {
            let running = retry_endpoint::start(world.config(retry), deps("retry")).await.unwrap();
            let (call, port, to) = match case.as_str() {
                "retry-worker" => (CALLS.recvmmsg, world.data, world.group(GroupIndex(0), world.data)),
                "retry-nack" => (CALLS.recvmmsg, running.nack.port(), running.nack),
                _ => (CALLS.recvmmsg, world.beacon, world.group(GroupIndex::BEACON, world.beacon)),
            };
            if case == "retry-beacon" {
                refuse(CALLS.sendmmsg, &descriptors());
                tokio::time::sleep(LONGEST).await;
            } else {
                refuse(call, &sockets_on(port));
                knock(to).await;
            }
        }
        "listener-worker" | "listener-control" => {
            let running = listener_egress::start(world.config(listener), deps("listener")).await.unwrap();
            let (port, group) = match case.as_str() {
                "listener-worker" => (world.data, GroupIndex(0)),
                _ => (world.beacon, GroupIndex::BEACON),
            };
            refuse(CALLS.recvmmsg, &sockets_on(port));
            knock(world.group(group, port)).await;
            drop(running);
        }
        "proxy-worker" => {
            let running = proxy_ingress::start(world.config(proxy), deps("proxy")).await.unwrap();
            refuse(CALLS.recvmmsg, &sockets_on(running.udp.port()));
            knock(running.udp).await;
        }
        case => panic!("no case {case}"),
    }
}

/// Runs a case and demands that its process ended as a dead worker ends it, naming the socket.
fn ends_the_process(case: &str, socket: &str) {
    let Output { status, stdout, stderr } = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CASE, case)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(EXIT_PANIC), "{case}: {said}");
    assert!(said.contains(socket), "{case} does not name {socket}: {said}");
}

#[test]
fn a_mute_worker_of_a_retry_endpoint_ends_the_process() {
    ends_the_process("retry-worker", "--listen-port");
}

#[test]
fn a_mute_nack_server_ends_the_process() {
    ends_the_process("retry-nack", "--nack-port");
}

#[test]
fn a_mute_digest_listener_ends_the_process() {
    ends_the_process("retry-digests", "--beacon-port");
}

#[test]
fn a_beacon_that_cannot_send_ends_the_process() {
    ends_the_process("retry-beacon", "beacon");
}

#[test]
fn a_mute_worker_of_a_listener_ends_the_process() {
    ends_the_process("listener-worker", "--listen-port");
}

#[test]
fn a_mute_control_thread_of_a_listener_ends_the_process() {
    ends_the_process("listener-control", "a control group");
}

#[test]
fn a_mute_worker_of_a_proxy_ends_the_process() {
    ends_the_process("proxy-worker", "--udp-listen-port");
}

/// One request to the admin port; its answer, as far as one comes.
fn healthz(admin: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.1 200").then_some(answer)
}

/// Sets below which number the new descriptors of a process must be (its soft limit).
fn limit_descriptors(process: u32, most: usize) {
    let limit = [format!("--pid={process}"), format!("--nofile={most}:")];
    let set = Command::new("prlimit").args(&limit).output().unwrap();
    assert!(set.status.success(), "prlimit {limit:?}: {}", String::from_utf8_lossy(&set.stderr));
}

#[test]
fn an_admin_port_that_could_not_accept_for_a_while_answers_again() {
    let world = World::new();
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = Command::new(oncecast());
    let line = format!(
        "proxy --fabric ipv4 --mc-ipv4-net {} --iface lo --workers 1 --listen 127.0.0.1 --udp-listen-port 0 \
         --metrics-addr {admin}",
        world.net
    );
    command.args(line.split_whitespace());
    let mut proxy = Process::spawn("proxy", command);
    // The port answers before the role is up, and a role that starts needs descriptors.
    assert!(eventually(|| proxy.output().contains("started role")), "{}", proxy.output());
    assert!(eventually(|| healthz(admin).is_some()), "{}", proxy.output());
    // Descriptors are numbers below the limit, and 0 to 2 are taken: whatever else is closed meanwhile, none is left.
    limit_descriptors(proxy.id(), 3);
    assert!(eventually(|| healthz(admin).is_none()), "no descriptor was left for a connection");
    limit_descriptors(proxy.id(), 1024);
    assert!(eventually(|| healthz(admin).is_some()), "{}", proxy.output());
    assert!(proxy.is_running());
}
