//! What the loader must know of a role, and of the process around it.

use std::collections::HashMap;
use std::ffi::OsString;

/// A second name for an option of a role, as the Go stack has it.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// Long name of the option.
    pub option: &'static str,
    /// The other flag; empty for none. An alias of an option that the role does not have is left out.
    pub flag: &'static str,
    /// The other environment variable, asked after the option's own; empty for none.
    pub env: &'static str,
}

impl Alias {
    /// A row of a table.
    pub const fn new(option: &'static str, flag: &'static str, env: &'static str) -> Alias {
        Alias { option, flag, env }
    }
}

/// What the loader must know about a role beyond its `Args`.
#[derive(Clone, Copy, Debug)]
pub struct Role {
    /// Name of the subcommand.
    pub name: &'static str,
    /// Other names of its options.
    pub aliases: &'static [Alias],
    /// Defaults of shared options where the role has its own: (long name, value).
    pub defaults: &'static [(&'static str, &'static str)],
}

/// Environment variables; a type of its own so that tests need not touch the process.
#[derive(Clone, Debug, Default)]
pub struct Environment(HashMap<String, OsString>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Environment {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    /// A set and non-empty variable.
    pub(super) fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }
}

impl FromIterator<(String, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, OsString)>>(vars: I) -> Environment {
        Environment(vars.into_iter().collect())
    }
}
