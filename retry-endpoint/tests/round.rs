//! The round in virtual time: who gets what, in which order, and what it may cost.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use bytes::Bytes;
use frame::control::{Ack, Nack, Response};
use frame::{HashKey, SeqNum};
use retry_endpoint::pipeline::admit::admit;
use retry_endpoint::pipeline::answer::Request;
use retry_endpoint::pipeline::limit::{Level, Network, Rate, RepairRates, Trusted};
use retry_endpoint::pipeline::numbers::Numbers;
use retry_endpoint::pipeline::round::{Message, Next, QueueResult};
use retry_endpoint::pipeline::upstream::FrameKey;
use std::time::Duration;
use support::{Effect, FAR, FLOW, LOCAL, Refusal, World, frame, frame_of, plain, range, rates, request_from};

const ACK_MULTICAST: Ack = Ack::Ack { multicast: true, unicast: false };

fn several(numbers: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    numbers.into_iter().map(frame).collect()
}

// --------------------------------------------------------------------------------------------------------- replies --

#[test]
fn a_plain_request_gets_the_replies_of_the_go_stack() {
    let mut world = World::new();
    world.put(&frame(42));
    let hit = world.ask(&plain(42)).reply.unwrap();
    assert_eq!(hit, Response { verdict: ACK_MULTICAST, seq_num: SeqNum(42), extended: None });
    let miss = world.ask(&plain(43)).reply.unwrap();
    assert_eq!(miss, Response { verdict: Ack::Miss, seq_num: SeqNum(0), extended: None });
}

#[test]
fn a_range_with_holes_is_answered_with_a_bitmap_of_them() {
    let mut world = World::new();
    let held = several((10..=30).filter(|seq| seq % 7 != 0));
    world.arrive(&held);
    let got = world.ask(&range(10, 30));
    let reply = got.reply.unwrap();
    assert_eq!(reply.verdict, ACK_MULTICAST);
    let extended = reply.extended.unwrap();
    assert_eq!((extended.hash_key, extended.start, extended.end), (FLOW, SeqNum(10), SeqNum(30)));
    let missing: Vec<u64> = (10..=30).filter(|&seq| extended.is_missing(SeqNum(seq))).collect();
    assert_eq!(missing, [14, 21, 28]);
    assert_eq!(got.multicast, held);
}

#[test]
fn a_range_at_the_end_of_the_numbers_does_not_wrap() {
    let mut world = World::new();
    world.put(&frame(u64::MAX));
    let reply = world.ask(&range(u64::MAX - 255, u64::MAX)).reply.unwrap();
    assert_eq!(reply.verdict, ACK_MULTICAST);
    let extended = reply.extended.unwrap();
    assert!(!extended.is_missing(SeqNum(u64::MAX)) && extended.is_missing(SeqNum(u64::MAX - 1)));
}

#[test]
fn the_server_vectors_hold() {
    let path = std::env::var("ONCECAST_VECTORS").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../frame/tests/data/vectors.json").to_owned()
    });
    let vectors: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let section = &vectors["retry_server"];
    let flow = u64::from_str_radix(section["hash_key"].as_str().unwrap(), 16).unwrap();
    for case in section["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let mut world = World::new();
        world.put(&frame_of(HashKey(flow), 42, b"the one"));
        let datagram = hex::decode(case["request"].as_str().unwrap()).unwrap();
        let request = Request::read(&datagram, LOCAL.parse().unwrap(), None, 256);
        // Ranges are our extension: generation A drops them.
        if name == "range" {
            let reply = world.ask(&request.unwrap()).reply.unwrap();
            assert_eq!((reply.verdict, reply.seq_num, reply.extended), (ACK_MULTICAST, SeqNum(42), None));
            continue;
        }
        let got = request.ok().map(|request| world.ask(&request));
        let bytes = got.as_ref().and_then(|got| got.reply).map(|reply| {
            let mut out = [0; Response::MAX_LEN];
            let len = reply.encode(&mut out);
            hex::encode(&out[..len])
        });
        assert_eq!(bytes.as_deref(), case["reply_genA"].as_str(), "{name}");
        let sent = got.is_some_and(|got| !got.multicast.is_empty());
        assert_eq!(sent, case["multicast"].as_bool().unwrap(), "{name}");
    }
}

// ------------------------------------------------------------------------------------- data first, and no more said --

#[test]
fn repairs_leave_before_their_answers() {
    let mut world = World::new();
    world.arrive(&several(1..=2));
    for seq in 1..=2 {
        world.endpoint.message(Message::Request { request: plain(seq), visited: 0 });
    }
    world.commit();
    let sent = |seq| Effect::Sent(frame(seq));
    assert_eq!(world.io.effects, [sent(1), sent(2), Effect::Answered, Effect::Answered]);
}

#[cfg(feature = "mutants")]
#[test]
fn the_fault_in_the_order_of_the_round_acknowledges_what_was_not_sent() {
    let mut world = World::new();
    world.endpoint.mutate(retry_endpoint::mutation::Mutation::AnsweredBeforeRepairs);
    world.put(&frame(1));
    let got = world.ask_taking(&plain(1), 0);
    assert_eq!((got.multicast.len(), got.reply.unwrap().verdict), (0, ACK_MULTICAST));
    assert_eq!(world.io.effects, [Effect::Answered]);
}

#[test]
fn no_ack_goes_out_for_data_that_was_not_handed_over() {
    let mut world = World::new();
    world.arrive(&several(1..=4));
    assert_eq!(world.ask_taking(&plain(1), 0).reply, None, "nothing was sent, nothing can be said");
    let got = world.ask_taking(&range(1, 4), 2);
    let extended = got.reply.unwrap().extended.unwrap();
    let missing: Vec<bool> = (1..=4).map(|seq| extended.is_missing(SeqNum(seq))).collect();
    assert_eq!(missing, [false, false, true, true]);
    assert_eq!(got.counts.retransmit_failed, 2);
    // A plain requester hears an ACK for its first number only.
    assert_eq!(world.ask_taking(&request_from(LOCAL, 3, 4, 0), 0).reply, None);
}

#[test]
fn requests_that_leave_together_lose_their_acks_together_when_the_kernel_refuses() {
    let mut world = World::new();
    world.put(&frame(1));
    let both = [plain(1), request_from("127.0.0.2:5", 1, 1, 0)];
    for takes in [0, 1] {
        world.io.interfaces[0].takes = takes;
        for request in both {
            world.endpoint.message(Message::Request { request, visited: 0 });
        }
        world.commit();
        let replies: Vec<_> = world.io.answers.drain(..).map(|answer| answer.reply(true)).collect();
        assert_eq!(replies.iter().filter(|reply| reply.is_some()).count(), 2 * takes);
    }
    let sent = world.io.effects.iter().filter(|effect| matches!(effect, Effect::Sent(_)));
    assert_eq!(sent.count(), 1, "the second rides on the repair of the first");
}

#[test]
fn a_repair_counts_when_every_interface_took_it() {
    let two = |config: &mut retry_endpoint::pipeline::EndpointConfig| {
        config.emit.interfaces.push(config.emit.interfaces[0]);
    };
    let mut world = World::with(two, Trusted::default(), rates(1e12));
    world.arrive(&several(1..=3));
    world.io.interfaces[1].takes = 1;
    world.io.interfaces[1].refusal = Refusal::Forbidden;
    let got = world.ask(&range(1, 3));
    assert_eq!(got.reply.unwrap().extended.unwrap().missing().map(|seq| seq.0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!((got.counts.retransmits, got.counts.retransmit_failed), (1, 2));
}

#[test]
fn a_full_socket_is_waited_for_and_the_round_goes_on_where_it_stopped() {
    let mut world = World::new();
    world.arrive(&several(1..=4));
    for refusal in [Refusal::Full, Refusal::QueueFull] {
        world.now += Duration::from_secs(1);
        (world.io.interfaces[0].takes, world.io.interfaces[0].refusal) = (1, refusal);
        world.endpoint.message(Message::Request { request: range(1, 4), visited: 0 });
        let next = world.endpoint.commit(world.now, &mut world.io);
        let Next::Full { socket, until } = next else { panic!("{refusal:?}: {next:?}") };
        assert_eq!(socket, (refusal == Refusal::Full).then_some(0));
        assert!(until > world.now && world.io.answers.is_empty());
        // It becomes writable.
        world.io.interfaces[0].takes = 3;
        world.now += Duration::from_millis(1);
        assert_eq!(world.endpoint.commit(world.now, &mut world.io), Next::Done);
        let reply = world.io.answers.pop().unwrap().reply(true).unwrap();
        assert_eq!(reply.extended.unwrap().missing().count(), 0);
    }
    let sent = world.io.effects.iter().filter(|effect| matches!(effect, Effect::Sent(_)));
    assert_eq!(sent.count(), 8);
}

// ---------------------------------------------------------------------------------------------------- dedup window --

#[test]
fn a_repeat_within_the_window_is_sent_once_and_acknowledged_again() {
    let mut world = World::new();
    world.put(&frame(1));
    world.ask(&plain(1)).reply.unwrap();
    world.now += Duration::from_millis(9);
    let again = world.ask(&request_from("127.0.0.2:5", 1, 1, 0));
    let verdict = again.reply.unwrap().verdict;
    assert_eq!((verdict, again.multicast.len(), again.counts.dedup), (ACK_MULTICAST, 0, 1));
    world.now += Duration::from_millis(1);
    assert_eq!(world.ask(&plain(1)).multicast.len(), 1, "after the window it is sent again");
}

#[test]
fn a_repair_that_the_kernel_refused_does_not_open_the_window() {
    let mut world = World::new();
    world.put(&frame(1));
    world.io.interfaces[0].refusal = Refusal::Forbidden;
    world.ask_taking(&plain(1), 0);
    assert_eq!(world.ask(&plain(1)).multicast.len(), 1);
}

// --------------------------------------------------------------------------------------------------------- unicast --

#[test]
fn unicast_to_an_unproven_address_never_exceeds_three_times_the_request() {
    let mut world = World::with(World::unicast_only, Trusted::default(), rates(1e12));
    world.arrive(&(1..=256).map(|seq| frame_of(FLOW, seq, &[1])).collect::<Vec<_>>());
    let far = request_from(FAR, 1, 256, Nack::EXTENDED);
    let got = world.ask(&far);
    let data: usize = got.unicast.iter().map(Vec::len).sum();
    let mut out = [0; Response::MAX_LEN];
    assert!(data + got.reply.unwrap().encode(&mut out) <= 3 * far.received);
    assert_eq!(got.unicast.len(), 1);
    assert_eq!(got.multicast.len(), 255, "the rest goes where everybody gets it");

    let near = world.ask(&request_from(LOCAL, 1, 256, Nack::EXTENDED));
    assert_eq!(near.unicast.len(), 256, "loopback cannot be forged");
}

#[test]
fn an_address_on_the_list_gets_everything_by_unicast() {
    let networks = vec!["192.0.2.0/24".parse::<Network>().unwrap()];
    let mut world = World::with(World::unicast_only, Trusted::new(networks), rates(1e12));
    world.arrive(&several(1..=20));
    let got = world.ask(&request_from(FAR, 1, 20, Nack::EXTENDED));
    assert_eq!(got.reply.unwrap().verdict, Ack::Ack { multicast: false, unicast: true });
    assert_eq!((got.unicast, got.multicast.len()), (several(1..=20), 0));
}

#[test]
fn another_endpoint_gets_unicast_and_is_not_answered_into_our_groups_alone() {
    let mut world = World::with(World::unicast_only, Trusted::default(), rates(1e12));
    world.put(&frame_of(FLOW, 1, &[0; 900]));
    let got = world.ask(&request_from(FAR, 1, 1, Nack::PROXIED));
    assert_eq!((got.reply, got.counts.unproven), (None, 1));
    let got = world.ask(&request_from(LOCAL, 1, 1, Nack::PROXIED));
    assert_eq!(got.reply.unwrap().verdict, Ack::Ack { multicast: false, unicast: true });
}

#[test]
fn a_range_counts_once_and_its_bytes_count() {
    let bytes = Rate { rate: 1.0, burst: 250.0 };
    let many = Rate { rate: 1e9, burst: 1e9 };
    let mut world = World::with(|_| {}, Trusted::default(), RepairRates { group: many, bytes });
    world.arrive(&(1..=4).map(|seq| frame_of(FLOW, seq, &[0; 8])).collect::<Vec<_>>());
    let got = world.ask(&range(1, 4));
    assert_eq!(got.multicast.len(), 2, "two frames of 100 bytes fit 250");
    assert_eq!(got.counts.limited[Level::Bytes.index()], 2);
    assert!(got.reply.unwrap().extended.unwrap().is_missing(SeqNum(4)));
    world.now += Duration::from_millis(20);
    let reply = world.ask(&range(3, 4)).reply.unwrap();
    assert_eq!(reply.verdict, Ack::Throttled { bucket: Level::Bytes.bucket() });
}

// ---------------------------------------------------------------------------------------------------------- trains --

/// Lengths of the trains in which frames of these payloads leave.
fn trains(padding: u32, payloads: &[usize]) -> Vec<usize> {
    let mut world = World::with(|config| config.emit.padding = padding, Trusted::default(), rates(1e12));
    let numbered = payloads.iter().zip(1..).map(|(len, seq)| frame_of(FLOW, seq, &vec![1; *len]));
    world.arrive(&numbered.collect::<Vec<_>>());
    world.endpoint.message(Message::Request { request: range(1, payloads.len() as u64), visited: 0 });
    world.commit();
    world.io.interfaces[0].trains.iter().map(Vec::len).collect()
}

#[test]
fn repairs_ride_in_trains_of_one_group_and_nearly_one_length() {
    let payloads = [100, 105, 98, 300, 310, 2000, 100];
    assert_eq!(trains(15, &payloads), [3, 2, 1, 1]);
    assert_eq!(trains(0, &payloads), [1; 7]);
    assert_eq!(trains(15, &[100; 40]), [16, 16, 8], "as long as the interface takes");
}

// --------------------------------------------------------------------------------------------------- other threads --

#[test]
fn a_request_of_which_nothing_is_here_goes_on_and_the_last_worker_answers() {
    let three = |config: &mut retry_endpoint::pipeline::EndpointConfig| config.workers = 3;
    let mut world = World::with(three, Trusted::default(), rates(1e12));
    world.io.others = QueueResult::Queued;
    world.endpoint.message(Message::Request { request: plain(1), visited: 1 });
    world.commit();
    assert_eq!(world.io.effects, [Effect::Forwarded(2)]);
    // A full queue: it is answered here.
    world.io.others = QueueResult::Full;
    world.endpoint.message(Message::Request { request: plain(1), visited: 0 });
    world.commit();
    assert_eq!(world.io.answers.pop().unwrap().reply(true).unwrap().verdict, Ack::Miss);
    world.io.others = QueueResult::NoReceiver;
    world.endpoint.message(Message::Request { request: plain(1), visited: 2 });
    world.commit();
    assert_eq!(world.io.answers.len(), 1);
}

#[test]
fn what_is_missing_is_looked_up_once_and_the_reply_covers_both_halves() {
    let mut world = World::new();
    world.io.others = QueueResult::Queued;
    world.put(&frame(1));
    let request = range(1, 3);
    world.endpoint.message(Message::Request { request, visited: 0 });
    world.commit();
    let mut missing = Numbers::NONE;
    missing.insert(1);
    missing.insert(2);
    assert_eq!(world.io.effects, [Effect::LookedUp(missing), Effect::Sent(frame(1))]);

    world.io.effects.clear();
    let frames = vec![Bytes::from(frame(2))];
    world.endpoint.message(Message::LookupDone { request, frames });
    world.commit();
    let wanted = FrameKey { hash_key: FLOW, seq: SeqNum(3) };
    assert_eq!(world.io.effects, [Effect::Fetched(wanted), Effect::Sent(frame(2)), Effect::Answered]);
    let reply = world.io.answers.pop().unwrap().reply(true).unwrap();
    assert_eq!(reply.extended.unwrap().missing().collect::<Vec<_>>(), [SeqNum(3)]);
}

#[test]
fn a_fetched_frame_is_replayed_to_its_own_group_once() {
    let mut world = World::new();
    let fetched = frame(7);
    let group = admit(&fetched).unwrap().group(frame::ShardBits::new(2).unwrap());
    for _ in 0..2 {
        world.endpoint.message(Message::FetchDone { frame: Bytes::from(fetched.clone()) });
        world.commit();
    }
    assert_eq!(world.io.effects, [Effect::Sent(fetched)]);
    assert_eq!(world.endpoint.coverage(9)[0].group, group.0);
    assert_eq!(world.ask(&plain(7)).reply.unwrap().verdict, ACK_MULTICAST);
}

#[test]
fn a_silent_flow_is_announced_by_a_commit_at_its_time() {
    let mut world = World::new();
    world.put(&frame(7));
    assert_eq!(world.io.new_flows, [FLOW]);
    let at = world.endpoint.next_timeout().unwrap();
    world.commit();
    assert!(world.io.announced.is_empty());
    world.now = at;
    world.commit();
    assert_eq!(world.io.announced.iter().map(|entry| entry.highest.0).collect::<Vec<_>>(), [7]);
    assert!(world.endpoint.next_timeout().unwrap() > world.now);
    // Its sender announces it: nobody else need do so.
    world.endpoint.message(Message::DigestHeard { flows: vec![(FLOW, SeqNum(7))] });
    world.commit();
    world.now = world.endpoint.next_timeout().unwrap();
    world.commit();
    assert_eq!(world.io.announced.len(), 1);
}

#[test]
fn what_arrives_outside_the_groups_is_counted_and_not_kept() {
    let mut world = World::new();
    let mut burst = multicast_io::Burst::new(0, 4096);
    let source = LOCAL.parse().unwrap();
    assert!(burst.arrive(&frame(1), source, None));
    assert!(burst.arrive(&frame(2), source, Some("224.0.0.1".parse().unwrap())));
    world.endpoint.begin(world.now, &burst, &mut world.io);
    let counts = world.endpoint.take_counts();
    let foreign = world.endpoint.ledger().count(retry_endpoint::pipeline::admit::Refusal::Foreign);
    assert_eq!((counts.received, foreign, counts.cached), (2, 2, 0));
}
