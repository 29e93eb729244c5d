//! Faults planted into the rounds that ship, and into the model around them.

use std::fmt;

/// One planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// In the proxies' pipeline.
    Ingress(proxy_ingress::mutation::Mutation),
    /// In the listeners' pipeline.
    Egress(listener_egress::mutation::Mutation),
    /// In the endpoints' pipeline.
    Endpoint(retry_endpoint::mutation::Mutation),
    /// In the claims of proxies and listeners.
    Claims(txidset::mutation::Mutation),
    /// A broken connection sends only what it had not written.
    UnacknowledgedForgotten,
    /// A restarted proxy numbers the flows of its former life from 1.
    NumbersReusedAfterRestart,
    /// The claims of listeners do not name their consumer.
    ConsumerNotNamed,
}

impl Mutation {
    /// All of them, those of the claim protocol alone left out: the other kind of world hunts them.
    pub fn all() -> Vec<Mutation> {
        let ingress = proxy_ingress::mutation::Mutation::ALL.map(Mutation::Ingress);
        let egress = listener_egress::mutation::Mutation::ALL.map(Mutation::Egress);
        let endpoint = retry_endpoint::mutation::Mutation::ALL.map(Mutation::Endpoint);
        let model = [
            Mutation::UnacknowledgedForgotten,
            Mutation::NumbersReusedAfterRestart,
            Mutation::ConsumerNotNamed,
        ];
        ingress.into_iter().chain(egress).chain(endpoint).chain(model).collect()
    }

    /// Those of the claim protocol.
    pub fn of_claims() -> Vec<Mutation> {
        txidset::mutation::Mutation::ALL.map(Mutation::Claims).to_vec()
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mutation::Ingress(mutation) => write!(f, "{mutation:?}"),
            Mutation::Egress(mutation) => write!(f, "{mutation:?}"),
            Mutation::Endpoint(mutation) => write!(f, "{mutation:?}"),
            Mutation::Claims(mutation) => mutation.fmt(f),
            of_the_model => write!(f, "{of_the_model:?}"),
        }
    }
}
