//! Egress role: filter, track gaps, repair, reassemble, deliver.
