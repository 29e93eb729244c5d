//! The TOML file: which options it gives, checked against the options of the roles.
//!
//! A key is the name of a flag with `-` or `_`. Keys outside a table are for every role; keys in the table of a role
//! replace them for that role. A key or a table that nobody knows is an error, also in the tables of other roles. Limit: a
//! file of [`MAX_FILE`] bytes.

use super::command::{is_layered, names};
use super::role::Role;
use clap::Command;
use std::collections::HashMap;
use std::io;
use std::path::Path;

/// A file larger than this is not a configuration.
const MAX_FILE: u64 = 1 << 20;

/// Why a file was refused. Each text names the key and what is accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("--config: {0}")]
    Read(#[from] io::Error),
    #[error("--config: {0} bytes; want a TOML file of at most {MAX_FILE} bytes")]
    TooLong(u64),
    #[error("line {line}: {problem}")]
    Syntax { line: usize, problem: String },
    #[error("unknown table [{table}]; want {}", tables(.known))]
    UnknownTable { table: String, known: Vec<&'static str> },
    #[error("unknown key \"{key}\"{}{}", in_table(.table), suggestion(.nearest))]
    UnknownKey { key: String, table: Option<String>, nearest: Option<String> },
    #[error("key \"{key}\" is no option of {role}; it belongs under [{owner}]")]
    OtherRole { key: String, role: &'static str, owner: &'static str },
    #[error("key \"{0}\": want a string, a number, true, false or a list of these")]
    NoText(String),
    #[error("keys \"{first}\" and \"{second}\" are the same option --{option}")]
    Twice { first: String, second: String, option: String },
}

fn tables(known: &[&str]) -> String {
    known.iter().map(|name| format!("[{name}]")).collect::<Vec<_>>().join(", ")
}

fn in_table(table: &Option<String>) -> String {
    table.as_ref().map_or_else(String::new, |table| format!(" in [{table}]"))
}

fn suggestion(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => "; want the name of a flag without its dashes".to_owned(),
    }
}

/// What a file gives: values as text, by the long name of their option.
pub(super) type Given = HashMap<String, Vec<String>>;

/// Reads the options of `role` from a file.
pub(super) fn read(path: &Path, command: &Command, role: &Role, roles: &[Role]) -> Result<Given, FileError> {
    let (sections, keys): (Vec<_>, Vec<_>) =
        table_of(path)?.into_iter().partition(|(_, value)| value.is_table());
    let reader = Reader { command, role, roles };
    let own = reader.sections(sections)?;
    let mut given = Given::new();
    // Keys without a table first: those of the role's own table replace them.
    for group in [reader.general(keys)?, own] {
        given.extend(values(group)?);
    }
    Ok(given)
}

fn table_of(path: &Path) -> Result<toml::Table, FileError> {
    let size = std::fs::metadata(path)?.len();
    if size > MAX_FILE {
        return Err(FileError::TooLong(size));
    }
    let text = std::fs::read_to_string(path)?;
    text.parse::<toml::Table>().map_err(|error| {
        let upto = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let problem = error.message().replace('\n', " ");
        FileError::Syntax { line: upto.matches('\n').count() + 1, problem }
    })
}

/// A key of the file, the option it stands for, and its value.
struct Entry {
    key: String,
    option: String,
    value: toml::Value,
}

struct Reader<'a> {
    command: &'a Command,
    role: &'a Role,
    roles: &'a [Role],
}

impl Reader<'_> {
    fn options_of(&self, role: &str) -> Option<&Command> {
        self.command.find_subcommand(role)
    }

    /// Checks the tables of all roles, and answers with that of this one.
    fn sections(&self, sections: Vec<(String, toml::Value)>) -> Result<Vec<Entry>, FileError> {
        let mut own = Vec::new();
        for (table, value) in sections {
            let toml::Value::Table(keys) = value else { continue };
            let options = self.roles.iter().find(|role| role.name == table);
            let Some(options) = options.and_then(|role| self.options_of(role.name)) else {
                let known = self.roles.iter().map(|role| role.name).collect();
                return Err(FileError::UnknownTable { table, known });
            };
            for (key, value) in keys {
                let Some(option) = option_of(options, &key) else {
                    let nearest = nearest(options, &key);
                    return Err(FileError::UnknownKey { key, table: Some(table), nearest });
                };
                if table == self.role.name {
                    own.push(Entry { key, option, value });
                }
            }
        }
        Ok(own)
    }

    /// The keys outside of tables.
    fn general(&self, keys: Vec<(String, toml::Value)>) -> Result<Vec<Entry>, FileError> {
        let entry = |(key, value): (String, toml::Value)| match self
            .options_of(self.role.name)
            .and_then(|own| option_of(own, &key))
        {
            Some(option) => Ok(Entry { key, option, value }),
            None => Err(self.stray(key)),
        };
        keys.into_iter().map(entry).collect()
    }

    /// A key outside of tables that is no option of the role.
    fn stray(&self, key: String) -> FileError {
        let has =
            |other: &&Role| self.options_of(other.name).is_some_and(|own| option_of(own, &key).is_some());
        if let Some(owner) = self.roles.iter().find(has) {
            return FileError::OtherRole { key, role: self.role.name, owner: owner.name };
        }
        let nearest = self.options_of(self.role.name).and_then(|own| nearest(own, &key));
        FileError::UnknownKey { key, table: None, nearest }
    }
}

/// The values of entries that stand in one table: no option twice.
fn values(entries: Vec<Entry>) -> Result<Given, FileError> {
    let mut given = Given::new();
    let mut seen: HashMap<String, String> = HashMap::new();
    for Entry { key, option, value } in entries {
        let Some(values) = texts(&value) else { return Err(FileError::NoText(key)) };
        if let Some(first) = seen.insert(option.clone(), key.clone()) {
            return Err(FileError::Twice { first, second: key, option });
        }
        given.insert(option, values);
    }
    Ok(given)
}

/// Long name of the option a key stands for: flag or alias, with `-` or `_`.
fn option_of(sub: &Command, key: &str) -> Option<String> {
    let flag = key.replace('_', "-");
    if flag == "config" || !is_layered(&flag) {
        return None;
    }
    let arg = sub.get_arguments().find(|arg| names(arg).contains(&flag))?;
    arg.get_long().map(str::to_owned)
}

/// A known key that looks like this one.
fn nearest(sub: &Command, key: &str) -> Option<String> {
    let flag = key.replace('_', "-");
    let known = sub.get_arguments().flat_map(names).filter(|name| is_layered(name));
    let near = known.map(|name| (strsim::jaro_winkler(&name, &flag), name));
    let (score, name) = near.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score > 0.7).then_some(name)
}

/// A TOML value as the text a flag would have.
fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::Array(items) => {
            let items: Option<Vec<Vec<String>>> = items.iter().map(texts).collect();
            Some(items?.concat())
        }
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(yes) => Some(vec![yes.to_string()]),
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}
