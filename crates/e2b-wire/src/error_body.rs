use serde::{Deserialize, Serialize};

/// The body of every JSON error. Both SDKs need `code` and `message`: the JavaScript one decides
/// by `code`, not by the HTTP status, and the Python one fails to parse a body without them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Equal to the HTTP status.
    pub code: u16,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
}

/// The values of `error_code`. The set is open: clients must accept others.
pub mod error_code {
    pub const CAPACITY_UNAVAILABLE: &str = "sandbox_capacity_unavailable";
    pub const PLACEMENT_TIMEOUT: &str = "sandbox_placement_timeout";
    pub const NO_COMPATIBLE_NODE: &str = "sandbox_no_compatible_node";
    pub const CREATE_FAILED: &str = "sandbox_create_failed";
    pub const INTERNAL: &str = "internal_server_error";
    pub const MEMORY_OVERRIDE_DISABLED: &str = "sandbox_memory_override_disabled";
    pub const START_IN_FLIGHT: &str = "sandbox_start_in_flight";
    pub const FILES_BOOT_UNCONFIRMED: &str = "sandbox_filesystem_boot_unconfirmed";
    /// Its memory has a guest agent that did not answer: only its files can be started.
    pub const AGENT_SILENT: &str = "sandbox_snapshot_guest_agent_unresponsive";
    pub const IDEMPOTENCY_MISMATCH: &str = "idempotency_request_mismatch";
    pub const IDEMPOTENCY_IN_PROGRESS: &str = "idempotency_in_progress";
    pub const IDEMPOTENCY_OUTCOME_UNKNOWN: &str = "idempotency_outcome_unknown";
}

#[cfg(test)]
mod tests {
    use super::ErrorBody;

    #[test]
    fn an_absent_error_code_is_not_written_as_null() {
        let body = ErrorBody { code: 404, message: "gone".into(), error_code: None };
        assert_eq!(serde_json::to_string(&body).unwrap(), r#"{"code":404,"message":"gone"}"#);
    }
}
