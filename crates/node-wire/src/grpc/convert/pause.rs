//! Paused sandboxes and snapshots.

use model::{Keep, SandboxId};

use super::{Malformed, from_wire, id, micros, pairs, time, to_wire, us};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{NewSnapshot, PausedStatus, Resumed, SnapshotStatus, Started};

pub(super) const KEEPS: [(Keep, v1::Keep); 2] =
    [(Keep::Memory, v1::Keep::Memory), (Keep::Files, v1::Keep::Files)];

impl From<Keep> for v1::Keep {
    fn from(keep: Keep) -> Self {
        to_wire(&KEEPS, &keep)
    }
}

pub(in crate::grpc) fn keep(value: buffa::EnumValue<v1::Keep>) -> Result<Keep, Malformed> {
    from_wire(&KEEPS, "keep", value)
}

impl From<PausedStatus> for v1::PausedSandbox {
    fn from(paused: PausedStatus) -> Self {
        Self {
            id: paused.id.to_string(),
            lifecycle: paused.lifecycle.to_string(),
            team: paused.team.to_string(),
            template: paused.template.to_string(),
            build: paused.build.to_string(),
            resources: v1::Resources::from(paused.resources).into(),
            metadata: pairs(paused.metadata),
            started_at: Some(paused.started_at.into()).into(),
            paused_at: Some(paused.paused_at.into()).into(),
            memory: paused.memory,
            agent_silent: paused.agent_silent,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::PausedSandbox> for PausedStatus {
    type Error = Malformed;

    fn try_from(message: v1::PausedSandbox) -> Result<Self, Malformed> {
        let resources = message.resources.into_option();
        Ok(Self {
            id: id("paused.id", &message.id)?,
            lifecycle: id("paused.lifecycle", &message.lifecycle)?,
            team: id("paused.team", &message.team)?,
            template: id("paused.template", &message.template)?,
            build: id("paused.build", &message.build)?,
            resources: resources.ok_or_else(|| Malformed::missing("paused.resources"))?.into(),
            metadata: message.metadata.into_iter().collect(),
            started_at: time("paused.started_at", message.started_at.into_option())?,
            paused_at: time("paused.paused_at", message.paused_at.into_option())?,
            memory: message.memory,
            agent_silent: message.agent_silent,
        })
    }
}

impl From<Resumed> for v1::ResumeSandboxResponse {
    fn from(resumed: Resumed) -> Self {
        let Resumed { started, memory } = resumed;
        Self {
            sandbox: v1::Sandbox::from(started.status).into(),
            route: v1::Route::from(started.route).into(),
            memory,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::ResumeSandboxResponse> for Resumed {
    type Error = Malformed;

    fn try_from(message: v1::ResumeSandboxResponse) -> Result<Self, Malformed> {
        let sandbox = message.sandbox.into_option();
        let route = message.route.into_option();
        let started = Started {
            status: sandbox.ok_or_else(|| Malformed::missing("sandbox"))?.try_into()?,
            route: route.ok_or_else(|| Malformed::missing("route"))?.try_into()?,
        };
        Ok(Self { started, memory: message.memory })
    }
}

/// The message that asks for a snapshot of `sandbox`.
impl From<(&SandboxId, NewSnapshot)> for v1::SnapshotSandboxRequest {
    fn from((sandbox, new): (&SandboxId, NewSnapshot)) -> Self {
        Self {
            sandbox: sandbox.to_string(),
            template: new.template.to_string(),
            build: new.build.to_string(),
            passing: new.passing,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::SnapshotSandboxRequest> for (SandboxId, NewSnapshot) {
    type Error = Malformed;

    fn try_from(message: v1::SnapshotSandboxRequest) -> Result<Self, Malformed> {
        let new = NewSnapshot {
            template: id("template", &message.template)?,
            build: id("build", &message.build)?,
            passing: message.passing,
        };
        Ok((id("sandbox", &message.sandbox)?, new))
    }
}

impl From<SnapshotStatus> for v1::Snapshot {
    fn from(snapshot: SnapshotStatus) -> Self {
        Self {
            template: snapshot.template.to_string(),
            build: snapshot.build.to_string(),
            halted_us: us(snapshot.halted),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Snapshot> for SnapshotStatus {
    type Error = Malformed;

    fn try_from(message: v1::Snapshot) -> Result<Self, Malformed> {
        Ok(Self {
            template: id("snapshot.template", &message.template)?,
            build: id("snapshot.build", &message.build)?,
            halted: micros(message.halted_us),
        })
    }
}
