use std::collections::BTreeMap;
use std::time::Duration;

use e2b_wire::{NetworkConfig, NewSandbox, TemplateRef};
use model::{Egress, Keep, OnTimeout};
use serde_json::Value;

use crate::config::Limits;
use crate::http::ApiError;
use crate::network::{self, is_filled, refused};

/// Which of the two create endpoints was called; they differ in their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiVersion {
    V1,
    V2,
}

/// A create request that can be honoured.
#[derive(Debug, Clone)]
pub(crate) struct CreateRequest {
    pub(crate) template: TemplateRef,
    pub(crate) ttl: Duration,
    pub(crate) on_timeout: OnTimeout,
    /// Whether traffic wakes it when it is paused.
    pub(crate) auto_resume: bool,
    pub(crate) secure: bool,
    /// What the request said of the internet; allowed when it said nothing.
    pub(crate) internet: Option<bool>,
    pub(crate) network: Option<NetworkConfig>,
    /// The rules of `network` for connections to the outside.
    pub(crate) egress: Egress,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) env: BTreeMap<String, String>,
    /// Names of the MCP servers the SDK is going to start.
    pub(crate) mcp: Vec<String>,
}

impl ApiVersion {
    /// Seconds a sandbox lives when the request does not say.
    pub(crate) const fn default_timeout(self) -> i32 {
        match self {
            Self::V1 => 15,
            Self::V2 => 300,
        }
    }
}

impl CreateRequest {
    /// Checks `body` and fills in the defaults. What cannot be honoured is refused by name.
    pub(crate) fn parse(
        body: NewSandbox,
        version: ApiVersion,
        limits: &Limits,
    ) -> Result<Self, ApiError> {
        let (on_timeout, auto_resume) = pausing(&body)?;
        refuse_extras(&body)?;
        let template = body
            .template_id
            .parse()
            .map_err(|problem| ApiError::bad_request(format!("templateID: {problem}")))?;
        let ttl = ttl(body.timeout.unwrap_or_else(|| version.default_timeout()), limits)?;
        let egress = body.network.as_ref().map(network::egress).transpose()?.unwrap_or_default();
        let metadata = body.metadata.unwrap_or_default();
        let sizes = metadata.iter().map(|(key, value)| key.len() + value.len());
        check_size("metadata", sizes, limits.metadata_bytes, limits.map_entries)?;
        let env = body.env_vars.unwrap_or_default();
        let sizes = env.iter().map(|(name, value)| name.len() + value.len());
        check_size("envVars", sizes, limits.env_bytes, limits.map_entries)?;
        check_env(&env)?;
        let secure = match version {
            ApiVersion::V1 => body.secure.unwrap_or(false),
            ApiVersion::V2 => true,
        };
        if let Some(network) = &body.network {
            network::check_egress(network)?;
            network::check_ingress(network, secure)?;
        }
        let mcp: Vec<String> = body.mcp.unwrap_or_default().into_keys().collect();
        // The names end up in a line of the log.
        check_size("mcp", mcp.iter().map(String::len), limits.metadata_bytes, limits.map_entries)?;
        let (internet, network) = (body.allow_internet_access, body.network);
        Ok(Self {
            template,
            ttl,
            on_timeout,
            auto_resume,
            secure,
            internet,
            network,
            egress,
            metadata,
            env,
            mcp,
        })
    }
}

/// The length of a life that a create or a connect asks for.
pub(crate) fn ttl(seconds: i32, limits: &Limits) -> Result<Duration, ApiError> {
    let asked = u64::try_from(seconds).ok().filter(|&seconds| seconds > 0);
    let Some(asked) = asked.map(Duration::from_secs) else {
        return Err(ApiError::bad_request("timeout must be at least 1 second"));
    };
    if asked > limits.sandbox_length {
        let most = limits.sandbox_length.as_secs();
        let message =
            format!("timeout must be at most {most} seconds, the longest a sandbox may live");
        return Err(ApiError::bad_request(message));
    }
    Ok(asked)
}

/// What becomes of it at the end of its time, and whether traffic wakes it then.
fn pausing(body: &NewSandbox) -> Result<(OnTimeout, bool), ApiError> {
    let auto_pause = body.auto_pause == Some(true);
    let auto_resume = body.auto_resume.is_some_and(|resume| resume.enabled);
    let files_only = body.auto_pause_memory == Some(false);
    if files_only && (!auto_pause || auto_resume) {
        let message = "autoPauseMemory: false needs autoPause: true and no autoResume";
        return Err(ApiError::bad_request(message));
    }
    let on_timeout = match (auto_pause, files_only) {
        (false, _) => OnTimeout::Kill,
        (true, false) => OnTimeout::Pause(Keep::Memory),
        (true, true) => OnTimeout::Pause(Keep::Files),
    };
    Ok((on_timeout, auto_resume))
}

/// What E2B refuses with 400 where it is switched off.
fn refuse_extras(body: &NewSandbox) -> Result<(), ApiError> {
    if body.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty()) {
        let instead = "write the files into the sandbox after it started";
        return Err(refused("volumeMounts", instead));
    }
    let has_tokens = |iam: &BTreeMap<String, Value>| iam.get("tokens").is_some_and(is_filled);
    if body.iam.as_ref().is_some_and(has_tokens) {
        return Err(refused("iam.tokens", "pass credentials in envVars"));
    }
    Ok(())
}

fn check_size(
    field: &str,
    sizes: impl ExactSizeIterator<Item = usize>,
    bytes_max: usize,
    entries_max: usize,
) -> Result<(), ApiError> {
    let entries = sizes.len();
    let bytes: usize = sizes.sum();
    if entries <= entries_max && bytes <= bytes_max {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "{field} has {entries} entries of {bytes} bytes together; at most {entries_max} entries of \
         {bytes_max} bytes are taken"
    )))
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            let message = format!(
                "envVars: {name:?} cannot be set; names are not empty and have no =, and neither \
                 names nor values have a NUL"
            );
            return Err(ApiError::bad_request(message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
