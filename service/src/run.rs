//! A role from its configuration to its exit code: log, admin server, signals, start, wait, drain.
//!
//! | Exit code | Meaning |
//! |---|---|
//! | 0 | a drain that ended in time |
//! | 1 | a failure at start or at run time; a host that is not (yet) as configured |
//! | 2 | a configuration that is wrong on any host |
//! | 70 | a panic, or a socket that does not work any more |
//! | 130, 143 | a second SIGINT or SIGTERM ended a drain |

use crate::admin::{Admin, Pages};
use crate::causes::one_line;
use crate::codes::Code;
use crate::config::{CheckDepth, EXIT_USAGE, Invalid, LogFormat, RoleLoaded, print};
use crate::host::ports::Owner;
use crate::host::{self, Findings, Needs, memory};
use crate::ledger::{self, LossWatch};
use crate::lifecycle::{LeftBehind, Lifecycle};
use crate::logs::{self, Logs};
use crate::metrics::{self, Registry};
use crate::process::Process;
use crate::worker::thread::{EXIT_PANIC, panic_text};
use crate::{limit, notify};
use cache_backend::Backend;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// What the role may take beyond `--drain-timeout` to close its sockets and threads.
const GRACE: Duration = Duration::from_secs(2);

/// What a role needs from whoever starts it.
#[derive(Clone)]
pub struct Deps {
    /// Readiness and drain.
    pub lifecycle: Lifecycle,
    /// Takes the metrics and the details for `/status`.
    pub registry: Arc<Registry>,
    /// A store that the caller opened, of any kind: taken where the options name `memory` or nothing at all. Roles of one
    /// process may share it; who opened it closes it. A proxy and a listener claim in it; it is the second tier of a retry
    /// endpoint, which keeps its own log in any case. A role with a process of its own has none.
    pub store: Option<Arc<dyn Backend>>,
}

/// Runs a role until it ends. `needs` judges combinations of options and says what they need of the host; it does not look at
/// the host, and its error is a usage error, exit code 2. `start` brings the role up and answers with a future that ends when the role has drained.
pub fn run<C, Started, Wait>(
    version: &'static str,
    loaded: RoleLoaded,
    config: C,
    needs: impl FnOnce(&C) -> anyhow::Result<Needs>,
    start: impl FnOnce(C, Deps) -> Started,
) -> ExitCode
where
    Started: Future<Output = anyhow::Result<Wait>>,
    Wait: Future<Output = ()>,
{
    let role = loaded.name;
    if loaded.common.print_config {
        say(&print::toml_text(role, &loaded.effective));
    }
    let needs = match needs(&config) {
        Ok(needs) => needs.and_of_the_service(&loaded),
        Err(invalid) => return refuse(role, &one_line(&invalid)),
    };
    if let Some(depth) = loaded.check {
        return check(&loaded, &needs, depth);
    }
    if loaded.common.print_config {
        return ExitCode::SUCCESS;
    }
    let json = loaded.common.log_format == LogFormat::Json;
    let outcome = serve(version, loaded, config, &needs, start);
    let Err(error) = &outcome else { return ExitCode::SUCCESS };
    if let Some(invalid) = error.downcast_ref::<Invalid>() {
        return refuse(role, &invalid.to_string());
    }
    // One line, in the form that whoever reads this stderr expects.
    match json {
        true => tracing::error!("{}", one_line(error)),
        false => complain(&format!("oncecast {role}: {}", one_line(error))),
    }
    logs::flush();
    ExitCode::FAILURE
}

/// `--check`: says what is wrong, on this host too if it is asked for; starts nothing.
fn check(loaded: &RoleLoaded, needs: &Needs, depth: CheckDepth) -> ExitCode {
    let role = loaded.name;
    for warning in &loaded.warnings {
        complain(&format!("oncecast {role}: warning: {warning}"));
    }
    let mut findings = Findings::default();
    let mut seen = "configuration ok";
    if depth >= CheckDepth::Host {
        let owner = Owner::new(role, &loaded.common.instance());
        findings = host::look(needs, &owner, loaded.host.take_over);
        seen = "configuration ok, host ok";
    }
    if depth >= CheckDepth::Online {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => findings.failures.extend(runtime.block_on(host::ask_stores(needs))),
            Err(error) => complain(&format!("oncecast {role}: {error}")),
        }
        seen = "configuration ok, host ok, store ok";
    }
    for warning in &findings.warnings {
        complain(&format!("oncecast {role}: warning: {warning}"));
    }
    for failure in &findings.failures {
        complain(&format!("oncecast {role}: {failure}"));
    }
    if findings.failures.is_empty() {
        say(&format!("{seen}\n"));
        return ExitCode::SUCCESS;
    }
    ExitCode::FAILURE
}

fn serve<C, Started, Wait>(
    version: &'static str,
    loaded: RoleLoaded,
    config: C,
    needs: &Needs,
    start: impl FnOnce(C, Deps) -> Started,
) -> anyhow::Result<()>
where
    Started: Future<Output = anyhow::Result<Wait>>,
    Wait: Future<Output = ()>,
{
    let level = if loaded.common.debug { "debug".parse()? } else { loaded.common.log_level.clone() };
    let logs = Logs::start(loaded.common.log_format, &level)?;
    metrics::process_recorder();
    panics_end_the_process();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let outcome = runtime.block_on(control(version, loaded, config, needs, start, logs));
    // A lookup that hangs in a helper thread must not hold the process.
    runtime.shutdown_background();
    logs::flush();
    outcome
}

/// Everything that happens on the control runtime.
async fn control<C, Started, Wait>(
    version: &'static str,
    loaded: RoleLoaded,
    config: C,
    needs: &Needs,
    start: impl FnOnce(C, Deps) -> Started,
    logs: Logs,
) -> anyhow::Result<()>
where
    Started: Future<Output = anyhow::Result<Wait>>,
    Wait: Future<Output = ()>,
{
    let deps = Deps { lifecycle: Lifecycle::new(loaded.name), registry: Arc::default(), store: None };
    let (lifecycle, registry) = (deps.lifecycle.clone(), deps.registry.clone());
    let started = lifecycle.condition("start");
    let instance = loaded.common.instance();
    deps.registry.add(Arc::new(Process {
        lifecycle: lifecycle.clone(),
        instance: instance.clone(),
        version,
    }));
    let admin = admin(version, &loaded, &instance, &deps, &logs)?;
    let _signals = watch_signals(&lifecycle, &logs)?;
    let _housekeeping = Aborting(tokio::spawn(housekeeping(deps.clone())));
    let role = loaded.name;
    tracing::info!(role, version, instance, pid = std::process::id(), "starting");
    if let Some(admin) = &admin {
        tracing::info!(addr = %admin.addr(), "admin HTTP listens");
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    memory::admit(&needs.sizes, &lifecycle)?;
    let waiting = tokio::select! {
        outcome = start(config, deps) => outcome?,
        () = lifecycle.drain_began() => {
            tracing::warn!("stopped before the start was complete");
            return Ok(());
        }
    };
    started.met("started");
    notify::tell("READY=1");
    tracing::info!(role, "started");
    drain(&lifecycle, waiting, loaded.common.drain_timeout).await?;
    close_the_books(&registry);
    has_drained(&lifecycle)
}

/// A drain that dropped frames is none.
fn has_drained(lifecycle: &Lifecycle) -> anyhow::Result<()> {
    let LeftBehind { frames, bytes, flows } = lifecycle.left_behind();
    anyhow::ensure!(
        frames == 0,
        "the drain dropped {frames} frames, {bytes} bytes of {flows} flows, that were not taken within --drain-timeout"
    );
    tracing::info!("drained");
    Ok(())
}

/// Every thread has ended: what was lost is told a last time, and the sums must hold now.
fn close_the_books(registry: &Registry) {
    for row in ledger::fold(registry.losses()) {
        tracing::warn!(code = Code::Losing.name(), reason = row.reason, "lost since the start: {row}");
    }
    for sum in registry.sums() {
        if sum.holds() {
            tracing::info!("the sum holds: {sum}");
        } else {
            tracing::error!("the sum does not hold, please report this: {sum}");
        }
    }
}

/// Waits for the end of the role: after a drain, which has a limit.
async fn drain(
    lifecycle: &Lifecycle,
    waiting: impl Future<Output = ()>,
    limit: Duration,
) -> anyhow::Result<()> {
    let mut waiting = std::pin::pin!(waiting);
    tokio::select! {
        // The drain first: a role that ends with its begin is drained, not gone by itself.
        biased;
        () = lifecycle.drain_began() => {}
        () = &mut waiting => {
            anyhow::ensure!(lifecycle.is_draining(), "the role ended by itself; the log above says why");
            return Ok(());
        }
    }
    notify::tell("STOPPING=1");
    tracing::info!(?limit, "draining");
    if tokio::time::timeout(limit.saturating_add(GRACE), waiting).await.is_err() {
        anyhow::bail!(
            "the drain did not end within --drain-timeout={limit:?} and {GRACE:?} of grace; frames still in hand are lost"
        );
    }
    Ok(())
}

fn admin(
    version: &'static str,
    loaded: &RoleLoaded,
    instance: &str,
    deps: &Deps,
    logs: &Logs,
) -> anyhow::Result<Option<Admin>> {
    let Some(addr) = loaded.common.metrics_addr.and_then(|listen| listen.0) else {
        tracing::warn!("--metrics-addr is off: no metrics, no health endpoints");
        return Ok(None);
    };
    let pages = Pages {
        lifecycle: deps.lifecycle.clone(),
        registry: deps.registry.clone(),
        logs: Some(logs.clone()),
        instance: instance.to_owned(),
        version,
        config: print::json(&loaded.effective),
    };
    Ok(Some(Admin::serve(addr, loaded.host.take_over, pages)?))
}

/// Ends its task when dropped.
#[derive(Debug)]
struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// SIGTERM and SIGINT begin the drain, a second one ends the process at once; SIGHUP switches debug logging.
fn watch_signals(lifecycle: &Lifecycle, logs: &Logs) -> std::io::Result<Aborting> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (lifecycle, logs) = (lifecycle.clone(), logs.clone());
    Ok(Aborting(tokio::spawn(async move {
        loop {
            let (name, code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
                _ = hangup.recv() => {
                    let level = logs.toggle_debug();
                    tracing::warn!(level, "SIGHUP: log level changed");
                    continue;
                }
            };
            if lifecycle.is_draining() {
                tracing::error!("{name} during the drain: ending at once, frames in hand are lost");
                logs::flush();
                std::process::exit(code);
            }
            tracing::warn!("{name}: drain begins; a second signal ends at once");
            lifecycle.begin_drain();
        }
    })))
}

/// Once a second: what was lost, reasons that came and went, the sum of lines that were not written, signs of life.
async fn housekeeping(Deps { lifecycle, registry, .. }: Deps) {
    let mut losses = LossWatch::new(lifecycle.condition("losses"));
    let watchdog = notify::watchdog_interval();
    let mut every =
        tokio::time::interval(watchdog.unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1)));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        losses.look(Instant::now(), &registry);
        lifecycle.tell_reasons();
        limit::sum_up();
        if watchdog.is_some() {
            notify::tell("WATCHDOG=1");
        }
    }
}

/// A panic on any thread or task ends the process: what is left would look alive and lose frames.
fn panics_end_the_process() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let text = panic_text(panic.payload());
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread, place, %backtrace, "panic, ending the process: {text}");
        logs::flush();
        std::process::exit(EXIT_PANIC);
    }));
}

fn refuse(role: &str, why: &str) -> ExitCode {
    logs::flush();
    complain(&format!("oncecast {role}: {why}"));
    EXIT_USAGE.into()
}

fn say(text: &str) {
    use std::io::Write;
    // A closed pipe is no reason to panic.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}
