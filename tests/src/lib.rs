//! End-to-end scenarios that run the real binary in network namespaces.
