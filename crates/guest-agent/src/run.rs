//! The agent from its first instruction to its last.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::Agent;
use crate::cgroups::Cgroups;
use crate::cli::Config;
use crate::open_files::OpenFiles;
use crate::reaper::Reaper;
use crate::server::{ListenError, listen, serve};
use crate::upgrade::{Predecessor, ResumeError, Upgrades, take_over};
use crate::{control, forward, log, tasks};

/// Two threads: one may be busy with a long compression of JSON while the other answers.
const WORKERS: usize = 2;
/// Threads for calls that block, such as looking at files; they end when idle.
const BLOCKING_MAX: usize = 64;
const BLOCKING_IDLE: Duration = Duration::from_secs(2);
/// How long processes have to end by themselves when the sandbox ends.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Stacks of the runtime's threads: RPC decoding is the deepest that runs on them.
const STACK_BYTES: usize = 1024 * 1024;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("watch for signals")]
    Signals(#[source] std::io::Error),
    #[error("open the listener")]
    Listen(#[source] ListenError),
    #[error("go on after an upgrade")]
    Resume(#[source] ResumeError),
    #[error("announce the address on standard output")]
    Announce(#[source] std::io::Error),
}

/// Serves until it is told to end by SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start. Once it serves, nothing makes it end but a signal.
pub fn run(config: Config) -> Result<(), RunError> {
    let listener = listen(&config.listen).map_err(RunError::Listen)?;
    let predecessor = config.resume.map(Predecessor::read).transpose().map_err(RunError::Resume)?;
    // New files are readable by all and writable by their owner, for agent and processes alike.
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o022));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING_MAX)
        .thread_keep_alive(BLOCKING_IDLE)
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    let ended = runtime.block_on(run_until_told(config, listener, predecessor));
    // A thread that blocks on a hanging file system must not keep the sandbox from ending.
    runtime.shutdown_background();
    ended
}

async fn run_until_told(
    config: Config,
    listener: std::net::TcpListener,
    predecessor: Option<Predecessor>,
) -> Result<(), RunError> {
    let reaper = Reaper::start().map_err(RunError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let listener = Arc::new(TcpListener::from_std(listener).map_err(RunError::Runtime)?);
    let upgrades = Upgrades::new(Arc::clone(&listener), config.arguments());
    let open_files = OpenFiles::raise(predecessor.as_ref().map(Predecessor::open_files));
    let cgroups = Cgroups::new(config.cgroup_root);
    let environment = config.environment;
    let agent = Agent::new(environment, open_files, Arc::clone(&reaper), cgroups, upgrades);
    let agent = Arc::new(agent);
    if let Err(error) = write_run_dir(&config.run_dir, &agent) {
        log::odd(format_args!("{} could not be filled: {error}", config.run_dir.display()));
    }
    match predecessor {
        // Whoever is to know where it listens does already.
        Some(predecessor) => take_over(&agent, predecessor),
        None => {
            agent.cgroups.freezer.thaw_left_behind();
            announce(&listener).map_err(RunError::Announce)?;
        }
    }
    reaper.go_on();
    tasks::spawn(serve(listener, Arc::clone(&agent)));
    if let Some(forwarder) = forward::Forwarder::new(&config.forward) {
        tasks::spawn(forwarder.run());
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // What stands still does not hear that it is to end, and nobody would thaw it later.
    control::thaw(&agent).await;
    agent.upgrades.end();
    reaper.end_all(END_LIMIT).await;
    Ok(())
}

/// Says where it listens: with port 0 nobody else knows.
fn announce(listener: &TcpListener) -> std::io::Result<()> {
    let addr = listener.local_addr()?;
    match writeln!(std::io::stdout(), "envd: listening on {addr}") {
        // Nobody reads it, so nobody needs it.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        said => said,
    }
}

/// One file for each of the agent's own variables, for programs that were not started by it.
fn write_run_dir(directory: &Path, agent: &Agent) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    for (name, value) in agent.settings.internal_variables() {
        let path = directory.join(format!(".{name}"));
        // From a life before this one, and perhaps with other rights.
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut options = std::fs::File::options();
        let mut file = options.write(true).create_new(true).mode(0o444).open(&path)?;
        file.write_all(value.as_bytes())?;
        let mode = if name == "E2B_SANDBOX" { 0o444 } else { 0o666 };
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_bits_retain(mode))?;
    }
    Ok(())
}
