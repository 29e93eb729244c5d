//! A test whose program or privilege is absent is skipped, and a line says so.

/// Says that this test is skipped, because it needs `what`. With `ONCECAST_REQUIRE_ALL` set, as in continuous integration,
/// that is a failure.
pub fn skipped(what: &str) {
    assert!(std::env::var_os("ONCECAST_REQUIRE_ALL").is_none(), "everything is required here: {what}");
    eprintln!("\n*** SKIPPED: this test needs {what} ***\n");
}
