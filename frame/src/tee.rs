//! TEE1 envelope (wire 1.15).
