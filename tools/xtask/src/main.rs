//! Checks of this repository that no public tool makes: circles between modules, sizes, names.

fn main() {}
