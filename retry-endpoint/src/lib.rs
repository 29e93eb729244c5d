//! Retry role: store, answer NACKs, advertise, fetch upstream.
