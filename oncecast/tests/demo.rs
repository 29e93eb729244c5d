//! The demo as people and scripts run it.

use serde_json::Value;
use std::process::{Command, Output};

fn demo(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncecast"));
    command.arg("demo").args(args).output().expect("the binary runs")
}

fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "one line with one object: {text}");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn the_block_arrives_once_despite_loss_on_either_family() {
    for family in ["auto", "ipv4"] {
        let output = demo(&["--json", "--loss", "10", "--seed", "3", "--network", family]);
        let report = report(&output);
        assert!(output.status.success(), "{report}\n{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(report["merkle_root_ok"], true, "{report}");
        assert_eq!((&report["missing"], &report["delivered_twice"]), (&0.into(), &0.into()), "{report}");
        assert_eq!(report["delivered"], serde_json::json!([1557, 1557]), "{report}");
        assert_eq!(report["duplicates_sent"], report["duplicates_suppressed"], "{report}");
        assert!(report["dropped_on_purpose"].as_u64() > Some(0), "{report}");
        assert!(report["recovered"].as_u64() > Some(0), "{report}");
    }
}

#[test]
fn it_goes_on_past_the_block_with_derived_transactions() {
    let output = demo(&["--json", "--count", "5000", "--loss", "20"]);
    let report = report(&output);
    assert!(output.status.success(), "{report}");
    assert_eq!(report["transactions"], 5000);
}

#[test]
fn a_block_that_was_not_sent_whole_is_no_proof() {
    let output = demo(&["--json", "--count", "100"]);
    let report = report(&output);
    assert_eq!((report["missing"].as_u64(), report["merkle_root_ok"].as_bool()), (Some(0), Some(false)));
    assert!(!output.status.success(), "the Merkle root was not proved");
}

#[test]
fn what_is_no_block_is_refused_by_name() {
    let output = demo(&["--block", "Cargo.toml"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--block Cargo.toml"), "{error}");
    let output = demo(&["--loss", "101"]);
    assert_eq!(output.status.code(), Some(2));
}
