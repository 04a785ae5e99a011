//! What E2B's control plane orders, as a spec; and what of it this node cannot do.

use std::time::SystemTime;

use connectrpc::ErrorCode;
use model::{Egress, Keep, OnTimeout, Resources, SandboxSpec, Secret, TemplateId};

use crate::grpc::convert::{Malformed, from_e2b, id, time};
use crate::grpc::failure::{Failure, Reason};
use crate::grpc::proto::{SandboxConfig, SandboxCreateRequest, SandboxNetworkEgressConfig};
use crate::{CreateError, PausedStatus, TemplateInfo};

/// The longest execution id that is kept; E2B's are UUIDs.
const MAX_EXECUTION_BYTES: usize = 64;

/// How a value begins that E2B's proxy puts a secret or a token in the place of.
const PLACEHOLDER: &str = "${e2b.";

#[derive(Debug)]
pub(super) struct Order {
    pub(super) spec: SandboxSpec,
    pub(super) ends_at: SystemTime,
    /// What the caller calls this run.
    pub(super) execution: Option<String>,
    /// With what a paused sandbox is to go on; `None` is a new one.
    pub(super) resume: Option<Keep>,
}

impl Order {
    /// Reads `message`, or says which field stands in the way.
    ///
    /// Not looked at, because they describe an artefact or are for the caller itself: kernel and
    /// Firecracker versions, huge pages, alias, base template, the agent's version,
    /// `max_sandbox_length`, `events_ttl_days`, `auto_resume`, which whoever sees the traffic acts
    /// on, and `start_time`, as a sandbox starts when it starts.
    pub(super) fn read(message: SandboxCreateRequest, stock: &Stock<'_>) -> Result<Self, Failure> {
        let keep = if message.filesystem_boot == Some(true) { Keep::Files } else { Keep::Memory };
        let ends_at = time("end_time", message.end_time.into_option())?;
        let config = message.sandbox.into_option();
        let config = config.ok_or_else(|| Malformed::missing("sandbox"))?;
        check(&config)?;
        let rules = config.network.as_option().and_then(|network| network.egress.as_option());
        let egress = rules.map(egress).transpose()?.unwrap_or_default();
        let Source { template, resources: default, paused } = stock.find(&config)?;
        let resources = resources(&config, default)?;
        let ttl = ends_at.duration_since(SystemTime::now()).map_err(|_past| {
            let text = "failed to create sandbox: end_time is in the past";
            Failure::new(ErrorCode::Internal, Reason::InvalidRequest, text)
        })?;
        let execution = Some(config.execution_id).filter(|execution| !execution.is_empty());
        if execution.as_ref().is_some_and(|text| text.len() > MAX_EXECUTION_BYTES) {
            let text = format!("execution_id is longer than {MAX_EXECUTION_BYTES} bytes");
            return Err(Failure::invalid(text));
        }
        let on_timeout = match (config.auto_pause, config.auto_pause_filesystem_only) {
            (false, _) => OnTimeout::Kill,
            (true, false) => OnTimeout::Pause(Keep::Memory),
            (true, true) => OnTimeout::Pause(Keep::Files),
        };
        let spec = SandboxSpec {
            id: id("sandbox_id", &config.sandbox_id)?,
            team: id("team_id", &config.team_id)?,
            template,
            resources: Some(resources),
            env: config.env_vars.into_iter().collect(),
            metadata: config.metadata.into_iter().collect(),
            access_token: config.envd_access_token.map(Secret::new),
            ttl,
            on_timeout,
            internet: config.allow_internet_access.unwrap_or(true),
            egress,
        };
        Ok(Self { spec, ends_at, execution, resume: paused.then_some(keep) })
    }
}

/// What a node can start sandboxes from.
#[derive(Debug)]
pub(super) struct Stock<'a> {
    pub(super) templates: &'a [TemplateInfo],
    pub(super) paused: &'a [PausedStatus],
}

/// What a sandbox is started from.
struct Source {
    template: TemplateId,
    /// As they are where the order does not say.
    resources: Resources,
    /// Whether it is a sandbox, which goes on.
    paused: bool,
}

impl Stock<'_> {
    /// E2B's control plane names every state of a sandbox as a build. A snapshot is found by that
    /// alone, whatever template it was put into; a paused sandbox is its own name, and has one
    /// state. It stays its team's.
    fn find(&self, config: &SandboxConfig) -> Result<Source, Failure> {
        let of_sandbox = |paused: &&PausedStatus| {
            paused.id.as_str() == config.sandbox_id && paused.team.as_str() == config.team_id
        };
        let paused = self.paused.iter().find(of_sandbox).filter(|_| config.snapshot);
        if let Some(PausedStatus { template, resources, .. }) = paused {
            return Ok(Source { template: template.clone(), resources: *resources, paused: true });
        }
        let template = self.templates.iter().find(|template| {
            let build = template.build.as_str() == config.build_id;
            // An order to resume is not to start anew from what is no state of a sandbox.
            template.snapshot && build
                || !config.snapshot
                    && template.id.as_str() == config.template_id
                    && (config.build_id.is_empty() || build)
        });
        if let Some(TemplateInfo { id, resources, .. }) = template {
            return Ok(Source { template: id.clone(), resources: *resources, paused: false });
        }
        Err(match (config.snapshot, config.build_id.as_str()) {
            (true, _) => CreateError::NotPaused(config.sandbox_id.clone()),
            (false, "") => CreateError::UnknownTemplate(config.template_id.clone()),
            (false, build) => CreateError::UnknownTemplate(build.to_owned()),
        }
        .into())
    }
}

/// What is not said is as in the `default`.
fn resources(config: &SandboxConfig, default: Resources) -> Result<Resources, Failure> {
    fn positive<N: TryFrom<i64>>(name: &str, given: i64, default: N) -> Result<N, Failure> {
        if given == 0 {
            return Ok(default);
        }
        let bad = |_error| Failure::invalid(format!("{name} must be 0 or more, not {given}"));
        N::try_from(given).map_err(bad)
    }
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
    refuse(!config.volumeMounts.is_empty(), "volumeMounts")?;
    refuse(!config.iam.tokens.is_empty(), "iam")
}

/// Rules for traffic out of a sandbox. Headers whose values only E2B's own services know are none.
pub(super) fn egress(rules: &SandboxNetworkEgressConfig) -> Result<Egress, Failure> {
    let egress = from_e2b(rules)?;
    let mut values = egress.headers.iter().flat_map(|rule| &rule.headers);
    refuse(
        values.any(|(_, value)| value.expose().contains(PLACEHOLDER)),
        "a placeholder in network.egress.rules",
    )?;
    Ok(egress)
}

fn refuse(asked: bool, field: &str) -> Result<(), Failure> {
    if asked {
        Err(Failure::unsupported(format!("{field} is not supported by this node")))
    } else {
        Ok(())
    }
}
