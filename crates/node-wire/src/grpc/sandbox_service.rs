mod executions;
mod order;

use std::sync::Arc;
use std::time::Duration;

use buffa_types::google::protobuf::Empty;
use connectrpc::{ErrorCode, RequestContext, Response, ServiceRequest, ServiceResult};
use model::{EndReason, SandboxId, SandboxPhase};
use tracing::warn;

use self::executions::Executions;
use self::order::Order;
use super::convert::{end_reason, id, optional_time};
use super::failure::Failure;
use super::proto::{
    RunningSandbox, SandboxCheckpointRequest, SandboxCheckpointResponse, SandboxConfig,
    SandboxCreateRequest, SandboxCreateResponse, SandboxDeleteRequest, SandboxListResponse,
    SandboxPauseRequest, SandboxPauseResponse, SandboxService, SandboxUpdateRequest,
};
use crate::{CreateError, NodeApi, NodeError, SandboxStatus};

/// The longest a create may take, as at E2B; a caller's deadline may be nearer.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// E2B's words for sandboxes.
///
/// Unlike E2B's, this node ends a sandbox itself when its time is over, answers a delete when
/// everything is released, and refuses a create while it drains.
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
        let Order { spec, ends_at, execution } = Order::read(message, &info.templates)?;
        let id = spec.id.clone();
        let started = self.node.create(spec, limit).await?;
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
            // There is no memory to resume, so every start is one from the file system.
            filesystem_boot_applied: true,
            ..SandboxCreateResponse::default()
        })
    }

    async fn find(&self, id: &SandboxId) -> Result<SandboxStatus, Failure> {
        let all = self.node.list().await?;
        let found = all.into_iter().find(|s| s.id == *id && s.phase == SandboxPhase::Live);
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
        let live = all.into_iter().filter(|sandbox| sandbox.phase == SandboxPhase::Live);
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
        self.find(&sandbox).await.map_err(in_short)?;
        let text =
            format!("this node cannot pause sandboxes; '{sandbox}' runs on until its end_time");
        Err(Failure::unsupported(text).into())
    }

    async fn checkpoint(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, SandboxCheckpointRequest>,
    ) -> ServiceResult<SandboxCheckpointResponse> {
        let sandbox = sandbox_id(request.sandbox_id)?;
        self.find(&sandbox).await?;
        // E2B's control plane takes a sandbox for lost, and kills it, after every other code than
        // this one and ResourceExhausted.
        let text = format!("this node cannot take checkpoints; sandbox '{sandbox}' runs on");
        let refusal = Failure::unsupported(text.as_str());
        Err(refusal.told_as(ErrorCode::FailedPrecondition, text).into())
    }
}
