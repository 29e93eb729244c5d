//! Options: flag > environment > TOML file > default, `--check`, `--print-config`.
