use model::{Keep, OnTimeout};
use serde_json::{Value, json};

use super::{ApiVersion, CreateRequest};
use crate::config::Limits;
use crate::http::ApiError;

fn parse(version: ApiVersion, mut body: Value) -> Result<CreateRequest, ApiError> {
    body.as_object_mut().unwrap().entry("templateID").or_insert_with(|| json!("base"));
    CreateRequest::parse(serde_json::from_value(body).unwrap(), version, &Limits::default())
}

fn refused(body: Value) -> (u16, String) {
    let error = parse(ApiVersion::V1, body).unwrap_err();
    let (status, message, ..) = error.parts();
    (status, message.to_owned())
}

#[test]
fn the_versions_differ_in_timeout_and_security() {
    let first = parse(ApiVersion::V1, json!({})).unwrap();
    assert_eq!((first.ttl.as_secs(), first.secure), (15, false));
    assert!(parse(ApiVersion::V1, json!({"secure": true})).unwrap().secure);
    let second = parse(ApiVersion::V2, json!({"secure": false})).unwrap();
    assert_eq!((second.ttl.as_secs(), second.secure), (300, true));
}

#[test]
fn harmless_options_are_taken() {
    let request = parse(
        ApiVersion::V1,
        json!({
            "timeout": 60, "autoPause": false, "autoPauseMemory": true,
            "autoResume": {"enabled": false}, "metadata": {"a": "b"}, "envVars": {"X": "1=2"},
            "network": {"allowPublicTraffic": true, "allowOut": [], "denyOut": [], "rules": {}},
            "mcp": {"github": {"token": "x"}}, "iam": {"tokens": {}}, "volumeMounts": [],
        }),
    )
    .unwrap();
    assert_eq!(request.internet, None);
    assert_eq!(request.mcp, ["github"]);
    assert_eq!(request.env.get("X").map(String::as_str), Some("1=2"));
}

#[test]
fn the_internet_is_switched_off_in_either_way() {
    let off = parse(ApiVersion::V1, json!({"allow_internet_access": false})).unwrap();
    assert_eq!(off.internet, Some(false));
    let network = json!({"allow_internet_access": true, "network": {"denyOut": ["0.0.0.0/0"]}});
    let denied = parse(ApiVersion::V1, network).unwrap();
    assert_eq!(denied.internet, Some(true), "as it was asked for");
    assert_eq!(denied.egress.deny, [model::Ipv4Range::ALL]);
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (body, status, field) in [
        (
            json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true}}),
            400,
            "autoResume",
        ),
        (json!({"autoPauseMemory": false}), 400, "autoPauseMemory"),
        (json!({"volumeMounts": [{"name": "v", "path": "/v"}]}), 400, "volumeMounts"),
        (json!({"iam": {"tokens": {"t": {"audience": "a"}}}}), 400, "iam.tokens"),
        (json!({"network": {"rules": {"a b": []}}}), 400, "network.rules"),
        (json!({"network": {"allowPublicTraffic": false}}), 400, "allowPublicTraffic"),
        (json!({"network": {"maskRequestHost": "a b"}}), 400, "maskRequestHost"),
        (json!({"network": {"egressProxy": {"address": "a"}}}), 400, "egressProxy"),
        (json!({"network": {"allowOut": ["a.com"]}}), 400, "allowOut"),
        (json!({"network": {"denyOut": ["a.com"]}}), 400, "denyOut"),
    ] {
        let (got, message) = refused(body);
        assert_eq!(got, status, "{message}");
        assert!(message.contains(field) && message.len() > field.len() + 20, "{message}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    for (body, part) in [
        (json!({"timeout": 0}), "at least 1 second"),
        (json!({"timeout": -1}), "at least 1 second"),
        (json!({"timeout": 86_401}), "at most 86400"),
        (json!({"templateID": "a b"}), "templateID"),
        (json!({"metadata": {"a": "x".repeat(16 << 10)}}), "metadata"),
        (json!({"envVars": {"a": "x".repeat(257 << 10)}}), "envVars"),
        (json!({"mcp": {"x".repeat(16 << 10): {}, "y": {}}}), "mcp"),
        (json!({"envVars": {"": "x"}}), "envVars"),
        (json!({"envVars": {"a=b": "x"}}), "envVars"),
        (json!({"envVars": {"a": "\0"}}), "envVars"),
    ] {
        let (status, message) = refused(body);
        assert_eq!(status, 400);
        assert!(message.contains(part), "{message}");
    }
    let many: serde_json::Map<_, _> = (0..1025).map(|n| (n.to_string(), json!(""))).collect();
    assert!(refused(json!({"metadata": many})).1.contains("1025 entries"));
    parse(ApiVersion::V1, json!({"timeout": 86_400})).unwrap();
}

#[test]
fn what_becomes_of_it_at_its_end_is_asked_for_in_three_fields() {
    let terms = |body: Value| {
        let request = parse(ApiVersion::V2, body).unwrap();
        (request.on_timeout, request.auto_resume)
    };
    assert_eq!(terms(json!({"autoPause": false})), (OnTimeout::Kill, false));
    let pause = json!({"autoPause": true, "autoResume": {"enabled": true}});
    assert_eq!(terms(pause), (OnTimeout::Pause(Keep::Memory), true));
    let files = json!({"autoPause": true, "autoPauseMemory": false});
    assert_eq!(terms(files), (OnTimeout::Pause(Keep::Files), false));
    // E2B's clients ask for a pause with it; its API does not.
    assert_eq!(terms(json!({"autoResume": {"enabled": true}})), (OnTimeout::Kill, true));
}
