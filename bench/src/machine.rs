//! What the figures were measured on.

use serde_json::{Value, json};

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn field(text: &str, name: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// Cores this process may use.
pub fn cores() -> Vec<usize> {
    multicast_io::affinity::allowed_cores().unwrap_or_default()
}

/// Processor, cores, memory, kernel, and how busy the machine was before.
pub fn describe() -> Value {
    let cpu = read("/proc/cpuinfo");
    json!({
        "cpu": field(&cpu, "model name"),
        "sha_instructions": field(&cpu, "flags").split_whitespace().any(|flag| flag == "sha_ni"),
        "avx512": field(&cpu, "flags").split_whitespace().any(|flag| flag == "avx512bw"),
        "cores": cores().len(),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "load_before": read("/proc/loadavg").split_whitespace().next().unwrap_or_default(),
    })
}
