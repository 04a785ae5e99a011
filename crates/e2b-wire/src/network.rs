use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Ports on which the sandbox itself speaks TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_ports: Option<Value>,
    /// Per domain; the shape is not looked at where rules are not supported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_proxy: Option<Value>,
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
    pub rules: Option<Value>,
    pub egress_proxy: Option<Value>,
}
