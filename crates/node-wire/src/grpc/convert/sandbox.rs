//! Sandboxes, routes, samples and events.

use std::net::IpAddr;

use model::{Egress, EndReason, Ipv4Range, OnTimeout, SandboxPhase, SandboxSpec, Secret};

use super::{Malformed, duration, from_wire, id, ms, pairs, time, to_wire};
use crate::grpc::proto::cofferdam::node::v1;
use crate::{NodeEvent, Route, Sample, SandboxStatus, Started};

pub(super) const PHASES: [(SandboxPhase, v1::SandboxPhase); 9] = [
    (SandboxPhase::Reserved, v1::SandboxPhase::Reserved),
    (SandboxPhase::Booting, v1::SandboxPhase::Booting),
    (SandboxPhase::Live, v1::SandboxPhase::Live),
    (SandboxPhase::Checkpointing, v1::SandboxPhase::Checkpointing),
    (SandboxPhase::Pausing, v1::SandboxPhase::Pausing),
    (SandboxPhase::Stopping, v1::SandboxPhase::Stopping),
    (SandboxPhase::TearingDown, v1::SandboxPhase::TearingDown),
    (SandboxPhase::Stuck, v1::SandboxPhase::Stuck),
    (SandboxPhase::Stopped, v1::SandboxPhase::Stopped),
];

pub(super) const REASONS: [(EndReason, v1::EndReason); 7] = [
    (EndReason::Request, v1::EndReason::Request),
    (EndReason::Timeout, v1::EndReason::Timeout),
    (EndReason::Crashed, v1::EndReason::Crashed),
    (EndReason::StartFailed, v1::EndReason::StartFailed),
    (EndReason::NodeStop, v1::EndReason::NodeStop),
    (EndReason::Reclaimed, v1::EndReason::Reclaimed),
    (EndReason::HostRestart, v1::EndReason::HostRestart),
];

const ON_TIMEOUT: [(OnTimeout, v1::OnTimeout); 1] = [(OnTimeout::Kill, v1::OnTimeout::Kill)];

/// The reason a word of [`EndReason::as_str`] stands for.
pub(in crate::grpc) fn end_reason(word: &str) -> Option<EndReason> {
    REASONS.iter().map(|(reason, _)| *reason).find(|reason| reason.as_str() == word)
}

impl From<SandboxSpec> for v1::SandboxSpec {
    fn from(spec: SandboxSpec) -> Self {
        Self {
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
            allow_out: texts(&spec.egress.allow),
            deny_out: texts(&spec.egress.deny),
            ..Self::default()
        }
    }
}

impl TryFrom<v1::SandboxSpec> for SandboxSpec {
    type Error = Malformed;

    fn try_from(message: v1::SandboxSpec) -> Result<Self, Malformed> {
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
            egress: Egress {
                allow: ranges("spec.allow_out", &message.allow_out)?,
                deny: ranges("spec.deny_out", &message.deny_out)?,
            },
        })
    }
}

pub(in crate::grpc) fn texts(ranges: &[Ipv4Range]) -> Vec<String> {
    ranges.iter().map(ToString::to_string).collect()
}

pub(in crate::grpc) fn ranges(
    field: &'static str,
    texts: &[String],
) -> Result<Vec<Ipv4Range>, Malformed> {
    let range = |text: &String| {
        text.parse().map_err(|error| Malformed::new(field, format!("is not legal: {error}")))
    };
    texts.iter().map(range).collect()
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

impl From<NodeEvent> for v1::Event {
    fn from(event: NodeEvent) -> Self {
        let event = match event {
            NodeEvent::Ended { id, lifecycle, reason, at } => v1::Ended {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                reason: to_wire(&REASONS, &reason).into(),
                at: Some(at.into()).into(),
                ..v1::Ended::default()
            }
            .into(),
            NodeEvent::TornDown { id, lifecycle, reason, forced, left, at } => v1::TornDown {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                reason: to_wire(&REASONS, &reason).into(),
                forced,
                left,
                at: Some(at.into()).into(),
                ..v1::TornDown::default()
            }
            .into(),
            NodeEvent::EndMoved { id, lifecycle, ends_at } => v1::EndMoved {
                sandbox: id.to_string(),
                lifecycle: lifecycle.to_string(),
                ends_at: Some(ends_at.into()).into(),
                ..v1::EndMoved::default()
            }
            .into(),
        };
        Self { event, ..Self::default() }
    }
}

/// `None` for the word that the subscription is in force, and for kinds of events that only a
/// newer node has.
pub(in crate::grpc) fn event(message: v1::Event) -> Result<Option<NodeEvent>, Malformed> {
    Ok(match message.event {
        None | Some(v1::event::Event::Subscribed(_)) => None,
        Some(v1::event::Event::Ended(ended)) => Some(NodeEvent::Ended {
            id: id("ended.sandbox", &ended.sandbox)?,
            lifecycle: id("ended.lifecycle", &ended.lifecycle)?,
            reason: from_wire(&REASONS, "ended.reason", ended.reason)?,
            at: time("ended.at", ended.at.into_option())?,
        }),
        Some(v1::event::Event::TornDown(torn)) => Some(NodeEvent::TornDown {
            id: id("torn_down.sandbox", &torn.sandbox)?,
            lifecycle: id("torn_down.lifecycle", &torn.lifecycle)?,
            reason: from_wire(&REASONS, "torn_down.reason", torn.reason)?,
            forced: torn.forced,
            left: torn.left,
            at: time("torn_down.at", torn.at.into_option())?,
        }),
        Some(v1::event::Event::EndMoved(moved)) => Some(NodeEvent::EndMoved {
            id: id("end_moved.sandbox", &moved.sandbox)?,
            lifecycle: id("end_moved.lifecycle", &moved.lifecycle)?,
            ends_at: time("end_moved.ends_at", moved.ends_at.into_option())?,
        }),
    })
}
