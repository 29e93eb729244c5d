//! `aerospike` with the real client: against a stand-in that speaks the wire protocol, or, where the environment variable
//! `ONCECAST_AEROSPIKE` names one (`host:port`, namespace `test` or that of `ONCECAST_AEROSPIKE_NAMESPACE`), against a real server. Tests that
//! need a server to misbehave run against the stand-in only.
#![cfg(feature = "aerospike")]

mod support;

use cache_backend::{
    AerospikeSettings, Backend, BootPolicy, BreakerState, Claimed, Credential, OpErrorKind, RemoteSettings,
    Secret, Session, Settings,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use support::*;
use tests::stand_in::{NAMESPACE, PASSWORD, StandIn, USER};

fn settings_for(address: String) -> AerospikeSettings {
    let mut settings = AerospikeSettings::new(address, NAMESPACE);
    settings.remote.boot_patience = Duration::from_millis(600);
    settings.remote.op_timeout = Duration::from_secs(5);
    settings.remote.deadline_floor = Duration::from_secs(5);
    settings
}

/// A real server if there is one, else a stand-in.
async fn a_server() -> (Option<StandIn>, AerospikeSettings) {
    match std::env::var("ONCECAST_AEROSPIKE") {
        Ok(address) => {
            let mut settings = settings_for(address);
            if let Ok(namespace) = std::env::var("ONCECAST_AEROSPIKE_NAMESPACE") {
                settings.namespace = namespace;
            }
            (None, settings)
        }
        Err(_) => {
            let stand_in = StandIn::start().await;
            let settings = settings_for(stand_in.address());
            (Some(stand_in), settings)
        }
    }
}

async fn open(settings: AerospikeSettings) -> (Arc<dyn Backend>, Box<dyn Session>) {
    let backend = cache_backend::open(Settings::Aerospike(Box::new(settings)))
        .await
        .expect("opens")
        .expect("a backend");
    let session = backend.session().await.expect("a session");
    (backend, session)
}

async fn open_error(settings: AerospikeSettings) -> String {
    match cache_backend::open(Settings::Aerospike(Box::new(settings))).await {
        Ok(_) => panic!("it opened"),
        Err(error) => error.0,
    }
}

/// A real server keeps what earlier runs wrote.
fn fresh(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

#[tokio::test]
async fn the_first_claim_creates_and_the_others_get_the_old_value() {
    let (_stand_in, settings) = a_server().await;
    let (backend, session) = open(settings).await;
    let name = fresh("claims");
    assert_eq!(created(&session.claim(pairs(&name, 0..300, "mine"), TTL, soon()).await), 300);
    let again = session.claim(pairs(&name, 200..400, "theirs"), TTL, soon()).await;
    assert_eq!((existing(&again, "mine"), created(&again)), (100, 100));
    assert_eq!((&again[0], &again[199]), (&Ok(Claimed::Exists("mine".into())), &Ok(Claimed::Created)));

    assert_eq!(session.del(pairs(&name, 399..401, ""), soon()).await, [Ok(true), Ok(false)]);
    assert_eq!(session.set(pairs(&name, 0..1, "new"), TTL, soon()).await, [Ok(())]);
    assert_eq!(session.get(pairs(&name, 0..1, ""), soon()).await, [Ok(Some("new".into()))]);
    assert_eq!(session.get(pairs(&fresh("absent"), 0..1, ""), soon()).await, [Ok(None)]);
    backend.healthy().await.unwrap();
}

#[tokio::test]
async fn a_ttl_is_rounded_up_to_whole_seconds_and_ends() {
    let (stand_in, settings) = a_server().await;
    let (_backend, session) = open(settings).await;
    let name = fresh("ttl");
    session.claim(pairs(&name, 0..1, "v"), Duration::from_millis(1), soon()).await;
    let last_ttl = || stand_in.as_ref().map(|stand_in| stand_in.node.last_ttl.load(SeqCst));
    assert!(last_ttl().is_none_or(|ttl| ttl == 1));
    session.claim(pairs(&name, 1..2, "v"), Duration::from_millis(60_001), soon()).await;
    assert!(last_ttl().is_none_or(|ttl| ttl == 61));
    session.claim(pairs(&name, 2..3, "v"), Duration::ZERO, soon()).await;
    assert!(last_ttl().is_none_or(|ttl| ttl == u32::MAX));
    eventually("the record of a second is gone", || async {
        session.get(pairs(&name, 0..1, ""), soon()).await == [Ok(None)]
    })
    .await;
    assert_eq!(created(&session.claim(pairs(&name, 0..3, "w"), TTL, soon()).await), 1);
    session.del(pairs(&name, 2..3, ""), soon()).await;
}

#[tokio::test]
async fn sessions_race_and_each_key_has_one_winner() {
    let (_stand_in, settings) = a_server().await;
    let (backend, first) = open(settings).await;
    let second = backend.session().await.unwrap();
    let name = fresh("race");
    let (a, b) = tokio::join!(
        first.claim(pairs(&name, 0..500, "a"), TTL, soon()),
        second.claim(pairs(&name, 0..500, "b"), TTL, soon()),
    );
    assert_eq!(created(&a) + created(&b), 500);
    assert_eq!(existing(&a, "b") + existing(&b, "a"), 500);
}

#[tokio::test]
async fn no_more_operations_are_under_way_than_configured() {
    let stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.concurrency = 8;
    let (_backend, session) = open(settings).await;
    stand_in.node.late_ms.store(1, SeqCst);
    let (a, b) = tokio::join!(
        session.claim(pairs("a", 0..100, "v"), TTL, soon()),
        session.claim(pairs("b", 0..100, "v"), TTL, soon()),
    );
    assert_eq!(created(&a) + created(&b), 200);
    assert!(stand_in.node.most_at_once.load(SeqCst) <= 8);
}

#[tokio::test]
async fn many_keys_are_few_requests_and_few_keys_one_each() {
    let stand_in = StandIn::start().await;
    let (_backend, session) = open(settings_for(stand_in.address())).await;
    let requests = || stand_in.node.requests.swap(0, SeqCst);
    requests();
    assert_eq!(created(&session.claim(pairs("many", 0..600, "v"), TTL, soon()).await), 600);
    assert_eq!(requests(), 3);
    assert_eq!(existing(&session.claim(pairs("many", 500..700, "w"), TTL, soon()).await, "v"), 100);
    assert_eq!(requests(), 2, "the claims, and what exists");
    assert_eq!(created(&session.claim(pairs("few", 0..7, "v"), TTL, soon()).await), 7);
    assert_eq!(requests(), 7);
    let long = "v".repeat(600_000);
    assert_eq!(session.set(pairs("long", 0..8, &long), TTL, soon()).await, [const { Ok(()) }; 8]);
    assert_eq!(requests(), 4, "two of these are more than a mebibyte");
}

/// A node that stands still costs its own keys, which are soon refused unasked; the others are decided all the while.
#[tokio::test]
async fn a_node_of_a_cluster_that_stands_still_takes_only_its_own_keys_along() {
    let [large, small] = StandIn::pair().await;
    let mut settings = settings_for(large.address());
    settings.remote = RemoteSettings::for_claims();
    let (backend, session) = open(settings).await;
    large.node.waiting_for_replicas.store(0, SeqCst);
    eventually("both nodes are known", || async {
        eventually_claims("claims", &*session).await;
        small.node.records() > 0
    })
    .await;
    small.node.stalled.store(true, SeqCst);
    eventually("the keys of one node are refused at once and the others decided", || async {
        let answers = session.claim(pairs(&fresh("still"), 0..64, "v"), TTL, soon()).await;
        let refused = kinds(&answers);
        !refused.is_empty()
            && refused.iter().all(|&kind| kind == OpErrorKind::Disconnected)
            && created(&answers) > 32
    })
    .await;
    assert_eq!(backend.guards()[0].state(), BreakerState::Closed);
    small.node.stalled.store(false, SeqCst);
    eventually("the keys of both are decided again", || async {
        created(&session.claim(pairs(&fresh("again"), 0..64, "v"), TTL, soon()).await) == 64
    })
    .await;
    assert_eq!(large.node.waiting_for_replicas.load(SeqCst), 0, "no claim waits for replicas");
}

#[tokio::test]
async fn keys_that_were_never_asked_are_not_in_doubt() {
    let stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.remote.op_timeout = Duration::from_millis(300);
    settings.remote.deadline_floor = settings.remote.op_timeout;
    settings.concurrency = 1;
    let (_backend, session) = open(settings).await;
    stand_in.node.stall_one_in.store(1, SeqCst);
    let (first, second) = tokio::join!(
        session.claim(pairs("a", 0..20, "v"), TTL, soon()),
        session.claim(pairs("b", 0..20, "v"), TTL, soon()),
    );
    let in_doubt = |answers: &[Result<Claimed, cache_backend::OpError>]| {
        answers.iter().filter(|answer| answer.as_ref().is_err_and(|error| error.in_doubt)).count()
    };
    assert_eq!(
        (kinds(&first), kinds(&second)),
        (vec![OpErrorKind::Timeout; 20], vec![OpErrorKind::Overloaded; 20])
    );
    assert_eq!((in_doubt(&first), in_doubt(&second)), (20, 0));
}

#[tokio::test]
async fn open_names_what_failed_and_what_to_configure() {
    let mut stand_in = StandIn::start().await;
    let settings = settings_for(stand_in.address());
    stand_in.node.forbids_ttl.store(true, SeqCst);
    let error = open_error(settings.clone()).await;
    assert!(error.contains("\"test\"") && error.contains("nsup-period"), "{error}");
    stand_in.node.forbids_ttl.store(false, SeqCst);
    stand_in.node.full.store(true, SeqCst);
    let error = open_error(settings.clone()).await;
    assert!(error.contains("full"), "{error}");
    stand_in.node.full.store(false, SeqCst);
    stand_in.node.set_full.store(true, SeqCst);
    let error = open_error(settings.clone()).await;
    assert!(error.contains("set \"bsp\" is full") && !error.contains("nsup-period"), "{error}");
    stand_in.node.set_full.store(false, SeqCst);
    let mut elsewhere = settings.clone();
    elsewhere.namespace = "other".into();
    let error = open_error(elsewhere).await;
    assert!(error.contains("\"other\"") && error.contains("do not have it"), "{error}");
    stand_in.kill();
    let error = open_error(settings.clone()).await;
    assert!(error.contains(&stand_in.address()) && error.contains("cannot connect"), "{error}");
    for (host, namespace) in [("", "test"), ("host:x", "test"), ("host:0", "test"), ("host", "")] {
        let error = open_error(AerospikeSettings::new(host, namespace)).await;
        assert!(error.starts_with("aerospike: "), "{error}");
    }
}

#[tokio::test]
async fn a_full_set_refuses_new_claims_and_still_knows_the_old_ones() {
    let stand_in = StandIn::start().await;
    let (_backend, session) = open(settings_for(stand_in.address())).await;
    session.claim(pairs("k", 0..5, "old"), TTL, soon()).await;
    stand_in.node.set_full.store(true, SeqCst);
    let answers = session.claim(pairs("k", 0..8, "new"), TTL, soon()).await;
    assert_eq!(existing(&answers, "old"), 5);
    assert_eq!(kinds(&answers), [OpErrorKind::Refused; 3]);
    assert!(answers[5..].iter().all(|answer| answer.as_ref().is_err_and(|error| !error.in_doubt)));
}

#[tokio::test]
async fn a_full_namespace_refuses_every_claim_and_can_be_read() {
    let stand_in = StandIn::start().await;
    let (_backend, session) = open(settings_for(stand_in.address())).await;
    session.claim(pairs("k", 0..5, "old"), TTL, soon()).await;
    stand_in.node.full.store(true, SeqCst);
    let answers = session.claim(pairs("k", 0..8, "new"), TTL, soon()).await;
    assert_eq!(kinds(&answers), [OpErrorKind::Refused; 8]);
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| !error.in_doubt)));
    assert_eq!(session.get(pairs("k", 4..6, ""), soon()).await, [Ok(Some("old".into())), Ok(None)]);
}

#[tokio::test]
async fn keys_that_were_answered_before_the_deadline_keep_their_answer() {
    let stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.remote.op_timeout = Duration::from_secs(2);
    settings.remote.deadline_floor = Duration::from_millis(300);
    let (_backend, session) = open(settings).await;
    // Once the server is known to be quick, the deadline is shorter than the operation timeout.
    for batch in 0..64 {
        session.claim(pairs(&format!("quick-{batch}"), 0..1, "v"), TTL, soon()).await;
    }
    stand_in.node.stall_one_in.store(10, SeqCst);
    let answers = session.claim(pairs("k", 0..50, "v"), TTL, soon()).await;
    assert_eq!(created(&answers), 45);
    assert_eq!(kinds(&answers), [OpErrorKind::Timeout; 5]);
    let in_doubt =
        |answer: &Result<Claimed, cache_backend::OpError>| answer.as_ref().is_err_and(|error| error.in_doubt);
    assert_eq!(answers.iter().filter(|answer| in_doubt(answer)).count(), 5);
}

#[tokio::test]
async fn a_write_whose_answer_is_late_is_in_doubt_and_not_retried() {
    let stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.remote.op_timeout = Duration::from_millis(100);
    let (_backend, session) = open(settings).await;
    stand_in.node.late_ms.store(400, SeqCst);
    let late = session.claim(pairs("k", 0..1, "own"), TTL, soon()).await;
    assert!(
        late[0].as_ref().is_err_and(|error| error.kind == OpErrorKind::Timeout && error.in_doubt),
        "{late:?}"
    );
    stand_in.node.late_ms.store(0, SeqCst);
    eventually("it had landed", || async {
        existing(&session.claim(pairs("k", 0..1, "other"), TTL, soon()).await, "own") == 1
    })
    .await;
}

#[tokio::test]
async fn a_stalled_server_costs_deadlines_then_nothing_and_is_used_again() {
    let stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.remote = RemoteSettings::for_claims();
    let (backend, session) = open(settings).await;
    eventually_claims("claims", &*session).await;
    stand_in.node.stalled.store(true, SeqCst);
    eventually("the breaker opens", || async {
        let answers = session.claim(pairs(&fresh("stalled"), 0..10, "v"), TTL, soon()).await;
        kinds(&answers) == [OpErrorKind::BreakerOpen; 10]
    })
    .await;
    assert_eq!(backend.guards()[0].state(), BreakerState::Open);
    assert!(backend.healthy().await.is_err());
    stand_in.node.stalled.store(false, SeqCst);
    eventually_claims("claims when it answers again", &*session).await;
}

#[tokio::test]
async fn a_killed_server_is_used_again_after_its_restart_and_a_degraded_start_finds_it_later() {
    let mut stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.remote = RemoteSettings::for_claims();
    settings.remote.dial_timeout = Duration::from_millis(300);
    let (_backend, session) = open(settings.clone()).await;
    eventually_claims("claims", &*session).await;
    stand_in.kill();
    eventually("the loss is noticed", || async {
        let answers = session.claim(pairs(&fresh("dead"), 0..4, "v"), TTL, soon()).await;
        kinds(&answers).len() == 4
    })
    .await;
    settings.remote.boot = BootPolicy::Degraded;
    let (_degraded, without) = open(settings).await;
    let answers = without.claim(pairs("k", 0..4, "v"), TTL, soon()).await;
    assert_eq!(kinds(&answers), [OpErrorKind::BreakerOpen; 4]);
    stand_in.listen().await;
    eventually_claims("claims after the restart", &*session).await;
    eventually_claims("claims of the session that started without", &*without).await;
}

#[tokio::test]
async fn a_login_is_made_and_a_wrong_password_is_named() {
    let stand_in = StandIn::start().await;
    stand_in.node.asks_for_login.store(true, SeqCst);
    let login = |password: &str| {
        let mut settings = settings_for(stand_in.address());
        let password = Secret::Plain(password.to_owned());
        settings.credential = Some(Credential { user: Some(USER.to_owned()), password });
        settings
    };
    let (_backend, session) = open(login(PASSWORD)).await;
    assert_eq!(created(&session.claim(pairs("k", 0..10, "v"), TTL, soon()).await), 10);
    let error = open_error(login("a wrong one")).await;
    assert!(error.contains("check user and password") && error.contains(&stand_in.address()), "{error}");
    assert!(!error.contains("a wrong one"), "{error}");
}

#[tokio::test]
async fn an_address_of_ip_version_6_is_shown_in_brackets() {
    for ending in ["", ",[::1]:4001"] {
        let hosts = format!("[::1]:4000{ending}");
        let mut settings = settings_for(String::new());
        settings.hosts = hosts.split(',').map(str::to_owned).collect();
        let error = open_error(settings).await;
        assert!(error.contains(&hosts) && !error.contains(" ::1:"), "{error}");
    }
}

#[tokio::test]
async fn a_claim_whose_answer_got_lost_is_found_as_a_record_and_never_as_another_claim_of_ours() {
    let stand_in = StandIn::start().await;
    let mut settings = settings_for(stand_in.address());
    settings.remote.op_timeout = Duration::from_millis(400);
    settings.remote.deadline_floor = settings.remote.op_timeout;
    let (_backend, session) = open(settings).await;
    stand_in.node.lose_one_in.store(10, SeqCst);
    let answers = session.claim(pairs("k", 0..50, "own"), TTL, soon()).await;
    assert_eq!((created(&answers), kinds(&answers).len()), (45, 5));
    stand_in.node.lose_one_in.store(0, SeqCst);
    let again = session.claim(pairs("k", 0..50, "other"), TTL, soon()).await;
    assert_eq!(existing(&again, "own"), 50, "each landed once");
}
