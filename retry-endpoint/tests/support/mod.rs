//! Frames for all tests of the role, and one endpoint in virtual time for the tests of its rounds.
#![allow(dead_code, reason = "not every test binary needs all of them")]

use frame::control::Response;
use frame::data::{HeaderFields, encode_header};
use frame::digest::Entry;
use frame::tx::sha256d;
use frame::{Fabric, GroupIndex, HashKey, Id, Kind, Nack, SeqNum, ShardBits};
use multicast_io::{Burst, Progress, Span, Train};
use retry_endpoint::pipeline::answer::{Answer, Policy, RepairPaths, Request};
use retry_endpoint::pipeline::emit::{EmitConfig, EmitInterface};
use retry_endpoint::pipeline::limit::{Rate, RepairLimits, RepairRates, Trusted};
use retry_endpoint::pipeline::numbers::Numbers;
use retry_endpoint::pipeline::round::{Message, Next, QueueResult, RoundIo};
use retry_endpoint::pipeline::store::{Lifetimes, StoreLimits};
use retry_endpoint::pipeline::upstream::FrameKey;
use retry_endpoint::pipeline::{Endpoint, EndpointConfig, RoundCounts};
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A V2 frame whose id is the hash of its payload.
pub(crate) fn frame_of(flow: HashKey, seq: u64, payload: &[u8]) -> Vec<u8> {
    frame_with(Kind::Tx, flow, seq, &sha256d(payload), payload)
}

/// A data frame of any kind; MsgType 1 where the kind has one.
pub(crate) fn frame_with(kind: Kind, flow: HashKey, seq: u64, id: &Id, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 92 + payload.len()];
    let fields = HeaderFields {
        kind,
        msg_type: u8::from(kind != Kind::Tx),
        id,
        hash_key: flow,
        seq_num: SeqNum(seq),
        second_id: &[0; 32],
        payload_len: u32::try_from(payload.len()).unwrap(),
    };
    let header = encode_header(&fields, &mut out).unwrap();
    out[header..].copy_from_slice(payload);
    out
}

/// The flow of the tests.
pub(crate) const FLOW: HashKey = HashKey(0xB778_5278_7652_F86C);
/// The group that its frames arrive on.
pub(crate) const GROUP: GroupIndex = GroupIndex(1);
/// An address that anybody could forge, and one that nobody can.
pub(crate) const FAR: &str = "192.0.2.7:40000";
pub(crate) const LOCAL: &str = "127.0.0.1:40000";

const FABRIC: Fabric = Fabric::V4 { net: 7 };

/// A frame of the flow.
pub(crate) fn frame(seq: u64) -> Vec<u8> {
    frame_of(FLOW, seq, format!("payload {seq}").as_bytes())
}

/// The same rate for frames and bytes.
pub(crate) fn rates(rate: f64) -> RepairRates {
    let rate = Rate { rate, burst: rate };
    RepairRates { group: rate, bytes: rate }
}

pub(crate) fn request_from(source: &str, start: u64, end: u64, flags: u8) -> Request {
    let nack = Nack { flags, hash_key: FLOW, start: SeqNum(start), end: SeqNum(end), subtree_id: [0; 32] };
    let source: SocketAddr = source.parse().unwrap();
    Request::read(&nack.encode(), source, None, 256).unwrap()
}

pub(crate) fn plain(seq: u64) -> Request {
    request_from(LOCAL, seq, seq, 0)
}

pub(crate) fn range(start: u64, end: u64) -> Request {
    request_from(LOCAL, start, end, Nack::EXTENDED)
}

/// What a kernel says to a repair that it does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// EAGAIN: the socket is full.
    Full,
    /// ENOBUFS: a queue below it is.
    QueueFull,
    /// EPERM.
    Forbidden,
}

/// One interface that takes so many frames, then refuses.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) takes: usize,
    pub(crate) refusal: Refusal,
    /// Trains taken: their frames, as they are without padding.
    pub(crate) trains: Vec<Vec<Vec<u8>>>,
}

/// What happened, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Sent(Vec<u8>),
    Answered,
    Forwarded(usize),
    LookedUp(Numbers),
    Fetched(FrameKey),
}

/// Sockets and queues of a model.
#[derive(Debug)]
pub(crate) struct ModelIo {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) announced: Vec<Entry>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) new_flows: Vec<HashKey>,
    /// What the other threads say.
    pub(crate) others: QueueResult,
}

impl RoundIo for ModelIo {
    fn transmit(&mut self, interface: usize, memory: &[u8], trains: &[Train], frames: &[Span]) -> Progress {
        let interface = &mut self.interfaces[interface];
        let mut taken = 0;
        for train in trains {
            let spans = &frames[train.first as usize..][..train.count as usize];
            let count = spans.len().min(interface.takes);
            let bytes = spans[..count].iter().map(|span| memory[span.range()].to_vec());
            let train: Vec<_> = bytes.collect();
            self.effects.extend(train.iter().cloned().map(Effect::Sent));
            interface.takes -= count;
            taken += count;
            if count > 0 {
                interface.trains.push(train);
            }
            if count < spans.len() {
                let error = match interface.refusal {
                    Refusal::Full => io::ErrorKind::WouldBlock.into(),
                    Refusal::QueueFull => io::Error::from_raw_os_error(105),
                    Refusal::Forbidden => io::Error::from_raw_os_error(1),
                };
                return Progress { frames: taken, error: Some(error) };
            }
        }
        Progress { frames: taken, error: None }
    }

    fn max_train(&self, _interface: usize) -> usize {
        16
    }

    fn refused(&mut self, _interface: usize, _error: &io::Error) {}

    fn answer(&mut self, answer: Answer) -> QueueResult {
        self.effects.push(Effect::Answered);
        self.answers.push(answer);
        QueueResult::Queued
    }

    fn forward(&mut self, _request: &Request, visited: usize) -> QueueResult {
        self.effects.push(Effect::Forwarded(visited));
        self.others
    }

    fn look_up(&mut self, _request: &Request, numbers: Numbers) -> QueueResult {
        self.effects.push(Effect::LookedUp(numbers));
        self.others
    }

    fn fetch(&mut self, wanted: FrameKey) -> QueueResult {
        self.effects.push(Effect::Fetched(wanted));
        self.others
    }

    fn announce(&mut self, entries: Vec<Entry>) -> QueueResult {
        self.announced.extend(entries);
        QueueResult::Queued
    }

    fn new_flow(&mut self, hash_key: HashKey) {
        self.new_flows.push(hash_key);
    }
}

/// What a request got.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) reply: Option<Response>,
    /// Frames that left by multicast.
    pub(crate) multicast: Vec<Vec<u8>>,
    /// Frames that the requester got.
    pub(crate) unicast: Vec<Vec<u8>>,
    pub(crate) counts: RoundCounts,
}

/// One endpoint with a clock that the test moves.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) endpoint: Endpoint,
    pub(crate) io: ModelIo,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(|_| {}, Trusted::default(), rates(1e12))
    }

    pub(crate) fn with(
        change: impl FnOnce(&mut EndpointConfig),
        trusted: Trusted,
        repairs: RepairRates,
    ) -> World {
        let now = Instant::now();
        let interface = EmitInterface { frame_bytes: 1452 };
        let mut config = EndpointConfig {
            workers: 1,
            shard_bits: ShardBits::new(2).unwrap(),
            store: StoreLimits { bytes: 1 << 20, flows: 16 },
            lifetimes: Lifetimes::default(),
            verify: true,
            policy: Policy {
                paths: RepairPaths { multicast: true, unicast: false },
                dedup_window: Duration::from_millis(10),
            },
            emit: EmitConfig {
                fabric: FABRIC,
                port: 9001,
                padding: 15,
                full_timeout: Duration::from_millis(5),
                interfaces: vec![interface],
            },
            announces: true,
        };
        change(&mut config);
        let interface = Interface { takes: usize::MAX, refusal: Refusal::Full, trains: Vec::new() };
        let io = ModelIo {
            interfaces: vec![interface; config.emit.interfaces.len()],
            answers: Vec::new(),
            announced: Vec::new(),
            effects: Vec::new(),
            new_flows: Vec::new(),
            others: QueueResult::NoReceiver,
        };
        let limits = RepairLimits::new(repairs, trusted, 7, now);
        World { now, endpoint: Endpoint::new(config, limits, 7, now), io }
    }

    pub(crate) fn unicast_only(config: &mut EndpointConfig) {
        config.policy.paths = RepairPaths { multicast: false, unicast: true };
    }

    /// The datagrams arrive on the group in one burst.
    pub(crate) fn arrive(&mut self, datagrams: &[Vec<u8>]) {
        let mut burst = Burst::new(0, datagrams.iter().map(Vec::len).sum());
        for datagram in datagrams {
            assert!(burst.arrive(datagram, LOCAL.parse().unwrap(), Some(FABRIC.address(GROUP))));
        }
        self.endpoint.begin(self.now, &burst, &mut self.io);
    }

    pub(crate) fn put(&mut self, datagram: &[u8]) {
        self.arrive(&[datagram.to_vec()]);
    }

    /// Commits until the round is over. A full interface stays full: the time of each wait passes.
    pub(crate) fn commit(&mut self) {
        while let Next::Full { until, .. } = self.endpoint.commit(self.now, &mut self.io) {
            assert!(until > self.now, "a wait that does not end");
            self.now = until;
        }
    }

    /// Takes a request through a whole round, and sends what is answered.
    pub(crate) fn ask(&mut self, request: &Request) -> Got {
        self.endpoint.message(Message::Request { request: *request, visited: 0 });
        self.finish()
    }

    /// The same with a kernel that takes `takes` of the multicast repairs.
    pub(crate) fn ask_taking(&mut self, request: &Request, takes: usize) -> Got {
        self.io.interfaces[0].takes = takes;
        let got = self.ask(request);
        self.io.interfaces[0].takes = usize::MAX;
        got
    }

    fn finish(&mut self) -> Got {
        self.endpoint.take_counts();
        self.commit();
        let sent = self.io.interfaces.iter_mut().flat_map(|interface| interface.trains.drain(..));
        let multicast = sent.flatten().collect();
        let mut answers = self.io.answers.drain(..);
        let mut got =
            Got { reply: None, multicast, unicast: Vec::new(), counts: self.endpoint.take_counts() };
        if let Some(mut answer) = answers.next() {
            let mut taken = Numbers::NONE;
            for (offset, bytes) in answer.repairs() {
                taken.insert(offset);
                got.unicast.push(bytes.to_vec());
            }
            answer.unicast_sent(taken);
            got.reply = answer.reply(true);
        }
        got
    }
}
