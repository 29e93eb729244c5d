//! The process as the kernel sees it: memory, descriptors, threads, CPU; plus version and readiness.

use crate::codes::Code;
use crate::lifecycle::Lifecycle;
use std::time::Duration;

/// Where the numbers are.
#[derive(Debug)]
pub struct Process {
    /// Whose readiness is told.
    pub lifecycle: Lifecycle,
    /// Name of the instance.
    pub instance: String,
    /// Version of the program.
    pub version: &'static str,
}

crate::counters! {
    /// Every metric of this module.
    pub static METRICS: Table of Process {
        => gauge("oncecast_build_info", ["version", "role", "instance"], "Always 1; the labels say what runs here.")
            = |process, series| series.put(&[process.version, process.lifecycle.role(), &process.instance], true);
        => gauge("oncecast_ready", ["role"], "1 when /readyz answers 200, else 0.")
            = |process, series| series.put(&[process.lifecycle.role()], process.lifecycle.is_ready());
        => gauge("oncecast_reason", ["role", "code"], "1 while a reason of this code stands, as in /readyz, else 0.")
            = |process, series| for code in Code::ALL {
                series.put(&[process.lifecycle.role(), code.name()], process.lifecycle.stands(*code));
            };
        => gauge("oncecast_draining", ["role"], "1 from the first SIGTERM on.")
            = |process, series| series.put(&[process.lifecycle.role()], process.lifecycle.is_draining());
        => gauge("oncecast_uptime_seconds", ["role"], "Seconds since the role was started.")
            = |process, series| series.put(&[process.lifecycle.role()], process.lifecycle.uptime());
        => counter("process_cpu_seconds_total", [], "User and system CPU time in seconds.")
            = |_process, series| series.put_some(cpu_time(&read("/proc/self/stat")));
        => gauge("process_resident_memory_bytes", [], "Resident memory in bytes.")
            = |_process, series| series.put_some(field(&read("/proc/self/status"), "VmRSS:").map(|kib| kib * 1024));
        => gauge("process_open_fds", [], "Open file descriptors.")
            = |_process, series| series.put_some(std::fs::read_dir("/proc/self/fd").ok().map(Iterator::count));
        => gauge("process_max_fds", [], "Limit of open file descriptors.")
            = |_process, series| series.put_some(field(&read("/proc/self/limits"), "Max open files"));
        => gauge("process_threads", [], "Threads.")
            = |_process, series| series.put_some(field(&read("/proc/self/status"), "Threads:"));
    }
}

impl crate::metrics::Source for Process {
    fn collect(&self, sink: &mut crate::metrics::Sink<'_>) {
        METRICS.collect(self, sink);
    }
}

/// Empty where it cannot be read (a restricted /proc): the metric is then left out.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// First number after a line's label.
fn field(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// User and system time from /proc/self/stat (fields 14 and 15, in ticks of 10 ms; proc(5)). The name in field 2 may hold
/// blanks and brackets, so fields are counted after its last bracket.
fn cpu_time(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    Some(Duration::from_millis(ticks.checked_mul(10)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(METRICS.metrics().find_map(|metric| metric.fault()), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        let stat = "1 (a) b) S 1 1 1 0 -1 4 1 0 0 0 150 50 0 0 20";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time("garbage"), None);
    }
}
