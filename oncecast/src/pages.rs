//! Completion scripts and manual pages, made from the command line itself.

use anyhow::Context;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Writes a completion script to stdout.
pub fn completions(mut command: clap::Command, shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "oncecast", &mut script);
    print(&script)
}

/// Writes the manual to stdout, or one page per command into `dir`.
pub fn man(command: clap::Command, dir: Option<&Path>) -> anyhow::Result<ExitCode> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return print(&page);
    };
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("--dir={}: want a folder that exists and can be written", dir.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text) {
        // `| head` closes early: what was wanted has been read.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        outcome => outcome.map(|()| ExitCode::SUCCESS).context("stdout"),
    }
}
