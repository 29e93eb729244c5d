//! Errors of clap as one line: command, option, value, origin, what is accepted.

use super::exit::Exit;
use super::layers::Layers;
use super::secret::masked;
use super::values::Unacceptable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;
use std::ffi::OsString;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};

/// How the process ends where clap did not parse `argv`.
pub(super) fn exit(error: &clap::Error, layers: &Layers, argv: &[OsString]) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Exit { code: 0, text: error.render().to_string() };
    }
    let command = argv.get(1).and_then(|arg| arg.to_str()).filter(|arg| !arg.starts_with('-'));
    let command = command.filter(|_| error.kind() != ErrorKind::InvalidSubcommand);
    Exit::usage(command.unwrap_or_default(), problem(error, layers, argv))
}

/// What is wrong, without the command.
fn problem(error: &clap::Error, layers: &Layers, argv: &[OsString]) -> String {
    let first = texts(error, ContextKind::InvalidArg);
    let option =
        first.first().and_then(|arg| arg.split([' ', '=', '[']).next()).unwrap_or_default().to_owned();
    let given = masked(option.trim_start_matches('-'), &text(error, ContextKind::InvalidValue)).0;
    let value = format!("\"{}\"{}", printable(&given), origin(&option, layers, argv));
    match error.kind() {
        ErrorKind::InvalidValue if given.is_empty() => {
            format!("{option}: a value is missing{}", accepted(error))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            format!("{option}: {value} is not accepted{}", accepted(error))
        }
        ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => format!("{option}: a value is missing"),
        ErrorKind::TooManyValues => format!("{option}: {value} is one value too many"),
        ErrorKind::NoEquals => format!("{option}: want {option}=VALUE"),
        ErrorKind::UnknownArgument if option.starts_with('-') => {
            match texts(error, ContextKind::SuggestedArg).first() {
                Some(near) => format!("unknown option {option}; did you mean {near}?"),
                None => format!("unknown option {option}; --help lists what is accepted"),
            }
        }
        ErrorKind::UnknownArgument => {
            format!("unexpected argument \"{}\"; options are --name=value", printable(&option))
        }
        ErrorKind::InvalidSubcommand => unknown_command(error),
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            "a command is missing; oncecast --help lists them".to_owned()
        }
        ErrorKind::MissingRequiredArgument => {
            format!("required and not given: {}", text(error, ContextKind::InvalidArg))
        }
        ErrorKind::ArgumentConflict => {
            format!("{option} cannot be combined with {}", text(error, ContextKind::PriorArg))
        }
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
        other => other.as_str().unwrap_or("this command line is not accepted; see --help").to_owned(),
    }
}

fn unknown_command(error: &clap::Error) -> String {
    let near = text(error, ContextKind::SuggestedSubcommand);
    let hint = if near.is_empty() { "--help lists them".to_owned() } else { format!("did you mean {near}?") };
    format!("unknown command \"{}\"; {hint}", printable(&text(error, ContextKind::InvalidSubcommand)))
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => vec![text.clone()],
        Some(ContextValue::Strings(texts)) => texts.clone(),
        Some(ContextValue::StyledStrs(texts)) => texts.iter().map(ToString::to_string).collect(),
        _ => Vec::new(),
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    texts(error, kind).join(", ")
}

/// ` (environment X)` where a value did not come from the command line.
fn origin(option: &str, layers: &Layers, argv: &[OsString]) -> String {
    let on_command_line = argv
        .iter()
        .filter_map(|arg| arg.to_str())
        .any(|arg| arg == option || arg.strip_prefix(option).is_some_and(|rest| rest.starts_with('=')));
    match layers.found(option.trim_start_matches('-')) {
        Some(found) if !on_command_line => format!(" ({})", found.origin),
        _ => String::new(),
    }
}

/// `; want …`: the choices of the option, or what the parser that refused says in its own type.
fn accepted(error: &clap::Error) -> String {
    if let Some(ContextValue::Strings(choices)) = error.get(ContextKind::ValidValue)
        && !choices.is_empty()
    {
        return format!("; want {}", choices.join(", "));
    }
    let Some(source) = error.source() else { return "; see --help".to_owned() };
    if let Some(Unacceptable(accepted)) = source.downcast_ref() {
        return format!("; want {}", one_line(accepted));
    }
    if let Some(error) = source.downcast_ref::<ParseIntError>() {
        return match error.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => {
                "; want a smaller whole number, not negative"
            }
            _ => "; want a whole number",
        }
        .to_owned();
    }
    if source.is::<ParseFloatError>() {
        return "; want a number".to_owned();
    }
    format!("; {}", one_line(&source.to_string()))
}

/// The first line that says something.
fn one_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// The text without characters that would break the line or the terminal.
fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
