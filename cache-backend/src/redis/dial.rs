//! From a target to a connection that was seen to work.

use super::address::Endpoint;
use super::connection::{Connection, DialError, Greeting, within};
use super::probe::{ClaimForm, Proof, probe};
use super::sentinel::Sentinels;
use super::stream::Tls;
use crate::RemoteSettings;
use redis::Value;
use std::future::pending;
use std::sync::Mutex;
use std::sync::PoisonError;

/// Whom a connection goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// One node of a Cluster.
    Node(Endpoint),
    /// The first configured address that works.
    First,
    /// The master that the Sentinels name.
    Master,
}

impl Target {
    /// Where a node of a Cluster is.
    pub(super) fn node(&self) -> Option<&Endpoint> {
        match self {
            Target::Node(endpoint) => Some(endpoint),
            Target::First | Target::Master => None,
        }
    }
}

/// Everything a dial needs to know.
pub(super) struct Dialer {
    pub(super) seeds: Vec<Endpoint>,
    pub(super) sentinels: Option<Sentinels>,
    pub(super) greeting: Greeting,
    pub(super) tls: Tls,
    pub(super) remote: RemoteSettings,
    /// The form seen last, for servers that cannot be probed at the moment.
    pub(super) form: Mutex<ClaimForm>,
}

/// A connection that passed its probe.
pub(super) struct Dialled {
    pub(super) connection: Connection,
    pub(super) endpoint: Endpoint,
    pub(super) form: ClaimForm,
    /// It took a write and answered it; otherwise only its greeting was seen.
    pub(super) proven: bool,
}

impl Dialer {
    /// What `target` is called in messages and metrics.
    pub(super) fn name(&self, target: &Target) -> String {
        match (target, &self.sentinels) {
            (Target::Node(endpoint), _) => endpoint.to_string(),
            (Target::Master, Some(sentinels)) => format!("sentinel:{}", sentinels.master),
            _ => self.seeds.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(","),
        }
    }

    /// A working connection. `probe_key`: `None` where no key of the server is known (a Cluster node without slots).
    pub(super) async fn dial(
        &self,
        target: &Target,
        probe_key: Option<Vec<u8>>,
        proof: Proof,
    ) -> Result<Dialled, DialError> {
        let dial = |endpoint| self.dial_endpoint(endpoint, probe_key.clone(), proof);
        match (target, &self.sentinels) {
            (Target::Node(endpoint), _) => dial(endpoint.clone()).await,
            (Target::Master, Some(sentinels)) => {
                sentinels.elect(&self.tls, self.remote.dial_timeout, dial).await
            }
            _ => {
                let mut failures = Vec::new();
                for endpoint in &self.seeds {
                    match dial(endpoint.clone()).await {
                        Ok(dialled) => return Ok(dialled),
                        Err(error) => failures.push(error),
                    }
                }
                Err(DialError::of_all(failures))
            }
        }
    }

    async fn dial_endpoint(
        &self,
        endpoint: Endpoint,
        probe_key: Option<Vec<u8>>,
        proof: Proof,
    ) -> Result<Dialled, DialError> {
        let (connection, seen) = within(self.remote.dial_timeout, &endpoint, async {
            let mut connection = self.greet(&endpoint).await?;
            let seen = match probe_key {
                Some(key) => probe(&mut connection, &key, proof, &self.remote.probe_prefix).await?,
                None => None,
            };
            Ok((connection, seen))
        })
        .await?;
        let mut last = self.form.lock().unwrap_or_else(PoisonError::into_inner);
        *last = seen.unwrap_or(*last);
        Ok(Dialled { connection, endpoint, form: *last, proven: seen.is_some() })
    }

    async fn greet(&self, endpoint: &Endpoint) -> Result<Connection, DialError> {
        let mut connection = Connection::dial(endpoint, &self.tls, &self.greeting).await?;
        connection.introduce().await?;
        Ok(connection)
    }

    /// One question to one server, on a connection of its own.
    pub(super) async fn ask(&self, endpoint: &Endpoint, words: &[&[u8]]) -> Result<Value, DialError> {
        let answer = async { self.greet(endpoint).await?.ask(words).await };
        within(self.remote.dial_timeout, endpoint, answer).await
    }

    /// Completes with the new master when a Sentinel announces one; never where there are no Sentinels.
    pub(super) async fn master_moved(&self) -> Endpoint {
        match &self.sentinels {
            Some(sentinels) => sentinels.master_moved(&self.tls, self.remote.dial_timeout).await,
            None => pending().await,
        }
    }
}
