//! A real endpoint on the loopback: frames in by multicast, requests and repairs over real sockets, as a listener sees it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use cache_backend::{Backend, Memory};
use frame::control::{Ack, Advert, Nack, Response};
use frame::digest::{Digest, Entry, RELAYED, encode_flagged};
use frame::{Fabric, GroupIndex, HashKey, SeqNum};
use multicast_io::{Burst, Interface, Ready, Receiver, Sender, SocketOptions, Span, Train};
use retry_endpoint::{Config, Counters, Running, start};
use service::config::{Family, HostPorts, Names};
use service::{Deps, Lifecycle, Registry};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use support::frame_of;

const FLOW: HashKey = HashKey(0x0123_4567_89AB_CDEF);
/// Longest wait of a test for what must come.
const TIMEOUT: Duration = Duration::from_secs(60);

fn frame(seq: u64) -> Vec<u8> {
    frame_of(FLOW, seq, &vec![u8::try_from(seq % 250).unwrap(); 40 + usize::try_from(seq % 7).unwrap()])
}

/// A fabric of its own on `lo`: a port nobody has and a network number of this process.
struct World {
    fabric: Fabric,
    net: u8,
    port: u16,
    beacon_port: u16,
    lo: Interface,
}

fn free_port() -> u16 {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

impl World {
    fn new() -> World {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let net = u8::try_from((std::process::id() + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % 250)
            .unwrap();
        let lo = Interface::by_name("lo").unwrap();
        World { fabric: Fabric::V4 { net }, net, port: free_port(), beacon_port: free_port(), lo }
    }

    fn config(&self) -> Config {
        let mut config = Config::for_embedding();
        config.fabric.fabric = Family::Ipv4;
        config.fabric.mc_ipv4_net = self.net;
        config.fabric.iface = Names(vec!["lo".to_owned()]);
        config.store.listen_port = self.port;
        config.repairs.egress_port = self.port;
        config.beacon.beacon_port = self.beacon_port;
        config.store.workers = 3;
        config
    }

    async fn endpoint(&self, config: Config, shared: Option<Arc<dyn Backend>>) -> Endpoint {
        let (lifecycle, registry) = (Lifecycle::new("retry"), Arc::new(Registry::default()));
        let deps = Deps { lifecycle: lifecycle.clone(), registry: registry.clone(), store: shared };
        let running = start(config, deps).await.unwrap();
        assert!(lifecycle.is_ready(), "{}", lifecycle.readiness());
        Endpoint { running, lifecycle, registry }
    }

    fn destination(&self, group: u16) -> SocketAddr {
        SocketAddr::new(self.fabric.address(GroupIndex(group)), self.port)
    }

    /// Emits frames as one padded train each call.
    fn emit(&self, group: u16, frames: &[Vec<u8>]) {
        self.emit_to(self.destination(group), frames);
    }

    fn emit_to(&self, destination: SocketAddr, frames: &[Vec<u8>]) {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let options =
            SocketOptions { interface: Some(self.lo.clone()), loopback: true, ..SocketOptions::new(bind) };
        let mut sender = Sender::open(&options).unwrap();
        let mut memory = Vec::new();
        let mut spans = Vec::new();
        for frame in frames {
            spans.push(Span {
                start: u32::try_from(memory.len()).unwrap(),
                len: u32::try_from(frame.len()).unwrap(),
            });
            memory.extend_from_slice(frame);
        }
        let segment = u16::try_from(frames.iter().map(Vec::len).max().unwrap()).unwrap();
        for chunk in 0..frames.len().div_ceil(16) {
            let first = chunk * 16;
            let train = Train {
                destination,
                first: u32::try_from(first).unwrap(),
                count: u32::try_from((frames.len() - first).min(16)).unwrap(),
                segment,
            };
            let progress = sender.send(&memory, &[train], &spans);
            assert!(progress.error.is_none(), "{progress:?}");
        }
    }

    fn member(&self, group: GroupIndex, port: u16) -> Socket {
        let bind = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let options = SocketOptions {
            reuse_address: true,
            interface: Some(self.lo.clone()),
            ..SocketOptions::new(bind)
        };
        let receiver = Receiver::open(&options).unwrap();
        receiver.join(self.fabric.address(group), &self.lo).unwrap();
        Socket::new(receiver)
    }
}

struct Endpoint {
    running: Running,
    lifecycle: Lifecycle,
    registry: Arc<Registry>,
}

impl Endpoint {
    async fn until(&self, what: &str, holds: impl Fn(&Counters) -> bool) {
        let reached = async {
            while !holds(&self.running.counters()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let reached = tokio::time::timeout(TIMEOUT, reached).await;
        assert!(reached.is_ok(), "{what}: {:?}", self.running.counters());
    }

    async fn stop(self) {
        self.lifecycle.begin_drain();
        tokio::time::timeout(TIMEOUT, self.running.wait()).await.unwrap();
    }
}

/// A receiving socket whose datagrams are taken one by one.
struct Socket {
    ready: Ready<Receiver>,
    burst: Burst,
    waiting: std::collections::VecDeque<(Vec<u8>, SocketAddr)>,
}

impl Socket {
    fn new(receiver: Receiver) -> Socket {
        Socket { ready: Ready::new(receiver).unwrap(), burst: Burst::new(16, 0), waiting: Default::default() }
    }

    fn requester() -> Socket {
        let bind = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Socket::new(Receiver::open(&SocketOptions::new(bind)).unwrap())
    }

    async fn next(&mut self) -> (Vec<u8>, SocketAddr) {
        while self.waiting.is_empty() {
            self.burst.clear();
            let burst = &mut self.burst;
            let receive = self.ready.read_with(|socket| socket.receive(burst, 16));
            tokio::time::timeout(TIMEOUT, receive).await.expect("nothing came").unwrap();
            let arrivals = self.burst.arrivals().iter();
            self.waiting
                .extend(arrivals.map(|arrival| (self.burst.bytes(arrival.span).to_vec(), arrival.source)));
        }
        self.waiting.pop_front().unwrap()
    }

    /// The next frame, trimmed to its declared length.
    async fn next_frame(&mut self) -> Vec<u8> {
        let (mut datagram, _) = self.next().await;
        let len = frame::DataFrame::decode(&datagram).unwrap().wire_len();
        assert!(datagram[len..].iter().all(|byte| *byte == 0));
        datagram.truncate(len);
        datagram
    }

    async fn next_reply(&mut self, from: SocketAddr) -> Response {
        let (datagram, source) = self.next().await;
        assert_eq!(source, from, "replies come from where the request went");
        Response::decode(&datagram).unwrap()
    }

    fn ask(&self, to: SocketAddr, start: u64, end: u64, flags: u8) {
        let nack =
            Nack { flags, hash_key: FLOW, start: SeqNum(start), end: SeqNum(end), subtree_id: [0; 32] };
        self.ready.get_ref().send_to(&nack.encode(), to, None).unwrap();
    }
}

const ACK_MULTICAST: Ack = Ack::Ack { multicast: true, unicast: false };

#[tokio::test]
async fn a_lost_frame_comes_back_to_its_group_and_a_number_never_sent_is_a_miss() {
    let world = World::new();
    let endpoint = world.endpoint(world.config(), None).await;
    let frames: Vec<_> = (1..=100).map(frame).collect();
    world.emit(2, &frames);
    endpoint.until("stored", |counters| counters.frames_stored == 100).await;

    let mut group = world.member(GroupIndex(2), world.port);
    let mut requester = Socket::requester();
    let nack = endpoint.running.nack;
    requester.ask(nack, 42, 42, 0);
    let reply = requester.next_reply(nack).await;
    assert_eq!(reply, Response { verdict: ACK_MULTICAST, seq_num: SeqNum(42), extended: None });
    assert_eq!(group.next_frame().await, frame(42));

    requester.ask(nack, 101, 101, 0);
    let reply = requester.next_reply(nack).await;
    assert_eq!(reply, Response { verdict: Ack::Miss, seq_num: SeqNum(0), extended: None });

    requester.ask(nack, 90, 109, Nack::EXTENDED);
    let reply = requester.next_reply(nack).await;
    assert_eq!(reply.verdict, ACK_MULTICAST);
    let missing: Vec<u64> = reply.extended.unwrap().missing().map(|seq| seq.0).collect();
    assert_eq!(missing, (101..=109).collect::<Vec<_>>());
    for seq in 90..=100 {
        assert_eq!(group.next_frame().await, frame(seq));
    }

    // The counts of a round follow its replies.
    let counted =
        |counters: &Counters| (counters.hits, counters.misses, counters.multicast_repairs) == (12, 10, 12);
    endpoint.until("counted", counted).await;
    let page = endpoint.registry.render();
    assert!(page.contains("bre_nack_requests_total 3"), "{page}");
    endpoint.stop().await;
}

#[tokio::test]
async fn repairs_by_unicast_are_the_very_frames_and_come_before_their_ack() {
    let world = World::new();
    let mut config = world.config();
    config.beacon.beacon_flags_multicast = false;
    config.beacon.beacon_flags_unicast = true;
    let endpoint = world.endpoint(config, None).await;
    world.emit(0, &(1..=20).map(frame).collect::<Vec<_>>());
    endpoint.until("stored", |counters| counters.frames_stored == 20).await;

    let mut requester = Socket::requester();
    let nack = endpoint.running.nack;
    requester.ask(nack, 5, 15, Nack::EXTENDED);
    for seq in 5..=15 {
        let (datagram, source) = requester.next().await;
        assert_eq!((datagram, source), (frame(seq), nack));
    }
    let reply = requester.next_reply(nack).await;
    assert_eq!(reply.verdict, Ack::Ack { multicast: false, unicast: true });
    assert_eq!(reply.extended.unwrap().missing().count(), 0);
    endpoint.stop().await;
}

#[tokio::test]
async fn garbage_on_every_port_is_counted_and_answered_with_silence() {
    let world = World::new();
    let endpoint = world.endpoint(world.config(), None).await;
    let requester = Socket::requester();
    let nack = endpoint.running.nack;
    for len in [0, 1, 7, 63, 64, 500] {
        requester.ready.get_ref().send_to(&vec![0xE3; len], nack, None).unwrap();
    }
    requester.ask(nack, 9, 3, 0);
    requester.ask(nack, 1, u64::MAX, Nack::EXTENDED);
    let mut lying = frame(1);
    lying[88..92].copy_from_slice(&[0xFF; 4]);
    world.emit(1, &[vec![0; 10], lying, vec![0xE3; 300]]);
    world.emit(1, &[frame(1)]);
    endpoint.until("stored", |counters| counters.frames_stored == 1).await;
    assert_eq!(endpoint.running.counters().frames_received, 4);
    let mut asking = Socket::requester();
    asking.ask(nack, 1, 1, 0);
    assert_eq!(asking.next_reply(nack).await.verdict, ACK_MULTICAST);
    assert_eq!(endpoint.running.counters().requests, 1);
    endpoint.stop().await;
}

#[tokio::test]
async fn adverts_say_where_to_ask_and_say_goodbye() {
    let world = World::new();
    let mut beacon = world.member(GroupIndex::BEACON, world.beacon_port);
    let endpoint = world.endpoint(world.config(), None).await;
    let advert = Advert::decode(&beacon.next().await.0).unwrap();
    assert_eq!(SocketAddr::new(advert.nack_addr.to_canonical(), advert.nack_port), endpoint.running.nack);
    assert_eq!(advert.flags, Advert::MULTICAST | Advert::RANGES);
    assert_eq!((advert.max_range, advert.interval_secs), (256, 60));
    endpoint.lifecycle.begin_drain();
    while Advert::decode(&beacon.next().await.0).unwrap().flags & Advert::DRAINING == 0 {}
    endpoint.stop().await;
}

#[tokio::test]
async fn a_flow_whose_sender_says_nothing_more_is_announced() {
    let world = World::new();
    let mut beacon = world.member(GroupIndex::BEACON, world.beacon_port);
    let endpoint = world.endpoint(world.config(), None).await;
    world.emit(1, &[frame(1), frame(2)]);
    let entry = loop {
        let datagram = beacon.next().await.0;
        if let Ok(digest) = Digest::decode(&datagram) {
            assert!(digest.is_relayed());
            break digest.entries().next().unwrap();
        }
    };
    assert_eq!((entry.hash_key, entry.highest, entry.group), (FLOW, SeqNum(2), GroupIndex(1)));
    endpoint.stop().await;
}

#[tokio::test]
async fn digests_of_senders_are_heard_and_those_of_endpoints_are_not() {
    let world = World::new();
    let endpoint = world.endpoint(world.config(), None).await;
    let beacon = SocketAddr::new(world.fabric.address(GroupIndex::BEACON), world.beacon_port);
    let group = GroupIndex(1);
    let entry = Entry { hash_key: FLOW, highest: SeqNum(1), group, subtree_id: [0; 32] };
    let digest = |flags, entries: &[Entry]| {
        let mut out = vec![0; 200];
        let (length, _) = encode_flagged(flags, entries, &mut out);
        out.truncate(length);
        out
    };
    world.emit_to(beacon, &[digest(RELAYED, &[entry; 2])]);
    world.emit_to(beacon, &[digest(0, &[entry])]);
    while endpoint.running.counters().digest_entries_heard == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(endpoint.running.counters().digest_entries_heard, 1);
    endpoint.stop().await;
}

#[tokio::test]
async fn a_miss_is_fetched_upstream_kept_and_replayed() {
    let (far, near) = (World::new(), World::new());
    let upstream = far.endpoint(far.config(), None).await;
    // A group that needs no frames of its own: what matters is the id, which names group and worker here.
    let lost = frame(7);
    far.emit(0, std::slice::from_ref(&lost));
    upstream.until("stored", |counters| counters.frames_stored == 1).await;

    let hosts: HostPorts = upstream.running.nack.to_string().parse().unwrap();
    let mut config = near.config();
    config.upstreams.upstream = Some(hosts);
    let endpoint = near.endpoint(config, None).await;
    let shard = frame::ShardBits::new(2).unwrap().group_of(lost[8..40].try_into().unwrap());
    let mut group = near.member(shard, near.port);
    let mut requester = Socket::requester();
    let nack = endpoint.running.nack;
    requester.ask(nack, 7, 7, 0);
    assert_eq!(requester.next_reply(nack).await.verdict, Ack::Miss, "at once");
    assert_eq!(group.next_frame().await, lost);
    requester.ask(nack, 7, 7, 0);
    assert_eq!(requester.next_reply(nack).await.verdict, ACK_MULTICAST);
    endpoint.stop().await;
    upstream.stop().await;
}

#[tokio::test]
async fn what_another_endpoint_wrote_to_the_shared_tier_is_served() {
    let shared = Memory::new(16 << 20);
    let (first, second) = (World::new(), World::new());
    let writer = first.endpoint(first.config(), Some(Arc::new(shared.clone()))).await;
    first.emit(3, &[frame(1), frame(2)]);
    writer.until("stored", |counters| counters.frames_stored == 2).await;
    writer.stop().await;

    let reader = second.endpoint(second.config(), Some(Arc::new(shared))).await;
    let mut requester = Socket::requester();
    let nack = reader.running.nack;
    requester.ask(nack, 1, 3, Nack::EXTENDED);
    let reply = requester.next_reply(nack).await;
    assert_eq!(reply.verdict, ACK_MULTICAST);
    assert_eq!(reply.extended.unwrap().missing().collect::<Vec<_>>(), [SeqNum(3)]);
    reader.stop().await;
}

#[tokio::test]
async fn a_start_that_cannot_work_names_the_option() {
    let world = World::new();
    let start = async |config: Config| {
        let deps =
            Deps { lifecycle: Lifecycle::new("retry"), registry: Arc::new(Registry::default()), store: None };
        format!("{:#}", retry_endpoint::start(config, deps).await.err().unwrap())
    };
    let mut config = world.config();
    config.fabric.iface = Names(vec!["no-such-if".to_owned()]);
    assert!(start(config).await.contains("no-such-if"));
    let mut config = world.config();
    config.requests.nack_max_range = 257;
    assert_eq!(start(config).await, "--nack-max-range: 257; want 1 to 256");
    let mut config = world.config();
    config.backend.cache_backend = Some(service::config::BackendKind::None);
    assert!(start(config).await.starts_with("--cache-backend: none"));
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut config = world.config();
    config.requests.nack_port = port;
    let refused = start(config).await;
    assert!(refused.contains(&format!("--nack-port {port}")), "{refused}");
}
