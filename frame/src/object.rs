//! V9 objects: submission and delivery records (wire 1.9).
