//! The command line of a role: its own options, those of the service, and the names of the Go stack.

use super::args::CommonArgs;
use super::go;
use super::host::{CheckDepth, HostArgs};
use super::parsers::YesOrNo;
use super::role::Role;
use super::values::Unacceptable;
use clap::builder::{StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, Args, Command, ValueEnum};
use std::collections::{BTreeMap, HashSet};

/// Options that stand on the command line only.
const NOT_LAYERED: [&str; 5] = ["check", "print-config", "take-over", "help", "version"];

/// Whether the environment and the file may give this option.
pub(super) fn is_layered(long: &str) -> bool {
    !NOT_LAYERED.contains(&long)
}

/// Long name and aliases.
pub(super) fn names(arg: &Arg) -> Vec<String> {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect()
}

/// The command with all that the roles accept beyond their `Args`; what help, man pages and completions show.
pub fn decorate(mut command: Command, roles: &'static [Role]) -> Command {
    for role in roles {
        command = command.mut_subcommand(role.name, |sub| decorate_role(sub, role));
    }
    command
}

fn decorate_role(mut sub: Command, role: &'static Role) -> Command {
    // A role may declare options of the service itself; those it left out are added.
    let known = known(&sub);
    let common = HostArgs::augment_args(CommonArgs::augment_args(Command::new("common")));
    sub = sub.args(common.get_arguments().filter(|arg| !names(arg).iter().any(|name| known.contains(name))));
    sub = sub.mut_arg("check", check_depth);
    let aliases = other_flags(&sub, role);
    sub = sub.args_override_self(true).mut_args(|arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
        let others = aliases.get(long.as_str()).cloned().unwrap_or_default();
        let default = role.defaults.iter().find(|(name, _)| *name == long);
        let arg = switch(arg).visible_aliases(others.into_iter().map(str::to_owned));
        match default {
            Some((_, value)) => arg.default_value(*value).required(false),
            None => arg,
        }
    });
    let ignored = ignored_flags(&sub, role);
    sub.args(ignored)
}

/// Every flag that the command has.
fn known(sub: &Command) -> HashSet<String> {
    sub.get_arguments().flat_map(names).collect()
}

/// The second flags of each option, those left out that the command has as an option of its own.
fn other_flags(sub: &Command, role: &Role) -> BTreeMap<&'static str, Vec<&'static str>> {
    let known = known(sub);
    let mut by_option: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for alias in role.aliases.iter().filter(|alias| !alias.flag.is_empty() && !known.contains(alias.flag)) {
        by_option.entry(alias.option).or_default().push(alias.flag);
    }
    by_option
}

/// Flags of the Go stack that have no effect here, hidden.
fn ignored_flags(sub: &Command, role: &Role) -> Vec<Arg> {
    let known = known(sub);
    let ignored = go::flags_of(role.name).filter(|go| !known.contains(go.flag));
    ignored
        .map(|go| {
            let arg = Arg::new(go.flag).long(go.flag).env(go.env).default_value(go.default).hide(true);
            let arg = arg.allow_hyphen_values(true).help("Accepted for compatibility, not implemented yet");
            if go.is_switch() { switch(arg.value_parser(clap::value_parser!(bool))) } else { arg }
        })
        .collect()
}

/// `--check`, alone or with how far to look. Its value is whether to check; [`depth`] reads how far.
fn check_depth(arg: Arg) -> Arg {
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("host")
        .default_value(NO_CHECK)
        .hide_default_value(true)
        .hide_possible_values(true)
        .value_parser(StringValueParser::new().try_map(|text| match depth(&text) {
            Ok(depth) => Ok(depth.is_some()),
            Err(()) => Err(Unacceptable("config, host or online".to_owned())),
        }))
        .value_name("config|host|online")
        .help(
            "Start nothing; say whether the configuration is right (else exit code 2) and this host as it says (else 1). \
             config: the configuration alone; host: both [default]; online: the shared store too",
        )
}

/// What `--check` has where it is not given.
const NO_CHECK: &str = "no";

/// How far `--check` with this value looks.
pub(super) fn depth(text: &str) -> Result<Option<CheckDepth>, ()> {
    if text == NO_CHECK {
        return Ok(None);
    }
    CheckDepth::from_str(text, false).map(Some).map_err(drop)
}

/// Lets a yes-or-no option stand alone or take `=true` and `=false`; other options are left as they are.
fn switch(arg: Arg) -> Arg {
    let choices: Vec<_> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let default = match arg.get_action() {
        ArgAction::SetTrue => Some("false"),
        ArgAction::SetFalse => Some("true"),
        ArgAction::Set if choices == ["true", "false"] => None,
        _ => return arg,
    };
    if arg.get_long().is_some_and(|long| !is_layered(long)) {
        return arg;
    }
    let arg = arg
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(YesOrNo)
        .value_name("true|false")
        .hide_possible_values(true);
    match default {
        Some(default) => arg.default_value(default),
        None => arg,
    }
}
