//! Scenarios on the loopback, told once for IPv4 (`loopback.rs`) and IPv6 (`private_network.rs`), and their world.
#![allow(clippy::unwrap_used, reason = "tests; the lint sees only functions marked as such")]

use multicast_io::probe::wait_readable;
use multicast_io::{
    Burst, Interface, Joined, Membership, PortUse, Receiver, Sender, SocketOptions, Span, Train,
};
use std::hash::{BuildHasher, Hasher};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// A scenario by its name.
pub(crate) type Scenario = (&'static str, fn(Family));

/// Every scenario of this file.
pub(crate) const ALL: &[Scenario] = &[
    ("a_padded_train_arrives_frame_by_frame", a_padded_train_arrives_frame_by_frame),
    ("without_gso_the_same_frames_arrive_unpadded", without_gso_the_same_frames_arrive_unpadded),
    ("without_gro_the_kernel_splits_the_train", without_gro_the_kernel_splits_the_train),
    ("a_train_beyond_the_kernels_limits_is_split", a_train_beyond_the_kernels_limits_is_split),
    ("trains_of_two_senders_keep_their_sources", trains_of_two_senders_keep_their_sources),
    ("more_trains_than_one_call_takes_arrive_in_order", more_trains_than_one_call_takes_arrive_in_order),
    ("trains_of_any_shape_arrive_whole", trains_of_any_shape_arrive_whole),
    ("an_empty_frame_arrives_as_an_empty_datagram", an_empty_frame_arrives_as_an_empty_datagram),
    ("the_longest_datagram_fits_a_slot", the_longest_datagram_fits_a_slot),
    ("a_frame_too_long_for_any_datagram_is_named", a_frame_too_long_for_any_datagram_is_named),
    ("a_span_outside_of_memory_is_an_error", a_span_outside_of_memory_is_an_error),
    ("disjoint_groups_on_one_port_do_not_leak", disjoint_groups_on_one_port_do_not_leak),
    ("a_group_that_was_left_is_silent", a_group_that_was_left_is_silent),
    ("more_groups_than_a_socket_may_join_take_several", more_groups_than_a_socket_may_join_take_several),
    ("a_membership_that_lapsed_is_taken_up_again", a_membership_that_lapsed_is_taken_up_again),
    ("a_source_specific_join_takes_only_that_source", a_source_specific_join_takes_only_that_source),
    ("a_socket_bound_to_a_group_takes_only_that_group", a_socket_bound_to_a_group_takes_only_that_group),
    ("every_datagram_is_received_or_counted_as_dropped", every_datagram_is_received_or_counted_as_dropped),
    ("a_datagram_longer_than_its_slot_is_counted", a_datagram_longer_than_its_slot_is_counted),
    (
        "packet_info_names_the_group_and_answers_from_there",
        packet_info_names_the_group_and_answers_from_there,
    ),
    ("an_icmp_error_neither_stops_nor_hides_a_send", an_icmp_error_neither_stops_nor_hides_a_send),
    ("no_slot_no_system_call", no_slot_no_system_call),
    ("a_join_that_cannot_be_names_what_is_wrong", a_join_that_cannot_be_names_what_is_wrong),
    ("a_buffer_that_was_clamped_names_the_knob", a_buffer_that_was_clamped_names_the_knob),
    ("multicast_works_here", multicast_works_here),
    ("own_sockets_share_a_port_that_others_do_not_get", own_sockets_share_a_port_that_others_do_not_get),
    (
        "a_socket_that_withdraws_keeps_what_it_has_and_gets_no_more",
        a_socket_that_withdraws_keeps_what_it_has_and_gets_no_more,
    ),
];

/// Longest wait for something that must happen; reached only in a test that fails.
const BOUND: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    #[allow(dead_code, reason = "each test binary uses one")]
    V4,
    #[allow(dead_code, reason = "each test binary uses one")]
    V6,
}

impl Family {
    pub(crate) fn anywhere(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// An address of the loopback itself.
    pub(crate) fn host(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Another one (`private_network.rs` adds it for IPv6).
    pub(crate) fn other_host(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(127, 0, 0, 2).into(),
            Family::V6 => "fd00::2".parse().unwrap(),
        }
    }

    /// A random group of administrative or site scope.
    pub(crate) fn group(self) -> IpAddr {
        let [a, b, c, d, e, f, ..] = random().to_ne_bytes();
        match self {
            Family::V4 => Ipv4Addr::new(239, a, b, c | 1).into(),
            Family::V6 => Ipv6Addr::from([0xff, 0x05, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d, e, f | 1]).into(),
        }
    }

    /// A random source-specific group (232/8 and FF35 are set aside for it).
    fn source_specific_group(self) -> IpAddr {
        match self.group() {
            IpAddr::V4(group) => {
                let [_, b, c, d] = group.octets();
                Ipv4Addr::new(232, b, c, d).into()
            }
            IpAddr::V6(group) => {
                let mut bytes = group.octets();
                bytes[1] = 0x35;
                Ipv6Addr::from(bytes).into()
            }
        }
    }
}

fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

pub(crate) fn lo() -> Interface {
    Interface::by_name("lo").unwrap()
}

/// Options for a socket on the loopback, any port.
pub(crate) fn options(bind: IpAddr) -> SocketOptions {
    SocketOptions { interface: Some(lo()), loopback: true, ..SocketOptions::new(SocketAddr::new(bind, 0)) }
}

/// A receiver that joined a random group, and that group with the receiver's port.
pub(crate) fn joined(options: &SocketOptions, family: Family) -> (Receiver, SocketAddr) {
    let receiver = Receiver::open(options).unwrap();
    let group = family.group();
    receiver.join(group, &lo()).unwrap();
    let port = receiver.local_addr().unwrap().port();
    (receiver, SocketAddr::new(group, port))
}

/// A datagram as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub bytes: Vec<u8>,
    pub source: SocketAddr,
    pub destination: Option<IpAddr>,
}

/// Receives until `count` datagrams arrived; fails the test when they do not.
pub(crate) fn collect(receiver: &mut Receiver, count: usize) -> Vec<Datagram> {
    let mut burst = Burst::new(8, 0);
    let mut datagrams = Vec::new();
    let deadline = Instant::now() + BOUND;
    while datagrams.len() < count {
        burst.clear();
        match receiver.receive(&mut burst, 8) {
            Ok(new) => assert_eq!(new, burst.arrivals().len()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                let ready = wait_readable(receiver, left).unwrap();
                assert!(
                    ready,
                    "of {count} datagrams {} arrived; {} dropped, {} cut, {} errors",
                    datagrams.len(),
                    receiver.kernel_drops(),
                    receiver.truncated(),
                    receiver.queued_errors()
                );
            }
            Err(error) => panic!("receive: {error}"),
        }
        datagrams.extend(burst.arrivals().iter().map(|arrival| Datagram {
            bytes: burst.bytes(arrival.span).to_vec(),
            source: arrival.source,
            destination: arrival.destination,
        }));
    }
    assert_eq!(datagrams.len(), count, "more arrived than was sent");
    datagrams
}

fn bytes_of(datagrams: Vec<Datagram>) -> Vec<Vec<u8>> {
    datagrams.into_iter().map(|datagram| datagram.bytes).collect()
}

/// Nothing waits. Ask only after a datagram sent later arrived.
pub(crate) fn assert_silent(receiver: &mut Receiver) {
    let mut burst = Burst::new(1, 0);
    let error = receiver.receive(&mut burst, 1).expect_err("a datagram that should not be here");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// Frames that can be told apart, with the given lengths, laid out in one memory.
pub(crate) fn frames_of(lengths: &[usize]) -> (Vec<u8>, Vec<Span>) {
    let (mut memory, mut spans) = (Vec::new(), Vec::new());
    for (index, length) in lengths.iter().enumerate() {
        let start = u32::try_from(memory.len()).unwrap();
        // No two frames of a test are alike, and no byte is zero like padding.
        let turn = |at: usize| if at == 1 { index / 255 } else { index * 31 + at * 7 };
        let byte = |at: usize| u8::try_from(turn(at) % 255 + 1).unwrap();
        memory.extend((0..*length).map(byte));
        spans.push(Span { start, len: u32::try_from(*length).unwrap() });
    }
    (memory, spans)
}

pub(crate) fn train(destination: SocketAddr, first: usize, count: usize, segment: usize) -> Train {
    Train {
        destination,
        first: u32::try_from(first).unwrap(),
        count: u32::try_from(count).unwrap(),
        segment: u16::try_from(segment).unwrap(),
    }
}

/// Sends `lengths` as one train of `segment`, all of which must be taken; returns the frames.
pub(crate) fn send_train(
    sender: &mut Sender,
    to: SocketAddr,
    lengths: &[usize],
    segment: usize,
) -> Vec<Vec<u8>> {
    let (memory, spans) = frames_of(lengths);
    let progress = sender.send(&memory, &[train(to, 0, spans.len(), segment)], &spans);
    assert!(progress.error.is_none(), "{progress:?}");
    assert_eq!(progress.frames, spans.len());
    spans.iter().map(|span| memory[span.range()].to_vec()).collect()
}

/// Each arrival is its frame, then zeros up to `segment`.
fn assert_padded(arrived: &[Vec<u8>], frames: &[Vec<u8>], segment: usize) {
    assert_eq!(arrived.len(), frames.len());
    for (index, (bytes, frame)) in arrived.iter().zip(frames).enumerate() {
        assert_eq!(&bytes[..frame.len()], &frame[..], "frame {index}");
        assert!(bytes[frame.len()..].iter().all(|byte| *byte == 0), "padding of frame {index}");
        assert!(bytes.len() == segment || bytes.len() == frame.len(), "length of frame {index}");
    }
}

fn a_padded_train_arrives_frame_by_frame(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    assert!(sender.max_train() >= 64);
    let frames = send_train(&mut sender, to, &[300, 280, 300, 1, 299, 120], 300);
    let arrived = collect(&mut receiver, frames.len());
    let source = sender.local_addr().unwrap();
    assert!(arrived.iter().all(|datagram| datagram.source == source));
    let arrived = bytes_of(arrived);
    assert_padded(&arrived, &frames, 300);
    let lengths: Vec<usize> = arrived.iter().map(Vec::len).collect();
    assert_eq!(lengths, [300, 300, 300, 300, 300, 120], "only the last is short");
}

fn without_gso_the_same_frames_arrive_unpadded(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&SocketOptions { gso: false, ..options(family.host()) }).unwrap();
    assert_eq!(sender.max_train(), 1);
    let frames = send_train(&mut sender, to, &[300, 280, 300, 1, 299, 120], 300);
    assert_eq!(bytes_of(collect(&mut receiver, frames.len())), frames);
    assert!(!sender.gso_refused());
}

fn without_gro_the_kernel_splits_the_train(family: Family) {
    let (mut receiver, to) = joined(&SocketOptions { gro: false, ..options(family.anywhere()) }, family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let frames = send_train(&mut sender, to, &[200; 40], 200);
    assert_eq!(bytes_of(collect(&mut receiver, 40)), frames);
}

fn a_train_beyond_the_kernels_limits_is_split(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    // By count of segments, then by bytes.
    for (count, segment) in [(1_000, 40), (100, 1_400), (5, 30_000)] {
        let lengths: Vec<usize> = (0..count).map(|index| segment - index % 8).collect();
        let frames = send_train(&mut sender, to, &lengths, segment);
        assert_padded(&bytes_of(collect(&mut receiver, count)), &frames, segment);
    }
    assert!(!sender.gso_refused());
}

fn trains_of_two_senders_keep_their_sources(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut senders = [
        Sender::open(&options(family.host())).unwrap(),
        Sender::open(&options(family.other_host())).unwrap(),
    ];
    let mut expected = Vec::new();
    for turn in 0..6 {
        let sender = &mut senders[turn % 2];
        let source = sender.local_addr().unwrap();
        let frames = send_train(sender, to, &[150 + turn, 100, 50 + turn], 160);
        expected.extend(frames.into_iter().map(|frame| (source, frame)));
    }
    let arrived = collect(&mut receiver, expected.len());
    for (datagram, (source, frame)) in arrived.iter().zip(&expected) {
        assert_eq!((&datagram.bytes[..frame.len()], datagram.source), (&frame[..], *source));
    }
}

fn more_trains_than_one_call_takes_arrive_in_order(family: Family) {
    // What every host grants: room for 500 short datagrams.
    let wide = SocketOptions { receive_buffer: Some(212_992), ..options(family.anywhere()) };
    let (mut receiver, to) = joined(&wide, family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let (memory, spans) = frames_of(&[64; 2_000]);
    // Trains of 1, 2, 3, … frames, and empty ones between.
    let (mut trains, mut first) = (Vec::new(), 0);
    for count in (0..40).cycle() {
        let count = count.min(spans.len() - first);
        trains.push(train(to, first, count, 64));
        first += count;
        if first == spans.len() {
            break;
        }
    }
    let single: Vec<Train> = (0..600).map(|index| train(to, index, 1, 64)).collect();
    let mut taken = 0;
    let mut arrived = Vec::new();
    // In portions that the receive buffer holds. One call takes 256 messages.
    for portion in trains.chunks(80).chain(single.chunks(300)) {
        let frames: usize = portion.iter().map(|train| train.count as usize).sum();
        let progress = sender.send(&memory, portion, &spans);
        assert_eq!((progress.frames, progress.error.is_none()), (frames, true));
        arrived.extend(bytes_of(collect(&mut receiver, frames)));
        taken += frames;
    }
    assert_eq!(taken, 2_600);
    let expected = spans.iter().chain(&spans[..600]).map(|span| &memory[span.range()]);
    assert!(arrived.iter().map(Vec::as_slice).eq(expected));
}

/// Any lengths, empty frames and frames beyond the segment among them; any segments; with and without GSO.
fn trains_of_any_shape_arrive_whole(family: Family) {
    let seed = random();
    println!("seed {seed}");
    let mut state = seed;
    let mut below = |limit: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % limit
    };
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    for round in 0..200 {
        let gso = round % 4 > 0;
        let mut sender = Sender::open(&SocketOptions { gso, ..options(family.host()) }).unwrap();
        let segment = 1 + below([2, 40, 1_400, 3_000][round % 4]);
        let lengths: Vec<usize> = (0..1 + below(40))
            .map(|_| match below(10) {
                0 => 0,
                1 => segment + below(3),
                2 => below(2 * segment + 1),
                _ => segment - below(segment / 8 + 1),
            })
            .collect();
        let frames = send_train(&mut sender, to, &lengths, segment);
        assert_padded(&bytes_of(collect(&mut receiver, frames.len())), &frames, segment);
        assert!(!sender.gso_refused());
    }
}

fn an_empty_frame_arrives_as_an_empty_datagram(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let frames = send_train(&mut sender, to, &[100, 0, 100, 100, 0], 100);
    let arrived = bytes_of(collect(&mut receiver, frames.len()));
    assert_padded(&arrived, &frames, 100);
    assert_eq!(arrived[4].len(), 0);
}

fn the_longest_datagram_fits_a_slot(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let frames = send_train(&mut sender, to, &[65_507], 0);
    assert_eq!(bytes_of(collect(&mut receiver, 1)), frames);
    assert_eq!(receiver.truncated(), 0);
}

fn a_frame_too_long_for_any_datagram_is_named(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let (memory, spans) = frames_of(&[100, 70_000, 100]);
    let trains = [train(to, 0, 1, 100), train(to, 1, 1, 0), train(to, 2, 1, 100)];
    let progress = sender.send(&memory, &trains, &spans);
    assert_eq!(progress.frames, 1);
    // EMSGSIZE.
    assert_eq!(progress.error.unwrap().raw_os_error(), Some(90));
    // The caller leaves it out and goes on.
    let progress = sender.send(&memory, &trains[2..], &spans);
    assert_eq!((progress.frames, progress.error.is_none()), (1, true));
    assert_eq!(bytes_of(collect(&mut receiver, 2)).len(), 2);
    assert!(!sender.gso_refused());
}

fn a_span_outside_of_memory_is_an_error(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let (memory, mut spans) = frames_of(&[100, 100, 100]);
    spans[1].len = u32::MAX;
    let progress = sender.send(&memory, &[train(to, 0, 3, 100)], &spans);
    assert_eq!(progress.frames, 1);
    assert_eq!(progress.error.unwrap().kind(), ErrorKind::InvalidInput);
    let progress = sender.send(&memory, &[train(to, 2, 2, 100)], &spans);
    assert_eq!(progress.frames, 1);
    assert_eq!(progress.error.unwrap().kind(), ErrorKind::InvalidInput);
    collect(&mut receiver, 2);
}

fn disjoint_groups_on_one_port_do_not_leak(family: Family) {
    let shared = SocketOptions { reuse_address: true, ..options(family.anywhere()) };
    let (mut first, to_first) = joined(&shared, family);
    let same_port = SocketOptions { bind: first.local_addr().unwrap(), ..shared };
    let (mut second, to_second) = joined(&same_port, family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    for round in 0..10 {
        let for_first = send_train(&mut sender, to_first, &[40 + round; 3], 60);
        let for_second = send_train(&mut sender, to_second, &[20 + round; 3], 60);
        assert_padded(&bytes_of(collect(&mut second, 3)), &for_second, 60);
        assert_padded(&bytes_of(collect(&mut first, 3)), &for_first, 60);
    }
    assert_silent(&mut first);
    assert_silent(&mut second);
}

fn a_group_that_was_left_is_silent(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let kept = family.group();
    receiver.join(kept, &lo()).unwrap();
    receiver.join(kept, &lo()).expect("joining twice is not an error");
    receiver.leave(to.ip(), &lo()).unwrap();
    let mut sender = Sender::open(&options(family.host())).unwrap();
    send_train(&mut sender, to, &[10], 10);
    let fence = send_train(&mut sender, SocketAddr::new(kept, to.port()), &[20], 20);
    assert_eq!(bytes_of(collect(&mut receiver, 1)), fence);
    assert_silent(&mut receiver);
}

fn more_groups_than_a_socket_may_join_take_several(family: Family) {
    let count = match family {
        Family::V4 => 41,
        Family::V6 => 2_100,
    };
    let joins: Vec<_> = (0..count).map(|_| Membership { group: family.group(), source: None }).collect();
    let port = Receiver::open(&options(family.anywhere())).unwrap().local_addr().unwrap().port();
    let bound =
        SocketOptions { bind: SocketAddr::new(family.anywhere(), port), ..options(family.anywhere()) };
    let mut joined = Joined::open(&bound, &[lo()], &joins).unwrap();
    assert!(joined.len() > 1, "{} groups on one socket", joins.len());
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let last = joined.len() - 1;
    for (at, to) in [(0, joins[0]), (last, joins[joins.len() - 1])] {
        let frames = send_train(&mut sender, SocketAddr::new(to.group, port), &[10, 10], 10);
        assert_eq!(bytes_of(collect(&mut joined[at].receiver, 2)), frames);
    }
    joined.iter_mut().for_each(|joined| assert_silent(&mut joined.receiver));
}

fn a_membership_that_lapsed_is_taken_up_again(family: Family) {
    let join = Membership { group: family.group(), source: None };
    let mut joined = Joined::open(&options(family.anywhere()), &[lo()], &[join]).unwrap().remove(0);
    let to = SocketAddr::new(join.group, joined.receiver.local_addr().unwrap().port());
    joined.memberships.assert(&joined.receiver).expect("what is joined stays");
    joined.receiver.leave(join.group, &lo()).unwrap();
    let mut sender = Sender::open(&options(family.host())).unwrap();
    send_train(&mut sender, to, &[10], 10);
    joined.memberships.assert(&joined.receiver).unwrap();
    let frames = send_train(&mut sender, to, &[20], 20);
    assert_eq!(bytes_of(collect(&mut joined.receiver, 1)), frames);
}

fn a_source_specific_join_takes_only_that_source(family: Family) {
    let mut receiver = Receiver::open(&options(family.anywhere())).unwrap();
    let group = family.source_specific_group();
    receiver.join_source(group, family.other_host(), &lo()).unwrap();
    receiver.join_source(group, family.other_host(), &lo()).expect("joining twice is not an error");
    let to = SocketAddr::new(group, receiver.local_addr().unwrap().port());
    let mut foreign = Sender::open(&options(family.host())).unwrap();
    let mut wanted = Sender::open(&options(family.other_host())).unwrap();
    send_train(&mut foreign, to, &[30, 30], 30);
    let frames = send_train(&mut wanted, to, &[50, 50], 50);
    assert_eq!(bytes_of(collect(&mut receiver, 2)), frames);
    assert_silent(&mut receiver);
    receiver.join_source(group, family.host(), &lo()).unwrap();
    receiver.leave_source(group, family.other_host(), &lo()).unwrap();
    send_train(&mut wanted, to, &[60], 60);
    let frames = send_train(&mut foreign, to, &[70], 70);
    assert_eq!(bytes_of(collect(&mut receiver, 1)), frames);
    let error = receiver.join(group, &lo()).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.is_empty() || error.contains(&group.to_string()), "{error}");
}

fn a_socket_bound_to_a_group_takes_only_that_group(family: Family) {
    let shared = SocketOptions { reuse_address: true, ..options(family.group()) };
    let mut beacons = Receiver::open(&shared).unwrap();
    let to = beacons.local_addr().unwrap();
    beacons.join(to.ip(), &lo()).unwrap();
    // Another socket has the port for unicast.
    let mut unicast = Receiver::open(&SocketOptions {
        reuse_address: true,
        bind: SocketAddr::new(family.anywhere(), to.port()),
        ..options(family.anywhere())
    })
    .unwrap();
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let request = send_train(&mut sender, SocketAddr::new(family.host(), to.port()), &[44], 44);
    assert_eq!(bytes_of(collect(&mut unicast, 1)), request);
    let beacon = send_train(&mut sender, to, &[55], 55);
    assert_eq!(bytes_of(collect(&mut beacons, 1)), beacon);
    assert_silent(&mut beacons);
    assert_silent(&mut unicast);
    // The same through the plain socket that control tasks use.
    let control = multicast_io::control_socket(&SocketOptions { bind: to, ..shared }).unwrap();
    multicast_io::joins::join(&control, to.ip(), &lo()).unwrap();
    let beacon = send_train(&mut sender, to, &[66], 66);
    assert!(wait_readable(&control, BOUND).unwrap());
    let mut buffer = [0; 100];
    let (length, source) = control.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], source), (&beacon[0][..], sender.local_addr().unwrap()));
}

fn every_datagram_is_received_or_counted_as_dropped(family: Family) {
    for gro in [false, true] {
        let small = SocketOptions { receive_buffer: Some(20_000), gro, ..options(family.anywhere()) };
        let (mut receiver, to) = joined(&small, family);
        let mut sender = Sender::open(&SocketOptions { gso: false, ..options(family.host()) }).unwrap();
        send_train(&mut sender, to, &[200; 500], 200);
        // Seen at once, without a later datagram.
        let dropped = usize::try_from(receiver.kernel_drops()).unwrap();
        assert!(dropped > 0);
        collect(&mut receiver, 500 - dropped);
        assert_silent(&mut receiver);
        // The reading that comes with later datagrams counts nothing twice.
        send_train(&mut sender, to, &[100; 3], 100);
        collect(&mut receiver, 3);
        assert_eq!(receiver.kernel_drops(), dropped as u64);
    }
}

fn a_datagram_longer_than_its_slot_is_counted(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&SocketOptions { gso: false, ..options(family.host()) }).unwrap();
    let frames = send_train(&mut sender, to, &[101, 100, 5_000, 99], 0);
    let mut burst = Burst::with_slot_bytes(4, 100, 0);
    // One message a call: a call that only met a cut one goes on to the next.
    assert_eq!(receiver.receive(&mut burst, 1).unwrap(), 1);
    assert_eq!(burst.bytes(burst.arrivals()[0].span), frames[1]);
    assert_eq!((receiver.receive(&mut burst, 4).unwrap(), burst.free_slots()), (1, 0));
    assert_eq!(burst.bytes(burst.arrivals()[1].span), frames[3]);
    assert_eq!(receiver.truncated(), 2);
}

fn packet_info_names_the_group_and_answers_from_there(family: Family) {
    let (mut server, to) = joined(&SocketOptions { packet_info: true, ..options(family.anywhere()) }, family);
    let mut client = Receiver::open(&options(family.host())).unwrap();
    client.send_to(b"by group", to, None).unwrap();
    let unicast = SocketAddr::new(family.other_host(), to.port());
    client.send_to(b"by address", unicast, None).unwrap();
    let requests = collect(&mut server, 2);
    assert_eq!(requests[0].destination, Some(to.ip()));
    assert_eq!(requests[1].destination, Some(unicast.ip()));
    for request in &requests {
        assert_eq!(request.source, client.local_addr().unwrap());
        server.send_to(&request.bytes, request.source, request.destination).unwrap();
    }
    let answers = collect(&mut client, 2);
    assert_eq!(answers[1].source, unicast, "from the address that the request hit");
    assert_eq!(answers[0].bytes, b"by group");
    assert!(!answers[0].source.ip().is_multicast());
}

fn an_icmp_error_neither_stops_nor_hides_a_send(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    // A port that nobody has: bound and released.
    let nobody = Receiver::open(&options(family.host())).unwrap().local_addr().unwrap();
    for _ in 0..3 {
        send_train(&mut sender, nobody, &[10, 10], 10);
        let frames = send_train(&mut sender, to, &[100, 90, 80], 100);
        assert_padded(&bytes_of(collect(&mut receiver, 3)), &frames, 100);
    }
    assert!(sender.queued_errors() > 0);
    // The receiving side of the same: an answer to a client that is gone.
    receiver.send_to(b"late", nobody, None).unwrap();
    let frames = send_train(&mut sender, to, &[33], 33);
    assert_eq!(bytes_of(collect(&mut receiver, 1)), frames);
    assert_eq!(receiver.queued_errors(), 1);
}

fn no_slot_no_system_call(family: Family) {
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    send_train(&mut sender, to, &[10], 10);
    assert_eq!(receiver.receive(&mut Burst::new(0, 10), 8).unwrap(), 0);
    let mut burst = Burst::new(1, 0);
    assert_eq!(receiver.receive(&mut burst, 8).unwrap(), 1);
    assert_eq!(receiver.receive(&mut burst, 8).unwrap(), 0, "no free slot");
}

fn a_join_that_cannot_be_names_what_is_wrong(family: Family) {
    let receiver = Receiver::open(&options(family.anywhere())).unwrap();
    let error = receiver.join(family.host(), &lo()).unwrap_err().to_string();
    assert!(error.contains("not a multicast address"), "{error}");
    let gone = Interface { index: 9_999, name: "gone0".to_owned(), ..lo() };
    let error = receiver.join(family.group(), &gone).unwrap_err().to_string();
    assert!(error.contains("gone0"), "{error}");
    let error = receiver.join_source(family.group(), family.group(), &lo()).unwrap_err().to_string();
    assert!(error.contains("source must be"), "{error}");
    // More groups than the kernel gives one socket: 20 for IPv4, a few thousand for IPv6.
    let error = (0..20_000).find_map(|_| receiver.join(family.group(), &lo()).err());
    let error = error.expect("the kernel has a limit").to_string();
    let knob = match family {
        Family::V4 => "net.ipv4.igmp_max_memberships, now ",
        Family::V6 => "net.core.optmem_max, now ",
    };
    assert!(error.contains(knob) && error.contains("interface lo"), "{error}");
}

fn a_buffer_that_was_clamped_names_the_knob(family: Family) {
    let modest = SocketOptions { receive_buffer: Some(100_000), ..options(family.anywhere()) };
    let receiver = Receiver::open(&modest).unwrap();
    assert_eq!((receiver.receive_buffer(), receiver.warnings().len()), (100_000, 0));
    // Beyond what any limit allows, even with privilege.
    let greedy = SocketOptions {
        receive_buffer: Some(1 << 40),
        send_buffer: Some(1 << 40),
        ..options(family.anywhere())
    };
    let receiver = Receiver::open(&greedy).unwrap();
    let warnings = receiver.warnings().join("\n");
    assert!(receiver.receive_buffer() < 1 << 40);
    assert!(warnings.contains("net.core.rmem_max") && warnings.contains("net.core.wmem_max"), "{warnings}");
}

fn multicast_works_here(family: Family) {
    assert!(multicast_io::multicast_probe(family.group(), &lo()).unwrap());
    let gone = Interface { index: 9_999, ..lo() };
    assert!(!multicast_io::multicast_probe(family.group(), &gone).unwrap_or(false));
}

/// The kernel spreads the senders over both sockets, and a third socket gets the port only if it asks to share it.
fn own_sockets_share_a_port_that_others_do_not_get(family: Family) {
    let first = SocketOptions { port_use: PortUse::First, ..options(family.host()) };
    let mut receivers = vec![Receiver::open(&first).unwrap()];
    let bind = receivers[0].local_addr().unwrap();
    let beside = |port_use| Receiver::open(&SocketOptions { bind, port_use, ..first.clone() });
    receivers.push(beside(PortUse::Shared).unwrap());
    for port_use in [PortUse::First, PortUse::Alone] {
        assert_eq!(
            beside(port_use).map(drop).unwrap_err().cause.kind(),
            ErrorKind::AddrInUse,
            "{port_use:?}"
        );
    }
    let mut bursts = [Burst::new(64, 0), Burst::new(64, 0)];
    for _ in 0..64 {
        let sender = std::net::UdpSocket::bind((family.host(), 0)).unwrap();
        sender.send_to(b"x", bind).unwrap();
    }
    for (receiver, burst) in receivers.iter_mut().zip(&mut bursts) {
        assert!(wait_readable(&*receiver, BOUND).unwrap(), "one of them gets nothing");
        while receiver.receive(burst, 64).is_ok_and(|taken| taken > 0) {}
    }
    assert_eq!(bursts.iter().map(|burst| burst.arrivals().len()).sum::<usize>(), 64);
}

fn a_socket_that_withdraws_keeps_what_it_has_and_gets_no_more(family: Family) {
    for bind in [family.host(), family.anywhere()] {
        let first = SocketOptions { port_use: PortUse::First, ..options(bind) };
        let mut leaving = Receiver::open(&first).unwrap();
        let bind = leaving.local_addr().unwrap();
        let mut staying =
            Receiver::open(&SocketOptions { bind, port_use: PortUse::Shared, ..first }).unwrap();
        let to = SocketAddr::new(family.host(), bind.port());
        let send = || {
            for _ in 0..64 {
                std::net::UdpSocket::bind((family.host(), 0)).unwrap().send_to(b"x", to).unwrap();
            }
        };
        let count = |receiver: &mut Receiver| {
            let mut burst = Burst::new(256, 0);
            while receiver.receive(&mut burst, 64).is_ok_and(|taken| taken > 0) {}
            burst.arrivals().len()
        };
        send();
        leaving.withdraw().unwrap();
        send();
        let (kept, of_the_other) = (count(&mut leaving), count(&mut staying));
        assert!((1..64).contains(&kept), "the queue stays, and grows no more: {kept}");
        assert_eq!(kept + of_the_other, 128);
    }
}
