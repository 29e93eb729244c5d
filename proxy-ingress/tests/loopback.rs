//! A whole proxy in this process, on IPv4 multicast over the loopback: what goes in by UDP and TCP comes out stamped, once,
//! on the group of its id.

#![allow(clippy::unwrap_used, reason = "a test may")]

use cache_backend::{
    Answers, Backend, BoxFuture, Bytes, Claimed, Immediate, KeyValues, Memory, OpError, OpenError, Session,
};
use frame::block::Block;
use frame::data::{DataFrame, HEADER, HeaderFields, V1_HEADER, encode_header};
use frame::{Datagram, Fabric, GroupIndex, HashKey, Kind, SeqNum, ShardBits, TxId, tx};
use multicast_io::{Burst, Interface, Receiver, SocketOptions};
use proxy_ingress::{Config, Running};
use service::{Deps, Lifecycle, Registry};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

const BLOCK: &[u8] = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/block413567.raw"));
const TIMEOUT: Duration = Duration::from_secs(60);

fn transactions() -> Vec<&'static [u8]> {
    Block::decode(BLOCK).unwrap().transactions().map(Result::unwrap).collect()
}

fn framed(transaction: &[u8]) -> Vec<u8> {
    let id = tx::canonical_txid(transaction).unwrap();
    with_header(Kind::Tx, id, transaction)
}

fn with_header(kind: Kind, id: TxId, payload: &[u8]) -> Vec<u8> {
    let header = if kind == Kind::LegacyTx { V1_HEADER } else { HEADER };
    let mut frame = vec![0; header];
    let fields = HeaderFields {
        kind,
        msg_type: 0,
        id: &id.0,
        hash_key: HashKey(0),
        seq_num: SeqNum(0),
        second_id: &[0; 32],
        payload_len: u32::try_from(payload.len()).unwrap(),
    };
    encode_header(&fields, &mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// A port that nobody has now; the fabric's ports must be known before anything is bound.
fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What was received.
struct Heard {
    group: GroupIndex,
    bytes: Vec<u8>,
}

struct World {
    running: Running,
    lifecycle: Lifecycle,
    receivers: Vec<(GroupIndex, Receiver)>,
    burst: Burst,
    bits: ShardBits,
    heard: Vec<Heard>,
}

impl World {
    async fn start(change: impl FnOnce(&mut Config)) -> World {
        World::start_with(change, None).await
    }

    async fn start_with(change: impl FnOnce(&mut Config), store: Option<Arc<dyn Backend>>) -> World {
        let mut config = Config::for_embedding();
        config.fabric.mc_ipv4_net = rand::random_range(1..=250);
        config.sending.egress_port = free_port();
        config.sending.beacon_port = free_port();
        change(&mut config);
        let bits = config.shard_bits().unwrap();
        let fabric = config.fabric().unwrap();
        let data = (0..bits.groups()).map(|group| GroupIndex(u16::try_from(group).unwrap()));
        let control =
            [GroupIndex::BLOCK_BROADCAST, GroupIndex::SUBTREE_DATA, GroupIndex::SUBTREE_GROUP_ANNOUNCE];
        let mut receivers: Vec<_> = data
            .chain(control)
            .map(|group| (group, join(&fabric, group, config.sending.egress_port)))
            .collect();
        receivers.push((GroupIndex::BEACON, join(&fabric, GroupIndex::BEACON, config.sending.beacon_port)));
        let lifecycle = Lifecycle::new("proxy");
        let deps = Deps { lifecycle: lifecycle.clone(), registry: Arc::new(Registry::default()), store };
        let running = proxy_ingress::start(config, deps).await.unwrap();
        World { running, lifecycle, receivers, burst: Burst::new(64, 0), bits, heard: Vec::new() }
    }

    /// Takes what has come until `enough`.
    async fn listen_until(&mut self, what: &str, mut enough: impl FnMut(&[Heard]) -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !enough(&self.heard) {
            let counters = self.running.counters();
            assert!(Instant::now() < end, "{what}: {} heard, {counters:?}", self.heard.len());
            self.listen();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn listen(&mut self) {
        for (group, receiver) in &mut self.receivers {
            loop {
                match receiver.receive(&mut self.burst, 32) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
                for arrival in self.burst.arrivals() {
                    let bytes = self.burst.bytes(arrival.span).to_vec();
                    self.heard.push(Heard { group: *group, bytes });
                }
                self.burst.clear();
            }
        }
    }

    async fn stop(self) -> proxy_ingress::Counters {
        self.lifecycle.begin_drain();
        let counters = self.running.counters_handle();
        tokio::time::timeout(TIMEOUT, self.running.wait()).await.unwrap();
        counters()
    }
}

fn join(fabric: &Fabric, group: GroupIndex, port: u16) -> Receiver {
    let address = fabric.address(group);
    let on = Interface::by_name("lo").unwrap();
    let mut options = SocketOptions::new(SocketAddr::new(address, port));
    options.interface = Some(on.clone());
    options.reuse_address = true;
    options.receive_buffer = Some(32 << 20);
    let receiver = Receiver::open(&options).unwrap();
    receiver.join(address, &on).unwrap();
    receiver
}

fn data(heard: &[Heard]) -> impl Iterator<Item = (GroupIndex, DataFrame<'_>)> {
    heard.iter().filter_map(|heard| match Datagram::decode(&heard.bytes) {
        Ok(Datagram::Data(frame)) => Some((heard.group, frame)),
        _ => None,
    })
}

/// Every id once, on its group, every flow numbered from 1 without a hole.
fn check(heard: &[Heard], bits: ShardBits, expected: &HashSet<TxId>) {
    let mut ids = HashSet::new();
    let mut flows: HashMap<HashKey, (GroupIndex, Vec<u64>)> = HashMap::new();
    for (group, frame) in data(heard).filter(|(_, frame)| frame.kind == Kind::Tx) {
        assert_eq!(group, bits.group_of(frame.id));
        assert_eq!(tx::canonical_txid(frame.payload).unwrap().0, *frame.id);
        assert!(ids.insert(TxId(*frame.id)), "twice");
        assert_ne!((frame.hash_key, frame.seq_num), (HashKey(0), SeqNum(0)));
        let flow = flows.entry(frame.hash_key).or_insert((group, Vec::new()));
        assert_eq!(flow.0, group, "a flow belongs to one group");
        flow.1.push(frame.seq_num.0);
    }
    assert_eq!(&ids, expected);
    for (_, numbers) in flows.into_values() {
        let count = numbers.len() as u64;
        assert!(numbers.into_iter().eq(1..=count), "numbers leave in order");
    }
}

#[tokio::test]
async fn frames_by_udp_and_tcp_come_out_stamped_once_on_the_right_group() {
    let mut world = World::start(|_| {}).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut framed_stream = TcpStream::connect(world.running.tcp.unwrap()).unwrap();
    let mut bare_stream = TcpStream::connect(world.running.tcp.unwrap()).unwrap();
    let small: Vec<_> = transactions().into_iter().filter(|tx| tx.len() <= 1_348).take(400).collect();
    let expected: HashSet<TxId> = small.iter().map(|tx| tx::canonical_txid(tx).unwrap()).collect();
    for (at, transaction) in small.iter().enumerate() {
        match at % 4 {
            0 => drop(udp.send_to(&framed(transaction), world.running.udp).unwrap()),
            1 => drop(udp.send_to(transaction, world.running.udp).unwrap()),
            2 => framed_stream.write_all(&framed(transaction)).unwrap(),
            _ => bare_stream.write_all(transaction).unwrap(),
        }
        if at % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    world.listen_until("all frames", |heard| data(heard).count() >= expected.len()).await;
    // Every frame again, another way: nothing more comes out.
    for transaction in &small {
        bare_stream.write_all(transaction).unwrap();
    }
    let counters = world.running.counters_handle();
    let all = small.len() as u64;
    world.listen_until("suppression", |_| counters().duplicates_suppressed >= all).await;
    world.listen();
    check(&world.heard, world.bits, &expected);
    let counters = world.stop().await;
    assert_eq!((counters.accepted, counters.emitted), (2 * all, all));
    assert_eq!(counters.dropped, BTreeMap::new());
}

#[tokio::test]
async fn large_frames_leave_as_fragments_in_order() {
    let mut world = World::start(|_| {}).await;
    let large = transactions().into_iter().max_by_key(|tx| tx.len()).unwrap();
    assert!(large.len() > 3_000);
    let mut stream = TcpStream::connect(world.running.tcp.unwrap()).unwrap();
    stream.write_all(&framed(large)).unwrap();
    let total = large.len().div_ceil(1_348);
    let id = tx::canonical_txid(large).unwrap();
    let group = world.bits.group_of(&id.0);
    world.listen_until("fragments", |heard| heard.iter().filter(|h| h.group == group).count() >= total).await;
    let mut rebuilt = Vec::new();
    for (at, heard) in world.heard.iter().filter(|heard| heard.group == group).enumerate() {
        let Ok(Datagram::Fragment(fragment)) = Datagram::decode(&heard.bytes) else {
            panic!("not a fragment")
        };
        assert!(heard.bytes.len() <= 1_452);
        assert_eq!((usize::from(fragment.index), fragment.seq_num.0), (at, at as u64 + 1));
        assert_eq!((fragment.original_version, *fragment.id), (0, id.0));
        rebuilt.extend_from_slice(fragment.data);
    }
    assert_eq!(rebuilt, large);
    world.stop().await;
}

#[tokio::test]
async fn a_64_mib_frame_is_cut_without_taking_more_than_a_burst() {
    // One input script that fills the frame.
    let mut world = World::start(|_| {}).await;
    let script = (64 << 20) - 100_u32;
    let mut transaction = vec![1, 0, 0, 0, 1];
    transaction.extend_from_slice(&[7; 36]);
    transaction.push(0xFE);
    transaction.extend_from_slice(&script.to_le_bytes());
    transaction.resize(transaction.len() + script as usize, 0x6A);
    transaction.extend_from_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0]);
    let id = tx::canonical_txid(&transaction).unwrap();
    let group = world.bits.group_of(&id.0);
    let address = world.running.tcp.unwrap();
    let bytes = framed(&transaction);
    let sender = std::thread::spawn(move || TcpStream::connect(address).unwrap().write_all(&bytes).unwrap());
    let total = transaction.len().div_ceil(1_348);
    let counters = world.running.counters_handle();
    world.listen_until("handing over", |_| counters().handed_over >= total as u64).await;
    sender.join().unwrap();
    world.listen();
    assert!(world.heard.iter().any(|heard| heard.group == group));
    world.stop().await;
}

#[tokio::test]
async fn legacy_frames_are_routed_but_neither_claimed_nor_numbered() {
    let mut world = World::start(|_| {}).await;
    let transaction = transactions()[1];
    let id = tx::canonical_txid(transaction).unwrap();
    let frame = with_header(Kind::LegacyTx, id, transaction);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        udp.send_to(&frame, world.running.udp).unwrap();
    }
    world.listen_until("three copies", |heard| heard.len() >= 3).await;
    let group = world.bits.group_of(&id.0);
    assert!(world.heard.iter().all(|heard| heard.group == group && heard.bytes.starts_with(&frame)));
    world.stop().await;
}

#[tokio::test]
async fn the_last_number_of_a_flow_is_announced() {
    let mut world = World::start(|_| {}).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(transactions()[1], world.running.udp).unwrap();
    world.listen_until("a digest", |heard| heard.iter().any(|heard| heard.group == GroupIndex::BEACON)).await;
    let (group, key) = data(&world.heard).map(|(group, frame)| (group, frame.hash_key)).next().unwrap();
    let digest = world.heard.iter().find(|heard| heard.group == GroupIndex::BEACON).unwrap();
    let Ok(Datagram::Digest(digest)) = Datagram::decode(&digest.bytes) else { panic!("not a digest") };
    let entries: Vec<_> = digest.entries().collect();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].hash_key, entries[0].highest, entries[0].group), (key, SeqNum(1), group));
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_its_grammar_is_closed_after_its_good_messages() {
    let mut world = World::start(|_| {}).await;
    let mut stream = TcpStream::connect(world.running.tcp.unwrap()).unwrap();
    let mut bytes = framed(transactions()[1]);
    bytes.extend_from_slice(b"\xE3\xE1\xF3\xE8\x02\xBF\x03 a fragment is no submission");
    stream.write_all(&bytes).unwrap();
    closed(stream).await;
    world.listen_until("the good message", |heard| data(heard).count() == 1).await;
    world.stop().await;
}

/// Ends when the proxy has closed the connection.
async fn closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let read =
        tokio::task::spawn_blocking(move || std::io::Read::read(&mut stream, &mut [0; 1])).await.unwrap();
    let timed_out =
        |error: &std::io::Error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
    assert!(matches!(&read, Ok(0)) || read.as_ref().is_err_and(|error| !timed_out(error)), "{read:?}");
}

/// A header that announces `payload_len` bytes.
fn announcing(payload_len: u32) -> Vec<u8> {
    let mut header = framed(transactions()[1]);
    header.truncate(HEADER);
    header[88..92].copy_from_slice(&payload_len.to_be_bytes());
    header
}

#[tokio::test]
async fn a_frame_above_64_mib_closes_the_connection_at_its_header() {
    let mut world = World::start(|_| {}).await;
    for announced in [(64 << 20) + 1, u32::MAX] {
        let mut stream = TcpStream::connect(world.running.tcp.unwrap()).unwrap();
        stream.write_all(&announcing(announced)).unwrap();
        closed(stream).await;
    }
    let streams = || world.running.closed_streams();
    assert_eq!(streams()["too_long"], 2);
    // The next client is served.
    TcpStream::connect(world.running.tcp.unwrap()).unwrap().write_all(&framed(transactions()[1])).unwrap();
    world.listen_until("a frame", |heard| data(heard).count() == 1).await;
    world.stop().await;
}

#[tokio::test]
async fn senders_that_dawdle_inside_long_frames_hold_up_nobody() {
    let mut world = World::start(|config| {
        config.streams.tcp_read_timeout = Duration::from_secs(3_600);
        config.streams.tcp_max_connections = 16;
        config.streams.tcp_buffer_bytes = service::config::ByteSize(72 << 20);
    })
    .await;
    let address = world.running.tcp.unwrap();
    // More announced bytes than the proxy may buffer.
    let mut dawdlers: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut dawdlers {
        stream.write_all(&announcing(60 << 20)).unwrap();
        stream.write_all(&[0; 1000]).unwrap();
    }
    TcpStream::connect(address).unwrap().write_all(&framed(transactions()[1])).unwrap();
    world.listen_until("the frame of another", |heard| data(heard).count() == 1).await;
    assert_eq!(world.running.closed_streams().get("read_timeout"), None);
    drop(dawdlers);
    world.stop().await;
}

#[tokio::test]
async fn a_frame_that_drips_in_is_closed_although_each_byte_comes_soon() {
    let world = World::start(|config| config.streams.tcp_read_timeout = Duration::from_millis(300)).await;
    let stream = TcpStream::connect(world.running.tcp.unwrap()).unwrap();
    let mut sender = stream.try_clone().unwrap();
    sender.write_all(&announcing(1_000_000)).unwrap();
    let drip = tokio::spawn(async move {
        while sender.write_all(&[0]).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    closed(stream).await;
    drip.await.unwrap();
    assert_eq!(world.running.closed_streams().get("read_timeout"), Some(&1));
    world.stop().await;
}

#[tokio::test]
async fn two_thousand_connections_leave_room_for_those_that_came_first() {
    const MOST: usize = 64;
    let mut world = World::start(|config| config.streams.tcp_max_connections = MOST).await;
    let address = world.running.tcp.unwrap();
    let mut first: Vec<_> = (0..MOST).map(|_| TcpStream::connect(address).unwrap()).collect();
    for _ in MOST..2_000 {
        closed(TcpStream::connect(address).unwrap()).await;
    }
    let refused = world.running.closed_streams()["limit"];
    assert_eq!(refused, 2_000 - MOST as u64);
    for (stream, transaction) in first.iter_mut().zip(transactions().iter().skip(1)) {
        stream.write_all(&framed(transaction)).unwrap();
    }
    let counters = world.running.counters_handle();
    world.listen_until("the frames of the first", |_| counters().accepted == MOST as u64).await;
    drop(first);
    world.stop().await;
}

#[tokio::test]
async fn garbage_is_counted_by_name_and_nothing_comes_out() {
    let mut world = World::start(|_| {}).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let good = framed(transactions()[1]);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let mut lying = good.clone();
    lying[88..92].copy_from_slice(&u32::MAX.to_be_bytes());
    for datagram in [&forged[..], &lying, b"", b"\xE3\xE1", &[0; 1_000], &good[..91]] {
        udp.send_to(datagram, world.running.udp).unwrap();
    }
    let counters = world.running.counters_handle();
    world.listen_until("all of it", |_| counters().dropped.values().sum::<u64>() == 6).await;
    // The forged copy took no claim: the true one goes through.
    udp.send_to(&good, world.running.udp).unwrap();
    world.listen_until("the true one", |heard| data(heard).count() == 1).await;
    let counters = world.stop().await;
    let expected =
        [("bare_tx_malformed", 1), ("decode_error", 4), ("payload_hash_mismatch", 1)].into_iter().collect();
    assert_eq!(counters.dropped, expected);
}

#[tokio::test]
async fn an_orderly_stop_forwards_what_the_kernel_had_taken() {
    let world = World::start(|_| {}).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let small: Vec<_> = transactions().into_iter().filter(|tx| tx.len() <= 1_348).take(200).collect();
    for transaction in &small {
        udp.send_to(transaction, world.running.udp).unwrap();
    }
    let counters = world.stop().await;
    assert_eq!((counters.received, counters.emitted), (200, 200));
}

#[tokio::test]
async fn several_workers_share_what_they_have_seen() {
    let mut world = World::start(|config| config.receiving.workers = 4).await;
    let small: Vec<_> = transactions().into_iter().filter(|tx| tx.len() <= 1_348).take(300).collect();
    let expected: HashSet<TxId> = small.iter().map(|tx| tx::canonical_txid(tx).unwrap()).collect();
    let sockets: Vec<UdpSocket> = (0..16).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (at, transaction) in small.iter().enumerate() {
        for copy in 0..3 {
            sockets[(at + copy * 5) % sockets.len()]
                .send_to(&framed(transaction), world.running.udp)
                .unwrap();
        }
    }
    let counters = world.running.counters_handle();
    world.listen_until("everything", |_| counters().accepted == 900).await;
    world.listen_until("everything", |heard| data(heard).count() >= expected.len()).await;
    let counters = world.running.counters();
    let ids: HashSet<TxId> = data(&world.heard).map(|(_, frame)| TxId(*frame.id)).collect();
    assert_eq!((ids, data(&world.heard).count()), (expected, 300));
    assert_eq!(counters.duplicates_suppressed, 600);
    world.stop().await;
}

/// A store of the test's own: sessions that answer later, and a word on whether it was closed.
#[derive(Clone)]
struct Own {
    memory: Memory,
    claims: Arc<AtomicUsize>,
    closed: Arc<AtomicBool>,
}

impl Own {
    fn later<T: Send + 'static>(
        &self,
        answer: impl FnOnce(Memory) -> T + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let memory = self.memory.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            answer(memory)
        })
    }
}

impl Backend for Own {
    fn name(&self) -> &'static str {
        "own"
    }
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        Box::pin(async { Ok(Box::new(self.clone()) as Box<dyn Session>) })
    }
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async { Ok(()) })
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.closed.store(true, Relaxed) })
    }
}

impl Session for Own {
    fn claim(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
        self.claims.fetch_add(batch.len(), Relaxed);
        self.later(move |memory| Immediate::claim(&memory, &batch, ttl, Instant::now()))
    }
    fn set(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
        self.later(move |memory| Immediate::set(&memory, &batch, ttl, Instant::now()))
    }
    fn get(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.later(move |memory| Immediate::get(&memory, &keys, Instant::now()))
    }
    fn del(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.later(move |memory| Immediate::del(&memory, &keys, Instant::now()))
    }
}

#[tokio::test]
async fn two_proxies_with_one_store_send_each_frame_once() {
    each_frame_is_sent_once_by_two_proxies_with(Arc::new(Memory::new(64 << 20))).await;
}

#[tokio::test]
async fn a_proxy_takes_a_store_that_its_caller_opened_and_leaves_it_open() {
    let memory = Memory::new(64 << 20);
    let own = Own { memory, claims: Arc::default(), closed: Arc::default() };
    each_frame_is_sent_once_by_two_proxies_with(Arc::new(own.clone())).await;
    assert!(own.claims.load(Relaxed) >= 300);
    assert!(!own.closed.load(Relaxed), "whoever opened it closes it");
}

async fn each_frame_is_sent_once_by_two_proxies_with(store: Arc<dyn Backend>) {
    // Each world is on groups of its own.
    let one_fabric = |config: &mut Config| config.claims.fabric_name = Some("one".to_owned());
    let mut one = World::start_with(one_fabric, Some(store.clone())).await;
    let mut other = World::start_with(one_fabric, Some(store)).await;
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let small: Vec<_> = transactions().into_iter().filter(|tx| tx.len() <= 1_348).take(300).collect();
    for transaction in &small {
        udp.send_to(transaction, one.running.udp).unwrap();
        udp.send_to(transaction, other.running.udp).unwrap();
    }
    let (of_one, of_other) = (one.running.counters_handle(), other.running.counters_handle());
    let settled = |_: &[Heard]| {
        let (one, other) = (of_one(), of_other());
        one.emitted + other.emitted + one.duplicates_suppressed + other.duplicates_suppressed == 600
    };
    one.listen_until("both to decide", settled).await;
    other.listen();
    one.listen();
    let emitted = data(&one.heard).chain(data(&other.heard)).map(|(_, frame)| TxId(*frame.id));
    let ids: HashSet<TxId> = emitted.collect();
    assert_eq!(ids.len(), 300);
    let (one, other) = (one.stop().await, other.stop().await);
    assert_eq!(
        (one.emitted + other.emitted, one.duplicates_suppressed + other.duplicates_suppressed),
        (300, 300)
    );
}
