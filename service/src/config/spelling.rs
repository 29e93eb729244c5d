//! How the Go stack writes a command line: `-flag` for `--flag`, and `-flag=` for *not set*.

use super::command::names;
use clap::{Arg, Command};
use std::collections::HashMap;
use std::ffi::OsString;

/// Rewrites `-flag` to `--flag`. Roles have no short flags but `-h` and `-V`.
pub(super) fn rewrite_single_dashes(argv: &mut [OsString], sub: &Command) {
    let shorts: Vec<char> = sub.get_arguments().filter_map(Arg::get_short).collect();
    for arg in argv.iter_mut().skip(1) {
        let Some(text) = arg.to_str() else { continue };
        if text == "--" {
            break;
        }
        let Some(name) = text.strip_prefix('-').filter(|name| name.len() > 1 && !name.starts_with('-'))
        else {
            continue;
        };
        let first = name.chars().next().unwrap_or('-');
        if first.is_ascii_alphabetic() && !name.chars().all(|c| shorts.contains(&c)) {
            *arg = format!("-{text}").into();
        }
    }
}

/// Options that may stay unset: they take a value and have no default. By every name to the long one.
pub(super) fn optional(sub: &Command) -> HashMap<String, String> {
    sub.get_arguments()
        .filter(|arg| arg.get_default_values().is_empty() && arg.get_action().takes_values())
        .filter_map(|arg| Some((arg, arg.get_long()?.to_owned())))
        .flat_map(|(arg, long)| names(arg).into_iter().map(move |name| (name, long.clone())))
        .collect()
}

/// Takes optional options with an empty value (`--x=` or `--x ''`) off the command line; answers with their long names.
pub(super) fn take_empty(argv: &mut Vec<OsString>, optional: &HashMap<String, String>) -> Vec<String> {
    let mut emptied = Vec::new();
    let mut kept: Vec<OsString> = Vec::with_capacity(argv.len());
    for arg in argv.drain(..) {
        let previous = kept.last().and_then(|arg| arg.to_str()).and_then(|arg| arg.strip_prefix("--"));
        let (option, by_two_words) = match arg.to_str() {
            Some("") => (previous.and_then(|name| optional.get(name)), true),
            Some(text) => {
                let name = text.strip_prefix("--").and_then(|text| text.strip_suffix('='));
                (name.and_then(|name| optional.get(name)), false)
            }
            None => (None, false),
        };
        match option {
            Some(option) => {
                emptied.push(option.clone());
                if by_two_words {
                    kept.pop();
                }
            }
            None => kept.push(arg),
        }
    }
    *argv = kept;
    emptied
}
