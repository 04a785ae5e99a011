//! `cofferdam sandbox pause`, `resume`, `snapshot` and `fork`: what its team could ask for, asked by
//! the operator.

use std::process::ExitCode;
use std::time::Duration;

use e2b_wire::{ForkResult, Sandbox, SnapshotInfo};
use model::SandboxId;
use serde_json::json;

use super::{LEFT, find, unknown};
use crate::args::{Fork, Resume};
use crate::client::Api;
use crate::say;

pub(super) async fn pause(api: &Api, id: &SandboxId, files_only: bool) -> anyhow::Result<ExitCode> {
    let Some(team) = as_owner(api, id).await? else { return Ok(unknown(id)) };
    let path = format!("/sandboxes/{id}/pause");
    let _nothing: () = team.change(&path, &json!({"memory": !files_only})).await?;
    say::answer(&format!("sandbox {id} is paused"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(api: &Api, options: &Resume) -> anyhow::Result<ExitCode> {
    let id = &options.id;
    let Some(team) = as_owner(api, id).await? else { return Ok(unknown(id)) };
    let body = json!({"timeout": seconds(options.timeout), "memory": !options.files_only});
    let _sandbox: Sandbox = team.change(&format!("/sandboxes/{id}/connect"), &body).await?;
    say::answer(&format!("sandbox {id} runs"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn snapshot(
    api: &Api,
    id: &SandboxId,
    name: Option<String>,
) -> anyhow::Result<ExitCode> {
    let Some(team) = as_owner(api, id).await? else { return Ok(unknown(id)) };
    let body = name.map_or_else(|| json!({}), |name| json!({"name": name}));
    let made: SnapshotInfo = team.change(&format!("/sandboxes/{id}/snapshots"), &body).await?;
    say::answer(&made.snapshot_id)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn fork(api: &Api, options: &Fork) -> anyhow::Result<ExitCode> {
    let id = &options.id;
    let Some(team) = as_owner(api, id).await? else { return Ok(unknown(id)) };
    let body = json!({"timeout": seconds(options.timeout), "count": options.count});
    let results: Vec<ForkResult> = team.change(&format!("/sandboxes/{id}/fork"), &body).await?;
    if options.output.json {
        say::answer(&serde_json::to_string_pretty(&results)?)?;
    }
    let mut failed = false;
    for result in &results {
        if let Some(error) = &result.error {
            failed = true;
            say::remark(&format!("cofferdam: a copy was not started: {}", error.message));
        }
        if let Some(sandbox) = result.sandbox.as_ref().filter(|_| !options.output.json) {
            say::answer(&sandbox.sandbox_id)?;
        }
    }
    Ok(if failed { ExitCode::from(LEFT) } else { ExitCode::SUCCESS })
}

/// The API as the team has it whose sandbox this is; `None` when no node has it.
pub(super) async fn as_owner(api: &Api, id: &SandboxId) -> anyhow::Result<Option<Api>> {
    let found = find(api, id).await?;
    Ok(found.first().map(|sandbox| api.as_team(&sandbox.team_id)))
}

/// A part of one counts as a whole one: no time at all is none that can be asked for.
fn seconds(time: Duration) -> u64 {
    time.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
}
