//! The pipeline in virtual time, with a model endpoint behind it.

use super::super::*;
use super::*;
use cache_backend::Memory;
use frame::control::Extended;
use frame::data::HEADER;
use frame::flow::Origin;
use frame::subtree::{Nodes, SubtreeData};
use frame::{Ack, DataFrame, Fabric, HashKey, Id, Kind, Nack, Response, SeqNum, ShardBits, TxId};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddr};
use txidset::{Answer, Ask, ClaimKey, ClaimsConfig, Class, Mode, Names, Trust};

const ENDPOINT: &str = "[fd00::e]:9300";
const PROXY: &str = "[fd00::a]:4000";
const FLOW: HashKey = HashKey(0xF10);
const NO_TREE: Id = [0; 32];

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A transaction nobody else has: any bytes do, its TxID is their hash.
fn transaction(n: u64) -> Vec<u8> {
    let mut payload = b"a transaction of some sort ".to_vec();
    payload.extend(n.to_be_bytes());
    payload
}

fn frame_of(kind: Kind, key: HashKey, seq: u64, subtree: &Id, payload: &[u8]) -> Vec<u8> {
    let id = frame::tx::sha256d(payload);
    let payload_len = u32::try_from(payload.len()).unwrap();
    let fields = frame::data::HeaderFields {
        kind,
        msg_type: 0,
        id: &id,
        hash_key: key,
        seq_num: SeqNum(seq),
        second_id: subtree,
        payload_len,
    };
    let mut out = vec![0; HEADER + payload.len()];
    frame::data::encode_header(&fields, &mut out).unwrap();
    out[HEADER..].copy_from_slice(payload);
    out
}

fn tx(seq: u64) -> Vec<u8> {
    frame_of(Kind::Tx, FLOW, seq, &NO_TREE, &transaction(seq))
}

fn settings() -> Settings {
    Settings {
        shard_bits: ShardBits::new(2).unwrap(),
        subtree_data: true,
        filter: FilterRules { announce_ttl: Duration::from_secs(900), ..FilterRules::default() },
        verify: VerifyRules { block_pow: false, ..VerifyRules::default() },
        track: TrackLimits::default(),
        reassembly: ReassemblyLimits::default(),
        claims: ClaimsConfig { mode: Mode::Simple, ..ClaimsConfig::default() },
        variants: true,
        waiting_bytes: 1 << 20,
        endpoints: Vec::new(),
        single_rate: 90.0,
        header_origin: None,
        positions: None,
        marks: None,
    }
}

fn advert(flags: u16) -> Advert {
    Advert {
        scope: 5,
        nack_addr: Ipv6Addr::from_bits(0xfd00_u128 << 112 | 0xe),
        nack_port: 9300,
        tier: 0,
        preference: 128,
        interval_secs: 60,
        flags,
        instance_id: 7,
        max_range: 256,
    }
}

/// What the consumer does with frames that it was given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Consumer {
    /// It has them at once.
    Takes,
    /// It says nothing.
    Waits,
    /// It is gone.
    Fails,
}

/// What stands around the rounds of a test.
struct Outside {
    consumer: Consumer,
    /// There is room in its queue.
    room: bool,
    queued: Vec<Handed>,
    /// What was queued since the start.
    frames: Vec<Vec<u8>>,
    requests: Vec<Request>,
    headers: Vec<Vec<u8>>,
    sighted: Vec<Sighted>,
    /// The shared store; without one, nothing answers.
    store: Option<Memory>,
}

impl RoundIo for Outside {
    fn pump(&mut self, claims: &mut Claims, now: Instant) {
        let Some(store) = &self.store else { return };
        while let Some(request) = claims.poll_request(now) {
            let answer = match request.ask {
                Ask::Claim { batch, ttl } => {
                    let mut answers = Vec::new();
                    store.claim(&batch, ttl, now, &mut answers);
                    Answer::Claimed(answers.into_iter().map(Ok).collect())
                }
                Ask::Read { keys } => {
                    Answer::Read(keys.iter().map(|(key, _)| Ok(store.get(key, now))).collect())
                }
                Ask::Write { batch, ttl } => {
                    store.set(&batch, ttl, now);
                    Answer::Written(vec![Ok(())])
                }
                Ask::Release { keys } => {
                    Answer::Released(keys.iter().map(|(key, _)| Ok(store.del(key))).collect())
                }
            };
            assert_eq!(claims.on_answer(now, request.id, answer), Trust::Kept);
        }
    }
    fn queue(&mut self, _: Instant, frame: &[u8], _: usize, handed: Handed) -> Result<(), Refused> {
        if !self.room {
            return Err(Refused::NoRoom);
        }
        self.queued.push(handed);
        self.frames.push(frame.to_vec());
        Ok(())
    }
    fn flush(&mut self, _: Instant, fates: &mut Fates) {
        match self.consumer {
            Consumer::Takes => fates.delivered.append(&mut self.queued),
            Consumer::Waits => {}
            Consumer::Fails => {
                fates.refused.extend(self.queued.drain(..).map(|handed| (handed, DropReason::EgressError)));
            }
        }
    }
    fn has_room(&self) -> bool {
        self.room
    }
    fn queued_bytes(&self) -> usize {
        0
    }
    fn request(&mut self, request: &Request) {
        self.requests.push(*request);
    }
    fn header(&mut self, frame: &[u8]) {
        self.headers.push(frame.to_vec());
    }
    fn sighted(&mut self, _: Instant, sighted: &[Sighted]) {
        self.sighted.extend(sighted);
    }
}

/// A pipeline, its clock, a model endpoint, and what its consumer got.
struct World {
    now: Instant,
    pipeline: Pipeline,
    outside: Outside,
    /// What the endpoint holds.
    held: HashMap<(HashKey, u64), Vec<u8>>,
    /// Its answers under way: (when they arrive, door, bytes).
    coming: Vec<(Instant, Door, Vec<u8>)>,
    /// Share of datagrams lost at the listener's door.
    loss: f64,
    rng: SmallRng,
    ranges: bool,
    delay: Duration,
    requests: Vec<Nack>,
}

impl World {
    fn new() -> World {
        World::with(settings())
    }

    fn with(settings: Settings) -> World {
        let now = Instant::now();
        let local = Arc::new(LocalSet::starting_at(1 << 16, Duration::from_secs(600), 3, now));
        World {
            now,
            pipeline: Pipeline::new(settings, Some(local), 5, now),
            outside: Outside {
                consumer: Consumer::Takes,
                room: true,
                queued: Vec::new(),
                frames: Vec::new(),
                requests: Vec::new(),
                headers: Vec::new(),
                sighted: Vec::new(),
                store: None,
            },
            held: HashMap::new(),
            coming: Vec::new(),
            loss: 0.0,
            rng: SmallRng::seed_from_u64(11),
            ranges: true,
            delay: Duration::from_micros(500),
            requests: Vec::new(),
        }
    }

    /// A world whose listener has been up for a while and knows the endpoint.
    fn settled() -> World {
        let mut world = World::new();
        world.run(Duration::from_secs(3));
        world.meet();
        world
    }

    fn resume(&mut self, next: u64) {
        self.pipeline.resume(self.now, Some(&left_at(next)), |_| true);
    }

    fn meet(&mut self) {
        let flags = Advert::MULTICAST | if self.ranges { Advert::RANGES } else { 0 };
        self.pipeline.advert(self.now, &advert(flags));
    }

    /// The proxy sends: the endpoint hears it, the listener perhaps.
    fn send(&mut self, datagram: &[u8]) {
        self.store(datagram);
        self.arrive(Door::Groups, PROXY, datagram);
    }

    /// Sent, and lost on the way to the listener alone.
    fn lose(&mut self, datagram: &[u8]) {
        self.store(datagram);
    }

    fn store(&mut self, datagram: &[u8]) {
        let key = HashKey(u64::from_be_bytes(datagram[40..48].try_into().unwrap()));
        let seq = u64::from_be_bytes(datagram[48..56].try_into().unwrap());
        self.held.insert((key, seq), datagram.to_vec());
    }

    /// Comes to the listener's door, where it may be dropped.
    fn arrive(&mut self, door: Door, from: &str, datagram: &[u8]) {
        if self.rng.random::<f64>() < self.loss {
            return;
        }
        self.round(door, [(address(from), datagram.to_vec())].as_slice());
    }

    /// A batch passes.
    fn round<B: Batch + ?Sized>(&mut self, door: Door, batch: &B) {
        self.pipeline.begin(self.now, door, batch);
        self.commit(batch);
    }

    fn commit<B: Batch + ?Sized>(&mut self, batch: &B) {
        while self.pipeline.commit(self.now, batch, Turn::Last, &mut self.outside) == Next::Asked {}
    }

    /// What was queued for the consumer.
    fn delivered(&self) -> &[Vec<u8>] {
        &self.outside.frames
    }

    fn digest(&mut self, key: HashKey, highest: u64) {
        if self.rng.random::<f64>() < self.loss {
            return;
        }
        let entry =
            Entry { hash_key: key, highest: SeqNum(highest), group: GroupIndex(1), subtree_id: NO_TREE };
        self.pipeline.digest(self.now, address(PROXY).ip(), &entry);
    }

    /// Time passes; what becomes due happens.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.serve();
            let next = self.coming.iter().map(|c| c.0).chain([self.pipeline.next_timeout()]).min().unwrap();
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            self.commit::<[(SocketAddr, Vec<u8>)]>(&[]);
            let (due, coming) = std::mem::take(&mut self.coming).into_iter().partition(|c| c.0 <= self.now);
            self.coming = coming;
            for (_, door, datagram) in due {
                self.arrive(door, ENDPOINT, &datagram);
            }
        }
        self.now = end;
    }

    /// The endpoint answers what was asked of it.
    fn serve(&mut self) {
        for request in std::mem::take(&mut self.outside.requests) {
            assert_eq!(request.to, address(ENDPOINT));
            let nack = Nack::decode(&request.bytes).unwrap();
            self.requests.push(nack);
            if self.rng.random::<f64>() >= self.loss {
                self.answer(&nack);
            }
        }
    }

    fn answer(&mut self, nack: &Nack) {
        assert!(self.ranges || nack.start == nack.end, "a range to an endpoint that serves none");
        let at = self.now + self.delay;
        let mut not_found =
            Extended { hash_key: nack.hash_key, start: nack.start, end: nack.end, not_found: [0; 32] };
        let mut found = false;
        for seq in nack.start.0..=nack.end.0 {
            match self.held.get(&(nack.hash_key, seq)) {
                Some(datagram) => {
                    found = true;
                    self.coming.push((at, Door::Groups, datagram.clone()));
                }
                None => not_found.set_missing(SeqNum(seq)),
            }
        }
        let verdict = if found { Ack::Ack { multicast: true, unicast: false } } else { Ack::Miss };
        let seq_num = if found { nack.start } else { SeqNum(0) };
        let response = Response { verdict, seq_num, extended: self.ranges.then_some(not_found) };
        let mut out = [0; Response::MAX_LEN];
        let len = response.encode(&mut out);
        self.coming.push((at, Door::Replies, out[..len].to_vec()));
    }

    /// Every payload that was delivered, once each.
    #[track_caller]
    fn delivered_exactly(&self, payloads: impl Iterator<Item = Vec<u8>>) {
        let mut wanted: HashMap<Vec<u8>, i32> = payloads.map(|p| (p, 1)).collect();
        for frame in self.delivered() {
            *wanted.entry(frame[HEADER..].to_vec()).or_default() -= 1;
        }
        let wrong = wanted.values().filter(|n| **n != 0).count();
        assert_eq!(wrong, 0, "{wrong} payloads are missing (or came twice)");
    }

    fn counts(&mut self) -> Counts {
        self.pipeline.counts().clone()
    }

    fn dropped(&mut self, reason: DropReason) -> u64 {
        self.counts().dropped_for(reason)
    }
}

#[test]
fn a_frame_in_order_is_delivered_once_and_asks_for_nothing() {
    let mut world = World::settled();
    for seq in 1..=100 {
        world.send(&tx(seq));
        world.send(&tx(seq));
    }
    world.run(Duration::from_secs(5));
    world.delivered_exactly((1..=100).map(transaction));
    assert!(world.requests.iter().all(|nack| nack.start.0 == 101), "only the tail may be probed");
    assert_eq!(world.counts().duplicates, 100);
    assert_eq!(world.dropped(DropReason::Deduplicated), 100);
}

#[test]
fn lost_frames_in_the_head_and_the_middle_come_back_as_ranges() {
    let mut world = World::settled();
    for seq in 1..=1000 {
        match seq {
            1..=40 | 300..=620 => world.lose(&tx(seq)),
            _ => world.send(&tx(seq)),
        }
    }
    world.run(Duration::from_millis(400));
    world.delivered_exactly((1..=1000).map(transaction));
    let counts = world.counts();
    assert_eq!((counts.recovered, counts.open_gaps, counts.lost_total()), (361, 0, 0));
    assert_eq!(world.requests.len(), 3, "40, 256 and 65 numbers: {:?}", world.requests);
}

#[test]
fn a_listener_of_a_pair_asks_for_what_its_dead_sibling_may_have_had_in_hand() {
    let mut settings = settings();
    settings.track.catch_up = 300;
    let mut world = World::with(settings);
    world.meet();
    (601..1000).for_each(|seq| world.store(&tx(seq)));
    world.send(&tx(1000));
    world.run(Duration::from_secs(1));
    world.delivered_exactly((700..=1000).map(transaction));
    // What endpoints no longer hold is no loss of ours.
    world.send(&frame_of(Kind::Tx, HashKey(9), 5000, &NO_TREE, &transaction(5000)));
    world.run(Duration::from_secs(90));
    assert_eq!(world.counts().lost.count(Loss::Horizon), 0);
    assert_eq!(world.counts().lost.count(Loss::BeforeStart), 300);
}

/// Where the flow was left.
fn left(next: u64) -> Position {
    Position { key: FLOW, next, group: GroupIndex(1) }
}

/// As the shared store gives it to the next process.
fn left_at(next: u64) -> Positions {
    let address = address(ENDPOINT);
    let endpoint = Known { address, instance: 7, tier: 0, preference: 128, max_range: Some(256) };
    let positions = Positions { endpoints: vec![endpoint], flows: vec![left(next)] };
    Positions::decode(&positions.encode()).unwrap()
}

#[test]
fn a_listener_goes_on_where_the_one_before_it_was_and_waits_for_no_advert() {
    let mut settings = settings();
    settings.track.catch_up = 300;
    let mut world = World::with(settings);
    world.resume(150);
    (1..1000).for_each(|seq| world.store(&tx(seq)));
    world.send(&tx(1000));
    world.run(Duration::from_secs(1));
    world.delivered_exactly((150..=1000).map(transaction));
    let counts = world.counts();
    assert_eq!((counts.flows_resumed, counts.flows_without_position, counts.catch_up), (1, 0, 850));
}

#[test]
fn a_digest_is_enough_to_go_on_in_a_quiet_flow() {
    let mut world = World::new();
    world.resume(7);
    (1..=20).for_each(|seq| world.store(&tx(seq)));
    world.digest(FLOW, 20);
    world.run(Duration::from_secs(1));
    world.delivered_exactly((7..=20).map(transaction));
}

#[test]
fn what_lies_before_the_longest_jump_of_a_resumed_flow_is_counted_as_lost() {
    let mut settings = settings();
    settings.track.max_jump = 100;
    let mut world = World::with(settings);
    world.resume(10);
    (1..=1001).for_each(|seq| world.store(&tx(seq)));
    world.send(&tx(1000));
    world.send(&tx(1001));
    world.run(Duration::from_secs(1));
    world.delivered_exactly((901..=1001).map(transaction));
    assert_eq!(world.counts().lost.count(Loss::Jump), 891);
}

fn left_in(positions: &[Position]) -> Vec<(HashKey, u64)> {
    positions.iter().map(|position| (position.key, position.next)).collect()
}

#[test]
fn a_position_is_the_first_number_that_is_missing() {
    let mut world = World::settled();
    let mut positions = Vec::new();
    (1..=10).for_each(|seq| world.send(&tx(seq)));
    world.pipeline.reception.tracker.positions(9, &mut positions);
    assert_eq!(left_in(&positions), [(FLOW, 11)]);
    world.send(&tx(14));
    world.pipeline.reception.tracker.positions(9, &mut positions);
    assert_eq!(left_in(&positions), [(FLOW, 11)]);
    assert_eq!(world.pipeline.reception.tracker.positions(0, &mut positions), 1, "no place for one flow");
}

#[test]
fn a_position_that_was_resumed_stands_until_its_flow_is_seen() {
    let mut world = World::new();
    world.resume(150);
    let mut positions = Vec::new();
    world.run(Duration::from_secs(10));
    world.pipeline.reception.tracker.positions(9, &mut positions);
    assert_eq!(positions, [left(150)]);
}

#[test]
fn the_fragments_of_an_object_that_is_not_complete_hold_the_position_back() {
    let mut world = World::settled();
    let payload: Vec<u8> = (0..3000_u32).flat_map(u32::to_be_bytes).collect();
    let parts = fragments(&payload, 1);
    let mut positions = Vec::new();
    parts[..3].iter().for_each(|part| world.send(part));
    world.pipeline.reception.tracker.positions(9, &mut positions);
    assert_eq!(left_in(&positions), [(FLOW, 4)]);
    position::hold_back(&mut positions, &world.pipeline.reception.reassembler);
    assert_eq!(left_in(&positions), [(FLOW, 1)], "the object dies with this process");
    parts[3..].iter().for_each(|part| world.send(part));
    world.pipeline.reception.tracker.positions(9, &mut positions);
    position::hold_back(&mut positions, &world.pipeline.reception.reassembler);
    assert_eq!(left_in(&positions), [(FLOW, 1 + parts.len() as u64)]);
}

#[test]
fn a_position_is_kept_when_all_before_it_has_reached_the_consumer() {
    let mut settings = settings();
    settings.claims = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
    settings.positions = Some(0);
    let mut world = World::with(settings.clone());
    let store = Memory::new(1 << 20);
    world.outside.store = Some(store.clone());
    world.outside.consumer = Consumer::Waits;
    let mut key = Vec::new();
    Names::new(&settings.claims.prefix, settings.claims.keys).positions(0, &mut key);
    let kept = |world: &World| {
        let value = store.get(&key, world.now)?;
        Positions::decode(&value)?.flows.first().map(|position| position.next)
    };
    world.send(&tx(1));
    world.run(Duration::from_secs(1));
    assert_eq!((world.delivered().len(), kept(&world)), (1, None), "the consumer does not have it");
    world.outside.consumer = Consumer::Takes;
    world.run(Duration::from_secs(1));
    assert_eq!(kept(&world), Some(2));
}

#[test]
fn a_digest_brings_back_the_tail_of_a_flow() {
    let mut world = World::settled();
    (1..=10).for_each(|seq| world.send(&tx(seq)));
    (11..=20).for_each(|seq| world.lose(&tx(seq)));
    world.digest(FLOW, 20);
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=20).map(transaction));
}

#[test]
fn a_digest_brings_back_a_flow_of_one_frame_that_was_lost_whole() {
    let mut world = World::settled();
    world.lose(&tx(1));
    world.digest(FLOW, 1);
    world.run(Duration::from_secs(1));
    world.delivered_exactly([transaction(1)].into_iter());
}

#[test]
fn a_digest_that_overtakes_its_frames_asks_for_nothing() {
    let mut world = World::settled();
    world.digest(FLOW, 3);
    world.run(Duration::from_millis(2));
    (1..=3).for_each(|seq| world.send(&tx(seq)));
    world.run(Duration::from_secs(1));
    assert_eq!(world.requests.len(), 0);
    assert_eq!(world.counts().reordered, 3);
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn the_tail_of_a_sender_that_died_before_its_digest_is_probed_for() {
    let mut world = World::settled();
    (1..=10).for_each(|seq| world.send(&tx(seq)));
    world.digest(FLOW, 10);
    (11..=12).for_each(|seq| world.lose(&tx(seq)));
    world.run(Duration::from_secs(10));
    world.delivered_exactly((1..=12).map(transaction));
}

#[test]
fn a_tail_without_digest_is_probed_for() {
    let mut world = World::settled();
    (1..=10).for_each(|seq| world.send(&tx(seq)));
    world.lose(&tx(11));
    world.run(Duration::from_secs(3));
    world.delivered_exactly((1..=11).map(transaction));
    let probes = world.counts().tail_probes;
    world.run(Duration::from_secs(60));
    assert!(world.counts().tail_probes <= probes + 3, "probing ends");
}

#[test]
fn the_tail_of_a_flow_that_only_its_position_names_is_probed_for_to_its_end() {
    let mut world = World::new();
    world.resume(7);
    (1..=900).for_each(|seq| world.lose(&tx(seq)));
    world.run(Duration::from_secs(5));
    world.delivered_exactly((7..=900).map(transaction));
    let counts = world.counts();
    assert_eq!((counts.flows_resumed, counts.open_gaps, counts.lost_total()), (1, 0, 0));
    let probes = counts.tail_probes;
    world.run(Duration::from_secs(120));
    assert!(world.counts().tail_probes <= probes + 5, "probing ends");
}

#[test]
fn a_repair_that_a_probe_brought_and_the_way_lost_is_asked_for_again() {
    let mut world = World::new();
    world.resume(1);
    (1..=3).for_each(|seq| world.lose(&tx(seq)));
    world.delay = Duration::from_millis(5);
    while world.requests.is_empty() {
        world.run(Duration::from_millis(1));
    }
    // The reply comes, the frames do not.
    world.coming.retain(|(_, door, _)| *door == Door::Replies);
    world.run(Duration::from_secs(2));
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn under_a_third_of_everything_lost_a_silent_flow_is_found_all_the_same() {
    let mut world = World::new();
    world.loss = 0.33;
    world.resume(1);
    (1..=40).for_each(|seq| world.lose(&tx(seq)));
    world.run(Duration::from_secs(30));
    world.delivered_exactly((1..=40).map(transaction));
}

#[test]
fn an_endpoint_of_the_go_stack_is_probed_for_one_number_after_the_other() {
    let mut world = World::new();
    world.ranges = false;
    let mut positions = left_at(1);
    positions.endpoints[0].max_range = None;
    world.pipeline.resume(world.now, Some(&positions), |_| true);
    (1..=30).for_each(|seq| world.lose(&tx(seq)));
    world.run(Duration::from_secs(10));
    world.delivered_exactly((1..=30).map(transaction));
}

#[test]
fn a_silent_flow_of_which_no_endpoint_speaks_is_counted_and_named() {
    let mut world = World::new();
    world.loss = 1.0;
    world.resume(7);
    world.run(Duration::from_secs(60));
    let mut unconfirmed = Vec::new();
    world.pipeline.take_unconfirmed(&mut unconfirmed);
    assert_eq!(unconfirmed, [(FLOW, 7)]);
    assert_eq!(world.counts().flows_unconfirmed, 1);
}

#[test]
fn what_a_probe_shows_and_nobody_holds_is_counted_as_lost() {
    let mut world = World::new();
    world.resume(5);
    (7..=8).for_each(|seq| world.lose(&tx(seq)));
    world.run(Duration::from_secs(90));
    world.delivered_exactly((7..=8).map(transaction));
    assert_eq!(world.counts().lost.count(Loss::BeforeStart), 2, "5 and 6");
}

#[test]
fn flows_of_other_workers_and_of_refused_shards_are_not_resumed() {
    let mut world = World::new();
    world.pipeline.resume(world.now, Some(&left_at(7)), |group| group != GroupIndex(1));
    let shard_include = vec![2..=3];
    let filter = FilterRules { shard_include, ..settings().filter };
    let mut filtered = World::with(Settings { filter, ..settings() });
    filtered.resume(7);
    assert_eq!((world.counts().flows_unheard, filtered.counts().flows_unheard), (0, 0));
}

#[test]
fn a_retry_endpoint_may_speak_for_a_sender_that_the_source_filter_admitted() {
    let sender_include = vec!["fd00::a/128".parse().unwrap()];
    let filter = FilterRules { sender_include, ..settings().filter };
    let mut world = World::with(Settings { filter, ..settings() });
    world.run(Duration::from_secs(3));
    world.meet();
    world.send(&tx(1));
    (2..=4).for_each(|seq| world.lose(&tx(seq)));
    let entry = |key, highest| Entry {
        hash_key: key,
        highest: SeqNum(highest),
        group: GroupIndex(1),
        subtree_id: NO_TREE,
    };
    world.pipeline.digest(world.now, address("[fd00::bad]:1").ip(), &entry(FLOW, 4));
    world.pipeline.digest(world.now, address(ENDPOINT).ip(), &entry(HashKey(77), 4));
    assert_eq!((world.dropped(DropReason::SenderFilter), world.counts().open_gaps), (2, 0));
    world.pipeline.digest(world.now, address(ENDPOINT).ip(), &entry(FLOW, 4));
    world.run(Duration::from_millis(500));
    world.delivered_exactly((1..=4).map(transaction));
}

#[test]
fn a_forged_digest_cannot_have_the_gaps_of_a_wanted_flow_passed_over() {
    let mut world = World::settled();
    world.send(&tx(1));
    let group = GroupIndex(0x7FFF);
    let forged = Entry { hash_key: FLOW, highest: SeqNum(3), group, subtree_id: NO_TREE };
    world.pipeline.digest(world.now, address(PROXY).ip(), &forged);
    (2..=3).for_each(|seq| world.lose(&tx(seq)));
    world.send(&tx(4));
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=4).map(transaction));
}

#[test]
fn reordering_within_the_delay_asks_for_nothing() {
    let mut world = World::settled();
    for seq in [1, 3, 2, 4, 6, 7, 5, 8] {
        world.send(&tx(seq));
        world.run(Duration::from_micros(300));
    }
    world.run(Duration::from_millis(400));
    assert_eq!(world.requests, []);
    assert_eq!(world.counts().reordered, 2);
    world.delivered_exactly((1..=8).map(transaction));
}

#[test]
fn three_later_frames_end_the_wait_for_a_reordered_one() {
    let mut world = World::settled();
    for seq in [1, 3, 4, 5] {
        world.send(&tx(seq));
    }
    world.serve();
    assert_eq!(world.requests.len(), 1);
}

#[test]
fn under_a_fifth_of_everything_lost_every_frame_comes_once() {
    let mut world = World::settled();
    world.loss = 0.2;
    for burst in 0..100 {
        for seq in burst * 50 + 1..=burst * 50 + 50 {
            world.send(&tx(seq));
        }
        world.run(Duration::from_millis(1));
    }
    for _ in 0..20 {
        world.digest(FLOW, 5000);
        world.run(Duration::from_millis(100));
    }
    world.delivered_exactly((1..=5000).map(transaction));
    let counts = world.counts();
    assert_eq!((counts.open_gaps, counts.lost_total()), (0, 0));
    assert!(
        counts.nacks < 4 * counts.gaps_detected,
        "{} requests for {}",
        counts.nacks,
        counts.gaps_detected
    );
}

#[test]
fn an_endpoint_of_the_go_stack_gets_single_numbers_below_its_limit() {
    let mut world = World::new();
    world.ranges = false;
    world.run(Duration::from_secs(3));
    world.meet();
    for seq in 1..=500 {
        if seq % 5 == 0 { world.lose(&tx(seq)) } else { world.send(&tx(seq)) }
    }
    world.digest(FLOW, 500);
    world.run(Duration::from_secs(1));
    assert!(world.requests.len() <= 100, "{} in one second", world.requests.len());
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=500).map(transaction));
}

#[test]
fn a_forged_ack_closes_nothing() {
    let mut world = World::settled();
    world.send(&tx(1));
    world.send(&tx(3));
    world.run(Duration::from_millis(4));
    let forged =
        Response { verdict: Ack::Ack { multicast: true, unicast: true }, seq_num: SeqNum(2), extended: None };
    let mut out = [0; Response::MAX_LEN];
    let len = forged.encode(&mut out);
    for from in [ENDPOINT, "[fd00::bad]:9300"] {
        world.arrive(Door::Replies, from, &out[..len]);
    }
    assert_eq!(world.counts().open_gaps, 1);
    assert_eq!(world.dropped(DropReason::UnknownRepairSource), 1);
}

#[test]
fn a_jump_that_one_frame_claims_is_held_and_that_two_confirm_is_bounded_and_counted() {
    let mut world = World::settled();
    world.send(&tx(1));
    world.send(&tx(1 << 60));
    assert_eq!((world.counts().jumps_held, world.counts().open_gaps), (1, 0));
    world.send(&tx(2));
    assert_eq!(world.counts().open_gaps, 0, "the flow goes on where it was");
    world.send(&tx((1 << 60) + 1));
    let counts = world.counts();
    let bound = TrackLimits::default().max_jump;
    assert!(counts.open_gaps < bound);
    assert_eq!(counts.lost_total() + counts.open_gaps, (1 << 60) - 3);
    assert_eq!(world.delivered().len(), 4, "what arrived is delivered all the same");
}

#[test]
fn what_no_endpoint_has_is_given_up_at_the_horizon_and_counted() {
    let mut world = World::settled();
    world.send(&tx(1));
    world.send(&tx(3));
    world.run(Duration::from_secs(59));
    assert_eq!(world.counts().open_gaps, 1);
    assert!(world.requests.len() > 10);
    world.run(Duration::from_secs(2));
    let counts = world.counts();
    assert_eq!((counts.open_gaps, counts.lost.count(Loss::Horizon)), (0, 1));
    let mut losses = Vec::new();
    world.pipeline.take_losses(&mut losses);
    assert_eq!(losses, [Lost { key: FLOW, first: 2, last: 2, why: gap_track::Loss::Horizon }]);
}

#[test]
fn without_an_endpoint_gaps_wait_for_one() {
    let mut world = World::new();
    world.run(Duration::from_secs(3));
    world.send(&tx(1));
    world.lose(&tx(2));
    world.send(&tx(3));
    world.run(Duration::from_secs(20));
    assert_eq!(world.requests, []);
    world.meet();
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn a_frame_that_fails_its_hash_is_not_delivered_and_its_number_stays_missing() {
    let mut world = World::settled();
    world.send(&tx(1));
    world.lose(&tx(2));
    let mut forged = tx(2);
    *forged.last_mut().unwrap() ^= 1;
    world.arrive(Door::Groups, PROXY, &forged);
    assert_eq!(world.dropped(DropReason::PayloadHash), 1);
    world.send(&tx(3));
    assert_eq!(world.counts().open_gaps, 1);
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn ranges_of_a_refused_subtree_are_not_requested() {
    let mut settings = settings();
    let other = [9; 32];
    settings.filter.subtree_exclude = vec![other];
    let mut world = World::with(settings);
    world.run(Duration::from_secs(3));
    world.meet();
    let frame = |seq| frame_of(Kind::Tx, HashKey(0xBAD), seq, &other, &transaction(seq));
    for seq in [1, 2, 50, 51] {
        world.send(&frame(seq));
    }
    world.run(Duration::from_secs(5));
    assert_eq!(world.requests, []);
    assert_eq!(world.dropped(DropReason::SubtreeExclude), 4);
    assert_eq!(world.counts().gaps_detected, 0);
}

#[test]
fn a_refused_frame_cannot_hide_the_losses_of_a_wanted_flow() {
    let mut settings = settings();
    let other = [9; 32];
    settings.filter.subtree_exclude = vec![other];
    let mut world = World::with(settings);
    world.run(Duration::from_secs(3));
    world.meet();
    world.send(&tx(1));
    world.lose(&tx(2));
    world.arrive(Door::Groups, PROXY, &frame_of(Kind::Tx, FLOW, 3, &other, &transaction(99)));
    assert_eq!(world.counts().flow_mismatch, 1);
    world.send(&tx(3));
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn the_flow_table_is_bounded_and_refusals_are_counted() {
    let mut settings = settings();
    settings.track.max_flows = 100;
    let mut world = World::with(settings);
    world.run(Duration::from_secs(3));
    for key in 0..1000 {
        world.arrive(Door::Groups, PROXY, &frame_of(Kind::Tx, HashKey(key), 1, &NO_TREE, &transaction(key)));
    }
    let counts = world.counts();
    assert_eq!((counts.flows, counts.flows_refused), (100, 900));
    world.delivered_exactly((0..1000).map(transaction));
    world.run(Duration::from_secs(30));
    world.arrive(Door::Groups, PROXY, &frame_of(Kind::Tx, HashKey(5000), 1, &NO_TREE, &transaction(5000)));
    assert_eq!(world.counts().flows_evicted, 1, "idle flows make room");
}

#[test]
fn a_flow_that_returns_after_its_rest_owes_only_what_came_since() {
    let mut world = World::settled();
    (1..=50).for_each(|seq| world.send(&tx(seq)));
    world.digest(FLOW, 50);
    world.run(Duration::from_secs(700));
    assert_eq!(world.counts().flows, 0);
    world.meet();
    world.lose(&tx(51));
    world.send(&tx(52));
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=52).map(transaction));
    assert_eq!(world.counts().gaps_detected, 1);
}

#[test]
fn history_from_before_the_start_is_not_owed() {
    let mut world = World::new();
    world.meet();
    (1..=500).for_each(|seq| world.lose(&tx(seq)));
    world.send(&tx(501));
    world.digest(HashKey(77), 1000);
    world.run(Duration::from_secs(5));
    assert_eq!(world.counts().gaps_detected, 0);
}

#[test]
fn a_sender_that_begins_anew_under_its_old_key_is_followed() {
    let mut world = World::settled();
    (1..=200).for_each(|seq| world.send(&tx(seq)));
    let again = |seq| frame_of(Kind::Tx, FLOW, seq, &NO_TREE, &transaction(10_000 + seq));
    for seq in 1..=20 {
        if seq == 15 { world.lose(&again(seq)) } else { world.send(&again(seq)) }
    }
    world.run(Duration::from_secs(1));
    assert_eq!(world.counts().restarts, 1);
    world.delivered_exactly((1..=200).chain(10_001..=10_020).map(transaction));
}

#[test]
fn repairs_of_old_numbers_for_others_are_no_restart() {
    let mut world = World::new();
    world.meet();
    world.send(&tx(5000));
    for seq in 100..=130 {
        world.arrive(Door::Groups, ENDPOINT, &tx(seq));
    }
    world.send(&tx(5001));
    assert_eq!((world.counts().restarts, world.counts().gaps_detected), (0, 0));
}

fn fragments(payload: &[u8], first_seq: u64) -> Vec<Vec<u8>> {
    let plan = frame::fragment::FragmentPlan::new(payload.len(), 600).unwrap();
    let id = frame::tx::sha256d(payload);
    (0..plan.total)
        .map(|index| {
            let data = &payload[plan.range(index)];
            let fields = frame::fragment::FragmentFields {
                msg_type: 0,
                id: &id,
                second_id: &NO_TREE,
                hash_key: FLOW,
                seq_num: SeqNum(first_seq + u64::from(index)),
                original_len: plan.payload_len,
                index,
                total: plan.total,
                original_version: 0,
            };
            let mut out = vec![0; frame::fragment::HEADER + data.len()];
            frame::fragment::encode(&fields, data, &mut out).unwrap();
            out
        })
        .collect()
}

#[test]
fn a_lost_fragment_is_repaired_and_the_frame_carries_the_first_number() {
    let mut world = World::settled();
    let payload: Vec<u8> = (0..3000_u32).flat_map(u32::to_be_bytes).collect();
    let parts = fragments(&payload, 1);
    for (index, part) in parts.iter().enumerate().rev() {
        if index == 3 { world.lose(part) } else { world.send(part) }
    }
    world.run(Duration::from_secs(1));
    world.delivered_exactly([payload].into_iter());
    let frame = DataFrame::decode(&world.delivered()[0]).unwrap();
    assert_eq!((frame.kind, frame.seq_num, frame.hash_key), (Kind::Tx, SeqNum(1), FLOW));
    world.send(&parts[0]);
    assert_eq!(world.dropped(DropReason::LateFragment), 1);
    assert_eq!(world.counts().reassembly_bytes, 0);
}

#[test]
fn a_forged_fragment_costs_a_repair_and_not_the_object() {
    let mut world = World::settled();
    let payload: Vec<u8> = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
    let parts = fragments(&payload, 1);
    let mut forged = parts[2].clone();
    *forged.last_mut().unwrap() ^= 1;
    for part in &parts {
        world.store(part);
    }
    world.arrive(Door::Groups, PROXY, &forged);
    for part in &parts {
        world.arrive(Door::Groups, PROXY, part);
    }
    assert_eq!(world.counts().reassembly_hash_mismatch, 1);
    world.run(Duration::from_secs(2));
    world.delivered_exactly([payload].into_iter());
}

#[test]
fn a_unicast_repair_is_taken_only_from_an_endpoint_and_only_for_an_open_gap() {
    let mut world = World::settled();
    world.send(&tx(1));
    world.arrive(Door::Replies, ENDPOINT, &tx(2));
    assert_eq!(world.dropped(DropReason::UnsolicitedRepair), 1);
    world.send(&tx(3));
    world.arrive(Door::Replies, "[fd00::bad]:9300", &tx(2));
    assert_eq!(world.delivered().len(), 2);
    world.arrive(Door::Replies, ENDPOINT, &tx(2));
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn repairs_pass_the_source_filter_that_admits_only_proxies() {
    let mut settings = settings();
    settings.filter.sender_include = vec!["fd00::a".parse().unwrap()];
    let mut world = World::with(settings);
    world.run(Duration::from_secs(3));
    world.meet();
    world.send(&tx(1));
    world.lose(&tx(2));
    world.send(&tx(3));
    world.arrive(Door::Groups, "[fd00::bad]:1", &tx(9));
    world.arrive(Door::Groups, ENDPOINT, &tx(8));
    assert_eq!(world.dropped(DropReason::SenderFilter), 2);
    world.run(Duration::from_secs(1));
    world.delivered_exactly((1..=3).map(transaction));
}

#[test]
fn a_frame_the_consumer_did_not_get_may_come_again() {
    let mut world = World::settled();
    world.outside.consumer = Consumer::Fails;
    for times in 1..=2 {
        world.arrive(Door::Groups, PROXY, &tx(1));
        assert_eq!(world.delivered().len(), times);
    }
    assert_eq!(world.dropped(DropReason::EgressError), 2);
}

#[test]
fn what_found_a_full_queue_is_asked_for_when_there_is_room() {
    let mut world = World::settled();
    let payload: Vec<u8> = (0..1000_u32).flat_map(u32::to_be_bytes).collect();
    let parts = fragments(&payload, 2);
    let batch: Vec<_> = [tx(1)].into_iter().chain(parts).map(|datagram| (address(PROXY), datagram)).collect();
    batch.iter().for_each(|(_, datagram)| world.store(datagram));
    world.outside.room = false;
    world.round(Door::Groups, batch.as_slice());
    assert_eq!(world.dropped(DropReason::ConsumerQueueFull), 2);
    world.run(Duration::from_secs(2));
    assert_eq!(world.requests, [], "no room yet");
    world.outside.room = true;
    world.run(Duration::from_secs(1));
    world.delivered_exactly([transaction(1), payload].into_iter());
    assert_eq!(world.dropped(DropReason::ConsumerQueueFull), 2);
}

/// A listener with siblings: what it has not seen waits for the store, which answers at once.
fn sharing() -> World {
    let claims = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
    let mut world = World::with(Settings { claims, ..settings() });
    world.outside.store = Some(Memory::new(1 << 20));
    world
}

#[test]
fn a_kept_frame_that_finds_no_room_is_missing_again() {
    let mut world = sharing();
    world.outside.room = false;
    world.send(&tx(1));
    let counts = world.counts();
    assert_eq!((counts.claims_waited, counts.dropped_for(DropReason::ConsumerQueueFull)), (1, 1));
    assert_eq!((counts.open_gaps, counts.waiting_bytes), (1, 0));
    world.outside.room = true;
    world.meet();
    world.run(Duration::from_secs(1));
    world.delivered_exactly([transaction(1)].into_iter());
}

#[test]
fn a_process_that_stood_still_between_claim_and_delivery_asks_again() {
    let mut world = sharing();
    let batch = [(address(PROXY), tx(1))];
    world.pipeline.begin(world.now, Door::Groups, batch.as_slice());
    let asked = world.pipeline.commit(world.now, batch.as_slice(), Turn::Last, &mut world.outside);
    assert_eq!(asked, Next::Asked);
    world.now += Duration::from_secs(30);
    world.commit(batch.as_slice());
    assert_eq!(world.delivered().len(), 0, "its lease is over");
    world.run(Duration::from_secs(1));
    world.delivered_exactly([transaction(1)].into_iter());
}

#[test]
fn between_the_batches_of_a_turn_the_consumer_is_not_woken() {
    let mut world = World::new();
    let batch = [(address(PROXY), tx(1))];
    world.pipeline.begin(world.now, Door::Groups, batch.as_slice());
    while world.pipeline.commit(world.now, batch.as_slice(), Turn::More, &mut world.outside) == Next::Asked {}
    assert_eq!((world.outside.queued.len(), world.counts().delivered), (1, 0));
    world.commit::<[(SocketAddr, Vec<u8>)]>(&[]);
    assert_eq!((world.outside.queued.len(), world.counts().delivered), (0, 1));
}

#[test]
fn a_draining_endpoint_is_left_at_once_and_a_given_one_stays() {
    let now = Instant::now();
    let mut registry = Registry::new(&[address("[fd00::5]:9300")], 90.0);
    assert_eq!(registry.advert(now, &advert(Advert::MULTICAST)), Change::Added);
    assert_eq!(registry.advert(now, &advert(Advert::MULTICAST)), Change::Refreshed);
    assert!(registry.knows(address(ENDPOINT)));
    assert_eq!(registry.advert(now, &advert(Advert::DRAINING)), Change::Removed);
    assert!(!registry.knows(address(ENDPOINT)));
    registry.advert(now, &advert(Advert::MULTICAST));
    registry.expire(now + Duration::from_secs(181));
    assert_eq!(registry.len(), 1);
    for instance in 0..200 {
        registry.advert(now, &Advert { instance_id: instance, tier: 9, ..advert(Advert::MULTICAST) });
    }
    assert_eq!(registry.len(), MAX_ENDPOINTS);
    assert_eq!(
        registry.advert(now, &Advert { instance_id: 999, ..advert(Advert::MULTICAST) }),
        Change::Added,
        "a nearer tier finds room"
    );
}

#[test]
fn garbage_and_lying_lengths_are_counted_and_cost_nothing() {
    let mut world = World::settled();
    let mut rng = SmallRng::seed_from_u64(1);
    let good = tx(1);
    for round in 0..20_000 {
        let mut datagram = if round % 2 == 0 { good.clone() } else { fragments(&[7; 2000], 1)[1].clone() };
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..datagram.len());
            datagram[at] = rng.random();
        }
        datagram.truncate(rng.random_range(0..=datagram.len()));
        let door = if round % 3 == 0 { Door::Replies } else { Door::Groups };
        world.arrive(door, ENDPOINT, &datagram);
    }
    world.run(Duration::from_secs(1));
    let counts = world.counts();
    assert_eq!(counts.received_by_version.iter().sum::<u64>(), counts.received);
    assert!(counts.reassembly_bytes <= 256 << 20);
}

#[test]
fn a_block_header_is_emitted_once_for_each_announcement() {
    let mut settings = settings();
    settings.header_origin = Some(Origin([1; 16]));
    let mut world = World::with(settings);
    let payload = [5; 120];
    let id = frame::block::header_hash(payload[..80].try_into().unwrap());
    let fields = frame::data::HeaderFields {
        kind: Kind::Block,
        msg_type: 1,
        id: &id,
        hash_key: FLOW,
        seq_num: SeqNum(1),
        second_id: &NO_TREE,
        payload_len: 120,
    };
    let mut block = vec![0; HEADER + 120];
    frame::data::encode_header(&fields, &mut block).unwrap();
    block[HEADER..].copy_from_slice(&payload);
    world.send(&block);
    world.send(&block);
    let headers = &world.outside.headers;
    assert_eq!(headers.len(), 1);
    let header = DataFrame::decode(&headers[0]).unwrap();
    assert_eq!((header.kind, header.id, header.payload), (Kind::BlockHeader, &id, &payload[..80]));
}

#[test]
fn subtree_data_that_repeats_its_end_does_not_pass_for_the_subtree() {
    let data = |leaves: &[Id]| {
        let nodes = Nodes::Hashes(leaves);
        let mut payload = [0; 200];
        let data = SubtreeData { total_fees: 0, total_size: 0, nodes, conflicts: &[] };
        let len = data.encode(&mut payload).unwrap();
        payload[..len].to_vec()
    };
    let leaves = [[1; 32], [2; 32], [3; 32]];
    let root = frame::block::merkle_root(&mut leaves.map(TxId));
    let verdict = |leaves: &[Id]| {
        let payload = data(leaves);
        let frame = DataFrame {
            kind: Kind::Subtree,
            msg_type: 1,
            id: &root,
            hash_key: FLOW,
            seq_num: SeqNum(1),
            second_id: &NO_TREE,
            payload: &payload,
        };
        verify(&frame, &VerifyRules::default(), None)
    };
    assert_eq!(verdict(&leaves), Ok(()));
    let repeated = [leaves[0], leaves[1], leaves[2], leaves[2]];
    assert_eq!(verdict(&repeated), Err(DropReason::PayloadHash));
}

#[test]
fn classes_of_claims_follow_the_kind() {
    let frame = frame_of(Kind::Anchor, FLOW, 1, &NO_TREE, b"x");
    let frame = DataFrame::decode(&frame).unwrap();
    assert_eq!(claim_key(&frame), Some(ClaimKey { class: Class::Anchor, id: *frame.id }));
}

#[test]
fn a_stream_queue_sends_again_what_was_not_acknowledged_whole() {
    let mut queue = StreamQueue::new(100);
    let handed = |n| Handed { ticket: None, wire_len: n, flow: None };
    queue.push(b"first", handed(1)).unwrap();
    queue.push(b"second", handed(2)).unwrap();
    assert_eq!(queue.unwritten().0, b"\0\0\0\x05first\0\0\0\x06second");
    queue.wrote(19);
    let mut done = Vec::new();
    queue.acknowledged(5, |handed| done.push(handed.wire_len));
    assert_eq!(done, [1]);
    queue.rewind();
    let (front, back) = queue.unwritten();
    assert_eq!([front, back].concat(), b"\0\0\0\x06second");
    assert_eq!(queue.push(&[0; 90], handed(3)), Err(Full));
    queue.wrote(10);
    queue.acknowledged(0, |handed| done.push(handed.wire_len));
    assert_eq!(done, [1, 2]);
    assert!(queue.is_empty());
}

#[test]
fn a_datagram_queue_forms_runs_of_equal_length_with_one_shorter_end() {
    let mut queue = DatagramQueue::new(1 << 20);
    for len in [100, 300, 100, 300, 300, 50] {
        queue.push(&vec![1; len], Handed { ticket: None, wire_len: 0, flow: None }).unwrap();
    }
    let mut runs = Vec::new();
    queue.runs(64, &mut runs);
    let runs: Vec<_> = runs.iter().map(|run| (run.segment, run.count)).collect();
    assert_eq!(runs, [(300, 4), (100, 2)]);
    queue.left(6, |_| ());
    assert!(queue.is_empty());

    let mut queue = DatagramQueue::new(1000);
    let mut accepted = 0;
    for round in 0..100_u8 {
        while queue.push(&[round; 100], Handed { ticket: None, wire_len: 100, flow: None }).is_ok() {
            accepted += 1;
        }
        assert_eq!(queue.len(), 1000);
        queue.left(3, |_| ());
        let last = queue.datagrams().last().unwrap();
        assert_eq!(queue.memory()[last.start as usize..][..100], [round; 100]);
    }
    assert_eq!(accepted, 10 + 99 * 3);
}

#[test]
fn a_frame_that_found_no_place_to_wait_answers_its_claim_like_any_other() {
    let mut settings = settings();
    settings.claims = ClaimsConfig { tier2: true, ..ClaimsConfig::default() };
    settings.waiting_bytes = 0;
    let mut world = World::with(settings);
    world.outside.consumer = Consumer::Waits;
    world.arrive(Door::Groups, PROXY, &tx(1));
    assert!(world.outside.queued[0].ticket.is_some(), "so that it is known whether the consumer has it");
    world.arrive(Door::Groups, PROXY, &tx(1));
    assert_eq!(world.delivered().len(), 1);
    // The consumer has no room: endpoints are asked again, and what they send is no duplicate.
    world.outside.room = false;
    world.arrive(Door::Groups, PROXY, &tx(2));
    assert_eq!((world.delivered().len(), world.counts().open_gaps), (1, 1));
    world.outside.room = true;
    world.arrive(Door::Groups, PROXY, &tx(2));
    assert_eq!((world.delivered().len(), world.counts().open_gaps), (2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the order, the loss and the copies on the way: with an endpoint that has everything, every number is
    /// delivered exactly once.
    #[test]
    fn every_number_is_delivered_exactly_once(
        seed: u64,
        count in 1_u64..400,
        loss in 0.0..0.45,
        copies in 0.0..0.3,
        disorder in 0_u64..20,
    ) {
        let mut world = World::settled();
        world.rng = SmallRng::seed_from_u64(seed);
        world.loss = loss;
        let mut order: Vec<u64> = (1..=count).collect();
        order.sort_by_cached_key(|seq| seq + world.rng.random_range(0..=disorder));
        for seq in order {
            world.send(&tx(seq));
            while world.rng.random::<f64>() < copies {
                world.arrive(Door::Groups, PROXY, &tx(seq));
            }
            if world.rng.random::<f64>() < 0.2 {
                world.run(Duration::from_micros(400));
            }
        }
        for _ in 0..50 {
            world.digest(FLOW, count);
            world.run(Duration::from_secs(1));
        }
        let got: HashSet<&[u8]> = world.delivered().iter().map(|frame| &frame[HEADER..]).collect();
        prop_assert_eq!(got.len() as u64, count);
        prop_assert_eq!(world.delivered().len() as u64, count);
        prop_assert_eq!(world.counts().lost_total(), 0);
    }
}

/// One datagram as the socket brings it when marks are on.
struct Addressed {
    from: SocketAddr,
    to: Option<IpAddr>,
    bytes: Vec<u8>,
}

impl Batch for Addressed {
    fn len(&self) -> usize {
        1
    }
    fn source(&self, _: usize) -> SocketAddr {
        self.from
    }
    fn bytes(&self, _: usize) -> &[u8] {
        &self.bytes
    }
    fn destination(&self, _: usize) -> Option<IpAddr> {
        self.to
    }
}

const FABRIC: Fabric = Fabric::V4 { net: 7 };

fn marking() -> World {
    World::with(Settings { marks: Some(FABRIC), ..settings() })
}

impl World {
    fn come(&mut self, door: Door, from: &str, to: Option<IpAddr>, datagram: &[u8]) -> Vec<Sighted> {
        let batch = Addressed { from: address(from), to, bytes: datagram.to_vec() };
        self.round(door, &batch);
        std::mem::take(&mut self.outside.sighted)
    }

    /// From a proxy, to the group of its id.
    fn come_by_multicast(&mut self, datagram: &[u8]) -> Vec<Sighted> {
        self.come(Door::Groups, PROXY, group_of(datagram), datagram)
    }

    fn withheld(&mut self, why: Withheld) -> u64 {
        self.counts().marks_withheld[why.index()]
    }
}

fn group_of(datagram: &[u8]) -> Option<IpAddr> {
    let group = ShardBits::new(2).unwrap().group_of(datagram[8..40].try_into().unwrap());
    Some(FABRIC.address(group))
}

#[test]
fn a_new_verified_transaction_that_came_by_multicast_is_marked_once() {
    let mut world = marking();
    let seen = world.come_by_multicast(&tx(1));
    let id = *frame::tx::sha256d(&transaction(1)).first_chunk().unwrap();
    assert_eq!(seen, [Sighted { key: ClaimKey { class: Class::Tx, id }, flow: FLOW.0, number: 1 }]);
    assert_eq!(world.come_by_multicast(&tx(1)), [], "a copy under its number");
    assert_eq!(
        world.come_by_multicast(&frame_of(Kind::Tx, HashKey(7), 1, &NO_TREE, &transaction(1))),
        [],
        "or another"
    );
    assert_eq!(world.come_by_multicast(&tx(3)).len(), 1);
    assert_eq!(world.come_by_multicast(&tx(2)).len(), 1, "reordered");
    let mut old = frame_of(Kind::Tx, FLOW, 0, &NO_TREE, &transaction(9));
    old.drain(44..92);
    old[6] = 1;
    old[40..44].copy_from_slice(&u32::try_from(transaction(9).len()).unwrap().to_be_bytes());
    assert_eq!(world.counts().marks_withheld, [0; Withheld::ALL.len()]);
    assert_eq!(world.come_by_multicast(&old), [], "V1: nobody who lost it can ask for it");
    let unnumbered = frame_of(Kind::Tx, HashKey(0), 0, &NO_TREE, &transaction(10));
    assert_eq!(world.come_by_multicast(&unnumbered), []);
    assert_eq!(world.withheld(Withheld::Unnumbered), 2);
}

#[test]
fn what_one_datagram_to_one_listener_could_bring_is_not_marked() {
    let mut world = marking();
    let mut forged = tx(1);
    forged[8] ^= 1;
    assert_eq!(world.come_by_multicast(&forged), [], "not the payload of its id");
    let here = Some(IpAddr::from([10, 0, 0, 1]));
    assert_eq!(world.come(Door::Groups, PROXY, here, &tx(2)), [], "unicast");
    assert_eq!(world.come(Door::Groups, PROXY, None, &tx(3)), [], "nobody knows");
    let Some(IpAddr::V4(group)) = group_of(&tx(4)) else { unreachable!() };
    let other = IpAddr::V4(std::net::Ipv4Addr::from_bits(group.to_bits() ^ 1));
    assert_eq!(world.come(Door::Groups, PROXY, Some(other), &tx(4)), [], "another group than its own");
    assert_eq!(world.withheld(Withheld::Unicast), 3);
}

#[test]
fn repairs_and_replays_are_not_marked() {
    let mut world = marking();
    world.run(Duration::from_secs(3));
    world.meet();
    assert_eq!(world.come_by_multicast(&tx(1)).len(), 1);
    assert_eq!(world.come_by_multicast(&tx(5)).len(), 1);
    world.run(Duration::from_millis(20));
    assert!(!world.requests.is_empty());
    assert_eq!(world.come(Door::Replies, ENDPOINT, None, &tx(2)), [], "unicast");
    assert_eq!(world.withheld(Withheld::Unicast), 1);
    assert_eq!(world.come(Door::Groups, ENDPOINT, group_of(&tx(3)), &tx(3)), [], "multicast, asked for");
    assert_eq!(world.come_by_multicast(&tx(4)), [], "asked for, whoever brings it");
    let unasked = tx(6);
    assert_eq!(world.come(Door::Groups, ENDPOINT, group_of(&unasked), &unasked), [], "an endpoint's replay");
    let behind = frame_of(Kind::Tx, FLOW, 1, &NO_TREE, &transaction(77));
    assert_eq!(world.come_by_multicast(&behind), [], "a new id under an old number");
    assert_eq!(world.withheld(Withheld::Repair), 4);
}

#[test]
fn rebuilt_transactions_other_classes_and_what_is_off_are_not_marked() {
    let mut world = marking();
    let payload = vec![7; 3000];
    for fragment in fragments(&payload, 1) {
        assert_eq!(world.come_by_multicast(&fragment), []);
    }
    assert_eq!(world.withheld(Withheld::Fragments), 1);
    let anchor = frame_of(Kind::Anchor, FLOW, 9, &NO_TREE, &transaction(9));
    assert_eq!(world.come_by_multicast(&anchor), []);
    let mut off = World::new();
    assert_eq!(off.come_by_multicast(&tx(1)), []);
    assert_eq!(off.counts().marks_withheld, [0; Withheld::ALL.len()]);
}

#[test]
fn a_worker_that_stood_still_does_not_mark_what_it_finds() {
    let mut world = marking();
    assert_eq!(world.come_by_multicast(&tx(1)).len(), 1);
    world.now += Duration::from_secs(2);
    assert_eq!(world.come_by_multicast(&tx(2)), []);
    assert_eq!(world.withheld(Withheld::Late), 1);
    world.run(Duration::ZERO);
    assert_eq!(world.come_by_multicast(&tx(3)).len(), 1);
}

/// A transaction in Extended Format of about `len` bytes; its id does not prove `amount`.
fn extended(amount: u64, len: usize) -> Vec<u8> {
    let script = vec![0x6A; len];
    let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0, 0, 0xEF, 1];
    bytes.extend_from_slice(&[7; 36]);
    bytes.push(0xFD);
    bytes.extend_from_slice(&u16::try_from(len).unwrap().to_le_bytes());
    bytes.extend_from_slice(&script);
    bytes.extend_from_slice(&[0xFF; 4]);
    bytes.extend_from_slice(&amount.to_le_bytes());
    bytes.extend_from_slice(&[1, 0x51, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// The same in standard form.
fn standard(len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::tx::split_extended(&extended(0, len), |piece, part| {
        if part == frame::tx::Part::Standard {
            bytes.extend_from_slice(piece);
        }
    })
    .unwrap();
    bytes
}

/// A frame of it under the id that its standard form has.
fn extended_frame(seq: u64, subtree: &Id, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame_of(Kind::Tx, FLOW, seq, subtree, payload);
    frame[8..40].copy_from_slice(&frame::tx::canonical_txid(payload).unwrap().0);
    frame
}

#[test]
fn other_bytes_of_an_id_are_delivered_and_copies_are_not() {
    for mode in [Mode::Simple, Mode::Settled] {
        let claims = ClaimsConfig { mode, ..ClaimsConfig::default() };
        let mut world = World::with(Settings { claims, ..settings() });
        let (raw, forged, genuine) = (standard(300), extended(1, 300), extended(2, 300));
        for (seq, payload) in [&forged, &raw, &forged, &genuine, &forged, &genuine].into_iter().enumerate() {
            world.send(&extended_frame(seq as u64 + 1, &NO_TREE, payload));
        }
        world.delivered_exactly([forged, genuine].into_iter());
        assert_eq!(world.dropped(DropReason::Deduplicated), 4);
    }
}

#[test]
fn a_consumer_without_a_label_filter_gets_one_copy_whatever_the_label() {
    let mut world = World::new();
    for (n, payload) in [standard(300), extended(1, 300)].into_iter().enumerate() {
        for label in 0..3 {
            world.send(&extended_frame(n as u64 * 3 + u64::from(label) + 1, &[label; 32], &payload));
        }
    }
    world.delivered_exactly([standard(300), extended(1, 300)].into_iter());
}

#[test]
fn with_variants_off_an_id_is_delivered_once() {
    let mut world = World::with(Settings { variants: false, ..settings() });
    world.send(&extended_frame(1, &NO_TREE, &extended(1, 300)));
    world.send(&extended_frame(2, &NO_TREE, &extended(2, 300)));
    world.delivered_exactly([extended(1, 300)].into_iter());
}

#[test]
fn the_genuine_object_behind_a_forged_one_of_its_id_is_rebuilt() {
    let mut world = World::settled();
    let (forged, genuine) = (extended(1, 3_000), extended(2, 3_000));
    let id = frame::tx::canonical_txid(&genuine).unwrap().0;
    let with_id = |mut parts: Vec<Vec<u8>>| {
        parts.iter_mut().for_each(|part| part[8..40].copy_from_slice(&id));
        parts
    };
    let first = with_id(fragments(&forged, 1));
    let second = with_id(fragments(&genuine, 1 + first.len() as u64));
    // A fragment of each is lost, and repaired when the other is there.
    for (index, part) in first.iter().chain(&second).enumerate() {
        if index == 2 || index == first.len() + 3 { world.lose(part) } else { world.send(part) }
    }
    world.run(Duration::from_secs(1));
    let mut delivered: Vec<_> = world.delivered().iter().map(|frame| frame[HEADER..].to_vec()).collect();
    delivered.sort_unstable();
    let mut expected = vec![forged, genuine];
    expected.sort_unstable();
    assert!(delivered == expected, "{} frames", delivered.len());
    world.arrive(Door::Groups, PROXY, &second[1]);
    world.arrive(Door::Groups, PROXY, &first[1]);
    assert_eq!(world.dropped(DropReason::LateFragment), 2);
}

#[test]
fn of_a_contested_id_the_raw_form_is_delivered_too_and_once() {
    let mut world = World::new();
    let forms: Vec<_> = (1..=3).map(|amount| extended(amount, 300)).collect();
    for (seq, payload) in (1..).zip([&forms[0], &standard(300), &forms[1], &forms[2]]) {
        world.send(&extended_frame(seq, &NO_TREE, payload));
    }
    world.delivered_exactly(forms.clone().into_iter());
    for seq in 5..8 {
        world.send(&extended_frame(seq, &NO_TREE, &standard(300)));
    }
    world.delivered_exactly(forms.into_iter().chain([standard(300)]));
}

#[test]
fn a_frame_with_a_variant_is_marked_under_both_keys() {
    let mut world = marking();
    let payload = extended(1, 300);
    let frame = extended_frame(1, &NO_TREE, &payload);
    let id = *DataFrame::decode(&frame).unwrap().id;
    let seen = world.come_by_multicast(&frame);
    let variant = frame::Variant::of(&DataFrame::decode(&frame).unwrap(), frame::Label::Counts).unwrap().id;
    let keys: Vec<_> = seen.iter().map(|seen| seen.key).collect();
    let class = Class::Tx;
    assert_eq!(keys, [ClaimKey { class, id }, ClaimKey { class: class.variant(), id: variant }]);
}
