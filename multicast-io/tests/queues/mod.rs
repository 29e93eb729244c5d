//! Scenarios that need a slow or narrow link: the namespace's own loopback, made so.
#![allow(clippy::unwrap_used, reason = "tests; the lint sees only functions marked as such")]

use crate::run;
use crate::scenarios::{
    Datagram, Family, Scenario, assert_silent, collect, frames_of, joined, lo, options, send_train, train,
};
use multicast_io::probe::{wait_readable, wait_writable};
use multicast_io::{Burst, Receiver, Sender, SocketOptions, Span};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) const ALL: &[Scenario] = &[
    (
        "a_frame_that_a_queue_refused_is_not_counted_as_sent",
        a_frame_that_a_queue_refused_is_not_counted_as_sent,
    ),
    (
        "a_full_send_buffer_is_reported_and_the_send_goes_on",
        a_full_send_buffer_is_reported_and_the_send_goes_on,
    ),
    ("a_segment_longer_than_the_mtu_leaves_in_fragments", a_segment_longer_than_the_mtu_leaves_in_fragments),
];

const BOUND: Duration = Duration::from_secs(60);

/// Something about `lo` that is undone on drop.
struct Altered {
    undo: &'static str,
}

impl Drop for Altered {
    fn drop(&mut self) {
        let (program, arguments) = self.undo.split_once(' ').unwrap();
        run(program, arguments);
    }
}

/// A token bucket on `lo`. `None`, and a line that says so, where the kernel has none.
fn slow(limit: usize) -> Option<Altered> {
    let arguments = format!("qdisc add dev lo root tbf rate 8mbit burst 70000 limit {limit}");
    if !run("tc", &arguments) {
        println!("SKIPPED: no `tc` or no tbf in this kernel");
        return None;
    }
    Some(Altered { undo: "tc qdisc del dev lo root" })
}

/// Takes what is there, after waiting for at least one.
fn take_some(receiver: &mut Receiver, into: &mut Vec<Datagram>) {
    assert!(wait_readable(receiver, BOUND).unwrap(), "nothing arrives any more");
    let mut burst = Burst::new(8, 0);
    match receiver.receive(&mut burst, 8) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("receive: {error}"),
    }
    into.extend(burst.arrivals().iter().map(|arrival| Datagram {
        bytes: burst.bytes(arrival.span).to_vec(),
        source: arrival.source,
        destination: None,
    }));
}

/// Sends `count` frames in trains of `length`, going on after each refusal of the kind `expected`, and shows that each
/// arrived once. Returns the number of refusals.
fn send_through(
    sender: &mut Sender,
    receiver: &mut Receiver,
    to: SocketAddr,
    count: usize,
    length: usize,
    mut after_refusal: impl FnMut(&mut Sender, &std::io::Error, &mut Receiver, &mut Vec<Datagram>),
) -> usize {
    let (memory, spans) = frames_of(&vec![500; count]);
    let mut arrived = Vec::new();
    let (mut sent, mut refusals) = (0, 0);
    while sent < count {
        // The trains that are left, from the first frame that was not taken.
        let trains: Vec<_> = (sent..count)
            .step_by(length)
            .map(|first| train(to, first, length.min(count - first), 500))
            .collect();
        let progress = sender.send(&memory, &trains, &spans);
        sent += progress.frames;
        match progress.error {
            Some(error) => {
                refusals += 1;
                after_refusal(sender, &error, receiver, &mut arrived);
            }
            None => assert_eq!(sent, count),
        }
    }
    arrived.extend(collect(receiver, count - arrived.len()));
    assert_silent(receiver);
    // A queue that empties on another core than it fills may reorder; that is the network's right.
    let mut arrived: Vec<&[u8]> = arrived.iter().map(|datagram| &datagram.bytes[..]).collect();
    let mut expected: Vec<&[u8]> = spans.iter().map(|span: &Span| &memory[span.range()]).collect();
    arrived.sort_unstable();
    expected.sort_unstable();
    assert!(arrived == expected, "a frame is missing and another came twice");
    assert_eq!(receiver.kernel_drops(), 0);
    refusals
}

fn a_frame_that_a_queue_refused_is_not_counted_as_sent(family: Family) {
    let Some(_slow) = slow(90_000) else { return };
    for length in [1, 16] {
        let wide = SocketOptions {
            receive_buffer: Some(1 << 22),
            send_buffer: Some(1 << 22),
            ..options(family.anywhere())
        };
        let (mut receiver, to) = joined(&wide, family);
        let mut sender =
            Sender::open(&SocketOptions { bind: SocketAddr::new(family.host(), 0), ..wide.clone() }).unwrap();
        // Until the bucket of the round before is full again.
        let refusals =
            send_through(&mut sender, &mut receiver, to, 600, length, |_, error, receiver, arrived| {
                // ENOBUFS. Once something arrived, the queue has room again.
                assert_eq!(error.raw_os_error(), Some(105), "{error}");
                take_some(receiver, arrived);
            });
        assert!(refusals > 0, "the queue was never full");
        assert!(!sender.gso_refused());
    }
}

fn a_full_send_buffer_is_reported_and_the_send_goes_on(family: Family) {
    let Some(_slow) = slow(10_000_000) else { return };
    for length in [1, 16] {
        let (mut receiver, to) =
            joined(&SocketOptions { receive_buffer: Some(1 << 22), ..options(family.anywhere()) }, family);
        let narrow = SocketOptions { send_buffer: Some(30_000), ..options(family.host()) };
        let mut sender = Sender::open(&narrow).unwrap();
        let refusals = send_through(&mut sender, &mut receiver, to, 600, length, |sender, error, _, _| {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            assert!(wait_writable(sender, BOUND).unwrap());
        });
        assert!(refusals > 0, "the buffer was never full");
    }
}

fn a_segment_longer_than_the_mtu_leaves_in_fragments(family: Family) {
    assert!(run("ip", "link set lo mtu 1500"));
    let _narrow = Altered { undo: "ip link set lo mtu 65536" };
    assert_eq!(lo().mtu, 1500);
    let (mut receiver, to) = joined(&options(family.anywhere()), family);
    let mut sender = Sender::open(&options(family.host())).unwrap();
    let longest = sender.max_train();
    for _ in 0..2 {
        let frames = send_train(&mut sender, to, &[3_000, 2_900, 3_000, 2_000], 3_000);
        let arrived = collect(&mut receiver, 4);
        // One by one, so without padding.
        assert!(arrived.iter().map(|datagram| &datagram.bytes).eq(&frames));
        let frames = send_train(&mut sender, to, &[1_400, 1_300, 1_400], 1_400);
        let arrived = collect(&mut receiver, 3);
        assert_eq!(arrived[1].bytes.len(), 1_400, "a train that fits stays a train");
        assert_eq!(arrived[2].bytes, frames[2]);
    }
    assert!(!sender.gso_refused());
    assert_eq!((sender.max_train(), sender.max_segment()), (longest, 2_999));
}
