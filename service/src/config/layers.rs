//! The layers below the flags: for each option what the environment or else the file says.
//!
//! clap is handed each value as the default of its option, so its parsers judge values of every layer in the same words.

use super::command::is_layered;
use super::effective::Origin;
use super::file::{self, FileError};
use super::role::{Environment, Role};
use super::spelling;
use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// A layer that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("{path}: {problem}")]
    File { path: String, problem: FileError },
    #[error("environment {variable} is not valid UTF-8; want text for --{option}")]
    NotText { variable: String, option: String },
}

/// A value, and the layer that gave it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) values: Vec<String>,
    pub(super) origin: Origin,
}

/// See the module text.
#[derive(Debug, Default)]
pub(super) struct Layers {
    found: BTreeMap<String, Found>,
    /// Option to the names of its variables.
    variables: BTreeMap<String, Vec<String>>,
}

impl Layers {
    /// Reads the file that is named, if any, and then the environment, which wins.
    pub(super) fn read(
        command: &Command,
        role: &Role,
        roles: &[Role],
        argv: &[OsString],
        environment: &Environment,
    ) -> Result<Layers, LayerError> {
        let variables =
            command.find_subcommand(role.name).map_or_else(BTreeMap::new, |sub| variables(sub, role));
        let mut layers = Layers { found: BTreeMap::new(), variables };
        if let Some(path) = file_named(argv).or_else(|| environment.get("ONCECAST_CONFIG").cloned()) {
            layers.read_file(Path::new(&path), command, role, roles)?;
        }
        layers.read_environment(environment)?;
        Ok(layers)
    }

    fn read_file(
        &mut self,
        path: &Path,
        command: &Command,
        role: &Role,
        roles: &[Role],
    ) -> Result<(), LayerError> {
        let shown = path.display().to_string();
        let given = file::read(path, command, role, roles)
            .map_err(|problem| LayerError::File { path: shown.clone(), problem })?;
        for (option, values) in given {
            self.found.insert(option, Found { values, origin: Origin::File(shown.clone()) });
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: &Environment) -> Result<(), LayerError> {
        for (option, variables) in &self.variables {
            let set = variables.iter().find_map(|name| Some((name, environment.get(name)?)));
            let Some((name, value)) = set else { continue };
            let Some(value) = value.to_str() else {
                return Err(LayerError::NotText { variable: name.clone(), option: option.clone() });
            };
            let found = Found { values: vec![value.to_owned()], origin: Origin::Environment(name.clone()) };
            self.found.insert(option.clone(), found);
        }
        Ok(())
    }

    /// What a layer says of an option.
    pub(super) fn found(&self, option: &str) -> Option<&Found> {
        self.found.get(option)
    }

    /// An option without a default that is given an empty text counts as not set, in every layer: Go's flags and charts
    /// write `-bind-source=` for "none".
    pub(super) fn leave_unset(&mut self, argv: &mut Vec<OsString>, sub: &Command) {
        let optional = spelling::optional(sub);
        self.found.retain(|option, found| {
            !optional.contains_key(option) || found.values.iter().any(|value| !value.trim().is_empty())
        });
        for option in spelling::take_empty(argv, &optional) {
            self.found.remove(&option);
        }
    }

    /// Makes each value the default of its option, and shows the variable in the help.
    pub(super) fn apply(&self, sub: Command) -> Command {
        sub.mut_args(|arg| {
            let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
            let arg = show_variable(arg, self.variables.get(&long)).env(Resettable::Reset);
            let Some(found) = self.found.get(&long) else { return arg };
            let arg = arg.required(false);
            let delimiter = arg.get_value_delimiter().unwrap_or(',');
            match arg.get_action() {
                ArgAction::Append => {
                    let parts: Vec<_> =
                        found.values.iter().flat_map(|value| value.split(delimiter)).collect();
                    arg.default_values(parts.into_iter().map(str::trim).map(str::to_owned))
                }
                _ => arg.default_value(found.values.join(",")),
            }
        })
    }
}

/// Names of the variables of each option: its own, then those of its aliases.
fn variables(sub: &Command, role: &Role) -> BTreeMap<String, Vec<String>> {
    let upper = |flag: &str| flag.replace('-', "_").to_ascii_uppercase();
    let of = |arg: &Arg| {
        let long = arg.get_long()?;
        let own = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned);
        let mut names = vec![own.unwrap_or_else(|| upper(long))];
        let declared = role.aliases.iter().filter(|alias| alias.option == long && !alias.env.is_empty());
        names.extend(declared.map(|alias| alias.env.to_owned()));
        let implied = arg.get_all_aliases().unwrap_or_default();
        let implied =
            implied.into_iter().filter(|flag| !role.aliases.iter().any(|alias| alias.flag == *flag));
        names.extend(implied.map(upper));
        names.dedup();
        Some((long.to_owned(), names))
    };
    let layered = sub.get_arguments().filter(|arg| arg.get_long().is_some_and(is_layered));
    layered.filter_map(of).collect()
}

fn show_variable(arg: Arg, variables: Option<&Vec<String>>) -> Arg {
    let Some(variables) = variables else { return arg };
    let shown = format!("[env: {}]", variables.join(", "));
    let help = arg.get_help().map(|help| format!("{help} {shown}"));
    let long_help = arg.get_long_help().map(|help| format!("{help} {shown}"));
    let arg = match help {
        Some(help) => arg.help(help),
        None => arg.help(shown),
    };
    match long_help {
        Some(help) => arg.long_help(help),
        None => arg,
    }
}

/// The file named on the command line; the last one wins, as for every option.
fn file_named(argv: &[OsString]) -> Option<OsString> {
    let mut path = None;
    let mut args = argv.iter().take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        if arg == "--config" {
            path = args.next().cloned().or(path);
        } else if let Some(value) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            path = Some(value.into());
        }
    }
    path.filter(|path| !path.is_empty())
}
