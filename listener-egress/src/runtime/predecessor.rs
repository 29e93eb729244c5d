//! What the consumer's listeners left in the shared store before this process: how far they were, and which of them have
//! ended. It is read once, before the first frame.

use crate::config::Config;
use crate::pipeline::Positions;
use crate::pipeline::position::MAX_WORKERS;
use anyhow::Context;
use bytes::Bytes;
use cache_backend::Backend;
use txidset::node::ProcessPlace;
use txidset::{Mode, Names, Predecessors};

/// See the module text.
#[derive(Default)]
pub(super) struct Predecessor {
    predecessors: Option<Predecessors>,
    /// `None`: the store did not say.
    positions: Option<Positions>,
}

impl Predecessor {
    /// Nothing where no store outlives a process, or nothing is settled in it.
    pub(super) async fn of(config: &Config, backend: Option<&dyn Backend>) -> anyhow::Result<Predecessor> {
        let claims = config.claims(true);
        let gate = config.gate.enabled() && claims.mode == Mode::Settled;
        let Some(backend) = backend.filter(|backend| gate && backend.immediate().is_none()) else {
            return Ok(Predecessor::default());
        };
        let names = Names::new(&claims.prefix, claims.keys);
        let ttl = if claims.ttl.is_zero() { claims.ttl } else { claims.ttl + 2 * claims.lease };
        let predecessors =
            Predecessors::begin(backend, names.clone(), ttl).await.context("--cache-backend")?;
        let key = |index| {
            let mut key = Vec::new();
            names.positions(index, &mut key);
            key
        };
        let keys: Vec<_> = (0..MAX_WORKERS).map(key).collect();
        let decode = |bytes: &Bytes| Positions::decode(bytes);
        let found = predecessors.read(&keys).await;
        let positions = found.map(|found| Positions::join(found.iter().flatten().filter_map(decode)));
        let ended = predecessors.ended().len();
        match &positions {
            Some(Positions { endpoints, flows }) => tracing::info!(
                flows = flows.len(),
                endpoints = endpoints.len(),
                ended,
                "goes on where this consumer's listeners were; owners of an ended process are taken over at once"
            ),
            None => tracing::warn!(
                "how far this consumer's listeners were is not known: --catch-up frames of each flow are asked for"
            ),
        }
        Ok(Predecessor { predecessors: Some(predecessors), positions })
    }

    /// Whether a store keeps positions.
    pub(super) fn keeps_positions(&self) -> bool {
        self.predecessors.is_some()
    }

    /// Where the listeners were; `None`: not known.
    pub(super) fn positions(&self) -> Option<&Positions> {
        self.positions.as_ref()
    }

    /// Owners whose process has ended.
    pub(super) fn ended(&self) -> &[u64] {
        self.predecessors.as_ref().map_or(&[], Predecessors::ended)
    }

    /// From now on this process is responsible, under these owners.
    pub(super) async fn end(&mut self, owners: &[u64]) -> Option<ProcessPlace> {
        self.predecessors.take()?.list(owners).await
    }
}
