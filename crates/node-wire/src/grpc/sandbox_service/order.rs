//! What E2B's control plane orders, as a spec; and what of it this node cannot do.

use std::time::SystemTime;

use connectrpc::ErrorCode;
use model::{Egress, OnTimeout, Resources, SandboxSpec, Secret};

use crate::grpc::convert::{Malformed, id, ranges, time};
use crate::grpc::failure::{Failure, Reason};
use crate::grpc::proto::{SandboxConfig, SandboxCreateRequest, SandboxNetworkEgressConfig};
use crate::{CreateError, TemplateInfo};

/// The longest execution id that is kept; E2B's are UUIDs.
const MAX_EXECUTION_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct Order {
    pub(super) spec: SandboxSpec,
    pub(super) ends_at: SystemTime,
    /// What the caller calls this run.
    pub(super) execution: Option<String>,
}

impl Order {
    /// Reads `message`, or says which field stands in the way.
    ///
    /// Not looked at, because they describe an artefact or are for the caller itself: kernel and
    /// Firecracker versions, huge pages, alias, base template, the agent's version,
    /// `max_sandbox_length`, `events_ttl_days`, `auto_pause_filesystem_only`, and `start_time`, as
    /// a sandbox starts when it starts.
    pub(super) fn read(
        message: SandboxCreateRequest,
        templates: &[TemplateInfo],
    ) -> Result<Self, Failure> {
        let ends_at = time("end_time", message.end_time.into_option())?;
        let config = message.sandbox.into_option();
        let config = config.ok_or_else(|| Malformed::missing("sandbox"))?;
        check(&config)?;
        let rules = config.network.as_option().and_then(|network| network.egress.as_option());
        let egress = rules.map(egress).transpose()?.unwrap_or_default();
        let template = find(&config, templates)?;
        let resources = resources(&config, template)?;
        let ttl = ends_at.duration_since(SystemTime::now()).map_err(|_past| {
            let text = "failed to create sandbox: end_time is in the past";
            Failure::new(ErrorCode::Internal, Reason::InvalidRequest, text)
        })?;
        let execution = Some(config.execution_id).filter(|execution| !execution.is_empty());
        if execution.as_ref().is_some_and(|text| text.len() > MAX_EXECUTION_BYTES) {
            let text = format!("execution_id is longer than {MAX_EXECUTION_BYTES} bytes");
            return Err(Failure::invalid(text));
        }
        let spec = SandboxSpec {
            id: id("sandbox_id", &config.sandbox_id)?,
            team: id("team_id", &config.team_id)?,
            template: template.id.clone(),
            resources: Some(resources),
            env: config.env_vars.into_iter().collect(),
            metadata: config.metadata.into_iter().collect(),
            access_token: config.envd_access_token.map(Secret::new),
            ttl,
            on_timeout: OnTimeout::Kill,
            internet: config.allow_internet_access.unwrap_or(true),
            egress,
        };
        Ok(Self { spec, ends_at, execution })
    }
}

/// The template that has what is asked for: the build, if one is named.
fn find<'a>(
    config: &SandboxConfig,
    templates: &'a [TemplateInfo],
) -> Result<&'a TemplateInfo, Failure> {
    let named = templates.iter().find(|template| {
        template.id.as_str() == config.template_id
            && (config.build_id.is_empty() || template.build.as_str() == config.build_id)
    });
    named.ok_or_else(|| {
        let missing =
            if config.build_id.is_empty() { &config.template_id } else { &config.build_id };
        CreateError::UnknownTemplate(missing.clone()).into()
    })
}

/// What is not said is as in the template.
fn resources(config: &SandboxConfig, template: &TemplateInfo) -> Result<Resources, Failure> {
    fn positive<N: TryFrom<i64>>(name: &str, given: i64, default: N) -> Result<N, Failure> {
        if given == 0 {
            return Ok(default);
        }
        let bad = |_error| Failure::invalid(format!("{name} must be 0 or more, not {given}"));
        N::try_from(given).map_err(bad)
    }
    let default = template.resources;
    Ok(Resources {
        vcpus: positive("vcpu", config.vcpu, default.vcpus)?,
        memory_mib: positive("ram_mb", config.ram_mb, default.memory_mib)?,
        disk_mib: positive("total_disk_size_mb", config.total_disk_size_mb, default.disk_mib)?,
    })
}

/// Finds the first wish this node cannot fulfil.
fn check(config: &SandboxConfig) -> Result<(), Failure> {
    let network = config.network.as_option();
    if let Some(rules) = network.and_then(|network| network.ingress.as_option()) {
        refuse(rules.traffic_access_token.is_some(), "network.ingress.traffic_access_token")?;
        refuse(rules.mask_request_host.is_some(), "network.ingress.mask_request_host")?;
    }
    let resumes = |policy: &str| !matches!(policy, "" | "off");
    refuse(config.snapshot, "snapshot")?;
    // The node ends the sandbox when its time is over; it would be lost before it is paused.
    refuse(config.auto_pause, "auto_pause")?;
    refuse(!config.volumeMounts.is_empty(), "volumeMounts")?;
    refuse(resumes(&config.auto_resume.policy), "auto_resume")?;
    refuse(!config.iam.tokens.is_empty(), "iam")
}

/// Rules for traffic out of a sandbox: those by address can be had.
pub(super) fn egress(rules: &SandboxNetworkEgressConfig) -> Result<Egress, Failure> {
    if !rules.egress_proxy_address.is_empty() {
        let text = "egress proxy is not supported by this orchestrator build";
        return Err(Failure::unsupported(text));
    }
    refuse(!rules.allowed_domains.is_empty(), "network.egress.allowed_domains")?;
    refuse(!rules.rules.is_empty(), "network.egress.rules")?;
    Ok(Egress {
        allow: ranges("network.egress.allowed_cidrs", &rules.allowed_cidrs)?,
        deny: ranges("network.egress.denied_cidrs", &rules.denied_cidrs)?,
    })
}

fn refuse(asked: bool, field: &str) -> Result<(), Failure> {
    if asked {
        Err(Failure::unsupported(format!("{field} is not supported by this node")))
    } else {
        Ok(())
    }
}
