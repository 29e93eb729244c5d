//! Units of the Go stack run unchanged: every flag and variable it documents is accepted with its default value, without a
//! warning.

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

use std::process::{Command, Output};

fn check(role: &str, args: &[String], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncecast"));
    command.env_clear().envs(env.iter().copied()).arg(role).args(args).arg("--check=config").output().unwrap()
}

/// (flag, variable, default), one per line; `""` is the empty text.
fn table(text: &'static str) -> Vec<(&'static str, &'static str, &'static str)> {
    let row = |line: &'static str| {
        let mut words = line.split_whitespace();
        let mut word = || words.next().unwrap();
        (word(), word(), word().trim_matches('"'))
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(row).collect()
}

fn accepts_all(role: &str, rows: &[(&str, &str, &str)]) {
    let quiet = |output: &Output| {
        assert_eq!(output.status.code(), Some(0), "{role}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{role}");
    };
    let flags: Vec<_> = rows.iter().map(|(flag, _, value)| format!("-{flag}={value}")).collect();
    quiet(&check(role, &flags, &[]));
    let env: Vec<_> = rows.iter().map(|(_, variable, value)| (*variable, *value)).collect();
    quiet(&check(role, &[], &env));
    // Each variable is really read: a value that nothing accepts must be refused, or warned of.
    for (flag, variable, value) in rows.iter().filter(|(_, _, value)| ["true", "false"].contains(value)) {
        let output = check(role, &[], &[(variable, "maybe")]);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{role}: {variable} ({flag}={value}): {line}");
        assert!(line.contains(variable), "{line}");
    }
}

const SHARED: &str = r#"
    scope MC_SCOPE site
    source-mode SOURCE_MODE asm
    mc-group-id MC_GROUP_ID 0x000B
    shard-bits SHARD_BITS 2
    debug DEBUG false
    log-format LOG_FORMAT text
    log-level LOG_LEVEL info
    trace-sampling TRACE_SAMPLING 0
    drain-timeout DRAIN_TIMEOUT 0
    instance INSTANCE_ID ""
    otlp-endpoint OTLP_ENDPOINT ""
    otlp-interval OTLP_INTERVAL 30s
"#;

#[test]
fn every_option_of_shard_proxy() {
    let mut rows = table(SHARED);
    rows.extend(table(
        r#"
        listen LISTEN_ADDR [::]
        udp-listen-port UDP_LISTEN_PORT 8725
        tcp-listen-port TCP_LISTEN_PORT 0
        subtree-listen-port SUBTREE_LISTEN_PORT 0
        block-listen-port BLOCK_LISTEN_PORT 0
        beef-listen-port BEEF_LISTEN_PORT 0
        beef-shard-bits BEEF_SHARD_BITS 0
        beef-max-object-bytes BEEF_MAX_OBJECT_BYTES 1048576
        require-block-pow REQUIRE_BLOCK_POW true
        min-pow-bits MIN_POW_BITS 0
        require-ef REQUIRE_EF false
        allow-stamped-ingress ALLOW_STAMPED_INGRESS false
        verify-payload-hash VERIFY_PAYLOAD_HASH false
        iface MULTICAST_IF eth0
        egress-port EGRESS_PORT 9001
        egress-hoplimit EGRESS_HOPLIMIT 1
        egress-loop EGRESS_MULTICAST_LOOP false
        workers NUM_WORKERS 4
        bind-source BIND_SOURCE ""
        stamp-source STAMP_SOURCE true
        frag-mtu FRAG_MTU 1500
        coalesce COALESCE false
        coalesce-max-bytes COALESCE_MAX_BYTES 1500
        coalesce-max-members COALESCE_MAX_MEMBERS 0
        coalesce-carry-txid COALESCE_CARRY_TXID false
        recv-batch BSP_RECV_BATCH 32
        retry-tee BSP_RETRY_TEE ""
        recv-buf-bytes BSP_RECV_BUF_BYTES 0
        pprof BSP_PPROF false
        ingress-dedup INGRESS_DEDUP true
        txid-dedup-backend TXID_DEDUP_BACKEND none
        txid-dedup-redis-addr TXID_DEDUP_REDIS_ADDR ""
        txid-dedup-aerospike-hosts TXID_DEDUP_AEROSPIKE_HOSTS ""
        txid-dedup-aerospike-namespace TXID_DEDUP_AEROSPIKE_NAMESPACE cache
        txid-dedup-aerospike-set TXID_DEDUP_AEROSPIKE_SET bsp
        txid-dedup-prefix TXID_DEDUP_PREFIX bsp:tx:
        txid-dedup-ttl TXID_DEDUP_TTL 10m
        txid-dedup-local-cap TXID_DEDUP_LOCAL_CAP 1048576
        metrics-addr METRICS_ADDR :9100
        manifest-consumer-enabled MANIFEST_CONSUMER_ENABLED false
        manifest-bootstrap MANIFEST_BOOTSTRAP optional
        pilot-quorum PILOT_QUORUM 2
        pilot-hysteresis PILOT_HYSTERESIS 0
        control-group-compat CONTROL_GROUP_COMPAT both
        manifest-beacon-scope MANIFEST_BEACON_SCOPE ""
        manifest-beacon-port MANIFEST_BEACON_PORT 9001
        live-resharding LIVE_RESHARDING false
        bridging-window BRIDGING_WINDOW 0
        "#,
    ));
    accepts_all("proxy", &rows);
}

#[test]
fn every_option_of_retry_endpoint() {
    let mut rows = table(SHARED);
    rows.extend(table(
        r#"
        mc-iface MC_IFACE eth0
        listen-port LISTEN_PORT 9001
        bind-source BIND_SOURCE ""
        subtree-data-enabled SUBTREE_DATA_ENABLED false
        cache-backend CACHE_BACKEND memory
        redis-addr REDIS_ADDR ""
        aerospike-hosts AEROSPIKE_HOSTS ""
        aerospike-namespace AEROSPIKE_NAMESPACE cache
        aerospike-set AEROSPIKE_SET bre
        cache-dial-timeout CACHE_DIAL_TIMEOUT 1s
        cache-op-timeout CACHE_OP_TIMEOUT 1s
        cache-ttl CACHE_TTL 60s
        cache-ttl-tx CACHE_TTL_TX 60s
        cache-ttl-block CACHE_TTL_BLOCK 10m
        cache-ttl-subtree CACHE_TTL_SUBTREE 5m
        cache-ttl-anchor CACHE_TTL_ANCHOR 2m
        cache-ttl-beef CACHE_TTL_BEEF 60s
        cache-max-keys CACHE_MAX_KEYS 0
        nack-port NACK_PORT 9300
        nack-addr NACK_ADDR auto
        suppress-ack SUPPRESS_ACK false
        suppress-miss SUPPRESS_MISS false
        egress-iface EGRESS_IFACE eth0
        egress-port EGRESS_PORT 9001
        egress-multicast-loop EGRESS_MULTICAST_LOOP false
        dedup-window DEDUP_WINDOW 60s
        proxy-enabled PROXY_ENABLED false
        upstream-retry-endpoints UPSTREAM_RETRY_ENDPOINTS ""
        proxy-timeout PROXY_TIMEOUT 300ms
        proxy-max-endpoints PROXY_MAX_ENDPOINTS 0
        proxy-dedup-window PROXY_DEDUP_WINDOW 60s
        proxy-workers PROXY_WORKERS 4
        proxy-queue PROXY_QUEUE 1024
        rl-ip-rate RL_IP_RATE 100
        rl-ip-burst RL_IP_BURST 10
        rl-sequence-max RL_SEQUENCE_MAX 100
        rl-sequence-window RL_SEQUENCE_WINDOW 1m
        rl-chain-rate RL_CHAIN_RATE 500
        rl-chain-window RL_CHAIN_WINDOW 1m
        rl-group-rate RL_GROUP_RATE 200
        rl-group-burst RL_GROUP_BURST 50
        rl-throttle-response RL_THROTTLE_RESPONSE false
        beacon-enabled BEACON_ENABLED true
        beacon-tier BEACON_TIER 0
        beacon-preference BEACON_PREFERENCE 128
        beacon-interval BEACON_INTERVAL 60s
        beacon-scope BEACON_SCOPE site
        beacon-flags-multicast BEACON_FLAGS_MULTICAST true
        beacon-flags-unicast BEACON_FLAGS_UNICAST false
        beacon-flags-draining BEACON_FLAGS_DRAINING false
        beef-enabled BEEF_ENABLED false
        beef-shard-bits BEEF_SHARD_BITS 4
        tee-listen TEE_LISTEN ""
        mc-join-enabled MC_JOIN_ENABLED true
        control-group-compat CONTROL_GROUP_COMPAT asm-only
        metrics-addr METRICS_ADDR :9400
        "#,
    ));
    accepts_all("retry", &rows);
}

#[test]
fn every_option_of_shard_listener() {
    let mut rows = table(SHARED);
    rows.extend(table(
        r#"
        iface MULTICAST_IF eth0
        listen-port LISTEN_PORT 9001
        mode LISTENER_MODE collapsed
        delivery-addrs DELIVERY_ADDRS ""
        ssm-bootstrap-beacon SSM_BOOTSTRAP_BEACON ""
        ssm-bootstrap-manifest SSM_BOOTSTRAP_MANIFEST ""
        ssm-bootstrap-subtree-announce SSM_BOOTSTRAP_SUBTREE_ANNOUNCE ""
        ssm-publishers-static SSM_PUBLISHERS_STATIC ""
        local-source LOCAL_SOURCE ""
        ssm-bootstrap-refresh SSM_BOOTSTRAP_REFRESH 30s
        shard-include SHARD_INCLUDE ""
        subtree-include SUBTREE_INCLUDE ""
        subtree-exclude SUBTREE_EXCLUDE ""
        egress-addr EGRESS_ADDR 127.0.0.1:9100
        egress-proto EGRESS_PROTO udp
        strip-header STRIP_HEADER true
        mc-egress-enabled MC_EGRESS_ENABLED false
        mc-egress-iface MC_EGRESS_IFACE ""
        mc-egress-hoplimit MC_EGRESS_HOPLIMIT 1
        header-egress-enabled HEADER_EGRESS_ENABLED false
        header-egress-addr HEADER_EGRESS_ADDR 127.0.0.1:9101
        header-egress-proto HEADER_EGRESS_PROTO udp
        header-mc-egress-enabled HEADER_MC_EGRESS_ENABLED false
        retry-endpoints RETRY_ENDPOINTS ""
        nack-jitter-max NACK_JITTER_MAX 200ms
        nack-backoff-base NACK_BACKOFF_BASE 500ms
        nack-backoff-max NACK_BACKOFF_MAX 5s
        nack-max-retries NACK_MAX_RETRIES 5
        nack-gap-ttl NACK_GAP_TTL 10m
        nack-tail-probe NACK_TAIL_PROBE true
        nack-tail-probe-idle-factor NACK_TAIL_PROBE_IDLE_FACTOR 4.0
        nack-tail-probe-min-idle NACK_TAIL_PROBE_MIN_IDLE 500ms
        nack-tail-probe-max-misses NACK_TAIL_PROBE_MAX_MISSES 3
        nack-max-flows NACK_MAX_FLOWS 100000
        nack-max-forward-jump NACK_MAX_FORWARD_JUMP 4096
        beacon-enabled BEACON_ENABLED true
        beacon-port BEACON_PORT 9300
        beacon-scope BEACON_SCOPE site
        manifest-consumer-enabled MANIFEST_CONSUMER_ENABLED false
        manifest-bootstrap MANIFEST_BOOTSTRAP optional
        pilot-quorum PILOT_QUORUM 2
        pilot-hysteresis PILOT_HYSTERESIS 0
        shard-include-from-manifest SHARD_INCLUDE_FROM_MANIFEST false
        live-resharding LIVE_RESHARDING false
        bridging-window BRIDGING_WINDOW 0
        subtree-groups SUBTREE_GROUPS ""
        subtree-group-default-ttl SUBTREE_GROUP_DEFAULT_TTL 900s
        announce-scope ANNOUNCE_SCOPE site
        sender-include SENDER_INCLUDE ""
        sender-exclude SENDER_EXCLUDE ""
        workers NUM_WORKERS 1
        verify-payload-hash VERIFY_PAYLOAD_HASH false
        require-block-pow REQUIRE_BLOCK_POW true
        min-pow-bits MIN_POW_BITS 0
        coinbase-corr-cap COINBASE_CORR_CAP 4096
        coinbase-corr-ttl COINBASE_CORR_TTL 10m
        subtree-data-enabled SUBTREE_DATA_ENABLED false
        subtree-data-verify-merkle SUBTREE_DATA_VERIFY_MERKLE false
        egress-dedup-cap EGRESS_DEDUP_CAP 0
        egress-dedup-ttl EGRESS_DEDUP_TTL 2s
        deployment-id DEPLOYMENT_ID ""
        node-id NODE_ID ""
        egress-dedup-backend EGRESS_DEDUP_BACKEND none
        egress-dedup-redis-addr EGRESS_DEDUP_REDIS_ADDR ""
        egress-dedup-aerospike-hosts EGRESS_DEDUP_AEROSPIKE_HOSTS ""
        egress-dedup-aerospike-namespace EGRESS_DEDUP_AEROSPIKE_NAMESPACE cache
        egress-dedup-aerospike-set EGRESS_DEDUP_AEROSPIKE_SET bsl-egr
        egress-dedup-prefix EGRESS_DEDUP_PREFIX bsl:egr:
        egress-dedup-ttl-redis EGRESS_DEDUP_TTL_REDIS 60s
        egress-dedup-local-cap EGRESS_DEDUP_LOCAL_CAP 1048576
        ingress-set-backend INGRESS_SET_BACKEND ""
        txid-dedup-addr TXID_DEDUP_ADDR ""
        txid-dedup-prefix TXID_DEDUP_PREFIX ""
        txid-dedup-ttl TXID_DEDUP_TTL ""
        ingress-set-redis-addr INGRESS_SET_REDIS_ADDR ""
        ingress-set-aerospike-hosts INGRESS_SET_AEROSPIKE_HOSTS ""
        ingress-set-aerospike-namespace INGRESS_SET_AEROSPIKE_NAMESPACE cache
        ingress-set-aerospike-set INGRESS_SET_AEROSPIKE_SET bsp-tx
        ingress-set-prefix INGRESS_SET_PREFIX bsp:tx:
        ingress-set-ttl INGRESS_SET_TTL 10m
        ingress-set-local-cap INGRESS_SET_LOCAL_CAP 1048576
        metrics-addr METRICS_ADDR :9200
        beef-topics BEEF_TOPICS ""
        beef-groups BEEF_GROUPS ""
        beef-shard-bits BEEF_SHARD_BITS 0
        beef-max-object-bytes BEEF_MAX_OBJECT_BYTES 1048576
        beef-verify-content BEEF_VERIFY_CONTENT false
        rebucket-relay REBUCKET_RELAY false
        retry-tee RETRY_TEE ""
        "#,
    ));
    accepts_all("listener", &rows);
}
