//! Checks of this repository that no public tool makes: circles between modules, misplaced code, sizes.
//!
//! `make lint` runs `cargo run -q -p xtask -- lint`. Each finding is one line with file and line number; the exit code is 1
//! if there is any. `docs`: `tools/xtask/README.md`.

#![allow(unreachable_pub, reason = "a binary has no outside: pub marks what a module offers to its siblings")]

mod lint;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks of this repository that no public tool makes
#[derive(Parser, Debug)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand, Debug)]
enum Task {
    /// Circles between modules, code in the wrong place, files, functions and types that are too large
    Lint {
        /// Only these crates, by folder; all without
        crates: Vec<PathBuf>,
        /// Root of the workspace
        #[arg(long, default_value = env!("CARGO_MANIFEST_DIR"))]
        root: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Args::parse().task {
        Task::Lint { crates, root } => {
            let root = root.ancestors().find(|folder| folder.join("Cargo.lock").exists());
            let findings = lint::workspace(root.context("no Cargo.lock here or above")?, &crates)?;
            for finding in &findings {
                println!("{finding}");
            }
            Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}
