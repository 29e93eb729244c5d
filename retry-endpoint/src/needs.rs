//! What a retry endpoint needs of its host.

use crate::config::Config;
use multicast_io::Interface;
use service::config::Invalid;
use service::host::memory::{Size, Use};
use service::host::ports::{Port, Protocol};
use service::host::{Link, Needs};
use service::worker::Layout;
use std::net::{IpAddr, SocketAddr};

/// What the options need of the host.
///
/// # Errors
/// As [`Config::check`](crate::config::Config::check).
pub fn needs(config: &Config) -> Result<Needs, Invalid> {
    config.check()?;
    let v4 = config.data_fabric()?.is_v4();
    let link = |option, name: &String| Link { option, name: name.clone(), least_mtu: None, v4 };
    let ingress = config.fabric.iface.0.iter().map(|name| link("--iface", name));
    let egress = config.repairs.egress_iface.iter().flat_map(|names| &names.0);
    let mut needs = Needs {
        links: ingress.chain(egress.map(|name| link("--egress-iface", name))).collect(),
        addresses: config.fabric.bind_source.map(|source| ("--bind-source", source)).into_iter().collect(),
        sizes: sizes(config)?,
        ..Needs::default()
    };
    match config.requests.nack_addr.parse::<IpAddr>() {
        Ok(address) => {
            needs.addresses.push(("--nack-addr", address));
            needs.ports.push(request_port(config, address));
        }
        // The start looks the same way: the first address of the first interface.
        Err(_) => needs.ports.extend(auto_address(config, v4).map(|address| request_port(config, address))),
    }
    needs.store("--cache-backend", config.shared_tier()?);
    Ok(needs)
}

/// Where requests are taken, at this address.
pub(crate) fn request_port(config: &Config, address: IpAddr) -> Port {
    Port {
        option: "--nack-port",
        protocol: Protocol::Udp,
        address: SocketAddr::new(address, config.requests.nack_port),
    }
}

/// `--nack-addr auto`, where the interface is there.
fn auto_address(config: &Config, v4: bool) -> Option<IpAddr> {
    let first = Interface::by_name(config.egress_interfaces().first()?.trim()).ok()?;
    match v4 {
        true => first.v4.first().copied().map(IpAddr::V4),
        false => first.preferred_v6().map(IpAddr::V6),
    }
}

/// Every bound of memory.
fn sizes(config: &Config) -> Result<Vec<Size>, Invalid> {
    let groups = Layout::data_groups(config.shard_bits()?, |_| true, config.store.subtree_data_enabled);
    let layout = Layout::new(config.data_fabric()?, groups, Vec::new(), config.store.workers);
    let sockets = layout.workers * config.fabric.iface.0.len();
    Ok(vec![
        Size::heap("--cache-bytes", config.store.cache_bytes.bytes(), 1),
        Size {
            option: "--recv-buf-bytes",
            each: config.store.recv_buf_bytes.bytes(),
            times: sockets as u64,
            what: Use::ReceiveBuffer,
        },
    ])
}
