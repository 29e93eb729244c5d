//! The pipeline of a worker in virtual time, in front of a model of the kernel that can refuse.
#![allow(clippy::unwrap_used, reason = "a test may")]

use bytes::Bytes;
use cache_backend::{Answers, Backend, Claimed, KeyValues, Memory, OpError, OpenError, Session};
use frame::data::{DataFrame, HEADER, HeaderFields, encode_header};
use frame::{Datagram, Fabric, HashKey, Id, Kind, SeqNum, ShardBits, TxId, block, tx};
use multicast_io::{Burst, Progress, Span, Train};
use proxy_ingress::pipeline::emit::OutletLimits;
use proxy_ingress::pipeline::number::{Directory, FlowLimits, Identity, MIN_FLOWS};
use proxy_ingress::pipeline::{
    DropReason, Ingress, IngressConfig, Lines, Message, Next, Policy, RoundIo, Transmit, Via, admit,
};
use proxy_ingress::tally::Tally;
use proxy_ingress::variants::{Limited, Variants};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use txidset::driver::Driver;
use txidset::{Claims, ClaimsConfig, LocalSet, Why};

type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

const ENOBUFS: i32 = 105;
const EMSGSIZE: i32 = 90;
const DEADLINE: Duration = Duration::from_secs(1);
const SENDER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)), 4_000);

/// A kernel that takes so many frames and then answers with an error until it is told otherwise.
#[derive(Default)]
struct Kernel {
    taken: Vec<(SocketAddr, Vec<u8>)>,
    /// Frames taken before the error; `None`: all.
    room: Option<usize>,
    error: Option<i32>,
    /// A destination that is refused, with this error.
    refused: Option<(SocketAddr, i32)>,
}

impl Transmit for Kernel {
    fn transmit(&mut self, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        let mut count = 0;
        for train in trains {
            for frame in &frames[train.first as usize..][..train.count as usize] {
                if self.room.is_some_and(|room| room == 0) {
                    let error =
                        self.error.map_or(io::ErrorKind::WouldBlock.into(), io::Error::from_raw_os_error);
                    return Progress { frames: count, error: Some(error) };
                }
                if let Some((_, error)) = self.refused.filter(|(to, _)| *to == train.destination) {
                    return Progress { frames: count, error: Some(io::Error::from_raw_os_error(error)) };
                }
                self.room = self.room.map(|room| room - 1);
                self.taken.push((train.destination, memory[frame.range()].to_vec()));
                count += 1;
            }
        }
        Progress { frames: count, error: None }
    }
}

/// The store and the kernels of a world.
struct Outside {
    driver: Driver,
    kernels: Vec<Kernel>,
    /// What the looks at the links will find, in order: interface, usable, cut. `None`: nothing new.
    news: VecDeque<Option<(usize, bool, bool)>>,
}

impl RoundIo for Outside {
    type Socket = Kernel;

    fn pump(&mut self, claims: &mut Claims, now: Instant) {
        self.driver.pump(claims, now);
    }

    fn sockets(&mut self) -> &mut [Kernel] {
        &mut self.kernels
    }

    fn max_train(&self) -> usize {
        64
    }

    fn look(&mut self, lines: &mut Lines) {
        if let Some(Some((at, usable, cut))) = self.news.pop_front() {
            lines.set(at, usable, cut);
        }
    }
}

struct World {
    now: Instant,
    ingress: Ingress,
    burst: Burst,
    outside: Outside,
    tally: Arc<Tally>,
    local: Arc<LocalSet>,
}

fn config(outlets: usize) -> IngressConfig {
    IngressConfig {
        flows: FlowLimits { flows: MIN_FLOWS, idle: Duration::from_secs(300) },
        outlets,
        outlet: OutletLimits { bytes: 1 << 20, deadline: DEADLINE },
        slab_bytes: 1 << 20,
        slab_entries: 4_096,
        full_timeout: Duration::ZERO,
        ..IngressConfig::new(Fabric::V4 { net: 9 }, ShardBits::new(2).unwrap(), Identity::Instance([7; 16]))
    }
}

impl World {
    fn new(config: IngressConfig) -> World {
        World::with_store(config, None)
    }

    fn with_store(config: IngressConfig, memory: Option<Memory>) -> World {
        World::with_backend(config, memory.map(|memory| Arc::new(memory) as Arc<dyn Backend>))
    }

    fn with_backend(config: IngressConfig, backend: Option<Arc<dyn Backend>>) -> World {
        let now = Instant::now();
        let local = Arc::new(LocalSet::starting_at(1 << 14, Duration::from_secs(600), 1, now));
        let tier2 = backend.is_some();
        static SEED: AtomicU64 = AtomicU64::new(1);
        let seed = SEED.fetch_add(1, Ordering::Relaxed);
        let claims = Claims::new(ClaimsConfig { tier2, ..ClaimsConfig::default() }, Arc::clone(&local), seed);
        let tally = Arc::new(Tally::new(config.shard_bits));
        let kernels = (0..config.outlets).map(|_| Kernel::default()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let driver = runtime.block_on(Driver::open(backend)).unwrap();
        let ingress = Ingress::new(now, config, claims, Arc::clone(&tally));
        World {
            now,
            ingress,
            burst: Burst::new(0, 16 << 20),
            outside: Outside { driver, kernels, news: VecDeque::new() },
            tally,
            local,
        }
    }

    /// One round with `datagrams`, and those after it that take up what it left.
    fn round(&mut self, datagrams: &[Vec<u8>]) {
        self.arrive(datagrams);
        self.ingress.begin(self.now, &self.burst);
        loop {
            while self.commit() != Next::Done {}
            if !self.ingress.is_busy() {
                break;
            }
        }
    }

    fn arrive(&mut self, datagrams: &[Vec<u8>]) {
        for bytes in datagrams {
            assert!(self.burst.arrive(bytes, SENDER, None));
        }
    }

    /// One round with a datagram of another sender.
    fn round_from(&mut self, sender: IpAddr, datagram: &[u8]) {
        assert!(self.burst.arrive(datagram, SocketAddr::new(sender, 4_000), None));
        self.round(&[]);
    }

    /// Label and payload of each whole data frame that the first kernel took.
    fn carried(&self) -> Vec<(Id, Vec<u8>)> {
        let frames = self.outside.kernels[0].taken.iter().map(|(_, bytes)| Datagram::decode(bytes).unwrap());
        let data = frames.filter_map(|datagram| match datagram {
            Datagram::Data(frame) => Some((*frame.second_id, frame.payload.to_vec())),
            _ => None,
        });
        data.collect()
    }

    fn commit(&mut self) -> Next {
        self.ingress.commit(self.now, &mut self.burst, &mut self.outside)
    }

    fn kernel(&mut self) -> &mut Kernel {
        &mut self.outside.kernels[0]
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.round(&[]);
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.tally.dropped(reason)
    }

    /// Digests that the first kernel took.
    fn digests(&self) -> usize {
        self.outside.kernels[0].taken.iter().filter(|(to, _)| to.port() == 9_300).count()
    }

    /// Data frames and fragments that the first kernel took: key, number, id.
    fn stamps(&self) -> Vec<(HashKey, SeqNum, Id)> {
        stamps(&self.outside.kernels[0])
    }
}

fn stamps(kernel: &Kernel) -> Vec<(HashKey, SeqNum, Id)> {
    let decoded = kernel.taken.iter().filter_map(|(_, bytes)| match Datagram::decode(bytes).unwrap() {
        Datagram::Data(frame) => Some((frame.hash_key, frame.seq_num, *frame.id)),
        Datagram::Fragment(fragment) => Some((fragment.hash_key, fragment.seq_num, *fragment.id)),
        _ => None,
    });
    decoded.collect()
}

/// A small transaction of `len` bytes or a few more, different for each `seed`.
fn transaction(seed: u32, len: usize) -> Vec<u8> {
    let script = len.saturating_sub(64);
    let mut bytes = vec![1, 0, 0, 0, 1];
    bytes.extend_from_slice(&[7; 32]);
    bytes.extend_from_slice(&seed.to_le_bytes());
    match u8::try_from(script) {
        Ok(short) if short < 0xFD => bytes.push(short),
        _ => {
            bytes.push(0xFD);
            bytes.extend_from_slice(&u16::try_from(script).unwrap().to_le_bytes());
        }
    }
    bytes.resize(bytes.len() + script, 0x6A);
    bytes.extend_from_slice(&[0xFF; 4]);
    bytes.push(1);
    bytes.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

fn frame_of(kind: Kind, msg_type: u8, id: Id, payload: &[u8]) -> Vec<u8> {
    stamped_frame(kind, msg_type, id, (0, 0), payload)
}

fn stamped_frame(kind: Kind, msg_type: u8, id: Id, stamp: (u64, u64), payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; if kind == Kind::LegacyTx { 44 } else { HEADER }];
    let fields = HeaderFields {
        kind,
        msg_type,
        id: &id,
        hash_key: HashKey(stamp.0),
        seq_num: SeqNum(stamp.1),
        second_id: &[0; 32],
        payload_len: u32::try_from(payload.len()).unwrap(),
    };
    encode_header(&fields, &mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

fn tx_frame(seed: u32, len: usize) -> Vec<u8> {
    let payload = transaction(seed, len);
    frame_of(Kind::Tx, 0, tx::canonical_txid(&payload).unwrap().0, &payload)
}

fn id_of(frame: &[u8]) -> Id {
    *DataFrame::decode(frame).unwrap().id
}

/// HashesOnly subtree data over `ids`.
fn subtree_frame(ids: &[Id]) -> Vec<u8> {
    let mut payload = vec![0; 16];
    payload.extend_from_slice(&(ids.len() as u64).to_be_bytes());
    payload.extend(ids.iter().flatten());
    payload.extend_from_slice(&[0; 8]);
    let root = block::merkle_root(&mut ids.iter().map(|id| TxId(*id)).collect::<Vec<_>>());
    frame_of(Kind::Subtree, 1, root, &payload)
}

#[test]
fn every_way_to_be_refused_has_its_name() {
    let good = tx_frame(1, 200);
    let payload = transaction(1, 200);
    let id = id_of(&good);
    let mut two = payload.clone();
    two.extend_from_slice(&payload);
    let mut flipped = good.clone();
    flipped[150] ^= 1;
    let header = [3; 80];
    let easy = frame_of(Kind::Block, 1, block::header_hash(&header), &header);
    let leaves = [[1; 32], [2; 32], [3; 32]];
    let repeated = [leaves[0], leaves[1], leaves[2], leaves[2]];
    let mut forged = subtree_frame(&leaves);
    forged[8] ^= 1;
    let mut lying_count = subtree_frame(&leaves);
    lying_count[HEADER + 16..HEADER + 24].copy_from_slice(&(1_u64 << 59).to_be_bytes());
    let huge = vec![0x6A; 65_536 * 1_348];
    let anchor = transaction(2, 1_400);
    let anchor = frame_of(Kind::Anchor, 0, tx::canonical_txid(&anchor).unwrap().0, &anchor);
    let of_kind = |byte: u8| {
        let mut bytes = good.clone();
        bytes[6] = byte;
        bytes
    };
    let strict = Policy { require_ef: true, ..Policy::default() };
    let whole = Policy { frag_mtu: 0, ..Policy::default() };
    let unverified = Policy { verify_payload_hash: false, ..Policy::default() };
    let cases: Vec<(Policy, Vec<u8>, DropReason)> = vec![
        (Policy::default(), good[..91].to_vec(), DropReason::Decode),
        (Policy::default(), good[..150].to_vec(), DropReason::Decode),
        (Policy::default(), vec![], DropReason::Decode),
        (Policy::default(), of_kind(0x55), DropReason::Decode),
        (Policy::default(), of_kind(0x03), DropReason::Fragment),
        (Policy::default(), of_kind(0x07), DropReason::BlockHeader),
        (Policy::default(), of_kind(0x08), DropReason::Bundle),
        (Policy::default(), of_kind(0x09), DropReason::Object),
        (Policy::default(), b"\xBE\xEF\x01\x01 submission".to_vec(), DropReason::Object),
        (Policy::default(), of_kind(0x40), DropReason::Manifest),
        (Policy::default(), of_kind(0x30), DropReason::AnnounceOverUdp),
        (Policy::default(), of_kind(0x10), DropReason::Control),
        (Policy::default(), of_kind(0x14), DropReason::Control),
        (Policy::default(), stamped_frame(Kind::Tx, 0, id, (0, 9), &payload), DropReason::Stamped),
        (strict, good.clone(), DropReason::NotExtended),
        (strict, payload.clone(), DropReason::BareNotExtended),
        (Policy::default(), frame_of(Kind::Tx, 0, id, &two), DropReason::NotOneTx),
        (Policy::default(), flipped, DropReason::HashMismatch),
        (Policy::default(), two.clone(), DropReason::BareMalformed),
        (Policy::default(), b"not a transaction".to_vec(), DropReason::BareMalformed),
        (Policy::default(), frame_of(Kind::Block, 1, [0; 32], &header[..79]), DropReason::BlockMalformed),
        (Policy::default(), frame_of(Kind::Block, 1, [0; 32], &header), DropReason::HashMismatch),
        (Policy::default(), easy, DropReason::BlockPow),
        (Policy::default(), lying_count, DropReason::SubtreeMalformed),
        (Policy::default(), forged, DropReason::SubtreeRoot),
        (Policy::default(), subtree_frame(&repeated), DropReason::SubtreeRoot),
        (unverified, frame_of(Kind::Tx, 0, id, &huge), DropReason::FragmentOverflow),
        (Policy::default(), anchor, DropReason::AnchorOversize),
        (whole, frame_of(Kind::Tx, 0, id, &vec![0; 70_000]), DropReason::Oversize),
        (Policy::default(), frame_of(Kind::LegacyTx, 0, id, &vec![0; 70_000]), DropReason::Oversize),
    ];
    for (policy, bytes, reason) in cases {
        let got = admit(&policy, &bytes, Via::Udp).map(|frame| frame.kind);
        assert_eq!(got, Err(reason), "{reason:?}: {:02x?}", &bytes[..bytes.len().min(16)]);
    }
    assert!(admit(&Policy::default(), &good, Via::Udp).is_ok());
    assert!(admit(&Policy::default(), &subtree_frame(&leaves), Via::Udp).is_ok());
}

#[test]
fn a_frame_that_is_not_what_its_id_says_neither_claims_nor_numbers() {
    let mut world = World::new(config(1));
    let good = tx_frame(1, 200);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    world.round(&[forged]);
    assert_eq!((world.stamps().len(), world.dropped(DropReason::HashMismatch)), (0, 1));
    world.round(std::slice::from_ref(&good));
    let stamps = world.stamps();
    assert_eq!((stamps.len(), stamps[0].1), (1, SeqNum(1)));
    world.round(&[good]);
    assert_eq!((world.stamps().len(), world.tally.deduped(Kind::Tx).get()), (1, 1));
}

#[test]
fn a_flood_of_forged_ids_leaves_real_claims_and_their_horizon_untouched() {
    // Many times what tier 1 holds.
    let forged: u32 = if std::env::var_os("ONCECAST_SOAK").is_some() { 10_000_000 } else { 300_000 };
    let mut world = World::new(config(1));
    let real: Vec<_> = (0..1000).map(|seed| tx_frame(seed, 200)).collect();
    real.chunks(100).for_each(|frames| world.round(frames));
    let mut batch: Vec<_> = real[..250].to_vec();
    for number in 0..forged {
        let frame = &mut batch[number as usize % 250];
        frame[8..12].copy_from_slice(&number.to_be_bytes());
        if number % 250 == 249 {
            world.round(&batch);
        }
    }
    assert_eq!(world.dropped(DropReason::HashMismatch), u64::from(forged));
    assert_eq!((world.local.len(), world.local.evicted_early()), (1000, 0));
    assert_eq!(world.local.effective_horizon(world.now), Duration::from_secs(600));
    real.chunks(100).for_each(|frames| world.round(frames));
    assert_eq!((world.stamps().len(), world.tally.deduped(Kind::Tx).get()), (1000, 1000));
}

#[test]
fn a_transaction_does_not_suppress_the_anchor_of_the_same_id() {
    let mut world = World::new(config(1));
    let payload = transaction(1, 200);
    let id = tx::canonical_txid(&payload).unwrap().0;
    world.round(&[frame_of(Kind::Tx, 0, id, &payload), frame_of(Kind::Anchor, 0, id, &payload)]);
    let groups: Vec<IpAddr> = world.outside.kernels[0].taken.iter().map(|(to, _)| to.ip()).collect();
    assert_eq!(groups.len(), 2);
    assert!(groups.contains(&IpAddr::from([239, 9, 0xFF, 0xFE])));
}

#[test]
fn numbers_leave_in_order_and_without_a_hole_in_every_flow() {
    let mut world = World::new(config(1));
    let frames: Vec<Vec<u8>> =
        (0..500).map(|seed| tx_frame(seed, 150 + (seed as usize * 37) % 3_000)).collect();
    for batch in frames.chunks(97) {
        world.round(batch);
    }
    let mut next: HashMap<HashKey, u64> = HashMap::new();
    for (key, number, _) in world.stamps() {
        let expected = next.entry(key).or_insert(1);
        assert_eq!(number.0, *expected);
        *expected += 1;
    }
    assert_eq!(next.len(), 4);
    assert!(world.tally.fragmented.get() > 100);
}

#[test]
fn what_is_sent_is_what_came_but_for_key_and_number() {
    let mut world = World::new(config(1));
    let mut with_tail = tx_frame(3, 300);
    let length = with_tail.len();
    with_tail.extend_from_slice(b"tail");
    world.round(std::slice::from_ref(&with_tail));
    let sent = &world.outside.kernels[0].taken[0].1;
    assert_eq!((&sent[..40], &sent[56..]), (&with_tail[..40], &with_tail[56..length]));
}

#[test]
fn a_refused_train_keeps_its_numbers_and_goes_first_when_the_kernel_relents() {
    let mut world = World::new(config(1));
    world.outside.kernels[0].room = Some(3);
    world.outside.kernels[0].error = Some(ENOBUFS);
    let frames: Vec<Vec<u8>> = (0..40).map(|seed| tx_frame(seed, 200)).collect();
    world.round(&frames[..20]);
    assert!(!world.ingress.is_blocked() && world.ingress.has_backlog(), "reading goes on");
    world.round(&frames[20..]);
    assert_eq!(world.stamps().len(), 3);
    world.outside.kernels[0].room = None;
    world.pass(Duration::from_millis(500));
    let mut next: HashMap<HashKey, u64> = HashMap::new();
    for (key, number, _) in world.stamps() {
        let expected = next.entry(key).or_insert(1);
        assert_eq!(number.0, *expected);
        *expected += 1;
    }
    assert_eq!(next.values().sum::<u64>(), 40 + 4);
    assert_eq!((world.tally.flows_retired.get(), world.tally.released.get()), (0, 0));
    assert!(!world.ingress.is_blocked() && world.ingress.is_drained());
}

#[test]
fn after_the_deadline_the_flow_gets_a_new_key_and_the_claims_are_released() {
    let mut world = World::new(config(1));
    let frames: Vec<Vec<u8>> = (0..20).map(|seed| tx_frame(seed, 200)).collect();
    world.round(&frames[..10]);
    let old: Vec<HashKey> = world.stamps().iter().map(|stamp| stamp.0).collect();
    world.outside.kernels[0].room = Some(0);
    world.outside.kernels[0].error = Some(ENOBUFS);
    world.round(&frames[10..]);
    world.pass(DEADLINE);
    assert_eq!((world.dropped(DropReason::SendRefused), world.tally.released.get()), (10, 10));
    assert!(!world.ingress.is_blocked());
    // The client sends them again: they go through, from 1, under keys that nobody has seen.
    world.outside.kernels[0].room = None;
    world.outside.kernels[0].taken.clear();
    world.round(&frames[10..]);
    let again: Vec<_> = world.stamps();
    assert_eq!(again.len(), 10);
    let lost_in = world.tally.flows_retired.get();
    assert!((1..=4).contains(&lost_in));
    assert!(again.iter().all(|(key, ..)| !old.contains(key)));
    let firsts = again.iter().filter(|(_, number, _)| *number == SeqNum(1)).count();
    assert_eq!(firsts as u64, lost_in);
}

#[test]
fn a_frame_that_no_interface_can_take_is_given_up_alone() {
    let mut world = World::new(config(1));
    world.outside.kernels[0].room = Some(0);
    world.outside.kernels[0].error = Some(EMSGSIZE);
    world.round(&[tx_frame(1, 200)]);
    assert_eq!((world.dropped(DropReason::WriteError), world.tally.released.get()), (1, 1));
    assert!(!world.ingress.is_blocked());
}

#[test]
fn an_interface_that_refuses_does_not_hold_up_the_other_and_claims_wait_for_both() {
    let mut world = World::new(config(2));
    world.outside.kernels[1].room = Some(0);
    world.outside.kernels[1].error = Some(ENOBUFS);
    world.round(&[tx_frame(1, 200), tx_frame(2, 300)]);
    assert_eq!((stamps(&world.outside.kernels[0]).len(), stamps(&world.outside.kernels[1]).len()), (2, 0));
    assert!(!world.ingress.is_blocked() && !world.ingress.is_drained());
    world.outside.kernels[1].room = None;
    world.pass(Duration::from_millis(100));
    assert_eq!(stamps(&world.outside.kernels[1]), stamps(&world.outside.kernels[0]));
    assert!(world.ingress.is_drained());
}

#[test]
fn a_full_backlog_drops_the_newest_counted_and_released() {
    let mut limited = config(1);
    limited.outlet.bytes = 10_000;
    let mut world = World::new(limited);
    world.outside.kernels[0].room = Some(0);
    world.outside.kernels[0].error = Some(ENOBUFS);
    for seed in 0..100 {
        world.round(&[tx_frame(seed, 200)]);
        assert!(world.tally.backlog_bytes.get() <= 10_000);
    }
    let dropped = world.dropped(DropReason::BacklogFull) + world.dropped(DropReason::SendRefused);
    assert!(dropped > 0);
    assert_eq!(world.tally.released.get(), dropped);
    world.outside.kernels[0].room = None;
    world.pass(Duration::from_millis(100));
    assert_eq!(world.stamps().len() as u64 + dropped, 100);
    let mut next: HashMap<HashKey, u64> = HashMap::new();
    for (key, number, _) in world.stamps() {
        let expected = next.entry(key).or_insert(1);
        assert_eq!(number.0, *expected, "no receiver sees a hole");
        *expected += 1;
    }
}

#[test]
fn a_shared_store_suppresses_what_a_sibling_settled() {
    let memory = Memory::new(16 << 20);
    let mut one = World::with_store(config(1), Some(memory.clone()));
    let mut other = World::with_store(config(1), Some(memory));
    other.now = one.now;
    let frames: Vec<Vec<u8>> = (0..50).map(|seed| tx_frame(seed, 200)).collect();
    one.round(&frames);
    assert_eq!(one.stamps().len(), 50);
    other.round(&frames);
    for _ in 0..40 {
        one.pass(Duration::from_millis(10));
        other.pass(Duration::from_millis(10));
    }
    assert_eq!((other.stamps().len(), other.tally.deduped(Kind::Tx).get()), (0, 50));
    assert!(one.ingress.is_drained() && other.ingress.is_drained());
}

#[test]
fn a_dead_owner_loses_no_frame_that_a_sibling_holds() {
    let memory = Memory::new(16 << 20);
    let mut dead = World::with_store(config(1), Some(memory.clone()));
    let mut sibling = World::with_store(config(1), Some(memory));
    sibling.now = dead.now;
    dead.outside.kernels[0].room = Some(0);
    dead.outside.kernels[0].error = Some(ENOBUFS);
    let frames: Vec<Vec<u8>> = (0..50).map(|seed| tx_frame(seed, 200)).collect();
    dead.round(&frames);
    sibling.round(&frames);
    assert_eq!(sibling.stamps().len(), 0);
    for _ in 0..100 {
        sibling.pass(Duration::from_millis(10));
    }
    assert_eq!(sibling.stamps().len(), 50);
}

#[test]
fn preset_numbers_follow_the_rules_of_the_go_stack_in_standard_identity() {
    let mut standard = config(1);
    standard.identity = Identity::Standard(Arc::new(Directory::new(1_000)));
    standard.policy.allow_stamped_ingress = true;
    standard.stamp_source = false;
    standard.shard_bits = ShardBits::new(0).unwrap();
    let mut world = World::new(standard);
    let mut send = |seed, stamp| {
        let payload = transaction(seed, 200);
        let id = tx::canonical_txid(&payload).unwrap().0;
        world.round(&[stamped_frame(Kind::Tx, 0, id, stamp, &payload)]);
        let (key, number, _) = *world.stamps().last().unwrap();
        (key.0, number.0)
    };
    let key = send(1, (0, 0)).0;
    assert_eq!(send(2, (0, 0)), (key, 2));
    assert_eq!(send(3, (0x1122, 0)), (key, 3));
    assert_eq!(send(4, (0, 500)), (key, 500));
    assert_eq!(send(5, (0x1122, 501)), (0x1122, 501));
    assert_eq!(send(6, (0, 0)), (key, 4));
}

#[test]
fn standard_counters_go_on_after_a_restart() {
    let directory = Arc::new(Directory::new(1_000));
    let with = |directory: &Arc<Directory>| IngressConfig {
        identity: Identity::Standard(Arc::clone(directory)),
        shard_bits: ShardBits::new(0).unwrap(),
        ..config(1)
    };
    let mut before = World::new(with(&directory));
    before.round(&[tx_frame(1, 200), tx_frame(2, 200)]);
    let restored = Arc::new(Directory::new(1_000));
    restored.restore(directory.snapshot());
    let mut after = World::new(with(&restored));
    after.round(&[tx_frame(3, 200)]);
    let (key, number, _) = after.stamps()[0];
    assert_eq!((key, number), (before.stamps()[0].0, SeqNum(3)));
}

#[test]
fn an_idle_flow_comes_back_under_another_key() {
    let mut world = World::new(IngressConfig { shard_bits: ShardBits::new(0).unwrap(), ..config(1) });
    world.round(&[tx_frame(1, 200)]);
    for _ in 0..40 {
        world.pass(Duration::from_secs(10));
    }
    assert_eq!(world.tally.flows_expired.get(), 1);
    world.round(&[tx_frame(2, 200)]);
    let stamps = world.stamps();
    assert_eq!((stamps[0].1, stamps[1].1), (SeqNum(1), SeqNum(1)));
    assert_ne!(stamps[0].0, stamps[1].0);
}

#[test]
fn a_flood_of_subtrees_stays_within_the_flow_table() {
    let mut world = World::new(config(1));
    for batch in 0..20_u32 {
        let frames: Vec<Vec<u8>> = (0..1_000)
            .map(|at| {
                let mut frame = tx_frame(batch * 1_000 + at, 80);
                frame[56..60].copy_from_slice(&(batch * 1_000 + at).to_be_bytes());
                frame
            })
            .collect();
        world.now += Duration::from_millis(1);
        world.round(&frames);
    }
    assert!(world.tally.flows.get() <= MIN_FLOWS as u64);
    assert!(world.tally.flows_evicted.get() > 0);
    let numbered = world.stamps();
    let odd: Vec<_> = numbered.iter().map(|(_, number, _)| number.0).filter(|number| *number != 1).collect();
    assert_eq!(odd, [] as [u64; 0]);
    let keys: std::collections::HashSet<_> = numbered.iter().map(|(key, ..)| key).collect();
    assert_eq!(keys.len(), numbered.len());
}

/// A store that takes every request and answers none.
struct Silent;

impl Backend for Silent {
    fn name(&self) -> &'static str {
        "silent"
    }
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        Box::pin(async { Ok(Box::new(Silent) as Box<dyn Session>) })
    }
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> {
        Box::pin(async { Ok(()) })
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

impl Session for Silent {
    fn claim(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
        Box::pin(std::future::pending())
    }
    fn set(&self, _: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
        Box::pin(std::future::pending())
    }
    fn get(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        Box::pin(std::future::pending())
    }
    fn del(&self, _: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn when_the_store_falls_behind_streams_stop_first_and_then_the_oldest_that_was_not_asked_about_is_sent() {
    // Requests under way, and keys of each.
    const BATCH: usize = 256;
    const ASKED: usize = 16 * BATCH;
    const WAITING: usize = 6_000;
    const FRAMES: usize = 7_000;
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|n| tx_frame(u32::try_from(n).unwrap(), 200)).collect();
    let charge = frames[0].len().div_ceil(256) * 256;
    let small = IngressConfig { slab_bytes: WAITING * charge, slab_entries: 1 << 16, ..config(1) };
    let mut world = World::with_backend(small, Some(Arc::new(Silent)));
    let mut stopped_at = None;
    for (round, batch) in frames.chunks(BATCH).enumerate() {
        world.round(batch);
        if !world.ingress.may_read_streams() && stopped_at.is_none() {
            stopped_at = Some((round + 1) * BATCH);
            assert_eq!(world.stamps().len(), 0, "streams stop before anything is bypassed");
        }
    }
    assert!(stopped_at.is_some_and(|at| at <= WAITING / 2 + BATCH), "{stopped_at:?}");
    let stats = world.ingress.claims().stats();
    let bypassed = FRAMES - WAITING;
    assert_eq!(stats.by(Why::Bypassed).value(), bypassed as u64);
    assert_eq!(stats.waiting.value(), WAITING as u64);
    assert_eq!(world.tally.slab_overflow.get(), 0);
    let ids = |frames: &[Vec<u8>]| frames.iter().map(|frame| id_of(frame)).collect::<HashSet<Id>>();
    let sent: HashSet<Id> = world.stamps().into_iter().map(|(_, _, id)| id).collect();
    assert!(sent == ids(&frames[ASKED..ASKED + bypassed]), "the oldest of those not asked about");
    world.ingress.decide_all(world.now);
    world.pass(Duration::ZERO);
    assert_eq!(world.stamps().len(), FRAMES, "and none is lost");
}

#[test]
fn a_frame_that_found_no_room_to_wait_and_is_refused_releases_its_claim() {
    let tiny = IngressConfig { slab_bytes: 0, slab_entries: 8, ..config(1) };
    let mut world = World::with_backend(tiny, Some(Arc::new(Silent)));
    world.outside.kernels[0] = Kernel { room: Some(0), error: Some(ENOBUFS), ..Kernel::default() };
    // Parked copies have room of their own: it must be taken first.
    let filler: Vec<Vec<u8>> = (10..14).map(|seed| tx_frame(seed, 200)).collect();
    world.round(&filler);
    let frame = tx_frame(1, 200);
    world.round(std::slice::from_ref(&frame));
    world.pass(DEADLINE + Duration::from_millis(20));
    assert!(world.dropped(DropReason::SendRefused) > 0);
    world.outside.kernels[0].room = None;
    world.round(std::slice::from_ref(&frame));
    assert!(world.stamps().iter().any(|(_, _, id)| *id == id_of(&frame)), "the client's resend goes through");
}

#[test]
fn a_full_socket_is_waited_for_and_the_round_goes_on_where_it_stopped() {
    let patient = IngressConfig { full_timeout: Duration::from_millis(5), ..config(1) };
    let mut world = World::new(patient);
    let frames: Vec<Vec<u8>> = (0..20).map(|seed| tx_frame(seed, 200)).collect();
    world.kernel().room = Some(3);
    world.arrive(&frames);
    assert_eq!(world.commit(), Next::Asked);
    let until = world.now + Duration::from_millis(5);
    assert_eq!(world.commit(), Next::Full { outlet: 0, until });
    world.now += Duration::from_millis(1);
    world.kernel().room = Some(4);
    assert_eq!(world.commit(), Next::Full { outlet: 0, until });
    assert_eq!((world.stamps().len(), world.tally.send_blocked.get()), (7, 2));
    world.kernel().room = None;
    assert_eq!(world.commit(), Next::Done);
    assert_eq!(world.stamps().len(), 20);
    assert!(!world.ingress.is_blocked() && world.ingress.is_drained());
}

#[test]
fn a_socket_that_stays_full_gets_the_rest_through_its_backlog() {
    let patient = IngressConfig { full_timeout: Duration::from_millis(5), ..config(1) };
    let mut world = World::new(patient);
    let frames: Vec<Vec<u8>> = (0..20).map(|seed| tx_frame(seed, 200)).collect();
    world.kernel().room = Some(3);
    world.arrive(&frames);
    assert_eq!(world.commit(), Next::Asked);
    let Next::Full { until, .. } = world.commit() else { panic!("not full") };
    world.now = until;
    assert_eq!(world.commit(), Next::Done);
    assert!(world.ingress.has_backlog());
    world.kernel().room = None;
    world.pass(Duration::from_millis(20));
    assert_eq!((world.stamps().len(), world.tally.flows_retired.get()), (20, 0));
}

#[test]
fn what_comes_while_a_round_is_under_way_is_asked_about_before_the_burst_is_cleared() {
    let mut world = World::new(config(1));
    world.arrive(&[tx_frame(1, 200)]);
    assert_eq!(world.commit(), Next::Asked);
    world.arrive(&[tx_frame(2, 200)]);
    let bytes = Bytes::from(tx_frame(3, 200));
    world.ingress.message(world.now, Message { bytes, sender: SENDER.ip(), verdict: None });
    assert_eq!(world.commit(), Next::Asked);
    assert_eq!(world.stamps().len(), 1);
    assert_eq!(world.commit(), Next::Done);
    assert_eq!((world.stamps().len(), world.tally.accepted(Kind::Tx).get()), (3, 3));
}

#[test]
fn a_worker_that_slept_between_asking_and_sending_asks_again() {
    let mut world = World::with_store(config(1), Some(Memory::new(16 << 20)));
    world.arrive(&[tx_frame(1, 200)]);
    assert_eq!(world.commit(), Next::Asked);
    world.now += Duration::from_secs(1);
    assert_eq!(world.commit(), Next::Done);
    assert_eq!(world.stamps().len(), 0, "a sibling may have taken over");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.stamps().len(), 1);
}

#[cfg(feature = "mutants")]
#[test]
fn faults_in_the_order_of_a_round_show() {
    use proxy_ingress::mutation::Mutation;
    let mut world = World::with_store(config(1), Some(Memory::new(16 << 20)));
    world.ingress.mutate(Mutation::TimeNotReadAgain);
    world.arrive(&[tx_frame(1, 200)]);
    assert_eq!(world.commit(), Next::Asked);
    world.now += Duration::from_secs(1);
    assert_eq!((world.commit(), world.stamps().len()), (Next::Done, 1));

    let mut world = World::with_backend(config(1), Some(Arc::new(Silent)));
    world.ingress.mutate(Mutation::ClearedBeforeKept);
    let frames = [tx_frame(1, 200), tx_frame(2, 200)];
    world.round(&frames[..1]);
    world.round(&frames[1..]);
    world.ingress.decide_all(world.now);
    world.round(&[]);
    assert!(world.stamps().iter().all(|(_, _, id)| *id != id_of(&frames[0])));
}

#[test]
fn the_last_round_announces_active_flows() {
    let mut world = World::with_backend(config(1), Some(Arc::new(Silent)));
    world.round(&(0..10).map(|seed| tx_frame(seed, 200)).collect::<Vec<_>>());
    assert_eq!((world.stamps().len(), world.ingress.waiting_frames()), (0, 10));
    world.ingress.decide_all(world.now);
    world.round(&[]);
    assert_eq!((world.stamps().len(), world.digests()), (10, 0));
    world.ingress.close();
    world.round(&[]);
    world.round(&[]);
    assert_eq!((world.digests(), world.dropped(DropReason::SendRefused)), (1, 0));
}

#[test]
fn the_last_round_gives_up_what_waits_counted_and_no_digest_overtakes_it() {
    let mut world = World::new(config(1));
    world.kernel().room = Some(0);
    world.kernel().error = Some(ENOBUFS);
    world.round(&[tx_frame(1, 200)]);
    world.kernel().room = None;
    world.ingress.close();
    world.round(&[]);
    assert_eq!((world.stamps().len(), world.digests()), (0, 0));
    assert_eq!((world.dropped(DropReason::SendRefused), world.tally.released.get()), (1, 1));
    assert!(!world.ingress.is_blocked());
}

/// A frame of about `len` bytes that comes by TCP and leaves in fragments.
fn object(seed: u32, len: usize) -> Message {
    Message { bytes: Bytes::from(tx_frame(seed, len)), sender: SENDER.ip(), verdict: None }
}

/// In how many fragments an object of `len` bytes leaves.
fn fragments(len: usize) -> usize {
    let mut world = World::new(objects());
    world.ingress.message(world.now, object(0, len));
    world.round(&[]);
    world.stamps().len()
}

/// One interface, so small a chunk that an object is cut over several rounds, and no mercy with what waits.
fn objects() -> IngressConfig {
    IngressConfig {
        chunk: 4 << 10,
        outlet: OutletLimits { bytes: 64 << 10, deadline: Duration::from_millis(40) },
        ..config(1)
    }
}

impl World {
    /// One round and no other.
    fn one_round(&mut self) {
        while self.commit() != Next::Done {}
    }

    fn refuse(&mut self, room: usize) {
        (self.kernel().room, self.kernel().error) = (Some(room), Some(ENOBUFS));
    }
}

#[test]
fn an_object_that_loses_a_fragment_early_middle_or_late_is_released_once_and_its_resend_leaves_whole() {
    const LEN: usize = 40_000;
    const ROUNDS: usize = 10;
    let deadline = objects().outlet.deadline;
    for refused_from in 0..ROUNDS {
        for tier2 in [false, true] {
            let mut world = World::with_store(objects(), tier2.then(|| Memory::new(16 << 20)));
            world.ingress.message(world.now, object(1, LEN));
            for round in 0.. {
                if round == refused_from {
                    world.refuse(1);
                } else if round == refused_from + 2 {
                    // What waits is given up in this round; then the link is as before.
                    world.now += deadline;
                } else if round == refused_from + 3 {
                    world.kernel().room = None;
                }
                world.one_round();
                world.now += Duration::from_millis(1);
                if round > refused_from + 3 && !world.ingress.is_busy() {
                    break;
                }
                assert!(round < 200, "refused from round {refused_from} on: no end");
            }
            for _ in 0..30 {
                world.pass(Duration::from_millis(20));
            }
            let what = format!("refused from round {refused_from} on, tier 2: {tier2}");
            assert_eq!(world.tally.released.get(), 1, "{what}");
            assert!(world.ingress.is_drained(), "{what}: a claim stays open");
            assert_eq!(world.tally.oldest_hand_over.get(), 0, "{what}");
            world.kernel().taken.clear();
            world.ingress.message(world.now, object(1, LEN));
            world.round(&[]);
            assert_eq!(world.stamps().len(), fragments(LEN), "{what}: the resend is suppressed");
            assert_eq!(world.tally.deduped(Kind::Tx).get(), 0, "{what}");
        }
    }
}

#[test]
fn a_claim_whose_last_fragment_is_handed_over_after_another_was_lost_is_released() {
    // Two interfaces: the object goes on after a loss on one of them, and its last fragments are handed over on both.
    let mut world = World::with_store(IngressConfig { outlets: 2, ..objects() }, Some(Memory::new(16 << 20)));
    world.ingress.message(world.now, object(1, 40_000));
    world.refuse(0);
    world.one_round();
    world.now += objects().outlet.deadline;
    world.one_round();
    assert!(world.dropped(DropReason::SendRefused) > 0);
    world.kernel().room = None;
    world.pass(Duration::from_millis(20));
    for _ in 0..30 {
        world.pass(Duration::from_millis(20));
    }
    assert_eq!((world.tally.released.get(), world.tally.cut_short.get()), (1, 0));
    assert!(world.ingress.is_drained(), "the worker's epochs settle");
    world.round(&[]);
    world.ingress.message(world.now, object(1, 40_000));
    world.round(&[]);
    assert_eq!(world.tally.deduped(Kind::Tx).get(), 0, "the resend is let through");
}

#[test]
fn a_refused_group_waits_alone_while_others_and_reading_go_on() {
    const EINVAL: i32 = 22;
    let mut world = World::new(config(1));
    world.round(&[tx_frame(1, 200)]);
    let refused = world.kernel().taken[0].0;
    world.kernel().taken.clear();
    world.kernel().refused = Some((refused, EINVAL));
    let frames: Vec<Vec<u8>> = (10..410).map(|seed| tx_frame(seed, 200)).collect();
    for batch in frames.chunks(40) {
        world.round(batch);
        world.now += Duration::from_millis(5);
        assert!(!world.ingress.is_blocked() && world.ingress.may_read_streams());
    }
    let left = world.stamps().len();
    assert!((200..400).contains(&left), "{left}");
    assert_eq!((world.tally.backlog_groups.get(), world.tally.flows_retired.get()), (1, 0));
    // Flows that left are announced although others wait, and those that wait are not.
    world.pass(Duration::from_millis(150));
    assert!(world.digests() > 0);
    let group_of = |frame: &Vec<u8>| id_of(frame)[0] >> 6;
    let waiting = group_of(&tx_frame(1, 200));
    assert_eq!(frames.iter().filter(|frame| group_of(frame) != waiting).count(), left);
    world.kernel().refused = None;
    world.pass(Duration::from_millis(20));
    let mut next: HashMap<HashKey, u64> = HashMap::new();
    for (key, number, _) in world.stamps() {
        // The first frame of all was forgotten above.
        let expected = next.entry(key).or_insert(number.0);
        assert!(
            number.0 == *expected && (number.0 > 2 || *expected <= 2),
            "no frame overtakes another of its flow"
        );
        *expected += 1;
    }
    assert_eq!(world.stamps().len(), 400);
    assert!(world.ingress.is_drained());
}

#[test]
fn reading_stops_before_the_backlog_overflows() {
    let mut world = World::new(config(1));
    world.refuse(0);
    let mut seed = 0;
    while !world.ingress.is_blocked() {
        let frames: Vec<Vec<u8>> = (0..100).map(|at| tx_frame(seed + at, 1_000)).collect();
        seed += 100;
        world.round(&frames);
        assert!(seed < 2_000, "reading goes on for ever");
    }
    assert!(seed >= 400, "half of the backlog is for what is read while the kernel refuses: {seed}");
    assert!(!world.ingress.may_read_streams());
    assert_eq!(world.dropped(DropReason::BacklogFull), 0);
    world.kernel().room = None;
    world.pass(Duration::from_millis(20));
    assert_eq!(world.stamps().len(), seed as usize);
    assert!(!world.ingress.is_blocked() && world.ingress.may_read_streams());
}

#[test]
fn an_object_waits_for_a_slow_link_and_not_in_the_backlog() {
    // The link takes a few frames a round: far less than is cut in one.
    let mut world = World::new(objects());
    world.ingress.message(world.now, object(1, 60_000));
    for rounds in 0.. {
        world.refuse(2);
        world.round(&[]);
        world.now += Duration::from_millis(2);
        if world.ingress.is_drained() {
            break;
        }
        assert!(rounds < 500 && world.tally.backlog_bytes.get() <= 3 * (4 << 10));
    }
    assert_eq!((world.dropped(DropReason::SendRefused), world.dropped(DropReason::BacklogFull)), (0, 0));
    assert_eq!(world.stamps().len(), fragments(60_000));
}

#[test]
fn an_orderly_stop_in_the_middle_of_an_object_gives_it_up_counted_and_released() {
    let memory = Memory::new(16 << 20);
    let mut world = World::with_store(objects(), Some(memory.clone()));
    world.ingress.message(world.now, object(1, 40_000));
    for _ in 0..3 {
        world.one_round();
    }
    assert!(!world.stamps().is_empty() && world.ingress.is_busy());
    world.ingress.close();
    world.one_round();
    let left = (fragments(40_000) - world.stamps().len()) as u64;
    assert_eq!((world.dropped(DropReason::SendRefused), world.tally.released.get()), (left, 1));
    let mut sibling = World::with_store(objects(), Some(memory));
    sibling.now = world.now;
    sibling.ingress.message(sibling.now, object(1, 40_000));
    sibling.round(&[]);
    sibling.round(&[]);
    assert_eq!(sibling.stamps().len(), fragments(40_000), "a sibling's copy leaves at once");
}

#[test]
fn without_a_carrier_nothing_is_claimed_and_a_sibling_wins() {
    let memory = Memory::new(16 << 20);
    let mut world = World::with_store(config(1), Some(memory.clone()));
    let mut sibling = World::with_store(config(1), Some(memory));
    let frames: Vec<Vec<u8>> = (0..10).map(|seed| tx_frame(seed, 200)).collect();
    world.outside.news.push_back(Some((0, false, true)));
    world.round(&frames);
    assert!(world.stamps().is_empty() && world.ingress.mute_since().is_some());
    sibling.now = world.now;
    sibling.round(&frames[..6]);
    assert_eq!(sibling.stamps().len(), 6, "the sibling wins at once");
    // The carrier is back within the deadline: what the sibling did not have leaves.
    world.now += DEADLINE / 2;
    world.outside.news.push_back(Some((0, true, false)));
    world.round(&[]);
    world.round(&[]);
    assert_eq!(world.stamps().len(), 4);
    assert_eq!(world.dropped(DropReason::NoCarrier), 0);
    assert!(world.ingress.mute_since().is_none());
}

#[test]
fn what_waits_for_a_carrier_for_too_long_is_counted_and_its_resend_leaves() {
    let mut world = World::new(config(1));
    let frames: Vec<Vec<u8>> = (0..10).map(|seed| tx_frame(seed, 200)).collect();
    world.outside.news.push_back(Some((0, false, true)));
    world.round(&frames);
    world
        .ingress
        .message(world.now, Message { bytes: tx_frame(77, 200).into(), sender: SENDER.ip(), verdict: None });
    world.pass(DEADLINE - Duration::from_millis(1));
    assert_eq!(world.dropped(DropReason::NoCarrier), 0);
    assert_eq!(world.ingress.next_timeout().map(|at| at <= world.now + Duration::from_millis(1)), Some(true));
    world.pass(Duration::from_millis(1));
    world.pass(DEADLINE);
    assert_eq!((world.dropped(DropReason::NoCarrier), world.tally.released.get()), (11, 0));
    world.outside.news.push_back(Some((0, true, false)));
    world.round(&frames);
    assert_eq!(world.stamps().len(), 10);
}

#[test]
fn what_was_handed_over_and_not_looked_at_behind_is_released_when_the_carrier_goes() {
    let memory = Memory::new(16 << 20);
    let mut world = World::with_store(config(1), Some(memory.clone()));
    let frames: Vec<Vec<u8>> = (0..8).map(|seed| tx_frame(seed, 200)).collect();
    world.round(&frames[..4]);
    // The first look finds the carrier, the one behind the hand-over does not.
    world.outside.news.extend([None, Some((0, false, true))]);
    world.round(&frames[4..]);
    assert_eq!(world.stamps().len(), 8, "the kernel took them all");
    assert_eq!((world.tally.released.get(), world.tally.handed_over.get()), (4, 4));
    assert_eq!(world.dropped(DropReason::NoCarrier), 4);
    assert_eq!(world.ingress.take_cut().map(|cut| (cut.frames, cut.claims)), Some((4, 4)));
    assert_eq!(world.ingress.take_cut(), None);
    let old: HashSet<HashKey> = world.stamps().iter().map(|stamp| stamp.0).collect();
    let mut sibling = World::with_store(config(1), Some(memory));
    sibling.now = world.now;
    sibling.round(&frames);
    assert_eq!(sibling.stamps().len(), 4, "what had not settled");
    world.outside.news.push_back(Some((0, true, false)));
    world.round(&[tx_frame(99, 200)]);
    assert!(!old.contains(&world.stamps()[8].0), "numbers that may not have left are not gone on from");
}

#[test]
fn a_carrier_that_came_back_before_anybody_looked_was_lost_all_the_same() {
    let mut world = World::new(config(1));
    world.outside.news.extend([None, Some((0, true, true))]);
    world.round(&[tx_frame(1, 200)]);
    assert_eq!((world.tally.released.get(), world.dropped(DropReason::NoCarrier)), (1, 1));
    world.round(&[tx_frame(1, 200)]);
    assert_eq!((world.stamps().len(), world.tally.handed_over.get()), (2, 1));
}

#[test]
fn one_line_of_two_goes_on_alone() {
    let mut world = World::new(config(2));
    let frames: Vec<Vec<u8>> = (0..30).map(|seed| tx_frame(seed, 200)).collect();
    // The second refuses; then it loses its carrier with a backlog.
    world.outside.kernels[1].room = Some(0);
    world.outside.kernels[1].error = Some(ENOBUFS);
    world.round(&frames[..10]);
    assert!(world.ingress.has_backlog() && !world.ingress.is_drained());
    world.outside.news.push_back(Some((1, false, true)));
    world.round(&frames[10..20]);
    assert!(world.ingress.is_drained(), "nothing waits for the line without a carrier");
    assert_eq!(stamps(&world.outside.kernels[0]).len(), 20);
    assert_eq!(
        (world.tally.left_out.get(), world.tally.released.get(), world.tally.ledger.lost()),
        (20, 0, 0)
    );
    world.outside.kernels[1].room = None;
    world.outside.news.push_back(Some((1, true, false)));
    world.round(&frames[20..]);
    assert_eq!(stamps(&world.outside.kernels[1]).len(), 10);
    let sum = world.tally.sum();
    assert!(sum.holds(), "{sum}");
}

#[test]
fn an_object_in_the_middle_of_its_fragments_is_given_up_with_the_carrier() {
    let mut world = World::new(objects());
    world.ingress.message(world.now, object(1, 40_000));
    for _ in 0..3 {
        world.one_round();
    }
    assert!(!world.stamps().is_empty() && world.ingress.is_busy());
    world.outside.news.push_back(Some((0, false, true)));
    world.round(&[]);
    world.round(&[]);
    assert_eq!(world.tally.released.get(), 1);
    assert!(world.ingress.is_drained());
    world.outside.news.push_back(Some((0, true, false)));
    let before = world.stamps().len();
    world.ingress.message(world.now, object(1, 40_000));
    world.round(&[]);
    world.round(&[]);
    assert_eq!(world.stamps().len() - before, fragments(40_000), "the resend leaves whole");
}

/// `transaction(seed, len)` in Extended Format: what it says of the output that it spends is not proved by its id.
fn extended(seed: u32, len: usize, amount: u64) -> Vec<u8> {
    let raw = transaction(seed, len);
    let mut bytes = raw[..4].to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0xEF]);
    // The one output is empty: what stands behind the inputs has a fixed length.
    let inputs_end = raw.len() - 14;
    bytes.extend_from_slice(&raw[4..inputs_end]);
    bytes.extend_from_slice(&amount.to_le_bytes());
    bytes.extend_from_slice(&[2, 0x51, 0x52]);
    bytes.extend_from_slice(&raw[inputs_end..]);
    assert_eq!(tx::canonical_txid(&bytes), tx::canonical_txid(&raw));
    bytes
}

fn extended_frame(seed: u32, len: usize, amount: u64, label: Id) -> Vec<u8> {
    let payload = extended(seed, len, amount);
    let mut frame = frame_of(Kind::Tx, 0, tx::canonical_txid(&payload).unwrap().0, &payload);
    frame[56..88].copy_from_slice(&label);
    frame
}

/// A proxy that lets in four variants of an id from one source, with a store behind it or none.
fn bounded(store: bool) -> World {
    let variants = Variants::new(4, Duration::from_secs(600), 9, Instant::now());
    let config = IngressConfig { variants: Some(Arc::new(variants)), ..config(1) };
    World::with_store(config, store.then(|| Memory::new(16 << 20)))
}

fn other_sender(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, n, 1))
}

#[test]
fn forged_copies_of_one_source_do_not_keep_the_genuine_one_from_another() {
    for store in [false, true] {
        let mut world = bounded(store);
        for amount in 1..=16 {
            world.round(&[extended_frame(1, 200, amount, [0; 32])]);
        }
        let genuine = extended_frame(1, 200, 5_000, [0; 32]);
        world.round_from(other_sender(0), &genuine);
        world.round_from(other_sender(0), &genuine);
        let carried: Vec<_> = world.carried().into_iter().map(|(_, payload)| payload).collect();
        let forged: Vec<_> = (1..=4).map(|amount| extended(1, 200, amount)).collect();
        assert_eq!(carried[..4], forged);
        assert_eq!(carried[4..], [transaction(1, 200), extended(1, 200, 5_000)]);
        assert_eq!(world.tally.limited(Limited::CutSource).get(), 12);
        let where_is =
            world.tally.recent.find("0", u64::from_be_bytes(*id_of(&genuine).first_chunk().unwrap()));
        assert!(where_is.to_string().contains("cut to its standard form (its source"), "{where_is}");
    }
}

#[test]
fn forged_copies_of_a_hundred_sources_leave_the_transaction_in_standard_form() {
    for store in [false, true] {
        let mut world = bounded(store);
        for n in 0..100 {
            world.round_from(other_sender(n), &extended_frame(1, 200, u64::from(n), [n; 32]));
        }
        world.round_from(other_sender(200), &extended_frame(1, 200, 5_000, [0; 32]));
        world.round_from(other_sender(200), &extended(1, 200, 6_000));
        let carried = world.carried();
        assert_eq!(carried.len(), 17, "16 variants, and once the bytes that the id proves");
        assert_eq!(carried[16], ([0; 32], transaction(1, 200)), "without the label");
        assert_eq!(world.tally.limited(Limited::CutId).get(), 86);
    }
}

#[test]
fn a_large_transaction_is_cut_to_its_standard_form_too() {
    for (store, bare) in [(false, false), (true, false), (true, true)] {
        let mut world = bounded(store);
        for amount in 1..=5 {
            let bytes =
                if bare { extended(1, 9_000, amount) } else { extended_frame(1, 9_000, amount, [0; 32]) };
            let message = Message { bytes: bytes.into(), sender: SENDER.ip(), verdict: None };
            world.ingress.message(world.now, message);
            world.round(&[]);
        }
        let raw = transaction(1, 9_000);
        let mut rebuilt = Vec::new();
        for (_, bytes) in &world.kernel().taken {
            if let Ok(Datagram::Fragment(fragment)) = Datagram::decode(bytes)
                && fragment.original_len as usize == raw.len()
            {
                rebuilt.extend_from_slice(fragment.data);
            }
        }
        assert!(rebuilt == raw, "{} of {} bytes", rebuilt.len(), raw.len());
    }
}

#[test]
fn a_raw_copy_behind_an_extended_one_stays_and_an_extended_one_behind_a_raw_one_leaves() {
    for store in [false, true] {
        let mut world = bounded(store);
        let (first, second) = (extended_frame(1, 200, 7, [0; 32]), tx_frame(1, 200));
        world.round(&[first.clone(), second, first]);
        let (first, second) = (tx_frame(2, 200), extended_frame(2, 200, 7, [0; 32]));
        world.round(&[first.clone(), second.clone(), first, second]);
        let mut lengths: Vec<_> = world.carried().iter().map(|(_, payload)| payload.len()).collect();
        lengths.sort_unstable();
        let (raw, extended) = (transaction(1, 200).len(), extended(1, 200, 7).len());
        assert_eq!(lengths, [raw, extended, extended]);
    }
}

#[test]
fn another_label_another_body_and_other_fees_are_carried() {
    let mut world = bounded(true);
    let mut labelled = tx_frame(1, 200);
    labelled[56..88].copy_from_slice(&[1; 32]);
    let mut relabelled = labelled.clone();
    relabelled[56..88].copy_from_slice(&[2; 32]);
    let leaves = [[1; 32], [2; 32], [3; 32]];
    let fees = |fees: u8| {
        let mut frame = subtree_frame(&leaves);
        frame[HEADER + 7] = fees;
        frame
    };
    world.round(&[labelled.clone(), relabelled, labelled, fees(1), fees(2), fees(1)]);
    assert_eq!(world.carried().len(), 4);
    let mut refused = bounded(true);
    for n in 0..9 {
        refused.round(&[fees(n)]);
    }
    assert_eq!(refused.carried().len(), 4, "beyond the bound such a frame is known by its id alone");
    assert_eq!(refused.tally.limited(Limited::RefusedSource).get(), 5);
}

#[test]
fn with_variants_off_the_first_copy_of_an_id_wins() {
    let policy = Policy { variants: false, ..Policy::default() };
    let mut world = World::new(IngressConfig { policy, ..config(1) });
    world.round(&[extended_frame(1, 200, 1, [0; 32]), extended_frame(1, 200, 2, [0; 32])]);
    assert_eq!(world.carried().len(), 1);
}

#[test]
fn a_variant_that_cannot_be_sent_gives_back_its_id_too() {
    for store in [false, true] {
        let mut world = bounded(store);
        *world.kernel() = Kernel { room: Some(0), error: Some(EMSGSIZE), ..Kernel::default() };
        world.round(&[extended_frame(1, 200, 1, [0; 32])]);
        assert_eq!(world.dropped(DropReason::WriteError), 1);
        world.kernel().room = None;
        world.round(&[extended_frame(1, 200, 1, [0; 32])]);
        world.round(&[tx_frame(1, 200)]);
        assert_eq!(world.carried().len(), 1, "the resend leaves; a raw copy behind it does not");
        *world.kernel() = Kernel { room: Some(0), error: Some(EMSGSIZE), ..Kernel::default() };
        world.round(&[extended_frame(2, 200, 1, [0; 32])]);
        world.kernel().room = None;
        world.round(&[tx_frame(2, 200)]);
        assert_eq!(world.carried().len(), 1, "a raw copy behind a refused one leaves");
    }
}
