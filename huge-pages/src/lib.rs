//! Large buffers on huge pages, and loads ahead of use.
