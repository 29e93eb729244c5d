//! V5 payload: subtree data (wire 1.5).
