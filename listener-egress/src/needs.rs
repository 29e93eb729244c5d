//! What a listener needs of its host.

use crate::config::Config;
use service::config::{BackendKind, Invalid, Purpose};
use service::host::memory::{Size, Use};
use service::host::{Link, Needs};
use service::worker::Layout;
use txidset::LocalSet;

/// What a range of missing numbers takes (`--nack-max-gaps`).
const GAP: u64 = 150;

impl Config {
    /// What the options need of the host.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn needs(&self) -> Result<Needs, Invalid> {
        self.check()?;
        let v4 = self.data_fabric()?.is_v4();
        let link = |name: &String| Link { option: "--iface", name: name.clone(), least_mtu: None, v4 };
        let mut needs = Needs {
            links: self.fabric.iface.0.iter().map(link).collect(),
            sizes: self.sizes()?,
            ..Needs::default()
        };
        needs.name("--egress-addr", &self.delivery.egress_addr);
        if self.delivery.header_egress_enabled {
            needs.name("--header-egress-addr", &self.delivery.header_egress_addr);
        }
        for endpoint in self.repair.retry_endpoints.iter().flat_map(|list| &list.0) {
            needs.name("--retry-endpoints", endpoint);
        }
        let kind = self.backend.kind_or(BackendKind::None)?;
        needs.store("--cache-backend", self.backend.settings(kind, Purpose::Claims)?);
        if let Some(marks) = self.mark_plan()? {
            needs.store("--ingress-set-backend", marks.settings);
        }
        Ok(needs)
    }

    /// Every bound of memory.
    fn sizes(&self) -> Result<Vec<Size>, Invalid> {
        let groups = Layout::data_groups(
            self.shard_bits()?,
            |index| self.filters.shard_include.is_empty() || self.filters.shard_include.contains(index),
            self.receiving.subtree_data_enabled,
        );
        let layout = Layout::new(self.data_fabric()?, groups, Vec::new(), self.receiving.workers);
        let sockets = layout.workers * self.fabric.iface.0.len();
        let mut sizes = vec![
            Size {
                option: "--recv-buf-bytes",
                each: self.receiving.recv_buf_bytes.bytes(),
                times: sockets as u64,
                what: Use::ReceiveBuffer,
            },
            Size::heap("--reassembly-bytes", self.verification.reassembly_bytes.bytes(), 1),
            Size::heap("--egress-queue-bytes", self.delivery.egress_queue_bytes.bytes(), 1),
            Size::heap("--nack-max-gaps", GAP, self.repair.nack_max_gaps),
        ];
        if self.gate.enabled() {
            let entries = self.gate.egress_dedup_local_cap;
            sizes.push(Size::heap("--egress-dedup-local-cap", LocalSet::bytes_of(entries) as u64, 1));
            // Frames whose claim is asked for, and copies that wait for another listener's.
            sizes.push(Size::heap("--claim-park-bytes", self.gate.claim_park_bytes.bytes(), 2));
        }
        if self.backend.kind_or(BackendKind::None)? == BackendKind::Memory {
            sizes.push(Size::heap("--memory-backend-bytes", self.backend.memory_backend_bytes.bytes(), 1));
        }
        Ok(sizes)
    }
}
