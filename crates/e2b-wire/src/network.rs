use serde::Deserialize;
use serde_json::Value;

/// The network part of a create request. Unset and `null` mean the same.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkConfig {
    /// Default true; false asks for a token on every port but the guest agent's.
    pub allow_public_traffic: Option<bool>,
    /// Addresses, ranges or domain names; allowing beats denying.
    pub allow_out: Option<Vec<String>>,
    /// Addresses or ranges.
    pub deny_out: Option<Vec<String>>,
    pub mask_request_host: Option<String>,
    /// Per domain; the shape is not looked at where rules are not supported.
    pub rules: Option<Value>,
    pub egress_proxy: Option<Value>,
}
