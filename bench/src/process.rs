//! Parts of a pipeline as processes: pinned, awaited by what they print, killed by id on every way out.

use anyhow::{Context, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::Host;
use tests::process::sum_of;

/// Admin address of every role, in its own namespace.
const ADMIN: &str = "127.0.0.1:9150";

/// The binary that is measured.
#[derive(Clone, Debug)]
pub struct Oncecast(PathBuf);

impl Oncecast {
    /// The release binary beside this one, or `ONCECAST_BIN`.
    pub fn find() -> anyhow::Result<Oncecast> {
        if let Some(path) = std::env::var_os("ONCECAST_BIN") {
            return Ok(Oncecast(path.into()));
        }
        let beside = std::env::current_exe()?.parent().context("no folder")?.join("oncecast");
        anyhow::ensure!(beside.exists(), "{} is missing: run `make bench`", beside.display());
        Ok(Oncecast(beside))
    }

    /// Another binary, of an older commit for example: it must know the same options.
    pub fn at(path: &Path) -> anyhow::Result<Oncecast> {
        anyhow::ensure!(path.is_file(), "{} is no file: give the path of an oncecast binary", path.display());
        Ok(Oncecast(path.canonicalize()?))
    }

    /// Starts `oncecast args`.
    pub fn start(&self, host: &Host, cores: &[usize], args: &str) -> anyhow::Result<Process> {
        Process::start(host, Some(cores), &self.0, args)
    }

    /// Starts a role and waits until it is ready.
    pub fn role(&self, host: &Host, cores: &[usize], args: &str) -> anyhow::Result<Process> {
        let args = format!("{args} --metrics-addr {ADMIN} --log-level error");
        let mut role = self.start(host, cores, &args)?;
        if let Err(error) = self.page(host, "readyz --wait-ready 10") {
            return Err(error.context(format!("oncecast {args}: {}", role.complaint())));
        }
        Ok(role)
    }

    /// A page of the role that runs on a host.
    pub fn page(&self, host: &Host, page: &str) -> anyhow::Result<String> {
        let mut command = host.command(&self.0);
        let output = command.args(["status", ADMIN, "--page"]).args(page.split_whitespace()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        anyhow::ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        Ok(text)
    }

    /// Metrics of the role that runs on a host, each summed over its labels (all, or those that a `{label="value"}` names).
    pub fn metrics<const N: usize>(&self, host: &Host, names: [&str; N]) -> anyhow::Result<[f64; N]> {
        let page = self.page(host, "metrics")?;
        Ok(names.map(|name| sum_of(&page, name)))
    }
}

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
        host: &Host,
        cores: Option<&[usize]>,
        program: &Path,
        args: &str,
    ) -> anyhow::Result<Process> {
        let mut command = match cores {
            None => host.command(program),
            Some(cores) => {
                let mut command = host.command("taskset");
                command.args(["-c", &list(cores)]).arg(program);
                command
            }
        };
        command.args(args.split_whitespace());
        Process::spawn(args, command)
    }

    /// Starts this program with other arguments, and waits until it is ready.
    pub fn myself(host: &Host, cores: &[usize], args: &str) -> anyhow::Result<Process> {
        let mut process = Process::start(host, Some(cores), &std::env::current_exe()?, args)?;
        process.wait_ready()?;
        Ok(process)
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
        cpu_of(self.id())
    }

    /// Peak resident memory, MiB.
    pub fn peak_memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    }
}

/// Seconds that all threads of a process were on a core so far.
fn cpu_of(id: u32) -> anyhow::Result<f64> {
    schedule_of(id).map(|[on, _]| on)
}

/// Seconds that all threads of a process waited for a core so far: what others on the machine cost it.
pub fn kept_waiting(id: u32) -> anyhow::Result<f64> {
    schedule_of(id).map(|[_, waiting]| waiting)
}

fn schedule_of(id: u32) -> anyhow::Result<[f64; 2]> {
    let mut nanoseconds = [0; 2];
    for thread in std::fs::read_dir(format!("/proc/{id}/task")).context("reading CPU time")? {
        // "on-cpu waiting slices", nanoseconds; a thread may end meanwhile.
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        for (sum, word) in nanoseconds.iter_mut().zip(text.split_whitespace()) {
            *sum += word.parse::<u64>().unwrap_or(0);
        }
    }
    Ok(nanoseconds.map(|nanoseconds| nanoseconds as f64 / 1e9))
}

/// Lets a process that runs already use these cores only.
pub fn pin(id: u32, cores: &[usize]) -> anyhow::Result<()> {
    let mut command = Command::new("taskset");
    let output = command.args(["-a", "-c", "-p", &list(cores), &id.to_string()]).output()?;
    anyhow::ensure!(output.status.success(), "taskset: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

/// Lets processes begin when all of them are ready.
pub fn together(mut processes: Vec<Process>) -> anyhow::Result<Vec<Process>> {
    processes.iter_mut().try_for_each(Process::wait_ready)?;
    processes.iter_mut().for_each(Process::begin);
    Ok(processes)
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
