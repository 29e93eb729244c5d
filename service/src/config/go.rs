//! Flags of the Go stack that have no effect here yet.
//!
//! Its unit files and charts must run unchanged, and nothing they ask for may be dropped in silence. Such a flag is parsed. A
//! value other than the default is answered with a warning at start, or with an error where going on without it would leave
//! somebody without frames. The warning tells what is not built yet from what will not be. As soon as a role declares an
//! option of the same name, its row here stops to matter.

use super::effective::{Effective, Origin};

/// A flag of the Go stack that is accepted and does nothing.
#[derive(Clone, Copy, Debug)]
pub struct GoFlag {
    /// Roles that had it.
    pub roles: &'static [&'static str],
    /// Long name.
    pub flag: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Value that needs no warning; `true` and `false` make it a switch.
    pub default: &'static str,
    /// Another value is an error instead of a warning.
    pub refused: bool,
    /// Why it will not be built; empty where it only has not been yet.
    pub unwise: &'static str,
}

impl GoFlag {
    /// Whether the flag may stand without a value.
    pub fn is_switch(&self) -> bool {
        matches!(self.default, "true" | "false")
    }
}

const ALL: &[&str] = &["proxy", "listener", "retry"];
const PROXY: &[&str] = &["proxy"];
const LISTENER: &[&str] = &["listener"];
const RETRY: &[&str] = &["retry"];
const PROXY_LISTENER: &[&str] = &["proxy", "listener"];

const fn row(
    roles: &'static [&'static str],
    flag: &'static str,
    env: &'static str,
    default: &'static str,
) -> GoFlag {
    GoFlag { roles, flag, env, default, refused: false, unwise: "" }
}

/// A flag whose value, if not the default, must not be ignored.
const fn only(
    roles: &'static [&'static str],
    flag: &'static str,
    env: &'static str,
    default: &'static str,
) -> GoFlag {
    GoFlag { roles, flag, env, default, refused: true, unwise: "" }
}

/// A flag that is not needed here, and why.
const fn needless(
    roles: &'static [&'static str],
    flag: &'static str,
    env: &'static str,
    default: &'static str,
    unwise: &'static str,
) -> GoFlag {
    GoFlag { roles, flag, env, default, refused: false, unwise }
}

/// Every such flag.
pub const GO_FLAGS_IGNORED: &[GoFlag] = &[
    // Observation.
    row(ALL, "otlp-endpoint", "OTLP_ENDPOINT", ""),
    row(ALL, "otlp-interval", "OTLP_INTERVAL", "30s"),
    row(ALL, "trace-sampling", "TRACE_SAMPLING", "0"),
    row(ALL, "pprof", "BSP_PPROF", "false"),
    // Manifests and live re-sharding.
    row(ALL, "manifest-consumer-enabled", "MANIFEST_CONSUMER_ENABLED", "false"),
    row(ALL, "manifest-bootstrap", "MANIFEST_BOOTSTRAP", "optional"),
    row(ALL, "manifest-beacon-scope", "MANIFEST_BEACON_SCOPE", ""),
    row(ALL, "manifest-beacon-port", "MANIFEST_BEACON_PORT", "9001"),
    row(ALL, "pilot-quorum", "PILOT_QUORUM", "2"),
    row(ALL, "pilot-hysteresis", "PILOT_HYSTERESIS", "0"),
    row(PROXY_LISTENER, "control-group-compat", "CONTROL_GROUP_COMPAT", "both"),
    row(RETRY, "control-group-compat", "CONTROL_GROUP_COMPAT", "asm-only"),
    row(PROXY_LISTENER, "live-resharding", "LIVE_RESHARDING", "false"),
    row(PROXY_LISTENER, "bridging-window", "BRIDGING_WINDOW", "0"),
    row(LISTENER, "shard-include-from-manifest", "SHARD_INCLUDE_FROM_MANIFEST", "false"),
    // Source-specific bootstrap.
    row(LISTENER, "ssm-bootstrap-beacon", "SSM_BOOTSTRAP_BEACON", ""),
    row(LISTENER, "ssm-bootstrap-manifest", "SSM_BOOTSTRAP_MANIFEST", ""),
    row(LISTENER, "ssm-bootstrap-subtree-announce", "SSM_BOOTSTRAP_SUBTREE_ANNOUNCE", ""),
    row(LISTENER, "ssm-bootstrap-refresh", "SSM_BOOTSTRAP_REFRESH", "30s"),
    row(LISTENER, "local-source", "LOCAL_SOURCE", ""),
    row(RETRY, "ssm-bootstrap-manifest", "SSM_BOOTSTRAP_MANIFEST", ""),
    row(RETRY, "ssm-bootstrap-refresh", "SSM_BOOTSTRAP_REFRESH", "30s"),
    // Objects and bundles.
    row(PROXY, "beef-listen-port", "BEEF_LISTEN_PORT", "0"),
    row(PROXY_LISTENER, "beef-shard-bits", "BEEF_SHARD_BITS", "0"),
    row(RETRY, "beef-shard-bits", "BEEF_SHARD_BITS", "4"),
    row(PROXY_LISTENER, "beef-max-object-bytes", "BEEF_MAX_OBJECT_BYTES", "1048576"),
    row(LISTENER, "beef-topics", "BEEF_TOPICS", ""),
    row(LISTENER, "beef-groups", "BEEF_GROUPS", ""),
    row(LISTENER, "beef-versions", "BEEF_VERSIONS", ""),
    row(LISTENER, "beef-verify-content", "BEEF_VERIFY_CONTENT", "false"),
    row(RETRY, "beef-enabled", "BEEF_ENABLED", "false"),
    row(RETRY, "cache-ttl-beef", "CACHE_TTL_BEEF", "60s"),
    row(PROXY, "coalesce", "COALESCE", "false"),
    row(PROXY, "coalesce-max-bytes", "COALESCE_MAX_BYTES", "1500"),
    row(PROXY, "coalesce-max-members", "COALESCE_MAX_MEMBERS", "0"),
    row(PROXY, "coalesce-carry-txid", "COALESCE_CARRY_TXID", "false"),
    row(LISTENER, "rebucket-relay", "REBUCKET_RELAY", "false"),
    // Push lanes.
    row(PROXY, "subtree-listen-port", "SUBTREE_LISTEN_PORT", "0"),
    row(PROXY, "block-listen-port", "BLOCK_LISTEN_PORT", "0"),
    row(PROXY, "verify-subtree-root", "VERIFY_SUBTREE_ROOT", "false"),
    row(LISTENER, "subtree-data-verify-merkle", "SUBTREE_DATA_VERIFY_MERKLE", "false"),
    row(LISTENER, "coinbase-corr-cap", "COINBASE_CORR_CAP", "4096"),
    row(LISTENER, "coinbase-corr-ttl", "COINBASE_CORR_TTL", "10m"),
    // Other deliveries, and copies for a cache on the same host.
    only(LISTENER, "mode", "LISTENER_MODE", "collapsed"),
    only(LISTENER, "delivery-addrs", "DELIVERY_ADDRS", ""),
    only(LISTENER, "mc-egress-enabled", "MC_EGRESS_ENABLED", "false"),
    row(LISTENER, "mc-egress-iface", "MC_EGRESS_IFACE", ""),
    row(LISTENER, "mc-egress-port", "MC_EGRESS_PORT", ""),
    row(LISTENER, "mc-egress-scope", "MC_EGRESS_SCOPE", ""),
    row(LISTENER, "mc-egress-group-id", "MC_EGRESS_GROUP_ID", ""),
    row(LISTENER, "mc-egress-hoplimit", "MC_EGRESS_HOPLIMIT", "1"),
    only(LISTENER, "header-egress-enabled", "HEADER_EGRESS_ENABLED", "false"),
    row(LISTENER, "header-egress-addr", "HEADER_EGRESS_ADDR", "127.0.0.1:9101"),
    row(LISTENER, "header-egress-proto", "HEADER_EGRESS_PROTO", "udp"),
    only(LISTENER, "header-mc-egress-enabled", "HEADER_MC_EGRESS_ENABLED", "false"),
    row(LISTENER, "header-mc-egress-iface", "HEADER_MC_EGRESS_IFACE", ""),
    row(LISTENER, "header-mc-egress-port", "HEADER_MC_EGRESS_PORT", ""),
    row(LISTENER, "header-mc-egress-scope", "HEADER_MC_EGRESS_SCOPE", ""),
    row(LISTENER, "header-mc-egress-group-id", "HEADER_MC_EGRESS_GROUP_ID", ""),
    row(LISTENER, "header-mc-egress-hoplimit", "HEADER_MC_EGRESS_HOPLIMIT", "1"),
    row(PROXY, "retry-tee", "BSP_RETRY_TEE", ""),
    row(LISTENER, "retry-tee", "RETRY_TEE", ""),
    row(RETRY, "tee-listen", "TEE_LISTEN", ""),
    row(RETRY, "mc-join-enabled", "MC_JOIN_ENABLED", "true"),
    // Courtesy marks have no set of their own.
    needless(
        LISTENER,
        "ingress-set-local-cap",
        "INGRESS_SET_LOCAL_CAP",
        "1048576",
        "marks are written of ids that are new at the gate, whose size is --egress-dedup-local-cap",
    ),
    // Tuning of mechanisms that work differently here.
    row(LISTENER, "nack-jitter-max", "NACK_JITTER_MAX", "200ms"),
    row(LISTENER, "nack-backoff-base", "NACK_BACKOFF_BASE", "500ms"),
    row(LISTENER, "nack-backoff-max", "NACK_BACKOFF_MAX", "5s"),
    row(LISTENER, "nack-max-retries", "NACK_MAX_RETRIES", "5"),
    row(LISTENER, "nack-gap-ttl", "NACK_GAP_TTL", "10m"),
    row(LISTENER, "nack-tail-probe", "NACK_TAIL_PROBE", "true"),
    row(LISTENER, "nack-tail-probe-idle-factor", "NACK_TAIL_PROBE_IDLE_FACTOR", "4.0"),
    row(LISTENER, "nack-tail-probe-min-idle", "NACK_TAIL_PROBE_MIN_IDLE", "500ms"),
    row(LISTENER, "nack-tail-probe-max-misses", "NACK_TAIL_PROBE_MAX_MISSES", "3"),
    row(LISTENER, "egress-dedup-cap", "EGRESS_DEDUP_CAP", "0"),
    row(LISTENER, "egress-dedup-ttl", "EGRESS_DEDUP_TTL", "2s"),
    row(LISTENER, "node-id", "NODE_ID", ""),
    row(RETRY, "cache-max-keys", "CACHE_MAX_KEYS", "0"),
    row(RETRY, "nack-workers", "NACK_WORKERS", ""),
    row(RETRY, "dedup-window", "DEDUP_WINDOW", "60s"),
    row(RETRY, "proxy-workers", "PROXY_WORKERS", "4"),
    row(RETRY, "proxy-queue", "PROXY_QUEUE", "1024"),
    row(RETRY, "proxy-max-endpoints", "PROXY_MAX_ENDPOINTS", "0"),
    row(RETRY, "proxy-dedup-window", "PROXY_DEDUP_WINDOW", "60s"),
];

/// The flags of a role.
pub(super) fn flags_of(role: &str) -> impl Iterator<Item = &'static GoFlag> {
    GO_FLAGS_IGNORED.iter().filter(move |go| go.roles.contains(&role))
}

/// A flag that was set and must not be ignored.
#[derive(Debug, thiserror::Error)]
#[error("{given} is not implemented; want \"{accepted}\"")]
pub(super) struct NotImplemented {
    given: String,
    accepted: &'static str,
}

/// A warning for each flag that was set and does nothing; an error where it must not be ignored.
pub(super) fn warnings(role: &str, effective: &[Effective]) -> Result<Vec<String>, NotImplemented> {
    let mut warnings = Vec::new();
    for option in effective.iter().filter(|option| option.hidden && option.origin != Origin::Default) {
        let Some(go) = flags_of(role).find(|go| go.flag == option.option) else { continue };
        if option.value.as_deref().unwrap_or_default() == go.default {
            continue;
        }
        let given = format!("--{}={} ({})", go.flag, option.shown().unwrap_or_default(), option.origin);
        if go.refused {
            return Err(NotImplemented { given, accepted: go.default });
        }
        warnings.push(match go.unwise {
            "" => format!("{given} is accepted for compatibility, not implemented yet: it has no effect"),
            why => format!("{given} is accepted for compatibility and has no effect on purpose: {why}"),
        });
    }
    Ok(warnings)
}
