//! Parts of a pipeline as processes: pinned, awaited by what they print, killed by id on every way out.

use crate::net::{Host, Net};
use anyhow::{Context, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that one process of the benchmark may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running part.
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `program args` on a host, on these cores only (`None`: any).
    pub fn start(
        net: &Net,
        host: Host,
        cores: Option<&[usize]>,
        program: &std::path::Path,
        args: &str,
    ) -> anyhow::Result<Process> {
        let mut command = match cores {
            None => net.command(host, program),
            Some(cores) => {
                let list: Vec<String> = cores.iter().map(usize::to_string).collect();
                let mut command = net.command(host, "taskset");
                command.args(["-c", &list.join(",")]).arg(program);
                command
            }
        };
        command.args(args.split_whitespace());
        Process::spawn(args, command)
    }

    /// Starts a command.
    pub fn spawn(name: &str, mut command: Command) -> anyhow::Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Process { name: name.to_owned(), child })
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line `ready` on standard error.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let stderr = self.child.stderr.as_mut().context("standard error")?;
        let mut line = String::new();
        // The parts print this line first and then nothing but what went wrong.
        BufReader::with_capacity(64, stderr).read_line(&mut line)?;
        if line.trim() != "ready" {
            let complaint = self.complaint();
            bail!("{}: {line}{complaint}", self.name);
        }
        Ok(())
    }

    /// Ends its standard input: what waits for the start begins.
    pub fn begin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end and returns the JSON line that was printed.
    pub fn finish(mut self) -> anyhow::Result<Value> {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if Instant::now() >= until => bail!("{} did not end within {PATIENCE:?}", self.name),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let mut text = String::new();
        self.child.stdout.take().context("standard output")?.read_to_string(&mut text)?;
        if !status.success() {
            let complaint = self.complaint();
            bail!("{}: {status}: {complaint}", self.name);
        }
        serde_json::from_str(text.trim()).with_context(|| format!("{} printed {text:?}", self.name))
    }

    /// What it printed on standard error, if it has ended.
    pub fn complaint(&mut self) -> String {
        let mut text = String::new();
        // What cannot be read adds nothing to the error that is about to be told.
        if let Some(mut stderr) = self.child.stderr.take()
            && self.child.try_wait().is_ok_and(|status| status.is_some())
        {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }

    /// CPU seconds that all its threads used so far.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.id())).context("reading CPU time")? {
            // "on-cpu waiting slices", nanoseconds; a thread may end meanwhile.
            let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            nanoseconds +=
                text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(nanoseconds as f64 / 1e9)
    }

    /// Peak resident memory, MiB.
    pub fn peak_memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
