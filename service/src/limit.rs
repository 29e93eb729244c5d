//! Log lines limited per call site.
