use crate::{Unacceptable, display_joined, parts};
use std::fmt;
use std::str::FromStr;

/// What stands for what is not shown.
pub const HIDDEN: &str = "(hidden)";

/// A comma separated list of names (interfaces, addresses). User and password of a URL among them are not in its `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Names(pub Vec<String>);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.to_string();
        f.debug_tuple("Names").field(&hide_credentials(&text).unwrap_or(text)).finish()
    }
}

impl FromStr for Names {
    type Err = Unacceptable;

    fn from_str(text: &str) -> Result<Names, Unacceptable> {
        Ok(Names(parts(text).map(str::to_owned).collect()))
    }
}

display_joined!(Names, String::clone);

/// A list of addresses without the user and password of each URL; `None` where there is nothing to hide.
pub fn hide_credentials(value: &str) -> Option<String> {
    let credentials = match value.split_once("://") {
        Some((_, after)) => after.contains('@'),
        // An address is either a URL or has no user: somebody left the scheme out.
        None => value.contains('@'),
    };
    if !credentials {
        return None;
    }
    // A password may hold a comma: a part with an `@` must be a whole URL, else nothing of the value is shown.
    let parts: Option<Vec<String>> = value.split(',').map(mask_url).collect();
    Some(parts.map_or_else(|| HIDDEN.to_owned(), |parts| parts.join(",")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_of_a_url_are_not_shown() {
        for (value, shown) in [
            ("redis://u:p@h:1", "redis://(hidden)@h:1"),
            ("redis://h:1,rediss://u:p@q@h:2", "redis://h:1,rediss://(hidden)@h:2"),
            ("redis://u:p,q@h:1", "(hidden)"),
            ("u:p@h:1", "(hidden)"),
        ] {
            assert_eq!(hide_credentials(value).as_deref(), Some(shown));
            assert!(!format!("{:?}", value.parse::<Names>()).contains("p@"), "{value}");
        }
        assert_eq!(hide_credentials("h:1,h:2"), None);
    }
}
