//! Micro benchmarks and the end-to-end pipeline benchmark.
