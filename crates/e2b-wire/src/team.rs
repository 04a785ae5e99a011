use serde::{Deserialize, Deserializer, Serialize};

use crate::{KeyMask, Timestamp};

/// A team of whoever asks, with a key that was made for the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamWithKey {
    #[serde(rename = "teamID")]
    pub team_id: String,
    pub name: String,
    pub api_key: String,
    pub is_default: bool,
}

/// A key of a team, without the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamApiKey {
    pub id: String,
    pub name: String,
    pub mask: KeyMask,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Timestamp>,
}

/// A key that was just made: the only answer that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedApiKey {
    pub key: String,
    #[serde(flatten)]
    pub row: TeamApiKey,
}

/// An access token that was just made: the only answer that has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreatedAccessToken {
    pub id: String,
    pub name: String,
    pub token: String,
    pub mask: KeyMask,
    pub created_at: Timestamp,
}

/// What is made, or called otherwise from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub name: String,
}

/// How much a team did around a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamMetric {
    pub timestamp: Timestamp,
    /// Seconds since 1970.
    pub timestamp_unix: i64,
    /// The most at one time.
    pub concurrent_sandboxes: u32,
    /// Starts per second.
    pub sandbox_start_rate: f64,
}

/// The moment at which a team did the most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MaxTeamMetric {
    pub timestamp: Timestamp,
    /// Seconds since 1970.
    pub timestamp_unix: i64,
    pub value: f64,
}

/// What an operator has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KilledSandboxes {
    pub killed_count: u32,
    pub failed_count: u32,
}

/// What an operator has cancelled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CancelledBuilds {
    pub cancelled_count: u32,
    pub failed_count: u32,
}

/// A team as its operator sees it. Cofferdam's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdminTeam {
    #[serde(rename = "teamID")]
    pub team_id: String,
    pub name: String,
    pub slug: String,
    pub created_at: Timestamp,
    /// Those in force.
    pub limits: TeamLimits,
    pub banned: bool,
    /// Why it may not make or change anything; absent when it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<String>,
}

/// What a team may have. Cofferdam's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamLimits {
    /// Sandboxes at one time.
    pub concurrent_sandboxes: u32,
    /// Seconds.
    pub max_length_s: u64,
    /// Of one sandbox; absent: no other limit than its template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// Of one sandbox; absent: no other limit than its template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<u64>,
}

/// What of a team's limits is to change: what is absent stays, `null` is the service's own again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitsChange {
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub concurrent_sandboxes: Option<Option<u32>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_length_s: Option<Option<u64>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<Option<u32>>,
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub max_memory_mb: Option<Option<u64>>,
}

/// A team to be made. Cofferdam's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTeam {
    pub name: String,
    /// Made from the name when it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(default)]
    pub limits: LimitsChange,
}

/// What of a team is to change: what is absent stays. Cofferdam's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TeamChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default)]
    pub limits: LimitsChange,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub banned: Option<bool>,
    /// `null` lets it make and change things again.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub blocked_reason: Option<Option<String>>,
}

/// A field that is there, `null` or not.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::LimitsChange;

    #[test]
    fn a_field_that_is_absent_is_told_apart_from_one_that_is_null() {
        let change: LimitsChange =
            serde_json::from_str(r#"{"concurrentSandboxes":5,"maxLengthS":null}"#).unwrap();
        assert_eq!(change.concurrent_sandboxes, Some(Some(5)));
        assert_eq!(change.max_length_s, Some(None));
        assert_eq!(change.max_vcpus, None);
    }
}
