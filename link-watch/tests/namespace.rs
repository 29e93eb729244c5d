//! What the kernel tells about links and addresses, in a network of this process alone. A program without harness: the network
//! must be entered before any thread starts.
#![allow(clippy::unwrap_used, reason = "tests")]

use link_watch::joined::JoinTable;
use link_watch::{AddressState, Family, Link, Need, Standing, Watch};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

fn main() {
    if let Err(error) = multicast_io::enter_private_network() {
        return tests::skipped(&format!("network namespaces: {error}"));
    }
    if !ip("link add a0 type veth peer name b0") {
        return tests::skipped("iproute2 with veth (Debian: apt-get install iproute2)");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        a_carrier_that_goes_and_comes_is_told().await;
        an_address_is_tentative_before_it_is_usable().await;
        a_look_is_no_older_than_its_call();
        an_interface_that_is_made_again_has_another_index().await;
        news_that_the_kernel_dropped_is_asked_for().await;
        a_join_on_a_dead_interface_is_not_in_the_table();
    });
    println!("1 passed, 0 failed");
}

fn ip(line: &str) -> bool {
    Command::new("ip").args(line.split_whitespace()).status().is_ok_and(|status| status.success())
}

async fn until(watch: &mut Watch, name: &str, wanted: impl Fn(Option<&Link>) -> bool) {
    let wait = async {
        while !wanted(watch.links().by_name(name)) {
            watch.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

async fn a_carrier_that_goes_and_comes_is_told() {
    let mut watch = Watch::open().unwrap();
    let need = Need::none_of(Family::V4);
    assert_eq!(need.standing(watch.links().by_name("a0")), Standing::Down);
    assert!(ip("link set a0 up"));
    until(&mut watch, "a0", |link| need.standing(link) == Standing::NoCarrier).await;
    assert!(ip("link set b0 up"));
    until(&mut watch, "a0", |link| link.unwrap().carrier).await;
    let before = watch.links().by_name("a0").unwrap().losses;
    assert!(ip("link set b0 down"));
    until(&mut watch, "a0", |link| !link.unwrap().carrier).await;
    assert!(ip("link set b0 up"));
    until(&mut watch, "a0", |link| link.unwrap().carrier).await;
    assert!(watch.links().by_name("a0").unwrap().losses > before);
}

async fn an_address_is_tentative_before_it_is_usable() {
    let mut watch = Watch::open().unwrap();
    let address: IpAddr = "fd99::1".parse().unwrap();
    let state = |link: Option<&Link>| link.and_then(|link| link.address(address)).map(|found| found.state);
    assert!(ip("addr add fd99::1/64 dev a0"));
    until(&mut watch, "a0", |link| state(link) == Some(AddressState::Tentative)).await;
    until(&mut watch, "a0", |link| state(link) == Some(AddressState::Preferred)).await;
    assert!(ip("addr change fd99::1/64 dev a0 preferred_lft 0"));
    until(&mut watch, "a0", |link| state(link) == Some(AddressState::Deprecated)).await;
    assert!(ip("addr del fd99::1/64 dev a0"));
    until(&mut watch, "a0", |link| state(link).is_none()).await;
}

fn a_look_is_no_older_than_its_call() {
    let mut watch = Watch::open().unwrap();
    assert!(ip("addr add 10.99.0.1/24 dev a0"));
    assert!(watch.look().unwrap());
    let usable: Vec<_> = watch.links().by_name("a0").unwrap().usable(true).collect();
    assert_eq!(usable, [IpAddr::from(Ipv4Addr::new(10, 99, 0, 1))]);
    assert!(!watch.look().unwrap(), "nothing new");
    assert!(ip("addr del 10.99.0.1/24 dev a0"));
}

async fn an_interface_that_is_made_again_has_another_index() {
    let mut watch = Watch::open().unwrap();
    let before = watch.links().by_name("a0").unwrap().index;
    assert!(ip("link del a0"));
    until(&mut watch, "a0", |link| link.is_none()).await;
    assert!(ip("link add a0 type veth peer name b0"));
    until(&mut watch, "a0", |link| link.is_some_and(|link| link.index != before)).await;
}

async fn news_that_the_kernel_dropped_is_asked_for() {
    // The least that the kernel gives: a few messages.
    let mut watch = Watch::with_queue(Some(1)).unwrap();
    for host in 1..100 {
        assert!(ip(&format!("addr add 10.98.0.{host}/32 dev a0")));
    }
    watch.look().unwrap();
    assert_eq!(watch.links().by_name("a0").unwrap().addresses.len(), 99);
}

fn a_join_on_a_dead_interface_is_not_in_the_table() {
    let group: Ipv4Addr = "239.255.77.1".parse().unwrap();
    let index = |name: &str| multicast_io::Interface::by_name(name).unwrap().index;
    assert!(ip("link set a0 up"));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let on = multicast_io::Interface::by_name("a0").unwrap();
    multicast_io::joins::join(&socket, group.into(), &on).unwrap();
    assert!(JoinTable::read().unwrap().has(index("a0"), group.into(), None));
    assert!(ip("link del a0") && ip("link add a0 type veth peer name b0"));
    assert!(!JoinTable::read().unwrap().has(index("a0"), group.into(), None));
}
