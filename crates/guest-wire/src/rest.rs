//! Bodies and headers of the agent's REST surface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Answer header of `/init`: the version of the agent that runs.
pub const VERSION_HEADER: &str = "x-envd-version";
/// Request header with the sandbox's access token.
pub const TOKEN_HEADER: &str = "x-access-token";

/// What the node tells the agent when a sandbox starts or resumes: `POST /init`.
///
/// A field that is absent leaves the agent's value alone, with one exception: an absent
/// `access_token` clears the token.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InitRequest {
    /// RFC 3339 with nanoseconds. An older one than the last applied is answered but not applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<String>,
    /// Replaces the whole set of variables every process gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    #[serde(rename = "hyperloopIP", skip_serializing_if = "Option::is_none")]
    pub hyperloop_ip: Option<String>,
    #[serde(rename = "lifecycleID", skip_serializing_if = "Option::is_none")]
    pub lifecycle_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volume_mounts: Vec<VolumeMount>,
    /// PEM; added to the sandbox's trusted authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
}

impl std::fmt::Debug for InitRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let variables = self.env_vars.as_ref().map(BTreeMap::len);
        f.debug_struct("InitRequest")
            .field("timestamp", &self.timestamp)
            .field("env_vars", &variables)
            .field("access_token", &self.access_token.as_ref().map(|_token| "…"))
            .field("default_user", &self.default_user)
            .field("default_workdir", &self.default_workdir)
            .field("hyperloop_ip", &self.hyperloop_ip)
            .field("lifecycle_id", &self.lifecycle_id)
            .field("volume_mounts", &self.volume_mounts)
            .field("ca_bundle", &self.ca_bundle.is_some())
            .finish()
    }
}

/// One network file system to mount.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    pub nfs_target: String,
    pub path: String,
}

/// `GET /metrics`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Unix seconds.
    pub ts: i64,
    pub cpu_count: u32,
    /// Average over all CPUs since the previous call, in per cent with two decimals.
    pub cpu_used_pct: f64,
    pub mem_total_mib: u64,
    pub mem_used_mib: u64,
    /// Bytes, as are all below.
    pub mem_total: u64,
    pub mem_used: u64,
    pub mem_cache: u64,
    pub disk_used: u64,
    pub disk_total: u64,
}

/// `GET /journal`: what the agent has noted of itself after a number, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// This run of the agent: numbers of another have nothing to do with these.
    pub run: String,
    pub lines: Vec<JournalLine>,
    /// Whether there are more after the last of these.
    pub more: bool,
    /// How many were after that number once and are not kept any more.
    pub lost: u64,
}

/// One thing the agent has noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalLine {
    /// Grows with every line, from 1 on.
    pub number: u64,
    /// Microseconds since 1970; never before that of the line before.
    pub at_us: i64,
    pub level: JournalLevel,
    pub message: String,
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JournalLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// One written file in the answer of `POST /files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WrittenFile {
    pub path: String,
    pub name: String,
    #[serde(rename = "type")]
    pub kind: FileKind,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// Only files are ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    File,
}

/// `POST /files/compose`: several files become one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRequest {
    #[serde(default)]
    pub source_paths: Vec<String>,
    #[serde(default)]
    pub destination: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// The body of every REST error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The HTTP status once more.
    pub code: u16,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_init_request_is_an_empty_object() {
        assert_eq!(serde_json::to_string(&InitRequest::default()).unwrap(), "{}");
        assert_eq!(serde_json::from_str::<InitRequest>("{}").unwrap(), InitRequest::default());
    }

    #[test]
    fn init_fields_have_the_names_of_the_wire() {
        let body = r#"{"envVars":{"A":"1"},"accessToken":"t","defaultUser":"u","hyperloopIP":"192.0.2.1",
            "lifecycleID":"l","caBundle":"pem","volumeMounts":[{"nfs_target":"h:/v","path":"/v"}],"new":1}"#;
        let request: InitRequest = serde_json::from_str(body).unwrap();
        assert_eq!(request.access_token.as_deref(), Some("t"));
        assert_eq!(request.hyperloop_ip.as_deref(), Some("192.0.2.1"));
        assert_eq!(request.lifecycle_id.as_deref(), Some("l"));
        assert_eq!(request.volume_mounts[0].nfs_target, "h:/v");
    }

    #[test]
    fn the_debug_form_of_an_init_request_shows_no_secret() {
        let request = InitRequest {
            access_token: Some("hunter2".into()),
            env_vars: Some([("KEY".into(), "hunter2".into())].into()),
            ..InitRequest::default()
        };
        assert!(!format!("{request:?}").contains("hunter2"));
    }

    #[test]
    fn a_written_file_leaves_out_empty_metadata() {
        let file = WrittenFile {
            path: "/a/b".into(),
            name: "b".into(),
            kind: FileKind::File,
            metadata: BTreeMap::new(),
        };
        assert_eq!(
            serde_json::to_string(&file).unwrap(),
            r#"{"path":"/a/b","name":"b","type":"file"}"#
        );
    }
}
