//! Virtual time, virtual network and model backend that drive the pipelines of many nodes from a seed.

pub mod claims;
