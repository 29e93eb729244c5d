//! The effective configuration, as TOML and as JSON, without secrets.
//!
//! What is printed can be loaded again: values are TOML, everything else is a comment.

use super::effective::{Effective, Origin};
use super::secret::masked;
use std::fmt::Write;

/// TOML text of a role's configuration, each value with its origin.
pub fn toml_text(role: &str, effective: &[Effective]) -> String {
    let mut text = format!("# Effective configuration of oncecast {role}.\n");
    let mut heading = "";
    // Ignored options are shown only where somebody set them.
    for option in effective.iter().filter(|option| !option.hidden || option.origin != Origin::Default) {
        if option.heading != heading {
            heading = &option.heading;
            let _ = write!(text, "\n# {heading}\n");
        }
        let name = &option.option;
        let _ = match &option.value {
            None => writeln!(text, "# {name} is not set"),
            Some(value) => match masked(name, value) {
                (shown, true) => {
                    let shown = shown.replace(char::is_control, " ");
                    writeln!(text, "# {name} = {} # {}", literal(&shown), option.origin)
                }
                (shown, false) => writeln!(text, "{name} = {} # {}", literal(&shown), option.origin),
            },
        };
    }
    text
}

/// The same for `/status`.
pub fn json(effective: &[Effective]) -> serde_json::Value {
    let set = effective.iter().filter(|option| !option.hidden || option.origin != Origin::Default);
    let set = set.filter_map(|option| {
        let entry = serde_json::json!({ "value": option.shown()?, "origin": option.origin.to_string() });
        Some((option.option.clone(), entry))
    });
    set.collect::<serde_json::Map<_, _>>().into()
}

/// A value as TOML: whole numbers and switches bare, the rest quoted.
fn literal(value: &str) -> String {
    match value.parse::<i64>() {
        Ok(number) if number.to_string() == value => value.to_owned(),
        _ if value == "true" || value == "false" => value.to_owned(),
        _ => toml::Value::from(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_toml() {
        let option = |option: &str, value: Option<&str>| Effective {
            option: option.to_owned(),
            heading: "H".to_owned(),
            value: value.map(str::to_owned),
            origin: Origin::File("a\"b".to_owned()),
            hidden: false,
        };
        let all = [
            option("n", Some("007")),
            option("i", Some("7")),
            option("b", Some("true")),
            option("s", Some("a\"b\nc")),
            option("unset", None),
            option("x-key", Some("k\ny")),
            option("u", Some("redis://u:p@h\ny = 1")),
        ];
        let text = toml_text("proxy", &all);
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["n"].as_str(), Some("007"));
        assert_eq!(table["i"].as_integer(), Some(7));
        assert_eq!(table["s"].as_str(), Some("a\"b\nc"));
        assert_eq!(table.len(), 4);
        assert!(!text.contains("u:p@"));
    }
}
