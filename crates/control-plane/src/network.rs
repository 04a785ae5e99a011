//! What a request says of a sandbox's network, and what of it can be kept.

use e2b_wire::{NetworkConfig, NetworkUpdate};
use model::Secret;
use node_wire::Ingress;
use serde_json::Value;

use crate::app::App;
use crate::http::ApiError;
use crate::store::SandboxRow;

mod egress;

pub(crate) use egress::egress;

/// Bytes of a host name with a port, `${PORT}` counted as it stands.
const MASK_MAX: usize = 255;

/// Checks what is asked of clients. A private sandbox is one whose guest agent has a token, too.
///
/// # Errors
/// 400 when it makes no sense, 501 when it cannot be kept.
pub(crate) fn check_ingress(network: &NetworkConfig, secure: bool) -> Result<(), ApiError> {
    if network.allow_public_traffic == Some(false) && !secure {
        let message = "network.allowPublicTraffic: false needs secure: true";
        return Err(ApiError::bad_request(message));
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]${}".contains(&byte);
    if network.https_ports.as_ref().is_some_and(is_filled) {
        let instead = "serve plain HTTP on the port: TLS ends in front of the sandbox";
        return Err(ApiError::unsupported("network.httpsPorts", instead));
    }
    match &network.mask_request_host {
        Some(mask) if mask.len() > MASK_MAX || !mask.bytes().all(is_part) => {
            let message = "network.maskRequestHost must be a host name or address, with a port or \
                           ${PORT} if it has one";
            Err(ApiError::bad_request(message))
        }
        _ => Ok(()),
    }
}

/// What E2B refuses with 400 where it is switched off.
pub(crate) fn refused(field: &str, instead: &str) -> ApiError {
    let message = format!("{field} is not supported by this version of Cofferdam; {instead}");
    ApiError::bad_request(message)
}

/// Whether there is anything in a value: null, `{}` and `[]` ask for nothing.
pub(crate) fn is_filled(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(entries) => !entries.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// What is told of `network`: all but the password.
pub(crate) fn told(network: &NetworkConfig) -> NetworkConfig {
    let mut told = network.clone();
    if let Some(proxy) = &mut told.egress_proxy {
        proxy.password = None;
    }
    told
}

/// `before` with other rules for connections to the outside: those that `update` does not name are
/// taken away, and what is asked of clients stays.
pub(crate) fn updated(before: Option<NetworkConfig>, update: NetworkUpdate) -> NetworkConfig {
    let before = before.unwrap_or_default();
    NetworkConfig {
        allow_out: update.allow_out,
        deny_out: update.deny_out,
        rules: update.rules,
        egress_proxy: update.egress_proxy,
        https_ports: before.https_ports,
        allow_public_traffic: before.allow_public_traffic,
        mask_request_host: before.mask_request_host,
    }
}

impl App {
    /// What a client must show for a port of a sandbox other than the guest agent's.
    pub(crate) fn traffic_token(&self, row: &SandboxRow) -> Option<String> {
        let public = row.network.as_ref().and_then(|network| network.allow_public_traffic);
        (public == Some(false)).then(|| self.config.token_seed.traffic_token(row.id.as_str()))
    }

    /// The terms under which the edge sends traffic to a sandbox.
    pub(crate) fn ingress(&self, row: &SandboxRow) -> Ingress {
        let mask = row.network.as_ref().and_then(|network| network.mask_request_host.clone());
        Ingress {
            agent_token: self.envd_token(row).map(Secret::new),
            traffic_token: self.traffic_token(row).map(Secret::new),
            mask_host: mask.filter(|mask| !mask.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests;
