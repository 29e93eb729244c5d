//! Whose prefix of the shared store it is: asked at the start, and looked at again while the proxy runs.
//!
//! A prefix that is another fabric's ends the start: claims of one fabric would suppress transactions of the other.
//!
//! A running proxy may find another fabric's label: the store lost its keys, or a node was told to replace the label. It goes
//! on, and says so in `/readyz` (degraded) and in the log at each look. Ending it would stop the traffic of a fabric that
//! may be the right one.

use crate::config::{Config, FabricCheckArg};
use cache_backend::{Backend, Session};
use service::worker::Threads;
use service::{Code, Condition, Lifecycle};
use std::sync::Arc;
use tokio::sync::watch;
use txidset::fabric::Standing;
use txidset::{FabricLabel, Names};

/// Starts the look-out, unless no store is shared or it was turned off.
///
/// # Errors
/// The prefix is another fabric's.
pub(super) async fn watch(
    config: &Config,
    backend: Option<&Arc<dyn Backend>>,
    lifecycle: &Lifecycle,
    threads: &mut Threads,
) -> anyhow::Result<()> {
    let check = config.claims.fabric_check;
    let Some(backend) = backend.filter(|b| b.immediate().is_none() && check != FabricCheckArg::Off) else {
        return Ok(());
    };
    let word = word(config);
    let session = backend.session().await?;
    let condition = lifecycle.condition("fabric");
    match word.look(session.as_ref(), check == FabricCheckArg::Replace).await {
        Ok(Standing::Theirs(theirs)) => anyhow::bail!(refusal(config, &theirs, word.text())),
        Ok(standing) => tell(&condition, &word, &standing),
        Err(error) => {
            tracing::warn!(
                "whose the prefix {} is could not be asked: {error}",
                config.claims.txid_dedup_prefix
            );
            condition.met("not known yet");
        }
    }
    drop(session);
    let backend = Arc::clone(backend);
    let draining = lifecycle.drain_signal();
    threads.spawn("proxy-fabric".to_owned(), move || async move {
        Ok(async move { look_again(&*backend, &word, &condition, draining).await })
    })
}

fn word(config: &Config) -> FabricLabel {
    let claims = config.claims_config(true);
    let names = Names::new(&claims.prefix, claims.keys);
    let words = config.fabric.named(config.claims.fabric_name.as_deref(), config.sending.egress_port);
    let ttl = if claims.ttl.is_zero() { claims.ttl } else { claims.ttl + 2 * claims.lease };
    FabricLabel::new(&names, &words, ttl)
}

async fn look_again(
    backend: &dyn Backend,
    word: &FabricLabel,
    condition: &Condition,
    mut draining: watch::Receiver<bool>,
) {
    let mut session: Option<Box<dyn Session>> = None;
    loop {
        tokio::select! {
            _ = draining.wait_for(|drains| *drains) => return,
            () = tokio::time::sleep(word.pause()) => {}
        }
        if session.is_none() {
            session = backend.session().await.ok();
        }
        let Some(session) = &session else { continue };
        // What the store does not answer is asked at the next look; its own condition says that it does not.
        if let Ok(standing) = word.look(session.as_ref(), false).await {
            tell(condition, word, &standing);
        }
    }
}

fn tell(condition: &Condition, word: &FabricLabel, standing: &Standing) {
    let ours = word.text();
    match standing {
        Standing::Ours => condition.met(ours),
        Standing::Replaced(theirs) => {
            tracing::warn!(%theirs, %ours, "the prefix of the claims was another fabric's and is ours now");
            condition.met(ours);
        }
        Standing::Theirs(theirs) => {
            tracing::error!(%theirs, %ours, "the prefix of the claims is another fabric's: each suppresses transactions of the other");
            let detail = format!("the prefix of the claims is another fabric's ({theirs})");
            condition.fails(Code::StoreOtherFabric, &detail);
        }
        Standing::Unreadable => {
            tracing::warn!(
                "what stands under the prefix of the claims about its fabric is of another version"
            );
            condition.met("written by another version");
        }
    }
}

fn refusal(config: &Config, theirs: &str, ours: &str) -> String {
    format!(
        "--txid-dedup-prefix {:?}: in this store it belongs to another fabric: \"{theirs}\", this one is \"{ours}\", and \
         they would suppress each other's transactions. Give this fabric a prefix of its own; or, if both are one fabric, the \
         same --fabric-name on all its proxies; or, if the fabric itself was changed, start once with \
         --fabric-check=replace",
        config.claims.txid_dedup_prefix
    )
}
