//! Ingress role: admit, claim, number, emit.
