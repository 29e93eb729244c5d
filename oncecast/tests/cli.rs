//! The command line as its users meet it: the real binary, its output and its exit codes.

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

use std::io::Write;
use std::process::{Command, Output};

/// Runs the binary with nothing in its environment but `env`.
fn oncecast(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncecast"));
    command.env_clear().envs(env.iter().copied()).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The one line of a usage error.
fn usage_error(args: &[&str], env: &[(&str, &str)]) -> String {
    let output = oncecast(args, env);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
    assert_eq!(text(&output.stdout), "");
    line.trim_end().to_owned()
}

fn file(toml: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    file.write_all(toml.as_bytes()).unwrap();
    file
}

const ROLES: [&str; 3] = ["proxy", "listener", "retry"];

#[test]
fn wrong_flags_and_values_are_one_line_and_exit_code_2() {
    for role in ROLES {
        let line = usage_error(&[role, "--shard-bitz=3"], &[]);
        assert_eq!(line, format!("oncecast {role}: unknown option --shard-bitz; did you mean --shard-bits?"));
        let line = usage_error(&[role, "--drain-timeout=5"], &[]);
        assert!(
            line.contains("--drain-timeout: \"5\" is not accepted; want a duration with its unit"),
            "{line}"
        );
        let line = usage_error(&[role], &[("SHARD_BITS", "two")]);
        assert!(line.contains("--shard-bits: \"two\" (environment SHARD_BITS) is not accepted"), "{line}");
        assert!(usage_error(&[role, "--shard-bits=16"], &[]).contains("shard-bits"));
        assert!(
            usage_error(&[role, "--metrics-addr=9100"], &[])
                .contains("want an address and port such as :9100")
        );
        assert!(usage_error(&[role, "--log-level=loud"], &[]).contains("want off, error, warn"));
        assert!(usage_error(&[role, "stray"], &[]).contains("\"stray\""));
    }
    assert!(usage_error(&["prox"], &[]).contains("did you mean proxy?"));
    assert!(usage_error(&[], &[]).contains("a command is missing"));
    assert!(usage_error(&["send", "--nope"], &[]).starts_with("oncecast send: unknown option --nope"));
}

#[test]
fn help_and_version_go_to_stdout_with_exit_code_0() {
    for args in [&["--help"][..], &["proxy", "--help"], &["help", "retry"], &["listener", "-h"]] {
        let output = oncecast(args, &[]);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(text(&output.stdout).contains("Usage: oncecast"), "{args:?}");
    }
    let version = format!("oncecast {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&oncecast(&["--version"], &[]).stdout), version);
}

#[test]
fn the_password_of_a_redis_url_is_never_shown() {
    let quiet = |args: &[&str], env: &[(&str, &str)], code| {
        let output = oncecast(args, env);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {all}");
        assert!(!all.contains("sesame"), "{args:?}: {all}");
        all
    };
    let good = "redis://me:sesame@cache:6379";
    let bad = [
        "redis://me:sesame@cache:x",
        "me:sesame@cache:6379",
        "http://me:sesame@cache",
        "redis://a:sesame,x@b:1,c",
    ];
    for role in ROLES {
        let shown = quiet(&[role, "--print-config", &format!("--redis-addr={good}")], &[], 0);
        assert!(shown.contains("(hidden)@cache:6379"), "{shown}");
        quiet(&[role, "--print-config"], &[("REDIS_ADDR", good)], 0);
        let toml = file(&format!("redis-addr = \"{good}\""));
        quiet(&[role, "--print-config", "--config", toml.path().to_str().unwrap()], &[], 0);
        for bad in bad {
            quiet(&[role, "--check", &format!("--redis-addr={bad}")], &[], 2);
            quiet(&[role, "--check"], &[("REDIS_ADDR", bad)], 2);
            let toml = file(&format!("redis-addr = \"{bad}\""));
            quiet(&[role, "--check", "--config", toml.path().to_str().unwrap()], &[], 2);
        }
    }
}

#[test]
fn addresses_of_a_store_are_checked_as_the_store_reads_them() {
    let spellings = [
        ("proxy", "--txid-dedup-redis-addr", "TXID_DEDUP_REDIS_ADDR"),
        ("listener", "--egress-dedup-redis-addr", "EGRESS_DEDUP_REDIS_ADDR"),
    ];
    let own = ROLES.map(|role| (role, "--redis-addr", "REDIS_ADDR"));
    for (role, flag, env) in own.into_iter().chain(spellings) {
        for bad in ["redis://bad:port:x", "rediss://h:0", "redis://h/x", "unix://relative"] {
            for line in [
                usage_error(&[role, "--check", &format!("{flag}={bad}")], &[]),
                usage_error(&[role, "--check"], &[(env, bad)]),
            ] {
                assert!(line.contains("redis-addr: ") && line.contains(&format!("{bad:?}")), "{line}");
                assert!(line.contains("want host:port, redis://[user:password@]host"), "{line}");
            }
        }
    }
    for role in ROLES {
        for bad in ["h:x", "h:0", "a:3000,b:3000:c", "h:3000/x"] {
            let line = usage_error(&[role, "--check", &format!("--aerospike-hosts={bad}")], &[]);
            assert!(line.contains("--aerospike-hosts: ") && line.contains(bad), "{line}");
        }
    }
    let of_cluster = ["proxy", "--check", "--redis-addr=h:1", "--redis-db=2", "--redis-topology=cluster"];
    let line = usage_error(&of_cluster, &[]);
    assert!(line.contains("--redis-db: ") && line.contains("database 0"), "{line}");
}

#[test]
fn the_file_is_checked_key_by_key() {
    let refused = |toml: &str| {
        let file = file(toml);
        let line = usage_error(&["retry", "--config", file.path().to_str().unwrap()], &[]);
        assert!(line.contains(file.path().to_str().unwrap()), "{line}");
        line
    };
    assert!(refused("shard_bitz = 2").ends_with("unknown key \"shard_bitz\"; did you mean \"shard-bits\"?"));
    assert!(refused("[retri]\nx = 1").contains("unknown table [retri]"));
    assert!(refused("shard-bits = \"many\"").contains("--shard-bits: \"many\" (file "));
    assert!(refused("shard-bits = \n").contains("line 1"));
    assert!(usage_error(&["retry", "--config=/no/such.toml"], &[]).contains("/no/such.toml"));
}

#[test]
fn flag_environment_file_default_in_this_order() {
    let file = file(
        "shard-bits = 3\nlog-level = \"warn\"\ndrain-timeout = \"9s\"\n[listener]\ndrain-timeout = \"8s\"\n",
    );
    let path = file.path().to_str().unwrap();
    let env = [("ONCECAST_CONFIG", path), ("LOG_LEVEL", "error"), ("SHARD_BITS", "4"), ("DRAIN_TIMEOUT", "")];
    let output = oncecast(&["listener", "--print-config", "-shard-bits", "5"], &env);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(printed.contains("\nshard-bits = 5 # flag\n"), "{printed}");
    assert!(printed.contains("\nlog-level = \"error\" # environment LOG_LEVEL\n"), "{printed}");
    assert!(printed.contains(&format!("\ndrain-timeout = \"8s\" # file {path}\n")), "{printed}");
    assert!(printed.contains("\nmetrics-addr = \":9200\" # default\n"), "{printed}");
}

#[test]
fn what_is_printed_is_a_file_that_loads() {
    for role in ROLES {
        let printed = oncecast(&[role, "--print-config", "--shard-bits=6"], &[]);
        assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
        let file = file(&text(&printed.stdout));
        let check = oncecast(&[role, "--check=config", "--config", file.path().to_str().unwrap()], &[]);
        assert_eq!(
            (check.status.code(), text(&check.stdout).as_str()),
            (Some(0), "configuration ok\n"),
            "{check:?}"
        );
    }
}

/// `--print-config` with these arguments, as a file, and what the role says of that file.
fn fed_back(role: &str, arguments: &[&str], and: &str) -> (String, std::process::Output) {
    let printed = oncecast(&[&[role, "--print-config"], arguments].concat(), &[]);
    assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
    let printed = text(&printed.stdout);
    assert!(!printed.contains("sesame"), "{printed}");
    let file = file(&printed);
    let again = oncecast(&[role, and, "--config", file.path().to_str().unwrap()], &[]);
    (printed, again)
}

#[test]
fn a_url_with_a_password_is_printed_as_options_that_load() {
    for role in ROLES {
        let given = "--redis-addr=rediss://m%40e:sesame@cache:6379/3,rediss://other:1";
        let (printed, again) = fed_back(role, &[given], "--print-config");
        for line in [
            "redis-addr = \"rediss://cache:6379/3,rediss://other:1\"",
            "redis-user = \"m@e\"",
            "redis-password-file = \"/path/to/redis-password\"",
        ] {
            assert!(printed.contains(&format!("\n{line}")), "{line} in {printed}");
            assert!(text(&again.stdout).contains(&format!("\n{line}")), "{line} in {again:?}");
        }
        assert_eq!(fed_back(role, &[given], "--check=config").1.status.code(), Some(0));
        let (printed, again) = fed_back(role, &["--redis-addr=redis://:sesame@h"], "--check=config");
        assert!(printed.contains("\nredis-password-file = ") && printed.contains("# redis-user is not set"));
        assert_eq!(again.status.code(), Some(0));
        // What stands elsewhere already stays what it is.
        let own = ["--redis-addr=redis://u:sesame@h", "--redis-password-file=/p", "--redis-user=me"];
        let (printed, again) = fed_back(role, &own, "--check=config");
        assert!(
            printed.contains("\nredis-user = \"me\" # flag\nredis-password-file = \"/p\" # flag\n"),
            "{printed}"
        );
        assert_eq!(again.status.code(), Some(0));
    }
}

#[test]
fn a_password_that_has_no_other_place_must_be_written_in_again() {
    let sentinel =
        ["--redis-addr=redis://:sesame@h:1", "--redis-topology=sentinel", "--redis-sentinel-master=m"];
    let marks = ["--ingress-set-redis-addr=redis://:sesame@h:1", "--verify-payload-hash"];
    for (role, arguments, option) in
        [("proxy", &sentinel[..], "--redis-addr"), ("listener", &marks, "--ingress-set-redis-addr")]
    {
        let (printed, again) = fed_back(role, arguments, "--check=config");
        let refused = text(&again.stderr);
        assert_eq!(again.status.code(), Some(2), "{printed}{refused}");
        assert!(refused.contains(option) && refused.contains("in the place of (hidden)"), "{refused}");
    }
}

#[test]
fn two_stores_are_refused_wherever_they_are_named() {
    for role in ROLES {
        let toml = file("cache-backend = \"memory\"");
        let config = format!("--config={}", toml.path().display());
        for line in [
            usage_error(&[role, "--check=config", "--cache-backend=memory", "--redis-addr=h:1"], &[]),
            usage_error(&[role, "--check=config", "--redis-addr=h:1"], &[("CACHE_BACKEND", "memory")]),
            usage_error(&[role, "--check=config", &config], &[("REDIS_ADDR", "h:1")]),
        ] {
            assert!(line.contains("--cache-backend: memory, and --redis-addr names another store"), "{line}");
        }
        let line = usage_error(&[role, "--check=config", "--redis-addr=h:1", "--aerospike-hosts=a"], &[]);
        assert!(line.contains("--redis-addr") && line.contains("--aerospike-hosts"), "{line}");
        // Charts of the Go stack write the default of an address as an empty text.
        let empty = oncecast(&[role, "--check=config", "--cache-backend=memory"], &[("REDIS_ADDR", "")]);
        assert_eq!(empty.status.code(), Some(0), "{}", text(&empty.stderr));
        let line = usage_error(
            &[role, "--check=config", "--redis-addr=redis://h:1", "--redis-tls-ca-file=/ca"],
            &[],
        );
        assert!(
            line.contains("--redis-tls-ca-file: ") && line.contains("--redis-addr with rediss://"),
            "{line}"
        );
    }
    let two = ["listener", "--check=config", "--redis-addr=h:1", "--redis-tls-ca-file=/ca"];
    let marks = "--ingress-set-redis-addr=rediss://marks:1";
    let output = oncecast(&[&two[..], &[marks, "--verify-payload-hash"]].concat(), &[]);
    assert_eq!(output.status.code(), Some(0), "certificates are for the marks: {}", text(&output.stderr));
}

#[test]
fn secrets_are_never_shown() {
    let output = oncecast(&["retry", "--print-config"], &[("REDIS_ADDR", "redis://user:hunter2@cache:6379")]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout) + &text(&output.stderr);
    assert!(shown.contains("redis://(hidden)@cache:6379") && !shown.contains("hunter2"), "{shown}");
}

/// Units of the Go stack as they are found in the field: only names, spelling and values of that stack.
#[test]
fn units_of_the_go_stack_are_accepted_and_what_has_no_effect_is_said() {
    let proxy = oncecast(
        &["proxy", "-udp-listen-port=8725", "-debug", "-drain-timeout", "2s", "--check=config"],
        &[
            ("MULTICAST_IF", "eth1,eth2"),
            ("SHARD_BITS", "4"),
            ("MC_GROUP_ID", "0x000B"),
            ("TXID_DEDUP_REDIS_ADDR", "cache:6379"),
            ("OTLP_ENDPOINT", "collector:4317"),
            ("METRICS_ADDR", ":9100"),
            ("EGRESS_MULTICAST_LOOP", "false"),
        ],
    );
    assert_eq!(proxy.status.code(), Some(0), "{}", text(&proxy.stderr));
    let warnings = text(&proxy.stderr);
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    assert!(
        warnings.contains("--otlp-endpoint=collector:4317 (environment OTLP_ENDPOINT) is accepted"),
        "{warnings}"
    );
    let listener = oncecast(
        &["listener", "-shard-bits=4", "-strip-header", "--check=config"],
        &[("MULTICAST_IF", "eth1"), ("NACK_TAIL_PROBE", "true"), ("EGRESS_DEDUP_REDIS_ADDR", "cache:6379")],
    );
    assert_eq!((listener.status.code(), text(&listener.stderr).as_str()), (Some(0), ""));
    let retry = oncecast(
        &["retry", "-mc-iface=eth1", "-shard-bits=4", "-nack-port", "9300", "--check=config"],
        &[("CACHE_BACKEND", "redis"), ("REDIS_ADDR", "cache:6379"), ("PILOT_QUORUM", "2")],
    );
    assert_eq!((retry.status.code(), text(&retry.stderr).as_str()), (Some(0), ""));
}

/// What `--check` says of a proxy on the loopback with these options: exit code, and its lines on stderr.
fn check(options: &str) -> (Option<i32>, String) {
    let line = format!("proxy --fabric=ipv4 --udp-listen-port=0 --metrics-addr=off {options}");
    let output = oncecast(&line.split_whitespace().collect::<Vec<_>>(), &[]);
    assert_eq!(output.status.success(), text(&output.stdout).starts_with("configuration ok"), "{output:?}");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn check_tells_a_wrong_configuration_from_a_host_that_is_not_as_configured() {
    let lacking = [
        ("--iface=nosuch0", "--iface nosuch0: no such interface", "(link.missing)"),
        ("--iface=lo --bind-source=192.0.2.1", "--bind-source 192.0.2.1", "(addr.none)"),
        ("--iface=lo --listen=192.0.2.1", "--listen 192.0.2.1", "(addr.none)"),
        (
            "--iface=lo --redis-addr=127.0.0.1:1 --redis-password-file=/no/such",
            "--redis-password-file /no/such: No such file",
            "(file.unreadable)",
        ),
        ("--iface=lo --state-dir=/no/such", "--state-dir /no/such", "(file.unreadable)"),
        ("--iface=lo --dedup-memory=500TiB", "--dedup-memory 500TiB", "(mem.fit)"),
    ];
    for (options, what, code) in lacking {
        let (exit, said) = check(&format!("--check {options}"));
        assert_eq!(exit, Some(1), "{options}: {said}");
        assert!(said.contains(what) && said.contains(code), "{options}: {said}");
        let (exit, said) = check(&format!("--check=config {options}"));
        assert_eq!((exit, said.as_str()), (Some(0), ""), "{options}: the configuration is right");
    }
    let (exit, said) = check("--check --iface=nosuch0 --dedup-memory=500TiB");
    assert_eq!((exit, said.lines().count()), (Some(1), 2), "all at once: {said}");
    let (exit, said) = check("--check --iface=lo --redis-addr=cache.invalid:6379");
    assert_eq!(exit, Some(0), "{said}");
    assert!(
        said.contains("warning: --redis-addr cache.invalid: ") && said.contains("(name.unresolved)"),
        "{said}"
    );
    assert_eq!(check("--check --iface=nosuch0 --recv-batch=0").0, Some(2), "wrong on any host");
    let (exit, said) = check("--check=sometimes --iface=lo");
    assert_eq!(exit, Some(2));
    assert!(said.contains("--check: \"sometimes\" is not accepted; want config, host or online"), "{said}");
}

#[test]
fn check_online_asks_the_store() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options =
        format!("--iface=lo --cache-dial-timeout=100ms --backend-boot=degraded --redis-addr={nobody}");
    assert_eq!(check(&format!("--check {options}")), (Some(0), String::new()));
    let (exit, said) = check(&format!("--check=online {options}"));
    assert_eq!(exit, Some(1), "{said}");
    assert!(said.contains(&nobody.to_string()) && said.contains("(store.unreachable)"), "{said}");
    let options = options.replace(&format!("--redis-addr={nobody}"), "");
    assert_eq!(check(&format!("--check=online {options}")).0, Some(0), "there is no store to ask");
}

#[test]
fn sizes_beyond_the_machine_are_refused_before_they_are_touched() {
    for (role, size) in [
        ("proxy", "--dedup-memory=500GiB"),
        ("listener", "--reassembly-bytes=500TiB"),
        ("retry", "--cache-bytes=500TiB"),
    ] {
        let began = std::time::Instant::now();
        let output = oncecast(
            &[role, size, "--fabric=ipv4", "--iface=lo", "--metrics-addr=off", "--log-level=off"],
            &[],
        );
        let line = text(&output.stderr);
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(
            line.contains("the sizes of this role add up to ") && line.contains(&size.replace('=', " ")),
            "{line}"
        );
        assert!(began.elapsed() < std::time::Duration::from_secs(30));
    }
}

#[test]
fn a_failure_at_run_time_is_exit_code_1_and_names_its_cause() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    for role in ROLES {
        let output = oncecast(&[role, "--log-level=off", "--metrics-addr", &addr], &[]);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(
            line.starts_with(&format!("oncecast {role}: --metrics-addr: cannot listen on {addr}")),
            "{line}"
        );
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn completions_and_manual_pages_are_made_from_the_command_line() {
    for shell in ["bash", "zsh", "fish"] {
        let output = oncecast(&["completions", shell], &[]);
        assert!(output.status.success() && text(&output.stdout).contains("drain-timeout"), "{shell}");
    }
    assert!(text(&oncecast(&["man"], &[]).stdout).contains(".TH oncecast 1"));
    let dir = tempfile::tempdir().unwrap();
    assert!(oncecast(&["man", "--dir", dir.path().to_str().unwrap()], &[]).status.success());
    assert!(dir.path().join("oncecast-listener.1").exists());
    let missing = oncecast(&["man", "--dir", "/no/such/folder"], &[]);
    assert_eq!(missing.status.code(), Some(1));
}

/// What `oncecast send` and `oncecast recv` report, as JSON, once they were interrupted.
fn interrupted(args: &[&str]) -> (Option<i32>, serde_json::Value) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_oncecast"))
        .args(args)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("oncecast starts");
    let caught = format!("/proc/{}/status", child.id());
    // SIGINT is signal 2: bit 1 of the mask of signals with a handler.
    let handled = || {
        let status = std::fs::read_to_string(&caught).unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
        u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 2 != 0)
    };
    while !handled() {
        assert!(child.try_wait().expect("a state").is_none(), "{args:?} ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let output = child.wait_with_output().expect("output");
    (output.status.code(), serde_json::from_slice(&output.stdout).expect("one JSON object"))
}

#[test]
fn ctrl_c_ends_send_and_recv_with_their_reports() {
    let block = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/block413567.raw");
    let listener = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = format!("udp://{}", listener.local_addr().expect("its address"));
    let (code, sent) =
        interrupted(&["send", block, "--to", &to, "--count", "1000000", "--rate", "100", "--json"]);
    assert_eq!(code, Some(130), "{sent}");
    assert!(sent["transactions"].as_u64().is_some_and(|count| count < 1_000_000), "{sent}");
    let (code, received) = interrupted(&["recv", "--listen", "udp://127.0.0.1:0", "--linger", "0", "--json"]);
    assert_eq!(
        (code, &received["unique"]),
        (Some(0), &0.into()),
        "without a goal the end is the end: {received}"
    );
}
