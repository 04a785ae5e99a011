//! What a request says of a sandbox's network, and what of it can be kept.

use std::num::NonZero;

use e2b_wire::host_name::ENVD_PORT;
use e2b_wire::{NetworkConfig, NetworkUpdate};
use model::Secret;
use node_wire::Ingress;
use serde_json::Value;

use crate::app::App;
use crate::http::ApiError;
use crate::store::SandboxRow;

mod egress;

pub(crate) use egress::{check_egress, egress};

/// Bytes of a host name with a port, `${PORT}` counted as it stands.
const MASK_MAX: usize = 255;
/// Ports of a sandbox that speak TLS.
const HTTPS_PORTS_MAX: usize = 100;

/// Checks what is asked of clients. A private sandbox is one whose guest agent has a token, too.
///
/// # Errors
/// 400 when it makes no sense.
pub(crate) fn check_ingress(network: &NetworkConfig, secure: bool) -> Result<(), ApiError> {
    if network.allow_public_traffic == Some(false) && !secure {
        let message = "network.allowPublicTraffic: false needs secure: true";
        return Err(ApiError::bad_request(message));
    }
    check_https_ports(network.https_ports.as_deref().unwrap_or_default())?;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]${}".contains(&byte);
    match &network.mask_request_host {
        Some(mask) if mask.len() > MASK_MAX || !mask.bytes().all(is_part) => {
            let message = "network.maskRequestHost must be a host name or address, with a port or \
                           ${PORT} if it has one";
            Err(ApiError::bad_request(message))
        }
        _ => Ok(()),
    }
}

fn check_https_ports(ports: &[i64]) -> Result<(), ApiError> {
    if let Some(wrong) = ports.iter().find(|port| https_port(**port).is_none()) {
        let message = format!(
            "network.httpsPorts: {wrong} is not one of the ports 1 to 65535 without {ENVD_PORT}, \
             which is the guest agent's"
        );
        return Err(ApiError::bad_request(message));
    }
    if ports.len() > HTTPS_PORTS_MAX {
        let message = format!("network.httpsPorts has at most {HTTPS_PORTS_MAX} ports");
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

/// A port that can speak TLS.
fn https_port(number: i64) -> Option<NonZero<u16>> {
    let port = u16::try_from(number).ok().and_then(NonZero::new);
    port.filter(|port| *port != ENVD_PORT)
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

/// What is told of `network`: all but the password and the certificates of the proxy, and domains in
/// lower case.
pub(crate) fn told(network: &NetworkConfig) -> NetworkConfig {
    let mut told = network.clone();
    told.rules = told.rules.map(|rules| {
        rules.into_iter().map(|(key, rules)| (key.to_ascii_lowercase(), rules)).collect()
    });
    if let Some(proxy) = &mut told.egress_proxy {
        proxy.password = None;
        if let Some(tls) = &mut proxy.tls {
            tls.ca_cert = None;
        }
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
        dns_servers: update.dns_servers,
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
        let network = row.network.as_ref();
        let mask = network.and_then(|network| network.mask_request_host.clone());
        let ports = network.and_then(|network| network.https_ports.as_deref());
        let ports = ports.unwrap_or_default().iter().copied();
        Ingress {
            agent_token: self.envd_token(row).map(Secret::new),
            traffic_token: self.traffic_token(row).map(Secret::new),
            mask_host: mask.filter(|mask| !mask.is_empty()),
            https_ports: ports.filter_map(https_port).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
