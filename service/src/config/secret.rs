//! What must not be shown of a value.
//!
//! A secret is an option whose name says so (`…-password`, `…-secret`, `…-token`, `…-key`). The file that holds one is no
//! secret. User and password inside a URL are hidden in every option.

const HIDDEN: &str = "(hidden)";

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

/// Whether an option of that name holds a secret itself.
fn is_secret(option: &str) -> bool {
    // Names a flow, as bytes 40-47 of its frames do.
    if option == "hash-key" {
        return false;
    }
    let last = option.rsplit('-').next().unwrap_or_default();
    matches!(last, "password" | "passphrase" | "secret" | "token" | "key")
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
}
