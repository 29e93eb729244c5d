//! `oncecast where`: a transaction that went through two proxies on one Redis and a listener.

use tests::fleet::{LISTENER_ADMIN, PROXY_ADMIN};
use tests::process::run;
use tests::redis::Redis;
use tests::{Fleet, Net, Setup, block_file};

#[test]
fn where_names_who_claimed_sent_and_delivered_a_transaction() {
    let Some(net) = Net::new() else { return };
    let redis = Redis::start(&net, "redis");
    let store = format!("--redis-addr {}", redis.address());
    let setup = Setup {
        receive: "--count 20 --frames --timeout 30".into(),
        proxy: store.clone(),
        listener: format!("{store} --deployment-id shop --strip-header=false"),
        ..Setup::default()
    };
    let mut fleet = Fleet::on(net, &setup);
    let send =
        format!("send {} --to {} --count 20 --duplicates 100", block_file().display(), fleet.udp_targets());
    let (sent, _, error) = run(&fleet.sender, &send, 30.0);
    assert!(sent, "{error}");
    let frames = fleet.consumer.succeed(40.0);
    let frame = hex::decode(frames.lines().next().expect("a frame")).expect("hex");
    let mut id = frame[8..40].to_vec();
    id.reverse();
    let (txid, flow) = (hex::encode(id), hex::encode(&frame[40..48]));
    // Admin pages listen on the loopback of each host: each is asked there.
    let ask = |role: &tests::fleet::Role, more: &str| {
        let args = format!("where {txid} --nodes 127.0.0.1:{} {more}", role.admin);
        run(&role.host, &args, 20.0)
    };
    let claims = format!("{store} --deployment-id shop");
    let answers: Vec<_> = fleet.proxies.iter().map(|proxy| ask(proxy, &claims)).collect();
    assert!(answers.iter().all(|(known, ..)| *known), "{answers:?}");
    let sent = |text: &str| text.contains(&format!("proxy 127.0.0.1:{PROXY_ADMIN}: sent by worker 0"));
    let (_, text, _) = answers.iter().find(|(_, text, _)| sent(text)).expect("one proxy has sent it");
    assert!(text.contains(&format!("flow {flow} number")), "{text}");
    assert!(text.contains("proxies: tx claimed in epoch"), "{text}");
    assert!(text.contains("listeners of shop: tx claimed in epoch"), "{text}");
    assert!(text.contains("(127.0.0.1:9150 worker 0), settled"), "{text}");
    let (_, text, _) = ask(&fleet.listeners[0], "");
    let delivered = format!("listener 127.0.0.1:{LISTENER_ADMIN}: delivered by worker");
    assert!(text.contains(&delivered) && text.contains(&flow), "{text}");
    let (known, text, _) = run(&fleet.sender, &format!("where {} {store}", "0".repeat(64)), 20.0);
    assert!(!known && text.contains("unknown"), "{text}");
}
