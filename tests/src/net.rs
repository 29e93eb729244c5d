//! Hosts in network namespaces, joined by a bridge in a namespace of its own or cabled to one another. Nothing touches the
//! machine's own network.

use anyhow::{Context, bail};
use std::cell::Cell;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A bridge and its hosts.
pub struct Net {
    prefix: String,
    bridge: String,
    hosts: Cell<u8>,
    namespaces: std::cell::RefCell<Vec<String>>,
}

/// One namespace with `eth0` on the bridge: `fd10::N` and `10.10.0.N`; or one with what [`Net::cable`] gave it.
pub struct Host {
    /// Name of the namespace.
    pub namespace: String,
    /// N in its addresses; 0 without the bridge.
    pub number: u8,
}

impl Net {
    /// `None`, said loudly, where namespaces cannot be made (not root, or forbidden) or `nft` is missing.
    pub fn new() -> Option<Net> {
        if Command::new("nft").arg("--version").output().is_err() {
            crate::skipped("nft (Debian: apt-get install nftables)");
            return None;
        }
        sweep();
        let prefix = format!("oncecast-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bridge = format!("{prefix}-br");
        let net = Net {
            prefix,
            bridge: bridge.clone(),
            hosts: Cell::new(0),
            namespaces: vec![bridge.clone()].into(),
        };
        let made = ip(&["netns", "add", &bridge])
            .and_then(|()| {
                ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"])
            })
            .and_then(|()| ip(&["-n", &bridge, "link", "set", "br0", "up"]));
        match made {
            Ok(()) => Some(net),
            Err(error) => {
                crate::skipped(&format!("network namespaces (root and iproute2): {error:#}"));
                None
            }
        }
    }

    /// Adds a host.
    pub fn host(&self, name: &str) -> Host {
        let number = self.hosts.get() + 1;
        self.hosts.set(number);
        let namespace = format!("{}-{name}", self.prefix);
        self.namespaces.borrow_mut().push(namespace.clone());
        self.plug(&namespace, number).unwrap_or_else(|error| panic!("host {name}: {error:#}"));
        Host { namespace, number }
    }

    /// Adds a host that is not on the bridge.
    pub fn apart(&self, name: &str) -> anyhow::Result<Host> {
        let namespace = format!("{}-{name}", self.prefix);
        self.namespaces.borrow_mut().push(namespace.clone());
        ip(&["netns", "add", &namespace])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(Host { namespace, number: 0 })
    }

    /// Joins two hosts: of each an interface and its address with the length of the prefix.
    pub fn cable(&self, from: (&Host, &str, &str), to: (&Host, &str, &str)) -> anyhow::Result<()> {
        let (here, there) = (&from.0.namespace, &to.0.namespace);
        ip(&["-n", here, "link", "add", from.1, "type", "veth", "peer", "name", to.1, "netns", there])?;
        for (host, interface, address) in [from, to] {
            ip(&["-n", &host.namespace, "addr", "add", address, "dev", interface, "nodad"])?;
            ip(&["-n", &host.namespace, "link", "set", interface, "up"])?;
        }
        Ok(())
    }

    fn plug(&self, namespace: &str, number: u8) -> anyhow::Result<()> {
        let port = format!("port{number}");
        ip(&["netns", "add", namespace])?;
        ip(&[
            "-n",
            &self.bridge,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            namespace,
        ])?;
        ip(&["-n", &self.bridge, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        ip(&["-n", namespace, "addr", "add", &format!("fd10::{number:x}/64"), "dev", "eth0", "nodad"])?;
        ip(&["-n", namespace, "addr", "add", &format!("10.10.0.{number}/24"), "dev", "eth0"])?;
        ip(&["-n", namespace, "link", "set", "eth0", "up"])?;
        wait_for_neighbours(namespace)
    }
}

/// On a busy machine the first neighbour solicitation may get lost, and the kernel asks again after a second. Meanwhile it
/// would drop what a test sends beyond 200 kB; with room enough, the sender waits instead.
fn wait_for_neighbours(namespace: &str) -> anyhow::Result<()> {
    let room = ["ipv4", "ipv6"]
        .map(|family| format!("echo 67108864 > /proc/sys/net/{family}/neigh/eth0/unres_qlen_bytes"));
    ip(&["netns", "exec", namespace, "sh", "-c", &room.join(" && ")])
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in self.namespaces.borrow().iter() {
            let _ = ip(&["netns", "del", namespace]);
        }
    }
}

impl Host {
    /// Address on the bridge, without brackets.
    pub fn v6(&self) -> String {
        format!("fd10::{:x}", self.number)
    }

    /// A command that runs inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Drops this share of the UDP datagrams that arrive from the bridge.
    pub fn lose(&self, percent: u32) {
        let rules = format!(
            "table inet loss {{ chain input {{ type filter hook input priority 0; \
             iifname \"eth0\" meta l4proto udp numgen random mod 100 < {percent} drop; }}; }}"
        );
        let mut command = self.command("nft");
        run(command.arg(rules)).unwrap_or_else(|error| panic!("loss on {}: {error:#}", self.namespace));
    }

    /// What leaves for the bridge waits in a queue of so many packets, which this rate empties (`tc`'s words: `200mbit`). Beyond
    /// it the kernel refuses. `false`, said loudly, where the kernel has no such queue.
    pub fn shape(&self, rate: &str, packets: u32) -> bool {
        let limit = packets.to_string();
        let shaped = self
            .tc(&["qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "10"])
            .and_then(|()| {
                self.tc(&[
                    "class", "add", "dev", "eth0", "parent", "1:", "classid", "1:10", "htb", "rate", rate,
                ])
            })
            .and_then(|()| {
                self.tc(&["qdisc", "add", "dev", "eth0", "parent", "1:10", "pfifo", "limit", &limit])
            });
        shaped.inspect_err(|error| crate::skipped(&format!("tc with htb: {error:#}"))).is_ok()
    }

    /// The kernel refuses everything that would leave for the bridge. `false`, said loudly, where it cannot be told to.
    pub fn refuse(&self) -> bool {
        let refused = self.tc(&["qdisc", "add", "dev", "eth0", "root", "pfifo", "limit", "0"]);
        refused.inspect_err(|error| crate::skipped(&format!("tc with pfifo: {error:#}"))).is_ok()
    }

    /// After [`Host::refuse`]: the kernel takes everything again, from now on and without a moment between. (While a queue is
    /// exchanged for another, the kernel drops what is sent and says that it took it.)
    pub fn relent(&self) {
        let limit = self.tc(&["qdisc", "change", "dev", "eth0", "root", "pfifo", "limit", "100000"]);
        limit.unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// After [`Host::shape`]: the way to the bridge is as it was. Not while something is sent that must arrive.
    pub fn refuse_nothing(&self) {
        self.tc(&["qdisc", "del", "dev", "eth0", "root"]).unwrap_or_else(|error| panic!("{error:#}"));
    }

    fn tc(&self, args: &[&str]) -> anyhow::Result<()> {
        run(self.command("tc").args(args))
    }

    /// Lets everything through again.
    pub fn lose_nothing(&self) {
        run(self.command("nft").args(["flush", "ruleset"])).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// Removes what test processes that no longer exist left behind.
fn sweep() {
    let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let owner = name.strip_prefix("oncecast-").and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|id| id.parse::<u32>().ok()) else { continue };
        if !std::path::Path::new(&format!("/proc/{owner}")).exists() {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(args))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
