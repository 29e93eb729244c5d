//! The demo's roles: two retry endpoints, two listeners, two proxies, each the real role, in this process.

use super::network::Network;
use anyhow::Context;
use cache_backend::{Backend, Memory};
use frame::Fabric;
use service::config::{BackendKind, FabricArgs, Family, HostPort, Percent};
use service::{Deps, Lifecycle};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of the store that the proxies share.
const MEMORY: usize = 256 << 20;
/// How long the roles may take to become ready, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// The running roles.
pub struct Fleet {
    endpoints: Vec<retry_endpoint::Running>,
    listeners: Vec<listener_egress::Running>,
    proxies: Vec<proxy_ingress::Running>,
    lifecycles: Vec<Lifecycle>,
    forgiven: AtomicU64,
}

/// Sums over roles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub duplicates_suppressed: u64,
    pub dropped_on_purpose: u64,
    pub recovered: u64,
}

/// What all roles of one run share.
struct Site {
    network: Network,
    fabric: Fabric,
    data_port: u16,
    beacon_port: u16,
}

impl Site {
    fn random(network: Network) -> anyhow::Result<Site> {
        let fabric = network.random_fabric();
        Ok(Site { network, fabric, data_port: free_port(network)?, beacon_port: free_port(network)? })
    }

    fn apply(&self, args: &mut FabricArgs) {
        args.iface.0 = vec!["lo".to_owned()];
        args.egress_loop = true;
        match self.fabric {
            Fabric::V4 { net } => {
                args.fabric = Family::Ipv4;
                args.mc_ipv4_net = net;
            }
            Fabric::V6 { group_id, .. } => {
                args.fabric = Family::Ipv6;
                args.mc_group_id = group_id;
            }
        }
    }
}

/// A UDP port that nobody uses now.
fn free_port(network: Network) -> anyhow::Result<u16> {
    let socket = UdpSocket::bind((network.loopback(), 0)).context("a free UDP port")?;
    Ok(socket.local_addr().context("a free UDP port")?.port())
}

impl Fleet {
    /// Starts everything, receivers before senders, and waits until all of it is ready.
    pub async fn start(
        network: Network,
        consumers: [SocketAddr; 2],
        loss: f64,
        seed: u64,
    ) -> anyhow::Result<Fleet> {
        let site = Site::random(network)?;
        let mut fleet = Fleet {
            endpoints: Vec::new(),
            listeners: Vec::new(),
            proxies: Vec::new(),
            lifecycles: Vec::new(),
            forgiven: AtomicU64::new(0),
        };
        for index in 0..2 {
            let deps = fleet.deps("retry", None);
            let started = retry_endpoint::start(endpoint(&site, index), deps);
            fleet.endpoints.push(started.await.context("a retry endpoint")?);
        }
        for (index, consumer) in (0..).zip(consumers) {
            let deps = fleet.deps("listener", None);
            let config = listener(&site, consumer, loss, seed.wrapping_add(index));
            fleet.listeners.push(listener_egress::start(config, deps).await.context("a listener")?);
        }
        let memory: Arc<dyn Backend> = Arc::new(Memory::new(MEMORY));
        for _ in 0..2 {
            let deps = fleet.deps("proxy", Some(memory.clone()));
            fleet.proxies.push(proxy_ingress::start(proxy(&site), deps).await.context("a proxy")?);
        }
        fleet.ready().await?;
        Ok(fleet)
    }

    fn deps(&mut self, role: &'static str, store: Option<Arc<dyn Backend>>) -> Deps {
        let lifecycle = Lifecycle::new(role);
        self.lifecycles.push(lifecycle.clone());
        Deps { lifecycle, registry: Arc::default(), store }
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let ready = async {
            for lifecycle in &self.lifecycles {
                while !lifecycle.is_ready() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, ready).await.is_err() {
            let reasons: Vec<_> =
                self.lifecycles.iter().map(|lifecycle| lifecycle.readiness().to_string()).collect();
            anyhow::bail!("not ready after {PATIENCE:?}: {}", reasons.join("; "));
        }
        Ok(())
    }

    /// UDP and TCP address of each proxy.
    pub fn ingress(&self) -> anyhow::Result<[(SocketAddr, SocketAddr); 2]> {
        let address = |proxy: &proxy_ingress::Running| {
            proxy.tcp.map(|tcp| (proxy.udp, tcp)).context("a proxy has no TCP port")
        };
        Ok([address(&self.proxies[0])?, address(&self.proxies[1])?])
    }

    /// Messages that proxy `index` has taken from its sockets.
    pub fn received(&self, index: usize) -> u64 {
        let counters = self.proxies[index].counters();
        counters.received + counters.tcp_messages
    }

    /// Datagrams that the proxies sent and the slower retry endpoint has not taken yet.
    pub fn endpoints_lag(&self) -> u64 {
        let emitted: u64 = self.proxies.iter().map(|proxy| proxy.counters().handed_over).sum();
        let slowest = self.endpoints.iter().map(|endpoint| endpoint.counters().frames_received).min();
        emitted.saturating_sub(slowest.unwrap_or(0) + self.forgiven.load(Ordering::Relaxed))
    }

    /// What the endpoints lack now will not come any more.
    pub fn forgive_lag(&self) {
        self.forgiven.fetch_add(self.endpoints_lag(), Ordering::Relaxed);
    }

    /// A few figures for the live line.
    pub fn live_text(&self) -> String {
        let totals = self.totals();
        format!("{} lost on purpose, {} recovered", totals.dropped_on_purpose, totals.recovered)
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for proxy in &self.proxies {
            totals.duplicates_suppressed += proxy.counters().duplicates_suppressed;
        }
        for listener in &self.listeners {
            let counters = listener.counters();
            totals.dropped_on_purpose += counters.dropped_on_purpose;
            totals.recovered += counters.recovered;
        }
        totals
    }

    /// Stops the roles in the order in which frames pass them.
    pub async fn stop(self) -> Totals {
        let totals = self.totals();
        for lifecycle in self.lifecycles.iter().rev() {
            lifecycle.begin_drain();
        }
        let stopped = async {
            for proxy in self.proxies {
                proxy.wait().await;
            }
            for listener in self.listeners {
                listener.wait().await;
            }
            for endpoint in self.endpoints {
                endpoint.wait().await;
            }
        };
        // What hangs at the end does not change what was delivered; the process ends anyway.
        let _ = tokio::time::timeout(PATIENCE, stopped).await;
        totals
    }
}

fn endpoint(site: &Site, index: u8) -> retry_endpoint::Config {
    let mut config = retry_endpoint::Config::for_embedding();
    site.apply(&mut config.fabric);
    config.store.listen_port = site.data_port;
    config.repairs.egress_port = site.data_port;
    config.beacon.beacon_port = site.beacon_port;
    config.requests.nack_addr = site.network.loopback().to_string();
    config.common.instance = Some(format!("demo-retry-{index}"));
    config
}

fn listener(site: &Site, consumer: SocketAddr, loss: f64, seed: u64) -> listener_egress::Config {
    let mut config = listener_egress::Config::for_embedding();
    site.apply(&mut config.fabric);
    config.receiving.listen_port = site.data_port;
    config.repair.beacon_port = site.beacon_port;
    config.delivery.egress_proto = listener_egress::config::Proto::Tcp;
    config.delivery.egress_addr = HostPort { host: consumer.ip().to_string(), port: Some(consumer.port()) };
    config.inject.inject_loss = Percent::new(loss).unwrap_or_default();
    config.inject.inject_loss_seed = seed;
    config
}

fn proxy(site: &Site) -> proxy_ingress::Config {
    let mut config = proxy_ingress::Config::for_embedding();
    site.apply(&mut config.fabric);
    config.receiving.listen = site.network.loopback();
    config.sending.egress_port = site.data_port;
    config.sending.beacon_port = site.beacon_port;
    config.backend.cache_backend = Some(BackendKind::Memory);
    config
}
