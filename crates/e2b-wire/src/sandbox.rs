use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{NetworkConfig, PauseMode, SandboxState, Timestamp};

/// Required in answers and without meaning; always this.
pub const CLIENT_ID: &str = "6532622b";

/// The body of `POST /sandboxes` and `POST /v2/sandboxes`. Unknown fields are ignored, as the
/// SDKs may be newer than the server.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewSandbox {
    #[serde(rename = "templateID")]
    pub template_id: String,
    /// Seconds.
    pub timeout: Option<i32>,
    pub auto_pause: Option<bool>,
    pub auto_pause_memory: Option<bool>,
    pub auto_resume: Option<AutoResume>,
    /// Version 1 only; version 2 is always secure.
    pub secure: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    pub allow_internet_access: Option<bool>,
    pub metadata: Option<BTreeMap<String, String>>,
    pub env_vars: Option<BTreeMap<String, String>>,
    pub network: Option<NetworkConfig>,
    /// The SDK starts the gateway itself; servers only look at the names.
    pub mcp: Option<BTreeMap<String, Value>>,
    pub iam: Option<BTreeMap<String, Value>>,
    pub volume_mounts: Option<Vec<VolumeMount>>,
}

/// Whether traffic wakes a paused sandbox.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct AutoResume {
    pub enabled: bool,
}

/// A volume to mount.
#[derive(Debug, Clone, Deserialize)]
pub struct VolumeMount {
    pub name: String,
    pub path: String,
}

/// The body of `POST /sandboxes/{id}/connect` in both versions.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ConnectSandbox {
    /// Seconds. Required in version 1, 300 when unset in version 2.
    pub timeout: Option<i32>,
    /// False asks a paused sandbox to boot from its disk alone.
    pub memory: Option<bool>,
}

/// The body of `POST /sandboxes/{id}/timeout`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct SandboxTimeout {
    /// Seconds from now; 0 ends it now.
    pub timeout: i32,
}

/// The body of `POST /sandboxes/{id}/refreshes`.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct RefreshSandbox {
    /// Seconds, 0 to 3600.
    pub duration: Option<i32>,
}

/// The answer to create and connect. What is optional is left out, never null: the Python SDK
/// does not read null here, apart from `domain` and `trafficAccessToken`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sandbox {
    /// The template's id, whatever name the request used.
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// SDKs refuse sandboxes below 0.1.0 and switch features on by it.
    pub envd_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_access_token: Option<String>,
    /// Where the SDK builds host names under, instead of its own setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}

/// A row of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedSandbox {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "sandboxID")]
    pub sandbox_id: String,
    #[serde(rename = "clientID")]
    pub client_id: String,
    pub started_at: Timestamp,
    pub end_at: Timestamp,
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u64,
    pub state: SandboxState,
    pub envd_version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// True of one whose memory was kept while its guest agent did not answer; else left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_unresponsive_at_pause: Option<bool>,
}

/// The answer to `GET /sandboxes/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxDetail {
    #[serde(flatten)]
    pub listed: ListedSandbox,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envd_access_token: Option<String>,
    /// What the request said; null when it said nothing.
    pub allow_internet_access: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// As it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkConfig>,
    pub lifecycle: Lifecycle,
    /// What is kept of one that is paused; left out of one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_mode: Option<PauseMode>,
}

/// What happens to a sandbox at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    pub auto_resume: bool,
    /// `kill` or `pause`.
    pub on_timeout: String,
}

#[cfg(test)]
mod tests {
    use super::{CLIENT_ID, NewSandbox, Sandbox};

    #[test]
    fn a_create_body_of_either_sdk_is_read() {
        let python = r#"{"templateID":"base","timeout":300,"secure":true,"allow_internet_access":false,
            "metadata":{"a":"b"},"envVars":{},"mcp":null,"somethingNew":{"x":1}}"#;
        let body: NewSandbox = serde_json::from_str(python).unwrap();
        assert_eq!(body.template_id, "base");
        assert_eq!(body.timeout, Some(300));
        assert_eq!(body.allow_internet_access, Some(false));
        assert!(body.mcp.is_none());
        assert_eq!(body.metadata.unwrap().get("a").map(String::as_str), Some("b"));

        let bare: NewSandbox = serde_json::from_str(r#"{"templateID":"base"}"#).unwrap();
        assert!(bare.timeout.is_none() && bare.env_vars.is_none() && bare.network.is_none());
    }

    #[test]
    fn values_of_the_wrong_type_are_refused() {
        for text in [
            "{}",
            "[]",
            r#"{"templateID":1}"#,
            r#"{"templateID":"b","timeout":"300"}"#,
            r#"{"templateID":"b","timeout":3000000000}"#,
            r#"{"templateID":"b","metadata":{"a":1}}"#,
            r#"{"templateID":"b","envVars":{"a":null}}"#,
        ] {
            serde_json::from_str::<NewSandbox>(text).unwrap_err();
        }
    }

    #[test]
    fn unset_optional_fields_are_left_out() {
        let sandbox = Sandbox {
            template_id: "t".into(),
            sandbox_id: "i".into(),
            client_id: CLIENT_ID.into(),
            envd_version: "0.5.0".into(),
            alias: None,
            envd_access_token: None,
            traffic_access_token: None,
            domain: None,
        };
        assert_eq!(
            serde_json::to_string(&sandbox).unwrap(),
            r#"{"templateID":"t","sandboxID":"i","clientID":"6532622b","envdVersion":"0.5.0"}"#
        );
    }
}
