use serde::{Deserialize, Serialize};

/// What a client sees of a sandbox's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxState {
    Running,
    Paused,
}

/// The query of `GET /v2/sandboxes`, as text: what a value means is for the server to say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SandboxListQuery {
    pub metadata: Option<String>,
    /// Names separated by commas.
    pub state: Option<String>,
    /// `asc` or `desc`.
    pub order: Option<String>,
    pub started_after: Option<String>,
    /// An alias or an id, without a tag.
    pub template: Option<String>,
    pub limit: Option<String>,
    pub next_token: Option<String>,
}
