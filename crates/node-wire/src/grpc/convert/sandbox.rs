//! Sandboxes, routes and samples.

use std::net::IpAddr;

use model::{EndReason, Keep, OnTimeout, SandboxPhase, SandboxSpec, Secret};

use super::{Malformed, duration, egress, from_wire, id, ms, pairs, time, to_wire};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{Route, Sample, SandboxStatus, Started};

pub(super) const PHASES: [(SandboxPhase, v1::SandboxPhase); 10] = [
    (SandboxPhase::Reserved, v1::SandboxPhase::Reserved),
    (SandboxPhase::Booting, v1::SandboxPhase::Booting),
    (SandboxPhase::Live, v1::SandboxPhase::Live),
    (SandboxPhase::Checkpointing, v1::SandboxPhase::Checkpointing),
    (SandboxPhase::Pausing, v1::SandboxPhase::Pausing),
    (SandboxPhase::Paused, v1::SandboxPhase::Paused),
    (SandboxPhase::Stopping, v1::SandboxPhase::Stopping),
    (SandboxPhase::TearingDown, v1::SandboxPhase::TearingDown),
    (SandboxPhase::Stuck, v1::SandboxPhase::Stuck),
    (SandboxPhase::Stopped, v1::SandboxPhase::Stopped),
];

pub(super) const REASONS: [(EndReason, v1::EndReason); 8] = [
    (EndReason::Request, v1::EndReason::Request),
    (EndReason::Timeout, v1::EndReason::Timeout),
    (EndReason::Crashed, v1::EndReason::Crashed),
    (EndReason::StartFailed, v1::EndReason::StartFailed),
    (EndReason::NodeStop, v1::EndReason::NodeStop),
    (EndReason::Reclaimed, v1::EndReason::Reclaimed),
    (EndReason::HostRestart, v1::EndReason::HostRestart),
    (EndReason::Paused, v1::EndReason::Paused),
];

pub(super) const ON_TIMEOUT: [(OnTimeout, v1::OnTimeout); 3] = [
    (OnTimeout::Kill, v1::OnTimeout::Kill),
    (OnTimeout::Pause(Keep::Memory), v1::OnTimeout::PauseMemory),
    (OnTimeout::Pause(Keep::Files), v1::OnTimeout::PauseFiles),
];

/// The reason a word of [`EndReason::as_str`] stands for.
pub(in crate::grpc) fn end_reason(word: &str) -> Option<EndReason> {
    REASONS.iter().map(|(reason, _)| *reason).find(|reason| reason.as_str() == word)
}

impl From<SandboxSpec> for v1::SandboxSpec {
    fn from(spec: SandboxSpec) -> Self {
        let mut message = Self {
            id: spec.id.to_string(),
            team: spec.team.to_string(),
            template: spec.template.to_string(),
            resources: spec.resources.map(v1::Resources::from).into(),
            env: pairs(spec.env),
            metadata: pairs(spec.metadata),
            access_token: spec.access_token.map(|token| token.expose().to_owned()),
            ttl_ms: ms(spec.ttl),
            on_timeout: to_wire(&ON_TIMEOUT, &spec.on_timeout).into(),
            internet: spec.internet,
            ..Self::default()
        };
        egress::put(&spec.egress, &mut message);
        message
    }
}

impl TryFrom<v1::SandboxSpec> for SandboxSpec {
    type Error = Malformed;

    fn try_from(message: v1::SandboxSpec) -> Result<Self, Malformed> {
        let egress = egress::take(&message)?;
        Ok(Self {
            id: id("spec.id", &message.id)?,
            team: id("spec.team", &message.team)?,
            template: id("spec.template", &message.template)?,
            resources: message.resources.into_option().map(Into::into),
            env: message.env.into_iter().collect(),
            metadata: message.metadata.into_iter().collect(),
            access_token: message.access_token.map(Secret::new),
            ttl: duration(message.ttl_ms),
            on_timeout: from_wire(&ON_TIMEOUT, "spec.on_timeout", message.on_timeout)?,
            internet: message.internet,
            egress,
        })
    }
}

impl From<SandboxStatus> for v1::Sandbox {
    fn from(status: SandboxStatus) -> Self {
        Self {
            id: status.id.to_string(),
            lifecycle: status.lifecycle.to_string(),
            team: status.team.to_string(),
            template: status.template.to_string(),
            phase: to_wire(&PHASES, &status.phase).into(),
            resources: v1::Resources::from(status.resources).into(),
            metadata: pairs(status.metadata),
            started_at: Some(status.started_at.into()).into(),
            ends_at: Some(status.ends_at.into()).into(),
            left: status.left,
            address: status.addr.map(|addr| addr.to_string()),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Sandbox> for SandboxStatus {
    type Error = Malformed;

    fn try_from(message: v1::Sandbox) -> Result<Self, Malformed> {
        let resources = message.resources.into_option();
        let resources = resources.ok_or_else(|| Malformed::missing("sandbox.resources"))?;
        Ok(Self {
            id: id("sandbox.id", &message.id)?,
            lifecycle: id("sandbox.lifecycle", &message.lifecycle)?,
            team: id("sandbox.team", &message.team)?,
            template: id("sandbox.template", &message.template)?,
            phase: from_wire(&PHASES, "sandbox.phase", message.phase)?,
            resources: resources.into(),
            metadata: message.metadata.into_iter().collect(),
            started_at: time("sandbox.started_at", message.started_at.into_option())?,
            ends_at: time("sandbox.ends_at", message.ends_at.into_option())?,
            left: message.left,
            addr: message.address.map(|text| addr("sandbox.address", &text)).transpose()?,
        })
    }
}

impl From<Route> for v1::Route {
    fn from(route: Route) -> Self {
        Self {
            sandbox: route.sandbox.to_string(),
            lifecycle: route.lifecycle.to_string(),
            address: route.addr.to_string(),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Route> for Route {
    type Error = Malformed;

    fn try_from(message: v1::Route) -> Result<Self, Malformed> {
        Ok(Self {
            sandbox: id("route.sandbox", &message.sandbox)?,
            lifecycle: id("route.lifecycle", &message.lifecycle)?,
            addr: addr("route.address", &message.address)?,
        })
    }
}

fn addr(field: &'static str, text: &str) -> Result<IpAddr, Malformed> {
    text.parse().map_err(|error| Malformed::new(field, format!("is none: {error}")))
}

impl From<Started> for v1::CreateSandboxResponse {
    fn from(started: Started) -> Self {
        Self {
            sandbox: v1::Sandbox::from(started.status).into(),
            route: v1::Route::from(started.route).into(),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::CreateSandboxResponse> for Started {
    type Error = Malformed;

    fn try_from(message: v1::CreateSandboxResponse) -> Result<Self, Malformed> {
        let sandbox = message.sandbox.into_option();
        let route = message.route.into_option();
        Ok(Self {
            status: sandbox.ok_or_else(|| Malformed::missing("sandbox"))?.try_into()?,
            route: route.ok_or_else(|| Malformed::missing("route"))?.try_into()?,
        })
    }
}

impl From<Sample> for v1::Sample {
    fn from(sample: Sample) -> Self {
        Self {
            at: Some(sample.at.into()).into(),
            cpu_count: sample.cpu_count,
            cpu_used_pct: sample.cpu_used_pct,
            mem_total_bytes: sample.mem_total_bytes,
            mem_used_bytes: sample.mem_used_bytes,
            mem_cache_bytes: sample.mem_cache_bytes,
            disk_total_bytes: sample.disk_total_bytes,
            disk_used_bytes: sample.disk_used_bytes,
            ..Self::default()
        }
    }
}

impl TryFrom<v1::Sample> for Sample {
    type Error = Malformed;

    fn try_from(message: v1::Sample) -> Result<Self, Malformed> {
        Ok(Self {
            at: time("sample.at", message.at.into_option())?,
            cpu_count: message.cpu_count,
            cpu_used_pct: message.cpu_used_pct,
            mem_total_bytes: message.mem_total_bytes,
            mem_used_bytes: message.mem_used_bytes,
            mem_cache_bytes: message.mem_cache_bytes,
            disk_total_bytes: message.disk_total_bytes,
            disk_used_bytes: message.disk_used_bytes,
        })
    }
}
