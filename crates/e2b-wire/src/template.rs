use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Timestamp;

/// A row of `GET /templates`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    #[serde(rename = "templateID")]
    pub template_id: String,
    #[serde(rename = "buildID")]
    pub build_id: String,
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u64,
    pub public: bool,
    /// Never null: the CLI sorts it.
    pub aliases: Vec<String>,
    pub names: Vec<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The user who made it; null when it came with the installation.
    pub created_by: Option<Value>,
    pub last_spawned_at: Option<Timestamp>,
    pub spawn_count: i64,
    pub build_count: i64,
    pub envd_version: String,
    /// `waiting`, `building`, `ready` or `error`.
    pub build_status: String,
    /// Whether it came with the installation, and is no team's.
    pub is_default: bool,
}

/// The answer to `GET /templates/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TemplateWithBuilds {
    #[serde(flatten)]
    pub template: Template,
    /// The newest first.
    pub builds: Vec<TemplateBuild>,
}

/// One build of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TemplateBuild {
    #[serde(rename = "buildID")]
    pub build_id: String,
    /// As [`Template::build_status`].
    pub status: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    pub cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub disk_size_mb: u64,
    pub envd_version: String,
}

/// The query of a list of templates by page, as text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateListQuery {
    #[serde(rename = "teamID")]
    pub team_id: Option<String>,
    pub limit: Option<String>,
    pub next_token: Option<String>,
}

/// The answer to `GET /templates/aliases/{alias}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateAlias {
    #[serde(rename = "templateID")]
    pub template_id: String,
    pub public: bool,
}
