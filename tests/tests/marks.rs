//! Courtesy marks: a listener tells the proxies of its site, which share no store with the others, what it has seen on the
//! fabric. Real stores, one for each site.

use tests::aerospike::Aerospike;
use tests::fleet::{LISTENER_ADMIN, PROXY_ADMIN, RETRY_ADMIN};
use tests::process::{metric, oncecast, readyz, role, run};
use tests::redis::Redis;
use tests::{Host, Net, Process, block_file, eventually};

const PROXY: &str = "proxy --iface eth0 --workers 1";
const LISTENER: &str = "listener --iface eth0 --workers 1";
/// The machine may be busy: marks have a second to be on their way.
const PATIENT: &str = "--cache-op-timeout 2s";
const COUNT: u64 = 40;

/// A proxy on a host of its own, with the store of its site.
fn proxy(net: &Net, name: &str, store: &str) -> (Host, Process) {
    let host = net.host(name);
    let process = role(&host, PROXY_ADMIN, &format!("{PROXY} {store}"));
    (host, process)
}

/// A listener with its consumer on the same host, and what the consumer gets.
struct Site {
    host: Host,
    listener: Process,
    consumer: Process,
}

impl Site {
    fn listens(net: &Net, options: &str) -> Site {
        Site::expecting(net, options, COUNT)
    }

    fn expecting(net: &Net, options: &str, count: u64) -> Site {
        let host = net.host("listener");
        let receive = format!("recv --count {count} --linger 0.2 --timeout 60 --json");
        let consumer = Process::start(&host, &receive);
        let listener = role(&host, LISTENER_ADMIN, &format!("{LISTENER} {options}"));
        Site { host, listener, consumer }
    }

    fn count(&self, name: &str) -> u64 {
        whole(&self.host, LISTENER_ADMIN, name)
    }

    fn reaches(&self, name: &str, count: u64) {
        let there = eventually(|| self.count(name) >= count);
        assert!(there, "{name} is {} and not {count}\n{}", self.count(name), self.listener.output());
    }

    /// Marks with this outcome.
    fn outcome(&self, of: &str) -> u64 {
        self.count(&format!("bsl_ingress_mark_{of}_total"))
    }

    /// Waits until so many new transactions are marked or not, each counted once.
    fn settles(&self, count: u64) {
        let outcomes =
            || ["set", "existed", "errors", "dropped", "withheld"].map(|of| (of, self.outcome(of)));
        let sum = || outcomes().iter().map(|(_, n)| n).sum::<u64>();
        assert!(eventually(|| sum() == count), "{:?} of {count}", outcomes());
    }

    /// What comes in at the first proxy is marked, and the second, which shares no store with the first, does not send it
    /// again. On a busy machine some marks come too late to be sent.
    fn suppresses(&mut self, sender: &Host, first: &Host, second: &Host) {
        send(sender, first, COUNT);
        self.settles(COUNT);
        let set = self.outcome("set");
        assert!(set > 0, "{}", self.listener.output());
        send(sender, second, COUNT);
        let why = |why: &str| {
            whole(second, PROXY_ADMIN, &format!("bsp_txid_claim_decisions_total{{why=\"{why}\"}}"))
        };
        assert!(eventually(|| why("marked") == set && why("won") == COUNT - set), "{set}: {}", why("marked"));
        assert_eq!(whole(second, PROXY_ADMIN, "bsp_packets_forwarded_total"), COUNT - set);
        self.reaches("bsl_frames_tx_deduped_total", COUNT - set);
        self.all_arrived(COUNT);
        assert_eq!(
            self.count("bsl_frames_tx_deduped_total"),
            COUNT - set,
            "no other copy crossed the fabric"
        );
    }

    /// Everything was delivered once.
    fn all_arrived(&mut self, count: u64) {
        let report = self.consumer.succeed(60.0);
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        assert_eq!((&report["unique"], &report["duplicates"]), (&count.into(), &0.into()), "{report}");
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
fn whole(host: &Host, admin: u16, name: &str) -> u64 {
    metric(host, admin, name) as u64
}

fn send(from: &Host, to: &Host, count: u64) {
    let send =
        format!("send {} --to udp://[{}]:8725 --count {count} --rate 2000", block_file().display(), to.v6());
    let (sent, _, error) = run(from, &send, 20.0);
    assert!(sent, "{error}");
}

/// Datagrams as they are, to a port.
fn send_raw(from: &Host, to: &str, datagrams: &[Vec<u8>]) {
    let lines: String = datagrams.iter().map(|datagram| hex::encode(datagram) + "\n").collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), lines).expect("written");
    let mut command = from.command(oncecast());
    command.args(["send", "--format", "raw", "--rate", "2000", "--to", &format!("udp://[{to}]:9001")]);
    let output = command.arg(file.path()).output().expect("oncecast send");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The first transactions of the block: id and V2 frame, without flow and number.
fn frames(count: usize) -> Vec<(frame::Id, Vec<u8>)> {
    let bytes = std::fs::read(block_file()).expect("the block");
    let block = frame::block::Block::decode(&bytes).expect("a block");
    let framed = |payload: &[u8]| {
        let id = frame::tx::canonical_txid(payload).expect("a transaction").0;
        let fields = frame::data::HeaderFields {
            kind: frame::Kind::Tx,
            msg_type: 0,
            id: &id,
            hash_key: frame::HashKey(0),
            seq_num: frame::SeqNum(0),
            second_id: &frame::id::NO_ID,
            payload_len: u32::try_from(payload.len()).expect("short"),
        };
        let mut out = vec![0; frame::data::HEADER + payload.len()];
        frame::data::encode_header(&fields, &mut out).expect("room");
        out[frame::data::HEADER..].copy_from_slice(payload);
        (id, out)
    };
    block
        .transactions()
        .map(|tx| framed(tx.expect("a transaction")))
        .filter(|(_, f)| f.len() < 1400)
        .take(count)
        .collect()
}

/// Address of the group that an id belongs to.
fn group_of(id: &frame::Id) -> String {
    format!("ff05::b:{:x}", id[0] >> 6)
}

fn key_of(id: &frame::Id) -> String {
    format!("bsp:tx:{}", hex::encode(id))
}

/// Whether a listener's mark, and no claim, stands there.
fn is_marked(redis: &Redis, id: &frame::Id) -> bool {
    redis.ask_words(&["EVAL", "return string.byte(redis.call('GET', KEYS[1]), 1)", "1", &key_of(id)]) == "2"
}

/// Marks and claims.
fn marks_in(redis: &Redis) -> u64 {
    redis.ask_words(&["EVAL", "return #redis.call('KEYS', 'bsp:tx:*')", "0"]).parse().unwrap_or(u64::MAX)
}

#[test]
fn what_a_listener_saw_the_proxies_of_its_site_do_not_send_again() {
    let Some(net) = Redis::world() else { return };
    let [here, there] = ["redis1", "redis2"].map(|name| Redis::start(&net, name));
    let (first, _first) = proxy(&net, "proxy1", &format!("--redis-addr {}", here.address()));
    let (second, _second) = proxy(&net, "proxy2", &format!("--redis-addr {}", there.address()));
    let sender = net.host("sender");
    let mut site = Site::listens(&net, &format!("--ingress-set-redis-addr {} {PATIENT}", there.address()));
    assert!(site.listener.stderr().contains("courtesy marks are on"), "{}", site.listener.stderr());
    site.suppresses(&sender, &first, &second);
    assert_eq!(marks_in(&there), COUNT, "marks and claims");

    let marked: Vec<_> = frames(10).into_iter().filter(|(id, _)| is_marked(&there, id)).collect();
    let (mut id, _) = *marked.first().expect("a mark");
    // What a Go proxy of that site would see.
    let key = key_of(&id);
    assert_eq!(there.ask_words(&["SET", &key, "1", "NX", "EX", "600"]), "", "a Go node loses the race");
    assert!(there.ask_words(&["TTL", &key]).parse::<i64>().is_ok_and(|ttl| (1..=600).contains(&ttl)));
    // And what people see.
    id.reverse();
    let (known, text, error) =
        run(&second, &format!("where {} --redis-addr {}", hex::encode(id), there.address()), 20.0);
    assert!(known && text.contains("proxies: tx marked by a listener"), "{text}{error}");
    let (_, status, _) = run(&site.host, &format!("status 127.0.0.1:{LISTENER_ADMIN}"), 10.0);
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["details"]["marks"]["set"], site.outcome("set"), "{}", status["details"]);
    let ready = readyz(&site.host, LISTENER_ADMIN);
    assert!(ready.contains("\"degraded\":[]"), "{ready}");

    // A frame that came through a proxy of the same store stands there already.
    let set = site.outcome("set");
    send(&sender, &second, 2 * COUNT);
    site.settles(2 * COUNT);
    assert!(site.outcome("existed") > 0);
    assert_eq!(site.outcome("set"), set);
}

#[test]
fn one_datagram_to_one_listener_marks_nothing() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let (_, _proxy) = proxy(&net, "proxy1", &format!("--redis-addr {}", redis.address()));
    let stranger = net.host("stranger");
    let site = Site::expecting(&net, &format!("--ingress-set-redis-addr {}", redis.address()), 41);
    let frames = frames(41);
    let (by_multicast, by_unicast) = frames.split_at(1);
    let all: Vec<_> = by_unicast.iter().map(|(_, frame)| frame.clone()).collect();
    send_raw(&stranger, &site.host.v6(), &all);
    site.reaches("bsl_frames_forwarded_total", 40);
    // The payload of one under the id of another, to that other's group.
    for (n, (id, frame)) in by_unicast.iter().enumerate() {
        let mut forged = frame.clone();
        let id = if n % 2 == 0 { id } else { &by_multicast[0].0 };
        forged[8..40].copy_from_slice(id);
        *forged.last_mut().expect("a payload") ^= 1;
        send_raw(&stranger, &group_of(id), &[forged]);
    }
    site.reaches("bsl_frames_invalid_payload_total", 40);
    let (id, frame) = &by_multicast[0];
    let wrong_group = format!("ff05::b:{:x}", (id[0] >> 6) ^ 1);
    send_raw(&stranger, &wrong_group, std::slice::from_ref(frame));
    site.reaches("bsl_frames_forwarded_total", 41);
    assert_eq!(site.count("bsl_ingress_mark_withheld_total{reason=\"unicast\"}"), 41);
    assert_eq!((site.count("bsl_ingress_mark_set_total"), marks_in(&redis)), (0, 0));
}

#[test]
fn repairs_are_delivered_and_not_marked() {
    const COUNT: u64 = 400;
    for unicast in [false, true] {
        let Some(net) = Redis::world() else { return };
        let redis = Redis::start(&net, "redis");
        let (first, _first) = proxy(&net, "proxy1", "");
        let (_second, _sibling) = proxy(&net, "proxy2", &format!("--redis-addr {}", redis.address()));
        let retry = net.host("retry");
        let way = match unicast {
            true => "--beacon-flags-unicast --beacon-flags-multicast=false --trusted-listeners fd10::/64",
            false => "",
        };
        let retry_args = format!("retry --mc-iface eth0 --egress-iface eth0 --workers 1 {way}");
        let _retry = role(&retry, RETRY_ADMIN, &retry_args);
        let sender = net.host("sender");
        let options = format!("--inject-loss 20 --ingress-set-redis-addr {}", redis.address());
        let mut site = Site::expecting(&net, &options, COUNT);
        send(&sender, &first, COUNT);
        site.all_arrived(COUNT);
        let recovered = site.count("bsl_gaps_recovered_total");
        let withheld =
            |reason: &str| site.count(&format!("bsl_ingress_mark_withheld_total{{reason=\"{reason}\"}}"));
        let [by_unicast, repairs] = ["unicast", "repair"].map(withheld);
        // Some of the recovered numbers are fragments.
        assert!(recovered > 0 && by_unicast + repairs > recovered / 2, "{recovered}: {by_unicast} {repairs}");
        assert_eq!(by_unicast > 0, unicast);
        site.settles(COUNT);
        assert_eq!(marks_in(&redis), site.outcome("set"));
    }
}

#[test]
fn deliveries_go_on_while_the_store_of_the_marks_does_not_answer() {
    const COUNT: u64 = 3000;
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let (first, _first) = proxy(&net, "proxy1", "");
    let (_second, _sibling) = proxy(&net, "proxy2", &format!("--redis-addr {}", redis.address()));
    let sender = net.host("sender");
    let options = format!("--ingress-set-redis-addr {}", redis.address());
    let mut site = Site::expecting(&net, &options, COUNT);
    send(&sender, &first, COUNT / 3);
    site.reaches("bsl_ingress_mark_set_total", 1);
    redis.signal("STOP");
    send(&sender, &first, COUNT);
    site.reaches("bsl_frames_forwarded_total", COUNT);
    site.all_arrived(COUNT);
    site.settles(COUNT);
    assert!(site.outcome("errors") + site.outcome("dropped") > 0);
    let body = || readyz(&site.host, LISTENER_ADMIN);
    // This site has no retry endpoint, and says so too.
    let degraded = "\"code\":\"store.unreachable\"";
    assert!(eventually(|| body().contains(degraded)), "{}", body());
    assert!(body().contains("\"mark_store:") && body().contains("\"ready\":true"), "{}", body());
    redis.signal("CONT");
    assert!(eventually(|| !body().contains(degraded)), "{}", body());
}

#[test]
fn marks_stand_where_the_proxies_claim_or_the_listener_says_that_they_do_not() {
    let Some(net) = Redis::world() else { return };
    let redis = Redis::start(&net, "redis");
    let node = Aerospike::start(&net);
    let host = net.host("listener");
    let aerospike = format!(
        "--ingress-set-aerospike-hosts {} --ingress-set-aerospike-namespace {}",
        node.address(),
        tests::stand_in::NAMESPACE
    );
    let redis_store = format!("--redis-addr {}", redis.address());
    for (site, proxy_store, marks) in [
        ("redis", redis_store.clone(), format!("--ingress-set-redis-addr {}", redis.address())),
        ("redis2", redis_store, format!("-txid-dedup-addr {}", redis.address())),
        ("aerospike", node.options(), aerospike.clone()),
    ] {
        let listen = |more: &str| role(&host, LISTENER_ADMIN, &format!("{LISTENER} {marks} {more}"));
        let body = || readyz(&host, LISTENER_ADMIN);
        if site != "redis2" {
            // Nobody claims there yet; the word comes with the first proxy.
            let early = listen("");
            assert!(body().contains("noproxyhassaid"), "{}", body());
            let (_, _first) = proxy(&net, &format!("early-{site}"), &proxy_store);
            assert!(eventually(|| body().contains("\"degraded\":[]")), "{}\n{}", body(), early.output());
        }
        let (_, _proxy) = proxy(&net, &format!("late-{site}"), &proxy_store);
        let listener = listen("");
        assert!(body().contains("\"degraded\":[]"), "{}\n{}", body(), listener.output());
        drop(listener);
        let _elsewhere = listen("--ingress-set-prefix elsewhere:tx:");
        assert!(body().contains("noproxyhassaid"), "{}", body());
    }
    let set = format!("{LISTENER} {aerospike} --ingress-set-aerospike-set bsp-tx");
    let go_default = role(&host, LISTENER_ADMIN, &set);
    let log = go_default.stderr();
    assert!(log.contains("set \"bsp-tx\": no proxy has said"), "{log}");
    drop(go_default);
    let other = format!("{LISTENER} {aerospike} --shard-bits 3 --metrics-addr off");
    let (started, _, error) = run(&host, &other, 15.0);
    assert!(
        !started && error.contains("--ingress-set-prefix") && error.contains("another fabric"),
        "{error}"
    );
}

#[test]
fn a_transaction_is_marked_in_aerospike_for_the_proxies_of_that_site() {
    let Some(net) = Net::new() else { return };
    let node = Aerospike::start(&net);
    let (first, _first) = proxy(&net, "proxy1", "");
    let (second, _second) = proxy(&net, "proxy2", &node.options());
    let sender = net.host("sender");
    let namespace = tests::stand_in::NAMESPACE;
    let marks = format!(
        "--ingress-set-aerospike-hosts {} --ingress-set-aerospike-namespace {namespace}",
        node.address()
    );
    let mut site = Site::listens(&net, &format!("{marks} {PATIENT}"));
    site.suppresses(&sender, &first, &second);
}

#[test]
fn marks_of_what_is_not_verified_are_refused_at_the_start() {
    let Some(net) = Net::new() else { return };
    let host = net.host("listener");
    let refused = format!("{LISTENER} -ingress-set-redis-addr=10.0.0.1:1 -verify-payload-hash=false");
    let (started, _, error) = run(&host, &refused, 10.0);
    assert!(!started && error.contains("--verify-payload-hash: false"), "{error}");
}
