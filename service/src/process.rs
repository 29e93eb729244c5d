//! The process as the kernel sees it: memory, descriptors, threads, CPU; plus version and readiness.

use crate::{Lifecycle, Metric, Sink, Source};
use std::time::Duration;

static BUILD_INFO: Metric = Metric::gauge(
    "oncecast_build_info",
    &["version", "role", "instance"],
    "Always 1; the labels say what runs here.",
);
static READY: Metric = Metric::gauge("oncecast_ready", &["role"], "1 when /readyz answers 200, else 0.");
static DRAINING: Metric = Metric::gauge("oncecast_draining", &["role"], "1 from the first SIGTERM on.");
static UPTIME: Metric =
    Metric::gauge("oncecast_uptime_seconds", &["role"], "Seconds since the role was started.");
static CPU: Metric =
    Metric::counter("process_cpu_seconds_total", &[], "User and system CPU time in seconds.");
static MEMORY: Metric = Metric::gauge("process_resident_memory_bytes", &[], "Resident memory in bytes.");
static OPEN_FDS: Metric = Metric::gauge("process_open_fds", &[], "Open file descriptors.");
static MAX_FDS: Metric = Metric::gauge("process_max_fds", &[], "Limit of open file descriptors.");
static THREADS: Metric = Metric::gauge("process_threads", &[], "Threads.");

/// Every metric of this module.
pub static METRICS: [&Metric; 9] =
    [&BUILD_INFO, &READY, &DRAINING, &UPTIME, &CPU, &MEMORY, &OPEN_FDS, &MAX_FDS, &THREADS];

/// Source of [`METRICS`].
#[derive(Debug)]
pub struct Process {
    /// Whose readiness is told.
    pub lifecycle: Lifecycle,
    /// Name of the instance.
    pub instance: String,
    /// Version of the program.
    pub version: &'static str,
}

impl Source for Process {
    fn collect(&self, sink: &mut Sink<'_>) {
        let role = self.lifecycle.role();
        let flag = |yes: bool| if yes { 1.0 } else { 0.0 };
        sink.gauge(&BUILD_INFO, &[self.version, role, &self.instance], 1.0);
        sink.gauge(&READY, &[role], flag(self.lifecycle.is_ready()));
        sink.gauge(&DRAINING, &[role], flag(self.lifecycle.is_draining()));
        sink.gauge(&UPTIME, &[role], self.lifecycle.uptime().as_secs_f64());
        let status = read("/proc/self/status");
        if let Some(kib) = field(&status, "VmRSS:") {
            sink.gauge(&MEMORY, &[], kib as f64 * 1024.0);
        }
        if let Some(threads) = field(&status, "Threads:") {
            sink.gauge(&THREADS, &[], threads as f64);
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            sink.gauge(&OPEN_FDS, &[], fds.count() as f64);
        }
        if let Some(limit) = field(&read("/proc/self/limits"), "Max open files") {
            sink.gauge(&MAX_FDS, &[], limit as f64);
        }
        if let Some(cpu) = cpu_time(&read("/proc/self/stat")) {
            sink.counter_seconds(&CPU, &[], cpu);
        }
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
        assert_eq!(METRICS.iter().find_map(|metric| metric.fault()), None);
        assert_eq!(field("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12));
        let stat = "1 (a) b) S 1 1 1 0 -1 4 1 0 0 0 150 50 0 0 20";
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(cpu_time("garbage"), None);
    }
}
