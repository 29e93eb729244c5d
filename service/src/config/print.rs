//! The effective configuration, as TOML and as JSON, without secrets.
//!
//! What is printed can be loaded again: values are TOML, everything else is a comment. A secret is an option whose name says
//! so (`…-password`, `…-secret`, `…-token`, `…-key`); a file that holds one is not. User and password inside a URL are
//! hidden in every option.

use super::layers::Origin;
use std::fmt::Write;

const HIDDEN: &str = "(hidden)";

/// One option: its value and where that came from.
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

/// Whether an option of that name holds a secret itself.
fn is_secret(option: &str) -> bool {
    // Names a flow, as bytes 40-47 of its frames do.
    if option == "hash-key" {
        return false;
    }
    let last = option.rsplit('-').next().unwrap_or_default();
    matches!(last, "password" | "passphrase" | "secret" | "token" | "key")
}

/// The value to show, and whether something was hidden.
pub(super) fn masked(option: &str, value: &str) -> (String, bool) {
    if is_secret(option) && !value.is_empty() {
        return (HIDDEN.to_owned(), true);
    }
    let Some((_, after)) = value.split_once("://") else {
        // An address of a store is either a URL or has no user: somebody left the scheme out.
        let of_store = option.ends_with("redis-addr") || option.ends_with("aerospike-hosts");
        return match value.contains('@') && of_store {
            true => (HIDDEN.to_owned(), true),
            false => (value.to_owned(), false),
        };
    };
    if !after.contains('@') {
        return (value.to_owned(), false);
    }
    // A password may hold a comma: a part with an `@` must be a whole URL, else nothing of the value is shown.
    let parts: Option<Vec<String>> = value.split(',').map(mask_url).collect();
    (parts.map_or_else(|| HIDDEN.to_owned(), |parts| parts.join(",")), true)
}

/// A URL without user and password; `None` where it cannot be told what is what.
fn mask_url(part: &str) -> Option<String> {
    match (part.split_once("://"), part.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => Some(format!("{scheme}://{HIDDEN}@{host}")),
        (Some(_), None) => Some(part.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some(part.to_owned()),
    }
}

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
    fn secrets_are_hidden_by_name_and_inside_urls() {
        let hidden = |option: &str, value: &str| masked(option, value).0;
        assert_eq!(hidden("api-token", "abc"), "(hidden)");
        assert_eq!(hidden("redis-password-file", "/run/secret"), "/run/secret");
        assert_eq!(hidden("redis-addr", "redis://u:p@h:1"), "redis://(hidden)@h:1");
        assert_eq!(
            hidden("redis-addr", "redis://h:1,rediss://u:p@q@h:2"),
            "redis://h:1,rediss://(hidden)@h:2"
        );
        assert_eq!(hidden("redis-addr", "redis://u:p,q@h:1"), "(hidden)");
        assert_eq!(hidden("redis-addr", "h:1,h:2"), "h:1,h:2");
        assert_eq!(hidden("txid-dedup-redis-addr", "u:p@h:1"), "(hidden)");
        assert_eq!(hidden("state-dir", "/var/a@b"), "/var/a@b");
    }

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
