//! `oncecast`: one binary, one subcommand per role and per tool.
//!
//! A command is one variant of [`Command`] and one arm of [`run`]. Roles take their options from flags, environment and
//! file (`service::config`); tools from flags alone.

#![allow(unreachable_pub, reason = "a binary has no outside: pub marks what a module offers to its siblings")]

mod bench;
mod consumer;
mod demo;
mod endpoint;
mod faults;
mod interrupt;
mod nack;
mod pages;
mod progress;
mod recv;
mod roles;
mod send;
mod status;
mod traffic;
mod values;
mod whereis;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use service::config;
use std::process::ExitCode;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Transaction frames over IP multicast: every receiver gets every frame, once
#[derive(Parser, Debug)]
#[command(name = "oncecast", version = faults::version(), subcommand_required = true, arg_required_else_help = false)]
#[command(
    after_help = "Options of the roles (proxy, listener, retry) are flags, UPPER_CASE environment variables and \
keys of a TOML file (--config FILE), in this order of precedence. --check looks whether a start would work, --print-config shows the result.\n\
Exit codes: 0 done, 1 failed (with --check: this host is not as configured), 2 wrong usage, 70 internal error, 130/143 stopped by a second SIGINT/SIGTERM."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run an ingress proxy: accept frames over UDP and TCP, claim each id, number and multicast them
    Proxy(Box<roles::ProxyConfig>),
    /// Run an egress listener: join groups, repair what was lost, deliver each frame once to a consumer
    Listener(Box<roles::ListenerConfig>),
    /// Run a retry endpoint: keep recent frames and send them again on request
    Retry(Box<roles::RetryConfig>),
    Demo(demo::Args),
    Send(send::Args),
    Recv(recv::Args),
    Nack(nack::Args),
    Status(status::Args),
    Where(Box<whereis::Args>),
    #[command(subcommand_value_name = "PART")]
    Bench(bench::Args),
    /// Print a completion script for a shell to stdout
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Print the manual page to stdout, or write one page per command into a folder
    Man {
        /// Folder for the pages; it must exist
        #[arg(long, value_name = "DIR")]
        dir: Option<std::path::PathBuf>,
    },
}

fn main() -> ExitCode {
    let environment = config::Environment::of_process();
    let loaded = match config::load(Cli::command(), roles::ROLES, std::env::args_os(), &environment) {
        Ok(loaded) => loaded,
        Err(exit) => return exit.finish(),
    };
    let command = match Cli::from_arg_matches(&loaded.matches) {
        Ok(cli) => cli.command,
        // What the parser accepted always has this form; if not, clap says what is wrong.
        Err(error) => error.exit(),
    };
    let name = loaded.matches.subcommand_name().unwrap_or_default();
    match run(command, loaded.role) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("oncecast {name}: {}", service::causes::one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, role: Option<config::RoleLoaded>) -> anyhow::Result<ExitCode> {
    Ok(match (command, role) {
        (Command::Proxy(config), Some(role)) => roles::proxy(*config, role),
        (Command::Listener(config), Some(role)) => roles::listener(*config, role),
        (Command::Retry(config), Some(role)) => roles::retry(*config, role),
        (Command::Proxy(_) | Command::Listener(_) | Command::Retry(_), None) => {
            anyhow::bail!("options were not loaded; the role's name must come right after oncecast")
        }
        (Command::Demo(args), _) => demo::run(args)?,
        (Command::Send(args), _) => send::run(args)?,
        (Command::Recv(args), _) => recv::run(args)?,
        (Command::Nack(args), _) => nack::run(args)?,
        (Command::Status(args), _) => status::run(args)?,
        (Command::Where(args), _) => whereis::run(*args)?,
        (Command::Bench(args), _) => bench::run(args)?,
        (Command::Completions { shell }, _) => pages::completions(command_line(), shell)?,
        (Command::Man { dir }, _) => pages::man(command_line(), dir.as_deref())?,
    })
}

/// The whole command line as people see it.
fn command_line() -> clap::Command {
    config::command::decorate(Cli::command(), roles::ROLES)
}

fn complain(line: &str) {
    use std::io::Write;
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        super::command_line().debug_assert();
    }
}
