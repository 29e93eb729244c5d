//! `redis` against real servers: what a caller sees on good and bad days.

mod support;

use cache_backend::{
    BootPolicy, BreakerState, Claimed, Credential, KeyValues, OpErrorKind, RedisTopology, Secret, Settings,
};
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;
use support::fake::{Proxy, Scripted, cluster_node};
use support::*;

#[tokio::test]
async fn the_first_claim_creates_and_the_others_get_the_old_value() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    for address in [server.address(), server.unix_address(), format!("redis://{}/3", server.address())] {
        let (backend, session) = open(settings(address)).await;
        assert_eq!(created(&session.claim(pairs("k", 0..300, "mine"), TTL, soon()).await), 300);
        let again = session.claim(pairs("k", 200..400, "theirs"), TTL, soon()).await;
        assert_eq!((existing(&again, "mine"), created(&again)), (100, 100));
        assert_eq!(again[0], Ok(Claimed::Exists("mine".into())));
        assert_eq!(again[199], Ok(Claimed::Created));

        assert_eq!(session.del(pairs("k", 399..401, ""), soon()).await, [Ok(true), Ok(false)]);
        assert_eq!(session.set(pairs("k", 0..1, "new"), TTL, soon()).await, [Ok(())]);
        let values = session.get(pairs("k", 0..1, ""), soon()).await;
        assert_eq!(values, [Ok(Some("new".into()))]);
        assert_eq!(session.get(pairs("absent", 0..1, ""), soon()).await, [Ok(None)]);
        assert!(session.get(KeyValues::new(), soon()).await.is_empty());
        backend.healthy().await.unwrap();
        server.must(&["FLUSHDB"]);
    }
}

#[tokio::test]
async fn any_bytes_of_any_length_come_back_as_they_went() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let (_backend, session) = open(server.settings()).await;
    let mut batch = KeyValues::new();
    let values: Vec<Vec<u8>> = [0, 1, 40, 65_536, 3_000_000]
        .iter()
        .map(|&length| (0..length).map(|i: u32| u8::try_from(i * 7 % 251).unwrap()).collect())
        .collect();
    for (index, value) in values.iter().enumerate() {
        batch.push(&[0, b'\r', b'\n', u8::try_from(index).unwrap()], value);
    }
    let deadline = std::time::Instant::now() + PATIENCE;
    assert_eq!(session.set(batch.clone(), TTL, deadline).await, [const { Ok(()) }; 5]);
    let read: Vec<_> =
        session.get(batch.clone(), deadline).await.into_iter().map(|v| v.unwrap().unwrap()).collect();
    assert!(read == values);
    let old = session.claim(batch, TTL, deadline).await;
    assert!(old.iter().zip(&values).all(|(old, value)| *old == Ok(Claimed::Exists(value.clone().into()))));
}

#[tokio::test]
async fn values_that_others_made_too_long_cost_no_more_memory_than_is_set_aside() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let (_backend, session) = open(server.settings()).await;
    for key in ["long:0", "long:1"] {
        server.must(&["SETRANGE", key, &(40 << 20).to_string(), "x"]);
    }
    let answers = session.claim(pairs("long", 0..1, "v"), TTL, soon()).await;
    assert!(
        matches!(&answers[..], [Ok(Claimed::Exists(old))] if old.len() == 1024),
        "its beginning is enough"
    );
    let values = session.get(pairs("long", 0..3, ""), soon()).await;
    assert!(matches!(&values[0], Ok(Some(value)) if value.len() == (40 << 20) + 1));
    assert_eq!(kinds(&values), [OpErrorKind::Overloaded], "the second finds no room");
    assert_eq!(values[2], Ok(None));
}

#[tokio::test]
async fn a_password_that_is_changed_in_file_and_server_needs_no_restart() {
    if !redis_is_installed() {
        return;
    }
    let mut server = Server::start(&["--requirepass", "first"]);
    server.set_admin("first");
    let file = server.dir.path().join("password");
    std::fs::write(&file, "first\n").unwrap();
    let mut settings = server.settings();
    settings.credential = Some(Credential { user: None, password: Secret::File(file.clone()) });
    let (_backend, session) = open(settings).await;
    eventually_claims("claims with the first password", &*session).await;
    server.ask(&["CONFIG", "SET", "requirepass", "second"]);
    server.set_admin("second");
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the old password is of no use", || async {
        !kinds(&session.claim(pairs("k", 0..4, "v"), TTL, soon()).await).is_empty()
    })
    .await;
    std::fs::write(&file, "second\n").unwrap();
    eventually_claims("claims with the second password", &*session).await;
}

#[tokio::test]
async fn a_ttl_ends_and_a_ttl_of_zero_does_not() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let (_backend, session) = open(server.settings()).await;
    session.claim(pairs("short", 0..1, "v"), Duration::from_micros(1500), soon()).await;
    session.claim(pairs("for-ever", 0..1, "v"), Duration::ZERO, soon()).await;
    session.set(pairs("minute", 0..1, "v"), TTL, soon()).await;
    assert_eq!(server.ttl("for-ever:0"), None);
    assert!(server.ttl("minute:0").is_some_and(|ttl| (50_000..=60_000).contains(&ttl)));
    eventually("the short one is gone", || async {
        session.get(pairs("short", 0..1, ""), soon()).await == [Ok(None)]
    })
    .await;
}

#[tokio::test]
async fn servers_without_set_nx_get_are_found_out_at_open_and_served_by_script_or_in_two_steps() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    for scripts in [true, false] {
        let proxy = Proxy::before(server.port).await;
        proxy.mischief.no_nx_get.store(true, SeqCst);
        proxy.mischief.no_scripts.store(!scripts, SeqCst);
        let (_backend, session) = open(settings(&proxy.address)).await;
        let name = format!("scripts-{scripts}");
        assert_eq!(created(&session.claim(pairs(&name, 0..100, "mine"), TTL, soon()).await), 100);
        let again = session.claim(pairs(&name, 50..150, "theirs"), TTL, soon()).await;
        assert_eq!((existing(&again, "mine"), created(&again)), (50, 50));
        assert!(server.ttl(&format!("{name}:149")).is_some_and(|ttl| (50_000..=60_000).contains(&ttl)));
        session.claim(pairs(&name, 150..151, "v"), Duration::ZERO, soon()).await;
        assert_eq!(server.ttl(&format!("{name}:150")), None);
    }
}

#[tokio::test]
async fn open_names_what_failed() {
    if !redis_is_installed() {
        return;
    }
    let mut server = Server::start(&["--requirepass", "sesame"]);
    let address = server.address();
    let with = |user: Option<&str>, password: &str| {
        let credential =
            Credential { user: user.map(str::to_owned), password: Secret::Plain(password.to_owned()) };
        let mut settings = settings(&address);
        settings.credential = Some(credential);
        settings
    };
    let error = open_error(server.settings()).await;
    assert!(error.contains(&server.address()) && error.contains("asks for a password"), "{error}");
    let error = open_error(with(None, "wrong")).await;
    assert!(error.contains("user and password") && !error.contains("wrong"), "{error}");
    let error = open_error(with(Some("nobody"), "sesame")).await;
    assert!(error.contains("nobody"), "{error}");
    let mut from_nowhere = server.settings();
    let password = Secret::File("/nowhere/password".into());
    from_nowhere.credential = Some(Credential { user: None, password });
    let error = open_error(from_nowhere).await;
    assert!(error.contains("/nowhere/password"), "{error}");
    let mut wrong_db = with(None, "sesame");
    wrong_db.db = 99;
    let error = open_error(wrong_db).await;
    assert!(error.contains("database 99"), "{error}");
    open(with(None, "sesame")).await;

    server.kill();
    let error = open_error(with(None, "sesame")).await;
    assert!(error.contains(&server.address()) && error.contains("cannot connect"), "{error}");
    let error = open_error(settings("unix:///nowhere/socket")).await;
    assert!(error.contains("/nowhere/socket"), "{error}");
}

#[tokio::test]
async fn an_acl_user_needs_few_rights_and_a_missing_one_is_named() {
    if !redis_is_installed() {
        return;
    }
    let acl = "user default off\n\
               user claims on >s3cret ~bsp:* -@all +ping +set +get +del +pttl\n\
               user nodel on >s3cret ~bsp:* -@all +ping +set +get\n\
               user elsewhere on >s3cret ~other:* +@all\n";
    let server = Server::start_with_files(&["--aclfile", "{dir}/users"], &[("users", acl)]);
    let with = |user: &str| {
        let mut settings = server.settings();
        let password = server.dir.path().join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        settings.credential =
            Some(Credential { user: Some(user.to_owned()), password: Secret::File(password) });
        settings
    };
    let (_backend, session) = open(with("claims")).await;
    assert_eq!(created(&session.claim(pairs("bsp:tx", 0..9, "v"), TTL, soon()).await), 9);
    let error = open_error(with("nodel")).await;
    assert!(error.contains("DEL"), "{error}");
    let error = open_error(with("elsewhere")).await;
    assert!(error.contains("bsp:probe:"), "{error}");
}

#[tokio::test]
async fn tls_is_verified_against_the_ca_file() {
    if !redis_is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if !make_ca(dir.path()) {
        tests::skipped("openssl, to make a test CA (Debian: apt-get install openssl)");
        return;
    }
    let file = |name: &str| dir.path().join(name);
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let tls_port = free_port();
    let server = Server::start(&[
        "--tls-port",
        &tls_port.to_string(),
        "--tls-cert-file",
        cert.to_str().unwrap(),
        "--tls-key-file",
        key.to_str().unwrap(),
        "--tls-ca-cert-file",
        ca.to_str().unwrap(),
        "--tls-auth-clients",
        "yes",
    ]);
    let with = |client_certificate: bool| {
        let mut settings = settings(format!("rediss://localhost:{tls_port}"));
        settings.tls.ca_file = Some(ca.clone());
        if client_certificate {
            (settings.tls.cert_file, settings.tls.key_file) = (Some(cert.clone()), Some(key.clone()));
        }
        settings
    };
    let (_backend, session) = open(with(true)).await;
    assert_eq!(created(&session.claim(pairs("tls", 0..1000, "v"), TTL, soon()).await), 1000);

    open_error(with(false)).await;
    let mut unknown_ca = with(true);
    unknown_ca.tls.ca_file = None;
    let error = open_error(unknown_ca).await;
    assert!(error.contains("CA file"), "{error}");
    let mut other_name = with(true);
    other_name.tls.server_name = Some("cache.example".to_owned());
    let error = open_error(other_name).await;
    assert!(error.contains("server name"), "{error}");
    let mut no_file = with(true);
    no_file.tls.ca_file = Some("/nowhere/ca.pem".into());
    let error = open_error(no_file).await;
    assert!(error.contains("/nowhere/ca.pem"), "{error}");
    let plain = open_error(settings(format!("localhost:{tls_port}"))).await;
    assert!(plain.contains(&format!("localhost:{tls_port}")), "{plain}");
    drop(server);
}

#[tokio::test]
async fn a_certificate_that_is_replaced_needs_no_restart() {
    if !redis_is_installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if !make_ca(dir.path()) {
        tests::skipped("openssl, to make a test CA (Debian: apt-get install openssl)");
        return;
    }
    let (tls_port, at) = (free_port().to_string(), dir.path().display().to_string());
    let (cert, key, ca) = (format!("{at}/server.pem"), format!("{at}/server.key"), format!("{at}/ca.pem"));
    let options = [("port", &tls_port), ("cert-file", &cert), ("key-file", &key), ("ca-cert-file", &ca)];
    let options = options.map(|(name, value)| [format!("--tls-{name}"), value.clone()]).concat();
    let server = Server::start(&options.iter().map(String::as_str).collect::<Vec<_>>());
    let ours = dir.path().join("ours.pem");
    std::fs::copy(&cert, &ours).unwrap();
    let mut settings = settings(format!("rediss://localhost:{tls_port}"));
    settings.tls.ca_file = Some(ca.into());
    (settings.tls.cert_file, settings.tls.key_file) = (Some(ours.clone()), Some(key.into()));
    let (_backend, session) = open(settings).await;
    eventually_claims("claims with the first certificate", &*session).await;
    std::fs::write(&ours, "no certificate").unwrap();
    server.must(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    eventually("the next dial reads what is there now", || async {
        !kinds(&session.claim(pairs("k", 0..4, "v"), TTL, soon()).await).is_empty()
    })
    .await;
    std::fs::copy(&cert, &ours).unwrap();
    eventually_claims("claims with the certificate that replaced it", &*session).await;
}

#[tokio::test]
async fn a_stopped_server_costs_deadlines_then_nothing_and_is_used_again_when_it_goes_on() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let (backend, session) = open(impatient(server.address())).await;
    server.stop();
    let far = std::time::Instant::now() + PATIENCE;
    for round in 0..3 {
        let answers = session.claim(pairs(&format!("stopped-{round}"), 0..10, "v"), TTL, far).await;
        assert_eq!(kinds(&answers), [OpErrorKind::Timeout; 10]);
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.in_doubt)));
    }
    let answers = session.claim(pairs("open", 0..10, "v"), TTL, far).await;
    assert_eq!(kinds(&answers), [OpErrorKind::BreakerOpen; 10]);
    let guard = &backend.guards()[0];
    assert_eq!((guard.state(), guard.errors(OpErrorKind::Timeout)), (BreakerState::Open, 30));
    assert!(backend.healthy().await.is_err());

    server.go_on();
    eventually_claims("claims after SIGCONT", &*session).await;
    assert_eq!(guard.state(), BreakerState::Closed);
    backend.healthy().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_fails_at_once_and_is_used_again_after_its_restart() {
    if !redis_is_installed() {
        return;
    }
    let mut server = Server::start(&[]);
    let (_backend, session) = open(server.settings()).await;
    eventually_claims("claims", &*session).await;
    server.kill();
    eventually("the loss is noticed", || async {
        let kinds = kinds(&session.claim(pairs("dead", 0..4, "v"), TTL, soon()).await);
        kinds == [OpErrorKind::Disconnected; 4] || kinds == [OpErrorKind::BreakerOpen; 4]
    })
    .await;
    server.restart();
    assert!(server.comes_up());
    eventually_claims("claims after the restart", &*session).await;
}

#[tokio::test]
async fn a_full_server_refuses_claims_and_still_answers_reads() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let (_backend, session) = open(server.settings()).await;
    session.set(pairs("before", 0..1, "v"), TTL, soon()).await;
    server.must(&["CONFIG", "SET", "maxmemory", "1"]);
    let answers = session.claim(pairs("full", 0..4, "v"), TTL, soon()).await;
    assert_eq!(kinds(&answers), [OpErrorKind::Refused; 4]);
    assert!(answers.iter().all(|a| a.as_ref().is_err_and(|e| !e.in_doubt && e.detail.starts_with("OOM"))));
    assert_eq!(session.get(pairs("before", 0..1, ""), soon()).await, [Ok(Some("v".into()))]);
    let error = open_error(server.settings()).await;
    assert!(error.contains("maxmemory"), "{error}");
    server.must(&["CONFIG", "SET", "maxmemory", "0"]);
    eventually_claims("claims once there is room", &*session).await;
}

#[tokio::test]
async fn a_full_server_is_given_up_by_claims_and_still_read_where_reads_are_of_use() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&["--maxmemory-policy", "noeviction"]);
    let for_claims = impatient(server.address());
    let mut for_frames = for_claims.clone();
    for_frames.remote.reads_without_writes = true;
    for (name, settings, read) in [("claims", for_claims, false), ("frames", for_frames, true)] {
        let (backend, session) = open(settings).await;
        let state = || backend.guards()[0].state();
        let key = || pairs(name, 0..1, "v");
        eventually("a write", || async { session.set(key(), TTL, soon()).await == [Ok(())] }).await;
        server.must(&["CONFIG", "SET", "maxmemory", "1"]);
        eventually("its refusals open the breaker, whatever else it answers", || async {
            let (claims, _, _) = tokio::join!(
                session.claim(pairs("full", 0..4, "v"), TTL, soon()),
                session.get(key(), soon()),
                session.del(pairs("none", 0..1, ""), soon()),
            );
            kinds(&claims) == [OpErrorKind::BreakerOpen; 4]
        })
        .await;
        for _ in 0..20 {
            let value = session.get(key(), soon()).await;
            assert_eq!(value == [Ok(Some("v".into()))], read, "{name}: {value:?}");
            assert_ne!(state(), BreakerState::Closed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(backend.healthy().await.is_err(), "a look that only reads proves nothing");
        assert_ne!(state(), BreakerState::Closed);
        server.must(&["CONFIG", "SET", "maxmemory", "0"]);
        eventually_claims("claims once there is room", &*session).await;
        assert_eq!(state(), BreakerState::Closed);
    }
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left_and_taken_back_when_it_is_master_again() {
    if !redis_is_installed() {
        return;
    }
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let (_backend, session) = open(server.settings()).await;
    server.must(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    let answers = session.claim(pairs("k", 0..4, "v"), TTL, soon()).await;
    assert_eq!(kinds(&answers).len(), 4);
    eventually("a replica is refused at open", || async {
        open_error(server.settings()).await.contains("read-only replica")
    })
    .await;
    server.must(&["REPLICAOF", "NO", "ONE"]);
    eventually_claims("claims once it is master again", &*session).await;
}

#[tokio::test]
async fn a_reply_that_got_lost_is_noticed_before_any_answer_of_the_batch_is_believed() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let (_backend, session) = open(settings(&proxy.address)).await;
    server.must(&["SET", "k:3", "old"]);
    proxy.mischief.lose_a_nil.store(true, SeqCst);
    // Without the check, the old value of key 3 would be taken for that of key 2.
    let answers = session.claim(pairs("k", 0..5, "v"), TTL, soon()).await;
    assert_eq!(kinds(&answers), [OpErrorKind::Garbled; 5]);
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.in_doubt)));
    eventually_claims("claims on the next connection", &*session).await;
}

#[tokio::test]
async fn a_server_that_lies_about_lengths_or_says_more_than_it_was_asked_is_left_at_once() {
    let lies = [
        "$9999999999\r\n".to_owned(),
        "*999999999\r\n".to_owned(),
        "*60000\r\n".repeat(2),
        format!("+{}", "x".repeat(1 << 17)),
        format!("*65000\r\n{}", "*1\r\n:1\r\n".repeat(2 << 20)),
        "%1\r\n+a\r\n+b\r\n".to_owned(),
        ":12x\r\n".to_owned(),
        "$-1\r\n".repeat(2),
    ];
    for lie in lies {
        let (keys, shown) = (Mutex::default(), lie.escape_default().take(30).collect::<String>());
        let liar = Scripted::start(move |words, port| match words[0].as_str() {
            "SET" if words[1].starts_with("k:") => lie.clone(),
            _ => cluster_node(words, &[(0, 16383, port)], &keys),
        })
        .await;
        let mut settings = settings(&liar.address);
        settings.topology = RedisTopology::Single;
        let (_backend, session) = open(settings).await;
        let answers = session.claim(pairs("k", 0..1, "v"), TTL, soon()).await;
        assert_eq!(kinds(&answers), [OpErrorKind::Garbled], "{shown}");
        assert!(answers[0].as_ref().is_err_and(|error| error.in_doubt), "{shown}");
        eventually_claims("claims of other keys on the next connection", &*session).await;
    }
}

/// Long enough to carry marks of the caller.
const MARKED: &str = "a value with marks";

#[tokio::test]
async fn a_value_without_marks_is_not_believed_where_a_reply_got_lost() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let (_backend, session) = open(settings(&proxy.address)).await;
    server.must(&["SET", "a:3", "1"]);
    proxy.mischief.lose_a_nil.store(true, SeqCst);
    // Claims of marked values go without a fence; the plain value asks for one.
    let (first, second) = tokio::join!(
        session.claim(pairs("a", 0..5, MARKED), TTL, soon()),
        session.claim(pairs("b", 0..5, MARKED), TTL, soon()),
    );
    for answers in [first, second] {
        assert_eq!(kinds(&answers), [OpErrorKind::Garbled; 5]);
    }
    eventually_claims("claims on the next connection", &*session).await;
}

#[tokio::test]
async fn claims_cost_one_command_each_unless_values_without_marks_are_found() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let (_backend, session) = open(settings(server.address())).await;
    let pings = || {
        let stats = server.ask(&["INFO", "commandstats"]);
        let calls =
            stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls=")?.split(',').next());
        calls.map_or(0, |calls| calls.parse::<u32>().expect("a count"))
    };
    let began = pings();
    for batch in 0..8 {
        let range = batch * 2..batch * 2 + 4;
        let answers = session.claim(pairs("k", range, MARKED), TTL, soon()).await;
        assert_eq!(kinds(&answers), []);
    }
    assert_eq!(pings(), began, "created keys and values with marks prove themselves");
    server.must(&["SET", "k:100", "1"]);
    let answers = session.claim(pairs("k", 99..102, MARKED), TTL, soon()).await;
    assert_eq!((created(&answers), existing(&answers, "1")), (2, 1));
    assert_eq!(pings(), began + 1, "fenced afterwards");
    session.claim(pairs("k", 200..202, MARKED), TTL, soon()).await;
    assert_eq!(pings(), began + 2, "the next batch is fenced from the start");
    session.claim(pairs("k", 300..302, MARKED), TTL, soon()).await;
    assert_eq!(pings(), began + 2, "and found nothing of the kind");
}

#[tokio::test]
async fn garbled_replies_drop_the_connection_and_everything_that_waited_is_in_doubt() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let (_backend, session) = open(settings(&proxy.address)).await;
    proxy.mischief.garble.store(true, SeqCst);
    let (first, second) = tokio::join!(
        session.claim(pairs("a", 0..5, "v"), TTL, soon()),
        session.claim(pairs("b", 0..5, "v"), TTL, soon()),
    );
    for answers in [first, second] {
        assert_eq!(kinds(&answers), [OpErrorKind::Garbled; 5]);
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.in_doubt)));
    }
    eventually_claims("claims on the next connection", &*session).await;
}

#[tokio::test]
async fn a_connection_cut_in_mid_pipeline_answers_nothing_of_the_batch() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let (_backend, session) = open(settings(&proxy.address)).await;
    for cut in [1, 5, 52, 103] {
        eventually_claims("claims before the cut", &*session).await;
        proxy.mischief.cut_after.store(cut, SeqCst);
        let name = format!("cut-{cut}");
        let answers = session.claim(pairs(&name, 0..100, "v"), TTL, soon()).await;
        assert_eq!(kinds(&answers), [OpErrorKind::Disconnected; 100]);
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.in_doubt)));
    }
    eventually_claims("claims after the cuts", &*session).await;
}

#[tokio::test]
async fn one_cut_costs_what_was_under_way_and_nothing_that_comes_after() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let mut settings = impatient(&proxy.address);
    settings.remote.op_timeout = Duration::from_secs(2);
    settings.remote.deadline_floor = settings.remote.op_timeout;
    let (backend, session) = open(settings).await;
    eventually_claims("claims before the cut", &*session).await;
    proxy.mischief.delay_ms.store(20, SeqCst);
    proxy.mischief.cut_after.store(1, SeqCst);
    let batch = |name: &str| session.claim(pairs(name, 0..20, "v"), TTL, soon());
    let (a, b, c, d) = tokio::join!(batch("a"), batch("b"), batch("c"), batch("d"));
    for answers in [a, b, c, d] {
        assert_eq!(kinds(&answers), [OpErrorKind::Disconnected; 20]);
    }
    let after = session.claim(pairs("after", 0..20, "v"), TTL, soon()).await;
    assert_eq!(created(&after), 20, "held for the next connection: {after:?}");
    assert_eq!(backend.guards()[0].transitions(BreakerState::Open), 0, "one cut is one failure");
}

#[tokio::test]
async fn a_caller_who_sees_an_impossible_answer_has_the_connection_replaced() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let (_backend, session) = open(settings(&proxy.address)).await;
    let before = proxy.mischief.connections.load(SeqCst);
    proxy.mischief.delay_ms.store(20, SeqCst);
    let pending = session.claim(pairs("k", 0..5, "v"), TTL, soon());
    session.distrust();
    assert_eq!(kinds(&pending.await), [OpErrorKind::Garbled; 5]);
    proxy.mischief.delay_ms.store(0, SeqCst);
    eventually_claims("claims on the next connection", &*session).await;
    assert!(proxy.mischief.connections.load(SeqCst) > before);
}

#[tokio::test]
async fn late_answers_never_reach_the_next_question() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let proxy = Proxy::before(server.port).await;
    let (_backend, session) = open(impatient(&proxy.address)).await;
    server.must(&["SET", "old:0", "old"]);
    for round in 0..5 {
        proxy.mischief.delay_ms.store(80, SeqCst);
        let late = session.claim(pairs("old", 0..1, "v"), TTL, soon()).await;
        assert_eq!(kinds(&late).len(), 1);
        drop(session.claim(pairs("old", 0..1, "v"), TTL, soon()));
        proxy.mischief.delay_ms.store(0, SeqCst);
        eventually("an answer of its own", || async {
            let name = format!("new-{round}-{}", rand::random::<u64>());
            let answers = session.claim(pairs(&name, 0..8, "v"), TTL, soon()).await;
            assert_eq!(existing(&answers, "old"), 0);
            created(&answers) == 8
        })
        .await;
    }
}

#[tokio::test]
async fn a_degraded_start_goes_without_and_finds_the_server_later() {
    if !redis_is_installed() {
        return;
    }
    for topology in [RedisTopology::Auto, RedisTopology::Single] {
        let mut server = Server::start(&[]);
        server.kill();
        let mut degraded = server.settings();
        degraded.remote.boot = BootPolicy::Degraded;
        degraded.topology = topology;
        let (backend, session) = open(degraded.clone()).await;
        let answers = session.claim(pairs("k", 0..4, "v"), TTL, soon()).await;
        assert_eq!(kinds(&answers), [OpErrorKind::BreakerOpen; 4]);
        assert!(backend.healthy().await.is_err());
        server.restart();
        assert!(server.comes_up());
        eventually("a look at an idle store closes its breaker", || async {
            backend.healthy().await.is_ok()
                && backend.guards().iter().all(|guard| guard.state() == BreakerState::Closed)
        })
        .await;
        eventually_claims("claims once the server is there", &*session).await;

        degraded.addresses = vec!["http://nonsense".to_owned()];
        assert!(open_error(degraded).await.contains("nonsense"));
    }
}

#[tokio::test]
async fn sessions_of_one_backend_race_and_each_key_has_one_winner() {
    if !redis_is_installed() {
        return;
    }
    let server = Server::start(&[]);
    let (backend, first) = open(server.settings()).await;
    let second = backend.session().await.unwrap();
    let mut won = 0;
    for round in 0..20 {
        let name = format!("race-{round}");
        let (a, b) = tokio::join!(
            first.claim(pairs(&name, 0..100, "a"), TTL, soon()),
            second.claim(pairs(&name, 0..100, "b"), TTL, soon()),
        );
        won += created(&a) + created(&b);
        assert_eq!(existing(&a, "b") + existing(&b, "a"), 100);
    }
    assert_eq!(won, 2000);
    drop(first);
    assert_eq!(created(&second.claim(pairs("alone", 0..5, "v"), TTL, soon()).await), 5);
}

#[tokio::test]
async fn none_opens_to_no_backend_and_memory_answers_at_once() {
    assert!(cache_backend::open(Settings::None).await.unwrap().is_none());
    assert!(cache_backend::open(Settings::Memory { bytes: 10 }).await.is_err());
    let memory = cache_backend::open(Settings::Memory { bytes: 8 << 20 }).await.unwrap().unwrap();
    assert!(memory.immediate().is_some());
    let session = memory.session().await.unwrap();
    assert_eq!(created(&session.claim(pairs("k", 0..9, "v"), TTL, soon()).await), 9);
    assert_eq!(existing(&session.claim(pairs("k", 0..9, "w"), TTL, soon()).await, "v"), 9);
}
