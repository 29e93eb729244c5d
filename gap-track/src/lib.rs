//! Gaps in numbered flows: what is missing, what is owed, what was given up.
