//! An option with its value and where that came from.

use super::secret::masked;
use std::fmt;

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

/// One option of the effective configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Long name.
    pub option: String,
    /// Heading in the help.
    pub heading: String,
    /// As text; `None` where nothing is set.
    pub value: Option<String>,
    /// Which layer gave the value.
    pub origin: Origin,
    /// An option of the Go stack that has no effect.
    pub hidden: bool,
}

impl Effective {
    /// The value with secrets hidden.
    pub fn shown(&self) -> Option<String> {
        self.value.as_deref().map(|value| masked(&self.option, value).0)
    }
}
