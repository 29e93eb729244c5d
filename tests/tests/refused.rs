//! A fabric link that refuses: an object that it takes no faster than it can, one that is given up in its middle, and small
//! frames that come meanwhile.

use std::io::Write;
use tests::process::run;
use tests::redis::Redis;
use tests::{Fleet, Setup, block_file, within};

/// Longest time that anything here may take.
const LONG: f64 = 20.0;
/// Frames of the block that show whether the claims of a proxy settle.
const FRAMES: usize = 500;

/// A transaction of one output with so many bytes, as a line of a file.
fn object(bytes: u32) -> tempfile::NamedTempFile {
    let mut transaction = vec![1, 0, 0, 0, 1];
    transaction.extend_from_slice(&rand::random::<[u8; 32]>());
    transaction.extend_from_slice(&[0, 0, 0, 0, 1, 0x51, 0xFF, 0xFF, 0xFF, 0xFF, 1]);
    transaction.extend_from_slice(&1_u64.to_le_bytes());
    transaction.push(0xFE);
    transaction.extend_from_slice(&(bytes + 1).to_le_bytes());
    transaction.push(0x6A);
    transaction.resize(transaction.len() + bytes as usize, 7);
    transaction.extend_from_slice(&[0; 4]);
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "{}", hex::encode(&transaction)).expect("the file is written");
    file
}

/// Sends on the first proxy's own host: the way to it is not the fabric.
fn send(fleet: &Fleet, what: &str) {
    let (ok, _, error) = run(&fleet.proxies[0].host, &format!("send {what}"), LONG);
    assert!(ok, "send {what}: {error}");
}

fn send_object(fleet: &Fleet, file: &tempfile::NamedTempFile) {
    send(fleet, &format!("{} --to tcp://127.0.0.1:8726", file.path().display()));
}

fn rebuilt(fleet: &Fleet) -> f64 {
    fleet.listeners[0].metric("bsl_reassembly_completed_total")
}

/// Both proxies get the same frames: one of them sends each, and neither takes over from the other.
fn assert_claims_settle(fleet: &Fleet) {
    let of_both = |name: &str| -> f64 { fleet.proxies.iter().map(|proxy| proxy.metric(name)).sum() };
    let taken_over = || of_both("bsp_txid_claim_decisions_total{why=\"taken_over\"}");
    let before = taken_over();
    let what = format!("{} --count {FRAMES} --duplicates 100 --rate 1000", block_file().display());
    let (ok, _, error) = run(&fleet.sender, &format!("send {what} --to {}", fleet.udp_targets()), LONG);
    assert!(ok, "{error}");
    assert!(within(LONG, || of_both("bsp_txid_claim_parked") == 0.0), "copies stay parked");
    assert_eq!(taken_over() - before, 0.0, "a sibling sent what the proxy had claimed and sent");
    assert_eq!(of_both("bsp_txid_claim_unsettled_total"), 0.0);
}

/// A pair of proxies with one store; `more`: options of both.
fn pair(more: &str, receive: &str) -> Option<(Fleet, Redis)> {
    let net = Redis::world()?;
    let redis = Redis::start(&net, "redis");
    // Not over the fabric. A lease that no busy machine outlasts.
    let store = format!("--redis-addr unix://{} --claim-lease 2s {more}", redis.socket().display());
    let setup = Setup { proxy: store, receive: receive.to_owned(), ..Setup::default() };
    Some((Fleet::on(net, &setup), redis))
}

#[test]
fn an_object_leaves_over_a_slow_link_and_what_is_given_up_in_its_middle_is_released() {
    let Some((fleet, _redis)) = pair("--send-backlog-bytes 1MiB --send-deadline 300ms", "") else { return };
    let proxy = &fleet.proxies[0];
    let released = || proxy.metric("bsp_txid_claim_released_total");
    // Six times what the backlog holds, at a rate that the link has.
    if !proxy.host.shape("200mbit", 50) {
        return;
    }
    send_object(&fleet, &object(6 << 20));
    assert!(within(LONG, || rebuilt(&fleet) == 1.0), "the object was not delivered");
    assert_eq!(released(), 0.0);
    proxy.host.refuse_nothing();
    // A rate that it does not have: the object is lost in its middle, soon, and its resend leaves.
    assert!(proxy.host.shape("1mbit", 20));
    let lost = object(6 << 20);
    send_object(&fleet, &lost);
    assert!(within(LONG, || released() == 1.0), "the claim was not released");
    let sent = proxy.metric("bsp_fragments_emitted_total");
    assert_eq!(proxy.metric("bsp_frames_cut_short_total"), 1.0, "after {sent} fragments");
    proxy.host.refuse_nothing();
    send_object(&fleet, &lost);
    assert!(within(LONG, || rebuilt(&fleet) == 2.0), "the resend was suppressed");
    assert_eq!(proxy.metric("bsp_ingress_deduped_total"), 0.0);
    assert_claims_settle(&fleet);
}

#[test]
fn while_the_link_refuses_the_proxy_goes_on_reading_and_nothing_is_lost() {
    const COUNT: u64 = 3_000;
    let receive = format!("--count {COUNT} --timeout 60 --json");
    let Some((mut fleet, _redis)) = pair("--send-deadline 20s", &receive) else { return };
    let proxy = &fleet.proxies[0];
    if !proxy.host.refuse() {
        return;
    }
    let what = format!("{} --count {COUNT} --rate 4000 --to udp://127.0.0.1:8725", block_file().display());
    send(&fleet, &what);
    let read = || proxy.metric("bsp_packets_received_total") == COUNT as f64;
    assert!(within(LONG, read), "{} read", proxy.metric("bsp_packets_received_total"));
    assert_eq!(proxy.metric("bsp_kernel_receive_drops_total"), 0.0);
    assert!(proxy.metric("bsp_send_backlog_groups") > 0.0);
    proxy.host.relent();
    fleet.consumer.wait(LONG);
    let report: serde_json::Value = serde_json::from_str(&fleet.consumer.stdout()).expect("JSON");
    assert_eq!(report["unique"], COUNT, "{report}");
}
