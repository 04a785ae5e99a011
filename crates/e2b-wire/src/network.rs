use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Rules for requests, by the domain they are for.
pub type NetworkRules = BTreeMap<String, Vec<NetworkRule>>;

/// What becomes of requests to a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<NetworkTransform>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkTransform {
    /// Instead of what the request has of the same names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
}

/// A SOCKS5 proxy. The password is taken and never told.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressProxyConfig {
    /// `host:port`
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// How the proxy is spoken to; unset and `null` mean without TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<EgressProxyTls>,
}

/// TLS on the way to a proxy. The certificates are taken and never told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EgressProxyTls {
    pub enabled: bool,
    /// The name in the proxy's certificate, where it is not that of its address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM; instead of the authorities of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<String>,
}

impl fmt::Debug for EgressProxyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressProxyConfig").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The network part of a create request and of what is told of a sandbox. Unset and `null` mean the
/// same, and only what is set is told: null would break the Python SDK.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkConfig {
    /// Default true; false asks for a token on every port but the guest agent's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_public_traffic: Option<bool>,
    /// Addresses, ranges or domain names; allowing beats denying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_out: Option<Vec<String>>,
    /// Addresses or ranges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deny_out: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask_request_host: Option<String>,
    /// Ports on which the sandbox itself speaks TLS. Whether they are ports is for the server to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_ports: Option<Vec<i64>>,
    /// Name servers that can be asked where a domain is allowed; unset: those of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_servers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<NetworkRules>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<EgressProxyConfig>,
}

/// The body of `PUT /sandboxes/{id}/network`: all rules for traffic to the outside. What it does not
/// name is taken away.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkUpdate {
    #[serde(rename = "allow_internet_access")]
    pub allow_internet_access: Option<bool>,
    pub allow_out: Option<Vec<String>>,
    pub deny_out: Option<Vec<String>>,
    pub dns_servers: Option<Vec<String>>,
    pub rules: Option<NetworkRules>,
    pub egress_proxy: Option<EgressProxyConfig>,
}
