//! `cofferdam sandbox`: what the nodes have, whosever it is, what is done inside, its pauses, copies and
//! its end, through the API and the guest agent.

mod cp;
mod exec;
mod explain;
mod inside;
mod kill;
mod logs;
mod pause;
mod running;
mod shell;
mod text;

use std::process::ExitCode;
use std::time::SystemTime;

use e2b_wire::NodeSandbox;
use model::SandboxId;

use super::node;
use crate::args;
use crate::client::{Api, CallError};
use crate::say;

/// The exit code when something of a sandbox is left.
const LEFT: u8 = 3;
/// The exit code when no node has it, or no record is kept of it.
const UNKNOWN: u8 = 4;

/// `term` is what kind of terminal this is.
pub(crate) async fn run(
    api: &Api,
    command: args::Sandbox,
    term: Option<String>,
) -> anyhow::Result<ExitCode> {
    match command {
        args::Sandbox::Ls(output) => list(api, output).await,
        args::Sandbox::Info { id, output } => info(api, &id, output).await,
        args::Sandbox::Explain { id, output } => explain::run(api, &id, output).await,
        args::Sandbox::Pause { id, files_only } => pause::pause(api, &id, files_only).await,
        args::Sandbox::Resume(options) => pause::resume(api, &options).await,
        args::Sandbox::Snapshot { id, name } => pause::snapshot(api, &id, name).await,
        args::Sandbox::Fork(options) => pause::fork(api, &options).await,
        args::Sandbox::Exec(options) => Ok(exec::run(api, &options).await),
        args::Sandbox::Shell(options) => Ok(shell::run(api, &options, term).await),
        args::Sandbox::Cp(options) => cp::run(api, &options).await,
        args::Sandbox::Logs(options) => logs::run(api, &options).await,
        args::Sandbox::Kill(options) => kill::run(api, &options).await,
    }
}

/// What the nodes have.
#[derive(Debug, Default)]
struct Found {
    /// The oldest first.
    sandboxes: Vec<NodeSandbox>,
    /// The nodes that did not tell, and why.
    silent: Vec<String>,
}

async fn all(api: &Api) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for node in node::all(api).await? {
        let id = node.detail.id;
        let told: Result<Vec<NodeSandbox>, _> = api.get(&format!("/nodes/{id}/sandboxes")).await;
        match told {
            Ok(sandboxes) => found.sandboxes.extend(sandboxes),
            Err(CallError::Refused { message, .. }) => found.silent.push(message),
            Err(error) => return Err(error.into()),
        }
    }
    found.sandboxes.sort_by_key(|sandbox| sandbox.started_at);
    Ok(found)
}

/// Where it is; more than one where a node has it that should not.
///
/// # Errors
/// The service does not answer, or a node does not that may have it.
async fn find(api: &Api, id: &SandboxId) -> anyhow::Result<Vec<NodeSandbox>> {
    let mut found = all(api).await?;
    found.sandboxes.retain(|sandbox| sandbox.sandbox_id == id.as_str());
    if found.sandboxes.is_empty() && !found.silent.is_empty() {
        let silent = found.silent.join("; ");
        anyhow::bail!("no node that answers has sandbox {id}, and not all do: {silent}");
    }
    Ok(found.sandboxes)
}

fn unknown(id: &SandboxId) -> ExitCode {
    say::remark(&format!("cofferdam: no node has a sandbox {id}; see `cofferdam sandbox ls`"));
    ExitCode::from(UNKNOWN)
}

async fn list(api: &Api, output: args::Output) -> anyhow::Result<ExitCode> {
    let found = all(api).await?;
    let text = if output.json {
        serde_json::to_string_pretty(&found.sandboxes)?
    } else {
        text::table(&found.sandboxes, SystemTime::now())
    };
    say::answer(&text)?;
    for why in &found.silent {
        say::remark(&format!("cofferdam: not listed: {why}"));
    }
    Ok(if found.silent.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn info(api: &Api, id: &SandboxId, output: args::Output) -> anyhow::Result<ExitCode> {
    let found = find(api, id).await?;
    if found.is_empty() {
        return Ok(unknown(id));
    }
    for sandbox in &found {
        let text = if output.json {
            serde_json::to_string_pretty(sandbox)?
        } else {
            text::block(sandbox, SystemTime::now())
        };
        say::answer(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
