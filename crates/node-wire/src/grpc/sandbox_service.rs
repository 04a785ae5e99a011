mod executions;
mod order;

use std::sync::Arc;
use std::time::Duration;

use buffa_types::google::protobuf::Empty;
use connectrpc::{ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult};
use model::{EndReason, Keep, SandboxId, SandboxSpec};
use tracing::warn;

use self::executions::Executions;
use self::order::{Order, Stock};
use super::convert::{Malformed, end_reason, id, optional_time};
use super::failure::{Failure, Reason};
use super::proto::{
    RunningSandbox, SandboxCheckpointRequest, SandboxCheckpointResponse, SandboxConfig,
    SandboxCreateRequest, SandboxCreateResponse, SandboxDeleteRequest, SandboxListResponse,
    SandboxPauseRequest, SandboxPauseResponse, SandboxService, SandboxUpdateRequest,
};
use crate::{CreateError, NewSnapshot, NodeApi, NodeError, PauseError, SandboxStatus, Started};

/// The longest a create may take, as at E2B; a caller's deadline may be nearer.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// E2B's words for sandboxes.
///
/// Unlike E2B's, this node ends or pauses a sandbox itself when its time is over, answers a delete
/// when everything is released, and refuses a create while it drains. A paused sandbox stays where
/// it is: only this node can resume it.
#[derive(Debug)]
pub(super) struct Sandboxes {
    node: Arc<dyn NodeApi>,
    executions: Executions,
}

impl Sandboxes {
    pub(super) fn new(node: Arc<dyn NodeApi>) -> Self {
        Self { node, executions: Executions::default() }
    }

    async fn start(
        &self,
        message: SandboxCreateRequest,
        limit: Duration,
    ) -> Result<SandboxCreateResponse, Failure> {
        let info = self.node.info().await?;
        // Whatever else may be wrong with the order is another node's to say.
        if info.phase.is_draining() {
            return Err(CreateError::Draining.into());
        }
        let resumes = message.sandbox.snapshot;
        let paused = if resumes { self.node.paused().await? } else { Vec::new() };
        let stock = Stock { templates: &info.templates, paused: &paused };
        let Order { spec, ends_at, execution, resume } = Order::read(message, &stock)?;
        let id = spec.id.clone();
        let (started, memory) = self.run(spec, resume, limit).await?;
        if let Some(execution) = execution {
            self.executions.note(&id, &started.status.lifecycle, execution);
        }
        // The spec counts its time from the moment the sandbox runs; here it is a moment.
        match self.node.set_end(&id, ends_at).await {
            // It may have ended already, which is told like every other end.
            Ok(()) | Err(NodeError::NotFound(_)) => {}
            // The sandbox runs, and ends by itself not much later than ordered.
            Err(error) => warn!(
                sandbox.id = %id,
                error = %observe::chain(&error),
                "a sandbox ends a little later than ordered"
            ),
        }
        Ok(SandboxCreateResponse {
            client_id: info.id.to_string(),
            // A new sandbox has no memory to go on with, not even that of its template.
            filesystem_boot_applied: !memory,
            ..SandboxCreateResponse::default()
        })
    }

    /// Starts a sandbox, or lets it go on; and whether its processes went on.
    async fn run(
        &self,
        spec: SandboxSpec,
        resume: Option<Keep>,
        limit: Duration,
    ) -> Result<(Started, bool), Failure> {
        let Some(keep) = resume else { return Ok((self.node.create(spec, limit).await?, false)) };
        match self.node.resume(spec, keep, limit).await {
            Ok(resumed) => Ok((resumed.started, resumed.memory)),
            Err(error @ CreateError::TooManyStarting { .. }) => {
                let text = "too many sandboxes resuming on this node, please retry";
                Err(Failure::from(error).told_as(ErrorCode::ResourceExhausted, text))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn find(&self, id: &SandboxId) -> Result<SandboxStatus, Failure> {
        let all = self.node.list().await?;
        let found = all.into_iter().find(|s| s.id == *id && s.phase.is_routable());
        found.ok_or_else(|| NodeError::NotFound(id.to_string()).into())
    }

    fn running(&self, node: &str, sandbox: SandboxStatus) -> RunningSandbox {
        let execution = self.executions.of(&sandbox.id, &sandbox.lifecycle);
        let execution = execution.unwrap_or_else(|| sandbox.lifecycle.to_string());
        let vcpu = i64::from(sandbox.resources.vcpus);
        let mib = |mib: u64| i64::try_from(mib).unwrap_or(i64::MAX);
        let ram_mb = mib(sandbox.resources.memory_mib);
        // Older control planes read this one.
        let config = SandboxConfig {
            template_id: sandbox.template.to_string(),
            sandbox_id: sandbox.id.to_string(),
            metadata: sandbox.metadata.into_iter().collect(),
            vcpu,
            ram_mb,
            total_disk_size_mb: mib(sandbox.resources.disk_mib),
            team_id: sandbox.team.to_string(),
            execution_id: execution.clone(),
            ..SandboxConfig::default()
        };
        RunningSandbox {
            config: config.into(),
            client_id: node.to_owned(),
            start_time: Some(sandbox.started_at.into()).into(),
            end_time: Some(sandbox.ends_at.into()).into(),
            sandbox_id: sandbox.id.to_string(),
            team_id: sandbox.team.to_string(),
            execution_id: execution,
            vcpu,
            ram_mb,
            ..RunningSandbox::default()
        }
    }
}

fn sandbox_id(text: &str) -> Result<SandboxId, Failure> {
    Ok(id("sandbox_id", text)?)
}

/// A checkpoint: a template that has its build's name, which is the only one it is told by.
fn snapshot(build: &str) -> Result<NewSnapshot, Failure> {
    let illegal = |error: Malformed| {
        // After any other code the caller kills the sandbox, which runs on.
        Failure::new(ErrorCode::FailedPrecondition, Reason::InvalidRequest, error.to_string())
    };
    let template = id("build_id", build).map_err(illegal)?;
    let build = id("build_id", build).map_err(illegal)?;
    Ok(NewSnapshot { template, build, passing: false })
}

/// Update and pause do not name the sandbox that is not there.
fn in_short(failure: Failure) -> Failure {
    if failure.is_not_found() {
        return failure.told_as(ErrorCode::NotFound, "sandbox not found");
    }
    failure
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl SandboxService for Sandboxes {
    async fn create(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, SandboxCreateRequest>,
    ) -> ServiceResult<SandboxCreateResponse> {
        let limit = context.time_remaining().unwrap_or(CREATE_LIMIT).min(CREATE_LIMIT);
        Response::ok(self.start(request.to_owned_message(), limit).await?)
    }

    async fn update(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SandboxUpdateRequest>,
    ) -> ServiceResult<Empty> {
        let message = request.to_owned_message();
        let sandbox = sandbox_id(&message.sandbox_id)?;
        let ends_at =
            optional_time("end_time", message.end_time.into_option()).map_err(Failure::from)?;
        // Both or none: rules that cannot be applied leave the end where it is.
        let egress = message.egress.as_option().map(order::egress).transpose()?;
        if ends_at.is_none() && egress.is_none() {
            self.find(&sandbox).await.map_err(in_short)?;
        }
        let failed = |error| in_short(Failure::from(error));
        if let Some(egress) = egress {
            self.node.set_egress(&sandbox, egress).await.map_err(failed)?;
        }
        if let Some(ends_at) = ends_at {
            self.node.set_end(&sandbox, ends_at).await.map_err(failed)?;
        }
        Response::ok(Empty::default())
    }

    async fn list(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, Empty>,
    ) -> ServiceResult<SandboxListResponse> {
        let node = self.node.drain_status().await.map_err(Failure::from)?.node;
        let all = self.node.list().await.map_err(Failure::from)?;
        self.executions.forget_all_but(&all);
        let live = all.into_iter().filter(|sandbox| sandbox.phase.is_routable());
        Response::ok(SandboxListResponse {
            sandboxes: live.map(|sandbox| self.running(node.as_str(), sandbox)).collect(),
            ..SandboxListResponse::default()
        })
    }

    async fn delete(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SandboxDeleteRequest>,
    ) -> ServiceResult<Empty> {
        let sandbox = sandbox_id(request.sandbox_id)?;
        // Other words are the caller's own; for the node somebody asked.
        let reason = request.kill_reason.and_then(end_reason).unwrap_or(EndReason::Request);
        self.node.kill(&sandbox, reason).await.map_err(Failure::from)?;
        Response::ok(Empty::default())
    }

    async fn pause(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SandboxPauseRequest>,
    ) -> ServiceResult<SandboxPauseResponse> {
        let sandbox = sandbox_id(request.sandbox_id)?;
        let keep = if request.filesystem_only { Keep::Files } else { Keep::Memory };
        match self.node.pause(&sandbox, keep).await {
            // The node does so by itself when its time is over, at which the caller asks for it.
            Ok(_) | Err(PauseError::Paused(_)) => Response::ok(SandboxPauseResponse::default()),
            Err(error) => Err(in_short(error.into()).into()),
        }
    }

    async fn checkpoint(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SandboxCheckpointRequest>,
    ) -> ServiceResult<SandboxCheckpointResponse> {
        let sandbox = sandbox_id(request.sandbox_id)?;
        let new = snapshot(request.build_id)?;
        self.node.snapshot(&sandbox, new).await.map_err(Failure::from)?;
        Response::ok(SandboxCheckpointResponse::default())
    }
}
