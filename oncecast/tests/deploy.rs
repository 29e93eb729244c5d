//! What `deploy/` promises: its environment files are understood, its units fit the binary.

#![allow(clippy::unwrap_used, reason = "a test stops where its world breaks")]

use std::process::Command;

const ROLES: [&str; 3] = ["proxy", "listener", "retry"];

fn read(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../deploy/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// NAME=VALUE lines, those that are commented out included: they must work when somebody takes the # away.
fn variables(file: &str) -> Vec<(String, String)> {
    let name_ok = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let pairs = file.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    pairs.filter(|(name, _)| name_ok(name)).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn every_variable_of_the_examples_is_an_option_of_its_role() {
    let fabric = variables(&read("systemd/fabric.env.example"));
    let mut unused: Vec<String> = fabric.iter().map(|(name, _)| name.clone()).collect();
    for role in ROLES {
        let own = variables(&read(&format!("systemd/{role}.env.example")));
        let output = Command::new(env!("CARGO_BIN_EXE_oncecast"))
            .env_clear()
            .envs(fabric.iter().chain(&own).map(|(name, value)| (name, value)))
            .args([role, "--check=config", "--print-config"])
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{role}");
        let used = |name: &str| printed.contains(&format!("# environment {name}\n"));
        for (name, _) in &own {
            assert!(used(name), "{name} is no option of {role}:\n{printed}");
        }
        unused.retain(|name| !used(name));
    }
    // MC_IFACE is the older name of MULTICAST_IF, which wins where both are given.
    unused.retain(|name| name != "MC_IFACE");
    assert_eq!(unused, [] as [String; 0], "no role reads these");
}

#[test]
fn units_give_the_drain_its_time_and_do_not_restart_a_wrong_configuration() {
    for role in ROLES {
        let unit = read(&format!("systemd/oncecast-{role}@.service"));
        let setting =
            |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap();
        // --drain-timeout 5 s and 2 s of grace.
        assert!(setting("TimeoutStopSec").parse::<u64>().unwrap() > 7);
        assert_eq!(setting("RestartPreventExitStatus"), "2");
        assert_eq!(setting("Restart"), "always");
        assert_eq!(setting("ExecStart"), format!("/usr/bin/oncecast {role}"));
        assert_eq!(setting("ExecStartPre"), format!("/usr/bin/oncecast {role} --check"));
        for hardening in ["DynamicUser", "NoNewPrivileges", "MemoryDenyWriteExecute", "ProtectHome"] {
            assert_eq!(setting(hardening), "yes");
        }
        assert_eq!(setting("CapabilityBoundingSet"), "CAP_NET_ADMIN");
    }
}
