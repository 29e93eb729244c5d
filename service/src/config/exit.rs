//! The end of a process that only parsed its command line.

/// Exit code of a usage error.
pub const EXIT_USAGE: u8 = 2;

/// The process ends here: help, version, or an error of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code: 0 or 2.
    pub code: u8,
    /// What to print: to stdout with code 0, else to stderr.
    pub text: String,
}

impl Exit {
    /// A usage error: what is wrong with the command line of `command` (empty: of the program), in one line.
    pub(super) fn usage(command: &str, problem: impl std::fmt::Display) -> Exit {
        let blank = if command.is_empty() { "" } else { " " };
        Exit { code: EXIT_USAGE, text: format!("oncecast{blank}{command}: {problem}\n") }
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
