//! What a listener needs of its host.

use crate::config::Config;
use service::config::{BackendKind, Invalid};
use service::host::memory::{Size, Use};
use service::host::{Link, Needs};
use service::worker::Layout;
use txidset::LocalSet;

/// What a range of missing numbers takes (`--nack-max-gaps`).
const GAP: u64 = 150;

/// What the options need of the host.
///
/// # Errors
/// As [`Config::check`](crate::config::Config::check).
pub fn needs(config: &Config) -> Result<Needs, Invalid> {
    config.check()?;
    let v4 = config.data_fabric()?.is_v4();
    let link = |name: &String| Link { option: "--iface", name: name.clone(), least_mtu: None, v4 };
    let mut needs = Needs {
        links: config.fabric.iface.0.iter().map(link).collect(),
        sizes: sizes(config)?,
        ..Needs::default()
    };
    needs.name("--egress-addr", &config.delivery.egress_addr);
    if config.delivery.header_egress_enabled {
        needs.name("--header-egress-addr", &config.delivery.header_egress_addr);
    }
    for endpoint in config.repair.retry_endpoints.iter().flat_map(|list| &list.0) {
        needs.name("--retry-endpoints", endpoint);
    }
    needs.store("--cache-backend", config.backend_settings()?);
    if let Some(marks) = config.mark_plan()? {
        needs.store("--ingress-set-backend", marks.settings);
    }
    Ok(needs)
}

/// Every bound of memory.
fn sizes(config: &Config) -> Result<Vec<Size>, Invalid> {
    let groups = Layout::data_groups(
        config.shard_bits()?,
        |index| config.filters.shard_include.is_empty() || config.filters.shard_include.contains(index),
        config.receiving.subtree_data_enabled,
    );
    let layout = Layout::new(config.data_fabric()?, groups, Vec::new(), config.receiving.workers);
    let sockets = layout.workers * config.fabric.iface.0.len();
    let mut sizes = vec![
        Size {
            option: "--recv-buf-bytes",
            each: config.receiving.recv_buf_bytes.bytes(),
            times: sockets as u64,
            what: Use::ReceiveBuffer,
        },
        Size::heap("--reassembly-bytes", config.verification.reassembly_bytes.bytes(), 1),
        Size::heap("--egress-queue-bytes", config.delivery.egress_queue_bytes.bytes(), 1),
        Size::heap("--nack-max-gaps", GAP, config.repair.nack_max_gaps),
    ];
    if config.gate.enabled() {
        let entries = config.gate.egress_dedup_local_cap;
        sizes.push(Size::heap("--egress-dedup-local-cap", LocalSet::bytes_of(entries) as u64, 1));
        // Frames whose claim is asked for, and copies that wait for another listener's.
        sizes.push(Size::heap("--claim-park-bytes", config.gate.claim_park_bytes.bytes(), 2));
    }
    if config.backend.kind_or(BackendKind::None)? == BackendKind::Memory {
        sizes.push(Size::heap("--memory-backend-bytes", config.backend.memory_backend_bytes.bytes(), 1));
    }
    Ok(sizes)
}
