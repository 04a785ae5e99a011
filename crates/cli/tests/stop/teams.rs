use serde_json::{Value, json};

use crate::kit::{Service, data_dir, turn};

#[test]
fn the_owner_of_a_machine_makes_a_second_team_with_limits_and_keys_of_its_own() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let (code, made, remark) =
        service.team(&["create", "Data Team", "--sandboxes", "1", "--lifetime", "30m", "--json"]);
    assert_eq!(code, 0, "{remark}");
    assert!(remark.contains("cofferdam key create NAME --team data-team"), "{remark}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made[0]["limits"], json!({"concurrentSandboxes": 1, "maxLengthS": 1800}));
    let (code, key, _) = service.key(&["create", "ci", "--team", "data-team"]);
    assert_eq!(code, 0);
    // Nothing but the key, for scripts.
    let key = key.trim_end();
    assert!(key.starts_with("e2b_") && key.len() == 44, "{key}");

    // A sandbox of one team is nobody's for the other.
    let create = || {
        let body = json!({"templateID": "busybox", "timeout": 1800}).to_string();
        service.call("POST", "/sandboxes", &[("X-API-Key", key)], &body)
    };
    let (status, body) = create();
    assert_eq!(status, 201, "{body}");
    assert_eq!(create().0, 429);
    let body: Value = serde_json::from_str(&body).unwrap();
    let path = format!("/sandboxes/{}", body["sandboxID"].as_str().unwrap());
    assert_eq!(service.api("GET", &path, &Value::Null).0, 404);
    assert_eq!(service.api("DELETE", &path, &Value::Null).0, 404);

    // More of them, by the slug, at once.
    let (code, text, _) = service.team(&["limits", "data-team", "--sandboxes", "default"]);
    assert_eq!(code, 0);
    assert!(text.contains("data-team") && text.contains("30m00s"), "{text}");
    let (status, second) = create();
    assert_eq!(status, 201, "{second}");
    let second: Value = serde_json::from_str(&second).unwrap();
    let second = format!("/sandboxes/{}", second["sandboxID"].as_str().unwrap());

    for path in [path, second] {
        assert_eq!(service.call("DELETE", &path, &[("X-API-Key", key)], "").0, 204);
    }
    service.finish();
}

#[test]
fn a_key_that_is_taken_back_opens_nothing_and_what_is_not_there_is_said() {
    let Some(_turn) = turn() else { return };
    let data = data_dir();
    let service = Service::start(data.path(), &[]);
    let (_, key, _) = service.key(&["create", "ci"]);
    let key = key.trim_end();
    let opens = || service.call("GET", "/v2/sandboxes", &[("X-API-Key", key)], "").0;
    assert_eq!(opens(), 200);
    let listed: Value = serde_json::from_str(&service.key(&["ls", "--json"]).1).unwrap();
    let row = listed.as_array().unwrap().iter().find(|row| row["name"] == "ci").unwrap();
    let id = row["id"].as_str().unwrap();
    let table = service.key(&["ls"]).1;
    assert!(table.contains(id) && !table.contains(key), "{table}");
    assert_eq!(service.key(&["rm", id]).0, 0);
    assert_eq!(opens(), 401);
    for (words, part) in [
        (&["rm", id][..], "has no API key"),
        (&["rm", "x"], "which is a UUID"),
        (&["ls", "--team", "nobody"], "no team \"nobody\""),
    ] {
        let (code, _, remark) = service.key(words);
        assert_eq!(code, 1, "{remark}");
        assert!(remark.contains(part), "{remark}");
    }
    service.finish();
}
