//! Logs: `tracing`, text or JSON.
