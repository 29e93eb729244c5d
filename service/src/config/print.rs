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
    let moved = Moved::of(effective);
    // Ignored options are shown only where somebody set them.
    for option in effective.iter().filter(|option| !option.hidden || option.origin != Origin::Default) {
        if option.heading != heading {
            heading = &option.heading;
            let _ = write!(text, "\n# {heading}\n");
        }
        let name = &option.option;
        if let Some(lines) = moved.as_ref().and_then(|moved| moved.lines(name)) {
            text.push_str(&lines);
        }
        let _ = match &option.value {
            None if moved.as_ref().is_some_and(|moved| moved.stands_for(name)) => Ok(()),
            None => writeln!(text, "# {name} is not set"),
            Some(value) => match masked(name, value) {
                // Loading it is refused until somebody writes the password in: a store must not get lost in silence.
                (shown, true) if name.ends_with("redis-addr") && moved.is_none() => {
                    writeln!(text, "{name} = {} # {}", literal(&shown), option.origin)
                }
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

/// `redis-addr` with a password, said by options that may be printed: the address without it, the user, and a file. (A
/// Sentinel's own password has no other place than its address.)
struct Moved {
    address: String,
    user: Option<String>,
    /// User and password came from the address, not from options of their own.
    credential: bool,
}

impl Moved {
    fn of(effective: &[Effective]) -> Option<Moved> {
        let value = |name: &str| effective.iter().find(|option| option.option == name)?.value.as_deref();
        let given = value("redis-addr").filter(|address| masked("redis-addr", address).1)?;
        if value("redis-topology") == Some("sentinel") {
            return None;
        }
        let bare = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            _ => url.to_owned(),
        };
        // As the store does: the first that is given counts for all.
        let credential = given.split(',').find_map(|url| Some(url.split_once("://")?.1.rsplit_once('@')?.0));
        let user = credential.and_then(|credential| credential.split_once(':')).map(|(user, _)| user);
        let user = user.filter(|user| !user.is_empty());
        Some(Moved {
            address: given.split(',').map(bare).collect::<Vec<_>>().join(","),
            user: user
                .map(|user| percent_encoding::percent_decode_str(user).decode_utf8_lossy().into_owned()),
            credential: value("redis-user").is_none() && value("redis-password-file").is_none(),
        })
    }

    /// What is printed before the line of an option.
    fn lines(&self, name: &str) -> Option<String> {
        match name {
            "redis-addr" => Some(format!("redis-addr = {}\n", literal(&self.address))),
            "redis-user" if self.credential => {
                Some(format!("redis-user = {} # redis-addr\n", literal(self.user.as_ref()?)))
            }
            "redis-password-file" if self.credential => Some(
                "# The password in redis-addr is not shown. Write it into this file and name it here (--redis-password-file), or set \
                 REDIS_PASSWORD\n# and take the line out.\nredis-password-file = \"/path/to/redis-password\"\n"
                    .to_owned(),
            ),
            _ => None,
        }
    }

    /// Whether those lines take the place of the option's own.
    fn stands_for(&self, name: &str) -> bool {
        self.lines(name).is_some()
    }
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
