//! The lint: reads every crate of the workspace and asks each rule.

mod circles;
mod misplaced;
mod names;
mod report;
mod sizes;
mod source;

pub use report::Finding;

use source::{Target, Workspace};
use std::path::{Path, PathBuf};

/// Findings in the crates of the workspace (`only` in these folders, if any), sorted by place.
pub fn workspace(root: &Path, only: &[PathBuf]) -> anyhow::Result<Vec<Finding>> {
    let workspace = Workspace::read(root)?;
    if let Some(unknown) = only.iter().find(|folder| !workspace.folders.contains(folder)) {
        anyhow::bail!("{} is no crate of the workspace", unknown.display());
    }
    let mut findings = Vec::new();
    for folder in &workspace.folders {
        if only.is_empty() || only.contains(folder) {
            for target in workspace.targets(folder)? {
                findings.extend(in_target(&target));
            }
        }
    }
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// Findings of every rule in one library or program.
fn in_target(target: &Target) -> Vec<Finding> {
    let names = names::Names::of(target);
    let mut findings = circles::find(target, &names);
    findings.extend(misplaced::find(target, &names));
    findings.extend(sizes::find(target));
    findings
}
