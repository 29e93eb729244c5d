//! The line that the pipeline is measured on: generator, middle and sink, joined by cables without a bridge between them.

use anyhow::Context;
use nix::sched::{CloneFlags, setns};
use tests::{Host, Net};

/// Address and port of the middle host's ingress.
pub const INGRESS: &str = "[fd20::2]:8725";
/// Interfaces of the middle host: towards the generator, towards the sink.
pub const MIDDLE: [&str; 2] = ["eth0", "eth1"];

/// See the module text.
pub struct Line {
    /// Sends.
    pub generator: Host,
    /// Forwards.
    pub middle: Host,
    /// Receives.
    pub sink: Host,
    _net: Net,
}

impl Line {
    /// Needs root and iproute2.
    pub fn new() -> anyhow::Result<Line> {
        let net = network()?;
        let (generator, middle, sink) = (net.apart("gen")?, net.apart("mid")?, net.apart("sink")?);
        net.cable((&generator, "eth0", "fd20::1/64"), (&middle, MIDDLE[0], "fd20::2/64"))?;
        net.cable((&middle, MIDDLE[1], "fd21::1/64"), (&sink, "eth0", "fd21::2/64"))?;
        Ok(Line { generator, middle, sink, _net: net })
    }
}

/// A network without hosts.
pub fn network() -> anyhow::Result<Net> {
    Net::new().context("network namespaces cannot be made: run as root, with iproute2")
}

/// A counter of an interface of a host.
pub fn counter(host: &Host, interface: &str, name: &str) -> anyhow::Result<u64> {
    let path = format!("/sys/class/net/{interface}/statistics/{name}");
    let output = host.command("cat").arg(&path).output()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().with_context(|| path)
}

/// Runs `open` on a host: the sockets that it makes stay there, whoever uses them.
pub fn inside<T: Send>(host: &Host, open: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    let path = format!("/run/netns/{}", host.namespace);
    let namespace = std::fs::File::open(&path).with_context(|| path)?;
    // A thread of its own, that ends there: only a thread changes its namespace.
    let opened = std::thread::scope(|scope| {
        let entered = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
            open()
        };
        scope.spawn(entered).join()
    });
    opened.unwrap_or_else(|_| anyhow::bail!("opening sockets on {}", host.namespace))
}
