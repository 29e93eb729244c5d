//! No planted fault is in a product: the names of all of them stand in a binary that is built with the feature `mutants`, and
//! none in one that is built without.
//!
//! Both are built into a folder of their own, without optimisation and debug information: the binary of the other tests is
//! not touched. Cost: about a minute and a half on two cores the first time, seconds after that.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `oncecast` with these features; returns the text in the file and what `--version` says.
fn built(features: &str) -> (String, String) {
    let folder = target_folder().join("faults");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "-q", "-p", "oncecast", "--features", features, "--target-dir"]).arg(&folder);
    for setting in ["opt-level=0", "debug=false", "incremental=false", "package.\"*\".opt-level=0"] {
        build.args(["--config", &format!("profile.dev.{setting}")]);
    }
    build.current_dir(workspace());
    let status = build.status().unwrap_or_else(|error| panic!("cargo: {error}"));
    assert!(status.success(), "cargo build --features {features:?}: {status}");
    let binary = folder.join("debug/oncecast");
    let bytes = std::fs::read(&binary).unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let version = Command::new(&binary).arg("--version").output().unwrap_or_else(|error| panic!("{error}"));
    let text = bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { ' ' }).collect();
    (text, String::from_utf8_lossy(&version.stdout).trim().to_owned())
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where cargo builds this workspace: the folder above that of the profile under test.
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    test.ancestors().nth(3).map(Path::to_owned).unwrap_or_default()
}

/// Every fault that a crate declares: the variants that its list `ALL` names.
fn declared() -> Vec<String> {
    let crates = std::fs::read_dir(workspace()).unwrap_or_else(|error| panic!("{error}"));
    let files = crates.flatten().map(|folder| folder.path().join("src/mutation.rs"));
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let names = |text: String| -> Vec<String> {
        let list = text.split_once("ALL: ").map(|(_, list)| list.to_owned()).unwrap_or_default();
        let list = list.split_once("];").map_or("", |(list, _)| list).to_owned();
        let word = |part: &str| part.chars().take_while(|c| c.is_alphanumeric()).collect::<String>();
        list.split("Mutation::").skip(1).map(word).collect()
    };
    texts.flat_map(names).collect()
}

#[test]
fn the_names_of_all_planted_faults_are_in_a_binary_with_them_and_none_in_a_product() {
    let (text, version) = built("mutants");
    let (_, listed) = version.split_once("with planted faults: ").unwrap_or_else(|| panic!("{version:?}"));
    let names: Vec<&str> = listed.split(", ").collect();
    assert!(names.len() >= 40, "{version}");
    let unlisted: Vec<String> =
        declared().into_iter().filter(|name| !names.contains(&name.as_str())).collect();
    assert_eq!(unlisted, [""; 0], "oncecast/src/faults.rs does not list these");
    let absent: Vec<&&str> = names.iter().filter(|name| !text.contains(**name)).collect();
    assert!(absent.is_empty(), "not in the file: {absent:?}");

    let (text, version) = built("");
    assert!(!version.contains("fault"), "{version}");
    let present: Vec<&&str> = names.iter().filter(|name| text.contains(**name)).collect();
    assert!(present.is_empty(), "in a product: {present:?}");
}
