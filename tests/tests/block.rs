//! The main job on real input: the block through two proxies, a lossy listener and a retry endpoint, each in a host of
//! its own.

use tests::fleet::{PROXY_ADMIN, RETRY_ADMIN};
use tests::process::{metric, run};
use tests::{Fleet, Host, Setup, block_file, eventually};

fn fleet(loss: u32, receive: &str, listener: &str) -> Option<Fleet> {
    let setup = Setup { loss, receive: receive.into(), listener: listener.into(), ..Setup::default() };
    Fleet::start(&setup)
}

fn verify_block() -> String {
    format!("--verify-block {} --json --timeout 60", block_file().display())
}

#[test]
fn the_block_arrives_once_through_udp_and_tcp_despite_loss() {
    let Some(mut fleet) = fleet(5, &verify_block(), "") else { return };
    let send = format!("send {} --to {} --duplicates 100 --json", block_file().display(), fleet.targets());
    let (sent, _, error) = run(&fleet.sender, &send, 60.0);
    assert!(sent, "{error}");
    let report: serde_json::Value = serde_json::from_str(&fleet.consumer.succeed(90.0)).expect("JSON");
    assert_eq!(report["merkle_root_ok"], true, "{report}");
    assert_eq!((&report["missing"], &report["duplicates"]), (&0.into(), &0.into()), "{report}");
    let deduplicated = fleet.listeners[0].metric("bsl_frames_tx_deduped_total");
    assert!(deduplicated >= 1500.0, "both copies cross the fabric, the gate removes one: {deduplicated}");
    assert!(fleet.listeners[0].metric("bsl_gaps_detected_total") > 0.0, "5 % loss leaves gaps");
    assert!(fleet.all_run());
}

#[test]
fn a_nack_shows_the_very_frame_and_a_number_never_sent_is_a_miss() {
    let receive = "--count 20 --frames --timeout 30";
    let Some(mut fleet) = fleet(0, receive, "--strip-header=false") else { return };
    let send = format!("send {} --to {} --count 20", block_file().display(), fleet.targets());
    let (sent, _, error) = run(&fleet.sender, &send, 30.0);
    assert!(sent, "{error}");
    let frames = fleet.consumer.succeed(40.0);
    let frame = frames.lines().next().expect("a frame");
    let (key, seq) = (&frame[80..96], u64::from_str_radix(&frame[96..112], 16).expect("a number"));
    let endpoint = format!("[{}]:9300", fleet.retry.host.v6());
    let ask = |seq: u64| format!("nack --to {endpoint} --hash-key {key} --seq {seq} --iface eth0 --json");
    let (found, reply, error) = run(&fleet.sender, &ask(seq), 20.0);
    assert!(found, "{reply}{error}");
    assert!(reply.contains(frame), "the very frame\n{frame}\nin\n{reply}");
    let (found, reply, _) = run(&fleet.sender, &ask(seq + 100_000), 20.0);
    assert!(!found && reply.contains("MISS"), "{reply}");
    assert!(fleet.all_run());
}

#[test]
fn a_listener_that_loses_a_fifth_still_delivers_everything_once() {
    let Some(mut fleet) = fleet(20, "--count 5000 --json --timeout 60", "") else {
        return;
    };
    let send = format!("send {} --to {} --count 5000 --rate 4000", block_file().display(), fleet.targets());
    let (sent, _, error) = run(&fleet.sender, &send, 60.0);
    assert!(sent, "{error}");
    let report: serde_json::Value = serde_json::from_str(&fleet.consumer.succeed(90.0)).expect("JSON");
    assert_eq!((&report["unique"], &report["duplicates"]), (&5000.into(), &0.into()), "{report}");
    assert!(fleet.all_run());
}

#[test]
fn garbage_on_every_socket_is_counted_and_changes_nothing() {
    let Some(mut fleet) = fleet(0, &verify_block(), "") else { return };
    for host in [&fleet.proxies[0].host, &fleet.listeners[0].host, &fleet.retry.host] {
        for port in [8725, 9001, 9300] {
            tests::process::garbage(&fleet.sender, &host.v6(), port);
        }
    }
    let dropped = |host: &Host, port, name: &str| metric(host, port, name) > 0.0;
    assert!(eventually(|| dropped(&fleet.proxies[0].host, PROXY_ADMIN, "bsp_packets_dropped_total")));
    assert!(eventually(|| dropped(&fleet.retry.host, RETRY_ADMIN, "bre_frames_dropped_total")));
    assert!(fleet.all_run());
    let send = format!("send {} --to {}", block_file().display(), fleet.targets());
    let (sent, _, error) = run(&fleet.sender, &send, 60.0);
    assert!(sent, "{error}");
    fleet.consumer.succeed(90.0);
    assert!(fleet.all_run());
}
