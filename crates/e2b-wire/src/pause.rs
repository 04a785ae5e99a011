use serde::{Deserialize, Serialize};

use crate::{ErrorBody, Sandbox};

/// The body of `POST /sandboxes/{id}/pause`, which may be left out.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PauseSandbox {
    /// False keeps the files only; true when unset.
    pub memory: Option<bool>,
    /// True asks for a refusal when the guest agent does not answer.
    pub require_healthy_guest: Option<bool>,
}

/// The body of `POST /sandboxes/{id}/resume`, which may be left out.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ResumeSandbox {
    /// Seconds.
    pub timeout: Option<i32>,
    /// Whether it is paused again when its time is over; as before when unset.
    pub auto_pause: Option<bool>,
    /// False starts it anew from its files.
    pub memory: Option<bool>,
}

/// The body of `POST /sandboxes/{id}/fork`, which may be left out.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct ForkSandbox {
    /// Seconds.
    pub timeout: Option<i32>,
    pub count: Option<i32>,
}

/// What became of one fork: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkResult {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Sandbox>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// What was kept of a sandbox that is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Its processes, too.
    Full,
    Filesystem,
}

/// The body of `POST /sandboxes/{id}/snapshots`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct NewSnapshot {
    /// `[namespace/]name[:tag]`.
    pub name: Option<String>,
}

/// A snapshot, in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// With its tag; what `templateID` of a create takes.
    #[serde(rename = "snapshotID")]
    pub snapshot_id: String,
    /// `namespace/name`, without the tag: as E2B answers, whatever its specification says.
    pub names: Vec<String>,
}

/// The query of `GET /snapshots`, as text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotListQuery {
    #[serde(rename = "sandboxID")]
    pub sandbox_id: Option<String>,
    /// A bare name is any tag of it.
    pub name: Option<String>,
    pub limit: Option<String>,
    pub next_token: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::{ForkResult, NewSnapshot, PauseMode, PauseSandbox, ResumeSandbox, SnapshotInfo};

    #[test]
    fn bodies_of_either_sdk_are_read() {
        let pause: PauseSandbox = serde_json::from_str(r#"{"memory":false}"#).unwrap();
        assert_eq!((pause.memory, pause.require_healthy_guest), (Some(false), None));
        let pause: PauseSandbox = serde_json::from_str(r#"{"requireHealthyGuest":true}"#).unwrap();
        assert_eq!(pause.require_healthy_guest, Some(true));
        let resume: ResumeSandbox = serde_json::from_str(r#"{"autoPause":true}"#).unwrap();
        assert_eq!((resume.auto_pause, resume.timeout), (Some(true), None));
        assert!(serde_json::from_str::<NewSnapshot>("{}").unwrap().name.is_none());
    }

    #[test]
    fn answers_have_the_names_that_clients_read() {
        let info = SnapshotInfo { snapshot_id: "t/a:v1".into(), names: vec!["t/a".into()] };
        assert_eq!(
            serde_json::to_string(&info).unwrap(),
            r#"{"snapshotID":"t/a:v1","names":["t/a"]}"#
        );
        assert_eq!(serde_json::to_string(&PauseMode::Filesystem).unwrap(), r#""filesystem""#);
        let none = ForkResult { sandbox: None, error: None };
        assert_eq!(serde_json::to_string(&none).unwrap(), "{}");
    }
}
