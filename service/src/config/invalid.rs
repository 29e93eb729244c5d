//! Options that are each fine and cannot work together.

use std::borrow::Cow;

/// A combination of options that cannot work. A role's `start` that returns it (inside `anyhow::Error`) makes the
/// process exit with code 2, like any other usage error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{option}: {problem}")]
pub struct Invalid {
    /// Long name of the option to change.
    pub option: Cow<'static, str>,
    /// What is wrong, with the value, and what is accepted.
    pub problem: String,
}

impl Invalid {
    /// See the fields.
    pub fn new(option: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> Invalid {
        Invalid { option: option.into(), problem: problem.into() }
    }
}

/// An error about `option` where `holds` is false.
///
/// # Errors
/// As said.
pub fn demand(holds: bool, option: &'static str, problem: impl Into<String>) -> Result<(), Invalid> {
    if holds { Ok(()) } else { Err(Invalid::new(option, problem)) }
}
