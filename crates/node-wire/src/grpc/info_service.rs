use std::sync::Arc;
use std::time::SystemTime;

use buffa_types::google::protobuf::Empty;
use connectrpc::{RequestContext, Response, ServiceRequest, ServiceResult};
use model::{NodePhase, NodeRequest, SandboxPhase};

use super::failure::Failure;
use super::proto::{
    DiskMetrics, InfoService, MachineInfo, ServiceInfoResponse, ServiceInfoRole, ServiceInfoStatus,
    ServiceStatusChangeRequest,
};
use crate::{NodeApi, SandboxStatus};

/// E2B's older fields call it MB.
const MIB: u64 = 1024 * 1024;

/// E2B's view of a node and of its drain.
#[derive(Debug)]
pub(super) struct Info {
    node: Arc<dyn NodeApi>,
    /// The service is made when its process starts.
    started_at: SystemTime,
}

impl Info {
    pub(super) fn new(node: Arc<dyn NodeApi>) -> Self {
        Self { node, started_at: SystemTime::now() }
    }
}

/// E2B has no word for a node that starts: it works, but is not to be chosen.
pub(super) const fn status(phase: NodePhase) -> ServiceInfoStatus {
    match phase {
        NodePhase::Healthy => ServiceInfoStatus::Healthy,
        NodePhase::Starting | NodePhase::Standby => ServiceInfoStatus::Standby,
        NodePhase::Unhealthy => ServiceInfoStatus::Unhealthy,
        NodePhase::Draining | NodePhase::Forcing | NodePhase::ForceFailed | NodePhase::Stopped => {
            ServiceInfoStatus::Draining
        }
    }
}

/// What is asked of the node, or why it makes no sense.
fn asked(message: &ServiceStatusChangeRequest) -> Result<NodeRequest, Failure> {
    let force = message.force_stop == Some(true);
    let Some(status) = message.service_status.as_known() else {
        let text = format!(
            "service_status {} is not known; give 0 (Healthy), 1 (Draining), 2 (Unhealthy) or 3 (Standby)",
            message.service_status.to_i32()
        );
        return Err(Failure::invalid(text));
    };
    match (status, force) {
        (ServiceInfoStatus::Draining, false) => Ok(NodeRequest::Drain),
        (ServiceInfoStatus::Draining, true) => Ok(NodeRequest::DrainForced),
        (_, true) => {
            Err(Failure::invalid("force_stop is only supported when setting status to draining"))
        }
        (ServiceInfoStatus::Healthy, false) => Ok(NodeRequest::Healthy),
        (ServiceInfoStatus::Unhealthy, false) => Ok(NodeRequest::Unhealthy),
        (ServiceInfoStatus::Standby, false) => Ok(NodeRequest::Standby),
    }
}

/// The message that asks for `request`.
pub(super) fn change(request: NodeRequest) -> ServiceStatusChangeRequest {
    let (status, force) = match request {
        NodeRequest::Healthy => (ServiceInfoStatus::Healthy, None),
        NodeRequest::Standby => (ServiceInfoStatus::Standby, None),
        NodeRequest::Unhealthy => (ServiceInfoStatus::Unhealthy, None),
        NodeRequest::Drain => (ServiceInfoStatus::Draining, None),
        NodeRequest::DrainForced => (ServiceInfoStatus::Draining, Some(true)),
    };
    ServiceStatusChangeRequest {
        service_status: status.into(),
        force_stop: force,
        ..ServiceStatusChangeRequest::default()
    }
}

/// Disk promised to sandboxes that run or stand still, in bytes.
fn disk_allocated(sandboxes: &[SandboxStatus]) -> u64 {
    let holds = |phase: SandboxPhase| {
        phase.is_routable() || matches!(phase, SandboxPhase::Pausing | SandboxPhase::Paused)
    };
    let holding = sandboxes.iter().filter(|sandbox| holds(sandbox.phase));
    holding
        .map(|sandbox| sandbox.resources.disk_mib.saturating_mul(MIB))
        .fold(0, u64::saturating_add)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whole percents. What is not a number is none.
fn percent(share: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range by the clamp; a cast makes NaN zero"
    )]
    let whole = share.clamp(0.0, 100.0).round() as u32;
    whole
}

#[expect(refining_impl_trait, reason = "naming the plain message is clearer than its bound")]
impl InfoService for Info {
    async fn service_info(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, Empty>,
    ) -> ServiceResult<ServiceInfoResponse> {
        let info = self.node.info().await.map_err(Failure::from)?;
        let drain = self.node.drain_status().await.map_err(Failure::from)?;
        let sandboxes = self.node.list().await.map_err(Failure::from)?;
        let (metrics, processor) = (info.metrics, info.processor);
        let disk_allocated = disk_allocated(&sandboxes);
        Response::ok(ServiceInfoResponse {
            node_id: info.id.to_string(),
            service_id: drain.service_instance,
            service_version: info.version,
            // One document: what is said of the drain fits together.
            service_status: status(drain.phase).into(),
            service_roles: vec![
                ServiceInfoRole::Orchestrator.into(),
                ServiceInfoRole::TemplateBuilder.into(),
            ],
            service_startup: Some(self.started_at.into()).into(),
            machine_info: MachineInfo {
                cpu_architecture: processor.architecture,
                cpu_family: processor.family,
                cpu_model: processor.model,
                cpu_model_name: processor.model_name,
                ..MachineInfo::default()
            }
            .into(),
            service_status_changed_at: Some(drain.changed_at.into()).into(),
            metric_vcpu_used: metrics.allocated_vcpus.into(),
            metric_memory_used_mb: signed(metrics.allocated_memory_bytes / MIB),
            metric_disk_mb: signed(disk_allocated / MIB),
            metric_sandboxes_running: info.sandboxes,
            metric_cpu_percent: percent(metrics.cpu_percent),
            metric_memory_used_bytes: metrics.memory_used_bytes,
            metric_cpu_count: metrics.cpu_count,
            metric_memory_total_bytes: metrics.memory_total_bytes,
            metric_cpu_allocated: metrics.allocated_vcpus,
            metric_memory_allocated_bytes: metrics.allocated_memory_bytes,
            metric_disk_allocated_bytes: disk_allocated,
            metric_disks: vec![DiskMetrics {
                used_bytes: metrics.disk_used_bytes,
                total_bytes: metrics.disk_total_bytes,
                ..DiskMetrics::default()
            }],
            ..ServiceInfoResponse::default()
        })
    }

    async fn service_status_override(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, ServiceStatusChangeRequest>,
    ) -> ServiceResult<Empty> {
        let request = asked(&request.to_owned_message())?;
        self.node.request(request).await.map_err(Failure::from)?;
        Response::ok(Empty::default())
    }
}
