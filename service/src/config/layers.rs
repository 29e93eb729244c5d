//! Flags, environment and file put together into one parse.
//!
//! The layers below the flags are handed to clap as default values of their options, so its parsers judge them all. What
//! clap cannot know is done around it: Go's single-dash flags are rewritten, switches take `=true` and `=false`, the file's
//! keys are checked against the options of the role, and every error becomes one line.

use super::CommonArgs;
use super::go::{GO_FLAGS_IGNORED, GoFlag};
use super::print::{Effective, masked};
use clap::builder::{BoolishValueParser, Resettable};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::error::Error as _;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

/// Exit code of a usage error.
pub const EXIT_USAGE: u8 = 2;

/// A file larger than this is not a configuration.
const MAX_FILE: u64 = 1 << 20;

/// Options that stand on the command line only.
const NOT_LAYERED: [&str; 4] = ["check", "print-config", "help", "version"];

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
    fn get(&self, name: &str) -> Option<&OsString> {
        self.0.get(name).filter(|value| !value.is_empty())
    }
}

impl FromIterator<(String, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, OsString)>>(vars: I) -> Environment {
        Environment(vars.into_iter().collect())
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// A key of a file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// The process ends here: help, version, or an error of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code: 0 or 2.
    pub code: u8,
    /// What to print: to stdout with code 0, else to stderr.
    pub text: String,
}

impl Exit {
    fn usage(text: impl Into<String>) -> Exit {
        Exit { code: EXIT_USAGE, text: text.into() }
    }

    /// Prints, and answers with the code.
    #[allow(clippy::print_stdout, clippy::print_stderr, reason = "this is where text for people leaves")]
    pub fn finish(&self) -> std::process::ExitCode {
        use std::io::Write;
        // A closed pipe is no reason to panic.
        let _ = match self.code {
            0 => std::io::stdout().write_all(self.text.as_bytes()),
            _ => std::io::stderr().write_all(self.text.as_bytes()),
        };
        self.code.into()
    }
}

/// The parsed command line.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// For the derived parser of the whole command.
    pub matches: ArgMatches,
    /// Present when the subcommand is a role.
    pub role: Option<RoleLoaded>,
}

/// What was found for a role.
#[derive(Clone, Debug)]
pub struct RoleLoaded {
    /// Name of the subcommand.
    pub name: &'static str,
    /// The options of the service itself.
    pub common: CommonArgs,
    /// Lines to log at start.
    pub warnings: Vec<String>,
    /// Every option with its value and origin.
    pub effective: Vec<Effective>,
}

/// Parses a command line whose roles take their options from flags, environment and file.
///
/// # Errors
/// Help and version (code 0), usage errors (code 2); both carry the text to print.
pub fn load(
    command: Command,
    roles: &'static [Role],
    argv: impl IntoIterator<Item = OsString>,
    environment: &Environment,
) -> Result<Loaded, Exit> {
    let command = decorate(command, roles);
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    let asked = argv.iter().skip(1).find_map(|arg| arg.to_str().filter(|arg| !arg.starts_with('-')));
    let role = roles.iter().find(|role| Some(role.name) == asked);
    let Some(role) = role else {
        let matches = parse(command, argv, &Layers::default())?;
        return Ok(Loaded { matches, role: None });
    };
    let Some(sub) = command.find_subcommand(role.name).cloned() else {
        return Err(Exit::usage(format!("oncecast: no command {}\n", role.name)));
    };
    rewrite_single_dashes(&mut argv, &sub);
    let mut layers = Layers::read(&command, &sub, role, roles, &argv, environment)?;
    layers.leave_unset(&mut argv, &sub);
    let command = command.mut_subcommand(role.name, |sub| layers.apply(sub));
    let matches = parse(command, argv, &layers)?;
    let Some(found) = matches.subcommand_matches(role.name) else {
        return Ok(Loaded { matches, role: None });
    };
    let common = CommonArgs::from_arg_matches(found).map_err(|error| one_line(&error, &layers, &[]))?;
    let effective = effective(&sub, found, &layers);
    let warnings = ignored_flags(role.name, &effective)?;
    let role = RoleLoaded { name: role.name, common, warnings, effective };
    Ok(Loaded { matches, role: Some(role) })
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
    let known: HashSet<String> = sub.get_arguments().flat_map(names).collect();
    let common = CommonArgs::augment_args(Command::new("common"));
    sub = sub.args(common.get_arguments().filter(|arg| !names(arg).iter().any(|name| known.contains(name))));
    let known: HashSet<String> = sub.get_arguments().flat_map(names).collect();
    let aliases = role.aliases.iter().filter(|alias| !alias.flag.is_empty() && !known.contains(alias.flag));
    let mut by_option: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for alias in aliases {
        by_option.entry(alias.option).or_default().push(alias.flag);
    }
    sub = sub.args_override_self(true).mut_args(|arg| {
        let Some(long) = arg.get_long().map(str::to_owned) else { return arg };
        let extra = by_option.get(long.as_str()).cloned().unwrap_or_default();
        let default = role.defaults.iter().find(|(name, _)| *name == long);
        let arg = switch(arg).visible_aliases(extra.into_iter().map(str::to_owned));
        match default {
            Some((_, value)) => arg.default_value(*value).required(false),
            None => arg,
        }
    });
    let known: HashSet<String> = sub.get_arguments().flat_map(names).collect();
    let ignored = go_flags(role.name).filter(|go| !known.contains(go.flag));
    sub.args(ignored.map(|go| {
        let arg = Arg::new(go.flag).long(go.flag).env(go.env).default_value(go.default).hide(true);
        let arg = arg.allow_hyphen_values(true).help("Accepted for compatibility, not implemented yet");
        if go.is_switch() { switch(arg.value_parser(clap::value_parser!(bool))) } else { arg }
    }))
}

fn go_flags(role: &str) -> impl Iterator<Item = &'static GoFlag> {
    GO_FLAGS_IGNORED.iter().filter(move |go| go.roles.contains(&role))
}

/// Long name and aliases.
fn names(arg: &Arg) -> Vec<String> {
    let aliases = arg.get_all_aliases().unwrap_or_default();
    arg.get_long().into_iter().chain(aliases).map(str::to_owned).collect()
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
    if NOT_LAYERED.iter().any(|name| arg.get_long() == Some(name)) {
        return arg;
    }
    let arg = arg
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value("true")
        .value_parser(BoolishValueParser::new())
        .value_name("true|false")
        .hide_possible_values(true);
    match default {
        Some(default) => arg.default_value(default),
        None => arg,
    }
}

/// Go accepts `-flag` for `--flag`; so do roles, which have no short flags but `-h` and `-V`.
fn rewrite_single_dashes(argv: &mut [OsString], sub: &Command) {
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

/// The layers below the flags: for each option what the environment or else the file says.
#[derive(Debug, Default)]
struct Layers {
    found: BTreeMap<String, Found>,
    /// Option to the names of its variables.
    variables: BTreeMap<String, Vec<String>>,
}

#[derive(Debug)]
struct Found {
    values: Vec<String>,
    origin: Origin,
}

impl Layers {
    fn read(
        command: &Command,
        sub: &Command,
        role: &Role,
        roles: &[Role],
        argv: &[OsString],
        environment: &Environment,
    ) -> Result<Layers, Exit> {
        let mut layers = Layers { variables: variables(sub, role), ..Layers::default() };
        let file = config_path(argv).or_else(|| environment.get("ONCECAST_CONFIG").cloned());
        if let Some(path) = file {
            layers.read_file(Path::new(&path), command, sub, role, roles)?;
        }
        for (option, variables) in &layers.variables {
            let set = variables.iter().find_map(|name| Some((name, environment.get(name)?)));
            let Some((name, value)) = set else { continue };
            let Some(value) = value.to_str() else {
                let line = format!(
                    "oncecast {}: environment {name} is not valid UTF-8; want text for --{option}\n",
                    role.name
                );
                return Err(Exit::usage(line));
            };
            let found = Found { values: vec![value.to_owned()], origin: Origin::Environment(name.clone()) };
            layers.found.insert(option.clone(), found);
        }
        Ok(layers)
    }

    fn read_file(
        &mut self,
        path: &Path,
        command: &Command,
        sub: &Command,
        role: &Role,
        roles: &[Role],
    ) -> Result<(), Exit> {
        let shown = path.display().to_string();
        let fail = |problem: String| Exit::usage(format!("oncecast {}: {shown}: {problem}\n", role.name));
        let table = read_table(path).map_err(&fail)?;
        let (sections, keys): (Vec<_>, Vec<_>) = table.into_iter().partition(|(_, value)| value.is_table());
        let mut own = Vec::new();
        for (section, value) in sections {
            let toml::Value::Table(keys) = value else { continue };
            if !roles.iter().any(|role| role.name == section) {
                let names: Vec<_> = roles.iter().map(|role| format!("[{}]", role.name)).collect();
                return Err(fail(format!("unknown table [{section}]; want {}", names.join(", "))));
            }
            for (key, value) in keys {
                let owner = command.find_subcommand(&section).unwrap_or(sub);
                let option = option_of(owner, &key).ok_or_else(|| {
                    fail(format!("unknown key \"{key}\" in [{section}]{}", closest(owner, &key)))
                })?;
                if section == role.name {
                    own.push((key, option, value));
                }
            }
        }
        // Keys without a table first: those of the role's own table replace them.
        let mut general = Vec::new();
        for (key, value) in keys {
            let Some(option) = option_of(sub, &key) else {
                let elsewhere = roles.iter().find(|other| {
                    command.find_subcommand(other.name).is_some_and(|other| option_of(other, &key).is_some())
                });
                return Err(fail(match elsewhere {
                    Some(other) => format!(
                        "key \"{key}\" is no option of {}; it belongs under [{}]",
                        role.name, other.name
                    ),
                    None => format!("unknown key \"{key}\"{}", closest(sub, &key)),
                }));
            };
            general.push((key, option, value));
        }
        for group in [general, own] {
            let mut seen: HashMap<String, String> = HashMap::new();
            for (key, option, value) in group {
                let values = texts(&value).ok_or_else(|| {
                    fail(format!("key \"{key}\": want a string, a number, true, false or a list of these"))
                })?;
                if let Some(other) = seen.insert(option.clone(), key.clone()) {
                    return Err(fail(format!(
                        "keys \"{other}\" and \"{key}\" are the same option --{option}"
                    )));
                }
                self.found.insert(option, Found { values, origin: Origin::File(shown.clone()) });
            }
        }
        Ok(())
    }

    /// An option without a default that is given an empty text counts as not set, in every layer: Go's flags and charts
    /// write `-bind-source=` for "none".
    fn leave_unset(&mut self, argv: &mut Vec<OsString>, sub: &Command) {
        let optional: HashMap<String, String> = sub
            .get_arguments()
            .filter(|arg| arg.get_default_values().is_empty() && arg.get_action().takes_values())
            .filter_map(|arg| Some((arg, arg.get_long()?.to_owned())))
            .flat_map(|(arg, long)| names(arg).into_iter().map(move |name| (name, long.clone())))
            .collect();
        self.found.retain(|option, found| {
            !optional.contains_key(option) || found.values.iter().any(|value| !value.trim().is_empty())
        });
        let mut kept: Vec<OsString> = Vec::with_capacity(argv.len());
        for arg in argv.drain(..) {
            let previous = kept.last().and_then(|arg| arg.to_str()).and_then(|arg| arg.strip_prefix("--"));
            let emptied = match arg.to_str() {
                Some("") => previous.and_then(|name| optional.get(name)).map(|option| (option, true)),
                Some(text) => {
                    let name = text.strip_prefix("--").and_then(|text| text.strip_suffix('='));
                    name.and_then(|name| optional.get(name)).map(|option| (option, false))
                }
                None => None,
            };
            match emptied {
                Some((option, by_two_words)) => {
                    self.found.remove(option);
                    if by_two_words {
                        kept.pop();
                    }
                }
                None => kept.push(arg),
            }
        }
        *argv = kept;
    }

    /// Makes each value the default of its option, and shows the variable in the help.
    fn apply(&self, sub: Command) -> Command {
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
    let layered =
        sub.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| !NOT_LAYERED.contains(&long)));
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
fn config_path(argv: &[OsString]) -> Option<OsString> {
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

fn read_table(path: &Path) -> Result<toml::Table, String> {
    let size = std::fs::metadata(path).map_err(|error| format!("--config: {error}"))?.len();
    if size > MAX_FILE {
        return Err(format!("--config: {size} bytes; want a TOML file of at most {MAX_FILE} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("--config: {error}"))?;
    text.parse::<toml::Table>().map_err(|error| {
        let upto = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let message = error.message().replace('\n', " ");
        format!("line {}: {message}", upto.matches('\n').count() + 1)
    })
}

/// Long name of the option a key stands for: flag or alias, with `-` or `_`.
fn option_of(sub: &Command, key: &str) -> Option<String> {
    let flag = key.replace('_', "-");
    if flag == "config" || NOT_LAYERED.contains(&flag.as_str()) {
        return None;
    }
    let arg = sub.get_arguments().find(|arg| names(arg).contains(&flag))?;
    arg.get_long().map(str::to_owned)
}

/// `; did you mean "x"?` where a known key is near.
fn closest(sub: &Command, key: &str) -> String {
    let flag = key.replace('_', "-");
    let known = sub.get_arguments().flat_map(names).filter(|name| !NOT_LAYERED.contains(&name.as_str()));
    let near = known.map(|name| (strsim::jaro_winkler(&name, &flag), name));
    match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((score, name)) if score > 0.7 => format!("; did you mean \"{name}\"?"),
        _ => "; want the name of a flag without its dashes".to_owned(),
    }
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

fn parse(command: Command, argv: Vec<OsString>, layers: &Layers) -> Result<ArgMatches, Exit> {
    let shown = argv.clone();
    command.try_get_matches_from(argv).map_err(|error| one_line(&error, layers, &shown))
}

/// The value of each option and where it came from.
fn effective(sub: &Command, found: &ArgMatches, layers: &Layers) -> Vec<Effective> {
    let shown = sub.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    let shown = shown.filter(|(_, long)| *long != "config" && !NOT_LAYERED.contains(long));
    let shown = shown.map(|(arg, long)| {
        let id = arg.get_id().as_str();
        let raw = found.get_raw(id).map(|values| {
            values.map(|value| value.to_string_lossy().into_owned()).collect::<Vec<_>>().join(",")
        });
        let value = match found.try_get_one::<bool>(id) {
            Ok(Some(yes)) => Some(yes.to_string()),
            _ => raw,
        };
        let origin = match (found.value_source(id), layers.found.get(long)) {
            (Some(ValueSource::CommandLine), _) => Origin::Flag,
            (_, Some(found)) => found.origin.clone(),
            _ => Origin::Default,
        };
        let heading = arg.get_help_heading().unwrap_or("Options").to_owned();
        Effective { option: long.to_owned(), heading, value, origin, hidden: arg.is_hide_set() }
    });
    shown.collect()
}

/// A warning for each flag of the Go stack that was set and does nothing; an error where it must not be ignored.
fn ignored_flags(role: &str, effective: &[Effective]) -> Result<Vec<String>, Exit> {
    let mut warnings = Vec::new();
    for option in effective.iter().filter(|option| option.hidden && option.origin != Origin::Default) {
        let Some(go) = go_flags(role).find(|go| go.flag == option.option) else { continue };
        if option.value.as_deref().unwrap_or_default() == go.default {
            continue;
        }
        let given = format!("--{}={} ({})", go.flag, option.shown().unwrap_or_default(), option.origin);
        if go.refused {
            let line = format!("oncecast {role}: {given} is not implemented; want \"{}\"\n", go.default);
            return Err(Exit::usage(line));
        }
        warnings.push(match go.unwise {
            "" => format!("{given} is accepted for compatibility, not implemented yet: it has no effect"),
            why => format!("{given} is accepted for compatibility and has no effect on purpose: {why}"),
        });
    }
    Ok(warnings)
}

/// An error of clap as one line: command, option, value, origin, what is accepted.
fn one_line(error: &clap::Error, layers: &Layers, argv: &[OsString]) -> Exit {
    let rendered = error.render().to_string();
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Exit { code: 0, text: rendered };
    }
    let texts = |kind: ContextKind| match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    };
    let text = |kind: ContextKind| texts(kind).join(", ");
    let option = texts(ContextKind::InvalidArg);
    let option =
        option.first().and_then(|arg| arg.split([' ', '=', '[']).next()).unwrap_or_default().to_owned();
    let given = masked(option.trim_start_matches('-'), &text(ContextKind::InvalidValue)).0;
    let value = format!("\"{}\"{}", printable(&given), origin(&option, layers, argv));
    let line = match error.kind() {
        ErrorKind::InvalidValue if given.is_empty() => {
            format!("{option}: a value is missing{}", accepted(error))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            format!("{option}: {value} is not accepted{}", accepted(error))
        }
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            match texts(ContextKind::SuggestedArg).first() {
                Some(near) => format!("unknown option {option}; did you mean {near}?"),
                None => format!("unknown option {option}; --help lists what is accepted"),
            }
        }
        ErrorKind::UnknownArgument => {
            format!("unexpected argument \"{}\"; options are --name=value", printable(&option))
        }
        ErrorKind::InvalidSubcommand => {
            let near = text(ContextKind::SuggestedSubcommand);
            let hint = if near.is_empty() {
                "--help lists them".to_owned()
            } else {
                format!("did you mean {near}?")
            };
            format!("unknown command \"{}\"; {hint}", printable(&text(ContextKind::InvalidSubcommand)))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a command is missing; oncecast --help lists them".to_owned()
        }
        ErrorKind::MissingRequiredArgument => {
            format!("required and not given: {}", text(ContextKind::InvalidArg))
        }
        ErrorKind::ArgumentConflict => {
            format!("{option} cannot be combined with {}", text(ContextKind::PriorArg))
        }
        _ => first_line(&rendered),
    };
    let command = argv.get(1).and_then(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-'));
    let command = match error.kind() {
        ErrorKind::InvalidSubcommand => String::new(),
        _ => command.map(|name| format!(" {name}")).unwrap_or_default(),
    };
    Exit::usage(format!("oncecast{command}: {line}\n"))
}

/// ` (environment X)` where a value did not come from the command line.
fn origin(option: &str, layers: &Layers, argv: &[OsString]) -> String {
    let on_command_line = argv
        .iter()
        .filter_map(|arg| arg.to_str())
        .any(|arg| arg == option || arg.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')));
    match layers.found.get(option.trim_start_matches('-')) {
        Some(found) if !on_command_line => format!(" ({})", found.origin),
        _ => String::new(),
    }
}

/// `; want …` from the words of the parser that refused.
fn accepted(error: &clap::Error) -> String {
    let choices = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(choices)) => choices.clone(),
        _ => Vec::new(),
    };
    if !choices.is_empty() {
        return format!("; want {}", choices.join(", "));
    }
    let Some(source) = error.source() else { return "; see --help".to_owned() };
    match source.to_string().as_str() {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "; want a whole number".to_owned()
        }
        "number too large to fit in target type" | "number too small to fit in target type" => {
            "; want a smaller whole number, not negative".to_owned()
        }
        "invalid float literal" => "; want a number".to_owned(),
        "value was not a boolean" => "; want true or false".to_owned(),
        range if range.contains(" is not in ") => {
            let range = range.rsplit(" is not in ").next().unwrap_or_default();
            format!("; want {}", range.replace("..=", " to "))
        }
        other => format!("; {}", first_line(other)),
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).trim().to_owned()
}

/// The text without characters that would break the line or the terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{BackendArgs, FabricArgs, HostPorts};
    use super::*;
    use clap::{Parser, Subcommand};

    #[derive(Parser, Debug)]
    #[command(name = "oncecast", version = "1.2.3")]
    struct Cli {
        #[command(subcommand)]
        command: Cmd,
    }

    #[derive(Subcommand, Debug)]
    enum Cmd {
        Proxy(Box<Proxy>),
        Listener(Listener),
        /// Not a role.
        Send {
            #[arg(long, default_value_t = 1)]
            count: u32,
        },
    }

    #[derive(Args, Debug, Clone)]
    struct Proxy {
        #[command(flatten)]
        fabric: FabricArgs,
        #[command(flatten)]
        backend: BackendArgs,
        #[arg(long, env = "NUM_WORKERS", default_value_t = 4)]
        workers: u16,
        #[arg(long, action = ArgAction::Set, default_value_t = true)]
        stamp_source: bool,
        #[arg(long)]
        require_ef: bool,
        #[arg(long)]
        peers: Option<HostPorts>,
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
    }

    #[derive(Args, Debug, Clone)]
    struct Listener {
        #[arg(long, default_value = "udp", value_parser = ["udp", "tcp"])]
        egress_proto: String,
    }

    const ROLES: &[Role] = &[
        Role {
            name: "proxy",
            aliases: &[
                Alias { option: "redis-addr", flag: "txid-dedup-redis-addr", env: "TXID_DEDUP_REDIS_ADDR" },
                Alias { option: "no-such-option", flag: "x", env: "X" },
            ],
            defaults: &[("metrics-addr", ":9100")],
        },
        Role { name: "listener", aliases: &[], defaults: &[("metrics-addr", ":9200")] },
    ];

    fn load_with(args: &[&str], env: &[(&str, &str)]) -> Result<(Cmd, RoleLoaded), Exit> {
        let argv = std::iter::once("oncecast").chain(args.iter().copied()).map(OsString::from);
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
        let loaded = load(<Cli as clap::CommandFactory>::command(), ROLES, argv, &env)?;
        Ok((Cli::from_arg_matches(&loaded.matches).unwrap().command, loaded.role.unwrap()))
    }

    fn proxy(args: &[&str], env: &[(&str, &str)]) -> (Proxy, RoleLoaded) {
        let args: Vec<_> = std::iter::once("proxy").chain(args.iter().copied()).collect();
        match load_with(&args, env) {
            Ok((Cmd::Proxy(proxy), role)) => (*proxy, role),
            other => panic!("{other:?}"),
        }
    }

    fn refusal(args: &[&str], env: &[(&str, &str)]) -> String {
        let exit = load_with(args, env).unwrap_err();
        assert_eq!(exit.code, EXIT_USAGE);
        assert_eq!(exit.text.lines().count(), 1, "{}", exit.text);
        exit.text.trim_end().to_owned()
    }

    struct File(std::path::PathBuf);
    impl File {
        fn new(name: &str, text: &str) -> File {
            let path = std::env::temp_dir().join(format!("oncecast-{}-{name}.toml", std::process::id()));
            std::fs::write(&path, text).unwrap();
            File(path)
        }
        fn flag(&self) -> String {
            format!("--config={}", self.0.display())
        }
    }
    impl Drop for File {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn the_declared_parser_is_sound() {
        decorate(<Cli as clap::CommandFactory>::command(), ROLES).debug_assert();
    }

    #[test]
    fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
        let file = File::new(
            "layers",
            "shard-bits = 3\nworkers = 7\nscope = \"org\"\n[proxy]\nworkers = 8\n[listener]\negress_proto = \"tcp\"\n",
        );
        let (config, role) =
            proxy(&[&file.flag(), "--shard-bits=5"], &[("SHARD_BITS", "4"), ("MC_SCOPE", "link")]);
        assert_eq!(config.fabric.shard_bits, 5);
        assert_eq!(config.fabric.scope, crate::config::ScopeArg::Link);
        assert_eq!(config.workers, 8);
        assert_eq!(config.fabric.mc_group_id, 11);
        let origin =
            |option: &str| role.effective.iter().find(|o| o.option == option).unwrap().origin.to_string();
        assert_eq!(origin("shard-bits"), "flag");
        assert_eq!(origin("scope"), "environment MC_SCOPE");
        assert_eq!(origin("workers"), format!("file {}", file.0.display()));
        assert_eq!(origin("mc-group-id"), "default");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let (config, _) = proxy(&[], &[("NUM_WORKERS", ""), ("SHARD_BITS", "")]);
        assert_eq!((config.workers, config.fabric.shard_bits), (4, 2));
    }

    #[test]
    fn an_empty_text_leaves_an_option_without_default_unset() {
        let (config, _) =
            proxy(&["-bind-source=", "-txid-dedup-redis-addr", "", "-peers="], &[("REDIS_ADDR", "h:1")]);
        assert!(
            config.fabric.bind_source.is_none()
                && config.backend.redis_addr.is_none()
                && config.peers.is_none()
        );
        let file = File::new("empty", "bind-source = \"\"");
        assert!(proxy(&[&file.flag()], &[]).0.fabric.bind_source.is_none());
        assert!(refusal(&["proxy", "--workers="], &[]).contains("--workers"));
    }

    #[test]
    fn a_flag_that_must_not_be_ignored_is_refused() {
        let line = refusal(&["listener", "-mode=receiver"], &[]);
        assert_eq!(line, "oncecast listener: --mode=receiver (flag) is not implemented; want \"collapsed\"");
        assert!(load_with(&["listener", "-mode=collapsed", "-delivery-addrs="], &[]).is_ok());
    }

    #[test]
    fn a_flag_that_will_not_be_built_says_why() {
        let (_, role) = load_with(&["listener", "-ingress-set-local-cap=5"], &[]).unwrap();
        let warnings = role.warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("on purpose") && warnings[0].contains("--egress-dedup-local-cap"),
            "{warnings:?}"
        );
    }

    #[test]
    fn switches_stand_alone_or_take_a_value_in_every_layer() {
        let (config, _) = proxy(&["--require-ef", "--stamp-source=false"], &[("EGRESS_MULTICAST_LOOP", "1")]);
        assert!(config.require_ef && !config.stamp_source && config.fabric.egress_loop);
        let (config, _) = proxy(&["-require-ef=false", "-stamp-source"], &[("REQUIRE_EF", "true")]);
        assert!(!config.require_ef && config.stamp_source);
        let file = File::new("switches", "require-ef = true\nstamp_source = false\n");
        let (config, _) = proxy(&[&file.flag()], &[]);
        assert!(config.require_ef && !config.stamp_source);
    }

    #[test]
    fn go_spelling_and_go_names_are_accepted() {
        let (config, role) =
            proxy(&["-shard-bits", "3", "-debug", "-txid-dedup-redis-addr=h:1", "-iface=a,b"], &[]);
        assert_eq!(config.fabric.shard_bits, 3);
        assert_eq!(config.fabric.iface.0, ["a", "b"]);
        assert_eq!(config.backend.redis_addr.unwrap().0, ["h:1"]);
        assert!(role.common.debug);
        assert_eq!(role.common.metrics_addr.unwrap().to_string(), "[::]:9100");
        let (config, _) = proxy(&[], &[("TXID_DEDUP_REDIS_ADDR", "old:1"), ("REDIS_ADDR", "new:1")]);
        assert_eq!(config.backend.redis_addr.unwrap().0, ["new:1"]);
    }

    #[test]
    fn lists_come_from_every_layer() {
        let file = File::new("lists", "peers = [\"a:1\", \"b:2\"]\ntags = [\"x\", \"y\"]\n");
        let (config, _) = proxy(&[&file.flag()], &[]);
        assert_eq!(config.peers.unwrap().to_string(), "a:1,b:2");
        assert_eq!(config.tags, ["x", "y"]);
        let (config, _) = proxy(&["--tags=p"], &[("TAGS", "q, r")]);
        assert_eq!(config.tags, ["p"]);
        let (config, _) = proxy(&[], &[("TAGS", "q, r")]);
        assert_eq!(config.tags, ["q", "r"]);
    }

    #[test]
    fn flags_without_effect_are_said_aloud_unless_they_ask_for_the_default() {
        let (_, role) = proxy(&["-coalesce=false", "--otlp-interval=30s"], &[("OTLP_ENDPOINT", "")]);
        assert!(role.warnings.is_empty(), "{:?}", role.warnings);
        let (_, role) = proxy(&["-coalesce", "-beef-listen-port", "8728"], &[("OTLP_ENDPOINT", "c:4317")]);
        assert_eq!(role.warnings.len(), 3);
        assert!(
            role.warnings
                .iter()
                .any(|line| line.starts_with("--otlp-endpoint=c:4317 (environment OTLP_ENDPOINT)"))
        );
        let text = super::super::print::toml_text("proxy", &role.effective);
        assert!(text.contains("coalesce = true # flag"), "{text}");
        assert!(!text.contains("otlp-interval"), "{text}");
    }

    #[test]
    fn a_wrong_value_names_option_value_origin_and_what_is_accepted() {
        assert_eq!(
            refusal(&["proxy", "--shard-bits=16"], &[]),
            "oncecast proxy: --shard-bits: \"16\" is not accepted; want 0 to 15"
        );
        assert_eq!(
            refusal(&["proxy"], &[("NUM_WORKERS", "eight")]),
            "oncecast proxy: --workers: \"eight\" (environment NUM_WORKERS) is not accepted; want a whole number"
        );
        assert_eq!(
            refusal(&["proxy", "--scope=here"], &[]),
            "oncecast proxy: --scope: \"here\" is not accepted; want link, site, org, global"
        );
        assert!(refusal(&["proxy", "-drain-timeout=5"], &[]).contains("want a duration with its unit"));
        assert!(refusal(&["proxy", "--require-ef=maybe"], &[]).ends_with("want true or false"));
        assert!(refusal(&["proxy", "--shard-bits"], &[]).contains("a value is missing"));
        assert!(!refusal(&["proxy", "--redis-addr=x://u:hunter2@h"], &[]).contains("hunter2"));
        let two_halves = refusal(&["proxy", "--redis-addr=redis://u:hun,ter2@h:1"], &[]);
        assert!(!two_halves.contains("hun") && !two_halves.contains("ter2"), "{two_halves}");
        for wrong in
            ["redis://bad:port:x", "rediss://h:0", "redis://h/x", "unix://relative", "http://h", "host"]
        {
            let flag = format!("--redis-addr={wrong}");
            let go = format!("-txid-dedup-redis-addr={wrong}");
            for refused in [refusal(&["proxy", &flag], &[]), refusal(&["proxy", &go], &[])] {
                assert!(refused.contains("redis-addr: ") && refused.contains(wrong), "{refused}");
                assert!(refused.contains("want host:port, redis://"), "{refused}");
            }
            let refused = refusal(&["proxy"], &[("REDIS_ADDR", wrong)]);
            assert!(refused.contains("(environment REDIS_ADDR)") && refused.contains(wrong), "{refused}");
        }
        assert!(!refusal(&["proxy", "--scope=a\nb"], &[]).contains('\n'));
    }

    #[test]
    fn unknown_options_and_commands_are_one_line_with_the_nearest_name() {
        assert_eq!(
            refusal(&["proxy", "-shard-bit=3"], &[]),
            "oncecast proxy: unknown option --shard-bit; did you mean --shard-bits?"
        );
        assert_eq!(refusal(&["prxy"], &[]), "oncecast: unknown command \"prxy\"; did you mean proxy?");
        assert!(refusal(&[], &[]).starts_with("oncecast: a command is missing"));
        assert!(refusal(&["proxy", "stray"], &[]).contains("unexpected argument \"stray\""));
    }

    #[test]
    fn the_file_is_checked_strictly() {
        let refused = |name: &str, text: &str| {
            let file = File::new(name, text);
            let line = refusal(&["proxy", &file.flag()], &[]);
            assert!(line.contains(&file.0.display().to_string()), "{line}");
            line
        };
        assert!(
            refused("key", "shard-bitz = 3")
                .ends_with("unknown key \"shard-bitz\"; did you mean \"shard-bits\"?")
        );
        assert!(
            refused("table", "[prxy]\nx = 1").ends_with("unknown table [prxy]; want [proxy], [listener]")
        );
        assert!(refused("other", "egress-proto = \"udp\"").ends_with("it belongs under [listener]"));
        assert!(
            refused("inner", "[listener]\negress-prot = \"udp\"").contains("did you mean \"egress-proto\"")
        );
        assert!(
            refused("twice", "shard-bits = 1\nshard_bits = 2").contains("are the same option --shard-bits")
        );
        assert!(refused("syntax", "shard-bits = 1\nworkers = = 2").contains("line 2: "));
        assert!(refused("type", "workers = 2020-01-01").contains("key \"workers\": want a string"));
        assert!(refused("check", "check = true").contains("unknown key"));
        assert!(refused("value", "workers = \"many\"").contains("\"many\" (file "));
        assert!(refusal(&["proxy", "--config=/no/such/file"], &[]).contains("No such file"));
    }

    #[test]
    fn the_file_may_be_named_by_the_environment() {
        let file = File::new("env", "workers = 9");
        let (config, _) = proxy(&[], &[("ONCECAST_CONFIG", file.0.to_str().unwrap())]);
        assert_eq!(config.workers, 9);
    }

    #[test]
    fn what_is_printed_loads_to_the_same_configuration() {
        let args = ["--iface=a,b", "--tags=x,y", "--require-ef", "--drain-timeout=1m30s", "--peers=[::1]:1"];
        let (_, first) = proxy(&args, &[]);
        let file = File::new("round", &super::super::print::toml_text("proxy", &first.effective));
        let (_, second) = proxy(&[&file.flag()], &[]);
        let values = |role: &RoleLoaded| {
            role.effective.iter().map(|o| (o.option.clone(), o.value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(values(&first), values(&second));
    }

    #[test]
    fn help_and_version_are_no_errors_and_name_the_variables() {
        let exit = load_with(&["proxy", "--help"], &[("NUM_WORKERS", "eight")]);
        let exit = exit.unwrap_err();
        assert_eq!(exit.code, 0);
        assert!(exit.text.contains("[env: NUM_WORKERS]"), "{}", exit.text);
        assert!(exit.text.contains("--require-ef[=<true|false>]"), "{}", exit.text);
        assert!(exit.text.contains("Fabric:"), "{}", exit.text);
        assert_eq!(
            load_with(&["--version"], &[]).unwrap_err(),
            Exit { code: 0, text: "oncecast 1.2.3\n".to_owned() }
        );
    }

    #[test]
    fn commands_that_are_no_roles_are_parsed_as_they_are() {
        let argv = ["oncecast", "send", "--count", "3"].map(OsString::from);
        let env = [("COUNT".to_owned(), OsString::from("9"))].into_iter().collect();
        let loaded = load(<Cli as clap::CommandFactory>::command(), ROLES, argv, &env).unwrap();
        assert!(loaded.role.is_none());
        assert!(matches!(Cli::from_arg_matches(&loaded.matches).unwrap().command, Cmd::Send { count: 3 }));
    }
}
