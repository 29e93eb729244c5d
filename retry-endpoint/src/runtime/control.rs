//! The control thread: what is slow or rare. Beacon, digest listener, upstream client and shared tier run beside each other.

use super::beacon::Beacon;
use super::counters::ControlCells;
use super::digest_listener::DigestListener;
use super::mailboxes::WorkerMailboxes;
use super::shared::{Shared, SharedMailboxes};
use super::stop::Stop;
use super::upstream_client::{UpstreamClient, UpstreamConfig};
use crate::pipeline::upstream::FrameKey;
use multicast_io::{Joined, Receiver};
use service::links::Feed;
use service::worker::Mailbox;
use std::sync::Arc;

/// What the thread runs; see the module text.
pub(super) struct Control {
    pub(super) beacon: Option<Beacon>,
    pub(super) digest_sockets: Vec<Joined>,
    pub(super) links: Feed,
    pub(super) upstream: Option<(Receiver, UpstreamConfig, Mailbox<FrameKey>)>,
    pub(super) shared: Option<(Shared, SharedMailboxes)>,
    pub(super) workers: WorkerMailboxes,
    pub(super) cells: Arc<ControlCells>,
}

impl Control {
    /// Must be called on the runtime of the thread; the result is its work.
    pub(super) fn open(self, stop: Stop) -> anyhow::Result<impl Future<Output = ()>> {
        let Control { beacon, digest_sockets, links, upstream, shared, workers, cells } = self;
        let digests = DigestListener::new(digest_sockets, links, workers.clone(), Arc::clone(&cells))?;
        let open = |(socket, config, wanted)| -> anyhow::Result<_> {
            Ok((UpstreamClient::new(socket, config, workers, cells)?, wanted))
        };
        let upstream = upstream.map(open).transpose()?;
        Ok(async move {
            let beacon = async {
                if let Some(beacon) = beacon {
                    beacon.run(stop.lifecycle.clone()).await;
                }
            };
            let upstream = async {
                if let Some((client, wanted)) = upstream {
                    client.run(wanted, stop.reached()).await;
                }
            };
            let shared = async {
                if let Some((shared, mailboxes)) = shared {
                    shared.run(mailboxes, stop.reached()).await;
                }
            };
            tokio::join!(beacon, upstream, shared, digests.run(stop.reached()));
        })
    }
}
