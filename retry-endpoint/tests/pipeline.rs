//! Requests, limits and fetches, each alone in virtual time.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use frame::{Nack, SeqNum};
use proptest::prelude::*;
use retry_endpoint::pipeline::answer::{BadRequest, Request};
use retry_endpoint::pipeline::limit::{Buckets, Level, Network, Rate, RequestLimits, RequestRates, Trusted};
use retry_endpoint::pipeline::upstream::{FetchStart, Fetches, FrameKey, UpstreamRequest};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::{FAR, FLOW, LOCAL, request_from};

#[test]
fn malformed_requests_get_nothing() {
    let source: SocketAddr = LOCAL.parse().unwrap();
    let read = |bytes: &[u8], most| Request::read(bytes, source, None, most).unwrap_err();
    let nack = |start, end| {
        let nack =
            Nack { flags: 0, hash_key: FLOW, start: SeqNum(start), end: SeqNum(end), subtree_id: [0; 32] };
        nack.encode()
    };
    assert_eq!(read(&nack(1, 1)[..63], 256), BadRequest::Malformed);
    assert_eq!(read(&nack(2, 1), 256), BadRequest::Reversed);
    assert_eq!(read(&nack(1, 257), 256), BadRequest::TooLong);
    assert_eq!(read(&nack(1, 9), 8), BadRequest::TooLong);
    assert_eq!(read(&nack(0, u64::MAX), 256), BadRequest::TooLong);
    assert_eq!(read(&nack(0, 3), 256), BadRequest::Zero);
    let mut wrong = nack(1, 1);
    wrong[6] = 0x11;
    assert_eq!(read(&wrong, 256), BadRequest::Malformed);
    let mut long = nack(1, 256).to_vec();
    long.push(0);
    assert_eq!(Request::read(&long, source, None, 256).unwrap().count(), 256);
}

#[test]
fn limits_refuse_speak_and_recover() {
    let now = Instant::now();
    let rate = |n: f64| Rate { rate: n, burst: n };
    let rates = RequestRates { ip: rate(5.0), sequence: rate(3.0), chain: rate(100.0) };
    let mut limits = RequestLimits::new(rates, 1, now);
    let (source, other) = ("192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap());
    let nack = |seq| request_from(FAR, seq, seq, 0).nack;
    for _ in 0..3 {
        assert_eq!(limits.check(source, &nack(1), now), Ok(()));
    }
    assert_eq!(
        limits.check(other, &nack(1), now),
        Err(Level::Sequence),
        "for one number of a flow, from anybody"
    );
    assert_eq!(limits.check(source, &nack(2), now), Ok(()));
    assert_eq!(limits.check(source, &nack(3), now), Ok(()));
    assert_eq!(limits.check(source, &nack(4), now), Err(Level::Ip));
    assert_eq!(limits.check(source, &nack(4), now + Duration::from_secs(1)), Ok(()));
}

#[test]
fn a_flood_of_addresses_does_not_grow_the_table() {
    let now = Instant::now();
    let mut buckets = Buckets::new(Rate { rate: 1.0, burst: 2.0 }, 1024, 3, now);
    let size = buckets.len();
    for key in 0..1_000_000_u128 {
        buckets.take((key, 0), 1.0, now);
    }
    assert_eq!((buckets.len(), size), (1024, 1024));
}

proptest! {
    /// A bucket never hands out more than its burst and its rate allow.
    #[test]
    fn a_bucket_keeps_its_rate(steps in proptest::collection::vec((0_u64..500, 1_u32..5), 1..200)) {
        let start = Instant::now();
        let mut now = start;
        let mut buckets = Buckets::new(Rate { rate: 10.0, burst: 20.0 }, 64, 5, start);
        let mut taken = 0.0;
        for (millis, cost) in steps {
            now += Duration::from_millis(millis);
            if buckets.take((1, 2), f64::from(cost), now) {
                taken += f64::from(cost);
            }
            prop_assert!(taken <= 20.0 + 10.0 * (now - start).as_secs_f64() + 1e-6);
        }
    }
}

#[test]
fn networks_are_read_and_matched() {
    let trusted = Trusted::new(vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
    for (address, inside) in [
        ("10.1.2.3", true),
        ("::ffff:10.1.2.3", true),
        ("10.2.0.1", false),
        ("2001:db8:5::1", true),
        ("2001:db9::1", false),
        ("127.0.0.9", true),
        ("::1", true),
    ] {
        assert_eq!(trusted.contains(address.parse().unwrap()), inside, "{address}");
    }
    for wrong in ["10.0.0.0/33", "::/129", "host", "10.0.0.0/x", ""] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
    assert!(Trusted::new(vec!["::/0".parse().unwrap()]).contains("1.2.3.4".parse().unwrap()));
}

#[test]
fn a_miss_is_fetched_once_for_all_and_a_failed_fetch_is_released() {
    let start = Instant::now();
    let mut fetches = Fetches::new(2, 2, Duration::from_millis(300));
    let wanted = FrameKey { hash_key: FLOW, seq: SeqNum(1) };
    assert_eq!(fetches.start(wanted, start), FetchStart::Ask(UpstreamRequest { wanted, endpoint: 0 }));
    assert_eq!(fetches.start(wanted, start), FetchStart::Collapsed);
    // The first upstream has nothing, the second is silent.
    assert_eq!(fetches.missed(wanted, 0, start), Some(UpstreamRequest { wanted, endpoint: 1 }));
    assert_eq!(fetches.missed(wanted, 0, start), None, "a late word of the first changes nothing");
    assert_eq!(fetches.pending(), 1);
    let mut asks = Vec::new();
    assert_eq!(fetches.overdue(start + Duration::from_millis(300), &mut asks), 1);
    assert!(asks.is_empty());
    assert_eq!(
        fetches.start(wanted, start),
        FetchStart::Ask(UpstreamRequest { wanted, endpoint: 0 }),
        "and can be tried again"
    );
    assert!(fetches.arrived(wanted));
    assert!(!fetches.arrived(wanted));
    for seq in 2..=3 {
        fetches.start(FrameKey { hash_key: FLOW, seq: SeqNum(seq) }, start);
    }
    assert_eq!(fetches.start(FrameKey { hash_key: FLOW, seq: SeqNum(4) }, start), FetchStart::Full);
}

#[test]
fn every_metric_follows_the_rules_for_names() {
    let faults: Vec<String> =
        retry_endpoint::runtime::metrics().filter_map(|metric| metric.fault()).collect();
    assert!(faults.is_empty(), "{faults:?}");
}
