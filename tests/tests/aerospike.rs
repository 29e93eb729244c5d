//! The same fleet on Aerospike: a stand-in on a host of its own that speaks the wire protocol to the official client, and
//! has the good and bad days of a real server; or a real one (see `tests::aerospike`). What holds on each bad day: see
//! `tests::day`.

use tests::aerospike::Aerospike;
use tests::day::{Day, FRAMES, LINES};
use tests::process::{metric, readyz, role, run};
use tests::stand_in::{PASSWORD, USER};
use tests::{Host, Net, Process, block_file, eventually};

/// A network, a node, and the frames on their way.
fn day() -> Option<(Day, Aerospike)> {
    let net = Net::new()?;
    let node = Aerospike::start(&net);
    let options = node.options();
    Some((Day::begin(net, options), node))
}

#[test]
fn two_proxies_that_share_aerospike_send_each_frame_once() {
    let Some((mut day, node)) = day() else { return };
    day.all_arrived();
    assert!(day.sum("bsp_txid_claim_lost_total") > FRAMES / 2, "the store decided: {}", day.summary());
    assert!(node.records() >= day.decided("won"), "each claim is a record: {}", node.records());
    day.logged(&["opened"]);
}

#[test]
fn aerospike_is_killed_and_comes_back_empty() {
    let Some((mut day, mut node)) = day() else { return };
    day.reach(FRAMES / 6);
    node.kill();
    day.notices();
    node.restart();
    day.recovers();
    day.all_arrived();
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn aerospike_stands_still_and_goes_on() {
    let Some((mut day, node)) = day() else { return };
    day.reach(FRAMES / 6);
    node.signal("STOP");
    day.notices();
    node.signal("CONT");
    day.recovers();
    day.all_arrived();
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn aerospike_answers_after_two_hundred_milliseconds() {
    if !Aerospike::can("late-ms") {
        return;
    }
    let Some((mut day, node)) = day() else { return };
    day.reach(FRAMES / 6);
    node.set("late-ms", 200);
    day.notices();
    node.set("late-ms", 0);
    day.recovers();
    day.all_arrived();
    day.logged(&["breaker opened", "breaker closed"]);
}

#[test]
fn the_namespace_is_full() {
    let Some((mut day, node)) = day() else { return };
    day.reach(FRAMES / 6);
    node.set("full", 1);
    day.notices();
    node.set("full", 0);
    day.recovers();
    day.all_arrived();
    assert!(day.sum("oncecast_store_errors_total{kind=\"refused\"") > 0);
    day.logged(&["breaker opened", "breaker closed"]);
}

/// The write has happened and its answer got lost: the frame is sent in doubt, and the sibling, which meets the record,
/// waits for it to settle and sends nothing.
#[test]
fn answers_get_lost_and_records_may_be_our_own() {
    if !Aerospike::can("lose-one-in") {
        return;
    }
    let Some((mut day, node)) = day() else { return };
    day.reach(FRAMES / 6);
    node.set("lose-one-in", 50);
    day.reach(FRAMES / 2);
    node.set("lose-one-in", 0);
    day.recovers();
    day.all_arrived();
    assert!(day.decided("in_doubt") > 0 && day.decided("settled") > 0, "{}", day.summary());
    day.logged(&[]);
}

#[test]
fn connections_are_cut_in_the_middle_of_answers() {
    if !Aerospike::can("cut-next") {
        return;
    }
    let Some((mut day, node)) = day() else { return };
    for cut in 1..=5 {
        day.reach(FRAMES * cut / 8);
        node.set("cut-next", 1);
        day.reach(FRAMES * cut / 8 + FRAMES / 16);
    }
    day.recovers();
    day.all_arrived();
    // Each of a node's connections carries one operation at a time.
    let cut = day.sum("oncecast_store_errors_total{kind=\"disconnected\"");
    assert!((1..=5).contains(&cut), "{cut} claims and record reads: {}", day.summary());
    day.logged(&[]);
}

#[test]
fn a_degraded_start_forwards_and_finds_aerospike_when_it_comes() {
    let Some(net) = Net::new() else { return };
    let host = net.host("aerospike");
    let options = format!("{} --backend-boot=degraded", tests::aerospike::options_on(&host));
    let mut day = Day::begin(net, options);
    day.reach(FRAMES / 6);
    day.notices();
    let unasked = day.decided("breaker_open");
    assert!(unasked > 0 && day.decided("in_doubt") == 0, "{}", day.summary());
    let node = Aerospike::on(host);
    day.recovers();
    day.all_arrived();
    assert!(node.records() > 100);
    day.logged(&["started without the backend"]);
}

#[test]
fn an_aerospike_that_cannot_be_used_is_named_at_once() {
    let Some(net) = Net::new() else { return };
    let node = Aerospike::start(&net);
    let host = net.host("node");
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "a wrong one\n").expect("written");
    let login = format!("--aerospike-user {USER} --aerospike-password-file {}", secret.path().display());
    let there = node.options();
    let fails = |options: &str, words: &[&str]| {
        for role in ["proxy --iface eth0", "listener --iface eth0", "retry --iface eth0"] {
            let mut process = Process::start(&host, &format!("{role} {options} --metrics-addr off"));
            let status = process.wait(15.0);
            let log = process.stderr();
            let last = log.lines().last().unwrap_or_default();
            assert_eq!(status.code(), Some(1), "{role} {options}\n{log}");
            for word in words.iter().chain(&[node.address().as_str()]) {
                assert!(last.contains(word), "no {word:?} for {role} {options}\n{log}");
            }
            assert!(!log.contains("a wrong one"), "no secret in\n{log}");
        }
    };
    fails(&format!("--aerospike-hosts {} --aerospike-namespace other", node.address()), &["\"other\""]);
    node.set("forbids-ttl", 1);
    fails(&there, &["nsup-period", "allow-ttl-without-nsup"]);
    node.set("forbids-ttl", 0);
    node.set("full", 1);
    fails(&there, &["full"]);
    node.set("full", 0);
    if !Aerospike::can("asks-for-login") {
        return;
    }
    node.set("asks-for-login", 1);
    fails(&format!("{there} {login}"), &["check user and password"]);
    fails(&format!("{there} {login} --backend-boot=degraded"), &["check user and password"]);
    std::fs::write(secret.path(), format!("{PASSWORD}\n")).expect("written");
    let _proxy = role(&host, 9150, &format!("proxy --iface eth0 --workers 1 {there} {login}"));
}

#[test]
fn a_retry_endpoint_keeps_frames_in_aerospike_and_goes_on_without_it() {
    let Some(net) = Net::new() else { return };
    let mut node = Aerospike::start(&net);
    let [proxy, first, second] = ["proxy", "retry1", "retry2"].map(|name| net.host(name));
    let retry = format!("retry --mc-iface eth0 --egress-iface eth0 --workers 1 {}", node.options());
    let _proxy = role(&proxy, 9150, "proxy --iface eth0 --workers 1");
    let keeper = role(&first, 9400, &retry);
    let emit = |count: u32| {
        let to = format!("udp://[{}]:8725", proxy.v6());
        let send = format!("send {} --to {to} --count {count}", block_file().display());
        let (sent, _, error) = run(&proxy, &send, 20.0);
        assert!(sent, "{error}");
    };
    let of = |host: &Host, name: &str| metric(host, 9400, name);
    let stored = |at_least: f64| eventually(|| of(&first, "bre_shared_stored_total") >= at_least);
    let degraded = |wanted: bool| {
        let body = || readyz(&first, 9400);
        eventually(|| body().contains("\"ready\":true") && body().contains("\"degraded\":[]") != wanted)
    };
    emit(20);
    assert!(stored(20.0));
    assert_eq!(node.records(), 20);
    let mut flow = None;
    assert!(eventually(|| {
        let page = run(&first, "status 127.0.0.1:9400", 10.0).1;
        let page: serde_json::Value = serde_json::from_str(&page).unwrap_or_default();
        let known = &page["details"]["coverage"][0]["flows"][0]["hash_key"];
        flow = known.as_str().map(str::to_owned);
        flow.is_some()
    }));
    let flow = flow.expect("a flow");
    let _reader = role(&second, 9400, &retry);
    let ask = |endpoint: &Host| {
        let to = format!("[{}]:9300", endpoint.v6());
        run(&proxy, &format!("nack --to {to} --hash-key {flow} --seq 1 --iface eth0 --json"), 20.0)
    };
    let (found, reply, error) = ask(&second);
    assert!(found, "an endpoint that never saw the frame finds it in Aerospike: {reply}{error}");
    node.kill();
    assert!(degraded(true));
    emit(40);
    assert!(eventually(|| of(&first, "bre_frames_cached_total") >= 40.0), "frames are kept without it");
    let (found, reply, error) = ask(&first);
    assert!(found, "and served: {reply}{error}");
    node.restart();
    assert!(degraded(false));
    let before = of(&first, "bre_shared_stored_total");
    let mut count = 40;
    let again = eventually(|| {
        count += 20;
        emit(count);
        of(&first, "bre_shared_stored_total") > before
    });
    assert!(again && node.records() > 0, "and written again");
    assert!(keeper.stderr().lines().count() <= LINES, "{}", keeper.stderr());
}
