//! Parsers of plain values, with errors of their own type: what is accepted can be told without reading the words of
//! another crate.

use super::values::Unacceptable;
use clap::builder::{BoolishValueParser, PossibleValue, StringValueParser, TypedValueParser};
use std::ffi::OsStr;

pub use option_values::{Whole, whole, within};

/// A yes-or-no value: `true`, `yes`, `on`, `1` and their opposites, in any case.
#[derive(Clone, Copy, Debug)]
pub struct YesOrNo;

impl YesOrNo {
    const YES: [&str; 6] = ["y", "yes", "t", "true", "on", "1"];
    const NO: [&str; 6] = ["n", "no", "f", "false", "off", "0"];

    fn judge(text: &str) -> Result<bool, Unacceptable> {
        let is_in = |words: [&str; 6]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
        match (is_in(YesOrNo::YES), is_in(YesOrNo::NO)) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err(Unacceptable("true or false".to_owned())),
        }
    }
}

impl TypedValueParser for YesOrNo {
    type Value = bool;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<bool, clap::Error> {
        StringValueParser::new().try_map(|text| YesOrNo::judge(&text)).parse_ref(command, arg, value)
    }

    /// For completions.
    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        // The temporary parser does not live long enough.
        let values: Vec<_> = BoolishValueParser::new().possible_values()?.collect();
        Some(Box::new(values.into_iter()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yes_and_no_have_many_words() {
        assert_eq!(YesOrNo::judge("On"), Ok(true));
        assert_eq!(YesOrNo::judge("0"), Ok(false));
        assert_eq!(YesOrNo::judge("maybe").unwrap_err().to_string(), "want true or false");
    }
}
