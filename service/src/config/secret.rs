//! What must not be shown of a value.
//!
//! A secret is an option whose name says so (`…-password`, `…-secret`, `…-token`, `…-key`). The file that holds one is no
//! secret. User and password inside a URL are hidden in every option.

use option_values::{HIDDEN, hide_credentials};

/// The value to show, and whether something was hidden.
pub(super) fn masked(option: &str, value: &str) -> (String, bool) {
    if is_secret(option) && !value.is_empty() {
        return (HIDDEN.to_owned(), true);
    }
    // An address of a store is either a URL or has no user: somebody left the scheme out.
    let of_store = option.ends_with("redis-addr") || option.ends_with("aerospike-hosts");
    let hidden = if value.contains("://") || of_store { hide_credentials(value) } else { None };
    hidden.map_or_else(|| (value.to_owned(), false), |hidden| (hidden, true))
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
