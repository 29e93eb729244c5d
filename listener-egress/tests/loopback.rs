//! The role over real sockets: IPv4 multicast on the loopback, a small endpoint, a TCP or UDP consumer.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use cache_backend::{Backend, Memory};
use frame::control::Extended;
use frame::data::{HEADER, HeaderFields, encode_header};
use frame::digest::Entry;
use frame::{Ack, Advert, Fabric, GroupIndex, HashKey, Kind, Nack, Response, SeqNum, ShardBits};
use listener_egress::config::Proto;
use listener_egress::{Config, Counters, Running, start};
use multicast_io::{Interface, Sender, SocketOptions, Span, Train};
use service::config::{Family, HostPort, Names, Percent};
use service::{Deps, Lifecycle, Registry};
use std::collections::HashMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Flows: as a proxy makes them, one for each of four groups.
const FLOWS: u64 = 4;
const PATIENCE: Duration = Duration::from_secs(60);

/// Frames by flow and number.
type Frames = Arc<Mutex<HashMap<(u64, u64), Vec<u8>>>>;

/// A fabric of its own on the loopback: a random net and free ports.
struct Fixture {
    fabric: Fabric,
    data_port: u16,
    beacon_port: u16,
    frames: Frames,
    stop: Arc<AtomicBool>,
    endpoint: Option<std::thread::JoinHandle<()>>,
}

fn lo() -> Interface {
    Interface::by_name("lo").unwrap()
}

fn free_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

fn emitter() -> Sender {
    let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Sender::open(&SocketOptions { interface: Some(lo()), loopback: true, ..SocketOptions::new(bind) })
        .unwrap()
}

fn emit(sender: &mut Sender, to: SocketAddr, datagram: &[u8]) {
    let len = u32::try_from(datagram.len()).unwrap();
    let train = Train { destination: to, first: 0, count: 1, segment: u16::try_from(len).unwrap() };
    let sent = sender.send(datagram, &[train], &[Span { start: 0, len }]);
    assert_eq!(sent.frames, 1, "{:?}", sent.error);
}

/// The `n`-th transaction of a flow: one whose id lies in the flow's group.
fn payload(flow: u64, n: u64) -> Vec<u8> {
    let tail = "x".repeat(usize::try_from(n % 50).unwrap());
    let candidates =
        (0..).map(|salt: u32| format!("transaction {n} of flow {flow}, {salt} {tail}").into_bytes());
    let of_flow = |payload: &Vec<u8>| u64::from(group_of(&frame::tx::sha256d(payload)).0) == flow;
    candidates.into_iter().find(of_flow).unwrap()
}

fn group_of(id: &frame::Id) -> GroupIndex {
    ShardBits::new(2).unwrap().group_of(id)
}

fn frame_of(flow: u64, n: u64) -> Vec<u8> {
    let payload = payload(flow, n);
    let fields = HeaderFields {
        kind: Kind::Tx,
        msg_type: 0,
        id: &frame::tx::sha256d(&payload),
        hash_key: HashKey(flow),
        seq_num: SeqNum(n),
        second_id: &frame::id::NO_ID,
        payload_len: u32::try_from(payload.len()).unwrap(),
    };
    let mut out = vec![0; HEADER + payload.len()];
    encode_header(&fields, &mut out).unwrap();
    out[HEADER..].copy_from_slice(&payload);
    out
}

impl Fixture {
    fn new() -> Fixture {
        let fabric = Fabric::V4 { net: rand::random_range(1..=250) };
        let (data_port, beacon_port) = (free_port(), free_port());
        let frames = Frames::default();
        let stop = Arc::new(AtomicBool::new(false));
        let endpoint = Endpoint {
            socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            frames: frames.clone(),
            beacon: SocketAddr::new(fabric.address(GroupIndex::BEACON), beacon_port),
            fabric,
            data_port,
        };
        let stopped = stop.clone();
        let endpoint = std::thread::spawn(move || endpoint.serve(&stopped));
        Fixture { fabric, data_port, beacon_port, frames, stop, endpoint: Some(endpoint) }
    }

    fn config(&self, consumer: SocketAddr, proto: Proto) -> Config {
        let mut config = Config::for_embedding();
        let Fabric::V4 { net } = self.fabric else { unreachable!() };
        config.fabric.fabric = Family::Ipv4;
        config.fabric.mc_ipv4_net = net;
        config.fabric.iface = Names(vec!["lo".to_owned()]);
        config.receiving.listen_port = self.data_port;
        config.repair.beacon_port = self.beacon_port;
        config.delivery.egress_addr =
            HostPort { host: consumer.ip().to_string(), port: Some(consumer.port()) };
        config.delivery.egress_proto = proto;
        config.receiving.workers = 2;
        config
    }

    fn group(&self, datagram: &[u8]) -> SocketAddr {
        let group = group_of(datagram[8..40].try_into().unwrap());
        SocketAddr::new(self.fabric.address(group), self.data_port)
    }

    /// Sends `count` frames of each flow, then says by digests how many there were until `done`.
    fn send(&self, count: u64, done: &AtomicBool) {
        let mut sender = emitter();
        for n in 1..=count {
            for flow in 0..FLOWS {
                let datagram = frame_of(flow, n);
                self.frames.lock().unwrap().insert((flow, n), datagram.clone());
                emit(&mut sender, self.group(&datagram), &datagram);
            }
            if n % 20 == 0 {
                std::thread::yield_now();
            }
        }
        let beacon = SocketAddr::new(self.fabric.address(GroupIndex::BEACON), self.beacon_port);
        while !done.load(Ordering::Relaxed) {
            for flow in 0..FLOWS {
                let entry = Entry {
                    hash_key: HashKey(flow),
                    highest: SeqNum(count),
                    group: GroupIndex(u16::try_from(flow).unwrap()),
                    subtree_id: frame::id::NO_ID,
                };
                let mut out = [0; 100];
                let (len, _) = frame::digest::encode(&[entry], &mut out);
                emit(&mut sender, beacon, &out[..len]);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(endpoint) = self.endpoint.take() {
            let _ = endpoint.join();
        }
    }
}

/// An endpoint that has heard everything.
struct Endpoint {
    socket: UdpSocket,
    frames: Frames,
    fabric: Fabric,
    data_port: u16,
    beacon: SocketAddr,
}

impl Endpoint {
    fn serve(&self, stop: &AtomicBool) {
        let mut sender = emitter();
        self.socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut advert_at = Instant::now();
        let mut buffer = [0; 2048];
        while !stop.load(Ordering::Relaxed) {
            if Instant::now() >= advert_at {
                emit(&mut sender, self.beacon, &self.advert().encode());
                advert_at = Instant::now() + Duration::from_millis(50);
            }
            let Ok((len, from)) = self.socket.recv_from(&mut buffer) else { continue };
            self.answer(&mut sender, &Nack::decode(&buffer[..len]).unwrap(), from);
        }
    }

    fn advert(&self) -> Advert {
        Advert {
            scope: 5,
            nack_addr: Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
            nack_port: self.socket.local_addr().unwrap().port(),
            tier: 0,
            preference: 1,
            interval_secs: 60,
            flags: Advert::MULTICAST | Advert::RANGES,
            instance_id: 1,
            max_range: 256,
        }
    }

    fn answer(&self, sender: &mut Sender, nack: &Nack, from: SocketAddr) {
        let mut missing =
            Extended { hash_key: nack.hash_key, start: nack.start, end: nack.end, not_found: [0; 32] };
        let mut found = false;
        for n in nack.start.0..=nack.end.0 {
            let datagram = self.frames.lock().unwrap().get(&(nack.hash_key.0, n)).cloned();
            let Some(datagram) = datagram else {
                missing.set_missing(SeqNum(n));
                continue;
            };
            found = true;
            let group = group_of(datagram[8..40].try_into().unwrap());
            emit(sender, SocketAddr::new(self.fabric.address(group), self.data_port), &datagram);
        }
        let verdict = if found { Ack::Ack { multicast: true, unicast: false } } else { Ack::Miss };
        let mut out = [0; Response::MAX_LEN];
        let len = Response { verdict, seq_num: nack.start, extended: Some(missing) }.encode(&mut out);
        self.socket.send_to(&out[..len], from).unwrap();
    }
}

async fn listen(config: Config) -> (Running, Lifecycle, Arc<Registry>) {
    listen_with(config, None).await
}

async fn listen_with(config: Config, store: Option<Arc<dyn Backend>>) -> (Running, Lifecycle, Arc<Registry>) {
    let lifecycle = Lifecycle::new("listener");
    let registry = Arc::new(Registry::default());
    let deps = Deps { lifecycle: lifecycle.clone(), registry: registry.clone(), store };
    (start(config, deps).await.unwrap(), lifecycle, registry)
}

/// Takes records from every connection until it ends; each worker makes one.
fn accept(consumer: TcpListener, records: mpsc::Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        for stream in consumer.incoming() {
            let (mut stream, records) = (stream.unwrap(), records.clone());
            std::thread::spawn(move || {
                let mut len = [0; 4];
                while stream.read_exact(&mut len).is_ok() {
                    let mut record = vec![0; u32::from_be_bytes(len) as usize];
                    if stream.read_exact(&mut record).is_err() || records.send(record).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// Waits for `count` frames of each flow, and checks that each came once.
fn collect(records: &mpsc::Receiver<Vec<u8>>, count: u64, counters: impl Fn() -> Counters) {
    let mut wanted: HashMap<Vec<u8>, u32> = HashMap::new();
    for flow in 0..FLOWS {
        wanted.extend((1..=count).map(|n| (payload(flow, n), 0)));
    }
    let mut seen = 0;
    let deadline = Instant::now() + PATIENCE;
    while seen < wanted.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let record = records.recv_timeout(left);
        let record = record.unwrap_or_else(|_| panic!("{seen} of {} came: {:?}", wanted.len(), counters()));
        let times = wanted.get_mut(&record).expect("a record that nobody sent");
        *times += 1;
        seen += usize::from(*times == 1);
    }
    let twice = wanted.values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0, "delivered twice: {:?}", counters());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_of_all_datagrams_lost_at_the_door_costs_no_frame() {
    const COUNT: u64 = 2000;
    let fixture = Arc::new(Fixture::new());
    let consumer = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = fixture.config(consumer.local_addr().unwrap(), Proto::Tcp);
    config.inject.inject_loss = Percent::new(20.0).unwrap();
    let (sender, records) = mpsc::channel();
    accept(consumer, sender);
    let (running, lifecycle, registry) = listen(config).await;
    let done = Arc::new(AtomicBool::new(false));
    let sending = {
        let (fixture, done) = (fixture.clone(), done.clone());
        std::thread::spawn(move || fixture.send(COUNT, &done))
    };
    let counters = running.counters_reader();
    tokio::task::spawn_blocking(move || collect(&records, COUNT, counters)).await.unwrap();
    done.store(true, Ordering::Relaxed);
    sending.join().unwrap();
    let counters = running.counters_reader();
    lifecycle.begin_drain();
    running.wait().await;
    let counters = counters();
    assert_eq!(counters.delivered, COUNT * FLOWS);
    assert_eq!((counters.lost, counters.open_gaps), (0, 0), "{counters:?}");
    assert!(counters.dropped_on_purpose > 0 && counters.recovered > 0, "{counters:?}");
    let page = registry.render();
    assert!(page.contains("bsl_gaps_recovered_total"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_listeners_of_one_deployment_deliver_each_frame_once_between_them() {
    const COUNT: u64 = 500;
    let fixture = Fixture::new();
    let consumer = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = fixture.config(consumer.local_addr().unwrap(), Proto::Tcp);
    config.gate.deployment_id = Some("pair".to_owned());
    config.inject.inject_loss = Percent::new(5.0).unwrap();
    let (sender, records) = mpsc::channel();
    accept(consumer, sender);
    let memory: Arc<dyn Backend> = Arc::new(Memory::new(64 << 20));
    let (first, first_lifecycle, _registry) = listen_with(config.clone(), Some(memory.clone())).await;
    config.inject.inject_loss_seed = 2;
    let (second, second_lifecycle, _registry) = listen_with(config, Some(memory)).await;
    fixture.send(COUNT, &AtomicBool::new(true));
    let (one, two) = (first.counters_reader(), second.counters_reader());
    let both = move || {
        let (one, two) = (one(), two());
        Counters { delivered: one.delivered + two.delivered, ..one }
    };
    let watch = both.clone();
    tokio::task::spawn_blocking(move || collect(&records, COUNT, watch)).await.unwrap();
    first_lifecycle.begin_drain();
    second_lifecycle.begin_drain();
    first.wait().await;
    second.wait().await;
    assert_eq!(both().delivered, COUNT * FLOWS);
}

/// Sum of a metric over the series whose labels hold `label`.
fn metric(registry: &Registry, name: &str, label: &str) -> f64 {
    let page = service::exposition::parse(&registry.render()).unwrap();
    page.iter().filter(|(id, _)| id.starts_with(name) && id.contains(label)).map(|(_, value)| value).sum()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Datagrams that no decoder may take: empty, short, of another protocol, cut, with a length that lies.
fn garbage() -> Vec<Vec<u8>> {
    let good = frame_of(0, 1);
    let mut lying = good.clone();
    lying[88..92].copy_from_slice(&u32::MAX.to_be_bytes());
    vec![vec![0], vec![0xE3; 7], vec![0x55; 1_400], good[..91].to_vec(), lying, vec![0xE3; 64]]
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_every_socket_is_counted_by_name_and_changes_nothing() {
    let mut fixture = Fixture::new();
    // An endpoint of the test's own, which the listener learns from an ADVERT.
    fixture.stop.store(true, Ordering::Relaxed);
    fixture.endpoint.take().unwrap().join().unwrap();
    let endpoint = Endpoint {
        socket: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        frames: fixture.frames.clone(),
        beacon: SocketAddr::new(fixture.fabric.address(GroupIndex::BEACON), fixture.beacon_port),
        fabric: fixture.fabric,
        data_port: fixture.data_port,
    };
    endpoint.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let consumer = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = fixture.config(consumer.local_addr().unwrap(), Proto::Tcp);
    let (sender, records) = mpsc::channel();
    accept(consumer, sender);
    let (running, lifecycle, registry) = listen(config).await;
    let mut sender = emitter();
    // Data groups: garbage, and the versions that this release drops by name.
    let first = frame_of(0, 1);
    let data = fixture.group(&first);
    for datagram in garbage() {
        emit(&mut sender, data, &datagram);
    }
    for (version, reason) in [(8, "bundle"), (9, "object"), (0x40, "manifest")] {
        let mut later = first.clone();
        later[6] = version;
        emit(&mut sender, data, &later);
        until(reason, || metric(&registry, "bsl_frames_dropped_total", reason) > 0.0).await;
    }
    // Beacon group.
    for datagram in garbage() {
        emit(&mut sender, endpoint.beacon, &datagram);
    }
    until("control garbage", || metric(&registry, "bsl_control_datagrams_total", "decode_error") >= 6.0)
        .await;
    // Request socket: from the endpoint and from a stranger.
    emit(&mut sender, endpoint.beacon, &endpoint.advert().encode());
    until("the endpoint", || running.counters().endpoints == 1).await;
    for n in 1..=3 {
        let datagram = frame_of(0, n);
        fixture.frames.lock().unwrap().insert((0, n), datagram.clone());
        if n != 2 {
            emit(&mut sender, data, &datagram);
        }
    }
    let mut request = [0; 2048];
    let (len, from) = endpoint.socket.recv_from(&mut request).unwrap();
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for datagram in garbage() {
        endpoint.socket.send_to(&datagram, from).unwrap();
        stranger.send_to(&datagram, from).unwrap();
    }
    stranger.send_to(&frame_of(0, 2), from).unwrap();
    until("a stranger's frame", || {
        metric(&registry, "bsl_frames_dropped_total", "reason=\"unknown_repair_source\"") >= 1.0
    })
    .await;
    // After all that the gap is repaired, and each frame came once.
    endpoint.answer(&mut sender, &Nack::decode(&request[..len]).unwrap(), from);
    let came: Vec<_> = (0..3).map(|_| records.recv_timeout(PATIENCE).unwrap()).collect();
    assert!((1..=3).all(|n| came.contains(&payload(0, n))));
    until("garbage on data and request sockets", || {
        metric(&registry, "bsl_frames_dropped_total", "decode_error") >= 12.0
    })
    .await;
    lifecycle.begin_drain();
    running.wait().await;
    assert!(records.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_udp_consumer_gets_payloads_without_padding() {
    let fixture = Fixture::new();
    let consumer = UdpSocket::bind("127.0.0.1:0").unwrap();
    consumer.set_read_timeout(Some(PATIENCE)).unwrap();
    let (running, lifecycle, _registry) =
        listen(fixture.config(consumer.local_addr().unwrap(), Proto::Udp)).await;
    let mut sender = emitter();
    let mut padded = frame_of(1, 1);
    let group = fixture.group(&padded);
    padded.resize(padded.len() + 100, 0);
    emit(&mut sender, group, &padded);
    let mut buffer = [0; 2048];
    let len = consumer.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], payload(1, 1));
    lifecycle.begin_drain();
    running.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_comes_late_gets_every_frame() {
    const COUNT: u64 = 200;
    let fixture = Fixture::new();
    let consumer = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = consumer.local_addr().unwrap();
    drop(consumer);
    let (running, lifecycle, _registry) = listen(fixture.config(address, Proto::Tcp)).await;
    assert!(!lifecycle.is_ready(), "nobody listens yet");
    fixture.send(COUNT, &AtomicBool::new(true));
    let counters = running.counters_reader();
    while counters().received < COUNT * FLOWS {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (sender, records) = mpsc::channel();
    accept(TcpListener::bind(address).unwrap(), sender);
    let reader = running.counters_reader();
    tokio::task::spawn_blocking(move || collect(&records, COUNT, reader)).await.unwrap();
    assert!(lifecycle.is_ready());
    lifecycle.begin_drain();
    running.wait().await;
    assert_eq!(counters().delivered, COUNT * FLOWS);
}

/// A name may stand for another address tomorrow. Here it has two, and nobody listens at the first.
#[tokio::test(flavor = "multi_thread")]
async fn the_consumers_name_is_resolved_for_each_connection() {
    let Some(second) = ("localhost", 0).to_socket_addrs().unwrap().nth(1) else { return };
    let fixture = Fixture::new();
    let consumer = TcpListener::bind(second).unwrap();
    let port = consumer.local_addr().unwrap().port();
    let mut config = fixture.config(consumer.local_addr().unwrap(), Proto::Tcp);
    config.delivery.egress_addr = HostPort { host: "localhost".to_owned(), port: Some(port) };
    accept(consumer, mpsc::channel().0);
    let (running, lifecycle, _registry) = listen(config).await;
    until("the consumer is connected", || lifecycle.is_ready()).await;
    lifecycle.begin_drain();
    running.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_a_listener_says_so_at_once_and_stays_in_service() {
    let mut fixture = Fixture::new();
    fixture.stop.store(true, Ordering::Relaxed);
    fixture.endpoint.take().into_iter().for_each(|endpoint| endpoint.join().unwrap());
    let consumer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut config = fixture.config(consumer.local_addr().unwrap(), Proto::Udp);
    // A port at which nobody announced himself before it was stopped.
    config.repair.beacon_port = free_port();
    let (running, lifecycle, registry) = listen(config).await;
    let mut sender = emitter();
    for n in [1, 3] {
        let datagram = frame_of(1, n);
        emit(&mut sender, fixture.group(&datagram), &datagram);
    }
    let said = || service::errors::table().json().to_string().contains("no retry endpoint is known");
    // Long before the horizon.
    until("a number is missing", || metric(&registry, "bsl_gaps_open", "") >= 1.0).await;
    until("the log names the cause", said).await;
    until("a reason", || lifecycle.stands(service::Code::EndpointNone)).await;
    let body = lifecycle.readiness();
    assert_eq!((&body["status"], &body["ready"]), (&"degraded".into(), &true.into()), "{body}");
    lifecycle.begin_drain();
    running.wait().await;
    let mut lost = registry.losses().into_iter();
    assert!(
        lost.any(|row| row.reason == "stop" && row.lost.first == 2),
        "what stayed missing is in the ledger"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_options_are_named() {
    let lifecycle = Lifecycle::new("listener");
    let deps = || Deps { lifecycle: lifecycle.clone(), registry: Arc::default(), store: None };
    let mut config = Config::for_embedding();
    config.filters.shard_include = "9".parse().unwrap();
    let error = start(config, deps()).await.err().unwrap();
    assert_eq!(error.to_string(), "--shard-include: 9; with --shard-bits 2 want 0 to 3");
    let mut config = Config::for_embedding();
    config.fabric.iface = Names(vec!["nonesuch0".to_owned()]);
    let error = start(config, deps()).await.err().unwrap();
    assert!(format!("{error:#}").contains("--iface nonesuch0"), "{error:#}");
}
