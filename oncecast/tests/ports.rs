//! Unicast ports belong to one process: who comes second is refused and told by whom, unless it was asked to take over.

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROXY: &str = "proxy --fabric=ipv4 --iface=lo --listen=127.0.0.1 --workers=2 --drain-timeout=1s";
const RETRY: &str =
    "retry --fabric=ipv4 --iface=lo --listen-port=0 --nack-addr=127.0.0.1 --cache-bytes=64MiB --workers=1";

/// A role that runs, killed when the test ends.
struct Role(Child);

impl Role {
    fn spawn(line: &str) -> Role {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oncecast"));
        command.env_clear().args(line.split(' ')).stderr(Stdio::piped());
        Role(command.spawn().unwrap())
    }

    /// Completes when it takes frames or requests.
    fn ready(line: &str, admin: u16) -> Role {
        let role = Role::spawn(line);
        let args =
            ["status", "--wait-ready=60", "--page=readyz", &format!("127.0.0.1:{admin}")].map(str::to_owned);
        let output = Command::new(env!("CARGO_BIN_EXE_oncecast")).args(args).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        role
    }

    fn terminate(mut self) -> Option<i32> {
        assert!(
            Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status().unwrap().success()
        );
        self.0.wait().unwrap().code()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a role that must not start: exit code 1 and its one line.
fn refused(line: &str) -> String {
    let line = format!("{line} --log-level=off");
    let Output { status, stderr, .. } =
        Command::new(env!("CARGO_BIN_EXE_oncecast")).env_clear().args(line.split(' ')).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!((status.code(), text.lines().count()), (Some(1), 1), "{line}: {text}");
    text
}

fn free_port() -> u16 {
    // Free for UDP and for TCP.
    std::iter::repeat_with(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port())
        .find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .unwrap()
}

#[test]
fn a_second_process_is_refused_and_told_by_whom() {
    let (udp, tcp, admin) = (free_port(), free_port(), free_port());
    let first = format!("{PROXY} --instance=a --udp-listen-port={udp} --tcp-listen-port={tcp}");
    let proxy = Role::ready(&format!("{first} --metrics-addr=127.0.0.1:{admin}"), admin);
    let nack = free_port();
    let admin_of_retry = free_port();
    let retry = format!("{RETRY} --beacon-port=0 --nack-port={nack}");
    let endpoint = Role::ready(
        &format!("{retry} --instance=r --metrics-addr=127.0.0.1:{admin_of_retry}"),
        admin_of_retry,
    );
    let off = "--metrics-addr=off";
    let (proxy, endpoint) =
        ((proxy.0.id(), "proxy \"a\"", proxy), (endpoint.0.id(), "retry \"r\"", endpoint));
    for (line, option, port, (pid, name, _)) in [
        (format!("{PROXY} {off} --udp-listen-port={udp}"), "--udp-listen-port", udp, &proxy),
        (
            format!("{PROXY} {off} --udp-listen-port=0 --tcp-listen-port={tcp}"),
            "--tcp-listen-port",
            tcp,
            &proxy,
        ),
        (format!("{PROXY} {off} --udp-listen-port={udp} --listen=[::]"), "--udp-listen-port", udp, &proxy),
        (format!("{PROXY} --udp-listen-port=0 --metrics-addr=:{admin}"), "--metrics-addr", admin, &proxy),
        (format!("{retry} {off}"), "--nack-port", nack, &endpoint),
    ] {
        let text = refused(&line);
        for part in [option, &format!(":{port} "), &format!("oncecast {name} (pid {pid})"), "--take-over"] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
    }
}

#[test]
fn a_check_finds_the_ports_of_its_own_instance_in_order() {
    let (udp, admin) = (free_port(), free_port());
    let line = format!("{PROXY} --udp-listen-port={udp} --metrics-addr=127.0.0.1:{admin}");
    let proxy = Role::ready(&format!("{line} --instance=a"), admin);
    let check = |options: &str| {
        let line = format!("{line} --check {options}");
        let output =
            Command::new(env!("CARGO_BIN_EXE_oncecast")).env_clear().args(line.split(' ')).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(check("--instance=a"), (Some(0), String::new()));
    let (code, text) = check("--instance=b");
    assert_eq!((code, text.matches("(port.taken)").count()), (Some(1), 2), "{text}");
    assert!(text.contains(&format!("(pid {})", proxy.0.id())), "{text}");
    assert_eq!(check("--instance=b --take-over"), (Some(0), String::new()));
}

#[test]
fn of_processes_that_begin_at_once_one_gets_the_port() {
    let udp = free_port();
    let line = format!("{PROXY} --metrics-addr=off --udp-listen-port={udp} --tcp-listen-port={udp}");
    let mut roles: Vec<Role> = (0..4).map(|_| Role::spawn(&line)).collect();
    let end = Instant::now() + Duration::from_secs(60);
    let mut ended = Vec::new();
    while ended.len() < 3 && Instant::now() < end {
        ended.extend(roles.extract_if(.., |role| role.0.try_wait().unwrap().is_some()));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(roles.len(), 1, "one runs");
    for mut role in ended {
        let mut text = String::new();
        role.0.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(role.0.wait().unwrap().code(), Some(1), "{text}");
        assert!(text.contains("listen-port: cannot listen on"), "{text}");
    }
    assert_eq!(roles.remove(0).terminate(), Some(0));
}

#[test]
fn a_hand_over_takes_the_ports_of_the_old_process() {
    let (udp, tcp, admin, other) = (free_port(), free_port(), free_port(), free_port());
    let line = format!("{PROXY} --udp-listen-port={udp} --tcp-listen-port={tcp}");
    let old = Role::ready(&format!("{line} --metrics-addr=127.0.0.1:{admin}"), admin);
    let new = Role::ready(&format!("{line} --take-over --metrics-addr=127.0.0.1:{other}"), other);
    assert_eq!(old.terminate(), Some(0));
    let text = refused(&format!("{line} --metrics-addr=off"));
    assert!(text.contains(&format!("(pid {})", new.0.id())), "{text}");
    // The third process takes over the admin port too, and an endpoint its NACK port.
    let third = Role::spawn(&format!("{line} --take-over --metrics-addr=127.0.0.1:{other}"));
    drop(new);
    let args =
        ["status", "--wait-ready=60", "--page=status", &format!("127.0.0.1:{other}")].map(str::to_owned);
    let output = Command::new(env!("CARGO_BIN_EXE_oncecast")).args(args).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["pid"], third.0.id(), "{output:?}");
}

#[test]
fn another_program_is_not_shared_with_and_not_taken_over() {
    let foreign = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    foreign.set_reuse_port(true).unwrap();
    foreign.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = foreign.local_addr().unwrap().as_socket_ipv4().unwrap().port();
    let text = refused(&format!("{PROXY} --metrics-addr=off --udp-listen-port={port}"));
    assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
    assert!(!text.contains("--take-over"), "it is no hand-over: {text}");
}
