//! From a request to a process that runs.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use guest_wire::proto::process::{PTY, StartRequest};
use tokio::time::Instant;

use super::command::{Command, Wanted, unusable_name, variables};
use super::fork::{Executed, ForkError, fork};
use super::hub::{Hub, Subscription};
use super::notes;
use super::registry::TooManyProcesses;
use super::running::{Origin, Running};
use super::stdio::{Kind, Size, open};
use crate::accounts::User;
use crate::agent::Agent;
use crate::paths::{PathError, resolve};
use crate::tasks;

/// A process with its first subscriber.
pub(super) type Started = (Arc<Running>, Subscription);

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("{0}")]
    Workdir(PathError),
    #[error("cwd '{}' does not exist", .0.display())]
    NoWorkdir(PathBuf),
    #[error(
        "environment variable '{}' cannot be set: a name is not empty and has no '='",
        .0.escape_default()
    )]
    Variable(String),
    #[error("{what}: a part of the request holds a zero byte, which no program can be given")]
    ZeroByte { what: String },
    #[error("{0}")]
    TooMany(TooManyProcesses),
    #[error("{what}: {cause}")]
    Start { what: String, cause: io::Error },
    #[error("{what}: {step}: {cause}")]
    SetUp { what: String, step: super::fork::Step, cause: io::Error },
}

/// Starts what `request` asks for as `user`. The process is killed when `limit` is over.
///
/// Cancel safety: no, a process may have been started that nobody follows. Run it detached.
pub(super) async fn launch(
    agent: &Agent,
    request: StartRequest,
    user: &User,
    limit: Option<Duration>,
) -> Result<Started, LaunchError> {
    let place = agent.processes.place().map_err(LaunchError::TooMany)?;
    let config = request.process.into_option().unwrap_or_default();
    let workdir = agent.settings.default_workdir();
    let workdir = resolve(config.cwd.as_deref().unwrap_or(""), user, workdir.as_deref())
        .map_err(LaunchError::Workdir)?;
    // On a file system that hangs this waits, and must not hold up other requests.
    let found = tasks::blocking({
        let workdir = workdir.clone();
        move || std::fs::metadata(workdir)
    });
    if let Some(Err(error)) = found.await
        && error.kind() == io::ErrorKind::NotFound
    {
        return Err(LaunchError::NoWorkdir(workdir));
    }
    if let Some(name) = unusable_name(&config.envs) {
        return Err(LaunchError::Variable(name.to_owned()));
    }
    let kind = kind(request.pty.as_option(), request.stdin);
    let line = std::iter::once(config.cmd.as_str()).chain(config.args.iter().map(String::as_str));
    let line = line.collect::<Vec<_>>().join(" ");
    let what = match kind {
        Kind::Pipes { .. } => format!("error starting process '{line}'"),
        Kind::Terminal(Size { cols, rows }) => format!(
            "error starting pty with command '{line}' in dir '{}' with '{cols}' cols and '{rows}' \
             rows",
            workdir.display()
        ),
    };
    let requested = config.envs.iter().map(|(name, value)| (name.clone(), value.clone()));
    let all = variables(&agent.settings.path, user, agent.settings.variables(), requested);
    let command = Command::new(&Wanted {
        program: &config.cmd,
        arguments: &config.args,
        variables: &all,
        workdir: &workdir,
        user,
        open_files: agent.open_files,
    })
    .map_err(|_zero_byte| LaunchError::ZeroByte { what: what.clone() })?;

    let (child_ends, agent_ends) =
        open(kind).map_err(|cause| LaunchError::Start { what: what.clone(), cause })?;
    let reaper = &agent.processes.reaper;
    let failed = |error| match error {
        ForkError::Pipe(cause) | ForkError::Fork(cause) => {
            LaunchError::Start { what: what.clone(), cause }
        }
        ForkError::SetUp { step, source } => {
            LaunchError::SetUp { what: what.clone(), step, cause: source }
        }
    };
    let entrance = agent.cgroups.entrance(child_ends.is_terminal, request.tag.as_deref());
    let forked = fork(&command, child_ends, entrance, reaper).map_err(failed)?;
    let Executed { pid, end: ending, not_entered } = forked.executed().await.map_err(failed)?;
    if let Some(error) = not_entered {
        agent.cgroups.say_not_entered(&error);
    }

    // Nobody reads the output yet, so the first subscriber hears all of it.
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let origin = Origin { pid, ending, tag: request.tag, config, deadline };
    let (hub, subscription) = Hub::new(&agent.processes.held);
    notes::started(&agent.journal, pid.as_raw_nonzero().get().unsigned_abs(), line);
    let running = agent.processes.follow(origin, agent_ends, hub);
    drop(place);
    Ok((running, subscription))
}

fn kind(pty: Option<&PTY>, stdin: Option<bool>) -> Kind {
    match pty {
        Some(pty) => Kind::Terminal(size(pty)),
        None => Kind::Pipes { input: stdin.unwrap_or(true) },
    }
}

/// The kernel keeps sixteen bits of each number, and clients know it.
pub(super) fn size(pty: &PTY) -> Size {
    let truncated = |count: u32| {
        let [low, high, ..] = count.to_le_bytes();
        u16::from_le_bytes([low, high])
    };
    Size { cols: truncated(pty.size.cols), rows: truncated(pty.size.rows) }
}
