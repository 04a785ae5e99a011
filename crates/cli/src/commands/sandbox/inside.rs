//! The way into a sandbox: who owns it, what its agent asks for, and what became of it when the way
//! broke.

use std::time::Duration;

use e2b_wire::{Sandbox, SandboxDetail, SandboxState};
use guest_wire::proto::process::{ProcessConfig, StartRequest};
use http::StatusCode;
use model::SandboxId;
use serde_json::json;

use super::pause::as_owner;
use crate::agent::{Agent, AgentError};
use crate::args::{Around, As};
use crate::client::Api;
use crate::say;

/// How long one runs that was paused, as after a `connect` of a client that says nothing else.
const RESUMED_FOR: Duration = Duration::from_secs(300);

/// A sandbox that runs.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) agent: Agent,
    /// The service, as the team has it whose sandbox this is.
    team: Api,
}

/// Finds the sandbox and lets it go on if it is paused; `None` when no node has it.
///
/// # Errors
/// The service does not answer, or the sandbox is paused and is to stay it.
pub(super) async fn enter(
    api: &Api,
    id: &SandboxId,
    acting: &As,
) -> anyhow::Result<Option<Inside>> {
    let Some(team) = as_owner(api, id).await? else { return Ok(None) };
    let path = format!("/sandboxes/{id}");
    let detail: SandboxDetail = team.get(&path).await?;
    let token = match detail.listed.state {
        SandboxState::Running => detail.envd_access_token,
        SandboxState::Paused if acting.no_resume => anyhow::bail!(
            "sandbox {id} is paused; leave out --no-resume, or let it go on with `cofferdam \
             sandbox resume {id}`"
        ),
        SandboxState::Paused => {
            let body = json!({"timeout": RESUMED_FOR.as_secs()});
            let sandbox: Sandbox = team.change(&format!("{path}/connect"), &body).await?;
            let time = say::span(RESUMED_FOR);
            say::remark(&format!("cofferdam: sandbox {id} was paused; it goes on, for {time}"));
            sandbox.envd_access_token
        }
    };
    let agent = Agent {
        authority: api.authority().to_owned(),
        sandbox: id.clone(),
        token,
        user: acting.user.clone(),
        connections: api.connections().clone(),
    };
    Ok(Some(Inside { agent, team }))
}

impl Inside {
    /// What to say of `error`: if the sandbox has ended or stands still meanwhile, that.
    pub(super) async fn explain(&self, error: AgentError) -> anyhow::Error {
        if !error.may_be_its_end() {
            return error.into();
        }
        let id = &self.agent.sandbox;
        let found: Result<SandboxDetail, _> = self.team.get(&format!("/sandboxes/{id}")).await;
        let what = match found {
            Ok(detail) if detail.listed.state == SandboxState::Paused => {
                format!("sandbox {id} was paused meanwhile; what runs in it stands still")
            }
            Ok(_running) => format!("sandbox {id} runs on"),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                format!("sandbox {id} has ended; see `cofferdam sandbox explain {id}`")
            }
            Err(silent) => format!("what became of sandbox {id} is not known: {silent}"),
        };
        anyhow::Error::new(error).context(what)
    }
}

/// A program, as the agent is asked for it.
pub(super) fn program(around: &Around, command: &[String]) -> StartRequest {
    let mut words = command.iter().cloned();
    let config = ProcessConfig {
        cmd: words.next().unwrap_or_default(),
        args: words.collect(),
        envs: around.env.iter().cloned().collect(),
        cwd: around.cwd.clone(),
        ..ProcessConfig::default()
    };
    StartRequest { process: config.into(), ..StartRequest::default() }
}
