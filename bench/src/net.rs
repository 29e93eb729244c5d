//! Three hosts in network namespaces: generator, middle, sink. Nothing touches the machine's own network.
//!
//! Removed on drop; what a killed run left behind is swept by the next one (names carry the id of their owner).

use anyhow::{Context, bail};
use std::process::Command;

/// Address and port of the middle host's ingress.
pub const INGRESS: &str = "[fd20::2]:8725";
/// Interfaces of the middle host: towards the generator, towards the sink.
pub const MIDDLE: [&str; 2] = ["eth0", "eth1"];

/// See the module text.
pub struct Net {
    prefix: String,
}

/// Which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Sends.
    Generator,
    /// Forwards.
    Middle,
    /// Receives.
    Sink,
}

const HOSTS: [Host; 3] = [Host::Generator, Host::Middle, Host::Sink];

impl Net {
    /// The error says what is missing: root, or iproute2.
    pub fn new() -> anyhow::Result<Net> {
        sweep();
        let net = Net { prefix: format!("oncebench-{}", std::process::id()) };
        for host in HOSTS {
            ip(&format!("netns add {}", net.name(host)))?;
            ip(&format!("-n {} link set lo up", net.name(host)))?;
        }
        net.cable((Host::Generator, "eth0", "fd20::1/64"), (Host::Middle, MIDDLE[0], "fd20::2/64"))?;
        net.cable((Host::Middle, MIDDLE[1], "fd21::1/64"), (Host::Sink, "eth0", "fd21::2/64"))?;
        Ok(net)
    }

    fn cable(&self, from: (Host, &str, &str), to: (Host, &str, &str)) -> anyhow::Result<()> {
        let (here, there) = (self.name(from.0), self.name(to.0));
        ip(&format!("-n {here} link add {} type veth peer name {} netns {there}", from.1, to.1))?;
        for (host, interface, address) in [from, to] {
            ip(&format!("-n {} addr add {address} dev {interface} nodad", self.name(host)))?;
            ip(&format!("-n {} link set {interface} up", self.name(host)))?;
        }
        Ok(())
    }

    fn name(&self, host: Host) -> String {
        let name = match host {
            Host::Generator => "gen",
            Host::Middle => "mid",
            Host::Sink => "sink",
        };
        format!("{}-{name}", self.prefix)
    }

    /// A command that runs on a host.
    pub fn command(&self, host: Host, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(host)]).arg(program);
        command
    }

    /// A counter of an interface of a host.
    pub fn counter(&self, host: Host, interface: &str, name: &str) -> anyhow::Result<u64> {
        let path = format!("/sys/class/net/{interface}/statistics/{name}");
        let output = self.command(host, "cat").arg(&path).output()?;
        String::from_utf8_lossy(&output.stdout).trim().parse().with_context(|| path)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for host in HOSTS {
            let _ = ip(&format!("netns del {}", self.name(host)));
        }
    }
}

/// Removes what benchmarks that no longer run left behind.
fn sweep() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix("oncebench-").and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|id| id.parse::<u32>().ok()) else { continue };
        if !std::path::Path::new(&format!("/proc/{owner}")).exists() {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(args: &str) -> anyhow::Result<()> {
    let output =
        Command::new("ip").args(args.split_whitespace()).output().context("running ip (iproute2)")?;
    if !output.status.success() {
        bail!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
